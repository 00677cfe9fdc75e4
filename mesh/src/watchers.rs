//! Those who watch what is their own, among much that changes: one looks for all of them, and tells each what concerns
//! it.
//!
//! A stream that looked for itself would have to look after every commit, whoever's it was.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::{Message, Name};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::error::Result;
use crate::events::{Wanted, payload};
use crate::log_service::read;
use crate::store::Store;

/// How many changes wait for a watcher at the most.
const WAITING: usize = 100;

type ByWhose<C> = HashMap<String, Vec<Sender<C>>>;

/// Everybody who watches, by whose things they watch. Cheap to clone.
pub struct Watchers<C>(Arc<Mutex<ByWhose<C>>>);

impl<C> Clone for Watchers<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> Default for Watchers<C> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<C> fmt::Debug for Watchers<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers").field("whose", &self.lock().len()).finish()
    }
}

impl<C> Watchers<C> {
    fn lock(&self) -> MutexGuard<'_, ByWhose<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One who is told what concerns `whose` from here on. What there is before, it reads itself, after this call: so
    /// it misses nothing.
    pub fn watch(&self, whose: &str) -> Watcher<C> {
        let (sender, changes) = mpsc::channel(WAITING);
        self.lock().entry(whose.to_owned()).or_default().push(sender);
        Watcher { changes, whose: whose.to_owned(), among: self.clone() }
    }

    /// Whether nobody watches. What is not looked for then must have been seen before this is asked.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Tells those whom it concerns. Who has not taken what was told before, and has too much waiting, is dismissed.
    pub fn tell(&self, whose: &str, change: &C)
    where
        C: Clone,
    {
        if let Some(its) = self.lock().get_mut(whose) {
            its.retain(|watcher| watcher.try_send(change.clone()).is_ok());
        }
    }

    /// Dismisses all: they may have missed something.
    pub fn dismiss(&self) {
        self.lock().clear();
    }
}

impl Watchers<()> {
    /// Tells of the events of a kind that come into the context's own log, for as long as it runs; `whose` says whom one
    /// concerns. Who is told finds in the store what it is.
    pub async fn tell_of_events<M: Message + Name + Default>(
        self,
        store: Store,
        whose: fn(M) -> String,
    ) {
        let mut heads = store.head();
        let mut told = *heads.borrow_and_update();
        while heads.changed().await.is_ok() {
            let head = *heads.borrow_and_update();
            if let Err(error) = self.tell_stretch(&store, told, head, whose).await {
                tracing::warn!(context = store.context(), %error, "what is watched was not read: who watches reads it");
                self.dismiss();
            }
            told = head;
        }
    }

    async fn tell_stretch<M: Message + Name + Default>(
        &self,
        store: &Store,
        after: i64,
        upto: i64,
        whose: fn(M) -> String,
    ) -> Result<()> {
        if upto < after {
            // Another log, or an older one.
            self.dismiss();
        }
        if self.is_empty() {
            return Ok(());
        }
        let wanted = Wanted { types: vec![M::full_name()], partitions: Vec::new() };
        for event in read(store, after, upto, &wanted).await? {
            self.tell(&whose(payload(&event)?), &());
        }
        Ok(())
    }
}

/// One who watches.
pub struct Watcher<C> {
    changes: Receiver<C>,
    whose: String,
    among: Watchers<C>,
}

impl<C> fmt::Debug for Watcher<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("whose", &self.whose).finish_non_exhaustive()
    }
}

impl<C> Watcher<C> {
    /// What it was told since the last time, a hundred changes at the most, as soon as there is something. None once it
    /// is dismissed: who goes on watches anew, and reads what it missed.
    pub async fn next(&mut self) -> Option<Vec<C>> {
        let mut changes = Vec::new();
        (self.changes.recv_many(&mut changes, WAITING).await > 0).then_some(changes)
    }
}

impl<C> Drop for Watcher<C> {
    fn drop(&mut self) {
        self.changes.close();
        let mut watchers = self.among.lock();
        if let Some(its) = watchers.get_mut(&self.whose) {
            its.retain(|watcher| !watcher.is_closed());
            if its.is_empty() {
                watchers.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_is_told_what_concerns_it() {
        let watchers = Watchers::default();
        let (mut ann, mut bob) = (watchers.watch("ann"), watchers.watch("bob"));
        let mut ann_too = watchers.watch("ann");
        for (whose, change) in [("ann", 1), ("bob", 2), ("nobody", 3), ("ann", 4)] {
            watchers.tell(whose, &change);
        }
        assert_eq!(ann.next().await, Some(vec![1, 4]));
        assert_eq!(ann_too.next().await, Some(vec![1, 4]));
        assert_eq!(bob.next().await, Some(vec![2]));
    }

    #[tokio::test]
    async fn who_takes_too_slowly_is_dismissed_and_may_come_again() {
        let watchers = Watchers::default();
        let (mut slow, mut quick) = (watchers.watch("ann"), watchers.watch("ann"));
        for change in 0..=WAITING {
            watchers.tell("ann", &change);
            assert_eq!(quick.next().await, Some(vec![change]));
        }
        assert_eq!(slow.next().await.map(|waited| waited.len()), Some(WAITING));
        assert_eq!(slow.next().await, None);
        slow = watchers.watch("ann");
        watchers.tell("ann", &7);
        assert_eq!(slow.next().await, Some(vec![7]));
        assert_eq!(quick.next().await, Some(vec![7]));
    }

    #[tokio::test]
    async fn all_are_dismissed_where_something_may_be_missed() {
        let watchers = Watchers::default();
        let mut ann = watchers.watch("ann");
        watchers.tell("ann", &1);
        watchers.dismiss();
        assert_eq!(ann.next().await, Some(vec![1]));
        assert_eq!(ann.next().await, None);
    }

    #[test]
    fn who_goes_leaves_nothing_behind() {
        let watchers = Watchers::<()>::default();
        let (one, other) = (watchers.watch("ann"), watchers.watch("ann"));
        drop(one);
        assert!(!watchers.is_empty());
        watchers.dismiss();
        let again = watchers.watch("ann");
        drop(other);
        assert!(!watchers.is_empty(), "who was dismissed takes nobody with it");
        drop(again);
        assert!(watchers.is_empty());
    }
}
