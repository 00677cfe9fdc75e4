//! Stand-ins for contexts, and what tests look at.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex};

use diesel::prelude::*;
use diesel_migrations::embed_migrations;
use mesh::{
    Context, Error, Event, Id, Kit, Migrations, Policy, Result, Store, Tx, Wiring, whenever,
};
use mesh_testing::TestMesh;
use proto::identity::v1::{AccountCreated, RoleGranted};
use proto::mesh::v1 as api;
use proto::mesh::v1::event_service_client::EventServiceClient;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;

pub(crate) const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("tests/migrations/sqlite"),
    postgres: embed_migrations!("tests/migrations/postgres"),
};

diesel::table! {
    handled (id) {
        id -> Integer,
        policy -> Text,
        subject -> Text,
        sequence -> BigInt,
        generation -> Integer,
    }
}

/// The stores of stand-ins, by context: the one it was started with last.
#[derive(Clone, Default)]
pub(crate) struct Stores(Arc<Mutex<HashMap<String, Store>>>);

impl Stores {
    pub(crate) fn of(&self, context: &str) -> Store {
        self.0.lock().unwrap()[context].clone()
    }

    /// A context of this name, wired by `wire`.
    pub(crate) fn context(
        &self,
        name: &str,
        wire: impl Fn(&Kit, Wiring) -> Result<Wiring> + Send + Sync + 'static,
    ) -> Context {
        let stores = self.0.clone();
        Context::new(
            name,
            || MIGRATIONS,
            move |kit| {
                stores.lock().unwrap().insert(kit.store().context().to_owned(), kit.store());
                wire(kit, Wiring::default())
            },
        )
    }

    /// A context that has nothing but a log.
    pub(crate) fn source(&self, name: &str) -> Context {
        self.context(name, |_, wiring| Ok(wiring))
    }

    /// A context that has these policies.
    pub(crate) fn consumer(&self, name: &str, policies: fn() -> Vec<Policy>) -> Context {
        self.context(name, move |_, wiring| Ok(wiring.policies(policies())))
    }
}

/// A subject that no other test has.
pub(crate) fn account() -> String {
    Id::<mesh::Accounts>::new().to_string()
}

pub(crate) fn accounts(count: usize) -> Vec<String> {
    (0..count).map(|_| account()).collect()
}

/// Publishes that these accounts were created, all in one transaction.
pub(crate) async fn publish(store: &Store, subjects: &[String]) {
    try_publish(store, subjects).await.unwrap();
}

pub(crate) async fn try_publish(store: &Store, subjects: &[String]) -> Result<()> {
    let subjects = subjects.to_vec();
    store
        .write(move |tx| {
            for subject in subjects {
                tx.publish(&subject, &subject, &AccountCreated { account: subject.clone() })?;
            }
            Ok(())
        })
        .await
}

/// As [`publish`], of another type.
pub(crate) async fn publish_roles(store: &Store, subjects: &[String]) {
    let subjects = subjects.to_vec();
    let write = store.write(move |tx| {
        for subject in subjects {
            tx.publish(&subject, &subject, &RoleGranted { account: subject.clone(), role: 1 })?;
        }
        Ok(())
    });
    write.await.unwrap();
}

/// What a policy is to do with the next events of a subject, instead of handling them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Fail,
    Wait,
    Panic,
}

static SCRIPT: LazyLock<Mutex<HashMap<String, Vec<Act>>>> = LazyLock::new(Mutex::default);

pub(crate) fn script(subject: &str, act: Act, times: usize) {
    SCRIPT.lock().unwrap().insert(subject.to_owned(), vec![act; times]);
}

pub(crate) fn play(subject: &str) -> Result<()> {
    let act = SCRIPT.lock().unwrap().get_mut(subject).and_then(Vec::pop);
    match act {
        None => Ok(()),
        Some(Act::Fail) => Err(Error::NotFound("what it needs".to_owned())),
        Some(Act::Wait) => Err(Error::unavailable("what it needs")),
        Some(Act::Panic) => panic!("as planned"),
    }
}

