//! What control says to the delivery task.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::report::{Departure, Reports};
use crate::export::Scope;
use crate::model::{BindingKey, Cluster, InventoryKey, SinkKey};
use crate::sinks::{Backend, Leave, Sink};
use crate::store::View;

/// Commands that may wait. The sender waits when it is full.
const MAX_COMMANDS: usize = 1024;

/// Everything that a binding needs.
#[derive(Debug, Clone)]
pub struct Binding {
    /// Inventory and sink.
    pub key: BindingKey,
    /// Where to.
    pub sink: Backend,
    /// Under whose name.
    pub scope: Arc<Scope>,
    /// Which rows: that does not follow from the name, for a namespace may be called `cluster`.
    pub view: View,
    /// Minimum time between two writes.
    pub interval: Duration,
    /// `metadata.generation` of the inventory.
    pub generation: i64,
    /// Limit on one row, and on one part of a document, in bytes, where the user set `maxExportBytes`.
    pub max_export_bytes: Option<NonZeroU64>,
    /// Changes with anything that makes a new delivery necessary: the specs and the secrets.
    pub revision: String,
}

/// A place where rows of an inventory are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The inventory.
    pub inventory: InventoryKey,
    /// [`Destination::id`](crate::sinks::Destination::id).
    pub destination: String,
    /// `spec.cluster` under which they are.
    pub cluster: Cluster,
}

/// A place that an inventory leaves.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// The way there.
    pub sink: Arc<dyn Sink>,
    /// Whose rows.
    pub scope: Arc<Scope>,
    /// What becomes of them.
    pub leave: Leave,
}

/// A scope of ours at a destination that nobody delivers to.
#[derive(Debug, Clone)]
pub struct Stray {
    /// Where it is.
    pub place: Place,
    /// Whose rows.
    pub scope: Arc<Scope>,
    /// The sink through which it was seen.
    pub via: SinkKey,
    /// The way there.
    pub sink: Arc<dyn Sink>,
}

impl Place {
    pub(super) fn of(sink: &dyn Sink, scope: &Scope) -> Self {
        let destination = sink.destination().id.clone();
        Self { inventory: scope.inventory.clone(), destination, cluster: scope.cluster.clone() }
    }
}

/// What the delivery task is told.
#[derive(Debug)]
pub(super) enum Command {
    Bind(Box<Binding>, Option<Duration>),
    Unbind(BindingKey),
    Leave(Leaving),
    GiveUp(Place),
    Audit(InventoryKey),
    Hurry(InventoryKey),
}

/// The way into the delivery task.
#[derive(Debug, Clone)]
pub struct Deliveries {
    commands: mpsc::Sender<Command>,
    reports: Reports,
}

impl Deliveries {
    /// Returns the two ends; the sender waits when [`MAX_COMMANDS`] wait.
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        (Self { commands, reports: Reports::default() }, receiver)
    }

    /// Adds a binding or takes over its new settings; the same revision changes nothing.
    ///
    /// `idle_for` says how long ago the sink was last written to by an earlier process.
    pub async fn bind(&self, binding: Binding, idle_for: Option<Duration>) {
        self.send(Command::Bind(Box::new(binding), idle_for)).await;
    }

    /// Ends a binding; a delivery in flight is dropped. What it wrote stays.
    pub async fn unbind(&self, key: BindingKey) {
        self.send(Command::Unbind(key)).await;
    }

    /// Cleans up a place, however often that fails; [`Reports::departure`] tells how far it is. A binding to the same
    /// place ends it.
    pub async fn leave(&self, leaving: Leaving) {
        let place = Place::of(&*leaving.sink, &leaving.scope);
        if self.reports.departure(&place).is_none() {
            self.reports.depart(&place, Departure::Pending);
        }
        self.send(Command::Leave(leaving)).await;
    }

    /// Ends the clean-up of a place to which no way leads any more.
    pub async fn give_up(&self, place: Place) {
        self.send(Command::GiveUp(place)).await;
    }

    /// Audits every sink of an inventory now.
    pub async fn audit(&self, inventory: InventoryKey) {
        self.send(Command::Audit(inventory)).await;
    }

    /// Delivers what waits for an interval or for another try, now.
    pub async fn hurry(&self, inventory: InventoryKey) {
        self.send(Command::Hurry(inventory)).await;
    }

    /// Returns the reports.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    async fn send(&self, command: Command) {
        // The receiver lives as long as the process; a send that fails means shutdown.
        let _ = self.commands.send(command).await;
    }
}
