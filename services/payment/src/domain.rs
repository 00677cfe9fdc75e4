//! Payments: one an order, charged once, given back once.

use std::time::SystemTime;

use mesh::{Accounts, Collection, Id, Money};

/// `payments`: what was charged, or not, for one order.
#[derive(Debug)]
pub(crate) enum Payments {}

impl Collection for Payments {
    const NAME: &'static str = "payments";
}

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The provider is being asked. Hidden.
    Pending,
    /// Charged.
    Approved,
    /// Not charged, for good.
    Declined,
    /// A tombstone: cancelled before it was charged. Hidden.
    Voided,
    /// The provider is being asked to give it back.
    Refunding,
    /// Given back.
    Cancelled,
}

impl State {
    /// What anybody may see.
    pub(crate) const VISIBLE: [Self; 4] =
        [Self::Approved, Self::Declined, Self::Refunding, Self::Cancelled];
}

/// What the provider made of a charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Charge {
    /// Done; the provider calls it this.
    Approved {
        /// The provider's own name for it.
        reference: String,
    },
    /// Not done, now or ever under this key.
    Declined,
}

/// What happened to a payment, for everybody to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    Approved,
    Declined,
    Cancelled,
}

/// What a cancel leaves to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// Nothing: it was cancelled before, or never charged.
    Done,
    /// It is being given back already.
    UnderWay,
    /// So much is to be given back; [`Payment::give_back`] ends it.
    Refund(Money),
    /// It was being charged: it is cancelled from here on, and whatever comes of the charge is to be given back.
    Void,
}

/// Why payment refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the payment for {0} was declined")]
    Declined(String),
    #[error("{0} was cancelled and will not be charged any more")]
    Voided(String),
    #[error("{0} has a payment of another amount or customer")]
    Mismatch(String),
    #[error("{0} is being paid just now")]
    InProgress(String),
    #[error("{0} was charged, no more can be given back")]
    TooMuch(Money),
    #[error("{0} was charged, it is given back in the same currency")]
    OtherCurrency(Money),
}

/// What was charged, or not, for one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payment {
    /// Its name, and the provider's key for the charge.
    pub(crate) id: Id<Payments>,
    /// Resource name of the order.
    pub(crate) order: String,
    pub(crate) customer: Id<Accounts>,
    /// What was asked for.
    pub(crate) amount: Money,
    /// What was given back of it.
    pub(crate) refunded: Money,
    pub(crate) state: State,
    /// Why it was cancelled; empty before.
    pub(crate) reason: String,
    /// The provider's own name for the charge; empty before.
    pub(crate) reference: String,
    /// How many facts have been told of it.
    pub(crate) revision: i64,
    pub(crate) created: SystemTime,
}

impl Payment {
    /// A charge that begins: hidden until the provider has answered.
    pub(crate) fn pending(
        order: &str,
        customer: Id<Accounts>,
        amount: Money,
        now: SystemTime,
    ) -> Self {
        Self {
            id: Id::new(),
            order: order.to_owned(),
            customer,
            refunded: amount.zero(),
            amount,
            state: State::Pending,
            reason: String::new(),
            reference: String::new(),
            revision: 0,
            created: now,
        }
    }

    /// What is left where an order is cancelled that nobody has paid: it will never be charged.
    pub(crate) fn tombstone(
        order: &str,
        customer: Id<Accounts>,
        reason: &str,
        currency: &str,
        now: SystemTime,
    ) -> Self {
        let nothing = Money::new(currency, 0);
        let reason = reason.to_owned();
        Self { state: State::Voided, reason, ..Self::pending(order, customer, nothing, now) }
    }

