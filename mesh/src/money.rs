//! Money, exact (rule G-8).

use std::fmt;

use proto::common::v1 as api;

/// An amount in a currency's smallest unit: 50,000 won is `KRW` 50000, 12.34 euro is `EUR` 1234.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    /// ISO 4217, three capital letters.
    pub currency: String,
    /// In the smallest unit of the currency.
    pub minor_units: i64,
}

impl Money {
    /// An amount of a currency.
    pub fn new(currency: &str, minor_units: i64) -> Self {
        Self { currency: currency.to_owned(), minor_units }
    }

    /// Nothing of the same currency.
    #[must_use]
    pub fn zero(&self) -> Self {
        Self::new(&self.currency, 0)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.currency, self.minor_units)
    }
}

impl From<Money> for api::Money {
    fn from(money: Money) -> Self {
        Self { currency_code: money.currency, minor_units: money.minor_units }
    }
}

impl From<&Money> for api::Money {
    fn from(money: &Money) -> Self {
        money.clone().into()
    }
}

impl From<api::Money> for Money {
    fn from(money: api::Money) -> Self {
        Self { currency: money.currency_code, minor_units: money.minor_units }
    }
}
