//! A copy of a store as it was at one moment, made while the store goes on.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_migrations::EmbeddedMigrations;
use tokio::sync::mpsc;

use super::open::{Failure, OpenError};
use super::schema::{mesh_cursor, mesh_event_head, mesh_meta};
use super::sqlite::{KIT, refuse_newer, refuse_others};
use super::{Store, release};
use crate::error::{Error, Result};

/// How long to wait for a writer: longer than any write takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// While it is there, the store commits nothing.
#[derive(Debug)]
pub(crate) struct Hold(#[expect(dead_code, reason = "what counts is when it goes")] Release);

type Release = std::sync::mpsc::Sender<()>;

impl Store {
    /// Waits for the writer's place and keeps it: whoever writes waits until the answer is dropped.
    pub(crate) async fn hold(&self) -> Result<Hold> {
        let (release, released) = std::sync::mpsc::channel();
        let released = Arc::new(Mutex::new(released));
        let (reached, mut held) = mpsc::channel(1);
        let store = self.clone();
        // In a task of its own: it ends when the place is given back, not before.
        tokio::spawn(async move {
            let work = move |_: &mut super::Tx<'_>| {
                let _ = reached.try_send(());
                // An error says that the other side is gone, which is what we wait for.
                let _ = released.lock().unwrap_or_else(PoisonError::into_inner).recv();
                Ok(())
            };
            store.write(work).await
        });
        match tokio::time::timeout(PATIENCE, held.recv()).await {
            Ok(Some(())) => Ok(Hold(release)),
            _ => Err(Error::unavailable(self.context())),
        }
    }
}

/// A copy that is being made.
pub(crate) struct Copy {
    conn: SqliteConnection,
}

#[derive(QueryableByName)]
struct Item {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    sql: String,
}

impl Copy {
    /// Gets ready to copy the store in `source` to a new file.
    pub(crate) fn prepare(source: &Path, file: &Path) -> Result<Self, Failure> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        let mut conn = SqliteConnection::establish(&file.to_string_lossy())?;
        conn.batch_execute(
            "PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF;",
        )?;
        diesel::sql_query("ATTACH ? AS source")
            .bind::<Text, _>(source.to_string_lossy())
            .execute(&mut conn)?;
        Ok(Self { conn })
    }

    /// Fixes the moment that the copy will show, however long the copying takes.
    pub(crate) fn fix(&mut self) -> Result<(), Failure> {
        self.conn.batch_execute("BEGIN; SELECT count(*) FROM source.mesh_meta;")?;
        Ok(())
    }

    /// Copies everything, onto the disk.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let items: Vec<Item> = diesel::sql_query(
            "SELECT type AS kind, name, sql FROM source.sqlite_schema \
             WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )
        .load(&mut self.conn)?;
        let (tables, others): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| item.kind == "table");
        let numbered = tables.iter().any(|table| table.sql.contains("AUTOINCREMENT"));
        for Item { name, sql, .. } in tables {
            let rows = format!("INSERT INTO main.\"{name}\" SELECT * FROM source.\"{name}\"");
            self.conn.batch_execute(&sql)?;
            self.conn.batch_execute(&rows)?;
        }
        // Numbers that were given once are not given again (T-04).
        if numbered {
            self.conn.batch_execute(
                "DELETE FROM main.sqlite_sequence;
                 INSERT INTO main.sqlite_sequence SELECT * FROM source.sqlite_sequence;",
            )?;
        }
        // Behind the rows: an index is made faster at once than row by row.
        for Item { sql, .. } in others {
            self.conn.batch_execute(&sql)?;
        }
        self.conn.batch_execute("COMMIT")?;
        Ok(())
    }
}

/// What a copy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) context: String,
    pub(crate) epoch: String,
    /// The last position of its log.
    pub(crate) head: i64,
}

/// The cursors of a copy: policy, source, epoch and position.
pub(crate) type Cursors = Vec<(String, String, String, i64)>;

/// A copy that nobody else has open: to look into it, and to give it a new life.
pub(crate) struct Closed {
    conn: SqliteConnection,
}

impl Closed {
    pub(crate) fn open(file: &Path) -> Result<Self, Failure> {
        let mut conn = SqliteConnection::establish(&file.to_string_lossy())?;
        conn.batch_execute("PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL;")?;
        Ok(Self { conn })
    }

