//! Call, then register (rule G-11), with a callee that is played.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use mesh::client::{Channel, fallback};
use mesh::{CallThenRegister, Caller, Error, Id, Result, Saga, Tx};
use mesh_testing::{TestMesh, eventually, refusal, request_id};
use proto::homemovie::app::v1::{
    MovieApplication, MoviePicked, PickMovieRequest, PickMovieResponse,
};
use proto::payment::v1::PayRequest;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tokio::sync::Notify;
use tonic::{Code, Status};

use crate::admin;
use crate::stand_in::*;

/// What the callee does about a call or an undo.
#[derive(Clone, Debug)]
enum Play {
    /// Does it.
    Do,
    /// Does it, and the answer is lost.
    DoAndLose,
    /// The call is lost.
    Lose,
    /// Refuses for good.
    Refuse,
    /// Refuses for now.
    Busy,
    /// Nobody is there.
    Nobody,
    /// Does it when it is told to.
    DoLater,
}

/// A callee that outlives crashes of the caller.
#[derive(Default)]
struct Callee {
    calls: Mutex<VecDeque<Play>>,
    undos: Mutex<VecDeque<Play>>,
    /// By order: how often it was charged, how often it was undone.
    books: Mutex<HashMap<String, (u32, u32)>>,
    called: Notify,
    go_on: Notify,
}

impl Callee {
    fn charge(&self, order: &str) -> Result<()> {
        let mut books = self.books.lock().unwrap();
        let book = books.entry(order.to_owned()).or_default();
        if book.1 > 0 {
            return Err(Error::from(Status::failed_precondition("voided")));
        }
        book.0 += 1;
        Ok(())
    }

    fn books(&self) -> Vec<(u32, u32)> {
        self.books.lock().unwrap().values().copied().collect()
    }
}

fn next(plays: &Mutex<VecDeque<Play>>) -> Play {
    plays.lock().unwrap().pop_front().unwrap_or(Play::Do)
}

struct Pick {
    callee: Arc<Callee>,
    nobody: Channel,
}

impl CallThenRegister for Pick {
    const COMMAND: &'static str = "PickMovie";
    type Order = MovieApplication;
    type Answer = PickMovieResponse;

    fn name(order: &MovieApplication) -> &str {
        &order.name
    }

    async fn call(&self, order: MovieApplication) -> Result<()> {
        let play = next(&self.callee.calls);
        self.callee.called.notify_one();
        match play {
            Play::Do => self.callee.charge(&order.name),
            Play::DoAndLose => {
                self.callee.charge(&order.name)?;
                Err(Status::unavailable("lost").into())
            }
            Play::Lose => Err(Status::deadline_exceeded("lost").into()),
            Play::Refuse => Err(Error::refused("payment", "PAYMENT_DECLINED", "declined")),
            Play::Busy => Err(Status::resource_exhausted("busy").into()),
            Play::Nobody => {
                let request = PayRequest { order: order.name, ..Default::default() };
                PaymentServiceClient::new(self.nobody.clone()).pay(request).await?;
                Ok(())
            }
            Play::DoLater => {
                self.callee.go_on.notified().await;
                self.callee.charge(&order.name)
            }
        }
    }

    async fn undo(&self, order: MovieApplication) -> Result<()> {
        match next(&self.callee.undos) {
            Play::Do => {
                self.callee.books.lock().unwrap().entry(order.name).or_default().1 += 1;
                Ok(())
            }
            Play::Refuse => Err(Error::internal("not today")),
            _ => Err(Status::unavailable("lost").into()),
        }
    }

    fn fallback(&self) -> Error {
        fallback("homemovie.app", "payment", None)
    }

    fn register(&self, tx: &mut Tx<'_>, order: MovieApplication) -> Result<PickMovieResponse> {
        match order.movie_title.as_str() {
            "cannot be registered" => return Err(Error::NotFound(order.movie)),
            "is one too many" => return Err(Error::refused("homemovie.app", "TOO_MANY", "no")),
            _ => {}
        }
        let row = (
            handled::policy.eq("registered"),
            handled::subject.eq(&order.name),
            handled::sequence.eq(1),
            handled::generation.eq(0),
        );
        diesel::insert_into(handled::table).values(row).execute(&mut **tx)?;
        let fact = MoviePicked { movie_application: order.name.clone(), ..Default::default() };
        tx.publish(&order.name, &order.name, &fact)?;
        Ok(PickMovieResponse { movie_application: Some(order) })
    }
}

#[derive(Debug)]
enum Applications {}

impl mesh::Collection for Applications {
    const NAME: &'static str = "movieApplications";
}

