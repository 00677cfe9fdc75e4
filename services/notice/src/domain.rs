//! What customers are told, and what comes of telling them: rules without a database, a clock or a network.

use std::time::{Duration, SystemTime};

use mesh::{Accounts, Collection, Id};

/// `notices`: one for each order, kind and medium.
#[derive(Debug)]
pub(crate) enum Notices {}

impl Collection for Notices {
    const NAME: &'static str = "notices";
}

/// How a notice reaches the customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Inbox,
    Email,
    Webhook,
}

impl Medium {
    const ALL: [Self; 3] = [Self::Inbox, Self::Email, Self::Webhook];

    /// The word for it in the store.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Inbox => "INBOX",
            Self::Email => "EMAIL",
            Self::Webhook => "WEBHOOK",
        }
    }

    /// The medium that this word stands for.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|medium| medium.word() == word)
    }
}

/// Where a notice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    Sent,
    Failed,
}

impl State {
    const ALL: [Self; 3] = [Self::Queued, Self::Sent, Self::Failed];

    /// The word for it in the store.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Sent => "SENT",
            Self::Failed => "FAILED",
        }
    }

    /// The state that this word stands for.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// What is told of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Confirmed,
    Declined,
    Cancelled,
    Expired,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::Confirmed, Self::Declined, Self::Cancelled, Self::Expired];

    /// The word for it in the contract and in the store.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The kind that this word stands for.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// What a customer is told things in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Language {
    #[default]
    English,
    Korean,
}

impl Language {
    const ALL: [Self; 2] = [Self::English, Self::Korean];

    /// Its code: ISO 639.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    /// The language that this code stands for.
    pub(crate) fn of(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.code() == code)
    }
}

/// Something to tell, whatever the medium.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) recipient: Id<Accounts>,
    pub(crate) order: String,
    pub(crate) kind: Kind,
    pub(crate) language: Language,
    pub(crate) text: String,
}

/// A message on its way over one medium.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    pub(crate) id: Id<Notices>,
    pub(crate) message: Message,
    pub(crate) medium: Medium,
    pub(crate) state: State,
    pub(crate) attempts: u32,
    /// While it is queued: not before.
    pub(crate) next_attempt: SystemTime,
    /// In our own words: what others answer may have an address in it.
    pub(crate) last_failure: String,
    pub(crate) created: SystemTime,
    /// Where it stands in what was told at all; the same over all media.
    pub(crate) sequence: i64,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Sent,
    /// Worth another attempt.
    Failed(String),
    /// No other attempt would do better.
    Refused(String),
    /// It came to no attempt: what is needed for one is not there now.
    Postponed(String),
}

/// How often a notice is tried, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retries {
    /// The most attempts.
    pub(crate) attempts: u32,
    /// The wait after the first attempt in vain; it doubles up to the longest.
    pub(crate) backoff: Duration,
    pub(crate) longest_backoff: Duration,
    /// How long an attempt may take.
    pub(crate) timeout: Duration,
}

impl Retries {
    /// How long to wait after so many attempts in vain.
    fn wait(&self, attempts: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        self.backoff.saturating_mul(doubled).min(self.longest_backoff)
    }

    /// How long to wait for what an attempt needs.
    fn postponement(&self) -> Duration {
        self.backoff.saturating_mul(5).min(self.longest_backoff)
    }

    /// After so long an attempt has ended, or whoever made it has died.
    fn lease(&self) -> Duration {
        self.timeout.saturating_mul(2)
    }
}

impl Notice {
    /// Tells it in the inbox, where it is at once.
    pub(crate) fn inbox(message: Message, sequence: i64, now: SystemTime) -> Self {
        let queued = Self::queued(message, Medium::Inbox, sequence, now);
        Self { state: State::Sent, attempts: 1, ..queued }
    }

    /// Is to be sent over a medium that may need several attempts.
    pub(crate) fn queued(message: Message, medium: Medium, sequence: i64, now: SystemTime) -> Self {
        Self {
            id: Id::new(),
            message,
            medium,
            state: State::Queued,
            attempts: 0,
            next_attempt: now,
            last_failure: String::new(),
            created: now,
            sequence,
        }
    }

    /// Begins an attempt: says whether there is one left. It counts before it is made, so that one which brings the
    /// process down counts, too.
    pub(crate) fn begin(&mut self, now: SystemTime, retries: &Retries) -> bool {
        if self.attempts >= retries.attempts {
            self.state = State::Failed;
            return false;
        }
        self.attempts += 1;
        self.next_attempt = now + retries.lease();
        "the attempt broke off".clone_into(&mut self.last_failure);
        true
    }

