//! Durable commands of one row each, and reads of one row.

use std::time::Duration;

use diesel::prelude::*;
use mesh::{Conn, Store};
use mesh_testing::TestMesh;

use crate::stand_in::{StandIn, handled, plain_store};
use crate::{repeat, repeat_here, row};

const SUBJECT: &str = "accounts/01a1fc0b-34d2-7068-8d37-7675c7d06d61";
/// As many as the most writers that are measured.
const TOGETHER: usize = 64;

pub(crate) async fn measure(time: Duration) {
    let stand_in = StandIn::new("identity", Vec::new);
    let mesh = TestMesh::start(std::slice::from_ref(&stand_in.context)).await;
    let store = stand_in.store();
    let mut plain = plain_store(&mesh.folder().join("plain.sqlite"));

    let single = repeat_here(time, || {
        plain.immediate_transaction(insert).expect("a commit");
    });
    let together = repeat_here(time, || {
        let rows = |conn: &mut SqliteConnection| (0..TOGETHER).try_for_each(|_| insert(conn));
        plain.immediate_transaction(rows).expect("a commit");
    });
    let alone = commands(&store, 1, time).await;
    let many = commands(&store, TOGETHER, time).await;
    row("commands/s, 1 writer (plain, a row a commit)", alone, single.per_s);
    row("commands/s, 64 writers (plain, a row a commit)", many, single.per_s);
    let together = together.per_s * TOGETHER as f64;
    row("commands/s, 64 writers (plain, 64 rows a commit)", many, together);

    let plain = repeat_here(time, || drop(handled::table.find(1).first::<Row>(&mut plain)));
    row("reads/s, 1 reader (plain connection)", reads(&store, 1, time).await, plain.per_s);
    row("reads/s, 64 readers (plain connection)", reads(&store, 64, time).await, plain.per_s);
    mesh.mesh.shut_down().await;
}

type Row = (i32, String, String, i64, i32);

fn insert(conn: &mut SqliteConnection) -> QueryResult<()> {
    let row = (
        handled::policy.eq("policy"),
        handled::subject.eq(SUBJECT),
        handled::sequence.eq(1),
        handled::generation.eq(0),
    );
    diesel::insert_into(handled::table).values(row).execute(conn).map(drop)
}

async fn commands(store: &Store, writers: usize, time: Duration) -> f64 {
    let store = store.clone();
    let done = repeat(writers, time, move |_| {
        let store = store.clone();
        async move {
            let write = store.write(|tx| match &mut **tx {
                Conn::Sqlite(sqlite) => Ok(insert(sqlite)?),
                Conn::Postgres(_) => Err(mesh::Error::internal("these stores are files")),
            });
            write.await.expect("a commit");
        }
    });
    done.await.per_s
}

async fn reads(store: &Store, readers: usize, time: Duration) -> f64 {
    let store = store.clone();
    let done = repeat(readers, time, move |_| {
        let store = store.clone();
        async move {
            let read = store.read(|conn| Ok(handled::table.find(1).first::<Row>(conn)?));
            read.await.expect("a row");
        }
    });
    done.await.per_s
}
