//! The same on PostgreSQL, beside the same rows written by plain SQL and by pgbench on the same server.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use mesh::Caller;
use mesh_testing::TestMesh;
use proto::identity::v1::{AccountCreated, GrantRoleRequest, GrantRoleResponse};
use test_postgres::{Database, Server};

use crate::events::{one_by_one, policies, publish, publish_for, until_handled};
use crate::stand_in::{StandIn, handled, rows};
use crate::{repeat, repeat_here, row};

/// How many customers wait for their commands at once.
const CUSTOMERS: usize = 64;
/// How many rows of each kind plain SQL commits at once.
const PLAIN_TOGETHER: usize = 256;
/// A row that every command changes: the seats of the one musical that all want.
const HOT_ROW: &str = "UPDATE handled SET sequence = sequence + 1 WHERE id = 1;";
/// The rows of a command: its own, an event, and the answer that is remembered; after a look for the request and for the
/// last event of the subject.
const SAME_ROWS: &str = r"\set number random(1, 1000000000000000)
BEGIN;
SELECT hash, answer FROM mesh_request WHERE caller = 'c' AND method = 'm' AND request_id = (:number)::bigint::text;
-- hot
INSERT INTO handled (policy, subject, sequence, generation) VALUES ('', 'accounts/' || (:number)::bigint::text, 0, 0);
SELECT max(sequence) FROM mesh_event WHERE subject = 'accounts/' || (:number)::bigint::text;
INSERT INTO mesh_event SELECT nextval('positions'), n, 'turnstile.identity.v1.AccountCreated', 'accounts/' || n, 1, 0, '', '', '', 0, 'data'
  FROM (SELECT (:number)::bigint::text) AS one (n);
INSERT INTO mesh_request VALUES ('c', 'm', (:number)::bigint::text, 'hash', 'answer', 0);
COMMIT;
";

pub(crate) async fn measure(time: Duration) {
    let server = match Server::start() {
        Ok(server) => server,
        Err(error) => return println!("on PostgreSQL: left out, {error}"),
    };
    let database = Database::new(&server.url()).expect("a database");
    let source = StandIn::new("identity", Vec::new);
    let consumer = StandIn::new("mypage", policies);
    let url = database.url();
    let contexts = [source.context.clone(), consumer.context.clone()];
    let mesh = TestMesh::start_with(&contexts, |options| options.stores.all = Some(url)).await;
    let (log, effects) = (source.store(), consumer.store());
    publish(&log, 2 * PLAIN_TOGETHER).await;
    until_handled(&effects, &log).await;

    let mut plain = plain(&database);
    let both = repeat_here(time, || {
        let rows = |conn: &mut PgConnection| {
            (0..PLAIN_TOGETHER).try_for_each(|_| {
                insert_event(conn)?;
                insert_effect(conn)
            })
        };
        plain.transaction(rows).expect("a commit");
    });
    let before = rows(&effects).await;
    let begun = Instant::now();
    publish_for(&log, time).await;
    until_handled(&effects, &log).await;
    let rate = (rows(&effects).await - before) as f64 / begun.elapsed().as_secs_f64();
    let both = both.per_s * PLAIN_TOGETHER as f64;
    row("PostgreSQL: events/s, publish to effect (plain, 256 a commit)", rate, both);

    let one = repeat_here(time, || plain.transaction(insert_effect).expect("a commit"));
    let idle = one_by_one(&log, &effects, time).await;
    let percentile = |percent| (idle.percentile(percent), one.percentile(percent));
    let ((p50, plain50), (p99, plain99)) = (percentile(50), percentile(99));
    row("PostgreSQL: idle, commit to effect read, p50, us (plain, the effect)", p50, plain50);
    row("PostgreSQL: idle, commit to effect read, p99, us (plain, the effect)", p99, plain99);

    mesh.mesh.stop("mypage").await;
    let peer = pgbench(&server, &database, "", time);
    let ours = commands(&log, false, time).await;
    row("PostgreSQL: commands/s, 64 customers (pgbench, 16 clients)", ours, peer);
    let peer = pgbench(&server, &database, HOT_ROW, time);
    let ours = commands(&log, true, time).await;
    row("PostgreSQL: commands/s on one hot row (pgbench, 16 clients)", ours, peer);

    // Somebody forgot a transaction that is open: nothing that was replaced can be cleared away.
    let pinned = seconds("PARTS_PINNED_SECONDS", 10.0);
    let mut forgotten = PgConnection::establish(&database.url()).expect("a connection");
    let pin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM identity.mesh_event;";
    forgotten.batch_execute(pin).expect("a snapshot");
    mesh.restart("mypage").await;
    let first = commands(&log, false, Duration::from_secs(3)).await;
    let _ = commands(&log, false, pinned).await;
    let last = commands(&log, false, Duration::from_secs(3)).await;
    let what = format!(
        "PostgreSQL: commands/s after {:.0} s with xmin pinned (before)",
        pinned.as_secs_f32()
    );
    row(&what, last, first);
    drop(forgotten);
    mesh.mesh.shut_down().await;
}

