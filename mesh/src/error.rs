//! One vocabulary of failure: what a handler returns, and the one place where it becomes a gRPC status.
//!
//! A handler writes `?`. The message goes to the caller; the cause of an [`Error::Internal`] goes to the log, once.

use std::collections::HashMap;
use std::time::Duration;

use proto::mesh::v1::ErrorReason;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{client, telemetry};

/// What a fallible function of the kit or of a context returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How many bytes of a message a caller gets.
const LONGEST_MESSAGE: usize = 1000;

/// What a process is that takes nothing on any more.
const STOPPING: &str = "stopping";

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why something was not done, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is wrong; every bad field is named. The caller fixes it.
    #[error("the request is not valid: {}", list(.0))]
    Invalid(Vec<Violation>),
    /// There is no such resource, or it is somebody else's.
    #[error("{0} was not found")]
    NotFound(String),
    /// The caller's role does not allow it.
    #[error("{0} is not allowed")]
    Forbidden(String),
    /// A rule of the business speaks against it.
    #[error(transparent)]
    Refused(Box<Refused>),
    /// The `request_id` was used before, with other content.
    #[error("request_id {0} was used before, with other content")]
    Reused(String),
    /// A request with this `request_id` is still being worked on.
    #[error("this request is still being worked on")]
    StillRunning,
    /// No token, or one that is not valid.
    #[error("sign in first: the token is missing or not valid")]
    Unauthenticated,
    /// Over a limit.
    #[error("{what}: too much at once, try again later")]
    Busy {
        /// What is limited.
        what: String,
        /// When to come again.
        retry_after: Duration,
    },
    /// Somebody else changed it meanwhile.
    #[error("{0} was changed meanwhile")]
    Changed(String),
    /// Something this needs is down or overloaded.
    #[error("{what} is not available, try again later")]
    Unavailable {
        /// What is down.
        what: String,
        /// When to come again.
        retry_after: Duration,
    },
    /// This process takes on no more for now. Nothing of the call was begun.
    #[error("this process is {why}, try again later")]
    TurnedAway {
        /// What it is instead: overloaded, stopping.
        why: &'static str,
        /// When to come again.
        retry_after: Duration,
    },
    /// A message has more bytes than are taken.
    #[error("a message may have {0} bytes at the most")]
    TooLarge(usize),
    /// The time for this has passed. What was begun has been rolled back or will be undone.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// There is no such method here.
    #[error("{0} is not implemented here")]
    Unimplemented(String),
    /// What another context answered.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    /// Our mistake.
    #[error("internal error")]
    Internal(#[source] Cause),
}

/// A bad field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path: `price.currency_code`.
    pub field: String,
    /// What it should be.
    pub description: String,
}

fn list(violations: &[Violation]) -> String {
    let fields: Vec<_> =
        violations.iter().map(|v| format!("{} {}", v.field, v.description)).collect();
    fields.join("; ")
}

/// A refusal with a name: a program matches `reason`, a person reads `message`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    code: Code,
    domain: String,
    reason: String,
    message: String,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
}

impl Error {
    /// A refusal of the context `domain`, for the reason named in its contract (`ErrorReason::as_str_name`).
    /// `FAILED_PRECONDITION` unless [`Error::code`] says otherwise.
    pub fn refused(domain: &str, reason: &str, message: impl ToString) -> Self {
        Self::Refused(Box::new(Refused {
            code: Code::FailedPrecondition,
            domain: domain.to_owned(),
            reason: reason.trim_start_matches("ERROR_REASON_").to_owned(),
            message: message.to_string(),
            metadata: HashMap::new(),
            retry_after: None,
        }))
    }

    /// Adds a fact to a refusal, for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        if let Self::Refused(refused) = &mut self {
            refused.metadata.insert(key.to_owned(), value.to_string());
        }
        self
    }

    /// Gives a refusal another code than `FAILED_PRECONDITION`.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        if let Self::Refused(refused) = &mut self {
            refused.code = code;
        }
        self
    }

    /// Says when a refused caller may come again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        if let Self::Refused(refused) = &mut self {
            refused.retry_after = Some(wait);
        }
        self
    }

    /// One bad field.
    pub fn invalid(field: &str, description: impl ToString) -> Self {
        Self::Invalid(vec![Violation {
            field: field.to_owned(),
            description: description.to_string(),
        }])
    }

    /// Something this needs is down; come again in a second.
    pub fn unavailable(what: impl ToString) -> Self {
        Self::Unavailable { what: what.to_string(), retry_after: Duration::from_secs(1) }
    }

    /// More is under way than this process can do; come again in a second.
    pub(crate) fn overloaded() -> Self {
        Self::TurnedAway { why: "overloaded", retry_after: Duration::from_secs(1) }
    }

    /// This process is about to stop; come again in a second, and find another or the next.
    pub(crate) fn stopping() -> Self {
        Self::TurnedAway { why: STOPPING, retry_after: Duration::from_secs(1) }
    }

    /// Our mistake, with its cause for the log.
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal(cause.into())
    }

    /// Whether waiting and trying again can help (rule G-19): `UNAVAILABLE`, `DEADLINE_EXCEEDED`, `ABORTED`.
    pub fn is_passing(&self) -> bool {
        let code = match self {
            Self::Status(status) => status.code(),
            Self::Refused(refused) => refused.code,
            Self::StillRunning
            | Self::Changed(_)
            | Self::Unavailable { .. }
            | Self::TurnedAway { .. }
            | Self::DeadlineExceeded => {
                return true;
            }
            _ => return false,
        };
        matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted)
    }

    /// The name of the refusal, without a prefix, where another context or this one refused.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Refused(refused) => Some(refused.reason.clone()),
            Self::Status(status) => reason_of(status),
            _ => None,
        }
    }
}

