//! The gate: how much of what comes from outside is under way at once, and how often one client may come. What is too
//! much is refused at once, before it costs anything; nothing waits here (trap T-30).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::error::{Error, Result};
use crate::id::{Accounts, Id};
use crate::rate::{RateLimit, network_of};

/// When somebody who has too many streams open may try again.
const STREAM_WAIT: Duration = Duration::from_secs(5);

/// Who was quiet may make so many seconds' calls at once.
const SECONDS_AT_ONCE: u32 = 5;

/// How much a process takes on at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections; who comes when there are so many waits until one has ended.
    pub connections: usize,
    /// Calls under way. Half as many again are kept for calls of other contexts.
    pub calls: usize,
    /// Calls of one account in a second, on average; 0 is no limit.
    pub calls_per_account: u32,
    /// Calls in a second from one address of who is not signed in; 0 is no limit.
    pub calls_per_address: u32,
    /// Open streams.
    pub streams: usize,
    /// Open streams of one account.
    pub streams_per_account: usize,
    /// Open streams from one address of who is not signed in.
    pub streams_per_address: usize,
    /// How long a new connection may say nothing.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            calls: 1024,
            calls_per_account: 200,
            calls_per_address: 1000,
            streams: 4096,
            streams_per_account: 10,
            streams_per_address: 100,
            silence: Duration::from_secs(5),
        }
    }
}

/// Lets calls and streams in, or does not.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    calls: Semaphore,
    /// What was let in elsewhere is not shed behind new customers' calls.
    reserve: Semaphore,
    account_calls: RateLimit,
    address_calls: RateLimit,
    streams: Streams,
    closing: CancellationToken,
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            calls: Semaphore::new(limits.calls),
            reserve: Semaphore::new(limits.calls / 2),
            account_calls: RateLimit::per_second(limits.calls_per_account, SECONDS_AT_ONCE),
            address_calls: RateLimit::per_second(limits.calls_per_address, SECONDS_AT_ONCE),
            streams: Streams::default(),
            closing: CancellationToken::new(),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// A place for a call, for as long as it is worked on.
    pub(super) fn enter(&self, of_a_context: bool) -> Result<SemaphorePermit<'_>> {
        match self.calls.try_acquire() {
            Ok(place) => Ok(place),
            Err(TryAcquireError::Closed) => Err(Error::stopping()),
            Err(TryAcquireError::NoPermits) if of_a_context => {
                self.reserve.try_acquire().map_err(|_| Error::overloaded())
            }
            Err(TryAcquireError::NoPermits) => Err(Error::overloaded()),
        }
    }

    /// Counts a call for whoever makes it.
    pub(super) fn count(&self, who: Option<Who>) -> Result<()> {
        let (outcome, most) = match who {
            None => return Ok(()),
            Some(Who::Account(_)) => (self.account_calls.count(who), self.limits.calls_per_account),
            Some(Who::Address(_)) => (self.address_calls.count(who), self.limits.calls_per_address),
        };
        outcome.map_err(|retry_after| {
            let what = format!("{most} calls a second");
            Error::Busy { what, retry_after }
        })
    }

    /// A place for a stream, for as long as it is open.
    pub(super) fn open_stream(&self, who: Option<Who>) -> Result<Place> {
        let most = match who {
            None => usize::MAX,
            Some(Who::Account(_)) => self.limits.streams_per_account,
            Some(Who::Address(_)) => self.limits.streams_per_address,
        };
        self.streams.open(who, most, self.limits.streams)
    }

    /// Lets nothing in any more, and ends the streams.
    pub(super) fn close(&self) {
        self.calls.close();
        self.closing.cancel();
    }

    /// Ends when the gate is closed.
    pub(super) fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Whether no call is under way. Streams are not calls: they end by themselves when the gate is closed.
    pub(super) fn is_quiet(&self) -> bool {
        self.calls.available_permits() == self.limits.calls
            && self.reserve.available_permits() == self.limits.calls / 2
    }
}

/// For whom calls and streams are counted: an account, wherever it calls from, or the network of who has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Account(Id<Accounts>),
    Address(u128),
}

impl Who {
    /// Nobody in particular for contexts, which are as many as there are: of theirs only the whole is bounded.
    pub(super) fn of(caller: &Caller) -> Option<Self> {
        match caller.account() {
            _ if caller.service().is_some() => None,
            Ok(account) => Some(Self::Account(account)),
            Err(_) => caller.address().map(Self::at),
        }
    }

