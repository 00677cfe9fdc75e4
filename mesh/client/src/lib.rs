//! What a client of a running system needs beside the generated code: streams that go on where they were broken off,
//! and a connection that stays signed in.
//!
//! It depends on the contracts and on tonic, and on nothing of the kit.

mod session;
mod watch;

pub use session::{SignInError, SignedIn};
pub use watch::{News, follow, latest};
