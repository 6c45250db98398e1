//! The secure endpoint on a real API server: its word decides, and the certificate is renewed while the operator runs.

use anyhow::ensure;
use kollect::lab::git::Certificates;
use kollect::lab::operator::http_get;
use kollect::lab::wait::wait_for;

use super::{Answer, READER_ROLE, scrape, token, write_pair};
use crate::operator::PATIENCE;
use crate::support::Ground;

fn answer(status: u16, text: &str) -> Answer {
    Answer { status, text: text.to_owned() }
}

#[tokio::test]
async fn the_api_server_decides_who_reads_and_the_certificate_is_renewed_while_we_serve() {
    let Some(ground) = Ground::own("metrics-access").await else { return };
    let directory = ground.lab().dir().join("serving");
    let first = Certificates::new(ground.lab().dir(), &["IP:127.0.0.1"]).unwrap();
    write_pair(&directory, &first);
    let options = ground.operator_options().arg("--metrics-secure=true");
    let options = options.arg(format!("--metrics-cert-path={}", directory.display()));
    let operator = ground.start_operator(&options).await;

    let namespace = ground.namespace.as_str();
    for account in ["reader", "visitor"] {
        ground.api().kubectl(&["-n", namespace, "create", "serviceaccount", account]).unwrap();
    }
    let (role, account) = (format!("--clusterrole={READER_ROLE}"), format!("--serviceaccount={namespace}:reader"));
    ground.api().kubectl(&["create", "clusterrolebinding", "metrics-test", &role, &account]).unwrap();
    let (reader, visitor) = (token(&ground, namespace, "reader"), token(&ground, namespace, "visitor"));
    let own = token(&ground, "kollect-system", "kollect-controller-manager");

    let read = |token| scrape(&operator, &first.ca, token);
    // The authorizer of the API server may take a moment to see the new binding, and a refusal is remembered.
    wait_for("the binding to take effect", PATIENCE, || async {
        let asked = ["auth", "can-i", "get", "/metrics", &format!("--as=system:serviceaccount:{namespace}:reader")];
        ground.api().kubectl(&asked).map(drop)
    })
    .await
    .unwrap();
    for token in [&reader, &own, &reader, &own] {
        let page = read(Some(token)).await.unwrap();
        assert_eq!(page.status, 200, "{}", page.text);
        assert!(page.text.contains("\nkollect_build_info{"), "{}", page.text);
    }
    for (token, status, text) in [
        (None, 401, "missing Authorization header"),
        (Some(""), 401, "empty bearer token"),
        (Some("nonsense"), 401, "unauthorized"),
        (Some("nonsense"), 401, "unauthorized"),
        (Some(&*visitor), 403, "forbidden"),
        (Some(&*visitor), 403, "forbidden"),
    ] {
        assert_eq!(read(token).await.unwrap(), answer(status, text));
    }
    // Each token was asked about once, and the one of nobody was not asked about any further.
    let page = read(Some(&reader)).await.unwrap().text;
    for (resource, times) in [("tokenreviews", 4), ("subjectaccessreviews", 3)] {
        let line =
            format!("kollect_api_requests_total{{code=\"201\",resource=\"{resource}\",verb=\"create\"}} {times}\n");
        assert!(page.contains(&line), "{page}");
    }
    assert!(http_get(operator.metrics_address(), "/metrics").await.is_err(), "plain HTTP was answered");

    ground.api().stop_api_server().await.unwrap();
    let unavailable = answer(503, "authorization is not available at the moment");
    assert_eq!(read(Some("another")).await.unwrap(), unavailable);
    assert_eq!(read(Some(&reader)).await.unwrap().status, 200, "a decision outlives the API server for a while");
    ground.api().start_api_server().await.unwrap();
    wait_for("the API server to decide again", PATIENCE, || async {
        let decided = read(Some("another")).await?;
        ensure!(decided == answer(401, "unauthorized"), "{decided:?}");
        Ok(())
    })
    .await
    .unwrap();

    let second = Certificates::new(ground.lab().dir(), &["IP:127.0.0.1"]).unwrap();
    write_pair(&directory, &second);
    wait_for("the new certificate", PATIENCE, || async {
        let page = scrape(&operator, &second.ca, Some(&reader)).await?;
        ensure!(page.status == 200, "{page:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(read(Some(&reader)).await.is_err(), "the former authority is still good for it");
    std::fs::write(directory.join("tls.crt"), "nonsense").unwrap();
    wait_for("a word about the unusable certificate", PATIENCE, || async {
        ensure!(operator.log()?.contains("serving certificate not renewed"), "nothing is said");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(scrape(&operator, &second.ca, Some(&reader)).await.unwrap().status, 200);

    let log = operator.log().unwrap();
    assert!([&reader, &visitor, &own].iter().all(|token| !log.contains(token.as_str())), "a token is in the log");
    assert!(operator.terminate().await.unwrap().success());
}
