//! The acceptance lines of the film purchase: what must work.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::time::{Duration, Instant};

use contract_tests::homemovie::Homemovie;
use contract_tests::stores::events;
use mesh_testing::{refusal, request_id};
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application::State;
use proto::homemovie::movie::v1 as movie;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::mypage::v1 as page;
use proto::payment::v1::payment::State as PaymentState;
use tonic::Code;

#[tokio::test]
async fn hm_f1_a_picked_film_is_an_application_and_is_listed() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    assert_eq!(picked.state(), State::MoviePicked);
    assert_eq!(picked.price, home.film.price, "the catalogue's price");
    assert_eq!(picked.customer, home.customer.id.to_string());
    let listed = home.applications().await;
    assert_eq!(listed.iter().map(|a| &a.name).collect::<Vec<_>>(), [&picked.name]);
}

#[tokio::test]
async fn hm_f2_it_is_paid_exactly_once_however_often_it_is_sent() {
    let home = Homemovie::start().await;
    let id = request_id();
    let first = home.pick_with(&id).await.unwrap();
    for _ in 0..5 {
        assert_eq!(home.pick_with(&id).await.unwrap().name, first.name, "the first answer");
    }
    let payments = home.payments_of(&first.name).await;
    assert_eq!(payments.len(), 1);
    assert_eq!(
        (payments[0].state(), &payments[0].amount),
        (PaymentState::Approved, &home.film.price)
    );
    assert_eq!(home.applications().await.len(), 1);
    assert_eq!(events(&home.mesh.store("payment"), "PaymentApproved"), 1);
}

#[tokio::test]
async fn g6_the_same_request_in_parallel_is_one_order_and_one_payment() {
    let home = Homemovie::start().await;
    let id = request_id();
    let sent = futures::future::join_all((0..20).map(|_| home.pick_with(&id))).await;
    let mut names: Vec<_> =
        sent.iter().filter_map(|answer| answer.as_ref().ok()).map(|a| &a.name).collect();
    assert!(!names.is_empty());
    names.dedup();
    assert_eq!(names.len(), 1);
    for status in sent.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(status.code(), Code::Aborted, "{status}");
    }
    assert_eq!(events(&home.mesh.store("payment"), "PaymentApproved"), 1);
}

#[tokio::test]
async fn hm_f3_hm_f4_a_paid_application_reaches_the_film_and_is_ordered() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    home.until(&picked.name, State::MovieOrdered).await;
    let request = movie::GetMoviePurchaseRequest { movie_application: picked.name.clone() };
    let purchase = home.movies().get_movie_purchase(request).await.unwrap().into_inner();
    let purchase = purchase.movie_purchase.unwrap();
    assert_eq!(purchase.state(), movie::movie_purchase::State::MovieOrdered);
    assert_eq!(purchase.movie, home.film.name);
}

#[tokio::test]
async fn hm_f5_watching_shows_in_purchase_application_and_my_page() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    home.until(&picked.name, State::MovieOrdered).await;
    let watched = home.watch(&picked.name).await.unwrap();
    assert_eq!(watched.media, home.film.media);
    assert_eq!(watched.movie_purchase.unwrap().state(), movie::movie_purchase::State::MovieWatched);
    home.until(&picked.name, State::MovieWatched).await;
    let row = home.until_my_page(&picked.name, "MOVIE_WATCHED", "APPROVED").await;
    assert_eq!((row.title.as_str(), row.quantity), (home.film.title.as_str(), 1));
    // Who bought may watch again; nothing more is told.
    home.watch(&picked.name).await.unwrap();
    assert_eq!(events(&home.mesh.store("homemovie.movie"), "MovieWatched"), 1);
}

/// With nothing else to do: of fifty changes, one may take longer.
#[tokio::test]
async fn my_5_a_change_is_seen_in_the_view_and_in_a_stream_within_a_second() {
    let home = Homemovie::start().await;
    let mut my_page = home.my_page_of(&home.customer);
    let mut stream =
        my_page.watch_my_orders(page::WatchMyOrdersRequest::default()).await.unwrap().into_inner();
    let mut late = Vec::new();
    for _ in 0..50 {
        let picked = home.pick().await.unwrap();
        let committed = Instant::now();
        loop {
            let told = stream.message().await.unwrap().expect("a stream that goes on");
            if told.my_orders.iter().any(|order| order.name == picked.name) {
                break;
            }
        }
        let request = page::GetMyOrderRequest { name: picked.name, min_revision: picked.revision };
        let seen = my_page.get_my_order(request).await.unwrap().into_inner();
        assert!(!seen.stale, "what the stream has told, the view has");
        let took = committed.elapsed();
        if took >= Duration::from_secs(1) {
            late.push(took);
        }
    }
    assert!(late.len() <= 1, "{late:?}");
}

