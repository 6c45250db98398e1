//! What an object is called: the fixed keys of Parquet, the ending of a compressed text, and where the record of an
//! inventory stands. Keys of texts come from `spec.pathTemplate` ([`crate::export::layout`]).

use std::fmt::Write as _;

use crate::export::Scope;
use crate::export::layout::DEFAULT_CLUSTER;
use crate::model::{Cluster, InventoryKey};
use crate::validate::{Encoding, Packing};

/// Returns the key of a Parquet file.
pub(super) fn parquet(cluster: &str, inventory: &InventoryKey, generation: i64) -> String {
    let (namespace, name) = (segment(inventory.namespace.as_str()), segment(inventory.name.as_str()));
    let cluster = segment(if cluster.is_empty() { DEFAULT_CLUSTER } else { cluster });
    format!("inventory/cluster={cluster}/ns={namespace}/name={name}/generation={generation}.parquet")
}

/// Replaces what has a meaning in a path, or may have one for a reader.
fn segment(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

/// Returns what follows the path of a text.
pub(super) const fn ending(encoding: &Encoding) -> &'static str {
    match encoding {
        Encoding::Json(Packing::Gzip) | Encoding::Ndjson(Packing::Gzip) => ".gz",
        Encoding::Json(Packing::Plain) | Encoding::Ndjson(Packing::Plain) | Encoding::Parquet { .. } => "",
    }
}

/// Returns the media type of an object.
pub(super) const fn content_type(encoding: &Encoding) -> &'static str {
    match encoding {
        Encoding::Json(Packing::Gzip) | Encoding::Ndjson(Packing::Gzip) => "application/gzip",
        Encoding::Json(Packing::Plain) => "application/json",
        Encoding::Ndjson(Packing::Plain) => "application/x-ndjson",
        Encoding::Parquet { .. } => "application/vnd.apache.parquet",
    }
}

/// Returns the folder with the records of a cluster.
pub(super) fn records(cluster: &Cluster) -> String {
    let cluster = if cluster.is_empty() { DEFAULT_CLUSTER } else { cluster.as_str() };
    format!(".kollect/{}", encode(cluster))
}

/// Returns the key of the record of an inventory in one format.
pub(super) fn record(scope: &Scope, format: &str) -> String {
    let (namespace, name) = (scope.inventory.namespace.as_str(), scope.inventory.name.as_str());
    format!("{}/{}/{}.{format}.json", records(&scope.cluster), encode(namespace), encode(name))
}

/// Returns what stands for an inventory in the metadata of its objects: ASCII, whatever its name.
pub(super) fn owner(scope: &Scope) -> String {
    let cluster = if scope.cluster.is_empty() { DEFAULT_CLUSTER } else { scope.cluster.as_str() };
    let (namespace, name) = (scope.inventory.namespace.as_str(), scope.inventory.name.as_str());
    format!("{}/{}/{}", encode(cluster), encode(namespace), encode(name))
}

/// Encodes what a key or a header cannot hold, or holds with a meaning, as `%` and two digits.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || byte == b'.' && index > 0;
        if plain {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // a String takes everything
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Name, Namespace, Uid};

    fn inventory(namespace: &str, name: &str) -> InventoryKey {
        InventoryKey::new(Namespace::new(namespace), Name::new(name))
    }

    #[test]
    fn the_key_of_a_parquet_file_is_a_partition() {
        let apps = inventory("team-a", "apps");
        for (cluster, want) in [("west", "west"), ("", "default"), ("west/eu 1", "west_eu_1"), ("wést", "w_st")] {
            let want = format!("inventory/cluster={want}/ns=team-a/name=apps/generation=4.parquet");
            assert_eq!(parquet(cluster, &apps, 4), want);
        }
    }

    #[test]
    fn a_record_stands_beside_nothing_else() {
        let scope = |cluster: &str, name: &str| Scope {
            cluster: Cluster::new(cluster),
            inventory: inventory("team-a", name),
            inventory_uid: Uid::new("u"),
        };
        assert_eq!(record(&scope("", "apps"), "json"), ".kollect/default/team-a/apps.json.json");
        assert_eq!(record(&scope("a/../b", ".x"), "parquet"), ".kollect/a%2F..%2Fb/team-a/%2Ex.parquet.json");
        assert_eq!(owner(&scope("wést", "apps")), "w%C3%A9st/team-a/apps");
        assert_eq!(records(&Cluster::new("..")), ".kollect/%2E.");
    }
}
