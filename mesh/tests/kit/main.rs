//! The kit as its contexts see it: whole processes with stand-ins for contexts.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod admin;
mod backup;
mod balance;
mod calling;
mod edges;
mod events;
mod front;
mod gate;
mod parking;
mod postgres;
mod remote;
mod saga;
mod stand_in;
mod tls;
mod trace;
mod trim;
mod view;
mod watch;
