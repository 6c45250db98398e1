//! The whole engine against a naive model: random changes, failures, restarts, edits by hand, knowledge gained and lost.
//!
//! The real store, schedule and delivery task run in paused time; the model is a map of what the cluster has. Checked
//! after every step: nothing that the cluster has is deleted, nothing that it never had is written, nothing is written
//! twice, intervals hold. Checked at the end, when everything is known and answers: the sink equals the cluster.
//!
//! A sink of documents runs beside the one of rows. Each of its documents is what this process knew at one moment, none
//! goes back behind the one before it, none lacks a part before the grace is over, and none is published for nothing.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::archive::{Archive, Items};
use super::*;

const PARTS: [&str; 3] = ["a", "b", "c"];
const UIDS: u8 = 24;

#[derive(Debug, Clone)]
enum Step {
    /// The cluster gets or changes an object. Its namespace follows from the UID, for that never changes.
    Put { uid: u8, value: u8 },
    /// The cluster loses an object; its UID never comes back.
    Remove { uid: u8 },
    /// A part is listed from its beginning to its end.
    List { part: usize },
    /// A part cannot be listed any more.
    Forbid { part: usize },
    /// The next deliveries fail.
    Break { wrong: usize, times: usize },
    /// The process is killed and started again.
    Kill,
    /// The interval of the inventory is edited.
    Interval { seconds: u8 },
    /// Somebody edits, deletes or adds a row by hand.
    Tamper { uid: u8, how: u8 },
    /// An audit is asked for.
    Audit,
    /// Time goes by.
    Wait { seconds: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..UIDS, any::<u8>()).prop_map(|(uid, value)| Step::Put { uid, value }),
        3 => (0..UIDS).prop_map(|uid| Step::Remove { uid }),
        3 => (0..PARTS.len()).prop_map(|part| Step::List { part }),
        1 => (0..PARTS.len()).prop_map(|part| Step::Forbid { part }),
        1 => (0..3usize, 1..8usize).prop_map(|(wrong, times)| Step::Break { wrong, times }),
        1 => Just(Step::Kill),
        1 => (0..40u8).prop_map(|seconds| Step::Interval { seconds }),
        1 => (0..UIDS, 0..3u8).prop_map(|(uid, how)| Step::Tamper { uid, how }),
        1 => Just(Step::Audit),
        4 => (0..90u16).prop_map(|seconds| Step::Wait { seconds }),
        1 => (300..900u16).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What the cluster has, ever had, and which of it this process watches.
#[derive(Default)]
struct Cluster {
    objects: BTreeMap<u8, (usize, u8)>,
    history: BTreeSet<(u8, u8)>,
    gone: BTreeSet<u8>,
    watched: BTreeSet<usize>,
    mark: u32,
}

/// What a document may be at one moment of this process: by part, for those that were ever listed to their end.
type Known = BTreeMap<usize, BTreeMap<u8, u8>>;

/// What is to be expected of documents.
struct Papers {
    archive: Arc<Archive>,
    /// When this process began.
    born: Instant,
    /// All that this process ever knew, in its order.
    known: Vec<Known>,
    /// The first entry of `known` that the next document may show.
    from: usize,
    /// Documents that were looked at.
    seen: usize,
    /// When there was something to publish for, and how many of these the documents until now were published for.
    causes: Vec<Instant>,
    used: usize,
    /// Documents of this process that nothing but an audit can explain.
    audits: usize,
    /// Whether the last answer arrived, and whether any publication of this process failed.
    heard: bool,
    failed: bool,
    last_write: Option<(Instant, bool)>,
}

struct World {
    cluster: Cluster,
    sink: Arc<Memory>,
    life: Bench,
    interval: Duration,
    revision: u64,
    /// Deliveries that were looked at.
    seen: usize,
    /// When the sink was last written to, and whether the engine knows.
    last_write: Option<(Instant, bool)>,
    /// When something happened last that does not wait for the interval.
    urgent: Instant,
    tampered: bool,
    papers: Papers,
}

impl Papers {
    fn new() -> Self {
        Self {
            archive: Archive::new(&[]),
            born: Instant::now(),
            known: vec![Known::new()],
            from: 0,
            seen: 0,
            causes: Vec::new(),
            used: 0,
            audits: 0,
            heard: true,
            failed: false,
            last_write: None,
        }
    }