/// `ErrorInfo.reason` of a status.
pub fn reason_of(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// `RetryInfo.retry_delay` of a status.
pub fn retry_delay_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        Self::internal(error)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = shortened(error.to_string());
        let mut details = ErrorDetails::new();
        let mut headers = MetadataMap::new();
        let (code, reason) = match &error {
            Error::Invalid(violations) => {
                for violation in violations {
                    details.add_bad_request_violation(&violation.field, &violation.description);
                }
                (Code::InvalidArgument, ErrorReason::Invalid)
            }
            Error::NotFound(name) => {
                details.set_resource_info("", shortened(name.clone()), "", "");
                (Code::NotFound, ErrorReason::NotFound)
            }
            Error::Forbidden(_) => (Code::PermissionDenied, ErrorReason::Forbidden),
            Error::Refused(refused) => {
                details.set_error_info(&refused.reason, &refused.domain, refused.metadata.clone());
                if let Some(wait) = refused.retry_after {
                    details.set_retry_info(Some(wait));
                }
                return Self::with_error_details(refused.code, message, details);
            }
            Error::Reused(_) => (Code::AlreadyExists, ErrorReason::RequestIdReused),
            Error::StillRunning => {
                details.set_retry_info(Some(Duration::from_millis(100)));
                (Code::Aborted, ErrorReason::StillRunning)
            }
            Error::Unauthenticated => (Code::Unauthenticated, ErrorReason::Unauthenticated),
            Error::Busy { retry_after, .. } => {
                details.set_retry_info(Some(*retry_after));
                (Code::ResourceExhausted, ErrorReason::Busy)
            }
            Error::Changed(_) => (Code::Aborted, ErrorReason::Changed),
            Error::Unavailable { retry_after, .. } => {
                details.set_retry_info(Some(*retry_after));
                (Code::Unavailable, ErrorReason::Unavailable)
            }
            Error::TurnedAway { retry_after, why } => {
                details.set_retry_info(Some(*retry_after));
                push_back(&mut headers, *retry_after);
                if *why == STOPPING {
                    headers.insert(client::STOPPING, MetadataValue::from_static("1"));
                }
                (Code::Unavailable, ErrorReason::Unavailable)
            }
            Error::TooLarge(_) => (Code::ResourceExhausted, ErrorReason::TooLarge),
            Error::DeadlineExceeded => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded),
            Error::Unimplemented(_) => (Code::Unimplemented, ErrorReason::Unimplemented),
            Error::Status(_) => return pass_on(error),
            Error::Internal(cause) => {
                log_internal(cause.as_ref());
                (Code::Internal, ErrorReason::Internal)
            }
        };
        let mut metadata = HashMap::new();
        if let Error::Reused(request_id) = &error {
            metadata.insert("request_id".to_owned(), request_id.clone());
        }
        details.set_error_info(kit_reason(reason), "mesh", metadata);
        Self::with_error_details_and_metadata(code, message, details, headers)
    }
}

/// A message goes into a header: what a client said is not said back to it at any length.
fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}

/// Asks for a pause that also clients without our details understand (gRFC A6).
fn push_back(headers: &mut MetadataMap, wait: Duration) {
    if let Ok(millis) = u32::try_from(wait.as_millis()) {
        headers.insert("grpc-retry-pushback-ms", millis.into());
    }
}

/// A callee's refusal is the caller's answer, too; what is wrong *inside* the mesh stays inside.
fn pass_on(error: Error) -> Status {
    let Error::Status(status) = error else { unreachable!("only called for a status") };
    match status.code() {
        Code::Internal
        | Code::Unknown
        | Code::Cancelled
        | Code::DataLoss
        | Code::Ok
        | Code::PermissionDenied => Error::Internal(status).into(),
        _ => *status,
    }
}

fn kit_reason(reason: ErrorReason) -> String {
    reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned()
}

fn log_internal(cause: &(dyn std::error::Error + 'static)) {
    let mut chain = cause.to_string();
    let mut next = cause.source();
    while let Some(source) = next {
        chain.push_str(": ");
        chain.push_str(&source.to_string());
        next = source.source();
    }
    tracing::error!(rpc.method = telemetry::method(), cause = %chain, "a call failed because of a mistake of ours");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_reason_domain_and_facts() {
        let error = Error::refused("payment", ErrorReason::Busy.as_str_name(), "no")
            .with("order", "orders/1");
        let status = Status::from(error);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("BUSY", "payment"));
        assert_eq!(info.metadata["order"], "orders/1");
    }

    #[test]
    fn every_bad_field_is_named() {
        let violations = ["a", "b"]
            .map(|field| Violation { field: field.to_owned(), description: "bad".to_owned() });
        let status = Status::from(Error::Invalid(violations.to_vec()));
        let fields = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(fields.iter().map(|f| f.field.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn the_cause_of_an_internal_error_stays_inside() {
        let status = Status::from(Error::internal("SELECT * FROM /secret/path"));
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
        let passed_on = Status::from(Error::from(Status::new(Code::Unknown, "SELECT")));
        assert_eq!((passed_on.code(), passed_on.message()), (Code::Internal, "internal error"));
    }

    #[test]
    fn a_long_name_is_not_said_back() {
        let status = Status::from(Error::NotFound("\u{e9}".repeat(100_000)));
        let length = status.message().len() + status.details().len();
        assert!(status.message().ends_with("...") && length < 10_000, "{length}");
    }

    #[test]
    fn only_what_passes_by_itself_is_passing() {
        assert!(Error::unavailable("payment").is_passing());
        assert!(Error::from(Status::aborted("")).is_passing());
        assert!(!Error::from(Status::failed_precondition("")).is_passing());
        assert!(!Error::NotFound("x".to_owned()).is_passing());
    }
}