    /// Takes what came of an attempt, by its number. What is settled stays so, and a failure that is told when the next
    /// attempt has begun is old news.
    pub(crate) fn settle(
        &mut self,
        attempt: u32,
        outcome: Outcome,
        now: SystemTime,
        retries: &Retries,
    ) {
        if self.state != State::Queued || (outcome != Outcome::Sent && self.attempts != attempt) {
            return;
        }
        match outcome {
            Outcome::Sent => {
                self.state = State::Sent;
                self.last_failure.clear();
            }
            Outcome::Failed(why) => {
                self.last_failure = why;
                if self.attempts >= retries.attempts {
                    self.state = State::Failed;
                } else {
                    self.next_attempt = now + retries.wait(self.attempts);
                }
            }
            Outcome::Refused(why) => {
                self.last_failure = why;
                self.state = State::Failed;
            }
            Outcome::Postponed(why) => {
                self.last_failure = why;
                self.attempts = self.attempts.saturating_sub(1);
                self.next_attempt = now + retries.postponement();
            }
        }
    }
}

/// Why notice says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("there is no text for the kind {0}")]
    KindUnknown(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRIES: Retries = Retries {
        attempts: 3,
        backoff: Duration::from_secs(1),
        longest_backoff: Duration::from_secs(300),
        timeout: Duration::from_secs(10),
    };

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn message() -> Message {
        Message {
            recipient: Id::new(),
            order: "orders/1".to_owned(),
            kind: Kind::Confirmed,
            language: Language::English,
            text: "Your booking is confirmed.".to_owned(),
        }
    }

    fn mail() -> Notice {
        Notice::queued(message(), Medium::Email, 7, now())
    }

    fn failed() -> Outcome {
        Outcome::Failed("no".to_owned())
    }

    #[test]
    fn what_is_in_the_inbox_was_sent() {
        let notice = Notice::inbox(message(), 7, now());
        assert_eq!((notice.medium, notice.state), (Medium::Inbox, State::Sent));
        assert_eq!((notice.attempts, notice.sequence), (1, 7));
    }

    #[test]
    fn an_attempt_counts_before_it_is_made_and_is_given_up_when_it_must_be_over() {
        let mut notice = mail();
        assert!(notice.begin(now(), &RETRIES));
        assert_eq!((notice.attempts, notice.state), (1, State::Queued));
        assert_eq!(notice.next_attempt, now() + Duration::from_secs(20));
    }

    #[test]
    fn the_wait_doubles_up_to_the_longest() {
        let waits = [1, 2, 3, 9, 10, u32::MAX].map(|attempts| RETRIES.wait(attempts).as_secs());
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn the_last_attempt_in_vain_is_the_end() {
        let mut notice = mail();
        for (attempt, state) in [(1, State::Queued), (2, State::Queued), (3, State::Failed)] {
            assert!(notice.begin(now(), &RETRIES));
            notice.settle(attempt, failed(), now(), &RETRIES);
            assert_eq!((notice.attempts, notice.state), (attempt, state));
        }
        assert_eq!(notice.last_failure, "no");
    }

    #[test]
    fn attempts_that_broke_off_are_used_up() {
        let mut notice = mail();
        let begun = (0..5).filter(|_| notice.begin(now(), &RETRIES)).count();
        assert_eq!((begun, notice.state, notice.attempts), (3, State::Failed, 3));
        assert_eq!(notice.last_failure, "the attempt broke off");
    }

    #[test]
    fn what_nobody_would_take_is_not_tried_again() {
        let mut notice = mail();
        notice.begin(now(), &RETRIES);
        notice.settle(1, Outcome::Refused("nobody".to_owned()), now(), &RETRIES);
        assert_eq!((notice.state, notice.last_failure.as_str()), (State::Failed, "nobody"));
    }

    #[test]
    fn g19_waiting_for_another_context_uses_up_no_attempt() {
        let mut notice = mail();
        for _ in 0..100 {
            assert!(notice.begin(now(), &RETRIES));
            notice.settle(1, Outcome::Postponed("later".to_owned()), now(), &RETRIES);
        }
        assert_eq!((notice.state, notice.attempts), (State::Queued, 0));
        assert_eq!(notice.next_attempt, now() + Duration::from_secs(5));
    }

    #[test]
    fn old_news_of_a_failure_is_not_taken_but_of_a_success_it_is() {
        let mut notice = mail();
        notice.begin(now(), &RETRIES);
        notice.begin(now(), &RETRIES);
        let before = notice.next_attempt;
        notice.settle(1, failed(), now(), &RETRIES);
        assert_eq!((notice.next_attempt, notice.attempts), (before, 2));
        notice.settle(1, Outcome::Sent, now(), &RETRIES);
        assert_eq!((notice.state, notice.last_failure.as_str()), (State::Sent, ""));
        notice.settle(2, failed(), now(), &RETRIES);
        assert_eq!(notice.state, State::Sent);
    }

    #[test]
    fn every_word_reads_back() {
        for medium in Medium::ALL {
            assert_eq!(Medium::of(medium.word()), Some(medium));
        }
        for state in State::ALL {
            assert_eq!(State::of(state.word()), Some(state));
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.word()), Some(kind));
        }
        for language in Language::ALL {
            assert_eq!(Language::of(language.code()), Some(language));
        }
        assert_eq!(Kind::of("Confirmed"), None);
    }
}
