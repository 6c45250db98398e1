//! What one evaluation may cost: steps, bytes, and time as the last resort.

use std::any::Any;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::cel::common::types::{CelBytes, CelList, CelMap, CelString, Type};
use ::cel::common::value::{StaticVal, Val};

/// Loop steps of one evaluation: some 30 ms, a thousand times what a sensible attribute takes.
pub const BUDGET_STEPS: u32 = 100_000;

/// Bytes that one evaluation may build, all intermediate values together.
const BUDGET_BYTES: usize = 16 * 1024 * 1024;

/// One step may still be slow, such as a search through a megabyte of text. Far above what [`BUDGET_STEPS`] take even on
/// a busy machine, so that it never decides over an expression that is merely unlucky.
const BUDGET_TIME: Duration = Duration::from_secs(2);

/// Steps between two looks at the clock.
const CLOCK_EVERY: u32 = 64;

/// What an evaluation has used up.
#[derive(Debug, Default)]
pub(super) struct Meter {
    steps: AtomicU32,
    bytes: AtomicUsize,
    started: OnceLock<Instant>,
}

/// Which budget was not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overrun {
    Steps,
    Bytes,
}

impl Meter {
    /// Takes a step; `false` when none is left.
    pub(super) fn step(&self) -> bool {
        let taken = self.steps.fetch_add(1, Ordering::Relaxed);
        if taken % CLOCK_EVERY == CLOCK_EVERY - 1
            && self.started.get_or_init(Instant::now).elapsed() > BUDGET_TIME
            && taken < BUDGET_STEPS
        {
            self.steps.store(BUDGET_STEPS + 1, Ordering::Relaxed);
        }
        taken < BUDGET_STEPS && self.overrun().is_none()
    }

    /// Charges for a value that was built; `false` when it was one too many.
    pub(super) fn charge(&self, value: &dyn Val) -> bool {
        self.bytes.fetch_add(size(value), Ordering::Relaxed);
        self.overrun().is_none()
    }

    /// Tells which budget was overrun, if any was.
    pub(super) fn overrun(&self) -> Option<Overrun> {
        if self.bytes.load(Ordering::Relaxed) > BUDGET_BYTES {
            Some(Overrun::Bytes)
        } else if self.steps.load(Ordering::Relaxed) > BUDGET_STEPS {
            Some(Overrun::Steps)
        } else {
            None
        }
    }
}

/// Returns about the bytes of a value. Views of the object are free: they are never copied.
fn size(value: &dyn Val) -> usize {
    const FIXED: usize = 16;
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        // Text of the object is borrowed.
        return FIXED + if text.as_borrowed().is_some() { 0 } else { text.inner().len() };
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes<'_>>() {
        return FIXED + bytes.inner().len();
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        return FIXED + list.inner().iter().map(|item| size(item.as_ref())).sum::<usize>();
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        return FIXED + map.inner().iter().map(|(key, item)| size(key.inner()) + size(item.as_ref())).sum::<usize>();
    }
    FIXED
}

static METER: Type = Type::new_unspecified_type("@meter");

/// A value, so that it can be handed to the function that charges.
impl Val for Meter {
    fn get_type(&self) -> &Type {
        &METER
    }

    fn cel_type() -> &'static Type {
        &METER
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        // No expression can name a meter, so nothing is ever charged to a copy.
        Box::new(Self::default())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Meter {}
