//! The inbox, live: what is there, then what comes. The log wakes whom it concerns.

use std::time::Duration;

use futures::Stream;
use mesh::watch::{HEARTBEAT, ending};
use mesh::{Store, Watchers};
use proto::notice::v1 as api;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::store;

/// How long after one look the next may follow: what comes meanwhile is taken together.
const BREATH: Duration = Duration::from_millis(20);
/// How many notices a stream begins with.
const FIRST: i64 = 50;
/// How many notices one message of a stream has at the most.
const CHUNK: i64 = 100;

/// What came into this customer's inbox since the number `seen`, or the last that did; then whatever comes, for as
/// long as the context runs.
pub(crate) fn inbox(
    store: Store,
    inboxes: Watchers<()>,
    stopping: CancellationToken,
    recipient: String,
    seen: Option<i64>,
) -> impl Stream<Item = Result<api::WatchNoticesResponse, Status>> + Send {
    async_stream::try_stream! {
        let mut inbox = inboxes.watch(&recipient);
        let mut seen = seen;
        let mut told: Option<Instant> = None;
        loop {
            let looked = Instant::now();
            let (whose, since) = (recipient.clone(), seen);
            let notices = store
                .read(move |conn| match since {
                    Some(since) => store::behind(conn, &whose, since, CHUNK),
                    None => store::last(conn, &whose, FIRST),
                })
                .await?;
            let is_chunk = i64::try_from(notices.len()).is_ok_and(|count| count == CHUNK);
            let last = notices.last().map(|notice| notice.sequence);
            let mark = last.or(seen).unwrap_or(0);
            seen = Some(mark);
            let is_silent = told.is_none_or(|at| at.elapsed() >= HEARTBEAT);
            if !notices.is_empty() || is_silent {
                let notices = notices.into_iter().map(Into::into).collect();
                yield api::WatchNoticesResponse { notices, resume_token: mark.to_string() };
                told = Some(Instant::now());
            }
            if is_chunk {
                continue;
            }
            let is_woken = tokio::select! {
                () = stopping.cancelled() => Err(ending()),
                news = inbox.next() => Ok(news.is_some()),
                () = sleep_until(told.unwrap_or(looked) + HEARTBEAT) => Ok(true),
            };
            if !is_woken? {
                inbox = inboxes.watch(&recipient);
            }
            sleep_until(looked + BREATH).await;
        }
    }
}