    /// Answers who asks again to be charged for this order.
    pub(crate) fn pay_again(&self, customer: Id<Accounts>, amount: &Money) -> Result<(), Refusal> {
        let same = self.customer == customer && self.amount == *amount;
        match self.state {
            State::Voided | State::Refunding | State::Cancelled => {
                Err(Refusal::Voided(self.order.clone()))
            }
            _ if !same => Err(Refusal::Mismatch(self.order.clone())),
            State::Pending => Err(Refusal::InProgress(self.order.clone())),
            State::Declined => Err(Refusal::Declined(self.order.clone())),
            State::Approved => Ok(()),
        }
    }

    /// Takes what the provider made of the charge. A payment that was cancelled meanwhile stays cancelled.
    pub(crate) fn settle(&mut self, charge: Charge) -> Result<Fact, Refusal> {
        if self.state != State::Pending {
            return Err(Refusal::Voided(self.order.clone()));
        }
        match charge {
            Charge::Approved { reference } => {
                self.state = State::Approved;
                self.reference = reference;
                Ok(Fact::Approved)
            }
            Charge::Declined => {
                self.state = State::Declined;
                Ok(Fact::Declined)
            }
        }
    }

    /// Cancels it, giving back `refund` or all of it. Cancelling again changes nothing.
    pub(crate) fn cancel(
        &mut self,
        customer: Id<Accounts>,
        reason: &str,
        refund: Option<Money>,
    ) -> Result<Cancel, Refusal> {
        if self.customer != customer {
            return Err(Refusal::Mismatch(self.order.clone()));
        }
        match self.state {
            State::Declined | State::Voided | State::Cancelled => return Ok(Cancel::Done),
            State::Refunding => return Ok(Cancel::UnderWay),
            State::Pending | State::Approved => {}
        }
        let refund = refund.unwrap_or_else(|| self.amount.clone());
        if refund.currency != self.amount.currency {
            return Err(Refusal::OtherCurrency(self.amount.clone()));
        }
        if refund.minor_units > self.amount.minor_units {
            return Err(Refusal::TooMuch(self.amount.clone()));
        }
        reason.clone_into(&mut self.reason);
        if self.state == State::Pending {
            self.state = State::Voided;
            return Ok(Cancel::Void);
        }
        self.state = State::Refunding;
        Ok(Cancel::Refund(refund))
    }