    /// Begins with a new process.
    fn restart(&mut self) {
        self.born = Instant::now();
        self.known = vec![Known::new()];
        (self.from, self.audits) = (0, 0);
        self.failed = !self.archive.shelves.lock().failures.is_empty();
        self.cause();
    }

    fn cause(&mut self) {
        self.causes.push(Instant::now());
    }

    /// Notes what the process knows from now on.
    fn learn(&mut self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.last().cloned().unwrap_or_default();
        change(&mut known);
        if self.known.last() != Some(&known) {
            self.known.push(known);
            self.cause();
        }
    }

    fn check(&mut self, interval: Duration, urgent: Instant, tampered: bool) -> Result<(), TestCaseError> {
        let shelves = self.archive.shelves.lock();
        for published in shelves.published.iter().skip(self.seen) {
            let shows = |known: &Known| !known.is_empty() && items(known.values()) == published.items;
            let moment = self.known.iter().skip(self.from).position(shows);
            prop_assert!(moment.is_some(), "never known, or not any more: {:?}", published.items);
            let patient = published.at >= self.born + GRACE;
            // The earliest moment that a document can be of may lack a part that a later, equal one has.
            let complete = |known: &Known| known.len() == PARTS.len() && shows(known);
            prop_assert!(
                patient || self.known.iter().skip(self.from).any(complete),
                "too early: {:?}",
                published.items
            );
            self.from += moment.unwrap_or_default();
            // What happens at the same moment may come too late for a document, and is a cause of the next one.
            let until = self.causes.partition_point(|at| *at <= published.at);
            let before = self.causes.partition_point(|at| *at < published.at);
            if self.used == until && self.heard {
                self.audits += 1;
            }
            let passed = (published.at - self.born).as_secs() / AUDIT.as_secs();
            prop_assert!(self.failed || self.audits as u64 <= 1 + passed, "published for nothing");
            self.used = before.max(self.used + 1).min(until);
            self.heard = published.heard;
            if published.written
                && let Some((last, heard)) = self.last_write.replace((published.at, published.heard))
            {
                let early = published.at < last + interval && urgent + GATHER < last;
                prop_assert!(!early || tampered || !heard, "written {:?} after the last write", published.at - last);
            }
        }
        self.seen = shelves.published.len();
        Ok(())
    }
}

/// Returns the items of a document with these objects.
fn items<'a>(parts: impl Iterator<Item = &'a BTreeMap<u8, u8>> + Clone) -> Items {
    // A document is in the order of namespaces, names and UIDs, and all objects have one name.
    let objects = parts.flat_map(|part| {
        let mut part: Vec<(String, u8)> = part.iter().map(|(uid, value)| (format!("u{uid}"), *value)).collect();
        part.sort();
        part
    });
    objects.map(|(uid, value)| (row_key(&uid), "x".to_owned(), format!("{{\"v\":{value}}}").into_bytes())).collect()
}

fn namespace(part: usize) -> Namespace {
    Namespace::new(PARTS[part])
}

fn life() -> Bench {
    let bench = Bench::start();
    bench.target.cover(&Coverage::Namespaces(Arc::new((0..PARTS.len()).map(namespace).collect())));
    bench
}

impl World {
    async fn new() -> Self {
        let world = Self {
            cluster: Cluster::default(),
            sink: Memory::new(&[]),
            life: life(),
            interval: Duration::from_secs(30),
            revision: 0,
            seen: 0,
            last_write: None,
            urgent: Instant::now(),
            tampered: false,
            papers: Papers::new(),
        };
        world.bind().await;
        world
    }

