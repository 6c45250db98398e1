//! Flags, in the order that is published.

use anyhow::{Result, ensure};
use kollect::lab::helm::{Chart, NAMESPACE};

use super::{Claim, same, set, with_file};

pub(super) const CLAIMS: &[Claim] = &[
    ("the default flags are the published ones, in their order", default_flags),
    ("every flag that depends on a value has its place", all_flags),
    ("private sinks are permitted only when asked for", private_sinks),
    ("timings of the lease are passed on, and only with an election", timings),
    ("webhooks are served with the certificate that somebody makes, and with no other", webhooks),
    ("in tenant mode the flag is there, and the namespaces", tenant_mode),
    ("`collect` counts before `controller` and before the profile", dispatch),
    ("metrics that are off have no address", metrics_off),
    ("a flag of the user comes last and as it is", extra_flags),
];

const DEFAULT: [&str; 13] = [
    "--leader-elect",
    "--health-probe-bind-address=:8081",
    "--metrics-bind-address=:8443",
    "--metrics-secure=true",
    "--max-concurrent-reconciles-target=5",
    "--max-concurrent-reconciles-inventory=3",
    "--collect-dispatch-workers=4",
    "--collect-dispatch-queue-size=512",
    "--informer-resync-period=12h",
    "--collect-metrics-sample-interval=30s",
    "--validating-webhooks-enabled=true",
    "--webhook-secret=webhook-server-cert",
    "--webhook-configuration=kollect-validating-webhook-configuration",
];

fn default_flags(chart: &Chart) -> Result<()> {
    same(set(chart, &[])?.args()?, DEFAULT)
}

fn all_flags(chart: &Chart) -> Result<()> {
    let all = [
        "--leader-elect",
        "--leader-elect-lease-duration=30s",
        "--leader-elect-renew-deadline=20s",
        "--leader-elect-retry-period=4s",
        "--health-probe-bind-address=:8081",
        "--metrics-bind-address=:8443",
        "--metrics-secure=true",
        "--metrics-cert-path=/etc/kollect/metrics-certs",
        "--max-concurrent-reconciles-target=10",
        "--max-concurrent-reconciles-inventory=10",
        "--max-concurrent-reconciles-cluster-target=4",
        "--max-concurrent-reconciles-cluster-inventory=4",
        "--collect-dispatch-workers=8",
        "--collect-dispatch-queue-size=1024",
        "--informer-resync-period=12h",
        "--collect-metrics-sample-interval=30s",
        "--target-count-resync=2m",
        "--enable-pprof",
        "--pprof-bind-address=:6060",
        "--validating-webhooks-enabled=true",
        "--webhook-secret=webhook-server-cert",
        "--webhook-configuration=inventory-validating-webhook-configuration",
        "--allow-private-sinks",
        "--watch-namespaces=team-a,team-b",
        "--default-included-namespaces=team-a",
        "--default-excluded-namespaces=kube-system",
        "--scrub-keys=internal-id",
        "--store-budget=50%",
    ];
    same(with_file(chart, "ci/full-values.yaml")?.args()?, all)
}

/// Returns the flags that some values add to those without, and those that they take away.
fn difference(chart: &Chart, values: &[&str]) -> Result<(Vec<String>, Vec<String>)> {
    let (before, after) = (set(chart, &[])?.args()?, set(chart, values)?.args()?);
    let added = after.iter().filter(|arg| !before.contains(arg)).cloned().collect();
    Ok((added, before.into_iter().filter(|arg| !after.contains(arg)).collect()))
}

fn private_sinks(chart: &Chart) -> Result<()> {
    ensure!(!set(chart, &[])?.args()?.iter().any(|arg| arg.contains("private")), "they are by default");
    ensure!(!set(chart, &["allowPrivateSinks=false"])?.args()?.iter().any(|arg| arg.contains("private")), "with false");
    same(difference(chart, &["allowPrivateSinks=true"])?, (vec!["--allow-private-sinks".to_owned()], vec![]))
}

fn timings(chart: &Chart) -> Result<()> {
    let timings =
        ["leaderElection.leaseDuration=15s", "leaderElection.renewDeadline=10s", "leaderElection.retryPeriod=2s"];
    let args = set(chart, &timings)?.args()?;
    let want = [
        "--leader-elect",
        "--leader-elect-lease-duration=15s",
        "--leader-elect-renew-deadline=10s",
        "--leader-elect-retry-period=2s",
    ];
    same(args.get(..4), Some(&want.map(str::to_owned)[..]))?;
    let mut off = timings.to_vec();
    off.push("leaderElection.enabled=false");
    let args = set(chart, &off)?.args()?;
    ensure!(!args.iter().any(|arg| arg.contains("leader-elect")), "{args:?}");
    Ok(())
}

