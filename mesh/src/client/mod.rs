//! A channel to another context: local or remote, behind one type, with everything that keeps a callee's trouble from
//! becoming the caller's.
//!
//! A [`Channel`] goes where a generated client wants its transport. Unary calls pass through the stack in
//! [`edge`]; streams go straight to the transport, since who reads them resumes by itself. Within a process the
//! transport is a direct call; to other processes it chooses among all addresses of the callee ([`balance`]).

mod balance;
mod breaker;
mod bulkhead;
mod call;
mod deadline;
mod edge;
mod fallback;
mod forward;
mod guard;
mod resolve;
mod retry;
mod transport;

use http::header::HeaderName;

pub use breaker::{Breaker, BreakerSettings, BreakerState, Permit, Transitions};
pub use bulkhead::{Bulkhead, BulkheadLayer};
pub use call::{Call, Failure, Reply};
pub use deadline::{Deadline, DeadlineLayer};
pub(crate) use edge::Edge;
pub use edge::{Channel, EdgeSettings, NotServed, is_certainly_not_sent};
pub use fallback::{busy_reason, fallback};
pub(crate) use forward::Forward;
pub use guard::{BreakerLayer, Breakers, Guarded};
pub use resolve::{BadEndpoint, Scheme, check_endpoint};
pub use retry::{Retry, RetryLayer};
pub(crate) use transport::Transport;

/// Names who sends a call again where that can help: nobody further down does, too (trap T-18).
pub(crate) const RETRY_OWNER: HeaderName = HeaderName::from_static("turnstile-retry-owner");
/// Says with a refusal that nothing of the call was begun, since the process stops: another one may do it.
pub(crate) const STOPPING: &str = "turnstile-stopping";
