//! The programme: what an admin registers, changes and withdraws, and what everybody sees of it.

use futures::future::join_all;
use mesh_testing::{bad_fields, refusal, request_id};
use prost_types::Timestamp;
use proto::common::v1::Money;
use proto::outerpark::musical::v1::musical::State;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::musical::v1::{
    ChangeMusicalRequest, ListMusicalsRequest, Musical, MusicalChanged, MusicalRegistered,
    MusicalWithdrawn, RegisterMusicalRequest, WithdrawMusicalRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{House, PRICE, in_seconds, open, performance, reservation, won};

fn change(musical: &str) -> ChangeMusicalRequest {
    ChangeMusicalRequest {
        request_id: request_id(),
        name: musical.to_owned(),
        ..ChangeMusicalRequest::default()
    }
}

async fn try_change(house: &House, request: ChangeMusicalRequest) -> Result<Musical, Status> {
    let answer = house.office().change_musical(request).await?.into_inner();
    Ok(answer.musical.expect("a performance"))
}

async fn try_withdraw(house: &House, musical: &str) -> Result<Musical, Status> {
    let request = WithdrawMusicalRequest { request_id: request_id(), name: musical.to_owned() };
    let answer = house.office().withdraw_musical(request).await?.into_inner();
    Ok(answer.musical.expect("a performance"))
}

async fn list(house: &House, page_size: i32, page_token: &str) -> (Vec<String>, String) {
    let request = ListMusicalsRequest { page_size, page_token: page_token.to_owned() };
    let page = MusicalServiceClient::new(house.mesh.stranger()).list_musicals(request).await;
    let page = page.expect("a page").into_inner();
    (page.musicals.into_iter().map(|musical| musical.name).collect(), page.next_page_token)
}

#[tokio::test]
async fn op_f1_an_admin_registers_a_performance_with_its_seats() {
    let house = open().await;
    let request = RegisterMusicalRequest {
        sales_start_time: Some(in_seconds(-60)),
        sales_end_time: Some(in_seconds(3600)),
        ..performance(100)
    };
    let musical = house.try_register(request.clone()).await.expect("registered");

    let expected = Musical {
        name: musical.name.clone(),
        musical_number: request.musical_number,
        title: "Frozen".to_owned(),
        venue: "Outer Park".to_owned(),
        performance_time: request.performance_time,
        sales_start_time: request.sales_start_time,
        sales_end_time: request.sales_end_time,
        price_per_seat: Some(won(PRICE)),
        total_seats: 100,
        reservable_seats: 100,
        state: State::Registered.into(),
        create_time: musical.create_time,
        revision: format!("{}@1", musical.name),
    };
    assert_eq!(musical, expected);
    assert!(musical.create_time.is_some());
    assert_eq!(house.get(&musical.name).await.expect("the performance"), musical);
    let told = MusicalRegistered {
        musical: musical.name.clone(),
        musical_number: request.musical_number,
        title: "Frozen".to_owned(),
        performance_time: request.performance_time,
        price_per_seat: Some(won(PRICE)),
        total_seats: 100,
    };
    assert_eq!(house.told::<MusicalRegistered>(&musical.name).await, [told]);
}

#[tokio::test]
async fn the_same_request_twice_is_carried_out_once() {
    let house = open().await;
    let request = performance(100);
    let first = house.try_register(request.clone()).await.expect("registered");
    house.crash_and_restart().await;
    assert_eq!(house.try_register(request.clone()).await.expect("the same"), first);
    assert_eq!(list(&house, 0, "").await.0, [first.name]);
    let other = RegisterMusicalRequest { total_seats: 99, ..request };
    let refused = (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned());
    assert_eq!(refusal(house.try_register(other).await), refused);
}

#[tokio::test]
async fn a_number_is_one_performances_alone() {
    let house = open().await;
    let first = performance(100);
    house.try_register(first.clone()).await.expect("registered");
    let second = RegisterMusicalRequest { musical_number: first.musical_number, ..performance(5) };
    let outcome = house.try_register(second).await;
    let info = outcome.as_ref().expect_err("refused").get_details_error_info().expect("the facts");
    assert_eq!(info.metadata["musical_number"], first.musical_number.to_string());
    let refused = (Code::AlreadyExists, "MUSICAL_NUMBER_TAKEN".to_owned());
    assert_eq!(refusal(outcome), refused);
    assert_eq!(list(&house, 0, "").await.0.len(), 1);
}

#[tokio::test]
async fn of_parallel_registrations_of_one_number_one_succeeds() {
    let house = open().await;
    let requests = (0..10).map(|_| RegisterMusicalRequest { musical_number: 1, ..performance(10) });
    let outcomes = join_all(requests.map(|request| house.try_register(request))).await;
    let (registered, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((registered.len(), others.len()), (1, 9));
    for outcome in others {
        let refused = (Code::AlreadyExists, "MUSICAL_NUMBER_TAKEN".to_owned());
        assert_eq!(refusal(outcome), refused);
    }
    let registered = registered.into_iter().flatten().next().expect("one").name;
    assert_eq!(house.told::<MusicalRegistered>(&registered).await.len(), 1);
    assert_eq!(list(&house, 0, "").await.0, [registered]);
}

#[tokio::test]
async fn a_change_changes_what_it_names_and_keeps_the_holds() {
    let house = open().await;
    let (musical, mine) = (house.register(100).await, reservation());
    let before = house.reserve(&mine, &musical, 10).await.expect("reserved");
    let request = ChangeMusicalRequest {
        title: "Frozen 2".to_owned(),
        price_per_seat: Some(won(60_000)),
        ..change(&musical)
    };
    let old = house.get(&musical).await.expect("the performance");
    let changed = try_change(&house, request).await.expect("changed");

    let expected = Musical {
        title: "Frozen 2".to_owned(),
        price_per_seat: Some(won(60_000)),
        revision: format!("{musical}@3"),
        ..old
    };
    assert_eq!(changed, expected);
    assert_eq!(house.get(&musical).await.expect("the performance"), changed);
    let told = MusicalChanged {
        musical: musical.clone(),
        title: "Frozen 2".to_owned(),
        performance_time: changed.performance_time,
        price_per_seat: Some(won(60_000)),
    };
    assert_eq!(house.told::<MusicalChanged>(&musical).await, [told]);
    assert_eq!(house.reserve(&mine, &musical, 10).await.expect("as then"), before);
    let books = house.books(&musical);
    assert_eq!((books.free, books.held), (90, 10));
    let other = house.reserve(&reservation(), &musical, 2).await.expect("reserved");
    assert_eq!(other.amount, Some(won(120_000)), "from now on it costs more");
}

#[tokio::test]
async fn a_change_of_times_must_fit_those_that_stay() {
    let house = open().await;
    let musical = house.register(100).await;
    let (sooner, later) = (Some(in_seconds(3600)), Some(in_seconds(90_000)));
    let request = ChangeMusicalRequest { sales_end_time: later, ..change(&musical) };
    assert_eq!(bad_fields(try_change(&house, request).await), ["sales_end_time"]);
    let request = ChangeMusicalRequest { sales_start_time: later, ..change(&musical) };
    assert_eq!(bad_fields(try_change(&house, request).await), ["sales_start_time"]);
    let request =
        ChangeMusicalRequest { sales_end_time: later, performance_time: later, ..change(&musical) };
    try_change(&house, request).await.expect("together they fit");
    let request = ChangeMusicalRequest { performance_time: sooner, ..change(&musical) };
    assert_eq!(bad_fields(try_change(&house, request).await), ["sales_end_time"]);
    assert_eq!(house.get(&musical).await.expect("the performance").performance_time, later);
}

#[tokio::test]
async fn a_withdrawn_performance_is_not_listed_and_stays_as_it_is() {
    let house = open().await;
    let (musical, other) = (house.register(100).await, house.register(100).await);
    let withdrawn = try_withdraw(&house, &musical).await.expect("withdrawn");
    assert_eq!(withdrawn.state(), State::Withdrawn);
    assert_eq!(house.get(&musical).await.expect("still there"), withdrawn);
    assert_eq!(list(&house, 0, "").await, (vec![other], String::new()));
    let told = MusicalWithdrawn { musical: musical.clone() };
    assert_eq!(house.told::<MusicalWithdrawn>(&musical).await, [told]);

    let refused = (Code::FailedPrecondition, "MUSICAL_WITHDRAWN".to_owned());
    assert_eq!(refusal(try_withdraw(&house, &musical).await), refused);
    let request = ChangeMusicalRequest { title: "Cats".to_owned(), ..change(&musical) };
    assert_eq!(refusal(try_change(&house, request).await), refused);
}

#[tokio::test]
async fn g17_lists_are_paged_newest_first() {
    let house = open().await;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(house.register(10).await);
    }
    names.reverse();
    let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (page, next) = list(&house, 2, &token).await;
        assert!(page.len() <= 2);
        seen.extend(page);
        pages += 1;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!((seen, pages), (names, 3));
    let request = ListMusicalsRequest { page_size: -1, page_token: "x".to_owned() };
    let outcome = MusicalServiceClient::new(house.mesh.stranger()).list_musicals(request).await;
    assert_eq!(bad_fields(outcome), ["page_size", "page_token"]);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let house = open().await;
    let missing = format!("musicals/{}", request_id());
    let outcomes = [
        house.get(&missing).await,
        try_change(&house, change(&missing)).await,
        try_withdraw(&house, &missing).await,
    ];
    for outcome in outcomes {
        let status = outcome.expect_err("refused");
        let expected = format!("{missing} was not found");
        assert_eq!((status.code(), status.message()), (Code::NotFound, expected.as_str()));
    }
}

#[tokio::test]
async fn g13_every_bad_field_is_named() {
    let house = open().await;
    let no_time = Some(Timestamp { seconds: 0, nanos: -1 });
    let too_far = Some(Timestamp { seconds: 253_402_300_800, nanos: 0 });
    let nothing = RegisterMusicalRequest::default();
    let fields = [
        "request_id",
        "musical_number",
        "title",
        "performance_time",
        "price_per_seat",
        "total_seats",
    ];
    assert_eq!(bad_fields(house.try_register(nothing).await), fields);

    let bad = RegisterMusicalRequest {
        request_id: "x".to_owned(),
        musical_number: -1,
        title: "x".repeat(201),
        venue: "a\nb".to_owned(),
        performance_time: no_time,
        sales_start_time: too_far,
        sales_end_time: no_time,
        price_per_seat: Some(Money { currency_code: "won".to_owned(), minor_units: 0 }),
        total_seats: 100_001,
    };
    let fields = [
        "request_id",
        "musical_number",
        "title",
        "venue",
        "performance_time",
        "sales_start_time",
        "sales_end_time",
        "price_per_seat.currency_code",
        "price_per_seat.minor_units",
        "total_seats",
    ];
    assert_eq!(bad_fields(house.try_register(bad).await), fields);

    let misfits = RegisterMusicalRequest {
        performance_time: Some(in_seconds(100)),
        sales_start_time: Some(in_seconds(300)),
        sales_end_time: Some(in_seconds(200)),
        ..performance(10)
    };
    let outcome = house.try_register(misfits).await;
    assert_eq!(bad_fields(outcome), ["sales_end_time", "sales_end_time"]);

    let bad = ChangeMusicalRequest {
        request_id: String::new(),
        name: "1".to_owned(),
        title: "\t".to_owned(),
        venue: "x".repeat(201),
        performance_time: no_time,
        sales_start_time: no_time,
        sales_end_time: too_far,
        price_per_seat: Some(won(-1)),
    };
    let fields = [
        "request_id",
        "name",
        "title",
        "venue",
        "performance_time",
        "sales_start_time",
        "sales_end_time",
        "price_per_seat.minor_units",
    ];
    assert_eq!(bad_fields(try_change(&house, bad).await), fields);
    assert_eq!(bad_fields(house.get("movies/1").await), ["name"]);
    assert_eq!(bad_fields(try_withdraw(&house, "").await), ["name"]);
    assert_eq!(list(&house, 0, "").await.0.len(), 0);
}
