//! Performances and seats through their front door: what is answered, what is told, and what the tables say.

mod access;
mod catalogue;
mod chance;
mod load;
mod seats;
mod support;
mod watch;
