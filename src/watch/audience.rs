//! The targets of one namespace, found by what an object shows: an event does not look at those that cannot want it.
//!
//! A filter names [signs](Sign) of which every object that it lets pass bears one: its name, or a label. The index leads from
//! the signs of an object to the targets that look for them; filters without signs stand on a list that every object is held
//! against. What it returns may be wanted, and the filter decides; what it leaves out cannot be.
//!
//! Those that hold something of the object belong to its audience as well: they may want it no more.

use std::collections::HashMap;
use std::sync::Arc;

use super::filter::{Candidate, Sign, Terms};
use super::process::Interest;
use crate::extract::Plan;
use crate::model::Name;
use crate::store::Holder;

/// A target in one namespace.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) interest: Arc<Interest>,
    pub(super) terms: Terms,
}

/// Places in the list of an [`Audience`].
type Places = Vec<usize>;

/// The targets of one namespace of a resource.
#[derive(Debug)]
pub(super) struct Audience {
    /// Everything that one of them reads of an object.
    plan: Arc<Plan>,
    /// Ascending by holder.
    asking: Vec<Asking>,
    /// Those that may want any object.
    any: Places,
    names: HashMap<Name, Places>,
    labels: HashMap<String, Values>,
}

/// Those that look for a label.
#[derive(Debug, Default)]
struct Values {
    /// Whatever its value.
    any: Places,
    one: HashMap<String, Places>,
}

impl Audience {
    pub(super) fn new(mut asking: Vec<Asking>, plan: Arc<Plan>) -> Self {
        asking.sort_by_key(|asking| asking.interest.target.holder());
        let (any, names, labels) = (Places::new(), HashMap::new(), HashMap::new());
        let mut this = Self { plan, asking, any, names, labels };
        for (place, Asking { interest, terms }) in this.asking.iter().enumerate() {
            let Some(signs) = interest.program.signs(*terms) else {
                this.any.push(place);
                continue;
            };
            for sign in signs {
                match sign {
                    Sign::Name(name) => this.names.entry(name).or_default().push(place),
                    Sign::Label(key, None) => this.labels.entry(key).or_default().any.push(place),
                    Sign::Label(key, Some(value)) => {
                        this.labels.entry(key).or_default().one.entry(value).or_default().push(place);
                    }
                }
            }
        }
        this
    }

    /// Returns what to decode of an object.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns all of it.
    pub(super) fn all(&self) -> &[Asking] {
        &self.asking
    }

    /// Returns those that may hold something of an object.
    pub(super) fn holding(&self, holders: &[Holder]) -> impl Iterator<Item = &Asking> {
        self.held(holders).map(|place| &self.asking[place])
    }

    /// Returns those that may want an object, and those that may hold something of it, each once. `places` is scratch.
    pub(super) fn concerned<'a>(
        &'a self,
        candidate: &Candidate<'_>,
        holders: &[Holder],
        places: &'a mut Places,
    ) -> impl Iterator<Item = &'a Asking> {
        places.clear();
        places.extend(&self.any);
        places.extend(self.names.get(candidate.name()).into_iter().flatten());
        if !self.labels.is_empty() {
            for (key, value) in candidate.labels() {
                if let Some(values) = self.labels.get(key) {
                    places.extend(&values.any);
                    places.extend(values.one.get(value).into_iter().flatten());
                }
            }
        }
        places.extend(self.held(holders));
        places.sort_unstable();
        places.dedup();
        places.iter().map(|place| &self.asking[*place])
    }

    fn held(&self, holders: &[Holder]) -> impl Iterator<Item = usize> {
        let holder = |place: usize| self.asking.get(place).map(|asking| asking.interest.target.holder());
        holders.iter().flat_map(move |held| {
            let first = self.asking.partition_point(|asking| asking.interest.target.holder() < *held);
            (first..).take_while(move |place| holder(*place) == Some(*held))
        })
    }
}
