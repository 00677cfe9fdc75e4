//! The procedure T-CB: many users on a callee that is slow. The breaker opens, nothing is lost, and it heals.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::mesh::v1::{Edge, ListEdgesRequest, edge};
use tonic::Code;

use super::generator::{Pace, Tally, drive, latencies};
use super::report::{Breaker, Report, summary};
use super::target::Target;
use super::work::Work;
use crate::client::{self, Failure, SignedIn};

/// How often the breaker is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// By then what was under way when a breaker opened has ended: a call takes 610 ms, unless it was set to more.
const UNDER_WAY: Duration = Duration::from_millis(1500);
/// Within that time after the load a call must succeed.
const RECOVERED: Duration = Duration::from_secs(10);
/// So many in a hundred calls must succeed while there is no load.
const UNLOADED_PERCENT: usize = 85;

/// Plays it: first `unloaded` calls one after another, then the load.
pub(crate) async fn prove(
    scenario: &'static str,
    work: &Work,
    target: &Target,
    users: &[SignedIn],
    duration: Duration,
    unloaded: usize,
) -> Result<Report, Failure> {
    let admin = target.admin()?;
    let before = look(admin, work).await?;
    if unloaded > 0 {
        eprintln!("{unloaded} calls one after another");
    }
    let mut unloaded_succeeded = 0;
    for _ in 0..unloaded {
        unloaded_succeeded += usize::from(work.act(users[0].clone()).await.is_ok());
    }
    let quiet = look(admin, work).await?;

    eprintln!("{} users for {} s", users.len(), duration.as_secs_f64());
    let tally = Tally::new(users.len())?;
    let mut open = WhileOpen::new()?;
    let took = tokio::select! {
        took = drive(users, Pace { rate: None, duration }, &tally, |user| work.act(user)) => took,
        () = open.watch(admin, work, &users[0]) => Duration::ZERO,
    };
    let recovered_after = recovery(work, &users[0]).await?;
    let after = look(admin, work).await?;

    let mut report = Report::of(scenario, &tally, took);
    let (refusal_p50_ms, _, refusal_max_ms) = summary(&open.refusals);
    let breaker = Breaker {
        edge: work.edge(),
        unloaded,
        unloaded_succeeded,
        opened: after.open_count - before.open_count,
        half_opened: after.half_open_count - before.half_open_count,
        closed: after.close_count - before.close_count,
        state: after.breaker().as_str_name().trim_start_matches("BREAKER_"),
        recovered_after_s: recovered_after.as_secs_f64(),
        refusals_while_open: open.refusals.len(),
        refusal_p50_ms,
        refusal_max_ms,
        sent_while_open: open.sent,
    };
    report.expect(
        quiet.open_count == before.open_count,
        "the breaker stays closed while there is no load",
    );
    report.expect(
        unloaded_succeeded * 100 >= unloaded * UNLOADED_PERCENT,
        format_args!("{UNLOADED_PERCENT} % succeed while there is no load"),
    );
    report.expect(report.completed > 0, "some calls succeed");
    report.expect(report.fallbacks > 0, "some are told to come again");
    report.expect(report.errors == 0, "no other answer than these two");
    report.expect(breaker.opened > 0, "the breaker opens");
    report.expect(breaker.half_opened > 0, "it lets a trial call through");
    report.expect(breaker.closed > 0, "it closes again");
    report.expect(after.breaker() == edge::Breaker::Closed, "it is closed at the end");
    report.expect(breaker.sent_while_open == 0, "the callee gets no call while it is open");
    report.expect(
        recovered_after <= RECOVERED,
        format_args!("a call succeeds within {} s after the load", RECOVERED.as_secs()),
    );
    report.breaker = Some(breaker);
    work.settle(target, users, &mut report).await?;
    Ok(report)
}

/// What is seen while the breaker is open.
struct WhileOpen {
    refusals: Histogram<u64>,
    sent: u64,
}

impl WhileOpen {
    fn new() -> Result<Self, Failure> {
        Ok(Self { refusals: latencies()?, sent: 0 })
    }

    /// Looks at the breaker again and again. While it is open, it must refuse a call at once, and let none through.
    async fn watch(&mut self, admin: &SignedIn, work: &Work, user: &SignedIn) {
        // The opening that is under way, since when, and what had been sent when nothing was under way any more.
        let mut opening = (0, Instant::now(), None);
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(before) = open_edge(admin, work).await else { continue };
            let sent = Instant::now();
            let outcome = work.act(user.clone()).await;
            let took = sent.elapsed();
            let Some(after) = open_edge(admin, work).await else { continue };
            if after.open_count != before.open_count {
                continue;
            }
            if outcome.is_err_and(|status| status.code() == Code::Unavailable) {
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.refusals.saturating_record(micros);
            }
            if opening.0 != after.open_count {
                opening = (after.open_count, Instant::now(), None);
            }
            if opening.1.elapsed() > UNDER_WAY {
                let settled = *opening.2.get_or_insert(after.sent_count);
                self.sent += after.sent_count - settled;
                opening.2 = Some(after.sent_count);
            }
        }
    }
}

/// The edge, while its breaker is open.
async fn open_edge(admin: &SignedIn, work: &Work) -> Option<Edge> {
    look(admin, work).await.ok().filter(|edge| edge.breaker() == edge::Breaker::Open)
}

async fn look(admin: &SignedIn, work: &Work) -> Result<Edge, Failure> {
    let name = work.edge();
    let answer =
        OperationsServiceClient::new(admin.clone()).list_edges(ListEdgesRequest::default()).await?;
    let edges = answer.into_inner().edges;
    edges.into_iter().find(|edge| edge.name == name).ok_or_else(|| format!("no edge {name}").into())
}

/// How long after the load a call succeeds.
async fn recovery(work: &Work, user: &SignedIn) -> Result<Duration, Failure> {
    let begun = Instant::now();
    client::wait_for(RECOVERED * 6, "a call succeeds after the load", || async {
        let outcome = work.act(user.clone()).await;
        if outcome.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(outcome.ok())
    })
    .await?;
    Ok(begun.elapsed())
}