struct Stage {
    mesh: TestMesh,
    stores: Stores,
    callee: Arc<Callee>,
    saga: Arc<Mutex<Option<Saga<Pick>>>>,
}

impl Stage {
    async fn set(sweep_after: Duration) -> Self {
        let (stores, callee, kept) =
            (Stores::default(), Arc::<Callee>::default(), Arc::<Mutex<_>>::default());
        let (with, keep) = (callee.clone(), kept.clone());
        let context = stores.context("homemovie.app", move |kit, wiring| {
            let saga = kit.saga(Pick { callee: with.clone(), nobody: kit.edge("payment")? });
            *keep.lock().unwrap() = Some(saga);
            Ok(wiring)
        });
        let mesh =
            TestMesh::start_with(&[context], |options| options.sweep_after = sweep_after).await;
        Self { mesh, stores, callee, saga: kept }
    }

    /// Nothing is taken for dead within the test.
    async fn patient() -> Self {
        Self::set(Duration::from_secs(3600)).await
    }

    fn plan(&self, calls: &[Play], undos: &[Play]) {
        self.callee.calls.lock().unwrap().extend(calls.iter().cloned());
        self.callee.undos.lock().unwrap().extend(undos.iter().cloned());
    }

    async fn pick(&self, command: &PickMovieRequest) -> Result<String, Status> {
        pick(self.saga(), command.clone()).await
    }

    fn saga(&self) -> Saga<Pick> {
        self.saga.lock().unwrap().clone().unwrap()
    }

    /// The names of the orders that exist, and the states of the intents: of one moment.
    async fn look(&self) -> (Vec<String>, Vec<String>) {
        let store = self.stores.of("homemovie.app");
        let read = store.read(|conn| {
            conn.transaction(|conn| {
                let registered =
                    handled::table.order(handled::id).select(handled::subject).load(conn)?;
                let told = mesh_event::table
                    .order(mesh_event::position)
                    .select(mesh_event::subject)
                    .load(conn)?;
                let states = mesh_intent::table
                    .order(mesh_intent::name)
                    .select(mesh_intent::state)
                    .load(conn)?;
                Ok((registered, told, states))
            })
        });
        let (registered, told, states): (Vec<String>, Vec<String>, _) = read.await.unwrap();
        assert_eq!(told, registered, "an order and its event come together");
        (registered, states)
    }

    async fn until(&self, states: &[&str]) -> Vec<String> {
        let what = format!("the orders are {states:?}");
        eventually(&what, async || {
            let (registered, found) = self.look().await;
            (found == states).then_some(registered)
        })
        .await
    }
}

async fn pick(saga: Saga<Pick>, command: PickMovieRequest) -> Result<String, Status> {
    let title = command.movie.clone();
    let decide = move |_: &mut Tx<'_>| {
        let name = Id::<Applications>::new().to_string();
        Ok(MovieApplication { name, movie_title: title, ..Default::default() })
    };
    let answer = saga.run(&Caller::context("test"), &command, decide).await?;
    Ok(answer.movie_application.unwrap().name)
}

fn command() -> PickMovieRequest {
    PickMovieRequest { request_id: request_id(), movie: "a film".to_owned() }
}

diesel::table! {
    mesh_event (position) {
        position -> BigInt,
        subject -> Text,
    }
}

