//! The acceptance lines of the film purchase: what must hold when something is down, slow, lost or dead.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::pin::pin;
use std::time::{Duration, Instant};

use contract_tests::homemovie::Homemovie;
use contract_tests::stores::{count, events};
use futures::future::{Either, select};
use mesh_testing::{eventually, refusal, request_id};
use proto::homemovie::app::v1::ListMovieApplicationsRequest;
use proto::homemovie::app::v1::movie_application::State;
use proto::payment::v1::payment::State as PaymentState;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Nothing of an order is anywhere: no application, no row, no event, no intent that is open.
async fn nothing_is_registered(home: &Homemovie) {
    assert!(home.applications().await.is_empty());
    assert!(home.rows().await.is_empty());
    let app = home.mesh.store("homemovie.app");
    assert_eq!(events(&app, "MoviePicked"), 0);
    assert_eq!(events(&home.mesh.store("homemovie.movie"), "MovieOrdered"), 0);
}

fn is_the_fallback(status: &Status) {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PAYMENT_BUSY", "homemovie.app"));
    assert_eq!(status.message(), "payment is busy, try again later");
    assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
}

#[tokio::test]
async fn hm_n1_hm_n6_payment_down_is_the_fallback_and_nothing_anywhere() {
    let home = Homemovie::start().await;
    home.mesh.mesh.stop("payment").await;
    let id = request_id();
    is_the_fallback(&home.pick_with(&id).await.unwrap_err());
    nothing_is_registered(&home).await;
    // It surely was not sent, so the same request may be tried again.
    home.mesh.restart("payment").await;
    let picked = home.pick_with(&id).await.unwrap();
    home.until(&picked.name, State::MovieOrdered).await;
    assert_eq!(home.payments_of(&picked.name).await.len(), 1);
}

