//! What happened in a run: one line a deed, and what customers were told.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::hash::{DefaultHasher, Hasher as _};

/// What happened so far, shared by all who take part.
#[derive(Debug, Default)]
pub(super) struct Story {
    lines: RefCell<Vec<String>>,
    /// Whether customers begin anything new.
    over: Cell<bool>,
    /// How many customers have nothing left to do.
    gone: Cell<usize>,
    /// Orders that were answered, by the request.
    pub(super) ordered: RefCell<BTreeMap<String, String>>,
    /// Orders whose cancellation was answered.
    pub(super) cancelled: RefCell<BTreeSet<String>>,
    /// Requests that were refused for good.
    pub(super) refused: RefCell<BTreeSet<String>>,
    /// The last state that a stream told of an order.
    pub(super) ends: RefCell<BTreeMap<String, String>>,
    violations: RefCell<Vec<String>>,
}

impl Story {
    /// Notes a deed: when, who, what, and how it went.
    pub(super) fn note(&self, who: &str, what: impl Display) {
        let at = turmoil::sim_elapsed().unwrap_or_default().as_millis();
        self.lines.borrow_mut().push(format!("{at:>6} {who:<22} {what}"));
    }

    /// Notes what must never happen.
    pub(super) fn violate(&self, what: impl Into<String>) {
        let what = what.into();
        self.note("!", &what);
        self.violations.borrow_mut().push(what);
    }

    /// The first that must never happen, and did.
    pub(super) fn violation(&self) -> Option<String> {
        self.violations.borrow().first().cloned()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    pub(super) fn end(&self) {
        self.over.set(true);
    }

    /// A customer has nothing left to do.
    pub(super) fn leave(&self) {
        self.gone.set(self.gone.get() + 1);
    }

    pub(super) fn gone(&self) -> usize {
        self.gone.get()
    }

    /// An order was answered; the same request must always be answered with the same one.
    pub(super) fn ordered(&self, request_id: &str, order: &str) {
        let first = self.ordered.borrow_mut().insert(request_id.to_owned(), order.to_owned());
        if let Some(first) = first.filter(|first| first != order) {
            self.violate(format!("{request_id} was answered with {first} and with {order}"));
        }
        if self.refused.borrow().contains(request_id) {
            self.violate(format!("{request_id} was refused and answered with {order}"));
        }
    }

    /// A request was refused for good.
    pub(super) fn refused(&self, request_id: &str) {
        self.refused.borrow_mut().insert(request_id.to_owned());
        if let Some(order) = self.ordered.borrow().get(request_id) {
            self.violate(format!("{request_id} was answered with {order} and refused"));
        }
    }

    /// All lines.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }
}

/// What two runs of one seed must have in common.
pub(super) fn hash(lines: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for line in lines {
        hasher.write(line.as_bytes());
        hasher.write_u8(b'\n');
    }
    hasher.finish()
}
