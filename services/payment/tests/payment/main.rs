//! Payment through its front door: what it answers, what it tells, and what the provider's own books say.

mod cancel;
mod crash;
mod pay;
mod see;
mod support;
