use serde_json::{Value, json};

use super::*;
use crate::model::{Name, Namespace, Uid};

fn key(namespace: &str) -> ObjectKey {
    ObjectKey::new(Namespace::new(namespace), Name::new("inventory"))
}

fn row(uid: &str) -> RowKey {
    RowKey { target: Name::new("deployments"), uid: Uid::new(uid) }
}

fn found(uids: &[&str]) -> cluster::Found {
    let mut inventory = cluster::Inventory::default();
    inventory.wanted.extend(uids.iter().map(|uid| row(uid)));
    inventory.status.item_count = i64::try_from(uids.len()).unwrap();
    let inventories = [(key("a"), inventory)].into();
    cluster::Found { namespaces: 1, inventories, objects: uids.len() }
}

/// An item with this UID and one attribute.
fn json(uid: &str, value: u64) -> Value {
    json!({
        "targetNamespace": "a", "targetName": "deployments", "namespace": "a", "name": format!("web-{uid}"),
        "group": "apps", "version": "v1", "kind": "Deployment", "uid": uid, "attributes": {"value": value},
    })
}

fn held(namespace: &str, rows: &[(&str, u64)]) -> Held {
    let said = |uid: &str, value| item::Item::read(json(uid, value)).unwrap().said;
    [(key(namespace), rows.iter().map(|(uid, value)| (row(uid), said(uid, *value))).collect())].into()
}

fn place(name: &str, held: Held) -> Place {
    Place { name: name.to_owned(), inventories: [key("a")].into(), held }
}

#[test]
fn rows_that_lack_and_rows_of_nobody_are_named() {
    let mut verdict = Verdict::default();
    let table = place("the table", held("a", &[("1", 0), ("4", 0)]));
    compare_keys(&mut verdict, &table, &found(&["1", "2", "3"]));
    assert_eq!(
        verdict.problems,
        [
            "a/inventory: the table lacks 2 objects, for example 2 of target deployments",
            "a/inventory: the table has 1 rows of no object, for example 4 of target deployments, Deployment a/web-4",
        ]
    );
}

#[test]
fn rows_of_an_inventory_that_is_gone_are_named() {
    let mut verdict = Verdict::default();
    let mut held = held("gone", &[("1", 0)]);
    held.insert(key("a"), HashMap::new());
    compare_keys(&mut verdict, &place("the table", held), &found(&[]));
    assert_eq!(verdict.problems, ["the table has 1 rows of gone/inventory, which is no inventory here"]);
}

#[test]
fn one_row_with_two_contents_is_named() {
    let mut verdict = Verdict::default();
    let table = place("the table", held("a", &[("1", 1), ("2", 2), ("3", 3)]));
    let bucket = place("the bucket", held("a", &[("3", 3), ("2", 9), ("1", 8)]));
    let stream = place("the stream", held("a", &[("1", 1), ("3", 3)]));
    let places = [table, place("the repository", held("a", &[("1", 1), ("2", 2), ("3", 3)])), bucket, stream];
    compare_places(&mut verdict, &places);
    assert_eq!(
        verdict.problems,
        ["a/inventory: 2 rows differ between the table and the bucket, for example 1 of target deployments, \
          Deployment a/web-1: attributes.value is 1 in the table and 8 in the bucket"]
    );
    assert_eq!(verdict.equal_inventories, Some(0));
    let sums = &verdict.digests["a/inventory"];
    assert_eq!(sums["the table"], sums["the repository"]);
    assert_ne!(sums["the table"], sums["the bucket"]);
    assert_eq!(sums["the stream"].rows, 2);
}

#[test]
fn rows_in_any_order_have_one_digest() {
    let mut verdict = Verdict::default();
    let rows = [held("a", &[("1", 1), ("2", 2)]), held("a", &[("2", 2), ("1", 1)])];
    let mut places: Vec<Place> = rows.into_iter().map(|rows| place("one", rows)).collect();
    // Who need not have the inventory is not asked for it.
    places.push(Place { name: "another".to_owned(), inventories: BTreeSet::new(), held: Held::new() });
    compare_places(&mut verdict, &places);
    assert!(verdict.is_ok() && verdict.equal_inventories == Some(1), "{verdict}");
    let printed = verdict.to_string();
    let line = format!("{:<32} {:>10} {}", "a/inventory in one", 2, verdict.digests["a/inventory"]["one"].digest);
    assert!(printed.contains(&line), "{printed}");
}

#[test]
fn digests_of_rows_state_and_status_have_to_be_one() {
    let mut found = found(&["1"]);
    let inventory = found.inventories.get_mut(&key("a")).unwrap();
    let digest = crate::model::Digest([1; 4]);
    let export = |checksum: String| crate::api::v1alpha1::SinkExport {
        name: "database/pg".to_owned(),
        last_checksum: checksum,
        ..crate::api::v1alpha1::SinkExport::default()
    };
    inventory.status.sink_exports = vec![export(digest.to_string())];
    let state = table::State { rows: 1, digest: digest.to_string(), heartbeat_seconds: 12.0, write_seconds: None };
    let mut table = table::Table {
        held: held("a", &[("1", 1)]),
        digests: [(key("a"), digest)].into(),
        states: [(key("a"), state)].into(),
        ..table::Table::default()
    };
    let judge = |inventory: &cluster::Inventory, table: &table::Table| {
        let mut verdict = Verdict::default();
        let equal = compare_digests(&mut verdict, &key("a"), inventory, table);
        assert_eq!(equal, verdict.is_ok());
        verdict.problems.len()
    };
    assert_eq!(judge(inventory, &table), 0);
    inventory.status.sink_exports = vec![export("old".to_owned())];
    assert_eq!(judge(inventory, &table), 1);
    let state = table.states.get_mut(&key("a")).unwrap();
    (state.rows, state.digest, state.heartbeat_seconds) = (2, "older".to_owned(), 301.0);
    assert_eq!(judge(inventory, &table), 4);
    table.states.clear();
    assert_eq!(judge(inventory, &table), 1);
}

#[test]
fn what_the_status_says_is_compared_with_the_objects() {
    let mut found = found(&["1", "2"]);
    let inventory = found.inventories.get_mut(&key("a")).unwrap();
    inventory.status.item_count = 1;
    inventory.sinks = vec!["database/pg".to_owned()];
    let mut verdict = Verdict::default();
    look_at_status(&mut verdict, &found);
    assert_eq!((verdict.objects, verdict.inventory_rows, verdict.synced_bindings), (2, 1, 0));
    assert_eq!(
        verdict.problems,
        ["a/inventory: its status has 1 items of 2 objects", "a/inventory: nothing is said of database/pg"]
    );

    let mut verdict = Verdict::default();
    look_at_status(&mut verdict, &cluster::Found::default());
    assert_eq!(verdict.problems, ["there is no inventory in these namespaces"]);
}
