//! What a caller says when its callee does not answer (rule G-12).

use std::time::Duration;

use tonic::Code;

use crate::error::Error;

/// When to come again, where the breaker does not say.
const LATER: Duration = Duration::from_secs(5);

/// The reason, named after the callee: `PAYMENT_BUSY`.
pub fn busy_reason(callee: &str) -> String {
    format!("{}_BUSY", short(callee).to_uppercase())
}

/// `UNAVAILABLE`, "payment is busy, try again later", with the time after which it may be worth it.
pub fn fallback(caller: &str, callee: &str, retry_after: Option<Duration>) -> Error {
    let message = format!("{} is busy, try again later", short(callee));
    Error::refused(caller, &busy_reason(callee), message)
        .code(Code::Unavailable)
        .retry_after(retry_after.unwrap_or(LATER))
}

/// A context's own word, without its system: `outerpark.musical` is `musical`.
fn short(context: &str) -> &str {
    context.rsplit('.').next().unwrap_or(context)
}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn g12_the_fallback_says_who_is_busy_and_when_to_come_again() {
        let status = Status::from(fallback("homemovie.app", "payment", None));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "payment is busy, try again later");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PAYMENT_BUSY", "homemovie.app"));
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(LATER));
        assert_eq!(busy_reason("outerpark.musical"), "MUSICAL_BUSY");
    }
}
