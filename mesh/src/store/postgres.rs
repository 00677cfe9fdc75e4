//! A store on PostgreSQL: a schema of its own, one writer at a time.
//!
//! Whoever writes holds the context's lock until it has committed, whichever process it is in. So positions are given in
//! the order of the commits and without a gap, a reader that has seen one has seen all before it, and what a context
//! reads in a transaction nobody changes until it is committed: the same as on SQLite, whose file has one writer. One
//! commit takes everything that waits, so that the lock does not cost a flush for each command.

use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::dsl::max;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, NopErrorHandler, Pool};
use diesel::sql_types::{Bool, Oid, Text};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::at::Schema;
use super::open::{Failure, OpenError, Opened};
use super::schema::{mesh_epoch, mesh_event, mesh_meta};
use super::writer::Engine;
use super::{Conn, READERS, StoreAt, release, savepoint};
use crate::error::Error;

pub(super) const KIT: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// What the locks of this mesh are told from other programs' by.
const LOCKS: i32 = 0x7475_726e;
/// No statement of a write takes longer, whatever its deadline is.
const LONGEST: Duration = Duration::from_secs(30);
/// Nor is it given up sooner: others share its transaction, who may have more time than the first.
const LEAST: Duration = Duration::from_secs(1);
/// A limit of none would be no limit.
const SHORTEST: Duration = Duration::from_millis(1);
/// A process that stands still in the middle of a write loses its place after so long.
const FROZEN: Duration = Duration::from_secs(5);

/// The place of the one writer in a schema.
#[derive(Debug)]
pub(super) struct Session {
    schema: Schema,
    /// The schema's number: what its lock is called by.
    number: u32,
    /// How long a statement of this transaction may take.
    limit: Duration,
    /// Nothing more can be done on this connection.
    pub(super) broken: bool,
}

/// Which life of the log it is.
pub(super) struct Life {
    pub(super) epoch: String,
    pub(super) head: i64,
}

pub(super) fn open(
    context: &str,
    schema: &Schema,
    migrations: EmbeddedMigrations,
) -> Result<Opened, OpenError> {
    let failed = |cause: Failure| OpenError::Database {
        store: StoreAt::Postgres(schema.clone()).to_string(),
        cause,
    };
    let mut pg = connect(schema).map_err(failed)?;
    refuse_unsafe(&mut pg).map_err(failed)?;
    refuse_other_tables(&mut pg, schema, &release::migrations(KIT, migrations))?;
    let meta =
        |pg: &mut PgConnection, key| mesh_meta::table.find(key).select(mesh_meta::value).first(pg);
    let owner: String = meta(&mut pg, "context").map_err(|error| failed(error.into()))?;
    if owner != context {
        return Err(failed(format!("it belongs to the context {owner}, not to {context}").into()));
    }
    let secret: String = meta(&mut pg, "secret").map_err(|error| failed(error.into()))?;
    let mut session = Session::new(&mut pg, schema).map_err(|error| failed(error.into()))?;
    let life = session.life(&mut pg).map_err(|error| failed(error.into()))?;
    let readers = Pool::builder()
        .max_size(READERS)
        .min_idle(Some(1))
        .connection_timeout(Duration::from_millis(250))
        // Each is looked at when it is taken, with the limit that is set then.
        .test_on_check_out(false)
        // Who needs one says what is wrong.
        .error_handler(Box::new(NopErrorHandler))
        .connection_customizer(Box::new(ReadOnly(schema.clone())))
        // The writer has shown that the server is there: who reads waits for a connection, not who starts.
        .build_unchecked(ConnectionManager::<Conn>::new(schema.url()));
    Ok(Opened {
        writer: Conn::Postgres(pg),
        readers,
        engine: Engine::Postgres(session),
        head: life.head,
        epoch: life.epoch,
        secret: secret.into_bytes(),
    })
}

