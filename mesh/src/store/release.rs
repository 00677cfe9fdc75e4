//! Which releases a store is for.
//!
//! A release goes on with a store that a later one has only added to: so an update replaces replicas one by one, and is
//! taken back in the same way (T-44: expand, and contract in a later release). A migration that only adds says so in
//! the store:
//!
//! ```sql
//! INSERT INTO mesh_meta (key, value) VALUES ('adds/00002', 'a column of the log');
//! ```
//!
//! Any other that a release does not know stops it.

use diesel::backend::Backend;
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel_migrations::EmbeddedMigrations;

use super::open::Failure;
use super::schema::mesh_meta;

/// What the key begins with under which a migration says that it only adds; its version follows.
const ADDS: &str = "adds/";

/// Such keys of a store.
#[diesel::dsl::auto_type(no_type_alias)]
pub(super) fn adds() -> _ {
    let adds: String = format!("{ADDS}%");
    mesh_meta::table.filter(mesh_meta::key.like(adds)).select(mesh_meta::key)
}

/// The migrations of this release: the kit's, then the context's.
pub(super) fn migrations(
    kit: EmbeddedMigrations,
    own: EmbeddedMigrations,
) -> Vec<EmbeddedMigrations> {
    let all = [kit, own].into_iter();
    #[cfg(feature = "chaos")]
    let all = all.chain(next::is_this().then_some(next::TABLES));
    all.collect()
}

/// The versions of these migrations.
pub(super) fn versions<DB: Backend>(
    migrations: &[EmbeddedMigrations],
) -> Result<Vec<String>, Failure> {
    let mut versions = Vec::new();
    for source in migrations {
        let migrations: Vec<Box<dyn Migration<DB>>> = source.migrations()?;
        versions.extend(migrations.iter().map(|migration| migration.name().version().to_string()));
    }
    Ok(versions)
}

/// Of the migrations that a store has been through, one that this release does not know and cannot go on beside. `adds`
/// are the keys that say which only add.
pub(super) fn too_new<'a>(
    applied: &'a [String],
    known: &[String],
    adds: &[String],
) -> Option<&'a String> {
    let only_adds =
        |version: &String| adds.iter().any(|key| key.strip_prefix(ADDS) == Some(version));
    applied.iter().find(|version| !known.contains(version) && !only_adds(version))
}

/// The release after this one, which a test lets a process be: it has a table and a column more, and its events have a
/// field more and are followed by one that nobody knows.
#[cfg(feature = "chaos")]
pub(crate) mod next {
    use std::sync::LazyLock;

    use diesel_migrations::{EmbeddedMigrations, embed_migrations};

    /// The variable that says so.
    pub const NEXT_RELEASE: &str = "TURNSTILE_NEXT_RELEASE";

    /// The same for each engine.
    pub(super) const TABLES: EmbeddedMigrations = embed_migrations!("migrations/next_release");

    /// A field that this release does not know, as it is on the wire: number 1999, a text of four letters.
    pub(crate) const FIELD: &[u8] = b"\xfa\x7c\x04next";

    pub(crate) fn is_this() -> bool {
        static IS_THIS: LazyLock<bool> = LazyLock::new(|| std::env::var_os(NEXT_RELEASE).is_some());
        *IS_THIS
    }

    /// The event that follows one of this type.
    pub(crate) fn event_after(kind: &str) -> String {
        let package = kind.rsplit_once('.').map_or("", |(package, _)| package);
        format!("{package}.NotedByTheNextRelease")
    }
}

#[cfg(test)]
mod tests {
    use super::too_new;

    #[test]
    fn t44_a_release_goes_on_beside_a_migration_that_only_adds_and_beside_no_other() {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (known, adds) = (texts(&["0000", "10000"]), texts(&["adds/00001", "adds/1000"]));
        let cases = [
            (texts(&["0000", "10000"]), None),
            (texts(&["0000"]), None),
            (texts(&["0000", "00001", "10000"]), None),
            (texts(&["0000", "00002", "10000"]), Some("00002")),
            (texts(&["0000", "00001", "10001"]), Some("10001")),
        ];
        for (applied, refused) in cases {
            assert_eq!(
                too_new(&applied, &known, &adds).map(String::as_str),
                refused,
                "{applied:?}"
            );
        }
    }
}