diesel::table! {
    mesh_intent (name) {
        name -> Text,
        state -> Text,
        undo_attempts -> Integer,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_what_the_callee_did_is_registered_once() {
    let stage = Stage::patient().await;
    let command = command();
    let name = stage.pick(&command).await.unwrap();
    assert_eq!(stage.pick(&command).await.unwrap(), name);
    let other = PickMovieRequest { movie: "another".to_owned(), ..command.clone() };
    assert_eq!(stage.pick(&other).await.unwrap_err().code(), Code::AlreadyExists);
    stage.mesh.mesh.crash("homemovie.app").await;
    stage.mesh.restart("homemovie.app").await;
    assert_eq!(stage.pick(&command).await.unwrap(), name, "also after a restart");
    assert_eq!(stage.look().await, (vec![name], vec!["REGISTERED".to_owned()]));
    assert_eq!(stage.callee.books(), [(1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_a_refusal_is_remembered() {
    let stage = Stage::patient().await;
    stage.plan(&[Play::Refuse], &[]);
    let command = command();
    for _ in 0..2 {
        let status = stage.pick(&command).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(mesh::reason_of(&status).as_deref(), Some("PAYMENT_DECLINED"));
        assert_eq!(status.message(), "declined");
    }
    assert_eq!(stage.look().await, (vec![], vec!["REFUSED".to_owned()]));
    assert_eq!(stage.callee.books(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_what_was_certainly_not_sent_needs_no_undo_and_frees_the_request() {
    let stage = Stage::patient().await;
    stage.plan(&[Play::Nobody, Play::Busy], &[]);
    let command = command();
    let status = stage.pick(&command).await.unwrap_err();
    assert_eq!(
        (status.code(), mesh::reason_of(&status).as_deref()),
        (Code::Unavailable, Some("PAYMENT_BUSY"))
    );
    assert!(mesh::retry_delay_of(&status).is_some());
    assert_eq!(stage.pick(&command).await.unwrap_err().code(), Code::ResourceExhausted);
    let name = stage.pick(&command).await.unwrap();
    assert_eq!(
        stage.look().await,
        (vec![name], ["REFUSED", "REFUSED", "REGISTERED"].map(str::to_owned).to_vec())
    );
    assert_eq!(stage.callee.books(), [(1, 0)], "one call, no undo");
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_what_nobody_knows_is_undone_and_frees_the_request() {
    for lost in [Play::Lose, Play::DoAndLose] {
        let stage = Stage::patient().await;
        stage.plan(std::slice::from_ref(&lost), &[]);
        let command = command();
        let status = stage.pick(&command).await.unwrap_err();
        assert_eq!(
            (status.code(), mesh::reason_of(&status).as_deref()),
            (Code::Unavailable, Some("PAYMENT_BUSY"))
        );
        assert_eq!(stage.until(&["VOIDED"]).await, Vec::<String>::new());
        assert!(matches!(stage.callee.books()[..], [(_, 1..)]), "{lost:?}");
        let name = stage.pick(&command).await.unwrap();
        assert_eq!(stage.until(&["VOIDED", "REGISTERED"]).await, [name]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_request_that_is_still_being_worked_on_says_so() {
    let stage = Stage::patient().await;
    stage.plan(&[Play::DoLater, Play::Lose], &[Play::Refuse, Play::Refuse, Play::Refuse]);
    let first = command();
    let running = tokio::spawn(pick(stage.saga(), first.clone()));
    stage.callee.called.notified().await;
    let status = stage.pick(&first).await.unwrap_err();
    assert_eq!(
        (status.code(), mesh::reason_of(&status).as_deref()),
        (Code::Aborted, Some("STILL_RUNNING"))
    );
    assert!(mesh::retry_delay_of(&status).is_some());
    stage.callee.go_on.notify_one();
    let name = running.await.unwrap().unwrap();
    assert_eq!(stage.pick(&first).await.unwrap(), name);

    let voiding = command();
    assert_eq!(stage.pick(&voiding).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(stage.pick(&voiding).await.unwrap_err().code(), Code::Aborted);
    stage.until(&["REGISTERED", "VOIDED"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_the_same_order_sent_twenty_times_at_once_is_one_order() {
    let stage = Stage::patient().await;
    let command = command();
    let picks = (0..20).map(|_| stage.pick(&command));
    let outcomes = futures::future::join_all(picks).await;
    let names: std::collections::HashSet<_> = outcomes.iter().flatten().collect();
    assert_eq!(names.len(), 1, "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().err())
            .all(|e| e.code() == Code::Aborted)
    );
    assert_eq!(stage.look().await.1, ["REGISTERED"]);
    assert_eq!(stage.callee.books(), [(1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_an_undo_is_repeated_until_it_is_confirmed() {
    let stage = Stage::patient().await;
    let in_vain = [Play::Refuse, Play::Lose, Play::Refuse, Play::Lose, Play::Refuse];
    stage.plan(&[Play::DoAndLose], &in_vain);
    assert!(stage.pick(&command()).await.is_err());
    stage.until(&["VOIDED"]).await;
    assert!(matches!(stage.callee.books()[..], [(1, 1..)]), "{:?}", stage.callee.books());
    let store = stage.stores.of("homemovie.app");
    let attempts = store.read(|conn| {
        Ok(mesh_intent::table.select(mesh_intent::undo_attempts).first::<i32>(conn)?)
    });
    assert_eq!(attempts.await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_what_cannot_be_registered_after_its_call_is_undone() {
    let stage = Stage::patient().await;
    let command = PickMovieRequest { movie: "cannot be registered".to_owned(), ..command() };
    assert_eq!(stage.pick(&command).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(stage.until(&["VOIDED"]).await, Vec::<String>::new());
    assert!(matches!(stage.callee.books()[..], [(1, 1..)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_what_is_refused_after_its_call_is_undone_and_the_client_is_told_why() {
    let stage = Stage::patient().await;
    let command = PickMovieRequest { movie: "is one too many".to_owned(), ..command() };
    for states in [&["VOIDED"][..], &["VOIDED", "VOIDED"]] {
        let refused = refusal(stage.pick(&command).await);
        assert_eq!(refused, (Code::FailedPrecondition, "TOO_MANY".to_owned()));
        stage.until(states).await;
    }
    assert!(matches!(stage.callee.books()[..], [(1, 1..), (1, 1..)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_a_client_that_goes_away_stops_nothing() {
    let stage = Stage::patient().await;
    stage.plan(&[Play::DoLater], &[]);
    let client = tokio::spawn(pick(stage.saga(), command()));
    stage.callee.called.notified().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    stage.callee.go_on.notify_one();
    assert_eq!(stage.until(&["REGISTERED"]).await.len(), 1);
    assert_eq!(stage.callee.books(), [(1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_an_answer_that_comes_after_the_sweeper_is_too_late() {
    let stage = Stage::set(Duration::from_millis(50)).await;
    let registered = stage.pick(&command()).await.unwrap();
    stage.plan(&[Play::DoLater], &[]);
    let late = tokio::spawn(pick(stage.saga(), command()));
    stage.until(&["REGISTERED", "VOIDED"]).await;
    stage.callee.go_on.notify_one();
    assert!(late.await.unwrap().is_err());
    // The sweeper has been by many times and left alone what is registered.
    assert_eq!(stage.look().await.0, [registered]);
    let mut books = stage.callee.books();
    books.sort_unstable();
    assert!(matches!(books[..], [(0, 1..), (1, 0)]), "{books:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_wherever_the_context_dies_it_is_registered_or_undone() {
    let sites = ["saga.stored", "saga.called", "saga.registered", "saga.voiding", "saga.undone"];
    for call in [Play::Do, Play::DoAndLose, Play::Lose, Play::Refuse] {
        for site in sites {
            let unknown = matches!(call, Play::DoAndLose | Play::Lose);
            if !unknown && matches!(site, "saga.voiding" | "saga.undone") {
                continue;
            }
            let stage = Stage::set(Duration::from_millis(300)).await;
            stage.plan(std::slice::from_ref(&call), &[]);
            let reached = stage.mesh.mesh.faults().die_at("homemovie.app", site);
            let request = command();
            let client = tokio::spawn(pick(stage.saga(), request.clone()));
            reached.notified().await;
            stage.mesh.mesh.crash("homemovie.app").await;
            let told = client.await.unwrap();
            stage.mesh.restart("homemovie.app").await;
            let (registered, states) = eventually("the order is settled", async || {
                let (registered, states) = stage.look().await;
                let settled = ["REGISTERED", "REFUSED", "VOIDED"].contains(&states[0].as_str());
                settled.then_some((registered, states))
            })
            .await;
            let book = stage.callee.books().first().copied().unwrap_or_default();
            let of = format!(
                "{call:?}, died at {site}: {states:?}, {book:?}, the client was told {told:?}"
            );
            match states[0].as_str() {
                "REGISTERED" => assert!(registered.len() == 1 && book == (1, 0), "{of}"),
                "VOIDED" => assert!(registered.is_empty() && book.1 > 0 && told.is_err(), "{of}"),
                _ => assert!(registered.is_empty() && book == (0, 0) && told.is_err(), "{of}"),
            }
            if site == "saga.registered" && matches!(call, Play::Do) {
                assert_eq!(states, ["REGISTERED"]);
                assert_eq!(stage.pick(&request).await.unwrap(), registered[0]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_an_operator_sees_what_is_neither_registered_nor_ended() {
    let stage = Stage::patient().await;
    stage.plan(&[Play::DoLater, Play::Lose], &vec![Play::Refuse; 1000]);
    let _waiting = tokio::spawn(pick(stage.saga(), command()));
    stage.callee.called.notified().await;
    assert!(stage.pick(&command()).await.is_err());
    let mut operations = operations(&stage.mesh);
    let intents = eventually("an undo that failed", async || {
        let request = proto::mesh::v1::ListIntentsRequest::default();
        let intents = operations.list_intents(request).await.unwrap().into_inner().intents;
        (intents.len() == 2 && intents[1].undo_attempts > 0).then_some(intents)
    })
    .await;
    use proto::mesh::v1::intent::State;
    assert_eq!([intents[0].state(), intents[1].state()], [State::Pending, State::Voiding]);
    assert_eq!(
        (intents[1].context.as_str(), intents[1].command.as_str()),
        ("homemovie.app", "PickMovie")
    );
    assert!(!intents[1].last_failure.is_empty());
    let port = admin::open(&stage.mesh, &[]).await;
    for state in ["pending", "voiding"] {
        let intents = format!("mesh_intents{{context=\"homemovie.app\",state=\"{state}\"}}");
        assert_eq!(admin::read(&port, &intents).await, 1.0);
    }
}
