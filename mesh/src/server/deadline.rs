//! How long a call may take: what the client asks for, but no longer than the contract allows (trap T-30).

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use crate::contract::Rule;

/// How long a stream may take to begin: its request must be there by then. How long it is open is its own matter.
pub(super) const OPENING: Duration = Duration::from_secs(5);

/// So long before the client stops listening a call from outside is answered. tonic watches the same time, began to
/// watch a little earlier, and would say CANCELLED (trap T-26); its timers and ours go by the millisecond.
pub(super) const HEAD_START: Duration = Duration::from_millis(2);

/// When a call that came in at `begun` must be answered, so long before the client stops listening; for a stream, when it
/// must have begun.
pub(super) fn deadline_of(
    rule: &Rule,
    headers: &HeaderMap,
    begun: Instant,
    head_start: Duration,
) -> Instant {
    let most = rule.deadline.unwrap_or(OPENING);
    begun + asked(headers).map_or(most, |asked| asked.saturating_sub(head_start).min(most))
}

/// When the client stops listening to a stream, where it says so.
pub(super) fn end_of(headers: &HeaderMap, begun: Instant) -> Option<Instant> {
    asked(headers).and_then(|asked| begun.checked_add(asked))
}

fn asked(headers: &HeaderMap) -> Option<Duration> {
    headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(read_timeout)
}

/// `grpc-timeout`: up to eight digits and a unit.
fn read_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Contract;

    #[test]
    fn the_clients_deadline_counts_but_is_capped() {
        let contract = Contract::ours().unwrap();
        let pay = contract.rule("/turnstile.payment.v1.PaymentService/Pay").unwrap();
        let subscribe = contract.rule("/turnstile.mesh.v1.EventService/Subscribe").unwrap();
        let begun = Instant::now();
        let ask = |rule: &Rule, text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline_of(rule, &headers, begun, Duration::ZERO) - begun
        };
        let most = pay.deadline.unwrap();
        assert_eq!(ask(pay, "200m"), Duration::from_millis(200));
        assert_eq!(ask(pay, "0S"), Duration::ZERO);
        for too_long in ["1H", "99999999H", "rubbish", "999999999S", "+1S", "-1S", "", "S", "1"] {
            assert_eq!(ask(pay, too_long), most, "{too_long}");
        }
        let without = |head_start| deadline_of(pay, &HeaderMap::new(), begun, head_start) - begun;
        assert_eq!((without(Duration::ZERO), without(HEAD_START)), (most, most));
        let mut soon = HeaderMap::new();
        for (text, left) in [("200m", 198), ("1m", 0)] {
            soon.insert("grpc-timeout", text.parse().unwrap());
            let left = Duration::from_millis(left);
            assert_eq!(deadline_of(pay, &soon, begun, HEAD_START) - begun, left, "{text}");
        }
        assert_eq!(ask(subscribe, "1H"), OPENING);
        assert_eq!(end_of(&HeaderMap::new(), begun), None);
    }
}
