//! `turnstile load SCENARIO`: many users at once, and the figures of it.

mod breaker;
mod generator;
mod report;
mod target;
mod work;

use std::time::{Duration, Instant};

pub(crate) use breaker::prove;
pub(crate) use target::Target;
pub(crate) use work::Work;

use crate::Outcome;
use crate::cli::{Cli, LoadOptions, Scenario};
use crate::client::{Failure, SignedIn};
use generator::{Pace, Tally, drive};
use report::Report;

/// Rule G-10, for the payment: it passes about 20 charges a second.
const SLOW_PAYMENT: [(&str, &str); 2] =
    [("TURNSTILE_PAYMENT_DELAY_MS", "400-620"), ("TURNSTILE_PAYMENT_CONCURRENCY", "10")];
/// The same for the seats' side.
const SLOW_MUSICAL: [(&str, &str); 2] =
    [("TURNSTILE_MUSICAL_DELAY_MS", "400-620"), ("TURNSTILE_MUSICAL_CONCURRENCY", "10")];

/// Puts a system under load, prints the figures, and fails where something is not as it should be.
pub(crate) async fn run(cli: &Cli, options: LoadOptions) -> Outcome {
    let twice = async {
        for _ in 0..2 {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            eprintln!("\nending: calls under way finish first; once more ends at once");
        }
    };
    tokio::select! {
        outcome = Box::pin(play(cli, options)) => outcome,
        () = twice => Err("ended before the figures were there".into()),
    }
}

async fn play(cli: &Cli, options: LoadOptions) -> Outcome {
    let target = match &options.target {
        Some(url) => Target::running(url, &options.admin).await?,
        None => {
            let settings: &[_] = match options.scenario {
                Scenario::Homemovie | Scenario::Outerpark => &[],
                Scenario::HomemovieBreaker => &SLOW_PAYMENT,
                Scenario::OuterparkBreaker => &SLOW_MUSICAL,
            };
            Target::private(cli.config.as_deref(), settings).await?
        }
    };
    let report = put_under_load(&target, &options).await?;
    target.end().await?;
    if options.json {
        report.print_json()?
    } else {
        report.print()
    }
    match report.faults.len() {
        0 => Ok(()),
        faults => {
            Err(format!("{faults} of the things that were looked at are not as they should be")
                .into())
        }
    }
}

async fn put_under_load(target: &Target, options: &LoadOptions) -> Result<Report, Failure> {
    if options.scenario.is_breaker() && options.target.is_some() {
        eprintln!("left out: making the callee slow, since this system is not ours to set");
    }
    let users = target.users(options.users(), options.users_per_connection).await?;
    let pace = Pace { rate: options.rate, duration: options.duration() };
    match options.scenario {
        Scenario::Homemovie => {
            let work = Work::film(target).await?;
            films(&work, &users, pace).await
        }
        Scenario::Outerpark => {
            let work = Work::seat(target, &users[0]).await?;
            seats(&work, target, &users, pace).await
        }
        Scenario::HomemovieBreaker => {
            let work = Work::film(target).await?;
            prove("homemovie-breaker", &work, target, &users, pace.duration, options.unloaded).await
        }
        Scenario::OuterparkBreaker => {
            let work = Work::seat(target, &users[0]).await?;
            prove("outerpark-breaker", &work, target, &users, pace.duration, options.unloaded).await
        }
    }
}

/// Completed: the customer sees the film in my page as ordered.
async fn films(work: &Work, users: &[SignedIn], pace: Pace) -> Result<Report, Failure> {
    let tally = Tally::new(users.len())?;
    let begun = Instant::now();
    drive(users, pace, &tally, |user| work.act(user)).await;
    let seen = work::seen_in_my_page(users, &tally).await?;
    let mut report = report(&tally, "homemovie", begun.elapsed(), pace);
    let missing = report.completed - seen;
    report.expect(missing == 0, format_args!("{missing} orders never came to my page"));
    report.completed = seen;
    Ok(report)
}

/// Completed: the seat is answered as reserved.
async fn seats(
    work: &Work,
    target: &Target,
    users: &[SignedIn],
    pace: Pace,
) -> Result<Report, Failure> {
    let tally = Tally::new(users.len())?;
    let took = drive(users, pace, &tally, |user| work.act(user)).await;
    let mut report = report(&tally, "outerpark", took, pace);
    work.settle(target, users, &mut report).await?;
    Ok(report)
}

fn report(tally: &Tally, scenario: &'static str, took: Duration, pace: Pace) -> Report {
    let mut report = Report::of(scenario, tally, took);
    report.intended_per_s = pace.rate;
    report.expect(report.completed > 0, "some calls succeed");
    report.expect(report.errors == 0, "no answer that nobody planned");
    report
}
