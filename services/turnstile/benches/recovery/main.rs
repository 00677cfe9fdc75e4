//! How soon a system that was killed, or has lost its database, is at work again: `cargo bench -p turnstile --bench recovery`.
//!
//! - `kill -9` under load, until it is ready, until a film that is bought then is in my page (so the policies of four
//!   contexts have gone on), and until no order is left between two states; with files and with PostgreSQL;
//! - PostgreSQL restarted (fast, immediate), and all connections to it ended, until a film is in my page.
//!
//! The orders of a process that died are taken over as soon as in tests (`TURNSTILE_SAGA_SWEEP_AFTER_SECONDS=2`), not as by default.
//!
//! Beside each is what it takes where nothing happened: a start, an order; beside the restarts, until a plain connection can
//! write a row. The middle one of `RECOVERY_ROUNDS` (10) and the worst.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a program for the command line"
)]

#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::crowd::{Crowd, WORLD};
use common::stores::{self, on_postgres};
use common::{Up, answer, customer, setting, with_token};
use mesh_testing::{eventually, request_id};
use proto::homemovie::app::v1::PickMovieRequest;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1::ListMoviesRequest;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::mypage::v1::GetMyOrderRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use test_postgres::{Database, Server, Stop};
use tokio::time::sleep;
use tonic::transport::Channel;

/// How long the load goes on before something happens.
const BEFORE: Duration = Duration::from_millis(500);
/// Orders that are neither registered nor ended.
const BETWEEN: &str = "(SELECT count(*) FROM a.mesh_intent WHERE state IN ('PENDING', 'VOIDING'))
    + (SELECT count(*) FROM r.mesh_intent WHERE state IN ('PENDING', 'VOIDING'))";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rounds = setting("RECOVERY_ROUNDS", 10);
    println!("{:<58}{:>10}{:>10}{:>12}", "ms", "middle", "worst", "undisturbed");
    let folder = tempfile::tempdir().expect("a folder");
    kills("files", folder.path(), rounds).await;
    let folder = tempfile::tempdir().expect("a folder");
    let Some((server, database)) = on_postgres(folder.path()).await else { return };
    kills("PostgreSQL", folder.path(), rounds).await;
    losses(&server, &database, folder.path(), rounds).await;
}

async fn kills(engine: &str, data: &Path, rounds: u64) {
    let mut up = Up::start_with(data, &WORLD).await;
    up.terminate().await;
    let begun = Instant::now();
    up = Up::start_with(data, &WORLD).await;
    let started = begun.elapsed();
    let buyer = Buyer::of(&up).await;
    let bought = buyer.buys(&up.connect().await).await;
    let mut crowd = Crowd::gather(&up, 9).await;
    let (mut ready, mut visible) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        sleep(BEFORE).await;
        up.kill().await;
        let begun = Instant::now();
        up = Up::start_with(data, &WORLD).await;
        ready.push(begun.elapsed());
        buyer.buys(&up.connect().await).await;
        visible.push(begun.elapsed());
        crowd.moves_to(&up).await;
    }
    sleep(BEFORE).await;
    up.kill().await;
    crowd.scatter();
    let begun = Instant::now();
    up = Up::start_with(data, &WORLD).await;
    let stores = stores::open(data);
    while stores.number(BETWEEN) > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let settled = begun.elapsed();
    up.terminate().await;
    row(&format!("{engine}: kill -9 to ready"), ready, started);
    row(&format!("{engine}: kill -9 to a film in my page"), visible, started + bought);
    row(&format!("{engine}: kill -9 to no order between two states"), vec![settled], started);
}

async fn losses(server: &Server, database: &Database, data: &Path, rounds: u64) {
    let up = Up::start_with(data, &WORLD).await;
    let channel = up.connect().await;
    let buyer = Buyer::of(&up).await;
    let bought = buyer.buys(&channel).await;
    let restarts = [("fast", Stop::Fast), ("immediate", Stop::Immediate)];
    for (name, stop) in restarts {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            until_undisturbed(&buyer, &channel, bought).await;
            server.stop(stop).expect("it stops");
            server.resume().expect("it starts");
            let begun = Instant::now();
            while database
                .query("CREATE TABLE IF NOT EXISTS plain (one INT); INSERT INTO plain VALUES (1)")
                .is_err()
            {}
            plain.push(begun.elapsed());
            buyer.buys(&channel).await;
            ours.push(begun.elapsed());
        }
        plain.sort_unstable();
        row(
            &format!("PostgreSQL back after a {name} stop to a film in my page"),
            ours,
            plain[plain.len() / 2] + bought,
        );
    }
    let mut ended = Vec::new();
    for _ in 0..rounds {
        until_undisturbed(&buyer, &channel, bought).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        database.query(end).expect("they end");
        let begun = Instant::now();
        buyer.buys(&channel).await;
        ended.push(begun.elapsed());
    }
    row("PostgreSQL: all connections ended to a film in my page", ended, bought);
    up.terminate().await;
}

/// Nothing of what went wrong before is felt any more.
async fn until_undisturbed(buyer: &Buyer, channel: &Channel, usual: Duration) {
    while buyer.buys(channel).await > usual * 3 {}
}

/// The middle one and the worst, beside what it takes where nothing happened.
fn row(what: &str, mut took: Vec<Duration>, undisturbed: Duration) {
    took.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (middle, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what:<58}{:>10.1}{:>10.1}{:>12.1}", ms(middle), ms(worst), ms(undisturbed));
}

/// Somebody who buys one film after the other.
struct Buyer {
    token: String,
    movie: String,
}

impl Buyer {
    async fn of(up: &Up) -> Self {
        let channel = up.connect().await;
        let email = format!("buyer-{}@example.org", request_id());
        let token = customer(&channel, &email).await;
        let mut movies = MovieServiceClient::new(channel);
        let movies = movies.list_movies(ListMoviesRequest::default()).await;
        let movie = movies.expect("films").into_inner().movies.remove(0).name;
        Self { token, movie }
    }

    /// Buys one, and waits until my page shows that it is there; how long that took.
    async fn buys(&self, channel: &Channel) -> Duration {
        let begun = Instant::now();
        let request = PickMovieRequest { request_id: request_id(), movie: self.movie.clone() };
        let now = std::sync::Arc::new(std::sync::Mutex::new(channel.clone()));
        let picked = answer(&now, |channel| {
            let request = with_token(&self.token, request.clone());
            async move { MovieApplicationServiceClient::new(channel).pick_movie(request).await }
        });
        let name = picked.await.expect("a film").movie_application.expect("an application").name;
        eventually("the film is in my page", async || {
            let request = GetMyOrderRequest { name: name.clone(), min_revision: String::new() };
            let mut page = MyPageServiceClient::new(channel.clone());
            let order = page.get_my_order(with_token(&self.token, request)).await.ok()?;
            order.into_inner().my_order.filter(|order| order.state == "MOVIE_ORDERED").map(drop)
        })
        .await;
        begun.elapsed()
    }
}
