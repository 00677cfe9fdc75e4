//! Who may call what.

use mesh_testing::{Account, request_id};
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::musical::v1::{
    ChangeMusicalRequest, ListMusicalsRequest, ReserveSeatsRequest, ReturnSeatsRequest,
    WithdrawMusicalRequest,
};
use tonic::{Code, Status};

use crate::support::{NAME, open, performance, reservation};

fn code<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Code {
    outcome.expect_err("refused").code()
}

fn reserve(musical: &str) -> ReserveSeatsRequest {
    let musical = musical.to_owned();
    ReserveSeatsRequest { request_id: request_id(), reservation: reservation(), musical, seats: 1 }
}

fn give_back() -> ReturnSeatsRequest {
    ReturnSeatsRequest { request_id: request_id(), reservation: reservation() }
}

#[tokio::test]
async fn gw2_nobody_from_outside_can_take_or_return_seats() {
    let house = open().await;
    let musical = house.register(30).await;
    for account in [house.mesh.customer(), house.admin.clone()] {
        let mut client = MusicalServiceClient::new(account.connect());
        assert_eq!(code(client.reserve_seats(reserve(&musical)).await), Code::Unimplemented);
        assert_eq!(code(client.return_seats(give_back()).await), Code::Unimplemented);
    }
    let mut stranger = MusicalServiceClient::new(house.mesh.stranger());
    assert_eq!(code(stranger.reserve_seats(reserve(&musical)).await), Code::Unimplemented);
    assert_eq!(house.books(&musical).free, 30);
}

#[tokio::test]
async fn g16_no_other_context_can_take_or_return_seats() {
    let house = open().await;
    let musical = house.register(30).await;
    let mut other = MusicalServiceClient::new(house.mesh.service("homemovie.app", NAME));
    assert_eq!(code(other.reserve_seats(reserve(&musical)).await), Code::PermissionDenied);
    assert_eq!(code(other.return_seats(give_back()).await), Code::PermissionDenied);
    assert_eq!(house.books(&musical).free, 30);
}

#[tokio::test]
async fn only_an_admin_keeps_the_programme() {
    let house = open().await;
    let musical = house.register(30).await;
    let client = |account: &Account| MusicalServiceClient::new(account.connect());
    let change = ChangeMusicalRequest {
        request_id: request_id(),
        name: musical.clone(),
        title: "Cats".to_owned(),
        ..ChangeMusicalRequest::default()
    };
    let withdraw = WithdrawMusicalRequest { request_id: request_id(), name: musical.clone() };

    let mut customer = client(&house.mesh.customer());
    let denied = Code::PermissionDenied;
    assert_eq!(code(customer.register_musical(performance(5)).await), denied);
    assert_eq!(code(customer.change_musical(change.clone()).await), denied);
    assert_eq!(code(customer.withdraw_musical(withdraw.clone()).await), denied);
    let mut stranger = MusicalServiceClient::new(house.mesh.stranger());
    let unknown = Code::Unauthenticated;
    assert_eq!(code(stranger.register_musical(performance(5)).await), unknown);
    assert_eq!(code(stranger.change_musical(change).await), unknown);
    assert_eq!(code(stranger.withdraw_musical(withdraw).await), unknown);
    let seen = stranger.list_musicals(ListMusicalsRequest::default()).await.expect("anybody may");
    let seen = seen.into_inner().musicals;
    assert_eq!(seen, [house.get(&musical).await.expect("the performance")]);
    assert_eq!(house.books(&musical).revision, 1);
}