    /// The provider gave back so much. What was not asked for, or was given back before, is no news.
    pub(crate) fn give_back(&mut self, refund: &Money) -> Option<Fact> {
        if self.state != State::Refunding {
            return None;
        }
        self.state = State::Cancelled;
        self.refunded = refund.clone();
        Some(Fact::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "movieApplications/0198f3c1-0000-7000-8000-000000000000";

    fn won(minor_units: i64) -> Money {
        Money::new("KRW", minor_units)
    }

    fn pending() -> Payment {
        Payment::pending(ORDER, Id::new(), won(50_000), mesh::now())
    }

    fn in_state(state: State) -> Payment {
        Payment { state, ..pending() }
    }

    fn approval() -> Charge {
        Charge::Approved { reference: "r1".to_owned() }
    }

    #[test]
    fn an_approved_charge_is_told_with_the_providers_reference() {
        let mut payment = pending();
        assert_eq!(payment.settle(approval()), Ok(Fact::Approved));
        assert_eq!((payment.state, payment.reference.as_str()), (State::Approved, "r1"));
    }

    #[test]
    fn a_declined_charge_is_told() {
        let mut payment = pending();
        assert_eq!(payment.settle(Charge::Declined), Ok(Fact::Declined));
        assert_eq!(payment.state, State::Declined);
    }

    #[test]
    fn a_payment_cancelled_while_it_was_charged_stays_cancelled() {
        let mut payment = pending();
        assert_eq!(payment.cancel(payment.customer, "ORDER_CANCELLED", None), Ok(Cancel::Void));
        assert_eq!(payment.settle(approval()), Err(Refusal::Voided(ORDER.to_owned())));
        assert_eq!((payment.state, payment.reason.as_str()), (State::Voided, "ORDER_CANCELLED"));
    }

    #[test]
    fn paying_again_gets_the_same_answer() {
        let answers = [
            (State::Pending, Err(Refusal::InProgress(ORDER.to_owned()))),
            (State::Approved, Ok(())),
            (State::Declined, Err(Refusal::Declined(ORDER.to_owned()))),
            (State::Voided, Err(Refusal::Voided(ORDER.to_owned()))),
            (State::Refunding, Err(Refusal::Voided(ORDER.to_owned()))),
            (State::Cancelled, Err(Refusal::Voided(ORDER.to_owned()))),
        ];
        for (state, answer) in answers {
            let payment = in_state(state);
            assert_eq!(payment.pay_again(payment.customer, &won(50_000)), answer, "{state:?}");
        }
    }

    #[test]
    fn another_amount_or_customer_is_another_payment() {
        let payment = in_state(State::Approved);
        let refused = Err(Refusal::Mismatch(ORDER.to_owned()));
        assert_eq!(payment.pay_again(payment.customer, &won(1)), refused);
        assert_eq!(payment.pay_again(payment.customer, &Money::new("EUR", 50_000)), refused);
        assert_eq!(payment.pay_again(Id::new(), &won(50_000)), refused);
        assert_eq!(
            in_state(State::Approved).cancel(Id::new(), "X", None),
            Err(Refusal::Mismatch(ORDER.to_owned()))
        );
    }

    #[test]
    fn a_cancel_gives_all_back_or_what_it_says() {
        for (refund, given) in
            [(None, won(50_000)), (Some(won(30_000)), won(30_000)), (Some(won(0)), won(0))]
        {
            let mut payment = in_state(State::Approved);
            assert_eq!(
                payment.cancel(payment.customer, "X", refund),
                Ok(Cancel::Refund(given.clone()))
            );
            assert_eq!((payment.state, &payment.refunded), (State::Refunding, &won(0)));
            assert_eq!(payment.cancel(payment.customer, "Y", None), Ok(Cancel::UnderWay));
            assert_eq!(payment.give_back(&given), Some(Fact::Cancelled));
            assert_eq!((payment.state, &payment.refunded), (State::Cancelled, &given));
            assert_eq!(payment.reason, "X");
        }
    }

    #[test]
    fn what_was_not_charged_cannot_be_given_back() {
        for state in [State::Pending, State::Approved] {
            let payment = in_state(state);
            let mut cancelled = payment.clone();
            let answer = cancelled.cancel(payment.customer, "X", Some(won(50_001)));
            assert_eq!(answer, Err(Refusal::TooMuch(won(50_000))));
            let answer = cancelled.cancel(payment.customer, "X", Some(Money::new("EUR", 1)));
            assert_eq!(answer, Err(Refusal::OtherCurrency(won(50_000))));
            assert_eq!(cancelled, payment);
        }
    }

    #[test]
    fn cancelling_again_changes_nothing() {
        for state in [State::Declined, State::Voided, State::Cancelled] {
            let payment = in_state(state);
            let mut cancelled = payment.clone();
            assert_eq!(cancelled.cancel(payment.customer, "X", None), Ok(Cancel::Done));
            assert_eq!(cancelled, payment);
        }
    }

    #[test]
    fn money_given_back_is_told_once_and_only_where_it_was_asked_for() {
        for state in
            [State::Pending, State::Approved, State::Declined, State::Voided, State::Cancelled]
        {
            let mut payment = in_state(state);
            assert_eq!(payment.give_back(&won(50_000)), None);
            assert_eq!((payment.state, payment.refunded), (state, won(0)));
        }
    }

    #[test]
    fn a_tombstone_has_cost_nothing() {
        let tombstone = Payment::tombstone(ORDER, Id::new(), "X", "XXX", mesh::now());
        assert_eq!((tombstone.state, tombstone.amount), (State::Voided, Money::new("XXX", 0)));
    }
}
