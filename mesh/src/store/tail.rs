//! The end of the log in memory: who follows the log live finds there what was just committed, and need not read it
//! from the disk again. The table alone is the truth.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use proto::mesh::v1 as api;

/// How many events are kept at the most, and how many bytes of payload.
const EVENTS: usize = 2048;
const BYTES: usize = 4 << 20;

/// The last events of a log. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Tail(Arc<RwLock<Recent>>);

#[derive(Default)]
struct Recent {
    /// Their positions follow each other.
    events: VecDeque<Arc<api::Event>>,
    bytes: usize,
}

impl Tail {
    /// Takes what a commit has added to the log.
    pub(super) fn extend(&self, added: impl Iterator<Item = Arc<api::Event>>) {
        let mut recent = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for event in added {
            recent.bytes += event.data.len();
            recent.events.push_back(event);
            while recent.events.len() > EVENTS || recent.bytes > BYTES {
                let Some(oldest) = recent.events.pop_front() else { break };
                recent.bytes -= oldest.data.len();
            }
        }
    }

    /// Forgets everything: what comes next does not follow on it.
    pub(super) fn clear(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Recent::default();
    }

    /// The events of the positions `after + 1` to `upto`, if they are all here.
    pub(super) fn stretch(&self, after: i64, upto: i64) -> Option<Vec<Arc<api::Event>>> {
        let recent = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let first = i64::try_from(recent.events.front()?.position).ok()?;
        let from = usize::try_from(after + 1 - first).ok()?;
        let to = usize::try_from(upto + 1 - first).ok()?;
        (to <= recent.events.len()).then(|| recent.events.range(from..to).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(positions: std::ops::RangeInclusive<u64>, size: usize) -> Vec<Arc<api::Event>> {
        let event =
            |position| api::Event { position, data: vec![0; size], ..api::Event::default() };
        positions.map(|position| Arc::new(event(position))).collect()
    }

    fn positions(tail: &Tail, after: i64, upto: i64) -> Option<Vec<u64>> {
        let events = tail.stretch(after, upto)?;
        Some(events.iter().map(|event| event.position).collect())
    }

    #[test]
    fn a_stretch_is_here_whole_or_not_at_all() {
        let tail = Tail::default();
        assert_eq!(positions(&tail, 0, 0), None, "nothing was committed yet");
        tail.extend(events(5..=9, 1).into_iter());
        assert_eq!(positions(&tail, 5, 7), Some(vec![6, 7]));
        assert_eq!(positions(&tail, 4, 9), Some(vec![5, 6, 7, 8, 9]));
        assert_eq!(positions(&tail, 3, 9), None, "4 is on the disk alone");
        assert_eq!(positions(&tail, 8, 10), None, "10 is not committed");
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let tail = Tail::default();
        tail.extend(events(1..=3000, 1).into_iter());
        assert_eq!(positions(&tail, 952, 953), Some(vec![953]));
        assert_eq!(positions(&tail, 951, 953), None, "{EVENTS} are kept");
        tail.extend(events(3001..=3003, BYTES / 2).into_iter());
        assert_eq!(positions(&tail, 3001, 3003), Some(vec![3002, 3003]));
        assert_eq!(positions(&tail, 3000, 3003), None, "{BYTES} bytes are kept");
    }
}
