use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::export::document::canonical_order;
use crate::export::{Base, Delta, Document, Selection, Standing, compare};
use crate::model::{Body, Digest, Gvk, Name, Namespace, ObjectKey, Origin, Row, Seq};

const LIMIT: Limit = Limit { bytes: 1_000_000, setting: "max_payload of the server" };

fn scope(cluster: &str) -> Arc<Scope> {
    Arc::new(Scope {
        cluster: Cluster::new(cluster),
        inventory: ObjectKey::new(Namespace::new("team-a"), Name::new("apps")),
        inventory_uid: Uid::new("99999999-0000-4000-8000-000000000001"),
    })
}

fn life(process: &str) -> Life {
    Life { process: process.to_owned(), lease_transitions: 0 }
}

fn row_of(target: &str, group: &str, kind: &str, uid: &str, name: &str, attributes: &str) -> Row {
    let gvk = Gvk { group: group.into(), version: "v1".into(), kind: kind.into() };
    let target = ObjectKey::new(Namespace::new("team-a"), Name::new(target));
    Row {
        origin: Arc::new(Origin { target, gvk }),
        uid: Uid::new(uid),
        namespace: Namespace::new("team-a"),
        body: Body::new(name, attributes.as_bytes()).unwrap(),
    }
}

fn row(uid: u8, attributes: &str) -> Row {
    let text = format!("{uid:08x}-0000-4000-8000-000000000000");
    row_of("deploys", "apps", "Deployment", &text, &format!("app-{uid}"), attributes)
}