    /// Refuses a file that is damaged, is not of this context, or was written by a newer release.
    pub(crate) fn check(
        &mut self,
        file: &Path,
        context: &str,
        migrations: Option<EmbeddedMigrations>,
    ) -> Result<(), OpenError> {
        let sqlite = &mut self.conn;
        let found = diesel::dsl::sql::<Text>("SELECT integrity_check FROM pragma_integrity_check")
            .get_result::<String>(sqlite);
        let why = match found {
            Ok(found) if found == "ok" => None,
            Ok(found) => Some(found),
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = why {
            let cause = format!("it is damaged: {why}").into();
            return Err(OpenError::Failed { file: file.to_owned(), cause });
        }
        refuse_others(sqlite, context, file)?;
        let known = migrations.map(|own| release::migrations(KIT, own));
        known.map_or(Ok(()), |known| refuse_newer(sqlite, &known, file))
    }

    pub(crate) fn facts(&mut self) -> Result<Facts, Failure> {
        let mut meta = |key: &str| {
            mesh_meta::table.find(key).select(mesh_meta::value).first::<String>(&mut self.conn)
        };
        let (context, epoch) = (meta("context")?, meta("epoch")?);
        let head =
            mesh_event_head::table.select(mesh_event_head::position).first(&mut self.conn)?;
        Ok(Facts { context, epoch, head })
    }

    pub(crate) fn cursors(&mut self) -> Result<Cursors, Failure> {
        Ok(mesh_cursor::table
            .select((
                mesh_cursor::policy,
                mesh_cursor::source,
                mesh_cursor::epoch,
                mesh_cursor::position,
            ))
            .load(&mut self.conn)?)
    }

    /// A new epoch for its own log, and for its cursors in the logs that begin a new one with it: source, old, new.
    pub(crate) fn begin_epoch(
        &mut self,
        own: &str,
        others: &[(String, String, String)],
    ) -> Result<(), Failure> {
        self.conn.transaction::<_, diesel::result::Error, _>(|conn| {
            diesel::update(mesh_meta::table.find("epoch"))
                .set(mesh_meta::value.eq(own))
                .execute(conn)?;
            for (source, old, new) in others {
                let cursors = mesh_cursor::table
                    .filter(mesh_cursor::source.eq(source))
                    .filter(mesh_cursor::epoch.eq(old));
                diesel::update(cursors).set(mesh_cursor::epoch.eq(new)).execute(conn)?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use diesel_migrations::embed_migrations;
    use proto::identity::v1::AccountCreated;

    use super::*;
    use crate::store::{Migrations, StoreAt};

    const MIGRATIONS: Migrations = Migrations {
        sqlite: embed_migrations!("tests/migrations/sqlite"),
        postgres: embed_migrations!("tests/migrations/postgres"),
    };

    async fn publish(store: &Store) {
        let subject = crate::Id::<crate::Accounts>::new().to_string();
        let write = store.write(move |tx| {
            tx.publish(&subject, &subject, &AccountCreated { account: subject.clone() })
        });
        write.await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_committed_while_a_store_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Store::open("identity", &StoreAt::File(folder.path().join("a.sqlite")), MIGRATIONS)
                .unwrap();
        publish(&store).await;
        let held = store.hold().await.unwrap();
        let writer = store.clone();
        let write = tokio::spawn(async move { publish(&writer).await });
        // The writer sees its work only when the place is given back; reads go on.
        let count =
            store.read(|conn| Ok(mesh_event_head::table.count().get_result::<i64>(conn)?));
        assert_eq!(count.await.unwrap(), 1);
        assert!(!write.is_finished());
        assert_eq!(*store.head().borrow(), 1);
        drop(held);
        write.await.unwrap();
        assert_eq!(*store.head().borrow(), 2);
    }

    #[tokio::test]
    async fn a_copy_shows_the_moment_that_was_fixed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, target) = (folder.path().join("a.sqlite"), folder.path().join("b.sqlite"));
        let store = Store::open("identity", &StoreAt::File(file.clone()), MIGRATIONS).unwrap();
        publish(&store).await;
        let mut copy = Copy::prepare(&file, &target).unwrap();
        publish(&store).await;
        copy.fix().unwrap();
        publish(&store).await;
        copy.finish().unwrap();
        let mut copy = Closed::open(&target).unwrap();
        copy.check(&target, "identity", Some(MIGRATIONS.sqlite)).unwrap();
        let facts = copy.facts().unwrap();
        assert_eq!((facts.context.as_str(), facts.head), ("identity", 2));
        assert_eq!(*facts.epoch, *store.epoch());
        assert_eq!(*store.head().borrow(), 3);
    }

    #[tokio::test]
    async fn a_copy_has_the_tables_and_indexes_of_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let (file, target) = (folder.path().join("a.sqlite"), folder.path().join("b.sqlite"));
        let store = Store::open("identity", &StoreAt::File(file.clone()), MIGRATIONS).unwrap();
        let mut copy = Copy::prepare(&file, &target).unwrap();
        copy.fix().unwrap();
        copy.finish().unwrap();
        store.close().await;
        let schema = |file: &Path| {
            let mut conn = SqliteConnection::establish(&file.to_string_lossy()).unwrap();
            let query = "SELECT type AS kind, name, coalesce(sql, '') AS sql FROM sqlite_schema ORDER BY name";
            let items: Vec<Item> = diesel::sql_query(query).load(&mut conn).unwrap();
            items.into_iter().map(|item| (item.kind, item.name, item.sql)).collect::<Vec<_>>()
        };
        assert_eq!(schema(&file), schema(&target));
    }
}