#[tokio::test]
async fn hm_n2_a_lost_reply_is_undone() {
    let home = Homemovie::start().await;
    home.mesh.mesh.faults().lose_replies("Pay", 1);
    let begun = Instant::now();
    is_the_fallback(&home.pick().await.unwrap_err());
    assert!(begun.elapsed() < Duration::from_secs(3), "the customer does not wait for the undo");

    // The payment did commit; it is given back, and told once.
    let file = home.mesh.store("payment");
    assert_eq!(events(&file, "PaymentApproved"), 1);
    eventually("the payment is given back", || async {
        (events(&file, "PaymentCancelled") == 1).then_some(())
    })
    .await;
    let app = home.mesh.store("homemovie.app");
    eventually("the order is voided", || async {
        (count(&app, "mesh_intent", "state = 'VOIDED'") == 1).then_some(())
    })
    .await;
    nothing_is_registered(&home).await;

    // My page has heard of the payment by now, and still shows nothing.
    home.pick().await.unwrap();
    eventually("the next order is shown", || async {
        (home.rows().await.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn hm_n2_a_connection_that_broke_is_undone_though_nothing_was_charged() {
    let home = Homemovie::start().await;
    // Three attempts: the kit tries again what may be repeated.
    home.mesh.mesh.faults().break_calls("Pay", 3);
    is_the_fallback(&home.pick().await.unwrap_err());
    let app = home.mesh.store("homemovie.app");
    eventually("the order is voided", || async {
        (count(&app, "mesh_intent", "state = 'VOIDED'") == 1).then_some(())
    })
    .await;
    nothing_is_registered(&home).await;
    assert_eq!(events(&home.mesh.store("payment"), "PaymentApproved"), 0);
}

#[tokio::test]
async fn g16_a_break_that_a_retry_heals_is_not_seen() {
    let home = Homemovie::start().await;
    home.mesh.mesh.faults().break_calls("Pay", 1);
    let picked = home.pick().await.unwrap();
    assert_eq!(home.payments_of(&picked.name).await.len(), 1);
}

#[tokio::test]
async fn hm_n3_while_the_films_side_is_down_everybody_can_pick() {
    let home = Homemovie::start().await;
    home.mesh.mesh.stop("homemovie.movie").await;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(home.pick().await.unwrap().name);
    }
    home.mesh.restart("homemovie.movie").await;
    for name in &names {
        home.until(name, State::MovieOrdered).await;
    }
    assert_eq!(events(&home.mesh.store("homemovie.movie"), "MovieOrdered"), 5, "each exactly once");
}

#[tokio::test]
async fn hm_n4_while_my_page_is_down_everybody_can_pick() {
    let home = Homemovie::start().await;
    home.mesh.mesh.stop("mypage").await;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(home.pick().await.unwrap().name);
    }
    home.mesh.restart("mypage").await;
    for name in &names {
        let row = home.until_my_page(name, "MOVIE_ORDERED", "APPROVED").await;
        assert_eq!(row.history.len(), 4, "each exactly once: {:?}", row.history);
    }
}

#[tokio::test]
async fn hm_n7_my_page_answers_with_the_others_stopped() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    home.until_my_page(&picked.name, "MOVIE_ORDERED", "APPROVED").await;
    for context in ["homemovie.app", "payment", "homemovie.movie"] {
        home.mesh.mesh.stop(context).await;
    }
    assert_eq!(home.rows().await[0].name, picked.name);
    let down = home.app().list_movie_applications(ListMovieApplicationsRequest::default()).await;
    assert_eq!(down.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_declined_payment_registers_nothing_and_is_remembered() {
    let provider = payment::Settings { decline_share: 1.0, ..payment::Settings::default() };
    let home = Homemovie::start_with(provider, |_| {}).await;
    let id = request_id();
    for _ in 0..2 {
        let declined = refusal(home.pick_with(&id).await);
        assert_eq!(declined, (Code::FailedPrecondition, "PAYMENT_DECLINED".to_owned()));
    }
    nothing_is_registered(&home).await;
    assert_eq!(events(&home.mesh.store("payment"), "PaymentDeclined"), 1, "asked once");
}

#[tokio::test]
async fn g11_a_client_that_goes_away_stops_nothing_halfway() {
    let provider = payment::Settings {
        delay: payment::Delay::millis(200..=200),
        ..payment::Settings::default()
    };
    let home = Homemovie::start_with(provider, |_| {}).await;
    let id = request_id();
    let gone = tokio::time::timeout(Duration::from_millis(50), home.pick_with(&id)).await;
    assert!(gone.is_err(), "the client gave up");
    let picked =
        eventually("the same request is answered", || async { home.pick_with(&id).await.ok() })
            .await;
    home.until(&picked.name, State::MovieOrdered).await;
    assert_eq!(home.applications().await.len(), 1);
    assert_eq!(home.payments_of(&picked.name).await.len(), 1);
}

/// Kills the desk between two steps of a pick, starts it again, and says whether the order came to be.
async fn die_at(site: &str, lose_reply: bool) -> bool {
    let home = Homemovie::start().await;
    let mesh = &home.mesh.mesh;
    if lose_reply {
        mesh.faults().lose_replies("Pay", 1);
    }
    let reached = mesh.faults().die_at("homemovie.app", site);
    let id = request_id();
    let (pick, dying) = (pin!(home.pick_with(&id)), pin!(reached.notified()));
    // The fallback does not wait for the undo: it may be there before the desk dies.
    if let Either::Left((answer, dying)) = select(pick, dying).await {
        is_the_fallback(&answer.unwrap_err());
        dying.await;
    }
    mesh.crash("homemovie.app").await;
    home.mesh.restart("homemovie.app").await;

    let app = home.mesh.store("homemovie.app");
    eventually("no order is left between two states", || async {
        (count(&app, "mesh_intent", "state IN ('PENDING', 'VOIDING')") == 0).then_some(())
    })
    .await;
    // Money and order agree, whatever happened: charged and registered, or neither.
    let file = home.mesh.store("payment");
    let registered = home.applications().await.len();
    eventually("live payments are registered orders", || async {
        let live = count(&file, "payment", "state = 'APPROVED'");
        (usize::try_from(live).unwrap() == registered).then_some(())
    })
    .await;
    // The customer, who has no answer, sends it again, and has exactly one order in the end.
    let picked =
        eventually("the same request is answered", || async { home.pick_with(&id).await.ok() })
            .await;
    home.until_my_page(&picked.name, "MOVIE_ORDERED", "APPROVED").await;
    assert_eq!(home.applications().await.len(), 1);
    assert_eq!(count(&file, "payment", "state = 'APPROVED'"), 1);
    assert_eq!(home.payments_of(&picked.name).await[0].state(), PaymentState::Approved);
    registered == 1
}

#[tokio::test]
async fn g11_dead_before_the_call_is_undone() {
    assert!(!die_at("saga.stored", false).await);
}

#[tokio::test]
async fn g11_dead_after_the_call_is_undone() {
    assert!(!die_at("saga.called", false).await);
}

#[tokio::test]
async fn g11_dead_after_the_registration_is_registered() {
    assert!(die_at("saga.registered", false).await);
}

#[tokio::test]
async fn g11_dead_before_the_undo_is_undone() {
    assert!(!die_at("saga.voiding", true).await);
}

#[tokio::test]
async fn g11_dead_after_the_undo_is_undone_once() {
    assert!(!die_at("saga.undone", true).await);
}

#[tokio::test]
async fn g11_an_undo_waits_for_payment_to_come_back() {
    let home = Homemovie::start().await;
    let mesh = &home.mesh.mesh;
    mesh.faults().lose_replies("Pay", 1);
    mesh.faults().break_calls("CancelPayment", 1000);
    is_the_fallback(&home.pick().await.unwrap_err());
    mesh.stop("payment").await;
    let app = home.mesh.store("homemovie.app");
    eventually("the undo is tried in vain", || async {
        (count(&app, "mesh_intent", "state = 'VOIDING' AND undo_attempts > 1") == 1).then_some(())
    })
    .await;
    mesh.faults().break_calls("CancelPayment", 0);
    home.mesh.restart("payment").await;
    eventually("the order is voided", || async {
        (count(&app, "mesh_intent", "state = 'VOIDED'") == 1).then_some(())
    })
    .await;
    assert_eq!(events(&home.mesh.store("payment"), "PaymentCancelled"), 1);
    nothing_is_registered(&home).await;
}
