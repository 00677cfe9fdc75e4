//! What is read when the page of metrics is asked for: counters that others keep, and what stands in stores.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

use super::metrics::{Metrics, panics};
use crate::client::{BreakerState, Edge};
use crate::contract::Contract;
use crate::events::{count_parked, place_of};
use crate::registry::{Registry, Running};
use crate::saga::count_intents;
use crate::store::Store;

/// How long a store may take to answer; what one does not say in time is missing on the page.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

const UNDER_WAY: &str = "rpc.server.calls_under_way";
const SENT: &str = "mesh.edge.sent";
const FAILURES: &str = "mesh.edge.failures";
const RETRIES: &str = "mesh.edge.retries";
const FALLBACKS: &str = "mesh.edge.fallbacks";
const BULKHEAD: &str = "mesh.edge.bulkhead_refusals";
const BREAKER: &str = "mesh.edge.breaker_state";
const TRANSITIONS: &str = "mesh.edge.breaker_transitions";
const LAG: &str = "mesh.policy.lag";
const HANDLED: &str = "mesh.policy.handled";
const PARKED: &str = "mesh.policy.parked";
const INTENTS: &str = "mesh.intents";
const QUEUE: &str = "mesh.store.queue";
const WRITES: &str = "mesh.store.writes";
const COMMITS: &str = "mesh.store.commits";
const PANICS: &str = "mesh.panics";

const INSTRUMENTS: [(&str, Kind, &str); 16] = [
    (UNDER_WAY, Kind::Gauge, "Calls and streams that are being served, by method"),
    (SENT, Kind::Counter, "Attempts that left for the callee"),
    (FAILURES, Kind::Counter, "Attempts that count for the breaker"),
    (RETRIES, Kind::Counter, "Attempts after the first"),
    (FALLBACKS, Kind::Counter, "Calls that were answered with the fallback"),
    (BULKHEAD, Kind::Counter, "Fallbacks because too many calls were under way"),
    (BREAKER, Kind::Gauge, "1 for the state that the breaker is in"),
    (TRANSITIONS, Kind::Counter, "How often the breaker came into a state"),
    (LAG, Kind::Gauge, "Events of the source that the policy has still before it"),
    (HANDLED, Kind::Counter, "Events that this process has dealt with"),
    (PARKED, Kind::Gauge, "Events that the policy could not handle, with those behind them"),
    (INTENTS, Kind::Gauge, "Orders that are neither registered nor ended"),
    (QUEUE, Kind::Gauge, "Writes that wait for the store's writer"),
    (WRITES, Kind::Counter, "Writes that were committed"),
    (COMMITS, Kind::Counter, "Commits: each takes all writes that wait"),
    (PANICS, Kind::Counter, "Panics, caught or not"),
];

/// What was read last, by instrument.
#[derive(Default)]
pub(super) struct Readings(HashMap<&'static str, Vec<(u64, Vec<KeyValue>)>>);

impl Readings {
    fn add<const N: usize>(
        &mut self,
        name: &'static str,
        value: u64,
        labels: [(&'static str, &str); N],
    ) {
        let labels = labels.map(|(label, of)| KeyValue::new(label, of.to_owned()));
        self.0.entry(name).or_default().push((value, labels.to_vec()));
    }
}

/// Makes the instruments; they say what was read last.
pub(super) fn register(meter: &Meter, readings: &Arc<Mutex<Readings>>) {
    for (name, kind, description) in INSTRUMENTS {
        let readings = readings.clone();
        let say = move |instrument: &dyn AsyncInstrument<u64>| {
            let readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
            for (value, labels) in readings.0.get(name).into_iter().flatten() {
                instrument.observe(*value, labels);
            }
        };
        match kind {
            Kind::Counter => drop(
                meter
                    .u64_observable_counter(name)
                    .with_description(description)
                    .with_callback(say)
                    .build(),
            ),
            Kind::Gauge => drop(
                meter
                    .u64_observable_gauge(name)
                    .with_description(description)
                    .with_callback(say)
                    .build(),
            ),
        }
    }
}

/// Reads everything anew.
pub(super) async fn read(registry: &Registry, metrics: &Metrics) -> Readings {
    let mut readings = Readings::default();
    readings.add(PANICS, panics(), []);
    for rule in Contract::ours().into_iter().flat_map(Contract::rules) {
        if let Some(under_way) = metrics.under_way(rule) {
            readings.add(UNDER_WAY, under_way.unsigned_abs(), [("rpc.method", &rule.method)]);
        }
    }
    for edge in registry.edges() {
        read_edge(&mut readings, &edge);
    }
    let running: Vec<_> = registry.running().values().cloned().collect();
    for context in running {
        for store in &context.stores {
            read_store(&mut readings, store);
        }
        read_context(&mut readings, &context).await;
    }
    readings
}

fn read_edge(readings: &mut Readings, edge: &Edge) {
    let name = ("edge", edge.name.as_str());
    let counters = &edge.counters;
    readings.add(SENT, counters.sent.load(Relaxed), [name]);
    readings.add(FAILURES, counters.failed.load(Relaxed), [name]);
    readings.add(RETRIES, counters.retries.load(Relaxed), [name]);
    readings.add(FALLBACKS, counters.fallbacks.load(Relaxed), [name]);
    readings.add(BULKHEAD, counters.bulkhead.load(Relaxed), [name]);
    let (now, transitions) = edge.breaker.state();
    for (state, label, times) in [
        (BreakerState::Closed, "closed", transitions.closed),
        (BreakerState::Open, "open", transitions.opened),
        (BreakerState::HalfOpen, "half_open", transitions.half_opened),
    ] {
        readings.add(BREAKER, u64::from(state == now), [name, ("state", label)]);
        readings.add(TRANSITIONS, times, [name, ("to", label)]);
    }
}

fn read_store(readings: &mut Readings, store: &Store) {
    let name = ("store", store.context());
    readings.add(QUEUE, store.queued() as u64, [name]);
    readings.add(WRITES, store.writes(), [name]);
    readings.add(COMMITS, *store.commits().borrow(), [name]);
}

async fn read_context(readings: &mut Readings, context: &Running) {
    let runners = context.runners();
    let policies: Vec<_> = runners
        .iter()
        .map(|runner| (runner.key().to_owned(), runner.policy().source().to_owned()))
        .collect();
    let work = context.store.read(move |conn| {
        let mut found = Vec::new();
        for (key, source) in policies {
            let position = place_of(conn, &key, &source, &[])?.map_or(0, |place| place.position());
            found.push((position, count_parked(conn, &key)?));
        }
        Ok((found, count_intents(conn)?))
    });
    let Ok(Ok((found, intents))) = tokio::time::timeout(PATIENCE, work).await else {
        return tracing::debug!(
            context = context.store.context(),
            "the store said nothing for the metrics"
        );
    };
    for (runner, (position, parked)) in runners.iter().zip(found) {
        let policy = ("policy", runner.key());
        let lag = runner.head().saturating_sub(position).max(0).unsigned_abs();
        readings.add(LAG, lag, [policy, ("source", runner.policy().source())]);
        readings.add(HANDLED, runner.handled(), [policy]);
        readings.add(PARKED, parked.unsigned_abs(), [policy]);
    }
    for (state, count) in intents {
        let state = state.to_lowercase();
        let context = ("context", context.store.context());
        readings.add(INTENTS, count.unsigned_abs(), [context, ("state", &state)]);
    }
}