fn webhooks(chart: &Chart) -> Result<()> {
    let flags = |values: &[&str]| -> Result<Vec<String>> {
        Ok(set(chart, values)?.args()?.into_iter().filter(|arg| arg.contains("webhook")).collect())
    };
    let (on, off) = ("--validating-webhooks-enabled=true", "--validating-webhooks-enabled=false");
    let ours = "--webhook-configuration=kollect-validating-webhook-configuration";
    same(flags(&["webhooks.certManager.secretName=pair"])?, [on, "--webhook-secret=pair", ours])?;
    let path = "--webhook-cert-path=/tmp/k8s-webhook-server/serving-certs";
    for brought in ["webhooks.certManager.create=true", "webhooks.caBundle=pem"] {
        same(flags(&[brought])?, [on, path])?;
    }
    for without in ["webhooks.enabled=false", "tenantMode=true"] {
        same(flags(&[without])?, [off])?;
    }
    Ok(())
}

fn tenant_mode(chart: &Chart) -> Result<()> {
    ensure!(!set(chart, &[])?.args()?.iter().any(|arg| arg.contains("tenant")), "by default");
    let (added, _) = difference(chart, &["tenantMode=true"])?;
    let off = "--validating-webhooks-enabled=false".to_owned();
    same(added, [off.clone(), "--tenant-mode".to_owned(), format!("--watch-namespaces={NAMESPACE}")])?;
    let (added, _) = difference(chart, &["tenantMode=true", "watchNamespaces={team-a,team-b}"])?;
    same(added, [off.as_str(), "--tenant-mode", "--watch-namespaces=team-a,team-b"])
}

fn dispatch(chart: &Chart) -> Result<()> {
    let (workers, queue) = ("collect.dispatchWorkers=6", "collect.dispatchQueueSize=1024");
    let controller = ["controller.collectDispatchWorkers=3", "controller.collectDispatchQueueSize=99"];
    let large = "resourcesProfile=large";
    let cases: [(&[&str], [&str; 2]); 9] = [
        (&[], ["4", "512"]),
        (&controller, ["3", "99"]),
        (&[workers, queue], ["6", "1024"]),
        (&[controller[0], controller[1], workers, queue], ["6", "1024"]),
        (&[controller[0], controller[1], workers], ["6", "99"]),
        (&[large], ["8", "2048"]),
        (&[large, workers, queue], ["6", "1024"]),
        (&[large, queue], ["8", "1024"]),
        (&["resourcesProfile=small", workers], ["6", "512"]),
    ];
    for (values, [workers, queue]) in cases {
        let args = set(chart, values)?.args()?;
        for want in [format!("--collect-dispatch-workers={workers}"), format!("--collect-dispatch-queue-size={queue}")]
        {
            ensure!(args.contains(&want), "{values:?}: {want} is not among {args:?}");
        }
        same(args.iter().filter(|arg| arg.starts_with("--collect-dispatch")).count(), 2)?;
    }
    let args = set(chart, &[large])?.args()?;
    for want in ["--max-concurrent-reconciles-target=10", "--max-concurrent-reconciles-inventory=10"] {
        ensure!(args.iter().any(|arg| arg == want), "large: {want} is not among {args:?}");
    }
    Ok(())
}

fn metrics_off(chart: &Chart) -> Result<()> {
    for off in ["metrics.enabled=false", "metrics.bindAddress=0"] {
        let args = set(chart, &[off])?.args()?;
        let metrics: Vec<&String> = args.iter().filter(|arg| arg.starts_with("--metrics")).collect();
        same(metrics, ["--metrics-bind-address=0"])?;
    }
    Ok(())
}

fn extra_flags(chart: &Chart) -> Result<()> {
    let args =
        set(chart, &["extraArgs={--zap-devel=false,--health-probe-bind-address=:9000}", "scrubKeys={a}"])?.args()?;
    same(
        args.get(args.len() - 3..),
        Some(&["--scrub-keys=a", "--zap-devel=false", "--health-probe-bind-address=:9000"].map(str::to_owned)[..]),
    )
}
