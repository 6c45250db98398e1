use serde_json::json;

use super::*;
use crate::config::Permission;
use crate::sinks::netguard::Guard;

/// A reviewer whose API server is not there.
fn alone() -> Arc<Reviewer> {
    asking(9, &Arc::new(Metrics::new("dev", "unknown")))
}

/// A reviewer whose API server is at this port.
fn asking(port: u16, metrics: &Arc<Metrics>) -> Arc<Reviewer> {
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test may have been first
    let server = format!("http://127.0.0.1:{port}").parse().unwrap();
    let client = kube::Client::try_from(kube::Config::new(server)).unwrap();
    let guard = Guard { allow_private: false, allow_loopback: false };
    let settings = Settings { max_export_bytes: 1_000, guard, cluster_kinds: Permission::Allowed };
    Reviewer::new(client, settings, metrics.clone())
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
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_ninth_review_is_told_soon_that_there_is_no_place_and_eight_slow_ones_go_on() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = Arc::new(Metrics::new("dev", "unknown"));
    let reviewer = asking(silent.local_addr().unwrap().port(), &metrics);
    let target = asked("CREATE", &json!({"spec": {"profileRef": "p"}}));
    let profile = asked("CREATE", &json!({"spec": {"targetGVK": {"version": "v1", "kind": "Pod"}}}));
    let started = Instant::now();
    let slow = (0..REVIEWS).map(|_| reviewer.answer(Kind::Target, target.clone().into()));
    let ninth = async {
        let response = reviewer.answer(Kind::Profile, profile.clone().into()).await;
        (response, started.elapsed())
    };
    let (slow, (ninth, after)) = futures::future::join(futures::future::join_all(slow), ninth).await;

    assert!(after <= TURN + Duration::from_millis(100), "{after:?}");
    assert_eq!(ninth.status(), StatusCode::SERVICE_UNAVAILABLE, "no verdict: the failure policy decides");
    let text = to_bytes(ninth.into_body(), MAX_BODY_BYTES).await.unwrap();
    assert_eq!(text, "8 other reviews are under way, try again in a moment");
    assert!(slow.iter().all(|response| response.status() == StatusCode::OK), "they have their verdict");

    let response = reviewer.answer(Kind::Profile, profile.into()).await;
    assert_eq!(response.status(), StatusCode::OK, "their places are free again");
    let page = metrics.page().unwrap();
    for line in [
        r#"controller_runtime_webhook_requests_total{code="200",webhook="/validate-kollect-dev-v1alpha1-kollecttarget"} 8"#,
        r#"controller_runtime_webhook_requests_total{code="503",webhook="/validate-kollect-dev-v1alpha1-kollectprofile"} 1"#,
        r#"controller_runtime_webhook_latency_seconds_count{webhook="/validate-kollect-dev-v1alpha1-kollecttarget"} 8"#,
    ] {
        assert!(page.contains(line), "{line}\nis not in\n{page}");
    }
}

#[test]
fn each_kind_has_the_published_path() {
    assert_eq!(path(Kind::ClusterInventory), "/validate-kollect-dev-v1alpha1-kollectclusterinventory");
}
