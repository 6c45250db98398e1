use serde_json::json;

use super::*;

fn key() -> ObjectKey {
    ObjectKey::new(Namespace::new("team-a"), Name::new("apps"))
}

fn item(uid: &str, value: u64) -> Value {
    json!({
        "targetNamespace": "team-a", "targetName": "t", "namespace": "team-a", "name": uid,
        "version": "v1", "kind": "ConfigMap", "uid": uid, "attributes": {"value": value},
    })
}

fn digest(rows: &[(&str, u64)]) -> String {
    let mut digest = Digest::default();
    for (uid, value) in rows {
        digest.add(Item::read(item(uid, *value)).unwrap().said.hash);
    }
    digest.to_string()
}

/// A stream that somebody writes as the operator does.
#[derive(Default)]
struct Written {
    messages: Vec<Message>,
    n: u64,
}

impl Written {
    fn send(&mut self, operation: &str, rows: &[(&str, u64)], more: &[(&str, String)], value: Vec<u8>) {
        self.n += 1;
        let told = digest(rows);
        let n = self.n.to_string();
        let fixed = [
            ("kollect-schema-version", SCHEMA),
            ("kollect-operation", operation),
            ("kollect-cluster", "w%C3%A9st"),
            ("kollect-inventory-namespace", "team-a"),
            ("kollect-inventory-name", "apps"),
            ("kollect-writer", "us/1"),
            ("kollect-epoch", "1"),
            ("kollect-n", &n),
            ("kollect-digest", &told),
        ];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.messages.push(Message { partition: 0, headers: fixed.into_iter().chain(more).collect(), value });
    }

    fn upsert(&mut self, uid: &str, value: u64, after: &[(&str, u64)]) {
        let hash = digest(&[(uid, value)]);
        let more = [("kollect-target", "t"), ("kollect-uid", uid), ("kollect-hash", &hash)];
        self.send(
            "upsert",
            after,
            &more.map(|(name, value)| (name, value.to_owned())),
            item(uid, value).to_string().into(),
        );
    }

    fn delete(&mut self, uid: &str, after: &[(&str, u64)]) {
        let more = [("kollect-target", "t".to_owned()), ("kollect-uid", uid.to_owned())];
        self.send("delete", after, &more, Vec::new());
    }

    fn snapshot(&mut self, part: u64, parts: u64, items: &[(&str, u64)], all: &[(&str, u64)]) {
        let items: Vec<Value> = items.iter().map(|(uid, value)| item(uid, *value)).collect();
        let value = json!({"payload": {"schemaVersion": SCHEMA, "items": items}}).to_string();
        let more = [
            ("kollect-part", part.to_string()),
            ("kollect-parts", parts.to_string()),
            ("kollect-checksum", "sum".to_owned()),
        ];
        self.send("snapshot", all, &more, value.into());
    }

    fn flow(&self) -> Flow {
        Flow::of(self.messages.clone(), "wést")
    }

    /// Returns the rows as `uid` and digest of the row.
    fn rows(&self) -> Vec<(String, String)> {
        let flow = self.flow();
        assert!(flow.problems.is_empty(), "{:?}", flow.problems);
        let rows = flow.held.get(&key()).into_iter().flatten();
        let mut rows: Vec<_> = rows.map(|(key, said)| (key.uid.to_string(), Digest(said.hash).to_string())).collect();
        rows.sort();
        rows
    }
}

fn rows(rows: &[(&str, u64)]) -> Vec<(String, String)> {
    rows.iter().map(|(uid, value)| ((*uid).to_owned(), digest(&[(uid, *value)]))).collect()
}

#[test]
fn changes_tombstones_and_a_round_are_folded() {
    let mut stream = Written::default();
    stream.upsert("a", 1, &[("a", 1)]);
    stream.upsert("b", 1, &[("a", 1), ("b", 1)]);
    stream.send("end", &[("a", 1), ("b", 1)], &[], Vec::new());
    stream.upsert("a", 2, &[("a", 2), ("b", 1)]);
    stream.delete("b", &[("a", 2)]);
    stream.send("end", &[("a", 2)], &[], Vec::new());
    assert_eq!(stream.rows(), rows(&[("a", 2)]));

    stream.send("begin", &[], &[], Vec::new());
    stream.upsert("c", 1, &[("c", 1)]);
    stream.send("end", &[("c", 1)], &[], Vec::new());
    assert_eq!(stream.rows(), rows(&[("c", 1)]));
    assert_eq!(stream.flow().messages, 9);

    // The inventory goes.
    stream.send("delete", &[], &[], Vec::new());
    assert_eq!(stream.rows(), []);
}

#[test]
fn partitions_are_read_in_any_order_and_late_messages_change_nothing() {
    let mut stream = Written::default();
    stream.send("begin", &[], &[], Vec::new());
    stream.upsert("a", 1, &[("a", 1)]);
    stream.upsert("b", 1, &[("a", 1), ("b", 1)]);
    stream.send("end", &[("a", 1), ("b", 1)], &[], Vec::new());
    for (index, message) in stream.messages.iter_mut().enumerate() {
        message.partition = i32::from(!matches!(index, 1 | 2));
    }
    // What is said of the whole is read first.
    stream.messages.sort_by_key(|message| -message.partition);
    assert_eq!(stream.rows(), rows(&[("a", 1), ("b", 1)]));

    let late = stream.messages.iter().find(|message| message.headers["kollect-n"] == "2").unwrap().clone();
    stream.n = 4;
    stream.upsert("a", 2, &[("a", 2), ("b", 1)]);
    stream.messages.push(late);
    assert_eq!(stream.rows(), rows(&[("a", 2), ("b", 1)]));
}

#[test]
fn the_last_snapshot_that_is_whole_is_what_there_is() {
    let mut stream = Written::default();
    stream.snapshot(1, 1, &[("a", 1)], &[("a", 1)]);
    stream.snapshot(1, 2, &[("a", 2)], &[("a", 2), ("b", 1)]);
    assert_eq!(stream.flow().problems, ["team-a/apps: its last snapshot is not whole"]);
    stream.snapshot(2, 2, &[("b", 1)], &[("a", 2), ("b", 1)]);
    assert_eq!(stream.rows(), rows(&[("a", 2), ("b", 1)]));
    stream.snapshot(1, 1, &[], &[]);
    assert_eq!(stream.rows(), []);
}

#[test]
fn what_was_lost_and_what_somebody_else_wrote_is_named() {
    let mut lost = Written::default();
    lost.upsert("a", 1, &[("a", 1)]);
    lost.upsert("b", 1, &[("a", 1), ("b", 1)]);
    lost.messages.remove(0);
    let [problem] = &lost.flow().problems[..] else { panic!("{:?}", lost.flow().problems) };
    let (have, told) = (digest(&[("b", 1)]), digest(&[("a", 1), ("b", 1)]));
    assert_eq!(*problem, format!("team-a/apps: its messages add up to {have}, the last one tells {told}"));

    let mut forged = Written::default();
    forged.upsert("a", 1, &[("a", 1)]);
    forged.messages[0].value = item("a", 2).to_string().into();
    assert!(forged.flow().problems[0].starts_with("team-a/apps: the value of a row is"), "{:?}", forged.flow());

    // Another cluster's, and what is none of ours at all.
    let mut strange = Written::default();
    strange.upsert("a", 1, &[("a", 1)]);
    strange.messages.push(Message::default());
    assert_eq!(Flow::of(strange.messages.clone(), "east").messages, 0);
    assert_eq!(strange.flow().messages, 1);
}