/// The rows of the examples of the documentation, in canonical order.
fn examples() -> Vec<Row> {
    let uid = |digit: &str| {
        let eight = digit.repeat(8);
        let four = digit.repeat(3);
        format!("{eight}-{}-4{four}-8{four}-{}", digit.repeat(4), digit.repeat(12))
    };
    let mut rows = vec![
        row_of("deploys", "apps", "Deployment", &uid("1"), "api", r#"{"image":"ghcr.io/acme/api:1.4.2","replicas":3}"#),
        row_of(
            "deploys",
            "apps",
            "Deployment",
            &uid("2"),
            "web",
            r#"{"image":"ghcr.io/acme/web:2.0.0","note":"a\u003cb \u0026 c\u003ed","ports":[80,8443],"replicas":2}"#,
        ),
        row_of(
            "configs",
            "",
            "ConfigMap",
            &uid("3"),
            "feature-flags",
            r#"{"immutable":false,"owner":null,"ratio":0.25,"version":"7"}"#,
        ),
    ];
    rows.sort_unstable_by(canonical_order);
    rows
}

fn delta(base: Base, upserts: Vec<Row>, deletes: Vec<RowKey>) -> Delta {
    let standing = Standing { generation: 4, seq: Seq(1), ..Standing::default() };
    Delta { scope: scope("west"), upserts, deletes, standing, base }
}

fn document(rows: Vec<Row>, max_part_bytes: u64) -> Document {
    let standing = Standing { rows: rows.len() as u64, generation: 4, ..Standing::default() };
    let exported_at = "2026-03-01T10:20:30.5Z".parse().unwrap();
    Document { scope: scope("west"), rows: rows.into(), standing, max_part_bytes, exported_at }
}

/// A broker with one partition, and the writer's own idea of what is in it.
struct Desk {
    log: Vec<Message>,
    held: Holdings<()>,
    life: Life,
    epoch: u64,
    n: u64,
}

impl Desk {
    fn new() -> Self {
        Self { log: Vec::new(), held: Holdings::default(), life: life("us"), epoch: 1, n: 1 }
    }

    fn plan(&self, delta: &Delta) -> Arc<Plan> {
        Arc::new(Plan::deliver(delta, &self.held, self.life.owner(&delta.scope), LIMIT))
    }

    /// Sends the first `count` messages of a plan, and no more.
    fn send(&mut self, plan: &Arc<Plan>, count: usize) {
        let first = Sequence { epoch: self.epoch, n: self.n };
        self.log.extend(plan.messages(first).take(count));
        self.n += plan.len() as u64;
        if count >= plan.len() {
            plan.commit(&mut self.held, first, Timestamp::UNIX_EPOCH);
        }
    }

    fn deliver(&mut self, delta: &Delta) -> Arc<Plan> {
        let plan = self.plan(delta);
        self.send(&plan, usize::MAX);
        plan
    }

    fn read(&self) -> Fold<()> {
        read(&self.log)
    }

    /// Starts anew from what is in the stream.
    fn restart(&mut self) {
        let mut fold = self.read();
        self.epoch = self.life.epoch(fold.highest_epoch(&self.life.process));
        self.n = 1;
        self.held = std::mem::take(fold.entry(&stream()));
    }
}

fn stream() -> Stream {
    Stream::of(&scope("west"))
}

fn read(log: &[Message]) -> Fold<()> {
    let mut fold = Fold::default();
    for message in log {
        fold.take(0, reread(&message.header), Timestamp::UNIX_EPOCH, ());
    }
    fold
}

/// Goes through the text of the headers.
fn reread(header: &Header) -> Header {
    let fields = header.fields();
    let get = |name| fields.iter().find(|(other, _)| *other == name).map(|(_, value)| value);
    Header::read(get).unwrap()
}

fn uids(held: &Holdings<()>) -> Vec<String> {
    let mut uids: Vec<String> = held.rows().keys().map(|key| key.uid.to_string()).collect();
    uids.sort();
    uids
}

fn digest_of(rows: &[Row]) -> Digest {
    let mut digest = Digest::default();
    for row in rows {
        digest.add(crate::canonical::row_hash(row).0);
    }
    digest
}

#[test]
fn a_snapshot_is_the_envelope_of_earlier_releases_with_headers() {
    let rendered = render(&document(examples(), 1_572_864), life("us").owner(&scope("west")), LIMIT);
    assert_eq!(rendered.len(), 1);
    let sent_at = "2026-03-01T10:20:31Z".parse().unwrap();
    let message = rendered.message(0, Sequence { epoch: 1, n: 1 }, sent_at).unwrap();
    assert_eq!(message.key, "west/team-a");
    let value = String::from_utf8(message.value.clone().unwrap()).unwrap();
    let payload = value
        .strip_prefix(r#"{"schemaVersion":"kollect.dev/v1alpha1","timestamp":"2026-03-01T10:20:31Z","cluster":"west","namespace":"team-a","payload":"#)
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap();
    assert_eq!(payload.len(), 979);
    assert!(payload.contains("2074c303768e472bddd7fac391fc2eca8e05e72048af071600a33fc9443486f4"), "{payload}");
    assert_eq!(rendered.checksum.to_string(), "db6a282ba92a84c4279b0f8865c0c3deb6216930c4c645c4be4d5d90e09a314b");
    let headers: Vec<String> = message.header.fields().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    insta::assert_snapshot!(headers.join("\n"), @r"
    kollect-schema-version: kollect.dev/v1alpha1
    kollect-operation: snapshot
    kollect-cluster: west
    kollect-inventory-namespace: team-a
    kollect-inventory-name: apps
    kollect-writer: us/99999999-0000-4000-8000-000000000001
    kollect-epoch: 1
    kollect-n: 1
    kollect-digest: 2240a42b596992eb6a8dec9d89175493cf381b3b83db258ae96ddfa8c20835f9
    kollect-rows: 3
    kollect-part: 1
    kollect-parts: 1
    kollect-checksum: db6a282ba92a84c4279b0f8865c0c3deb6216930c4c645c4be4d5d90e09a314b
    ");
    let other = Message {
        header: Header {
            stream: Stream { inventory: ObjectKey::new(Namespace::new("team-a"), Name::new("other")), ..stream() },
            ..message.header.clone()
        },
        ..message.clone()
    };
    assert_ne!(other.id(), message.id(), "two inventories of one namespace have one key");
    assert_eq!(message.id().len(), 32);
    let nameless = Stream { cluster: Cluster::new(""), ..stream() };
    assert_eq!(nameless.snapshot_key(), "/team-a");
}

#[test]
fn a_snapshot_above_the_limit_has_one_message_for_each_part() {
    let rendered = render(&document(examples(), 700), life("us").owner(&scope("west")), LIMIT);
    let first = Sequence { epoch: 1, n: 5 };
    let part = rendered.message(1, first, Timestamp::UNIX_EPOCH).unwrap();
    let value = String::from_utf8(part.value.clone().unwrap()).unwrap();
    assert!(value.contains(r#""checksum":"03ff021aa57be2ec66a0e1941fe5a88c08165bf85d0f5f95e1b11c687a783112","generation":4,"partIndex":2,"partTotal":3,"itemCount":1"#));
    assert_eq!(rendered.checksum.to_string(), "5666fea6958a887d2d53320f17f0b84a62e0dbc630aa18e98ad42ec1435d9103");
    let mut fold = Fold::default();
    for index in 0..rendered.len() {
        assert!(fold.get(&stream()).is_none_or(|held| held.snapshot().is_none()), "a set counts when it is whole");
        let message = rendered.message(index, first, Timestamp::UNIX_EPOCH).unwrap();
        fold.take(0, reread(&message.header), Timestamp::UNIX_EPOCH, ());
    }
    let held = fold.get(&stream()).unwrap();
    let set = held.snapshot().unwrap();
    assert_eq!((set.parts, set.rows, held.is_closed()), (3, 3, true));
    assert_eq!(set.checksum, rendered.checksum.to_string());
}

#[test]
fn a_row_above_the_limit_is_refused_with_the_place_of_the_limit() {
    let tight = Limit { bytes: 1_500, setting: "max_payload of the server" };
    let long = row(1, &format!("{{\"a\":\"{}\"}}", "x".repeat(2_000)));
    let owner = life("us").owner(&scope("west"));
    let rendered = render(&document(vec![long.clone(), row(2, "{}")], 1_572_864), owner.clone(), tight);
    assert_eq!((rendered.rows(), rendered.refused.len()), (1, 1));
    assert!(rendered.refused[0].message.contains("(max_payload of the server); raise it there"));
    let sent = rendered.message(0, Sequence { epoch: 1, n: 1 }, Timestamp::now()).unwrap();
    assert!(sent.size() <= tight.bytes, "{}", sent.size());

    // What the stream holds of it is taken back.
    let mut desk = Desk::new();
    desk.deliver(&delta(Base::Empty, vec![row(1, "{}"), row(2, "{}")], Vec::new()));
    let plan = Plan::deliver(&delta(Base::Filled, vec![long], Vec::new()), &desk.held, owner, tight);
    assert_eq!((plan.refused.len(), plan.written, plan.deleted), (1, 0, 1));
}

#[test]
fn messages_of_rows_carry_everything_but_the_old_rows() {
    let mut desk = Desk::new();
    let rows = vec![row(1, r#"{"a":1}"#), row(2, "{}")];
    desk.deliver(&delta(Base::Empty, rows.clone(), Vec::new()));
    desk.deliver(&delta(Base::Filled, Vec::new(), vec![rows[0].key()]));
    let operations: Vec<&str> = desk.log.iter().map(|message| message.header.operation.as_str()).collect();
    assert_eq!(operations, ["upsert", "upsert", "end", "delete", "end"]);
    let [first, _, end, gone, _] = &desk.log[..] else { panic!() };
    assert_eq!(first.key, "west/team-a/apps/deploys/00000001-0000-4000-8000-000000000000");
    let mut item = Vec::new();
    crate::canonical::write_item(&rows[0], &mut item);
    assert_eq!(first.value.as_deref(), Some(&item[..]));
    assert_eq!(first.header.digest, digest_of(&rows[..1]));
    assert_eq!((gone.value.as_deref(), gone.header.digest), (None, digest_of(&rows[1..])));
    assert_eq!(end.key, "west/team-a/apps");
    insta::assert_snapshot!(String::from_utf8_lossy(end.value()), @r#"{"schemaVersion":"kollect.dev/v1alpha1","operation":"end","rows":2,"digest":"8f3de1b257a9adbc63083e4f6d9278f66269236c0f8e900bad5fdfe3a1783871","generation":4}"#);
    let headers: Vec<String> = first.header.fields().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    insta::assert_snapshot!(headers.join("\n"), @r"
    kollect-schema-version: kollect.dev/v1alpha1
    kollect-operation: upsert
    kollect-cluster: west
    kollect-inventory-namespace: team-a
    kollect-inventory-name: apps
    kollect-writer: us/99999999-0000-4000-8000-000000000001
    kollect-epoch: 1
    kollect-n: 1
    kollect-digest: 95cf40e0b51131d71109ae9730721d82851d6f1d347bfe749aad008e163ea4c5
    kollect-target: deploys
    kollect-uid: 00000001-0000-4000-8000-000000000000
    kollect-namespace: team-a
    kollect-kind: apps/v1/Deployment
    kollect-name: app-1
    kollect-hash: 95cf40e0b51131d71109ae9730721d82851d6f1d347bfe749aad008e163ea4c5
    ");
}

#[test]
fn what_the_stream_has_is_not_sent_again() {
    let mut desk = Desk::new();
    let rows = vec![row(1, "{}"), row(2, "{}")];
    desk.deliver(&delta(Base::Empty, rows.clone(), Vec::new()));
    assert!(desk.plan(&delta(Base::Filled, rows.clone(), vec![row(9, "{}").key()])).is_empty());
    desk.restart();
    assert_eq!(desk.epoch, 2);
    assert!(desk.plan(&delta(Base::Filled, rows.clone(), Vec::new())).is_empty());
    // An inventory made anew under the name says so once.
    let other = Delta {
        scope: Arc::new(Scope { inventory_uid: Uid::new("other"), ..(*scope("west")).clone() }),
        ..delta(Base::Filled, rows, Vec::new())
    };
    assert_eq!(desk.plan(&other).len(), 1);
    // Nothing is said of an inventory that never had a row.
    assert!(
        Plan::deliver(&delta(Base::Empty, Vec::new(), Vec::new()), &Holdings::<()>::default(), Owner::default(), LIMIT)
            .is_empty()
    );
}

#[test]
fn a_value_that_comes_back_is_another_message() {
    let mut desk = Desk::new();
    for attributes in ["{}", r#"{"a":1}"#, "{}"] {
        desk.deliver(&delta(Base::Filled, vec![row(1, attributes)], Vec::new()));
    }
    let rows: Vec<&Message> = desk.log.iter().filter(|message| message.header.item.is_some()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].value, rows[2].value);
    assert_ne!(rows[0].id(), rows[2].id());
}

#[test]
fn late_messages_and_those_of_an_earlier_life_change_nothing() {
    let mut desk = Desk::new();
    desk.deliver(&delta(Base::Empty, vec![row(1, "{}")], Vec::new()));
    let late = desk.log.clone();
    desk.restart();
    desk.deliver(&delta(Base::Filled, vec![row(1, r#"{"new":1}"#)], Vec::new()));
    let mut zombie = late[0].clone();
    zombie.header.sequence.n = 100;
    desk.log.extend([zombie, late[0].clone()]);
    let fold = desk.read();
    let held = fold.get(&stream()).unwrap();
    assert_eq!(held.rows().values().next().unwrap().hash, crate::canonical::row_hash(&row(1, r#"{"new":1}"#)).0);
    assert!(held.is_sound());
    assert_eq!(held.judge(&life("us"), 1, Timestamp::UNIX_EPOCH), Verdict::Fenced(2));
    assert_eq!(held.judge(&life("us"), 2, Timestamp::UNIX_EPOCH), Verdict::Free);
}

#[test]
fn another_operator_is_in_the_way_until_it_has_been_silent() {
    let mut desk = Desk::new();
    desk.deliver(&delta(Base::Empty, vec![row(1, "{}")], Vec::new()));
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
    assert!(matches!(desk.held.judge(&life("them"), 1, at(10)), Verdict::Theirs(owner, 10) if owner.process == "us"));
    assert_eq!(desk.held.judge(&life("them"), 1, at(3 * 3600)), Verdict::Free);
    let plan = Arc::new(Plan::release(&scope("west"), &desk.held));
    desk.send(&plan, usize::MAX);
    assert_eq!(desk.held.judge(&life("them"), 1, at(10)), Verdict::Free);
    assert_eq!(uids(desk.read().get(&stream()).unwrap()).len(), 1);
    assert!(desk.read().get(&stream()).unwrap().owner().is_nobody());
}

#[test]
fn an_inventory_that_is_deleted_leaves_tombstones_alone() {
    let mut desk = Desk::new();
    desk.deliver(&delta(Base::Empty, vec![row(1, "{}"), row(2, "{}")], Vec::new()));
    let plan = Arc::new(Plan::delete_all(&scope("west"), &desk.held, desk.life.owner(&scope("west"))));
    assert_eq!((plan.len(), plan.deleted), (3, 2));
    desk.send(&plan, usize::MAX);
    assert!(desk.log[3..].iter().all(|message| message.value.is_none()));
    let fold = desk.read();
    let held = fold.get(&stream()).unwrap();
    assert!(held.is_empty() && held.owner().is_nobody() && held.is_sound());
    assert_eq!(held.digest(), desk.held.digest());
}

#[test]
fn a_stream_that_lost_its_beginning_is_sent_everything_once_all_is_known() {
    let mut desk = Desk::new();
    let rows = vec![row(1, "{}"), row(2, "{}"), row(3, "{}")];
    desk.deliver(&delta(Base::Empty, rows.clone(), Vec::new()));
    let reader_since_the_beginning = desk.log.clone();
    // The first row is lost to whoever comes late; those who were there have it still, and it is gone from the cluster.
    desk.log.remove(0);
    desk.restart();
    assert!(!desk.held.is_sound());
    let held = desk.held.held(&Selection::All);
    let found = compare(rows[1..].to_vec(), held, |_, _| true, |row| fingerprint(crate::canonical::row_hash(row).0));
    assert_eq!(found.upserts.len(), 2, "what is not vouched for is sent again");
    // While parts are unknown nothing is deleted that nobody can see.
    let doubtful = desk.plan(&delta(Base::Doubtful, found.upserts.clone(), Vec::new()));
    assert!(doubtful.is_empty());
    desk.deliver(&delta(Base::Doubtful, vec![row(4, "{}")], Vec::new()));
    desk.restart();
    assert!(!desk.held.is_sound(), "the next life sees it as well");
    let mut all = found.upserts;
    all.push(row(4, "{}"));
    let whole = desk.deliver(&delta(Base::Drifted, all.clone(), Vec::new()));
    assert_eq!((whole.len(), whole.written), (5, 0));
    let mut log = reader_since_the_beginning;
    log.extend(desk.log.drain(2..));
    let fold = read(&log);
    let there = fold.get(&stream()).unwrap();
    assert_eq!((there.rows().len(), there.digest(), there.is_sound()), (3, digest_of(&all), true));
}

#[test]
fn texts_that_no_key_can_hold_are_encoded_and_read_back() {
    for text in ["", "west", "a/b", "100%", "ä\n", " x "] {
        let segment = path(&[&text]);
        assert_eq!(decode(&segment).as_deref(), Some(text));
        assert!(segment.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
    }
    assert_eq!((decode("%4"), decode("%zz"), decode("%ff")), (None, None, None));
    assert_eq!(Owner::parse("us/a/b").to_string(), "us/a/b");
}

#[test]
fn messages_of_others_are_told_from_broken_ones() {
    assert_eq!(Header::read(|_| None), Err(HeaderError::Foreign));
    let only = |name| (name == names::SCHEMA_VERSION).then_some("kollect.dev/v1alpha1");
    assert_eq!(Header::read(only), Err(HeaderError::Broken(names::OPERATION)));
}

proptest! {
    /// Whatever happens in whichever order, and wherever the writer dies: after the next delivery the stream has the rows of
    /// the cluster, and says so.
    #[test]
    fn a_stream_converges_to_the_rows_of_the_cluster(
        steps in prop::collection::vec((prop::collection::vec((0_u8..6, 0_u8..3), 0..5), 0_usize..8, any::<bool>()), 1..12)
    ) {
        let mut desk = Desk::new();
        let mut cluster = std::collections::BTreeMap::new();
        for (changes, cut, dies) in steps {
            for (uid, value) in changes {
                if value == 0 { cluster.remove(&uid); } else { cluster.insert(uid, row(uid, &format!("{{\"v\":{value}}}"))); }
            }
            let rows: Vec<Row> = cluster.values().cloned().collect();
            let difference = |desk: &Desk| {
                compare(rows.clone(), desk.held.held(&Selection::All), |_, _| true, |row| fingerprint(crate::canonical::row_hash(row).0))
            };
            let found = difference(&desk);
            let plan = desk.plan(&delta(Base::Filled, found.upserts, found.deletes));
            if dies {
                desk.send(&plan, cut.min(plan.len().saturating_sub(1)));
                desk.restart();
                let found = difference(&desk);
                desk.deliver(&delta(Base::Filled, found.upserts, found.deletes));
            } else {
                desk.send(&plan, usize::MAX);
            }
            let fold = desk.read();
            let held = fold.get(&stream());
            let there = held.map_or(Digest::default(), Holdings::digest);
            prop_assert_eq!(there, digest_of(&rows));
            prop_assert!(held.is_none_or(|held| held.is_sound() && held.is_closed()));
            prop_assert_eq!(desk.held.digest(), digest_of(&rows));
        }
    }
}