    async fn bind(&self) {
        let revision = self.revision.to_string();
        self.life.bind(&self.sink, self.interval, &revision).await;
        let archive = Backend::Documents(self.papers.archive.clone());
        self.life.bind_to(document_key(), archive, self.interval, &revision).await;
    }

    fn apply(&self, uid: u8) {
        if let Some((part, value)) =
            self.cluster.objects.get(&uid).filter(|(part, _)| self.cluster.watched.contains(part))
        {
            let body = Body::new("x", format!("{{\"v\":{value}}}").as_bytes()).unwrap();
            self.life.target.apply(&Uid::new(&format!("u{uid}")), &namespace(*part), body, false, self.cluster.mark);
        }
    }

    fn list(&mut self, part: usize) {
        self.cluster.watched.insert(part);
        self.cluster.mark += 1;
        let there: Vec<u8> =
            self.cluster.objects.iter().filter(|(_, (place, _))| *place == part).map(|(uid, _)| *uid).collect();
        for uid in there {
            self.apply(uid);
        }
        self.life.target.sweep(|name| *name == namespace(part), self.cluster.mark);
        self.urgent = Instant::now();
        self.papers.cause();
        self.know();
    }

    /// Notes what the process knows now: what it watches, and the rest as it was.
    fn know(&mut self) {
        let Cluster { objects, watched, .. } = &self.cluster;
        self.papers.learn(|known| {
            for part in watched {
                let here = objects.iter().filter(|(_, (place, _))| place == part);
                known.insert(*part, here.map(|(uid, (_, value))| (*uid, *value)).collect());
            }
        });
    }

