//! Parquet in the hands of others: read back by pyarrow and `DuckDB`.

use std::process::Command;

use kollect::lab::object::Protocol;
use kollect::lab::{process, tools};
use kollect::model::{Body, Uid};
use kollect::validate::{Codec, Encoding};

use super::{BUCKET, config, document, examples, sink, store};

/// Prints what both see of a file: the schema, the rows of the examples, and a sum over all; then its media type, which
/// the store keeps beside the file.
const READ: &str = r#"
import os, sys, pyarrow.parquet as pq, duckdb
path, rows = sys.argv[1], int(sys.argv[2])
table = pq.read_table(path, partitioning=None)
assert table.num_rows == rows, table.num_rows
print(", ".join(table.schema.names))
print(table.schema.field("exported_at").type, table.schema.field("attributes").type, table.schema.field("uid").type)
for row in table.slice(0, 3).to_pylist():
    row.pop("exported_at")
    print([row[name] for name in table.schema.names if name != "exported_at"])
duck = duckdb.connect()
found = duck.execute("select count(*), count(distinct uid), count(attr_image), min(exported_at)::text "
    "from read_parquet(?, hive_partitioning = false)", [path]).fetchone()
print(found)
print(os.getxattr(path, "user.content-type").decode())
"#;

#[tokio::test]
async fn others_read_what_is_written() {
    let Some(server) = store(Protocol::S3).await else { return };
    let Some(python) = crate::support::part_or_skip(tools::python_parquet()) else { return };
    let hot = ["image", "version"].map(str::to_owned).to_vec();
    let mut many = examples();
    for number in 0..5_000_u32 {
        let mut row = many[1].clone();
        row.uid = Uid::new(&format!("{number:08x}-0000-4000-8000-000000000000"));
        row.body = Body::new(&format!("zz-{number}"), row.body.attributes()).unwrap();
        many.push(row);
    }
    for (codec, rows) in [(Codec::Zstd, examples()), (Codec::Snappy, examples()), (Codec::None, many)] {
        let mut settings = config(Protocol::S3, &server, server.port());
        settings.encoding = Encoding::Parquet { codec, hot: hot.clone() };
        let count = rows.len();
        sink(&settings).publish(&document(rows, 4, 1_572_864)).await.unwrap();
        let path = server.bucket(BUCKET).join("prod/inventory/cluster=west/ns=team-a/name=apps/generation=4.parquet");
        let mut command = Command::new(&python);
        let printed = process::run(command.args(["-c", READ]).arg(path).arg(count.to_string())).unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        let columns = "api_version, attr_image, attr_version, attributes, cluster, exported_at, group, \
                       inventory_name, inventory_namespace, kind, name, namespace, target_name, target_namespace, uid";
        assert_eq!(lines[0], columns);
        assert_eq!(lines[1], "timestamp[us, tz=UTC] binary string");
        let flags = "['v1', None, '7', b'{\"immutable\":false,\"owner\":null,\"ratio\":0.25,\"version\":\"7\"}', 'west', \
                     None, 'apps', 'team-a', 'ConfigMap', 'feature-flags', 'team-a', 'configs', 'team-a', \
                     '33333333-3333-4333-8333-333333333333']";
        let api = "['v1', 'ghcr.io/acme/api:1.4.2', None, b'{\"image\":\"ghcr.io/acme/api:1.4.2\",\"replicas\":3}', \
                   'west', 'apps', 'apps', 'team-a', 'Deployment', 'api', 'team-a', 'deploys', 'team-a', \
                   '11111111-1111-4111-8111-111111111111']";
        let web = "['v1', 'ghcr.io/acme/web:2.0.0', None, \
                   b'{\"image\":\"ghcr.io/acme/web:2.0.0\",\"note\":\"a\\\\u003cb \\\\u0026 c\\\\u003ed\",\"ports\":[80,8443],\"replicas\":2}', \
                   'west', 'apps', 'apps', 'team-a', 'Deployment', 'web', 'team-a', 'deploys', 'team-a', \
                   '22222222-2222-4222-8222-222222222222']";
        assert_eq!((lines[2], lines[3], lines[4]), (flags, api, web), "{codec:?}");
        let want = format!("({count}, {count}, {}, '2026-03-01 10:20:30.5+00')", count - 1);
        assert_eq!((lines[5], lines[6]), (want.as_str(), "application/vnd.apache.parquet"), "{codec:?}");
    }
    let settings = config(Protocol::S3, &server, server.port());
    sink(&settings).publish(&document(examples(), 4, 1_572_864)).await.unwrap();
    let path = server.bucket(BUCKET).join("prod/inventory/team-a/apps.json");
    let told = "import os, sys; print(os.getxattr(sys.argv[1], 'user.content-type').decode())";
    let printed = process::run(Command::new(&python).args(["-c", told]).arg(path)).unwrap();
    assert_eq!(printed.trim(), "application/json");
}
