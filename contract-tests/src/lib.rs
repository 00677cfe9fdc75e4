//! What no single context can check: whole systems through their front door, and rules over all contracts.
//!
//! This crate holds what those tests share; the tests are in `tests/`.
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails fails the test"
)]

pub mod homemovie;
pub mod hostile;
pub mod invariants;
pub mod mortal;
pub mod mutation;
pub mod outerpark;
pub mod raw;
pub mod requests;
pub mod simulation;
pub mod stores;
pub mod world;

use mesh::Context;

/// Every context of the product, set up for tests: nothing is slow, nothing is limited.
pub fn every_context() -> Vec<Context> {
    vec![
        identity::context(identity::Settings::default()),
        payment::context(payment::Settings::default()),
        mypage::context(),
        homemovie_movie::context(true),
        homemovie_app::context(),
        notice::context(notice::Settings::default()),
        outerpark_musical::context(outerpark_musical::Settings::default()),
        outerpark_reservation::context(outerpark_reservation::Settings::default()),
    ]
}
