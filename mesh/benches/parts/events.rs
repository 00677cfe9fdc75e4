//! From an event in one context's log to its effect in another context's store.

use std::time::{Duration, Instant};

use diesel::prelude::*;
use mesh::{Accounts, Event, Id, Policy, Result, Store, Tx, whenever};
use mesh_testing::TestMesh;
use proto::identity::v1::AccountCreated;

use crate::stand_in::{StandIn, handled, plain_store, rows};
use crate::{Done, repeat, repeat_here, row};

/// How many events share a commit, where many come at once.
const TOGETHER: usize = 64;
const PUBLISHERS: usize = 4;
/// How many rows of each kind plain SQLite commits at once.
const PLAIN_TOGETHER: usize = 256;

diesel::table! {
    mesh_event (position) {
        position -> BigInt,
        event_id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        subject -> Text,
        sequence -> BigInt,
        time -> BigInt,
        correlation_id -> Text,
        causation_id -> Text,
        traceparent -> Text,
        partition -> Integer,
        data -> Binary,
    }
}

pub(crate) async fn measure(time: Duration) {
    let source = StandIn::new("identity", Vec::new);
    let consumer = StandIn::new("mypage", policies);
    let mesh = TestMesh::start(&[source.context.clone(), consumer.context.clone()]).await;
    let (log, effects) = (source.store(), consumer.store());
    let mut plain = plain_store(&mesh.folder().join("plain.sqlite"));
    // After a start the first few hundred are handled one by one.
    publish(&log, 2 * PLAIN_TOGETHER).await;
    until_handled(&effects, &log).await;

    let both = repeat_here(time, || {
        let rows = |conn: &mut SqliteConnection| {
            (0..PLAIN_TOGETHER).try_for_each(|_| {
                insert_event(conn)?;
                insert_effect(conn)
            })
        };
        plain.immediate_transaction(rows).expect("a commit");
    });
    let both = both.per_s * PLAIN_TOGETHER as f64;
    let before = rows(&effects).await;
    let begun = Instant::now();
    publish_for(&log, time).await;
    until_handled(&effects, &log).await;
    let count = rows(&effects).await - before;
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    row("events/s, publish to effect (plain, both rows, 256 a commit)", rate, both);

    let one = repeat_here(time, || {
        plain.immediate_transaction(insert_effect).expect("a commit");
    });
    let idle = one_by_one(&log, &effects, time).await;
    row(
        "idle, commit to effect read, p50, us (plain, the effect)",
        idle.percentile(50),
        one.percentile(50),
    );
    row(
        "idle, commit to effect read, p99, us (plain, the effect)",
        idle.percentile(99),
        one.percentile(99),
    );

    let effect = repeat_here(time, || {
        let rows =
            |conn: &mut SqliteConnection| (0..PLAIN_TOGETHER).try_for_each(|_| insert_effect(conn));
        plain.immediate_transaction(rows).expect("a commit");
    });
    let effect = effect.per_s * PLAIN_TOGETHER as f64;
    let before = rows(&effects).await;
    mesh.mesh.stop("mypage").await;
    publish_for(&log, time).await;
    let begun = Instant::now();
    mesh.restart("mypage").await;
    until_handled(&consumer.store(), &log).await;
    let count = rows(&consumer.store()).await - before;
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    row("events/s, a backlog after a start (plain, effects alone)", rate, effect);
    mesh.mesh.shut_down().await;
}

pub(crate) fn policies() -> Vec<Policy> {
    vec![whenever("an account is created, note it", whenever_account_created).from_start()]
}

fn whenever_account_created(tx: &mut Tx<'_>, event: &Event<AccountCreated>) -> Result<()> {
    let row = (
        handled::policy.eq("whenever_account_created"),
        handled::subject.eq(&event.subject),
        handled::sequence.eq(1),
        handled::generation.eq(tx.generation()),
    );
    diesel::insert_into(handled::table).values(row).execute(&mut **tx)?;
    Ok(())
}

/// So many facts, each about another account, in one commit.
pub(crate) async fn publish(log: &Store, count: usize) {
    let write = log.write(move |tx| {
        for _ in 0..count {
            let account = Id::<Accounts>::new().to_string();
            tx.publish(&account, &account, &AccountCreated { account: account.clone() })?;
        }
        Ok(())
    });
    write.await.expect("a commit");
}

pub(crate) async fn publish_for(log: &Store, time: Duration) {
    let log = log.clone();
    let publish = move |_| {
        let log = log.clone();
        async move { publish(&log, TOGETHER).await }
    };
    repeat(PUBLISHERS, time, publish).await;
}

/// Waits until there is an effect of every event.
pub(crate) async fn until_handled(effects: &Store, log: &Store) {
    let head = *log.head().borrow();
    while rows(effects).await < head {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// One event after the effect of the other: how long from the answer to who published until the effect can be read.
pub(crate) async fn one_by_one(log: &Store, effects: &Store, time: Duration) -> Done {
    until_handled(effects, log).await;
    let (mut commits, mut took, begun) = (effects.commits(), Vec::new(), Instant::now());
    while begun.elapsed() < time {
        let before = rows(effects).await;
        publish(log, 1).await;
        let committed = Instant::now();
        while rows(effects).await == before {
            commits.changed().await.expect("a store that is open");
        }
        took.push(committed.elapsed());
    }
    Done::new(took, begun)
}

fn insert_event(conn: &mut SqliteConnection) -> QueryResult<()> {
    let account = Id::<Accounts>::new().to_string();
    let row = (
        mesh_event::event_id.eq(account.rsplit('/').next().unwrap_or_default()),
        mesh_event::type_.eq("turnstile.identity.v1.AccountCreated"),
        mesh_event::sequence.eq(1),
        mesh_event::time.eq(1_764_000_000_000_000),
        mesh_event::correlation_id.eq(&account),
        mesh_event::causation_id.eq(""),
        mesh_event::traceparent.eq(""),
        mesh_event::partition.eq(7),
        mesh_event::subject.eq(&account),
        mesh_event::data.eq(account.as_bytes()),
    );
    diesel::insert_into(mesh_event::table).values(row).execute(conn).map(drop)
}

fn insert_effect(conn: &mut SqliteConnection) -> QueryResult<()> {
    let account = Id::<Accounts>::new().to_string();
    let row = (
        handled::policy.eq("whenever_account_created"),
        handled::subject.eq(account),
        handled::sequence.eq(1),
        handled::generation.eq(0),
    );
    diesel::insert_into(handled::table).values(row).execute(conn).map(drop)
}
