//! The entries of the registry as last read: the end of each node's lease, and the rows to delete.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::gate::LEASE;

/// The maximum drift of two monotonic clocks over the length of a lease.
pub(super) const CLOCK_MARGIN: Duration = Duration::from_millis(100);
/// The time for which rows of dead nodes are kept, so that their names can be reported.
const DEAD_ROW_RETENTION: Duration = Duration::from_secs(3_600);
/// The maximum number of such rows: a node may crash repeatedly.
const MAX_DEAD_ROWS: usize = 100;

/// A row of the registry, and the time at which its last renewal was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistryEntry {
    pub id: Uuid,
    pub name: Arc<str>,
    pub renewals: u64,
    /// The time at which this renewal was first seen here: not before it was committed.
    pub renewal_seen_at: Instant,
    pub applied: u64,
    /// The keys that the node has and uses, as it announces them.
    pub keys: Arc<[String]>,
}

impl RegistryEntry {
    /// The latest end of a lease from this renewal, on any node.
    pub fn lease_end(&self) -> Instant {
        self.renewal_seen_at + LEASE + CLOCK_MARGIN
    }

    pub fn lease_is_over(&self, now: Instant) -> bool {
        now >= self.lease_end()
    }
}

/// The rows of dead nodes to delete: those dead for too long, and the longest dead beyond the maximum.
pub(super) fn rows_to_sweep(nodes: &[RegistryEntry], now: Instant) -> impl Iterator<Item = &RegistryEntry> {
    let mut dead: Vec<&RegistryEntry> = nodes.iter().filter(|node| node.lease_is_over(now)).collect();
    dead.sort_by_key(|node| std::cmp::Reverse(node.renewal_seen_at));
    dead.into_iter()
        .enumerate()
        .filter(move |(place, node)| {
            *place >= MAX_DEAD_ROWS || now.duration_since(node.renewal_seen_at) >= DEAD_ROW_RETENTION
        })
        .map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_rows_are_swept_after_an_hour_and_the_oldest_beyond_a_hundred() {
        let start = Instant::now();
        let node = |number: u64, renewal_seen_at| RegistryEntry {
            id: Uuid::from_u128(number.into()),
            name: "node".into(),
            renewals: number,
            renewal_seen_at,
            applied: 0,
            keys: Arc::default(),
        };
        let ids =
            |nodes: &[RegistryEntry], now| rows_to_sweep(nodes, now).map(|node| node.renewals).collect::<Vec<_>>();
        let now = start + DEAD_ROW_RETENTION;
        let nodes = [node(1, start), node(2, start + Duration::from_secs(1)), node(3, now)];
        assert_eq!(ids(&nodes, now), [1], "the second was there a second longer, and the third lives");

        let many: Vec<RegistryEntry> =
            (0..103).map(|number| node(number, start + Duration::from_millis(number))).collect();
        let dead = start + LEASE + CLOCK_MARGIN + Duration::from_secs(1);
        assert_eq!(ids(&many, dead), [2, 1, 0]);
        let living = start + Duration::from_secs(1);
        assert!(ids(&many, living).is_empty(), "however many live");
    }
}
