//! Following an aggregate (rule G-18).

use futures::StreamExt as _;
use mesh::watch::{Watched, follow};
use mesh::{Error, Result, Store};
use mesh_testing::TestMesh;
use proto::homemovie::app::v1::MovieApplicationAdvanced;
use proto::homemovie::app::v1::movie_application::State;
use proto::mesh::v1 as api;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::stand_in::*;

const SUBJECT: &str = "movieApplications/0193f3a2-0000-7000-8000-000000000000";

#[derive(Clone, Debug, PartialEq)]
struct Application {
    sequence: u64,
    state: State,
}

impl Watched for Application {
    type Answer = (u64, State);

    fn subject(&self) -> String {
        SUBJECT.to_owned()
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn take(&mut self, event: &api::Event) -> Result<()> {
        let fact: MovieApplicationAdvanced = mesh::events::payload(event)?;
        self.state = fact.state();
        self.sequence = event.sequence;
        Ok(())
    }

    fn is_final(&self) -> bool {
        self.state == State::MovieWatched
    }

    fn tell(&self) -> Self::Answer {
        (self.sequence, self.state)
    }

    fn heartbeat() -> Self::Answer {
        (0, State::Unspecified)
    }
}

async fn advance(store: &Store, state: State) {
    let fact = MovieApplicationAdvanced { state: state.into(), ..Default::default() };
    store.write(move |tx| tx.publish(SUBJECT, SUBJECT, &fact)).await.unwrap();
}

async fn start() -> (TestMesh, Store) {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("homemovie.app")]).await;
    (mesh, stores.of("homemovie.app"))
}

const STATES: [(u64, State); 4] = [
    (1, State::MoviePicked),
    (2, State::MovieOrdered),
    (3, State::MovieAppCancelled),
    (4, State::MovieWatched),
];

fn now(sequence: u64) -> Application {
    Application { sequence, state: STATES[usize::try_from(sequence).unwrap() - 1].1 }
}

async fn collect(store: &Store, now: Application, resume: &str) -> Vec<(u64, State)> {
    let stream = follow(store, CancellationToken::new(), now, resume).unwrap();
    stream.map(|state| state.unwrap()).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn g18_a_watch_tells_the_state_at_once_then_every_state_and_ends() {
    let (_mesh, store) = start().await;
    advance(&store, State::MoviePicked).await;
    let mut stream = follow(&store, CancellationToken::new(), now(1), "").unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), STATES[0]);
    for (_, state) in &STATES[1..] {
        advance(&store, *state).await;
    }
    let rest: Vec<_> = stream.map(|state| state.unwrap()).collect().await;
    assert_eq!(rest, STATES[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g18_who_comes_again_misses_none_and_a_final_state_is_told_again() {
    let (_mesh, store) = start().await;
    for (_, state) in STATES {
        advance(&store, state).await;
    }
    for seen in 1..=3 {
        let resume = mesh::revision(SUBJECT, seen);
        assert_eq!(collect(&store, now(4), &resume).await, STATES[seen..], "after {seen}");
    }
    assert_eq!(collect(&store, now(4), &mesh::revision(SUBJECT, 4)).await, STATES[3..]);
    assert_eq!(collect(&store, now(4), "").await, STATES[3..], "from the state it is in");
    // It was read just before the others happened.
    assert_eq!(collect(&store, now(2), "").await, STATES[1..]);
    assert_eq!(collect(&store, now(2), &mesh::revision(SUBJECT, 2)).await, STATES[2..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g18_a_revision_of_something_else_is_refused() {
    let (_mesh, store) = start().await;
    advance(&store, State::MoviePicked).await;
    let other = "movieApplications/0193f3a2-0000-7000-8000-000000000001@1";
    for resume in [
        "x",
        "@1",
        SUBJECT,
        other,
        &format!("{SUBJECT}@2"),
        &format!("{SUBJECT}@-1"),
        &format!("{SUBJECT}@x"),
    ] {
        let outcome = follow(&store, CancellationToken::new(), now(1), resume).map(|_| ());
        assert!(matches!(outcome, Err(Error::Invalid(_))), "{resume}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g18_a_watch_ends_with_a_hint_when_the_context_stops() {
    let (mesh, store) = start().await;
    advance(&store, State::MoviePicked).await;
    for end in ["stopping", "crashed"] {
        let stopping = CancellationToken::new();
        let mut stream = follow(&store, stopping.clone(), now(1), "").unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        let next = tokio::spawn(async move { (stream.next().await, stream.next().await) });
        if end == "crashed" {
            mesh.mesh.crash("homemovie.app").await;
        } else {
            stopping.cancel();
        }
        let (last, end) = next.await.unwrap();
        let status = last.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(mesh::retry_delay_of(&status).is_some() && end.is_none());
    }
}
