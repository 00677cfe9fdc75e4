//! Processes that serve the same context on the same store, and share its work.
//!
//! Each has a row with a time up to which it lives, and writes it anew before that. Those that live share the sixteen
//! partitions of every policy by their order; the first of them also does what one alone should do. A process that is
//! taken for dead and is not harms nobody: cursors refuse what somebody else has done.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, Result};
use crate::events::ALL;
use crate::partition::PARTITIONS;
use crate::store::schema::mesh_replica;
use crate::store::{Store, Tx};

/// How long a process lives after a sign of life.
const LIFE: Duration = Duration::from_secs(4);
/// How often it gives one.
const SIGN: Duration = Duration::from_secs(1);

/// Which partitions are handled in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Share(watch::Receiver<Arc<[i32]>>);

impl Share {
    /// All of it.
    pub(crate) fn whole() -> Self {
        Self(watch::channel(Arc::from([ALL])).1)
    }

    /// As it is now; [`Share::changed`] says when it is another.
    pub(crate) fn take(&mut self) -> Arc<[i32]> {
        self.0.borrow_and_update().clone()
    }

    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Does what one process alone should do, for as long as this is the one.
    pub(crate) async fn lead(mut self, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        loop {
            self.until(true).await;
            tokio::select! {
                biased;
                () = self.until(false) => {}
                () = &mut work => return,
            }
        }
    }

    async fn until(&mut self, leading: bool) {
        let leads = |share: &[i32]| share.iter().any(|partition| *partition <= 0);
        if self.0.wait_for(|share| leads(share) == leading).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One process among those of a context.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    name: Arc<str>,
    store: Store,
}

impl Replica {
    /// A process that is about to serve the context of this store.
    pub(crate) fn new(store: Store) -> Self {
        Self { name: crate::uuid().to_string().into(), store }
    }

    /// What it has to do, and what keeps it alive. On a store that nobody else can have, that is all, and nothing.
    pub(crate) fn join(&self) -> (Share, Option<impl Future<Output = ()> + use<>>) {
        if !self.store.is_shared() {
            return (Share::whole(), None);
        }
        let (sender, share) = watch::channel(Arc::from([]));
        (Share(share), Some(self.clone().live(sender)))
    }

    async fn live(self, share: watch::Sender<Arc<[i32]>>) {
        let mut dead_at = Instant::now();
        loop {
            let begun = Instant::now();
            let sign = timeout(LIFE, self.give_sign()).await;
            let partitions = match sign.unwrap_or(Err(Error::DeadlineExceeded)) {
                Ok(partitions) => {
                    dead_at = begun + LIFE;
                    Some(partitions)
                }
                Err(error) => {
                    tracing::warn!(context = self.store.context(), %error, "no sign of life could be given");
                    // The others share what was ours.
                    (Instant::now() >= dead_at).then(Vec::new)
                }
            };
            if let Some(partitions) = partitions {
                share.send_if_modified(|before| {
                    let changed = **before != *partitions;
                    *before = partitions.into();
                    changed
                });
            }
            sleep(SIGN).await;
        }
    }

    /// Says that it lives; what its share is among those that do.
    async fn give_sign(&self) -> Result<Vec<i32>> {
        let name = self.name.clone();
        self.store
            .write(move |tx| {
                let now = time_of_database(tx)?;
                let until = mesh_replica::until.eq(now + micros(LIFE));
                let row = mesh_replica::table.find(&*name);
                if diesel::update(row).set(until).execute(&mut **tx)? == 0 {
                    diesel::insert_into(mesh_replica::table)
                        .values((mesh_replica::name.eq(&*name), until))
                        .execute(&mut **tx)?;
                }
                let dead = mesh_replica::table.filter(mesh_replica::until.lt(now));
                diesel::delete(dead).execute(&mut **tx)?;
                let living: Vec<String> = mesh_replica::table
                    .order(mesh_replica::name)
                    .select(mesh_replica::name)
                    .load(&mut **tx)?;
                Ok(share_of(&name, &living))
            })
            .await
    }

    /// Leaves its share to the others, now.
    pub(crate) async fn leave(&self) {
        if !self.store.is_shared() {
            return;
        }
        let name = self.name.clone();
        let left = self.store.write(move |tx| {
            diesel::delete(mesh_replica::table.find(&*name)).execute(&mut **tx)?;
            Ok(())
        });
        if let Err(error) = left.await {
            tracing::warn!(context = self.store.context(), %error, "the others wait until this process is taken for dead");
        }
    }
}

/// The partitions of one among those that live.
fn share_of(name: &str, living: &[String]) -> Vec<i32> {
    let Some(place) = living.iter().position(|other| other == name) else { return Vec::new() };
    (0..i32::try_from(PARTITIONS).unwrap_or(0))
        .zip((0..living.len()).cycle())
        .filter(|(_, of)| *of == place)
        .map(|(partition, _)| partition)
        .collect()
}

/// The clock that all processes have in common.
fn time_of_database(tx: &mut Tx<'_>) -> QueryResult<i64> {
    diesel::select(diesel::dsl::sql::<BigInt>(
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    ))
    .get_result(&mut **tx)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g20_every_partition_has_one_process_and_none_has_many_more() {
        for count in 1..=20 {
            let living: Vec<String> = (0..count).map(|number| format!("{number:02}")).collect();
            let shares: Vec<_> = living.iter().map(|name| share_of(name, &living)).collect();
            let mut all: Vec<_> = shares.concat();
            all.sort_unstable();
            assert_eq!(all, (0..16).collect::<Vec<_>>(), "{count} processes");
            let sizes = shares.iter().map(Vec::len);
            assert!(sizes.clone().max() <= sizes.min().map(|least| least + 1), "{count} processes");
            assert!(shares[0].contains(&0), "the first leads");
        }
        assert_eq!(share_of("dead", &["alive".to_owned()]), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_alone_should_do_stands_still_while_another_leads() {
        let (share, receiver) = watch::channel(Arc::from([]));
        let ticks = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = ticks.clone();
        let work = async move {
            loop {
                sleep(Duration::from_secs(1)).await;
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        };
        tokio::spawn(Share(receiver).lead(work));
        let mut seen = Vec::new();
        for partitions in [vec![1, 3], vec![0, 2], vec![1]] {
            share.send_replace(partitions.into());
            sleep(Duration::from_millis(10_500)).await;
            seen.push(ticks.load(std::sync::atomic::Ordering::Relaxed));
        }
        assert_eq!(seen, [0, 10, 10]);
    }
}