/// A connection that works in the schema, with no more rights than rows need.
pub(super) fn connect(schema: &Schema) -> Result<PgConnection, Failure> {
    let mut pg = PgConnection::establish(&schema.url())?;
    settle(&mut pg, schema)?;
    Ok(pg)
}

fn settle(pg: &mut PgConnection, schema: &Schema) -> QueryResult<()> {
    let role = diesel::sql_query(
        "SELECT true AS has FROM pg_roles WHERE rolname = $1 AND pg_has_role(current_user, oid, 'MEMBER')",
    );
    let role: Vec<Flag> = role.bind::<Text, _>(schema.role()).load(pg)?;
    if !role.is_empty() {
        pg.batch_execute(&format!("SET ROLE \"{}\"", schema.role()))?;
    }
    pg.batch_execute(&format!(
        "SET search_path TO \"{}\"; SET idle_in_transaction_session_timeout = {};
         SET statement_timeout = {}; SET lock_timeout = 0; SET client_min_messages = warning;",
        schema.name(),
        FROZEN.as_millis(),
        LONGEST.as_millis()
    ))
}

#[derive(QueryableByName)]
struct Flag {
    #[diesel(sql_type = Bool)]
    #[expect(dead_code, reason = "what counts is that there is a row")]
    has: bool,
}

#[derive(QueryableByName)]
struct Settings {
    #[diesel(sql_type = Text)]
    fsync: String,
    #[diesel(sql_type = Text)]
    synchronous_commit: String,
    #[diesel(sql_type = Bool)]
    is_a_copy: bool,
}

/// An acknowledged write must be on the disk, and what a copy shows may be older than what was told before.
fn refuse_unsafe(pg: &mut PgConnection) -> Result<(), Failure> {
    let settings: Settings = diesel::sql_query(
        "SELECT current_setting('fsync') AS fsync, pg_is_in_recovery() AS is_a_copy,
         current_setting('synchronous_commit') AS synchronous_commit",
    )
    .get_result(pg)?;
    if settings.is_a_copy {
        return Err("this server is a standby: only the primary will do".into());
    }
    if settings.fsync != "on" {
        return Err("it cannot be durable: fsync is off".into());
    }
    if matches!(settings.synchronous_commit.as_str(), "off" | "local") {
        return Err(format!(
            "it cannot be durable: synchronous_commit is {}",
            settings.synchronous_commit
        )
        .into());
    }
    Ok(())
}

/// The tables are made by a step of their own, and must be those of this release, or of a later one that only added to
/// them.
fn refuse_other_tables(
    pg: &mut PgConnection,
    schema: &Schema,
    migrations: &[EmbeddedMigrations],
) -> Result<(), OpenError> {
    let store = || StoreAt::Postgres(schema.clone()).to_string();
    let failed = |cause: Failure| OpenError::Database { store: store(), cause };
    let there = diesel::sql_query(
        "SELECT true AS has FROM pg_tables WHERE schemaname = $1 AND tablename = '__diesel_schema_migrations'",
    );
    let there: Vec<Flag> =
        there.bind::<Text, _>(schema.name()).load(pg).map_err(|error| failed(error.into()))?;
    if there.is_empty() {
        return Err(OpenError::NotMigrated { store: store() });
    }
    let applied: Vec<String> =
        diesel::dsl::sql::<Text>("SELECT version FROM __diesel_schema_migrations")
            .load(pg)
            .map_err(|error| failed(error.into()))?;
    let known = release::versions::<Pg>(migrations).map_err(failed)?;
    let adds: Vec<String> = release::adds().load(pg).map_err(|error| failed(error.into()))?;
    if let Some(migration) = release::too_new(&applied, &known, &adds) {
        return Err(failed(
            format!(
                "it was written by a newer release (it knows migration {migration}, this one does not)"
            )
            .into(),
        ));
    }
    if known.iter().any(|version| !applied.contains(version)) {
        return Err(OpenError::NotMigrated { store: store() });
    }
    Ok(())
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = Oid)]
    oid: u32,
}

