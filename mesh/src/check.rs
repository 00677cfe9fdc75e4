//! Reading a request: every bad field is found before anything is refused (rule G-13).
//!
//! Each reader gives something of the right type at once, so that the reading goes on; [`Check::finish`] then refuses
//! if any field was bad. Call it before the values are used.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use proto::Command;
use proto::common::v1 as api;
use uuid::Uuid;

use crate::error::{Error, Result, Violation};
use crate::events::read_revision;
use crate::id::{Collection, Id, canonical_uuid};
use crate::money::Money;
use crate::time::{micros, time_of};

/// 9999-12-31T23:59:59Z: the last second that a timestamp may name.
const LAST_SECOND: u64 = 253_402_300_799;

/// The bad fields found so far.
#[derive(Debug, Default)]
#[must_use = "finish() is what refuses"]
pub struct Check {
    violations: Vec<Violation>,
}

impl Check {
    /// For a request that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a request that changes state: its `request_id` must be a UUID.
    pub fn command(command: &impl Command) -> Self {
        let mut check = Self::new();
        if canonical_uuid(&command.request_id().to_lowercase()).is_none() {
            check.bad("request_id", "must be a UUID");
        }
        check
    }

    /// Notes a bad field.
    pub fn bad(&mut self, field: &str, description: impl ToString) {
        self.violations
            .push(Violation { field: field.to_owned(), description: description.to_string() });
    }

    /// The resource name of a member of `C`.
    pub fn id<C: Collection>(&mut self, field: &str, value: &str) -> Id<C> {
        value.parse().unwrap_or_else(|error| {
            self.bad(field, error);
            Id::of(Uuid::nil())
        })
    }

    /// The resource name of an order of any system: `{collection}/{uuid}`.
    pub fn any_name(&mut self, field: &str, value: &str) -> String {
        let good = value.split_once('/').is_some_and(|(collection, uuid)| {
            (1..=40).contains(&collection.len())
                && collection.bytes().all(|b| b.is_ascii_alphabetic())
                && canonical_uuid(uuid).is_some()
        });
        if !good {
            self.bad(field, "must have the format {collection}/{uuid}");
        }
        value.to_owned()
    }

    /// A text of so many characters, none of them a control character.
    pub fn text(&mut self, field: &str, value: &str, length: RangeInclusive<usize>) -> String {
        if !length.contains(&value.chars().count()) {
            self.bad(
                field,
                format_args!("must have {} to {} characters", length.start(), length.end()),
            );
        } else if value.chars().any(char::is_control) {
            self.bad(field, "must not have control characters");
        }
        value.to_owned()
    }

    /// A number within a range.
    pub fn count(&mut self, field: &str, value: i32, range: RangeInclusive<i32>) -> i32 {
        if !range.contains(&value) {
            self.bad(field, format_args!("must be {} to {}", range.start(), range.end()));
        }
        value
    }

    /// A price: a known shape of currency and more than nothing.
    pub fn price(&mut self, field: &str, value: Option<&api::Money>) -> Money {
        let money = self.money(field, value);
        if value.is_some() && money.minor_units == 0 {
            self.bad(&format!("{field}.minor_units"), "must be more than 0");
        }
        money
    }

    /// An amount of money; nothing is an amount, too, a debt is not.
    pub fn money(&mut self, field: &str, value: Option<&api::Money>) -> Money {
        let Some(value) = value else {
            self.bad(field, "is required");
            return Money::new("XXX", 0);
        };
        if value.currency_code.len() != 3
            || !value.currency_code.bytes().all(|b| b.is_ascii_uppercase())
        {
            self.bad(
                &format!("{field}.currency_code"),
                "must be an ISO 4217 code of three capital letters",
            );
        }
        // Sums of many amounts stay far from overflow.
        if value.minor_units < 0 || value.minor_units > 1_000_000_000_000 {
            self.bad(&format!("{field}.minor_units"), "must be 0 to 1,000,000,000,000");
        }
        value.clone().into()
    }

    /// A time as a store keeps it: to the microsecond. None is not a bad one.
    pub fn time(&mut self, field: &str, value: Option<Timestamp>) -> Option<SystemTime> {
        let Timestamp { seconds, nanos } = value?;
        let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds <= LAST_SECOND);
        let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let Some((seconds, nanos)) = seconds.zip(nanos) else {
            self.bad(field, "must be a time of the years 1970 to 9999");
            return None;
        };
        Some(time_of(micros(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos))))
    }

    /// The revision that a client saw last, as [`crate::watch::follow`] takes it. Empty: none.
    pub fn revision(&mut self, field: &str, value: &str) -> String {
        if !value.is_empty() && read_revision(value).is_none() {
            self.bad(field, "must be a revision of this resource");
        }
        value.to_owned()
    }

    /// Whether no field was bad so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Refuses the request if any field was bad, naming them all.
    pub fn finish(self) -> Result<()> {
        if self.violations.is_empty() { Ok(()) } else { Err(Error::Invalid(self.violations)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Accounts;

    #[test]
    fn all_bad_fields_are_found_at_once() {
        let mut check = Check::new();
        check.id::<Accounts>("customer", "movies/1");
        check.text("title", "", 1..=10);
        check.text("note", "a\nb", 0..=10);
        check
            .price("price", Some(&api::Money { currency_code: "won".to_owned(), minor_units: -1 }));
        check.price("fee", None);
        check.any_name("order", "orders/../1");
        check.revision("resume_revision", "orders/1");
        let Err(Error::Invalid(violations)) = check.finish() else { panic!("accepted") };
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        let expected = [
            "customer",
            "title",
            "note",
            "price.currency_code",
            "price.minor_units",
            "fee",
            "order",
            "resume_revision",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn good_fields_pass() {
        let id = Id::<Accounts>::new();
        let mut check = Check::new();
        assert_eq!(check.id::<Accounts>("customer", &id.to_string()), id);
        assert_eq!(check.any_name("order", &id.to_string()), id.to_string());
        check.revision("resume_revision", "");
        check.revision("resume_revision", &format!("{id}@7"));
        check.price(
            "price",
            Some(&api::Money { currency_code: "KRW".to_owned(), minor_units: 50_000 }),
        );
        assert!(check.finish().is_ok());
    }

    fn read_time(seconds: i64, nanos: i32) -> Option<SystemTime> {
        let mut check = Check::new();
        let time = check.time("time", Some(Timestamp { seconds, nanos }));
        assert_eq!(check.finish().is_ok(), time.is_some());
        time
    }

    #[test]
    fn a_time_is_read_to_the_microsecond() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_micros(1_999_999);
        assert_eq!(read_time(1, 999_999_999), Some(expected));
        assert_eq!(read_time(0, 0), Some(SystemTime::UNIX_EPOCH));
        assert!(read_time(253_402_300_799, 0).is_some());
        assert_eq!(Check::new().time("time", None), None);
    }

    #[test]
    fn what_is_no_time_of_the_years_1970_to_9999_is_refused() {
        for (seconds, nanos) in
            [(-1, 0), (253_402_300_800, 0), (i64::MAX, 0), (1, -1), (1, 1_000_000_000)]
        {
            assert_eq!(read_time(seconds, nanos), None, "{seconds}.{nanos}");
        }
    }
}
