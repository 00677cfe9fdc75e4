//! The last step of the film's script: many users on a payment that is slow.

use std::num::NonZero;
use std::time::Duration;

use super::{Stage, expect, saw};
use crate::cli::DemoOptions;
use crate::client::Failure;
use crate::load::{Target, Work, prove};

/// T-CB: the payment takes 400 to 620 ms and handles ten at once, and everybody wants to pay.
pub(super) async fn slow_payment(stage: &Stage, options: &DemoOptions) -> Result<(), Failure> {
    let what = "load on a slow payment";
    let Some(private) = &stage.private else {
        saw(8, what, "left out: it needs a private system, without --target");
        return Ok(());
    };
    if options.seconds == 0 {
        saw(8, what, "left out: --seconds 0");
        return Ok(());
    }
    private.mesh.stop("payment").await;
    // Rule G-10: it passes about 20 payments a second.
    let slow = payment::Settings {
        delay: payment::Delay::millis(400..=620),
        concurrency: NonZero::new(10),
        ..private.config.payment.clone()
    };
    private.mesh.start(&payment::context(slow)).await?;

    let target = Target::here(&stage.url, stage.admin().await?).await?;
    let users = target.users(options.users, USERS_PER_CONNECTION).await?;
    let work = Work::film(&target).await?;
    let time = Duration::from_secs(options.seconds);
    // The calls without a load are left to `turnstile load homemovie-breaker`: they take a minute.
    let report = prove("homemovie-breaker", &work, &target, &users, time, 0).await?;
    report.print();
    expect(report.faults.is_empty(), report.faults.join("; "))?;
    saw(8, what, "the breaker opened and healed, nothing was lost");
    Ok(())
}

const USERS_PER_CONNECTION: usize = 32;
