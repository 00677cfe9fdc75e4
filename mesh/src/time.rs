//! What time it is, and times as stores keep them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What time it is: by the clock of this machine, or by the simulation's where a test runs in one.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn now() -> SystemTime {
    #[cfg(feature = "chaos")]
    if let Some(now) = crate::world::now() {
        return now;
    }
    SystemTime::now()
}

/// Microseconds since 1970, UTC: how times are kept in every store.
pub fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The time that `micros` stands for.
pub fn time_of(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
