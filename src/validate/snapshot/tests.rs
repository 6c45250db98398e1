use serde_json::{Value, json};

use super::*;

/// Returns a spec of type `git` with these fields beside or instead of its own.
fn spec(more: &Value) -> Value {
    let mut spec = json!({"type": "git", "endpoint": "https://git.example.com/team/x.git"});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn check(more: &Value) -> Result<ValidatedGit, String> {
    let spec: KollectSnapshotSinkSpec = serde_json::from_value(spec(more)).unwrap();
    git(&spec).map_err(|errors| errors.to_string())
}

#[test]
fn what_is_absent_has_its_default() {
    let sink = check(&json!({})).unwrap();
    assert_eq!((sink.kind, sink.transport, sink.branch.as_str()), (SinkType::Git, Transport::Http, "main"));
    assert_eq!((sink.push, sink.depth.get(), sink.prune), (PushPolicy::Commit, 1, false));
    assert_eq!((&sink.secret_ref, &sink.subject), (&None, &None));
    assert_eq!((sink.probe, sink.min_interval), (Probe::OnChange, None));
    assert!(sink.cluster.is_empty() && sink.warnings.is_empty(), "{:?}", sink.warnings);
}

#[test]
fn gitlab_has_a_fixed_message_and_no_block_of_git() {
    let sink = check(&json!({"type": "gitlab", "gitlab": {"mergeRequest": {"mode": "direct"}}})).unwrap();
    assert_eq!((sink.kind, sink.subject.as_deref()), (SinkType::Gitlab, Some("kollect: export inventory")));
    assert_eq!((sink.push, sink.depth.get()), (PushPolicy::Commit, 1));
    let message = check(&json!({"type": "gitlab", "git": {}, "endpoint": "git@gitlab.com:a/b.git"})).unwrap_err();
    assert_eq!(
        message,
        "spec.git: is allowed only for type git; remove it; \
         spec.endpoint: is not for type gitlab; write https://, or use type git for SSH"
    );
}

#[test]
fn the_branch_of_the_block_wins_over_the_one_in_the_endpoint() {
    let at = |fragment: &str, git: &Value| {
        let sink = check(&json!({"endpoint": format!("https://h/x{fragment}"), "git": git})).unwrap();
        (sink.branch, sink.warnings.len())
    };
    assert_eq!(at("", &json!({})), ("main".to_owned(), 0));
    assert_eq!(at("#branch=a", &json!({})), ("a".to_owned(), 0));
    assert_eq!(at("#branch=a", &json!({"branch": "b"})), ("b".to_owned(), 1));
    assert_eq!(at("#branch=a", &json!({"branch": "a"})), ("a".to_owned(), 0));
}

#[test]
fn how_the_operator_logs_in_follows_from_the_endpoint() {
    let secret = json!({"name": "s"});
    let ssh = "ssh://git@git.example.com/x.git";
    for (more, want) in [
        (json!({"endpoint": ssh, "secretRef": secret}), None),
        (json!({"endpoint": "git@h:x.git", "git": {"auth": {"type": "ssh", "secretRef": secret}}}), None),
        (json!({"git": {"auth": {"type": "token"}}}), None),
        (json!({"git": {"engine": "cli", "forceBasicAuth": true}}), None),
        (json!({"endpoint": ssh}), Some("spec.secretRef: is missing; an ssh endpoint needs a Secret")),
        (
            json!({"endpoint": ssh, "secretRef": secret, "git": {"auth": {"type": "token"}}}),
            Some("spec.git.auth.type: token does not fit an ssh endpoint"),
        ),
        (json!({"git": {"auth": {"type": "ssh"}}}), Some("spec.git.auth.type: ssh does not fit an http endpoint")),
        (json!({"secretRef": {"name": " "}}), Some("spec.secretRef.name: is blank")),
        (json!({"git": {"auth": {"secretRef": {"name": ""}}}}), Some("spec.git.auth.secretRef.name: is blank")),
    ] {
        match (check(&more), want) {
            (Ok(sink), None) => assert!(sink.warnings.is_empty(), "{more}: {:?}", sink.warnings),
            (Err(message), Some(want)) => assert!(message.starts_with(want), "{more}: {message}"),
            (found, want) => panic!("{more}: {found:?} instead of {want:?}"),
        }
    }
}

#[test]
fn every_mistake_is_named_with_its_place_and_what_to_do() {
    for (more, want) in [
        (json!({"endpoint": null}), "spec.endpoint: is missing; write the address"),
        (json!({"endpoint": "file:///srv/x"}), "spec.endpoint: must not be a file: URL"),
        (json!({"endpoint": "https://h/x#branch=-x"}), "spec.endpoint: the branch in it must start with a letter"),
        (json!({"git": {"branch": "refs/heads/x"}}), "spec.git.branch: \"refs/heads/x\" must be a short name"),
        (json!({"git": {"cloneDepth": 0}}), "spec.git.cloneDepth: 0 is out of range; write 1 or more"),
        (json!({"git": {"author": {"name": "a <b>"}}}), "spec.git.author.name: has '<', '>' or a line break"),
        (json!({"git": {"author": {"email": " "}}}), "spec.git.author.email: is blank"),
        (json!({"git": {"commitMessage": " "}}), "spec.git.commitMessage: is blank"),
        (json!({"git": {"commitMessage": "a\nb"}}), "spec.git.commitMessage: has a line break"),
        (json!({"git": {"commitMessage": "{count}"}}), "spec.git.commitMessage: has unknown {count}; use {cluster}"),
        (json!({"git": {"commitBody": "{user}"}}), "spec.git.commitBody: has unknown {user}"),
        (json!({"git": {"commitTrailers": ["A: b", "{c}"]}}), "spec.git.commitTrailers[1]: has unknown {c}"),
        (json!({"git": {"commitTrailers": vec!["a"; 33]}}), "spec.git.commitTrailers: has more than 32 entries"),
        (json!({"gitlab": {}}), "spec.gitlab: is allowed only for type gitlab; remove it"),
        (json!({"objectStore": {}}), "spec.objectStore: is allowed only for the types s3 and gcs; remove it"),
        (json!({"http": {}}), "spec.http: is not allowed; remove it"),
        (json!({"serialization": {"format": "parquet"}}), "spec.serialization.format: does not fit a repository"),
        (json!({"pathTemplate": "/{namespace}/{name}"}), "spec.pathTemplate: must be relative"),
        (json!({"pathTemplate": "{name}.yaml"}), "spec.pathTemplate: must contain {namespace} and {name}"),
        (json!({"layout": {"pathTemplate": "{kind}"}}), "spec.layout.pathTemplate: must contain {sourceName}"),
        (
            json!({"layout": {"mode": "split", "index": {"pathTemplate": "index.yaml"}}}),
            "spec.layout.index.pathTemplate: must contain {namespace} and {name}",
        ),
        (
            json!({"layout": {"filename": {"maxSegmentLength": 0}}}),
            "spec.layout.filename.maxSegmentLength: 0 is out of range",
        ),
        (json!({"exportMinInterval": "25h"}), "spec.exportMinInterval: 25h0m0s is out of range"),
        (
            json!({"tls": {"caBundle": "YQ==", "caSecretRef": {"name": "ca"}}}),
            "spec.tls: has both caBundle and caSecretRef",
        ),
        (json!({"options": {"apiToken": "x"}}), "spec.options.apiToken: looks like a credential"),
    ] {
        let message = check(&more).unwrap_err();
        assert!(message.starts_with(want), "{more}: {message}");
    }
}

#[test]
fn what_has_no_effect_or_is_dangerous_is_remarked_upon() {
    let tree = |mode: &str, more: &Value| {
        let mut all = json!({"layout": {"mode": mode}});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    for (more, want) in [
        (json!({"endpoint": "http://h/x"}), "spec.endpoint: http:// sends rows"),
        (json!({"endpoint": "https://u:p@h/x"}), "spec.endpoint: user and password in it are ignored"),
        (json!({"git": {"pushPolicy": "ForcePush"}}), "spec.git.pushPolicy: ForcePush overwrites"),
        (json!({"serialization": {"compression": "gzip"}}), "spec.serialization.compression: without effect"),
        (json!({"provisioning": {"mode": "existing"}}), "spec.provisioning.mode: without effect"),
        (json!({"tls": {"insecureSkipVerify": true}}), "spec.tls.insecureSkipVerify: neither certificate"),
        (
            json!({"endpoint": "git@h:x", "secretRef": {"name": "s"}, "tls": {"caBundle": "YQ=="}}),
            "spec.tls: certificates have no effect over SSH",
        ),
        (json!({"layout": {"index": {"enabled": true}}}), "spec.layout.index.enabled: without effect"),
        (json!({"layout": {"content": "attributes"}}), "spec.layout.content: without effect in mode document"),
        (
            tree("perResource", &json!({"pathTemplate": "{namespace}/{name}"})),
            "spec.pathTemplate: without effect beside spec.layout.pathTemplate",
        ),
        (json!({"pathTemplate": "{namespace}/{name}.json"}), "spec.pathTemplate: ends in .json"),
        (json!({"cluster": "west"}), "spec.pathTemplate: has no {cluster}"),
        (tree("split", &json!({"git": {"prune": false}})), "spec.git.prune: without effect"),
        (json!({"options": {"fetch": "all"}}), "spec.options.fetch: unknown, ignored"),
    ] {
        let warnings = check(&more).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{more}: {warnings:?}");
        assert!(warnings[0].starts_with(want), "{more}: {warnings:?}");
    }
    let fleet = json!({"cluster": "west", "pathTemplate": "clusters/{cluster}/{namespace}/{name}{extension}"});
    assert!(check(&fleet).unwrap().warnings.is_empty());
    assert!(check(&tree("perResource", &json!({"cluster": "west"}))).unwrap().warnings.is_empty());
}

#[test]
fn trees_always_prune_and_documents_when_asked() {
    for (more, want) in [
        (json!({"layout": {"mode": "perResource"}}), true),
        (json!({"layout": {"mode": "split"}, "git": {"prune": false}}), true),
        (json!({"layout": {}}), false),
        (json!({"git": {"prune": true}}), true),
    ] {
        assert_eq!(check(&more).unwrap().prune, want, "{more}");
    }
}