    pub(super) fn at(address: IpAddr) -> Self {
        Self::Address(network_of(address))
    }
}

#[derive(Debug, Clone, Default)]
struct Streams(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<Who, usize>,
}

impl Streams {
    fn open(&self, who: Option<Who>, most: usize, most_of_all: usize) -> Result<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= most_of_all {
            return Err(Error::overloaded());
        }
        if let Some(who) = who {
            let count = counts.of.get(&who).copied().unwrap_or_default();
            if count >= most {
                let what = format!("{most} open streams");
                return Err(Error::Busy { what, retry_after: STREAM_WAIT });
            }
            counts.of.insert(who, count + 1);
        }
        counts.all += 1;
        Ok(Place { streams: self.clone(), who })
    }
}

/// An open stream, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    streams: Streams,
    who: Option<Who>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(who) = self.who
            && let Entry::Occupied(mut count) = counts.of.entry(who)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;
    use crate::caller::Account;
    use crate::error::retry_delay_of;

    fn gate(calls: usize, streams: usize) -> Gate {
        Gate::new(Limits { calls, streams, streams_per_account: 2, ..Limits::default() })
    }

    fn customer() -> Option<Who> {
        let account = Account { id: Id::new(), roles: Default::default() };
        Who::of(&Caller::new(Some(account), None, Some([192, 0, 2, 1].into())))
    }

    fn refusal<T>(outcome: Result<T>) -> Status {
        outcome.err().expect("a refusal").into()
    }

    #[test]
    fn t30_a_call_too_many_is_shed_with_a_hint() {
        let gate = gate(1, 1);
        let place = gate.enter(false).unwrap();
        let status = refusal(gate.enter(false));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(retry_delay_of(&status).is_some());
        assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
        drop(place);
        assert!(gate.enter(false).is_ok());
    }

    #[test]
    fn a_contexts_call_is_not_shed_behind_customers() {
        let gate = gate(2, 1);
        let _customers = [gate.enter(false).unwrap(), gate.enter(false).unwrap()];
        let context = gate.enter(true);
        assert!(context.is_ok() && !gate.is_quiet());
        assert_eq!(refusal(gate.enter(true)).code(), Code::Unavailable, "the reserve ends, too");
    }

    #[test]
    fn s_24_an_account_has_so_many_streams_and_no_more() {
        let (gate, noisy, quiet) = (gate(1, 3), customer(), customer());
        let first = gate.open_stream(noisy).unwrap();
        let _second = gate.open_stream(noisy).unwrap();
        let status = refusal(gate.open_stream(noisy));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(retry_delay_of(&status).is_some());
        let _others = gate.open_stream(quiet).unwrap();
        assert_eq!(refusal(gate.open_stream(quiet)).code(), Code::Unavailable, "3 of all");
        drop(first);
        assert!(gate.open_stream(noisy).is_ok());
    }

    #[test]
    fn s_24_calls_are_counted_by_account_by_address_and_for_no_context() {
        let limits = Limits { calls_per_account: 2, calls_per_address: 1, ..Limits::default() };
        let gate = Gate::new(limits);
        let address = Some([192, 0, 2, 1].into());
        let (noisy, quiet) = (customer(), customer());
        assert!((0..10).all(|_| gate.count(noisy).is_ok()), "five seconds' worth");
        let status = refusal(gate.count(noisy));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(retry_delay_of(&status).is_some());
        assert!(gate.count(quiet).is_ok(), "from the same address");
        let anybody = Who::of(&Caller::new(None, None, address));
        assert!((0..5).all(|_| gate.count(anybody).is_ok()));
        assert!(gate.count(anybody).is_err());
        let context = Who::of(&Caller::new(None, Some("payment".to_owned()), address));
        assert!((0..100).all(|_| gate.count(context).is_ok()));
    }

    #[test]
    fn a_closed_gate_lets_nothing_in() {
        let gate = gate(1, 1);
        let under_way = gate.enter(false).unwrap();
        gate.close();
        let status = refusal(gate.enter(true));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
        assert!(!gate.is_quiet());
        drop(under_way);
        assert!(gate.is_quiet() && gate.closing().is_cancelled());
    }
}