#[expect(clippy::disallowed_methods, reason = "a setting of the benchmark alone")]
fn seconds(name: &str, default: f64) -> Duration {
    let seconds = std::env::var(name).ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(default))
}

/// The same tables once more, and nothing between.
fn plain(database: &Database) -> PgConnection {
    let mut conn = PgConnection::establish(&database.url()).expect("a connection");
    let tables = [
        "CREATE SCHEMA plain; SET search_path TO plain; CREATE SEQUENCE positions;",
        include_str!("../../migrations/postgres/0000_mesh/up.sql"),
        include_str!("../../tests/migrations/postgres/0001_handled/up.sql"),
    ];
    conn.batch_execute(&tables.concat()).expect("tables");
    conn
}

fn insert_event(conn: &mut PgConnection) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO mesh_event SELECT place, place::text, 'turnstile.identity.v1.AccountCreated', 'accounts/' || place, \
         1, 0, '', '', '', 0, 'data' FROM nextval('positions') AS place",
    )
    .execute(conn)
    .map(drop)
}

fn insert_effect(conn: &mut PgConnection) -> QueryResult<()> {
    let row = (
        handled::policy.eq("whenever_account_created"),
        handled::subject.eq("accounts/01a1fc0b-34d2-7068-8d37-7675c7d06d61"),
        handled::sequence.eq(1),
        handled::generation.eq(0),
    );
    diesel::insert_into(handled::table).values(row).execute(conn).map(drop)
}

/// Commands as a context carries them out: a row, an event, and the answer.
async fn commands(log: &mesh::Store, hot: bool, time: Duration) -> f64 {
    let log = log.clone();
    let done = repeat(CUSTOMERS, time, move |_| {
        let log = log.clone();
        async move {
            let account = mesh::Id::<mesh::Accounts>::new().to_string();
            let command = GrantRoleRequest {
                request_id: mesh_testing::request_id(),
                name: account.clone(),
                ..Default::default()
            };
            let caller = Caller::context("identity");
            let done = log.once(&caller, &command, move |tx| {
                if hot {
                    diesel::update(handled::table.find(1))
                        .set(handled::sequence.eq(handled::sequence + 1))
                        .execute(&mut **tx)?;
                }
                let row = (
                    handled::policy.eq(""),
                    handled::subject.eq(&account),
                    handled::sequence.eq(0),
                    handled::generation.eq(0),
                );
                diesel::insert_into(handled::table).values(row).execute(&mut **tx)?;
                tx.publish(&account, &account, &AccountCreated { account: account.clone() })?;
                Ok(GrantRoleResponse::default())
            });
            done.await.expect("a commit");
        }
    });
    done.await.per_s
}

/// What the server's own load generator gets for the same rows.
fn pgbench(server: &Server, database: &Database, more: &str, time: Duration) -> f64 {
    let mut script = tempfile::NamedTempFile::new().expect("a file");
    script.write_all(SAME_ROWS.replace("-- hot", more).as_bytes()).expect("a script");
    let url = format!("{}&options=-csearch_path%3Dplain", database.url());
    let seconds = time.as_secs().max(1).to_string();
    let mut pgbench = Command::new(server.program("pgbench"));
    pgbench.args(["-n", "-M", "prepared", "-c", "16", "-j", "2", "-T", &seconds, "-f"]);
    let output = pgbench.arg(script.path()).arg(url).output().expect("pgbench");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    rate.and_then(|rate| rate.parse().ok())
        .unwrap_or_else(|| panic!("pgbench: {told}{}", String::from_utf8_lossy(&output.stderr)))
}
