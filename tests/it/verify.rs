//! `kollect-lab verify` beside sinks of all five kinds, in every form in which they hold rows: the same rows everywhere, and
//! what somebody does to one of them is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use kollect::lab::kafka::Topics;
use kollect::lab::nats::Somebody;
use kollect::lab::object::{Bucket, ObjectServer, Protocol, SERVICE_ACCOUNT};
use kollect::lab::sites::{Running, Site};
use kollect::lab::verify::{KafkaTopic, NatsStream, Sources, Verdict, verified_within, verify};

use crate::operator::{Job, PATIENCE, TABLE};
use crate::support::part_or_skip;

const GOOGLE_BUCKET: &str = "google";

struct Sites {
    job: Job,
    google: ObjectServer,
    /// What the sites say of themselves.
    env: BTreeMap<String, String>,
    _running: Vec<Running>,
}

impl Sites {
    async fn new() -> Option<Self> {
        let job = Job::new("verify").await?;
        let start = |site| Running::start(site, job.ground.lab().dir(), job.ground.lab().guard());
        let running = tokio::try_join!(start(Site::Git), start(Site::Object), start(Site::Nats), start(Site::Kafka));
        let (git, object, nats, kafka) = part_or_skip(running)?;
        let google = part_or_skip(ObjectServer::start(Protocol::Google).await)?;
        google.create_bucket(GOOGLE_BUCKET).await.unwrap();
        let running = vec![git, object, nats, kafka];
        let lines = running.iter().flat_map(|running| running.env().lines());
        let env = lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into()));
        Some(Self { env: env.collect(), job, google, _running: running })
    }

    fn env(&self, name: &str) -> &str {
        &self.env[name]
    }

    /// A Secret with these variables, and the authority of a file.
    fn secret(&self, name: &str, authority: Option<&str>, keys: &[(&str, &str)]) -> String {
        let namespace = self.job.namespace();
        let mut text =
            format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData:\n");
        for (key, value) in keys {
            writeln!(text, "  {key}: '{value}'").unwrap();
        }
        if let Some(file) = authority {
            let pem = std::fs::read_to_string(self.env(file)).unwrap().replace('\n', "\n    ");
            writeln!(text, "  ca.crt: |\n    {pem}").unwrap();
        }
        text
    }

    fn sink(&self, kind: &str, name: &str, spec: &str) -> String {
        let namespace = self.job.namespace();
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{{spec}, cluster: test}}\n"
        )
    }

    fn manifests(&self) -> String {
        let (namespace, env) = (self.job.namespace(), |name| self.env(name));
        let snapshot = |name: &str, spec: String| self.sink("KollectSnapshotSink", name, &spec);
        let event = |name: &str, spec: String| self.sink("KollectEventSink", name, &spec);
        let own = |secret: &str| format!("secretRef: {{name: {secret}}}, tls: {{caSecretRef: {{name: {secret}}}}}");
        let (bucket, google) = (env("BUCKET_URL"), self.google.url(GOOGLE_BUCKET));
        let path = "pathTemplate: 'clusters/{cluster}/{namespace}/{name}{extension}'";
        let files = "layout: {mode: perResource, \
                     pathTemplate: 'clusters/{cluster}/{sourceNamespace}/{kind}/{sourceName}{extension}'}";
        let nats = |stream: &str, mode: &str| {
            format!(
                "type: nats, {}, nats: {{url: '{}', stream: {stream}, subject: kollect.{stream}, mode: {mode}}}",
                own("nats"),
                env("NATS_URL")
            )
        };
        let kafka = |topic: &str, mode: &str| {
            format!(
                "type: kafka, {}, provisioning: {{mode: ensure}}, kafka: {{brokers: ['{}'], topic: {topic}, \
                 mode: {mode}}}",
                own("kafka"),
                env("KAFKA_BROKER")
            )
        };
        [
            self.secret("git", Some("GIT_CA"), &[("token", env("GIT_TOKEN"))]),
            self.secret(
                "bucket",
                Some("BUCKET_CA"),
                &[("accessKeyID", env("BUCKET_KEY")), ("secretAccessKey", env("BUCKET_SECRET"))],
            ),
            self.secret("google", None, &[("credentials.json", SERVICE_ACCOUNT)]),
            self.secret("nats", Some("NATS_CA"), &[("username", env("NATS_USER")), ("password", env("NATS_PASSWORD"))]),
            self.secret(
                "kafka",
                Some("KAFKA_CA"),
                &[("username", env("KAFKA_USER")), ("password", env("KAFKA_PASSWORD"))],
            ),
            snapshot("git", format!("type: git, endpoint: '{}', {}, {files}", env("GIT_URL"), own("git"))),
            snapshot(
                "columns",
                format!("type: s3, endpoint: '{bucket}/prod', {}, objectStore: {{format: parquet}}", own("bucket")),
            ),
            snapshot(
                "lines",
                format!(
                    "type: s3, endpoint: '{bucket}/prod', {}, serialization: {{format: ndjson, compression: gzip}}, {path}",
                    own("bucket")
                ),
            ),
            snapshot(
                "google",
                format!("type: gcs, endpoint: '{google}', secretRef: {{name: google}}, {path}"),
            ),
            event("nats", nats("changes", "Changes")),
            event("nats-whole", nats("whole", "Snapshot")),
            event("kafka", kafka("changes", "Changes")),
            event("kafka-whole", kafka("whole", "Snapshot")),
            // Documents and snapshots are in parts.
            format!(
                "apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\n\
                 metadata: {{name: all, namespace: {namespace}}}\n\
                 spec: {{exportMinInterval: 0s, maxExportBytes: 4096, databaseSinkRefs: [{{name: pg}}], snapshotSinkRefs: [{{name: git}}, \
                 {{name: columns}}, {{name: lines}}, {{name: google}}], eventSinkRefs: [{{name: nats}}, \
                 {{name: nats-whole}}, {{name: kafka}}, {{name: kafka-whole}}]}}\n"
            ),
        ]
        .join("---\n")
    }

    fn nats_address(&self) -> String {
        let host = self.env("NATS_URL").trim_start_matches("tls://");
        format!("nats://{}:{}@{host}", self.env("NATS_USER"), self.env("NATS_PASSWORD"))
    }

    /// Where to look: at rows and changes, or at Google's bucket and whole inventories.
    fn sources(&self, name: &str) -> Sources {
        let folder = Bucket::Folder(self.env("BUCKET_DIR").into());
        let below = |bucket| match bucket {
            Bucket::Folder(dir) => Bucket::Folder(dir.join("prod")),
            google @ Bucket::Google(_) => google,
        };
        let bucket = if name == "whole" { self.google.contents(GOOGLE_BUCKET) } else { below(folder) };
        let namespaces = format!("kubernetes.io/metadata.name={}", self.job.namespace());
        Sources {
            database: Some(self.job.ground.dsn()),
            table: TABLE.to_owned(),
            git: Some(self.env("GIT_REPOSITORY").into()),
            bucket: Some(bucket),
            nats: Some(NatsStream {
                address: self.nats_address(),
                authority: Some(self.env("NATS_CA").into()),
                name: name.to_owned(),
            }),
            kafka: Some(KafkaTopic { broker: self.env("KAFKA_PLAIN").to_owned(), name: name.to_owned() }),
            cluster: "test".to_owned(),
            ..Sources::new(self.job.ground.client.clone(), namespaces)
        }
    }

    /// Waits until all sinks hold this many rows, the same ones.
    async fn are_equal(&self, rows: usize) -> Verdict {
        let mut last = Verdict::default();
        for (name, buckets) in
            [("whole", vec!["the bucket as json"]), ("changes", vec!["the bucket as ndjson", "the bucket as parquet"])]
        {
            let verdict = verified_within(&self.sources(name), PATIENCE).await.unwrap();
            assert!(verdict.is_ok(), "{verdict}\n{}", self.job.describe());
            let counts = [verdict.table_rows, verdict.git_items, verdict.stream_rows, verdict.topic_rows];
            assert_eq!((counts, verdict.bucket_rows), ([Some(rows); 4], Some(rows * buckets.len())), "{verdict}");
            let sums = &verdict.digests[&format!("{}/all", self.job.namespace())];
            let places = buckets.into_iter().chain(["the repository", "the stream", "the table", "the topic"]);
            assert_eq!(sums.keys().map(String::as_str).collect::<BTreeSet<_>>(), places.collect(), "{verdict}");
            assert!(sums.values().all(|sum| sum.digest == sums["the table"].digest && sum.rows == rows), "{verdict}");
            assert_eq!((verdict.equal_inventories, verdict.bucket_unowned_objects), (Some(1), Some(0)), "{verdict}");
            last = verdict;
        }
        last
    }

    /// Each text is in a problem, and each problem has one of them.
    async fn are_wrong(&self, name: &str, says: &[&str]) {
        let verdict = verify(&self.sources(name)).await.unwrap();
        let expected = |problem: &String| says.iter().any(|text| problem.contains(text));
        let found = says.iter().all(|text| verdict.problems.iter().any(|problem| problem.contains(text)));
        assert!(found && verdict.problems.iter().all(expected), "{says:?}\n{verdict}");
        assert_eq!(verdict.equal_inventories, Some(0), "{verdict}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_five_kinds_of_sink_hold_the_same_rows_and_verify_sees_when_not() {
    let Some(sites) = Sites::new().await else { return };
    let job = &sites.job;
    job.apply(&sites.manifests()).unwrap();
    let load = Job::load(2, 20);
    load.create(&job.ground.client).await.unwrap();
    // Nothing is repaired meanwhile.
    let mut options = job.ground.operator_options().arg("--sink-audit-interval=0").arg("--status-min-interval=1s");
    let mirrors = job.ground.lab().dir().join("mirrors").to_string_lossy().into_owned();
    options.env.push(("KOLLECT_GIT_MIRROR_DIR".to_owned(), mirrors));
    let operator = job.ground.start_operator(&options).await;
    sites.are_equal(40).await;

    let (namespace, name) = load.object(0);
    job.kubectl(&["-n", &namespace, "set", "image", &format!("deployment/{name}"), "*=changed:1"]);
    let (namespace, name) = load.object(1);
    job.kubectl(&["-n", &namespace, "delete", &format!("deployment/{name}")]);
    let before = sites.are_equal(39).await;

    // Started again, it sends nothing.
    operator.terminate().await.unwrap();
    let operator = job.ground.start_operator(&options).await;
    let (namespace, name) = load.object(2);
    job.kubectl(&["-n", &namespace, "delete", &format!("deployment/{name}")]);
    let after = sites.are_equal(38).await;
    // A tombstone and its end.
    let more = |figure: fn(&Verdict) -> Option<usize>| figure(&after).unwrap() - figure(&before).unwrap();
    assert_eq!((more(|one| one.stream_messages), more(|one| one.topic_messages)), (2, 2), "{after}");
    operator.terminate().await.unwrap();

    // A row of the table is another one: it differs from every other place.
    let edited = format!(
        "UPDATE {TABLE} SET payload = jsonb_set(payload, '{{attributes,replicas}}', '7') \
         WHERE source_uid = (SELECT min(source_uid) FROM {TABLE})"
    );
    job.database.batch_execute(&edited).await.unwrap();
    let pairs = ["the repository", "the bucket as ndjson", "the bucket as parquet", "the stream", "the topic"]
        .map(|other| format!("1 rows differ between the table and {other}, for example "));
    let mut says: Vec<&str> = pairs.iter().map(String::as_str).collect();
    says.push("the digest of the rows is");
    sites.are_wrong("changes", &says).await;
    let mended = edited.replace("'7'", "'0'");
    job.database.batch_execute(&mended).await.unwrap();

    // An object that is gone, one that nobody has on record, messages that are lost.
    let folder = std::path::Path::new(sites.env("BUCKET_DIR")).join("prod");
    let mut files = std::fs::read_dir(folder.join("clusters/test").join(job.namespace())).unwrap();
    let part = files.find_map(|file| Some(file.unwrap().path()).filter(|path| path.extension().unwrap() == "gz"));
    std::fs::remove_file(part.unwrap()).unwrap();
    std::fs::write(folder.join("README.md"), "# ours").unwrap();
    let address = sites.nats_address();
    let somebody = Somebody::connect(&address, Some(sites.env("NATS_CA").as_ref())).await.unwrap();
    let last = somebody.messages("changes", ">").await.unwrap().pop().unwrap().seq;
    somebody.delete("changes", last - 1).await.unwrap();
    let topics = Topics::new(sites.env("KAFKA_PLAIN").to_owned());
    let mut record =
        topics.committed("changes").await.unwrap().into_iter().find(|record| record.value.is_some()).unwrap();
    for (name, value) in &mut record.headers {
        match name.as_str() {
            "kollect-epoch" => "99".clone_into(value),
            "kollect-operation" => "shred".clone_into(value),
            _ => {}
        }
    }
    topics.write("changes", record).await.unwrap();
    let says = [
        ".ndjson.gz is not in the bucket",
        "the bucket as ndjson lacks ",
        "its messages add up to",
        "the stream has 1 rows of no object",
        "a message has the operation \"shred\"",
        "the topic lacks 38 objects",
        "the topic tells the digest none",
    ];
    sites.are_wrong("changes", &says).await;
    assert_eq!(verify(&sites.sources("changes")).await.unwrap().bucket_unowned_objects, Some(1));
}