#[derive(QueryableByName)]
struct Origin {
    #[diesel(sql_type = Text)]
    origin: String,
}

impl Session {
    fn new(pg: &mut PgConnection, schema: &Schema) -> QueryResult<Self> {
        let number: Number = diesel::sql_query("SELECT oid FROM pg_namespace WHERE nspname = $1")
            .bind::<Text, _>(schema.name())
            .get_result(pg)?;
        Ok(Self { schema: schema.clone(), number: number.oid, limit: LONGEST, broken: false })
    }

    /// Which life this is: another server, another timeline of it, or another schema begins a new one, since the log may
    /// have gone back.
    fn life(&mut self, pg: &mut PgConnection) -> QueryResult<Life> {
        let number = self.number;
        let origin: Origin = diesel::sql_query(
            "SELECT system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
             || '/' || to_regnamespace(current_schema())::oid AS origin FROM pg_control_system()",
        )
        .get_result(pg)?;
        let origin = origin.origin;
        pg.transaction(|pg| {
            pg.batch_execute(&lock(number))?;
            let head = head(pg)?;
            let last: Option<(String, String)> = mesh_epoch::table
                .order(mesh_epoch::number.desc())
                .select((mesh_epoch::epoch, mesh_epoch::origin))
                .first(pg)
                .optional()?;
            if let Some((epoch, of)) = last
                && of == origin
            {
                return Ok(Life { epoch, head });
            }
            let epoch = crate::uuid().to_string();
            diesel::insert_into(mesh_epoch::table)
                .values((
                    mesh_epoch::epoch.eq(&epoch),
                    mesh_epoch::origin.eq(origin),
                    mesh_epoch::begins_with.eq(head + 1),
                ))
                .execute(pg)?;
            Ok(Life { epoch, head })
        })
    }

    /// Takes the place of the writer, for who has so much time left; the end of the log.
    pub(super) fn begin(&mut self, pg: &mut PgConnection, left: Duration) -> QueryResult<i64> {
        self.limit = limit_of(left, LEAST);
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = {}; {}; {}",
            self.limit.as_millis(),
            lock(self.number),
            savepoint::SAVE
        );
        AnsiTransactionManager::begin_transaction_sql(pg, &begin)?;
        head(pg)
    }

    /// Whether what began then, and failed, took too long for the database.
    pub(super) fn gave_up(&self, begun: Instant) -> bool {
        begun.elapsed() >= self.limit
    }

    /// A new connection in place of one that broke, perhaps to another server.
    pub(super) fn connect_again(&mut self) -> Result<(PgConnection, Life), Failure> {
        let mut pg = connect(&self.schema)?;
        refuse_unsafe(&mut pg)?;
        *self = Self::new(&mut pg, &self.schema)?;
        let life = self.life(&mut pg)?;
        Ok((pg, life))
    }
}

fn lock(number: u32) -> String {
    format!("SELECT pg_advisory_xact_lock({LOCKS}, {})", number.cast_signed())
}

/// The last position of the log. Its last event is never trimmed.
pub(super) fn head(pg: &mut PgConnection) -> QueryResult<i64> {
    let last: Option<i64> = mesh_event::table.select(max(mesh_event::position)).first(pg)?;
    Ok(last.unwrap_or(0))
}

#[derive(Debug)]
struct ReadOnly(Schema);

impl CustomizeConnection<Conn, diesel::r2d2::Error> for ReadOnly {
    fn on_acquire(&self, conn: &mut Conn) -> Result<(), diesel::r2d2::Error> {
        let Conn::Postgres(pg) = conn else { return Ok(()) };
        settle(pg, &self.0)
            // A read that looks more than once sees one moment, as it does in a file.
            .and_then(|()| {
                pg.batch_execute(
                    "SET default_transaction_read_only = on;
                     SET default_transaction_isolation = 'repeatable read';",
                )
            })
            .map_err(diesel::r2d2::Error::QueryError)
    }
}

