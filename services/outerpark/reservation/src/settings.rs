//! What can be set.

use std::time::Duration;

use crate::domain::{FeePolicy, HoldPolicy};

/// The settings of the context.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long seats are held for their payment. `TURNSTILE_RESERVATION_HOLD_SECONDS`, default 900.
    pub hold: Duration,
    /// How many seats of one performance a customer may hold that are not paid yet. `TURNSTILE_RESERVATION_MAX_HELD`,
    /// default 1000, as many as one call may ask for; 0 is no limit.
    pub max_held: u32,
    /// What is kept of a paid reservation that is cancelled, in percent. `TURNSTILE_RESERVATION_FEE_PERCENT`,
    /// default 0.
    pub fee_percent: u8,
    /// A cancellation so long before the performance costs nothing. `TURNSTILE_RESERVATION_FEE_FREE_HOURS`, default 0:
    /// every cancellation costs the fee.
    pub fee_free: Duration,
    /// How long a quote holds. `TURNSTILE_RESERVATION_QUOTE_SECONDS`, default 600.
    pub quote: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(900),
            max_held: 1000,
            fee_percent: 0,
            fee_free: Duration::ZERO,
            quote: Duration::from_secs(600),
        }
    }
}

impl Settings {
    pub(crate) fn holds(&self) -> HoldPolicy {
        HoldPolicy { time: self.hold, most: self.max_held.into() }
    }

    pub(crate) fn fee(&self) -> FeePolicy {
        FeePolicy { percent: self.fee_percent, free: self.fee_free, quote: self.quote }
    }

    /// Reads them; what is wrong is noted there.
    pub fn read(settings: &mut mesh::config::Settings) -> Self {
        let default = Self::default();
        let hold = settings.read("TURNSTILE_RESERVATION_HOLD_SECONDS", default.hold.as_secs());
        if !(1..=86_400).contains(&hold) {
            settings.fault("TURNSTILE_RESERVATION_HOLD_SECONDS", "must be 1 to 86400 seconds");
        }
        let max_held = settings.read("TURNSTILE_RESERVATION_MAX_HELD", default.max_held);
        let fee_percent = settings.read("TURNSTILE_RESERVATION_FEE_PERCENT", default.fee_percent);
        if fee_percent > 100 {
            settings.fault("TURNSTILE_RESERVATION_FEE_PERCENT", "must be 0 to 100");
        }
        let fee_free = settings.read("TURNSTILE_RESERVATION_FEE_FREE_HOURS", 0_u32);
        let quote = settings.read("TURNSTILE_RESERVATION_QUOTE_SECONDS", default.quote.as_secs());
        if !(1..=86_400).contains(&quote) {
            settings.fault("TURNSTILE_RESERVATION_QUOTE_SECONDS", "must be 1 to 86400 seconds");
        }
        Self {
            hold: Duration::from_secs(hold),
            max_held,
            fee_percent: fee_percent.min(100),
            fee_free: Duration::from_secs(u64::from(fee_free) * 3600),
            quote: Duration::from_secs(quote),
        }
    }
}