#[tokio::test]
async fn hm_f6_my_page_lists_the_customers_orders_and_nobody_elses() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    let row = home.until_my_page(&picked.name, "MOVIE_ORDERED", "APPROVED").await;
    let told: Vec<_> = row.history.iter().map(|step| step.event.as_str()).collect();
    assert_eq!(
        told,
        ["PaymentApproved", "MoviePicked", "MovieOrdered", "MovieApplicationAdvanced"]
    );

    let other = home.mesh.customer();
    let mut page = home.my_page_of(&other);
    assert!(
        page.list_my_orders(proto::mypage::v1::ListMyOrdersRequest::default())
            .await
            .unwrap()
            .into_inner()
            .my_orders
            .is_empty()
    );
    let request =
        proto::mypage::v1::GetMyOrderRequest { name: picked.name.clone(), ..Default::default() };
    assert_eq!(page.get_my_order(request).await.unwrap_err().code(), Code::NotFound);
    let request = app::GetMovieApplicationRequest { name: picked.name.clone() };
    assert_eq!(
        home.app_of(&other).get_movie_application(request).await.unwrap_err().code(),
        Code::NotFound
    );
    let request =
        movie::WatchMovieRequest { request_id: request_id(), movie_application: picked.name };
    let stolen = MovieServiceClient::new(other.connect()).watch_movie(request).await;
    assert_eq!(stolen.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn hm_f7_a_cancel_before_watching_ends_cancelled_and_paid_back() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    home.until(&picked.name, State::MovieOrdered).await;
    assert_eq!(home.cancel(&picked.name).await.unwrap().state(), State::MovieAppCancelled);
    home.until(&picked.name, State::MovieCancelled).await;
    let payment = home.until_payment(&picked.name, PaymentState::Cancelled).await;
    assert_eq!(payment.refunded_amount, payment.amount);
    home.until_my_page(&picked.name, "MOVIE_CANCELLED", "CANCELLED").await;
    let watch = refusal(home.watch(&picked.name).await);
    assert_eq!(watch, (Code::FailedPrecondition, "PURCHASE_CANCELLED".to_owned()));
    let again = refusal(home.cancel(&picked.name).await);
    assert_eq!(again, (Code::FailedPrecondition, "ALREADY_CANCELLED".to_owned()));
}

#[tokio::test]
async fn hm_f7_a_cancel_right_after_the_pick_wins_over_the_order() {
    let home = Homemovie::start().await;
    for _ in 0..10 {
        let picked = home.pick().await.unwrap();
        home.cancel(&picked.name).await.unwrap();
        home.until(&picked.name, State::MovieCancelled).await;
        home.until_payment(&picked.name, PaymentState::Cancelled).await;
    }
}

#[tokio::test]
async fn hm_f8_after_watching_a_cancel_is_refused() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    home.until(&picked.name, State::MovieOrdered).await;
    home.watch(&picked.name).await.unwrap();
    home.until(&picked.name, State::MovieWatched).await;
    let refused = refusal(home.cancel(&picked.name).await);
    assert_eq!(refused, (Code::FailedPrecondition, "ALREADY_WATCHED".to_owned()));
}

#[tokio::test]
async fn hm_f8_the_films_side_refuses_a_cancel_that_the_desk_let_through() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    home.until(&picked.name, State::MovieOrdered).await;
    // The desk does not hear of the watching before the cancel.
    home.mesh.mesh.stop("homemovie.app").await;
    home.watch(&picked.name).await.unwrap();
    // Cancel and news race after the restart: whichever is first, the film stays watched and paid.
    home.mesh.restart("homemovie.app").await;
    let _ = home.cancel(&picked.name).await;
    home.until(&picked.name, State::MovieWatched).await;
    home.until_my_page(&picked.name, "MOVIE_WATCHED", "APPROVED").await;
    assert_eq!(home.payments_of(&picked.name).await[0].state(), PaymentState::Approved);
}

#[tokio::test]
async fn hm_f8_a_watch_and_a_cancel_that_cross_give_no_free_film_and_lose_no_refund() {
    let home = Homemovie::start().await;
    for _ in 0..10 {
        let picked = home.pick().await.unwrap();
        home.until(&picked.name, State::MovieOrdered).await;
        let (watched, cancelled) =
            tokio::join!(home.watch(&picked.name), home.cancel(&picked.name));
        if watched.is_ok() {
            home.until(&picked.name, State::MovieWatched).await;
            assert_eq!(home.payments_of(&picked.name).await[0].state(), PaymentState::Approved);
        } else {
            assert!(cancelled.is_ok());
            home.until(&picked.name, State::MovieCancelled).await;
            home.until_payment(&picked.name, PaymentState::Cancelled).await;
        }
    }
}

#[tokio::test]
async fn the_catalogue_follows_the_admin() {
    let home = Homemovie::start().await;
    let admin = home.mesh.admin();
    let mut movies = MovieServiceClient::new(admin.connect());
    let price = Some(proto::common::v1::Money { currency_code: "KRW".to_owned(), minor_units: 1 });
    let request = movie::RepriceMovieRequest {
        request_id: request_id(),
        name: home.film.name.clone(),
        price: price.clone(),
    };
    movies.reprice_movie(request).await.unwrap();
    mesh_testing::eventually("the new price is what is paid", || async {
        (home.pick().await.ok()?.price == price).then_some(())
    })
    .await;
    let request =
        movie::WithdrawMovieRequest { request_id: request_id(), name: home.film.name.clone() };
    movies.withdraw_movie(request).await.unwrap();
    mesh_testing::eventually("it cannot be picked any more", || async {
        let refused = home.pick().await.err()?;
        (mesh::reason_of(&refused)? == "MOVIE_WITHDRAWN").then_some(())
    })
    .await;
    let unknown = app::PickMovieRequest {
        request_id: request_id(),
        movie: format!("movies/{}", request_id()),
    };
    assert_eq!(home.app().pick_movie(unknown).await.unwrap_err().code(), Code::NotFound);
}
