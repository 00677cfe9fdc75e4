//! `Watch...` streams that go on by themselves (rule G-18).
//!
//! A stream ends for many reasons that are none of the client's: a restart, a broken connection, silence. [`follow`] and
//! [`latest`] open it again and go on where it was broken off; only a final state or a definite refusal is an end.

use std::future::Future;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

/// A stream that says nothing for so long is dead: three heartbeats.
const SILENCE: Duration = Duration::from_secs(45);
/// The wait before a stream is opened again is a random share of this; each time in vain it is twice as long.
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_AT_MOST: Duration = Duration::from_secs(5);

/// What a message of a stream tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// That the stream is alive.
    Heartbeat,
    /// A state, and its revision or token: where to go on after it.
    State(String),
    /// The last state, and its revision: nothing comes after it.
    Final(String),
}

/// Follows what has revisions: every state once, in order, until the final one.
///
/// `open` opens the stream after a revision that was seen (empty: none), `read` reads a message. An item that is an
/// error is a definite refusal, and the last.
pub fn follow<M, T, F>(
    open: impl FnMut(String) -> F,
    read: impl Fn(&M) -> News,
) -> impl Stream<Item = Result<M, Status>>
where
    F: Future<Output = Result<Response<T>, Status>>,
    T: Stream<Item = Result<M, Status>> + Unpin,
{
    go_on(open, Revisions { read, last: String::new() })
}

/// Follows a quantity: its value, and each value that differs from the one before. It does not end, except with a
/// definite refusal.
pub fn latest<M, T, F>(mut open: impl FnMut() -> F) -> impl Stream<Item = Result<M, Status>>
where
    F: Future<Output = Result<Response<T>, Status>>,
    T: Stream<Item = Result<M, Status>> + Unpin,
    M: Clone + PartialEq,
{
    go_on(move |_| open(), Values { last: None })
}

/// What was seen of a stream so far.
trait Seen<M> {
    /// Where to go on.
    fn resume(&self) -> String;

    /// Whether a message is new, and whether it is the last.
    fn take(&mut self, message: &M) -> (bool, bool);
}

struct Revisions<R> {
    read: R,
    last: String,
}

impl<M, R: Fn(&M) -> News> Seen<M> for Revisions<R> {
    fn resume(&self) -> String {
        self.last.clone()
    }

    fn take(&mut self, message: &M) -> (bool, bool) {
        let (revision, is_final) = match (self.read)(message) {
            News::Heartbeat => return (false, false),
            News::State(revision) => (revision, false),
            News::Final(revision) => (revision, true),
        };
        let is_new = is_after(&revision, &self.last);
        if is_new {
            self.last = revision;
        }
        (is_new, is_final)
    }
}

/// Whether a revision (`subject@sequence`) is later than another. Of tokens that say nothing to a client it can only be
/// said that they are others.
fn is_after(revision: &str, last: &str) -> bool {
    let split = |text: &str| -> Option<(String, u64)> {
        let (subject, sequence) = text.rsplit_once('@')?;
        Some((subject.to_owned(), sequence.parse().ok()?))
    };
    match (split(revision), split(last)) {
        (Some((of, sequence)), Some((of_last, before))) if of == of_last => sequence > before,
        _ => revision != last,
    }
}

struct Values<M> {
    last: Option<M>,
}

impl<M: Clone + PartialEq> Seen<M> for Values<M> {
    fn resume(&self) -> String {
        String::new()
    }

    fn take(&mut self, message: &M) -> (bool, bool) {
        let is_new = self.last.as_ref() != Some(message);
        if is_new {
            self.last = Some(message.clone());
        }
        (is_new, false)
    }
}

fn go_on<M, T, F>(
    mut open: impl FnMut(String) -> F,
    mut seen: impl Seen<M>,
) -> impl Stream<Item = Result<M, Status>>
where
    F: Future<Output = Result<Response<T>, Status>>,
    T: Stream<Item = Result<M, Status>> + Unpin,
{
    async_stream::stream! {
        let mut in_vain = 0;
        let mut was_open = false;
        loop {
            let end = match timeout(SILENCE, open(seen.resume())).await {
                Ok(Ok(stream)) => {
                    let mut stream = stream.into_inner();
                    was_open = true;
                    loop {
                        match timeout(SILENCE, stream.next()).await {
                            Ok(Some(Ok(message))) => {
                                in_vain = 0;
                                let (is_new, is_last) = seen.take(&message);
                                if is_new {
                                    yield Ok(message);
                                }
                                if is_last {
                                    return;
                                }
                            }
                            Ok(Some(Err(status))) => break Some(status),
                            Ok(None) | Err(_) => break None,
                        }
                    }
                }
                Ok(Err(status)) => Some(status),
                Err(_) => None,
            };
            let wait = end.as_ref().map(wait_of).unwrap_or_default();
            if let Some(status) = end.filter(|status| is_definite(status.code(), was_open)) {
                yield Err(status);
                return;
            }
            let backoff = (BACKOFF * 2_u32.pow(in_vain)).min(BACKOFF_AT_MOST);
            in_vain = (in_vain + 1).min(8);
            #[expect(clippy::disallowed_methods, reason = "a client knows nothing of the kit")]
            let share = rand::random();
            sleep(wait + backoff.mul_f64(share)).await;
        }
    }
}

