use serde_json::json;

use super::*;
use crate::config::Permission;
use crate::sinks::netguard::Guard;

/// A reviewer whose API server does not answer.
fn alone() -> Arc<Reviewer> {
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test may have been first
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
    let guard = Guard { allow_private: false, allow_loopback: false };
    let settings = Settings { max_export_bytes: 1_000, guard, cluster_kinds: Permission::Allowed };
    Reviewer::new(client, settings, Arc::new(Metrics::new("dev", "unknown")))
}

async fn ask(kind: Kind, body: impl Into<Body>) -> (StatusCode, Value) {
    let response = alone().answer(kind, body.into()).await;
    let status = response.status();
    let body = to_bytes(response.into_body(), MAX_BODY_BYTES).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn asked(operation: &str, object: &Value) -> String {
    let request = json!({"uid": "u", "operation": operation, "namespace": "n", "name": "x", "object": object});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
}

#[tokio::test]
async fn a_verdict_has_the_uid_of_its_review() {
    let profile = |path: &str| json!({"spec": {"targetGVK": {"version": "v1", "kind": "Pod"}, "attributes": [{"name": "a", "path": path}]}});
    let (status, answer) = ask(Kind::Profile, asked("CREATE", &profile("{.spec}"))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        answer,
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "u", "allowed": true},
        })
    );
    let (_, answer) = ask(Kind::Profile, asked("UPDATE", &profile("cel:object."))).await;
    let response = &answer["response"];
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(403)));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("KollectProfile n/x: spec.attributes[0].path: "), "{message}");
}

#[tokio::test]
async fn what_is_no_review_is_refused_and_what_nobody_asks_for_passes() {
    let (status, _) = ask(Kind::Profile, "{").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = ask(Kind::Profile, vec![b' '; MAX_BODY_BYTES + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    for operation in ["DELETE", "CONNECT"] {
        let (_, answer) = ask(Kind::Profile, asked(operation, &Value::Null)).await;
        assert_eq!(answer["response"], json!({"uid": "u", "allowed": true}), "{operation}");
    }
}

#[tokio::test]
async fn what_cannot_be_looked_up_is_refused_as_an_error_of_the_server() {
    let (status, answer) = ask(Kind::Target, asked("CREATE", &json!({"spec": {"profileRef": "p"}}))).await;
    assert_eq!(status, StatusCode::OK);
    let response = &answer["response"];
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(500)));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("failed to look up kollectscopes in namespace \"n\""), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let never = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let (status, _) = ask(Kind::Profile, never).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn each_kind_has_the_published_path() {
    assert_eq!(path(Kind::ClusterInventory), "/validate-kollect-dev-v1alpha1-kollectclusterinventory");
}