pub(crate) fn record<T>(tx: &mut Tx<'_>, policy: &str, event: &Event<T>) -> Result<()> {
    let row = (
        handled::policy.eq(policy),
        handled::subject.eq(&event.subject),
        handled::sequence.eq(i64::try_from(event.sequence).unwrap()),
        handled::generation.eq(tx.generation()),
    );
    diesel::insert_into(handled::table).values(row).execute(&mut **tx)?;
    Ok(())
}

pub(crate) fn whenever_account_created(
    tx: &mut Tx<'_>,
    event: &Event<AccountCreated>,
) -> Result<()> {
    record(tx, "whenever_account_created", event)?;
    play(&event.subject)
}

pub(crate) fn whenever_account_created_too(
    tx: &mut Tx<'_>,
    event: &Event<AccountCreated>,
) -> Result<()> {
    record(tx, "whenever_account_created_too", event)
}

pub(crate) fn whenever_role_granted(tx: &mut Tx<'_>, event: &Event<RoleGranted>) -> Result<()> {
    record(tx, "whenever_role_granted", event)
}

pub(crate) const CREATED: &str = "whenever_account_created";

pub(crate) fn created() -> Vec<Policy> {
    vec![whenever("an account is created, note it", whenever_account_created).from_start()]
}

/// What a policy did, in the order it did it: (subject, sequence).
pub(crate) async fn handled_by(store: &Store, policy: &'static str) -> Vec<(String, i64)> {
    let rows = store.read(move |conn| {
        let rows = handled::table.filter(handled::policy.eq(policy)).order(handled::id);
        Ok(rows.select((handled::subject, handled::sequence)).load(conn)?)
    });
    rows.await.unwrap()
}

/// By subject, what a policy did.
pub(crate) fn by_subject(rows: &[(String, i64)]) -> BTreeMap<String, Vec<i64>> {
    let mut subjects = BTreeMap::<_, Vec<_>>::new();
    for (subject, sequence) in rows {
        subjects.entry(subject.clone()).or_default().push(*sequence);
    }
    subjects
}

/// Waits until a policy has done so much.
pub(crate) async fn until_handled(
    stores: &Stores,
    context: &str,
    policy: &'static str,
    count: usize,
) {
    let what = format!("{context}/{policy}: {count} events");
    let look = || async {
        let rows = handled_by(&stores.of(context), policy).await;
        (rows.len() >= count).then_some(())
    };
    mesh_testing::eventually(&what, look).await;
}

pub(crate) type Operations = OperationsServiceClient<mesh_testing::SignedIn>;

pub(crate) fn operations(mesh: &TestMesh) -> Operations {
    OperationsServiceClient::new(mesh.admin().connect())
}

/// (subject, sequence, attempts) of what is parked in a context, by subject and sequence.
pub(crate) async fn parked(operations: &mut Operations, context: &str) -> Vec<(String, u64, u32)> {
    let request =
        api::ListParkedEventsRequest { context: context.to_owned(), ..Default::default() };
    let answer = operations.list_parked_events(request).await.unwrap().into_inner();
    let rows = answer.parked_events.into_iter();
    let mut rows: Vec<_> = rows
        .map(|row| {
            let event = row.event.unwrap();
            (event.subject, event.sequence, row.attempts)
        })
        .collect();
    rows.sort();
    rows
}

/// Everything in the log of `source`, and the epoch.
pub(crate) async fn log_of(mesh: &TestMesh, source: &str) -> (String, Vec<api::Event>) {
    let request = api::SubscribeRequest {
        source: source.to_owned(),
        policy: "mypage/test".to_owned(),
        ..Default::default()
    };
    let mut client = EventServiceClient::new(mesh.service("mypage", source));
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    loop {
        let batch = stream.message().await.unwrap().unwrap();
        events.extend(batch.events);
        if batch.to_position >= batch.head_position {
            return (batch.epoch, events);
        }
    }
}
