//! Steps, how each went and how long it took.

use std::fmt;
use std::time::{Duration, Instant};

use crate::Result;

/// What was done so far.
#[derive(Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
}

struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Ok,
    Failed,
    Skipped,
}

impl Report {
    /// Does a step; what it made, unless it failed.
    pub(crate) fn step<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        self.then(Some(()), name, |()| work())
    }

    /// Does a step with what a step before it made; skips it if that failed or was skipped.
    pub(crate) fn then<A, T>(
        &mut self,
        needed: Option<A>,
        name: &'static str,
        work: impl FnOnce(A) -> Result<T>,
    ) -> Option<T> {
        let Some(needed) = needed else {
            self.steps.push(Step { name, outcome: Outcome::Skipped, took: Duration::ZERO });
            return None;
        };
        eprintln!("\n=== {name}");
        let start = Instant::now();
        let result = work(needed);
        let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Failed };
        let step = Step { name, outcome, took: start.elapsed() };
        if let Err(error) = &result {
            eprintln!("{error}");
        }
        eprintln!("--- {step}");
        self.steps.push(step);
        result.ok()
    }

    /// Prints the steps; whether none of them failed.
    pub(crate) fn finish(self) -> bool {
        eprintln!("\n=== all steps");
        for step in &self.steps {
            eprintln!("{step}");
        }
        self.steps.iter().all(|step| step.outcome == Outcome::Ok)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        write!(f, "{:<20} {outcome:<8} {:>7.1} s", self.name, self.took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_skips_only_what_needs_it() {
        let mut report = Report::default();
        let built = report.step("build", || -> Result<()> { Err("broken".into()) });
        report.then(built, "tests", |()| -> Result { unreachable!("nothing was built") });
        report.step("format", || Ok(()));
        let outcomes: Vec<_> = report.steps.iter().map(|step| step.outcome).collect();
        assert!(outcomes == [Outcome::Failed, Outcome::Skipped, Outcome::Ok]);
        assert!(!report.finish());
    }
}
