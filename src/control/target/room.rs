//! A target whose rows did not fit into the store: when it is listed again, and what is said of it.

use std::time::Duration;

use tokio::time::Instant;

use super::some;
use crate::model::Namespace;
use crate::store::Store;

/// The first pause before another list.
const FIRST: Duration = Duration::from_secs(30);
/// The longest.
const LONGEST: Duration = Duration::from_mins(10);
/// There is room again below this share of the budget, in percent: a list that fails just above it would fail for ever.
const ROOM: usize = 90;
const MIB: usize = 1 << 20;

/// How full the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    bytes: usize,
    budget: Option<usize>,
}

impl Fill {
    pub(super) fn of(store: &Store) -> Self {
        Self { bytes: store.bytes(), budget: store.budget() }
    }

    fn has_room(self) -> bool {
        self.budget.is_none_or(|budget| self.bytes < budget / 100 * ROOM)
    }

    /// Says what does not fit, and what to do.
    pub(super) fn message(self, over_budget: &[Namespace]) -> String {
        let named = some(over_budget.iter().filter(|namespace| !namespace.is_empty()));
        let place = if named.is_empty() { String::new() } else { format!(" of {named}") };
        let figures = self.budget.map_or_else(String::new, |budget| {
            format!("{} of {} MiB are in use; ", self.bytes.div_ceil(MIB), budget.div_ceil(MIB))
        });
        format!(
            "rows{place} do not fit into the store: {figures}what is there stays as it is, and nothing is removed from a \
             sink. Raise --store-budget or the memory limit, or select fewer objects or attributes"
        )
    }
}

/// When the next list of what did not fit may begin.
#[derive(Debug, Default)]
pub(super) struct Room {
    next: Option<(Instant, Duration)>,
}

impl Room {
    /// Tells whether to list again now; called often.
    pub(super) fn turn(&mut self, over_budget: &[Namespace], fill: Fill, now: Instant) -> bool {
        if over_budget.is_empty() {
            self.next = None;
            return false;
        }
        let (at, pause) = *self.next.get_or_insert((now + FIRST, FIRST));
        if now < at || !fill.has_room() {
            return false;
        }
        let pause = (pause * 2).min(LONGEST);
        self.next = Some((now + pause, pause));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Fill = Fill { bytes: 950 << 10, budget: Some(1 << 20) };
    const HALF: Fill = Fill { bytes: 512 << 10, budget: Some(1 << 20) };

    #[tokio::test(start_paused = true)]
    async fn what_did_not_fit_is_listed_again_at_growing_intervals_while_there_is_room() {
        let (mut room, start) = (Room::default(), Instant::now());
        let over = [Namespace::new("a")];
        let turns: Vec<u64> =
            (0..4000).filter(|second| room.turn(&over, HALF, start + Duration::from_secs(*second))).collect();
        assert_eq!(turns, [30, 90, 210, 450, 930, 1530, 2130, 2730, 3330, 3930]);
        let later = start + Duration::from_secs(4600);
        assert!(!room.turn(&over, FULL, later), "there is no room");
        assert!(room.turn(&over, HALF, later));
        assert!(!room.turn(&[], HALF, later));
        assert!(!room.turn(&over, HALF, later), "it counts anew");
        assert!(room.turn(&over, HALF, later + FIRST));
    }

    #[test]
    fn the_message_has_figures_and_says_what_to_do() {
        let message = FULL.message(&[Namespace::new("a"), Namespace::new("b")]);
        assert_eq!(
            message,
            "rows of a, b do not fit into the store: 1 of 1 MiB are in use; what is there stays as it is, and nothing is \
             removed from a sink. Raise --store-budget or the memory limit, or select fewer objects or attributes"
        );
        assert!(FULL.message(&[Namespace::new("")]).starts_with("rows do not fit into the store: 1 of"));
    }
}
