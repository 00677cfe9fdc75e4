//! A customer's order as far as events tell of it, and how it takes what one of them tells.
//!
//! Events come from several logs, each in its own order: what is late or told again never moves a row back (rule G-7),
//! and the outcome is the same in whatever order the logs are read.

use std::time::{SystemTime, UNIX_EPOCH};

use mesh::Money;

/// The states of something, in rank order. Those of one rank exclude each other: the one that is told first stays.
#[derive(Debug)]
pub(crate) struct Ranks(pub(crate) &'static [&'static [&'static str]]);

impl Ranks {
    /// Nothing, for what is no state: before anything is heard.
    fn rank(&self, state: &str) -> Option<usize> {
        self.0.iter().position(|equals| equals.contains(&state))
    }

    /// Whether `told` comes after `known`.
    fn is_later(&self, told: &str, known: &str) -> bool {
        self.rank(told) > self.rank(known)
    }
}

/// Where a payment may stand.
const PAYMENT: Ranks = Ranks(&[&["APPROVED", "DECLINED"], &["CANCELLED"]]);

/// One order of a customer's, of whatever system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MyOrder {
    /// The order's resource name.
    pub(crate) name: String,
    pub(crate) system: String,
    pub(crate) customer: String,
    pub(crate) title: String,
    pub(crate) quantity: u32,
    pub(crate) amount: Money,
    /// In the system's own word; empty before anything is heard of it.
    pub(crate) state: String,
    pub(crate) payment_state: String,
    /// When its own first event happened.
    pub(crate) create_time: SystemTime,
    /// When the last of its events happened.
    pub(crate) update_time: SystemTime,
    /// Whether it is shown: from its own first event on (rule G-21).
    pub(crate) visible: bool,
}

/// What an order's own first event tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) system: &'static str,
    pub(crate) customer: String,
    pub(crate) title: String,
    pub(crate) quantity: u32,
    pub(crate) amount: Money,
    pub(crate) time: SystemTime,
}

/// One thing that happened to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The event's name without its package: `MoviePicked`.
    pub(crate) event: String,
    /// The context it happened in.
    pub(crate) source: String,
    /// The aggregate it happened to, and that one's version.
    pub(crate) subject: String,
    pub(crate) sequence: i64,
    pub(crate) time: SystemTime,
}

impl MyOrder {
    /// An order of which nothing is known yet but, at the most, whose it is.
    pub(crate) fn unheard_of(name: &str, customer: &str) -> Self {
        Self {
            name: name.to_owned(),
            system: String::new(),
            customer: customer.to_owned(),
            title: String::new(),
            quantity: 0,
            amount: Money::new("", 0),
            state: String::new(),
            payment_state: String::new(),
            create_time: UNIX_EPOCH,
            update_time: UNIX_EPOCH,
            visible: false,
        }
    }

    /// Takes the order's own first event: from here on it is shown. Told again, it changes nothing.
    pub(crate) fn place(&mut self, placed: Placed) {
        if self.visible {
            return;
        }
        self.system = placed.system.to_owned();
        self.customer = placed.customer;
        self.title = placed.title;
        self.quantity = placed.quantity;
        self.amount = placed.amount;
        self.create_time = placed.time;
        self.visible = true;
    }

    /// Takes a state of the order's own, unless it has left it behind.
    pub(crate) fn advance(&mut self, ranks: &Ranks, state: &str) {
        if ranks.is_later(state, &self.state) {
            state.clone_into(&mut self.state);
        }
    }

    /// Takes a state of its payment, unless that has left it behind. A cancel that comes first wins.
    pub(crate) fn pay(&mut self, state: &str) {
        if PAYMENT.is_later(state, &self.payment_state) {
            state.clone_into(&mut self.payment_state);
        }
    }

    /// Notes when one of its events happened.
    pub(crate) fn happened(&mut self, time: SystemTime) {
        self.update_time = self.update_time.max(time);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RANKS: Ranks = Ranks(&[&["PICKED"], &["ORDERED"], &["WATCHED", "CANCELLED"]]);

    fn order() -> MyOrder {
        MyOrder::unheard_of("orders/1", "accounts/1")
    }

    fn placed(title: &str) -> Placed {
        Placed {
            system: "homemovie",
            customer: "accounts/1".to_owned(),
            title: title.to_owned(),
            quantity: 1,
            amount: Money::new("KRW", 50_000),
            time: UNIX_EPOCH + Duration::from_secs(7),
        }
    }

    #[test]
    fn g21_only_its_own_first_event_makes_an_order_visible() {
        let mut order = order();
        order.pay("APPROVED");
        order.advance(&RANKS, "ORDERED");
        assert!(!order.visible);

        order.place(placed("Parasite"));
        assert!(order.visible);
        assert_eq!((order.title.as_str(), order.state.as_str()), ("Parasite", "ORDERED"));
        assert_eq!(order.payment_state, "APPROVED");
        assert_eq!(order.create_time, UNIX_EPOCH + Duration::from_secs(7));
    }

    #[test]
    fn the_first_event_told_again_changes_nothing() {
        let mut order = order();
        order.place(placed("Parasite"));
        let before = order.clone();
        order.place(placed("Oldboy"));
        assert_eq!(order, before);
    }

    #[test]
    fn g7_a_state_is_never_left_for_an_earlier_one() {
        let mut order = order();
        for (told, then) in [
            ("ORDERED", "ORDERED"),
            ("PICKED", "ORDERED"),
            ("ORDERED", "ORDERED"),
            ("WATCHED", "WATCHED"),
        ] {
            order.advance(&RANKS, told);
            assert_eq!(order.state, then, "after {told}");
        }
    }

    #[test]
    fn g7_of_two_ends_the_first_stays() {
        let mut order = order();
        order.advance(&RANKS, "CANCELLED");
        order.advance(&RANKS, "WATCHED");
        assert_eq!(order.state, "CANCELLED");
    }

    #[test]
    fn a_state_may_be_skipped_but_no_other_word_is_taken() {
        let mut order = order();
        order.advance(&RANKS, "WATCHED");
        order.advance(&RANKS, "REWOUND");
        assert_eq!(order.state, "WATCHED");
    }

    #[test]
    fn g7_a_payment_that_was_cancelled_stays_cancelled() {
        let mut order = order();
        order.pay("CANCELLED");
        order.pay("APPROVED");
        order.pay("DECLINED");
        assert_eq!(order.payment_state, "CANCELLED");
    }

    #[test]
    fn an_approved_payment_is_not_declined_but_may_be_cancelled() {
        let mut order = order();
        order.pay("APPROVED");
        order.pay("DECLINED");
        assert_eq!(order.payment_state, "APPROVED");
        order.pay("CANCELLED");
        assert_eq!(order.payment_state, "CANCELLED");
    }

    #[test]
    fn the_update_time_is_that_of_the_last_event_whenever_it_comes() {
        let mut order = order();
        order.happened(UNIX_EPOCH + Duration::from_secs(9));
        order.happened(UNIX_EPOCH + Duration::from_secs(3));
        assert_eq!(order.update_time, UNIX_EPOCH + Duration::from_secs(9));
    }
}
