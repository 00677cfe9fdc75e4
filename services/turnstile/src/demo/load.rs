//! Many users on a payment that is slow: the breaker opens, nothing is lost, and it heals.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use proto::homemovie::app::v1::ListMovieApplicationsRequest;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::mesh::v1::{Edge, ListEdgesRequest, ListIntentsRequest};
use proto::payment::v1::ListPaymentsRequest;
use proto::payment::v1::payment::State as PaymentState;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tonic::Code;

use super::homemovie::pick;
use super::{Stage, expect, saw, wait_for};
use crate::cli::DemoOptions;
use crate::client::{self, Failure, SignedIn};

/// The edge that is put under load.
const EDGE: &str = "homemovie.app->payment";

#[derive(Default)]
struct Tally {
    picked: AtomicU64,
    fallbacks: AtomicU64,
    other: AtomicU64,
}

/// T-CB: the payment takes 400 to 620 ms and handles ten at once, and everybody wants to pay.
pub(super) async fn slow_payment(
    stage: &Stage,
    movie: &str,
    options: &DemoOptions,
) -> Result<(), Failure> {
    let what = "load on a slow payment";
    let Some(private) = &stage.private else {
        saw(8, what, "left out: it needs a private system, without --target");
        return Ok(());
    };
    if options.seconds == 0 {
        saw(8, what, "left out: --seconds 0");
        return Ok(());
    }
    let channel = &stage.channel;
    private.mesh.stop("payment").await;
    // Rule G-10: it passes about 20 payments a second.
    let slow = payment::Settings {
        delay: payment::Delay::millis(400..=620),
        concurrency: NonZero::new(10),
        ..private.config.payment.clone()
    };
    private.mesh.start(&payment::context(slow)).await?;
    let (_, admin) = client::sign_in(channel, "admin@localhost", &private.admin_password).await?;

    saw(8, &format!("{} users sign up", options.users), "...");
    let users: Vec<SignedIn> = stream::iter(0..options.users)
        .map(|_| async { client::new_customer(channel, "load").await.map(|(_, user)| user) })
        .buffer_unordered(4)
        .try_collect()
        .await?;

    let tally = Arc::new(Tally::default());
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let load = join_all(users.iter().map(|user| use_it(user, movie, end, &tally)));
    let progress = async {
        while Instant::now() < end {
            tokio::time::sleep(
                Duration::from_secs(10).min(end.saturating_duration_since(Instant::now())),
            )
            .await;
            let (picked, fallbacks) =
                (tally.picked.load(Ordering::Relaxed), tally.fallbacks.load(Ordering::Relaxed));
            saw(8, "so far", format_args!("{picked} picked, {fallbacks} told to come again"));
        }
    };
    tokio::join!(load, progress);

    let after = Instant::now();
    wait_for("a pick succeeds after the load", || async { Ok(pick(&users[0], movie).await.ok()) })
        .await?;
    saw(
        8,
        "after the load a pick succeeds within",
        format_args!("{:.1} s", after.elapsed().as_secs_f64()),
    );

    let edge = edge(&admin).await?;
    let (picked, fallbacks) =
        (tally.picked.load(Ordering::Relaxed), tally.fallbacks.load(Ordering::Relaxed));
    saw(8, "picked / told to come again", format_args!("{picked} / {fallbacks}"));
    let turns = format!(
        "{} opened, {} half-open, {} closed",
        edge.open_count, edge.half_open_count, edge.close_count
    );
    saw(8, "the breaker", turns);
    expect(picked > 0 && fallbacks > 0, "some picks succeed, some get the fallback")?;
    expect(tally.other.load(Ordering::Relaxed) == 0, "no other answer than these two")?;
    expect(edge.open_count > 0 && edge.close_count > 0, "the breaker opened, and closed again")?;

    let (registered, live) = settled(&admin, &users).await?;
    saw(8, "registered applications = live payments", format_args!("{registered} = {live}"));
    Ok(())
}

/// One user: picks, and comes again when told to.
async fn use_it(user: &SignedIn, movie: &str, end: Instant, tally: &Tally) {
    while Instant::now() < end {
        match pick(user, movie).await {
            Ok(_) => tally.picked.fetch_add(1, Ordering::Relaxed),
            Err(status) if status.code() == Code::Unavailable => {
                let wait = mesh::retry_delay_of(&status)
                    .unwrap_or_default()
                    .max(Duration::from_millis(100));
                tokio::time::sleep(wait.min(end.saturating_duration_since(Instant::now()))).await;
                tally.fallbacks.fetch_add(1, Ordering::Relaxed)
            }
            Err(status) => {
                eprintln!("an answer that nobody planned: {status}");
                tally.other.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

async fn edge(admin: &SignedIn) -> Result<Edge, Failure> {
    let answer =
        OperationsServiceClient::new(admin.clone()).list_edges(ListEdgesRequest::default()).await?;
    let edges = answer.into_inner().edges;
    edges.into_iter().find(|edge| edge.name == EDGE).ok_or_else(|| format!("no edge {EDGE}").into())
}

/// Waits until no order is between two states; then what is registered must be what is paid.
async fn settled(admin: &SignedIn, users: &[SignedIn]) -> Result<(usize, usize), Failure> {
    wait_for("every order is registered or undone", || async {
        let answer = OperationsServiceClient::new(admin.clone())
            .list_intents(ListIntentsRequest::default())
            .await?;
        Ok(answer.into_inner().intents.is_empty().then_some(()))
    })
    .await?;
    let mut registered = 0;
    for user in users {
        let mut request =
            ListMovieApplicationsRequest { page_size: 1000, page_token: String::new() };
        loop {
            let mut applications = MovieApplicationServiceClient::new(user.clone());
            let page = applications.list_movie_applications(request.clone()).await?.into_inner();
            registered += page.movie_applications.len();
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
    }
    // What the script before this one bought is there, too: one watched, one given back.
    wait_for("registered applications and live payments are as many", || async {
        let live = live_payments(admin).await?;
        Ok((live == registered + 1).then_some((registered, live - 1)))
    })
    .await
}

async fn live_payments(admin: &SignedIn) -> Result<usize, Failure> {
    let mut live = 0;
    let mut request = ListPaymentsRequest { page_size: 1000, ..ListPaymentsRequest::default() };
    loop {
        let page = PaymentServiceClient::new(admin.clone())
            .list_payments(request.clone())
            .await?
            .into_inner();
        live += page
            .payments
            .iter()
            .filter(|payment| payment.state() == PaymentState::Approved)
            .count();
        if page.next_page_token.is_empty() {
            return Ok(live);
        }
        request.page_token = page.next_page_token;
    }
}
