//! What came of a load: a table for people, one JSON object for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::generator::Tally;
use crate::settings::out;

/// The figures of a load. The first ten names are kept: other programs read them.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) users: usize,
    pub(crate) duration_s: f64,
    pub(crate) completed: u64,
    pub(crate) rate_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) fallbacks: u64,
    pub(crate) errors: u64,
    /// Calls a second that were meant to be sent, where the load had a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) intended_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) breaker: Option<Breaker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) books: Option<Books>,
    /// What was not as it should be. Empty: everything was.
    pub(crate) faults: Vec<String>,
}

/// What the breaker of the edge under load did, and what it was like meanwhile.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Breaker {
    pub(crate) edge: &'static str,
    pub(crate) unloaded: usize,
    pub(crate) unloaded_succeeded: usize,
    pub(crate) opened: u64,
    pub(crate) half_opened: u64,
    pub(crate) closed: u64,
    pub(crate) state: &'static str,
    /// From the end of the load to the first call that succeeded.
    pub(crate) recovered_after_s: f64,
    /// How many calls were refused by the open breaker while that was watched, and how long the answers took.
    pub(crate) refusals_while_open: u64,
    pub(crate) refusal_p50_ms: f64,
    pub(crate) refusal_max_ms: f64,
    /// Calls that reached the callee although the breaker was open.
    pub(crate) sent_while_open: u64,
}

/// Two sides that must be equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Books {
    pub(crate) left: &'static str,
    pub(crate) left_count: u64,
    pub(crate) right: &'static str,
    pub(crate) right_count: u64,
}

impl Report {
    /// The figures of a load that took so long.
    pub(crate) fn of(scenario: &'static str, tally: &Tally, took: Duration) -> Self {
        let (p50_ms, p99_ms, max_ms) = tally.latencies(summary);
        let duration_s = took.as_secs_f64();
        Self {
            scenario,
            users: tally.users(),
            duration_s: rounded(duration_s),
            completed: tally.completed(),
            rate_per_s: rounded(tally.completed() as f64 / duration_s),
            p50_ms,
            p99_ms,
            max_ms,
            fallbacks: tally.fallbacks(),
            errors: tally.errors(),
            intended_per_s: None,
            breaker: None,
            books: None,
            faults: Vec::new(),
        }
    }

    /// Notes what is not as it should be.
    pub(crate) fn expect(&mut self, as_it_should: bool, what: impl ToString) {
        if !as_it_should {
            self.faults.push(what.to_string());
        }
    }

    /// One JSON object, on one line.
    pub(crate) fn print_json(&self) -> Result<(), serde_json::Error> {
        out(format_args!("{}", serde_json::to_string(self)?));
        Ok(())
    }

    /// A table.
    pub(crate) fn print(&self) {
        let row = |what: &str, figure: String| out(format_args!("{what:<28}{figure:>12}"));
        row("scenario", self.scenario.to_owned());
        row("users", self.users.to_string());
        row("duration, s", format!("{:.1}", self.duration_s));
        row("completed", self.completed.to_string());
        row("completed per second", format!("{:.1}", self.rate_per_s));
        if let Some(intended) = self.intended_per_s {
            row("intended per second", format!("{intended:.1}"));
        }
        row("latency p50, ms", format!("{:.1}", self.p50_ms));
        row("latency p99, ms", format!("{:.1}", self.p99_ms));
        row("latency max, ms", format!("{:.1}", self.max_ms));
        row("told to come again", self.fallbacks.to_string());
        row("errors", self.errors.to_string());
        if let Some(breaker) = &self.breaker {
            out(format_args!("breaker of {}", breaker.edge));
            let unloaded = format!("{} of {}", breaker.unloaded_succeeded, breaker.unloaded);
            row("  unloaded, succeeded", unloaded);
            row("  opened", breaker.opened.to_string());
            row("  half-open", breaker.half_opened.to_string());
            row("  closed", breaker.closed.to_string());
            row("  state at the end", breaker.state.to_owned());
            row("  recovered after, s", format!("{:.1}", breaker.recovered_after_s));
            row("  refusals while open", breaker.refusals_while_open.to_string());
            row("  refusal p50, ms", format!("{:.1}", breaker.refusal_p50_ms));
            row("  refusal max, ms", format!("{:.1}", breaker.refusal_max_ms));
            row("  sent while open", breaker.sent_while_open.to_string());
        }
        if let Some(books) = &self.books {
            row(books.left, books.left_count.to_string());
            row(books.right, books.right_count.to_string());
        }
        for fault in &self.faults {
            out(format_args!("not as it should be: {fault}"));
        }
    }
}

/// Half of them are not slower than the first; one in a hundred is slower than the second; none than the third. In ms.
pub(crate) fn summary(latencies: &Histogram<u64>) -> (f64, f64, f64) {
    let ms = |micros: u64| rounded(micros as f64 / 1e3);
    (
        ms(latencies.value_at_quantile(0.5)),
        ms(latencies.value_at_quantile(0.99)),
        ms(latencies.max()),
    )
}

fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ten_names_are_kept() {
        let tally = Tally::new(2).unwrap();
        let report = Report::of("homemovie", &tally, Duration::from_secs(1));
        let json = serde_json::to_string(&report).unwrap();
        let names = [
            "scenario",
            "users",
            "duration_s",
            "completed",
            "rate_per_s",
            "p50_ms",
            "p99_ms",
            "max_ms",
            "fallbacks",
            "errors",
        ];
        let places: Vec<_> =
            names.iter().map(|name| json.find(&format!("\"{name}\":")).unwrap()).collect();
        assert!(places.is_sorted(), "{json}");
    }
}
