//! Both systems, a context a host, in a simulated world: its net, its clocks and its chance come from a seed, and the
//! same seed is the same run.
//!
//! A run has two halves. For five simulated seconds things go wrong; then everything heals, and within sixty more all
//! that was begun must have come to its end, with every invariant intact.

mod check;
mod customer;
mod fault;
mod run;
mod story;
mod system;

pub use fault::{Fault, KINDS, Kind};
pub use run::{Run, run, run_with, shrink};
