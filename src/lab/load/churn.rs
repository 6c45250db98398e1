//! Churn: objects come, change and go at a steady rate, the same ones for the same seed.
//!
//! What happens is a [`Plan`], a function of the load alone; how fast, and when it ends, is up to [`Churn`]. Operations on
//! one object follow each other, so that what is there in the end is what the plan says.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Client;
use serde::Serialize;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Load, mix, reduce, send};

/// An API server that is restarted is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

/// How fast, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Churn {
    /// Operations in a minute, in percent of the objects of the load. Of ten operations one creates an object under a
    /// name that was never used, one deletes an object, and eight change one.
    pub percent_per_minute: f64,
    /// Ends by itself after this; without it only when it is told to.
    pub length: Option<Duration>,
    /// Operations that an earlier run did: this one goes on where that one ended. The plan from 0 on assumes that
    /// exactly the objects of the load are there.
    pub skip: usize,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Churned {
    /// Objects created, all under new names.
    pub created: usize,
    /// Objects changed; one that was changed twice counts twice.
    pub updated: usize,
    /// Objects deleted.
    pub deleted: usize,
    /// Objects that are there now.
    pub objects: usize,
    /// Those of them that are not left out by a label.
    pub accepted: usize,
    /// Where the plan ended: the `skip` of a next run.
    pub operations: usize,
    /// Seconds for all of it.
    pub seconds: f64,
}

/// Creates, changes and deletes until it is over or stopped; an operation that was begun is finished.
///
/// # Errors
/// When the API server refuses an operation, or takes none for two minutes.
pub async fn churn(client: &Client, load: &Load, churn: &Churn, stop: &CancellationToken) -> Result<Churned> {
    let per_second = load.total() as f64 * churn.percent_per_minute / 100.0 / 60.0;
    ensure!(per_second > 0.0 && per_second.is_finite(), "nothing to do at {per_second} operations per second");
    let mut plan = Plan::new(load);
    for _ in 0..churn.skip {
        plan.next();
    }
    let (mut done, started) = (Churned::default(), Instant::now());
    let mut hands = Hands { client, load, busy: HashMap::new(), tasks: JoinSet::new() };
    for turn in 0_u32.. {
        let due = Duration::from_secs_f64(f64::from(turn) / per_second);
        if churn.length.is_some_and(|length| due >= length) {
            break;
        }
        if stop.run_until_cancelled(sleep_until(started + due)).await.is_none() {
            break;
        }
        let number = plan.turn;
        let operation = plan.next();
        hands.take(number, operation).await?;
        match operation {
            Step::Create(_) => done.created += 1,
            Step::Update(_) => done.updated += 1,
            Step::Delete(_) => done.deleted += 1,
        }
    }
    hands.finish().await?;
    done.objects = plan.live.len();
    done.accepted = plan.live.iter().filter(|object| !load.is_filtered(**object)).count();
    done.operations = plan.turn;
    done.seconds = started.elapsed().as_secs_f64();
    Ok(done)
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create(usize),
    Update(usize),
    Delete(usize),
}

impl Step {
    const fn object(self) -> usize {
        match self {
            Self::Create(object) | Self::Update(object) | Self::Delete(object) => object,
        }
    }
}

/// What happens, one step after the other.
#[derive(Debug)]
struct Plan {
    seed: u64,
    turn: usize,
    /// Objects that are there.
    live: Vec<usize>,
    /// The next name that was never used.
    fresh: usize,
}

impl Plan {
    fn new(load: &Load) -> Self {
        Self { seed: load.seed, turn: 0, live: (0..load.total()).collect(), fresh: load.total() }
    }

    fn next(&mut self) -> Step {
        let turn = self.turn;
        self.turn += 1;
        // Not the numbers that chose the content.
        let chance = mix(!self.seed ^ mix(turn as u64));
        let picked = reduce(chance, self.live.len());
        match (turn % 10, self.live.get(picked)) {
            (0, _) | (_, None) => {
                let object = self.fresh;
                self.fresh += 1;
                self.live.push(object);
                Step::Create(object)
            }
            (5, Some(_)) => Step::Delete(self.live.swap_remove(picked)),
            (_, Some(object)) => Step::Update(*object),
        }
    }
}

/// Operations under way: so many at once as the load has connections, and one on each object.
struct Hands<'a> {
    client: &'a Client,
    load: &'a Load,
    busy: HashMap<usize, Id>,
    tasks: JoinSet<Result<()>>,
}

impl Hands<'_> {
    /// Begins an operation once there is a hand for it and its object is not in another.
    async fn take(&mut self, number: usize, step: Step) -> Result<()> {
        while self.busy.contains_key(&step.object()) || self.tasks.len() >= self.load.connections.max(1) {
            self.join().await?;
        }
        let (client, load) = (self.client.clone(), self.load.clone());
        let task = self.tasks.spawn(async move {
            send(&client, PATIENCE, || match step {
                Step::Create(object) => load.create_request(object),
                Step::Update(object) => load.patch_request(object, &format!("churn-{number}")),
                Step::Delete(object) => load.delete_request(object),
            })
            .await
            .with_context(|| format!("operation {number} of the churn, {step:?}"))
        });
        self.busy.insert(step.object(), task.id());
        Ok(())
    }

    /// Waits for one operation to end.
    async fn join(&mut self) -> Result<()> {
        let Some(ended) = self.tasks.join_next_with_id().await else { return Ok(()) };
        let (id, outcome) = ended.context("an operation of the churn failed")?;
        self.busy.retain(|_, task| *task != id);
        outcome
    }

    async fn finish(&mut self) -> Result<()> {
        while !self.tasks.is_empty() {
            self.join().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn load() -> Load {
        Load { namespaces: 5, per_namespace: 100, ..Load::default() }
    }

    fn steps(load: &Load, count: usize) -> Vec<Step> {
        let mut plan = Plan::new(load);
        (0..count).map(|_| plan.next()).collect()
    }

    #[test]
    fn plan_is_the_same_for_the_same_seed_and_another_for_another() {
        assert_eq!(steps(&load(), 100), steps(&load(), 100));
        assert_ne!(steps(&load(), 100), steps(&Load { seed: 2, ..load() }, 100));
    }

    #[test]
    fn plan_creates_new_names_and_touches_only_what_is_there() {
        let mut live: HashSet<usize> = (0..500).collect();
        let mut ever = live.clone();
        for step in steps(&load(), 5_000) {
            match step {
                Step::Create(object) => assert!(live.insert(object) && ever.insert(object), "{object} is not new"),
                Step::Update(object) => assert!(live.contains(&object), "{object} is not there"),
                Step::Delete(object) => assert!(live.remove(&object), "{object} is not there"),
            }
        }
        assert_eq!((live.len(), ever.len()), (500, 1_000));
        assert_eq!(load().object(500), ("loadtest-001".to_owned(), "dep-00101".to_owned()));
    }

    #[test]
    fn nothing_left_is_no_reason_to_stop() {
        let empty = Load { per_namespace: 0, ..load() };
        assert_eq!(steps(&empty, 2), [Step::Create(0), Step::Update(0)]);
    }
}
