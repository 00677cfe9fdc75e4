//! The kit that every context of Turnstile stands on. It knows no context's words.
//!
//! A context is a value ([`Context`]): a name, tables, and a function that wires a store ([`Store`]), services,
//! policies ([`whenever`], [`calling`]) and sagas ([`CallThenRegister`]). A process ([`Mesh`]) serves one or many of
//! them. Who may call what, what may be retried and how long it may take stands in the contracts ([`contract`]).

#[macro_use]
mod step;

mod admin;
pub mod auth;
pub mod backup;
mod caller;
mod cause;
#[cfg(feature = "chaos")]
pub mod chaos;
mod check;
pub mod client;
pub mod config;
mod context;
pub mod contract;
mod error;
pub mod events;
mod gathered;
mod id;
mod log_service;
mod money;
mod net;
mod operations;
mod partition;
mod planted;
mod process;
mod random;
mod rate;
mod registry;
mod replicas;
mod saga;
pub mod scope;
mod server;
pub mod simulate;
mod store;
mod tasks;
pub mod telemetry;
mod time;
pub mod tls;
pub mod watch;
mod watchers;
#[cfg(feature = "chaos")]
pub mod world;

pub use admin::AdminPort;
pub use caller::Caller;
pub use cause::Cause;
pub use check::Check;
pub use context::{Context, Kit, Wiring};
pub use error::{Error, Refused, Result, Violation, reason_of, retry_delay_of};
pub use events::{Event, Policy, View, calling, revision, whenever};
pub use id::{Accounts, BadName, Collection, Id, request_id_of, uuid};
pub use money::Money;
pub use planted::{Bug, planted};
pub use process::{Mesh, StartError};
pub use random::{Chance, rng};
pub use rate::{RateLimit, network_of};
pub use registry::Options;
pub use saga::{CallThenRegister, Saga};
pub use server::{GeneratedService, Limits, Listening};
pub use store::{
    Conn, Insert, Literal, Migrations, OpenError, Page, Schema, Series, Store, StoreAt, Stores, Tx,
    Update, insert, insert_once, literal, update,
};
pub use time::{micros, now, time_of};
pub use watchers::{Watcher, Watchers};
