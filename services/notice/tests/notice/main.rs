//! Notice through its front door: what it answers, what it tells, and what reaches a mail server and a webhook.

mod access;
mod http_server;
mod identity;
mod mail;
mod smtp_server;
mod support;
mod tell;
mod watch;
mod webhook;