/// How long a statement may take, where so much time is left: in whole milliseconds, as the server counts.
fn limit_of(left: Duration, least: Duration) -> Duration {
    let limit = left.clamp(least, LONGEST);
    limit - Duration::from_nanos(u64::from(limit.subsec_nanos() % 1_000_000))
}

/// Why a read that began then failed: where it took too long, or its connection broke, that is nobody's mistake.
pub(super) fn why(
    pg: &mut PgConnection,
    error: Error,
    context: &str,
    begun: Instant,
    left: Duration,
) -> Error {
    match error {
        Error::Internal(_) if begun.elapsed() >= limit_of(left, SHORTEST) => {
            Error::DeadlineExceeded
        }
        Error::Internal(_) if !limit(pg, left) => Error::unavailable(context),
        error => error,
    }
}

/// Takes a connection whose statements end with the time that is left. One that is dead says so here, and is not given
/// back (T-46).
pub(super) fn limit(pg: &mut PgConnection, left: Duration) -> bool {
    let limit = format!("SET statement_timeout = {}", limit_of(left, SHORTEST).as_millis());
    let alive = pg.batch_execute(&limit).is_ok();
    if !alive {
        AnsiTransactionManager::transaction_manager_status_mut(pg).set_in_error();
    }
    alive
}

/// Makes the schema of a context, or brings its tables up to date: a step of its own, by somebody who may. The role
/// that contexts work under gets rights on rows alone. Blocking.
///
/// Two at once wait for each other; a table that is in use is waited for no longer than two seconds (T-44).
pub(crate) fn migrate(
    context: &str,
    schema: &Schema,
    migrations: EmbeddedMigrations,
) -> Result<Vec<String>, Failure> {
    let mut pg = PgConnection::establish(&schema.url())?;
    let (name, role) = (schema.name(), schema.role());
    pg.batch_execute("SET client_min_messages = warning; SET lock_timeout = '2s';")?;
    // Not under the limit of other locks: who comes second finds everything done.
    pg.batch_execute(&format!(
        "SET lock_timeout = 0; SELECT pg_advisory_lock({LOCKS}, hashtext('{name}')); SET lock_timeout = '2s';"
    ))?;
    let roles: Vec<Flag> = diesel::sql_query("SELECT true AS has FROM pg_roles WHERE rolname = $1")
        .bind::<Text, _>(&role)
        .load(&mut pg)?;
    if roles.is_empty() {
        // Roles are the server's: another of its databases may be given the same one at this moment.
        pg.batch_execute(&format!(
            "DO $$ BEGIN CREATE ROLE \"{role}\" NOLOGIN;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        ))?;
    }
    pg.batch_execute(&format!(
        "CREATE SCHEMA IF NOT EXISTS \"{name}\"; SET search_path TO \"{name}\";"
    ))?;
    let mut done = Vec::new();
    for source in release::migrations(KIT, migrations) {
        done.extend(pg.run_pending_migrations(source)?.iter().map(ToString::to_string));
    }
    for (key, value) in [("context", context.to_owned()), ("secret", crate::auth::random_text())] {
        diesel::insert_into(mesh_meta::table)
            .values((mesh_meta::key.eq(key), mesh_meta::value.eq(value)))
            .on_conflict_do_nothing()
            .execute(&mut pg)?;
    }
    pg.batch_execute(&format!(
        "GRANT USAGE ON SCHEMA \"{name}\" TO \"{role}\";
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \"{name}\" TO \"{role}\";
         REVOKE INSERT, UPDATE, DELETE ON \"{name}\".__diesel_schema_migrations FROM \"{role}\";
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA \"{name}\" TO \"{role}\";"
    ))?;
    Ok(done)
}
