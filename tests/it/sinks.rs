//! Sinks as objects of their own on a real API server and a real PostgreSQL: whether they can be reached, what they would
//! write, one-off connection tests, and the Events that tell of all this.

mod snapshot;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kollect::lab::Operator;
use kollect::lab::wait::wait_for;
use serde_json::Value;
use tokio::time::Instant;

use crate::support::Ground;

const PATIENCE: Duration = Duration::from_mins(1);
const TESTS: &str = "kollect_sink_connection_test_total";

/// A namespace with an operator over it.
struct Place {
    ground: Ground,
    operator: Operator,
}

impl Place {
    async fn new(name: &str) -> Option<Self> {
        let ground = Ground::own(name).await?;
        let operator = ground.start_operator(&ground.operator_options()).await;
        Some(Self { ground, operator })
    }

    fn kubectl(&self, args: &[&str]) -> String {
        let args = [&["-n", &self.ground.namespace], args].concat();
        self.ground.api().kubectl(&args).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn apply(&self, manifests: &str) {
        self.ground.api().apply(manifests).unwrap_or_else(|error| panic!("{error:#}"));
    }

    fn secret(&self, name: &str, dsn: &str) {
        let namespace = &self.ground.namespace;
        self.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             stringData: {{dsn: \"{dsn}\"}}\n"
        ));
    }

    /// Applies a Postgres sink whose Secret has its name.
    fn sink(&self, name: &str, table: &str, more: &str) {
        let namespace = &self.ground.namespace;
        self.apply(&format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectDatabaseSink\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{type: postgres, {more}postgres: {{databaseRef: {{name: {name}}}, table: {table}}}}}\n"
        ));
    }

    fn test(&self, name: &str, spec: &str) {
        let namespace = &self.ground.namespace;
        self.apply(&format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectConnectionTest\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        ));
    }

    fn get(&self, object: &str) -> Result<Value> {
        let text = self.ground.api().kubectl(&["-n", &self.ground.namespace, "get", object, "-o", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until an object has the conditions `Type=Status/Reason`, in their order, and returns their messages.
    async fn conditions(&self, object: &str, want: &[&str]) -> Vec<String> {
        let what = format!("{want:?} on {object}");
        let found = wait_for(&what, PATIENCE, || async {
            let conditions = self.get(object)?["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let words: Vec<String> = conditions
                .iter()
                .map(|it| format!("{}={}/{}", text(&it["type"]), text(&it["status"]), text(&it["reason"])))
                .collect();
            ensure!(words == want, "they are {words:?}");
            Ok(conditions.iter().map(|condition| text(&condition["message"])).collect())
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.operator.log_tail(20)))
    }

    /// Waits until an inventory is Degraded for a reason, and returns the message.
    async fn degraded(&self, inventory: &str, reason: &str) -> String {
        let what = format!("Degraded={reason} on inventory {inventory}");
        let found = wait_for(&what, PATIENCE, || async {
            let status = self.get(&format!("kinv/{inventory}"))?["status"].clone();
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let there = conditions.iter().find(|it| it["type"] == "Degraded" && it["reason"] == reason);
            let there = there.with_context(|| format!("they are {conditions:?}"))?;
            Ok(there["message"].as_str().unwrap_or_default().to_owned())
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.operator.log_tail(20)))
    }

    /// Waits for an Event of an object, and returns its message.
    async fn event(&self, name: &str, type_: &str, reason: &str) -> String {
        let what = format!("event {type_} {reason} of {name}");
        let found = wait_for(&what, PATIENCE, || async {
            let events = self.events(name)?;
            let there = events.iter().find(|event| event["type"] == type_ && event["reason"] == reason);
            let there = there.with_context(|| format!("there are {events:?}"))?;
            ensure!(there["source"]["component"] == "kollect", "{there}");
            Ok(there["message"].as_str().unwrap_or_default().to_owned())
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.operator.log_tail(20)))
    }

    fn events(&self, name: &str) -> Result<Vec<Value>> {
        let selector = format!("involvedObject.name={name}");
        let args = ["-n", &self.ground.namespace, "get", "events", "--field-selector", &selector, "-o", "json"];
        let list: Value = serde_json::from_str(&self.ground.api().kubectl(&args)?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    async fn gone(&self, object: &str) {
        let what = format!("{object} is deleted");
        let gone = wait_for(&what, PATIENCE, || async {
            match self.get(object) {
                Err(error) if format!("{error:#}").contains("NotFound") => Ok(()),
                Err(error) => Err(error),
                Ok(object) => bail!("it is there: {}", object["status"]),
            }
        });
        gone.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.operator.log_tail(20)));
    }

    async fn sample(&self, result: &str) -> f64 {
        let metrics = self.operator.metrics().await.unwrap();
        metrics.sum(TESTS, &[("type", "postgres"), ("result", result)])
    }

    /// Returns what the operator has written to the API so far, by its own count and by the server's.
    async fn writes(&self) -> (f64, usize) {
        let metrics = self.operator.metrics().await.unwrap();
        let verbs = ["create", "update", "patch", "delete"];
        let own = verbs.iter().map(|verb| metrics.sum("kollect_api_requests_total", &[("verb", verb)])).sum();
        (own, self.ground.api().operator_writes().unwrap().len())
    }
}

const VERIFIED: &[&str] = &["ConnectionVerified=True/ConnectionOK"];
const FAILED: &[&str] = &["ConnectionVerified=False/ConnectionTestFailed", "Degraded=True/ConnectionTestFailed"];

#[tokio::test]
async fn a_sink_says_whether_it_can_be_reached_and_what_to_do_when_it_cannot() {
    let Some(place) = Place::new("sink-probe").await else { return };
    let dsn = place.ground.dsn();
    let login = dsn.split('@').next().unwrap_or_default().to_owned();

    // A missing Secret, a wrong password, the right one: each is noticed within seconds.
    place.sink("pg", "rows", "");
    let secret = ["ConnectionVerified=False/SecretResolveFailed", "Degraded=True/SecretResolveFailed"];
    let messages = place.conditions("kdb/pg", &secret).await;
    assert!(messages[1].contains("spec.postgres.databaseRef: there is no Secret"), "{messages:?}");
    place.secret("pg", &dsn.replacen("postgres://kollect:", "postgres://kollect:x", 1));
    let messages = place.conditions("kdb/pg", FAILED).await;
    assert!(messages[1].contains("check user and password of the connection string"), "{messages:?}");
    let message = place.event("pg", "Warning", "ConnectionTestFailed").await;
    assert!(message.contains("password authentication failed") && !message.contains(&login), "{message}");
    assert!(place.kubectl(&["get", "events"]).contains("ConnectionTestFailed"));
    assert!(place.kubectl(&["describe", "kdb", "pg"]).contains("Warning  ConnectionTestFailed"));
    let corrected = Instant::now();
    place.secret("pg", &dsn);
    let messages = place.conditions("kdb/pg", VERIFIED).await;
    assert!(corrected.elapsed() < Duration::from_secs(10), "{:?}", corrected.elapsed());
    assert!(messages[0].contains("table \"public\".\"rows\" will be created"), "{messages:?}");
    place.event("pg", "Normal", "ConnectionOK").await;

    // Nobody listens there; the failure is said once, however often it is tried.
    place.secret("away", "postgres://kollect:x@127.0.0.1:1/kollect?sslmode=disable");
    place.sink("away", "rows", "tls: {insecureSkipVerify: true}, ");
    let messages = place.conditions("kdb/away", &[FAILED, &["TLSInsecure=True/InsecureSkipVerify"]].concat()).await;
    assert!(messages[0].contains("127.0.0.1:1"), "{messages:?}");

    // Only asked, and only once.
    place.secret("quiet", &dsn);
    place.sink("quiet", "rows", "connectionTest: false, ");
    let before = place.sample("success").await;
    place.kubectl(&["annotate", "kdb", "quiet", "kollect.dev/test-connection=true"]);
    place.conditions("kdb/quiet", VERIFIED).await;
    wait_for("the annotation has done its work", PATIENCE, || async {
        let left = place.get("kdb/quiet")?["metadata"]["annotations"]["kollect.dev/test-connection"].clone();
        ensure!(left.is_null(), "it is still {left}");
        Ok(())
    })
    .await
    .unwrap();
    assert!((place.sample("success").await - before - 1.0).abs() < f64::EPSILON);
    place.conditions("kdb/quiet", VERIFIED).await;

    // Nothing changes: nothing is written, and what works is not probed again.
    wait_for("the second failure of the sink that is away", PATIENCE, || async {
        ensure!(place.sample("failure").await >= 4.0, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    let (written, passed) = (place.writes().await, place.sample("success").await);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(place.writes().await, written, "{:?}", place.ground.api().operator_writes());
    assert!((place.sample("success").await - passed).abs() < f64::EPSILON);
    assert_eq!(place.events("away").unwrap().len(), 1);

    // Another process finds all as it was, and has no news.
    let events = place.events("pg").unwrap().len();
    let options = place.ground.operator_options();
    assert!(place.operator.terminate().await.unwrap().success());
    let place = Place { operator: place.ground.start_operator(&options).await, ground: place.ground };
    wait_for("the sinks are probed", PATIENCE, || async {
        ensure!(place.sample("success").await >= 1.0 && place.sample("failure").await >= 1.0, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    place.conditions("kdb/pg", VERIFIED).await;
    assert_eq!(place.events("pg").unwrap().len(), events);
    assert_eq!(place.events("away").unwrap().len(), 1);
    let log = place.operator.log().unwrap();
    assert!(log.contains("sink connection test failed") && !log.contains(&login), "{log}");
    place.operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_preview_is_ddl_that_runs_as_it_is_written() {
    let Some(place) = Place::new("sink-preview").await else { return };
    let database = place.ground.connect().await;
    place.secret("portal", &place.ground.dsn());
    place.sink("portal", "Portal-Rows", "provisioning: {mode: existing}, options: {fetch: all}, ");
    let messages = place.conditions("kdb/portal", FAILED).await;
    assert!(messages[0].contains("does not exist, and provisioning.mode is existing"), "{messages:?}");

    place.kubectl(&["annotate", "kdb", "portal", "kollect.dev/preview=true"]);
    let preview = wait_for("a preview", PATIENCE, || async {
        let preview = place.get("kdb/portal")?["status"]["preview"].clone();
        ensure!(preview.is_object(), "there is none");
        Ok(preview)
    })
    .await
    .unwrap();
    assert_eq!(
        (&preview["provisioningMode"], &preview["inputSampleSource"]),
        (&"existing".into(), &"synthetic".into())
    );
    let warnings = preview["warnings"].to_string();
    assert!(warnings.contains("spec.options.fetch") && warnings.contains("sslmode="), "{warnings}");
    let ddl = preview["postgres"]["expectedDDL"].as_str().unwrap();
    let exists = "SELECT to_regclass('\"Portal-Rows\"') IS NOT NULL";
    assert!(!database.query_one(exists, &[]).await.unwrap().get::<_, bool>(0), "a preview touches nothing");
    database.batch_execute(ddl).await.unwrap();
    let advice: Vec<&str> = ddl.lines().filter_map(|line| line.strip_prefix("-- CREATE")).collect();
    assert_eq!(advice.len(), 2, "{ddl}");
    for index in advice {
        database.batch_execute(&format!("CREATE{index}")).await.unwrap();
    }
    place.kubectl(&["patch", "kdb", "portal", "--type=merge", "-p", r#"{"spec":{"cluster":"west"}}"#]);
    let messages = place.conditions("kdb/portal", VERIFIED).await;
    assert!(messages[0].ends_with("is ready"), "{messages:?}");

    // An inventory tells of its first export, and of a sink that went, once each.
    let namespace = &place.ground.namespace;
    place.apply(&format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\nmetadata: {{name: all, namespace: {namespace}}}\n\
         spec: {{exportMinInterval: 0s, databaseSinkRefs: [{{name: portal}}]}}\n"
    ));
    let message = place.event("all", "Normal", "ExportSucceeded").await;
    assert!(message.starts_with("exported 0 item(s) across 1 sink(s)"), "{message}");
    let more = r#"{"spec":{"databaseSinkRefs":[{"name":"portal"},{"name":"nobody"}]}}"#;
    place.kubectl(&["patch", "kinv", "all", "--type=merge", "-p", more]);
    place.event("all", "Warning", "PartiallySynced").await;
    assert_eq!(place.events("all").unwrap().len(), 2);

    place.kubectl(&["annotate", "kdb", "portal", "kollect.dev/preview-"]);
    wait_for("the preview is gone", PATIENCE, || async {
        let status = place.get("kdb/portal")?["status"].clone();
        ensure!(status["preview"].is_null() && status["conditions"].is_array(), "{status}");
        Ok(())
    })
    .await
    .unwrap();
    place.operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_connection_test_probes_once_and_deletes_itself() {
    let Some(place) = Place::new("conn-test").await else { return };
    place.secret("pg", &place.ground.dsn());
    place.sink("pg", "rows", "connectionTest: false, ");
    let passed = ["ConnectionVerified=True/ConnectionOK", "Ready=True/ProbeSucceeded"];

    // At once, and after five seconds.
    place.test("now", "{sinkRef: {databaseSinkRef: pg}, ttlSecondsAfterFinished: 0}");
    place.gone("kconntest/now").await;
    place.event("now", "Normal", "ConnectionOK").await;
    place.test("soon", "{sinkRef: {databaseSinkRef: pg}, ttlSecondsAfterFinished: 5}");
    place.conditions("kconntest/soon", &passed).await;
    let done = Instant::now();
    place.gone("kconntest/soon").await;
    assert!((4..10).contains(&done.elapsed().as_secs()), "{:?}", done.elapsed());

    // The sink owns its tests, unless that is not wanted; its own conditions are left alone.
    place.test("owned", "{sinkRef: {databaseSinkRef: pg}}");
    place.conditions("kconntest/owned", &passed).await;
    let sink = place.get("kdb/pg").unwrap();
    assert_eq!(sink["status"]["conditions"], Value::Null);
    wait_for("the test has its owner", PATIENCE, || async {
        let owner = place.get("kconntest/owned")?["metadata"]["ownerReferences"][0].clone();
        ensure!(owner["uid"] == sink["metadata"]["uid"] && owner["controller"] == true, "{owner}");
        Ok(())
    })
    .await
    .unwrap();
    let status = place.get("kconntest/owned").unwrap()["status"].clone();
    assert_eq!((&status["completed"], &status["observedGeneration"]), (&true.into(), &1.into()));
    assert!(status["completedAt"].is_string(), "{status}");
    place.test("free", "{sinkRef: {databaseSinkRef: pg}, ownerSink: false}");
    place.conditions("kconntest/free", &passed).await;
    assert_eq!(place.get("kconntest/free").unwrap()["metadata"]["ownerReferences"], Value::Null);

    // What cannot be probed says why; another spec is another probe.
    let failed = |reason: &str| [format!("ConnectionVerified=False/{reason}"), format!("Ready=False/{reason}")];
    for (name, spec, reason, text) in [
        (
            "nobody",
            "{sinkRef: {databaseSinkRef: nobody}}",
            "SinkNotFound",
            "there is no KollectDatabaseSink \"nobody\"",
        ),
        ("bus", "{sinkRef: {eventSinkRef: bus}}", "SinkNotFound", "there is no KollectEventSink \"bus\""),
    ] {
        place.test(name, spec);
        let want = failed(reason);
        let messages = place.conditions(&format!("kconntest/{name}"), &[&want[0], &want[1]]).await;
        assert!(messages[0].contains(text), "{messages:?}");
    }
    place.event("nobody", "Warning", "SinkNotFound").await;
    place.test("nobody", "{sinkRef: {databaseSinkRef: pg}, ttlSecondsAfterFinished: 600}");
    place.conditions("kconntest/nobody", &passed).await;
    assert_eq!(place.get("kconntest/nobody").unwrap()["status"]["observedGeneration"], 2);

    // Time passes while nobody looks: the next process keeps the appointment.
    place.test("late", "{sinkRef: {databaseSinkRef: pg}, ttlSecondsAfterFinished: 3}");
    place.conditions("kconntest/late", &passed).await;
    let probes = place.sample("success").await;
    assert!((probes - 6.0).abs() < f64::EPSILON, "{probes} probes");
    let options = place.ground.operator_options();
    place.operator.kill9().await.unwrap();
    let place = Place { operator: place.ground.start_operator(&options).await, ground: place.ground };
    place.gone("kconntest/late").await;
    assert!(place.sample("success").await.abs() < f64::EPSILON, "what is over is not probed again");
    place.conditions("kconntest/owned", &passed).await;
    assert!(place.operator.log().unwrap().contains("connection test failed"));
    place.operator.terminate().await.unwrap();
}