/// When to come again, as the server says it.
fn wait_of(status: &Status) -> Duration {
    let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
    told.unwrap_or_default().min(BACKOFF_AT_MOST)
}

/// Whether it would be refused again. A process that starts does not know all of its contexts yet: what was there once
/// comes again.
fn is_definite(code: Code, was_open: bool) -> bool {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange => true,
        Code::Unimplemented => !was_open,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::sync::{Arc, Mutex};

    use futures::stream::{self, pending};
    use tokio::time::Instant;

    use super::*;

    type Messages = Pin<Box<dyn Stream<Item = Result<u64, Status>>>>;

    /// The sequence of a state; 0 is a heartbeat, 4 is final.
    fn read(message: &u64) -> News {
        match message {
            0 => News::Heartbeat,
            4 => News::Final("orders/1@4".to_owned()),
            sequence => News::State(format!("orders/1@{sequence}")),
        }
    }

    /// Answers with these streams, one after another; tells where each was to go on.
    fn follow_all(
        script: Vec<Result<Messages, Status>>,
    ) -> (impl Stream<Item = Result<u64, Status>>, Arc<Mutex<Vec<String>>>) {
        let opened = Arc::new(Mutex::new(Vec::new()));
        let (asked, mut script) = (opened.clone(), script.into_iter());
        let open = move |resume| {
            asked.lock().unwrap().push(resume);
            std::future::ready(script.next().expect("a stream").map(Response::new))
        };
        (follow(open, read), opened)
    }

    fn messages(told: impl IntoIterator<Item = Result<u64, Status>>) -> Result<Messages, Status> {
        let told: Vec<_> = told.into_iter().collect();
        Ok(Box::pin(stream::iter(told)))
    }

    #[tokio::test(start_paused = true)]
    async fn g18_every_state_is_told_once_however_often_the_stream_breaks() {
        let script = vec![
            Err(Status::unavailable("not yet")),
            messages([Ok(1), Ok(0), Err(Status::unknown("transport error"))]),
            messages([Ok(1), Ok(2)]),
            Err(Status::unimplemented("a process that starts")),
            messages([Ok(2), Ok(1), Ok(3), Ok(4), Ok(4)]),
        ];
        let (states, opened) = follow_all(script);
        let states: Vec<_> = states.map(Result::unwrap).collect().await;
        assert_eq!(states, [1, 2, 3, 4]);
        let after = |sequence: u64| format!("orders/1@{sequence}");
        assert_eq!(
            *opened.lock().unwrap(),
            [String::new(), String::new(), after(1), after(2), after(2)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn g18_a_final_state_that_is_told_again_only_ends_it() {
        let (states, _) = follow_all(vec![messages([Ok(3)]), messages([Ok(3), Ok(4)])]);
        assert_eq!(states.map(Result::unwrap).collect::<Vec<_>>().await, [3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_says_nothing_for_three_heartbeats_is_opened_again() {
        let silent: Messages = Box::pin(stream::iter([Ok(1)]).chain(pending()));
        let (states, _) = follow_all(vec![Ok(silent), messages([Ok(4)])]);
        let mut states = pin!(states);
        assert_eq!(states.next().await.unwrap().unwrap(), 1);
        let begun = Instant::now();
        assert_eq!(states.next().await.unwrap().unwrap(), 4);
        assert_eq!(begun.elapsed().as_secs(), 45);
        assert!(states.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_definite_refusal_is_told_and_ends_it() {
        for code in
            [Code::NotFound, Code::InvalidArgument, Code::Unauthenticated, Code::Unimplemented]
        {
            let (states, opened) = follow_all(vec![Err(Status::new(code, ""))]);
            let told: Vec<_> = states.collect().await;
            assert_eq!(told[0].as_ref().unwrap_err().code(), code);
            assert_eq!((told.len(), opened.lock().unwrap().len()), (1, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stays_away_is_asked_less_and_less_often() {
        let away = || Err(Status::unavailable("away"));
        let mut script: Vec<_> = (0..50).map(|_| away()).collect();
        script.push(messages([Ok(4)]));
        let begun = Instant::now();
        let (states, _) = follow_all(script);
        assert_eq!(states.collect::<Vec<_>>().await.len(), 1);
        let elapsed = begun.elapsed().as_secs();
        assert!((50..=250).contains(&elapsed), "{elapsed} s for fifty times");
    }

    #[tokio::test(start_paused = true)]
    async fn g18_of_a_quantity_only_what_differs_is_told() {
        let mut script = vec![
            messages([Ok(30), Ok(30), Ok(28)]),
            messages([Ok(28), Ok(30), Err(Status::not_found("withdrawn"))]),
        ]
        .into_iter();
        let open = move || std::future::ready(script.next().expect("a stream").map(Response::new));
        let values: Vec<_> =
            latest(open).map(|told| told.map_err(|end| end.code())).collect().await;
        assert_eq!(values, [Ok(30), Ok(28), Ok(30), Err(Code::NotFound)]);
    }
}
