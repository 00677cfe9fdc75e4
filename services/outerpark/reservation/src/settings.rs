//! What can be set.

use std::time::Duration;

/// The settings of the context.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long seats are held for their payment. `TURNSTILE_RESERVATION_HOLD_SECONDS`, default 900.
    pub hold: Duration,
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
            fee_percent: 0,
            fee_free: Duration::ZERO,
            quote: Duration::from_secs(600),
        }
    }
}

impl Settings {
    /// Reads them; what is wrong is noted there.
    pub fn read(settings: &mut mesh::config::Settings) -> Self {
        let default = Self::default();
        let hold = settings.read("TURNSTILE_RESERVATION_HOLD_SECONDS", default.hold.as_secs());
        if !(1..=86_400).contains(&hold) {
            settings.fault("TURNSTILE_RESERVATION_HOLD_SECONDS", "must be 1 to 86400 seconds");
        }
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
            fee_percent: fee_percent.min(100),
            fee_free: Duration::from_secs(u64::from(fee_free) * 3600),
            quote: Duration::from_secs(quote),
        }
    }
}