    fn remove(&mut self, uid: u8) {
        self.cluster.gone.insert(uid);
        if let Some((part, _)) = self.cluster.objects.remove(&uid)
            && self.cluster.watched.contains(&part)
        {
            self.life.target.remove(&Uid::new(&format!("u{uid}")));
        }
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Put { uid, value } => {
                if !self.cluster.gone.contains(&uid) {
                    self.cluster.objects.insert(uid, (usize::from(uid) % PARTS.len(), value));
                    self.cluster.history.insert((uid, value));
                    self.apply(uid);
                }
            }
            Step::Remove { uid } => self.remove(uid),
            Step::List { part } => self.list(part),
            Step::Forbid { part } => {
                self.cluster.watched.remove(&part);
                self.life.target.forget(&namespace(part));
            }
            Step::Break { wrong, times } => {
                let wrong = [Wrong::Refused(Class::Transient), Wrong::Silent, Wrong::Unheard][wrong];
                self.sink.stored.lock().failures = vec![wrong; times];
                self.papers.archive.shelves.lock().failures = vec![wrong; times];
                self.papers.failed = true;
                self.papers.cause();
                // Written and not heard of is written again, as far as anybody can tell.
                self.urgent = Instant::now();
            }
            Step::Kill => {
                let dead = std::mem::replace(&mut self.life, life());
                drop(dead);
                self.cluster.watched.clear();
                self.urgent = Instant::now();
                self.papers.restart();
                self.bind().await;
            }
            Step::Interval { seconds } => {
                self.interval = Duration::from_secs(seconds.into());
                self.revision += 1;
                self.urgent = Instant::now();
                self.papers.cause();
                self.bind().await;
            }
            Step::Tamper { uid, how } => {
                self.tampered = true;
                self.papers.archive.edit(&scope(), |kept| kept.items.truncate(usize::from(uid) / 2));
                self.sink.edit(|rows| {
                    let key = row_key(&format!("u{uid}"));
                    match how {
                        0 => drop(rows.remove(&key)),
                        1 => rows.values_mut().take(1).for_each(|cell| cell.content = b"edited".to_vec()),
                        _ => {
                            if let Some(cell) = rows.values().next().cloned() {
                                rows.insert(row_key("stranger"), cell);
                            }
                        }
                    }
                });
            }
            Step::Audit => {
                self.urgent = Instant::now();
                self.papers.cause();
                self.life.deliveries.audit(object("apps")).await;
            }
            Step::Wait { seconds } => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
        }
        self.know();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.papers.check(self.interval, self.urgent, self.tampered)?;
        let stored = self.sink.stored.lock();
        for taken in stored.taken.iter().skip(self.seen) {
            for key in &taken.deletes {
                let there = self.cluster.objects.keys().any(|uid| row_key(&format!("u{uid}")) == *key);
                prop_assert!(!there, "{key:?} was deleted, and the cluster has it");
            }
            if taken.rows > 0
                && let Some((last, heard)) = self.last_write.replace((taken.at, taken.heard))
            {
                let early = taken.at < last + self.interval && self.urgent + GATHER < last;
                // What an audit repairs does not wait, and neither does another try after an answer that was lost.
                prop_assert!(!early || self.tampered || !heard, "written {:?} after the last write", taken.at - last);
            }
        }
        self.seen = stored.taken.len();
        for (key, cell) in &stored.rows {
            let had = |(uid, value): &(u8, u8)| {
                row_key(&format!("u{uid}")) == *key && format!("{{\"v\":{value}}}").as_bytes() == cell.content
            };
            prop_assert!(self.tampered || self.cluster.history.iter().any(had), "{key:?} was never there");
        }
        Ok(())
    }

    /// Makes everything known and sound, and compares.
    async fn settle(mut self) -> Result<(), TestCaseError> {
        self.sink.stored.lock().failures.clear();
        self.papers.archive.shelves.lock().failures.clear();
        (0..PARTS.len()).for_each(|part| self.list(part));
        tokio::time::sleep(REPROBE + 2 * self.interval + Duration::from_mins(2)).await;
        self.life.deliveries.audit(object("apps")).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let want: BTreeMap<RowKey, Vec<u8>> = self
            .cluster
            .objects
            .iter()
            .map(|(uid, (_, value))| (row_key(&format!("u{uid}")), format!("{{\"v\":{value}}}").into_bytes()))
            .collect();
        prop_assert_eq!(&self.sink.stored.lock().contents(), &want);
        let known = self.papers.known.last().cloned().unwrap_or_default();
        prop_assert_eq!(self.papers.archive.items(&scope()).unwrap_or_default(), items(known.values()));
        prop_assert_eq!(items(known.values()).len(), want.len());
        let deliveries = self.sink.deliveries().len();
        let published = self.papers.archive.shelves.lock().published.len();
        for key in [binding_key(), document_key()] {
            let report = self.life.deliveries.reports().get(&key).unwrap_or_default();
            prop_assert!(report.is_current() && report.behind_since.is_none() && report.gap.is_none(), "{:?}", report);
        }
        // From now on nothing changes, and nothing is written.
        tokio::time::sleep(3 * AUDIT).await;
        prop_assert_eq!(self.sink.deliveries().len(), deliveries);
        let audits: Vec<bool> = {
            let shelves = self.papers.archive.shelves.lock();
            shelves.published.iter().skip(published).map(|published| published.written).collect()
        };
        prop_assert_eq!(audits, [false; 3]);
        self.life.end().await;
        Ok(())
    }
}

/// Histories of a run: enough for every change, or as many as `PROPTEST_CASES` says, for a night.
#[expect(clippy::disallowed_methods, reason = "a test is no part of the operator whose environment config reads")]
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new().await;
        for step in steps {
            world.step(step).await;
            world.check()?;
        }
        world.settle().await
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_sink_ends_as_the_cluster_is(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps)?;
    }
}

#[test]
fn an_audit_that_is_asked_for_while_a_document_goes_out_is_one_more_look() {
    let mut steps = vec![Step::Wait { seconds: 356 }, Step::List { part: 1 }, Step::Wait { seconds: 1427 }];
    steps.extend([Step::List { part: 0 }, Step::Interval { seconds: 0 }]);
    steps.extend([Step::Put { uid: 0, value: 0 }].into_iter().cycle().take(8));
    steps.push(Step::Audit);
    run(&steps).unwrap();
}
