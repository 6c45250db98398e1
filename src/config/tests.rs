use clap::{CommandFactory, Parser};

use super::*;

/// The flags alone, so that tests can read them without the rest of the program.
#[derive(Debug, Parser)]
#[command(name = "kollect manager", disable_version_flag = true)]
struct Flags {
    #[command(flatten)]
    manager: ManagerArgs,
}

fn parse(flags: &[&str]) -> Result<ManagerArgs, clap::Error> {
    Flags::try_parse_from([&["manager"], flags].concat()).map(|flags| flags.manager)
}

fn environment() -> Environment {
    Environment { home: Some("/home/k".into()), ..Environment::default() }
}

fn config(flags: &[&str]) -> Result<Config, ConfigErrors> {
    Config::new(parse(flags).unwrap(), environment())
}

fn complaint(flags: &[&str]) -> String {
    config(flags).unwrap_err().to_string()
}

#[test]
fn no_flags_at_all_is_a_valid_start() {
    let config = config(&[]).unwrap();
    assert_eq!(config.servers.health.unwrap().to_string(), ":8081");
    assert_eq!(config.servers.metrics, None);
    assert_eq!(config.logging.format, LogFormat::Console);
    assert_eq!(config.logging.level, LogLevel::Debug);
    assert_eq!(config.collection.store_budget, None);
    assert_eq!(config.delivery.audit_interval, Some(Duration::from_hours(1)));
    assert_eq!(config.control.backoff_base, Duration::from_millis(5));
    assert_eq!(config.control.backoff_cap, Duration::from_secs(1000));
}

#[test]
fn zero_or_less_stands_for_the_default() {
    let zero = config(&[
        "--collect-dispatch-workers=0",
        "--collect-dispatch-queue-size=-1",
        "--informer-resync-period=0",
        "--max-namespaced-watches=0",
        "--max-watch-connections=0",
        "--collect-metrics-sample-interval=-1s",
        "--labeled-series-cap=0",
        "--max-export-bytes=-5",
        "--max-concurrent-exports=0",
        "--max-concurrent-exports-per-destination=0",
        "--max-concurrent-reconciles-target=0",
        "--max-concurrent-reconciles-inventory=0",
        "--max-concurrent-reconciles-cluster-target=0",
        "--max-concurrent-reconciles-cluster-inventory=0",
        "--target-count-resync",
        "-10s",
    ]);
    assert_eq!(zero, config(&[]));
}

#[test]
fn flags_take_the_syntax_of_go() {
    let args = parse(&[
        "--health-probe-bind-address",
        ":9000",
        "--zap-devel=F",
        "--allow-private-sinks",
        "--zap-log-level=2",
        "--informer-resync-period=1h30m",
        "--scrub-keys=Foo, foo,,bar ",
        "--max-export-bytes=1",
        "--max-export-bytes=2",
    ])
    .unwrap();
    let config = Config::new(args, environment()).unwrap();
    assert_eq!(config.servers.health.unwrap().to_string(), ":9000");
    assert_eq!(config.logging.format, LogFormat::Json);
    assert_eq!(config.logging.level, LogLevel::Trace);
    assert_eq!(config.network.private_sinks, Permission::Allowed);
    assert_eq!(config.network.loopback_sinks, Permission::Denied);
    assert_eq!(config.collection.resync_period, Duration::from_mins(90));
    assert_eq!(config.collection.scrub_keys, ["foo", "bar"]);
    assert_eq!(config.delivery.max_export_bytes.get(), 2);
}

#[test]
fn wrong_values_and_unknown_flags_end_with_2() {
    for flags in [
        ["--no-such-flag"],
        ["--zap-devel=maybe"],
        ["--informer-resync-period=7d"],
        ["--inventory-auth-mode=open"],
        ["--metrics-bind-address=8080"],
        ["--store-budget=lots"],
        ["--cross-namespace-secrets=some"],
        ["stray"],
    ] {
        assert_eq!(parse(&flags).unwrap_err().exit_code(), 2, "{flags:?}");
    }
    assert!(parse(&["--inventory-auth-mode=none"]).is_ok());
}

#[test]
fn what_is_not_served_is_named_with_the_fix() {
    for (flag, set, unset) in [
        ("--inventory-http-enabled", "true", "false"),
        ("--enable-http2", "true", "false"),
        ("--reconcile-rate-limit", "1s", "0"),
        ("--kube-api-qps", "20", "0"),
        ("--kube-api-burst", "30", "0"),
    ] {
        let message = complaint(&[&format!("{flag}={set}")]);
        assert!(message.starts_with(&format!("{flag}: not in this build; ")), "{message}");
        assert!(config(&[&format!("{flag}={unset}")]).is_ok(), "{flag}={unset}");
    }
}

#[test]
fn metrics_are_secure_unless_told_otherwise() {
    let metrics =
        |flags: &[&str]| config(&[&["--metrics-bind-address=:8443"], flags].concat()).unwrap().servers.metrics;
    assert_eq!(metrics(&[]).unwrap().secure, Some(ServingPair::SelfSigned));
    assert_eq!(metrics(&["--metrics-secure=false", "--metrics-cert-path=/c"]).unwrap().secure, None);
    let files = |certificate: &str, key: &str| ServingPair::Files { certificate: certificate.into(), key: key.into() };
    assert_eq!(metrics(&["--metrics-cert-path=/c"]).unwrap().secure, Some(files("/c/tls.crt", "/c/tls.key")));
    let named = metrics(&["--metrics-cert-path=/c", "--metrics-cert-name=a.pem", "--metrics-cert-key=b.pem"]);
    assert_eq!(named.unwrap().secure, Some(files("/c/a.pem", "/c/b.pem")));
    assert_eq!(config(&["--metrics-bind-address=0", "--metrics-secure=true"]).unwrap().servers.metrics, None);
}

#[test]
fn webhooks_are_served_with_a_pair_of_our_own_unless_told_otherwise() {
    let webhooks = |flags: &[&str]| config(flags).unwrap().servers.webhooks;
    let served = webhooks(&[]).unwrap();
    assert_eq!(served.address.to_string(), ":9443");
    let shared = |secret: &str, configuration: &str| {
        WebhookPair::Shared(SharedPair { secret: secret.to_owned(), configuration: configuration.to_owned() })
    };
    assert_eq!(served.pair, shared("webhook-server-cert", "kollect-validating-webhook-configuration"));
    assert_eq!(webhooks(&["--webhook-secret=s", "--webhook-configuration=c"]).unwrap().pair, shared("s", "c"));
    let files = ServingPair::Files { certificate: "/c/tls.crt".into(), key: "/c/k.pem".into() };
    let brought = webhooks(&["--webhook-cert-path=/c", "--webhook-cert-key=k.pem"]).unwrap();
    assert_eq!(brought.pair, WebhookPair::Brought(files));
    assert_eq!(webhooks(&["--tenant-mode"]), None, "telling the API server takes a right on the cluster");
    assert_eq!(webhooks(&["--tenant-mode", "--webhook-cert-path=/c", "--webhook-cert-key=k.pem"]), Some(brought));
    assert_eq!(webhooks(&["--validating-webhooks-enabled=false"]), None);
    assert_eq!(webhooks(&["--webhook-bind-address=0"]), None);
}

#[test]
fn profiles_are_served_only_when_asked_for() {
    let pprof = |flags: &[&str]| config(flags).unwrap().servers.pprof.map(|address| address.to_string());
    assert_eq!(pprof(&[]), None);
    assert_eq!(pprof(&["--pprof-bind-address=:7070"]), None);
    assert_eq!(pprof(&["--enable-pprof"]).as_deref(), Some(":6060"));
    assert_eq!(pprof(&["--enable-pprof", "--pprof-bind-address=127.0.0.1:0"]).as_deref(), Some("127.0.0.1:0"));
    assert_eq!(pprof(&["--enable-pprof", "--pprof-bind-address=0"]), None);
}

#[test]
fn all_complaints_come_at_once() {
    let ConfigErrors(errors) =
        config(&["--enable-http2", "--inventory-http-enabled", "--leader-elect-retry-period=50s"]).unwrap_err();
    assert_eq!(errors.len(), 3);
}

#[test]
fn the_cache_of_the_user_is_where_it_is_told_to_be_or_below_the_home() {
    let mirrors = |environment: Environment| {
        let environment = Environment { temporary: "/tmp".into(), ..environment };
        Config::new(parse(&[]).unwrap(), environment).unwrap().delivery.git.mirrors
    };
    let cached = |cache: &str| {
        let home = Some("/home/k".into());
        mirrors(Environment { home, cache: Some(cache.into()), ..Environment::default() }).cache.unwrap()
    };
    assert_eq!(cached("/var/cache"), PathBuf::from("/var/cache"));
    assert_eq!(cached("cache"), PathBuf::from("/home/k/.cache"));
    let given =
        mirrors(Environment { git_mirror_dir: Some("/mirrors".into()), in_cluster: true, ..Environment::default() });
    assert_eq!(given, Mirrors { configured: Some("/mirrors".into()), cache: None, temporary: "/tmp".into() });
}

#[test]
fn lease_times_keep_their_order() {
    assert_eq!(
        complaint(&["--leader-elect-renew-deadline=5s"]),
        "--leader-elect-retry-period (5s) must be less than --leader-elect-renew-deadline (5s), \
         and that less than --leader-elect-lease-duration (1m0s)"
    );
    assert!(config(&["--leader-elect-lease-duration=40s"]).is_err());
    assert!(config(&["--leader-elect-retry-period=0"]).is_err());
}

#[test]
fn without_the_flag_there_is_no_election() {
    assert_eq!(config(&["--leader-elect-lease-duration=90s"]).unwrap().election, None);
    let environment = Environment { hostname: Some("kollect-0".into()), ..environment() };
    let election = Config::new(parse(&["--leader-elect"]).unwrap(), environment).unwrap().election.unwrap();
    assert_eq!(
        election,
        Election {
            lease_duration: Duration::from_mins(1),
            renew_deadline: Duration::from_secs(40),
            retry_period: Duration::from_secs(5),
            hostname: "kollect-0".into(),
        }
    );
}

#[test]
fn the_api_server_is_looked_for_in_order() {
    let full = Environment {
        kubeconfig: vec!["/a".into(), "/b".into()],
        in_cluster: true,
        home: Some("/home/k".into()),
        ..Environment::default()
    };
    let found =
        |flags: &[&str], environment: Environment| Config::new(parse(flags).unwrap(), environment).map(|c| c.api);
    assert_eq!(found(&["--kubeconfig=/k"], full.clone()), Ok(ApiAccess::Kubeconfig(vec!["/k".into()])));
    assert_eq!(found(&[], full.clone()), Ok(ApiAccess::Kubeconfig(vec!["/a".into(), "/b".into()])));
    let pod = Environment { kubeconfig: Vec::new(), ..full };
    assert_eq!(found(&[], pod.clone()), Ok(ApiAccess::InCluster));
    let laptop = Environment { in_cluster: false, ..pod };
    assert_eq!(found(&[], laptop.clone()), Ok(ApiAccess::Kubeconfig(vec!["/home/k/.kube/config".into()])));
    let nowhere = Environment { home: None, ..laptop };
    assert_eq!(found(&[], nowhere), Err(ConfigErrors(vec![ConfigError::NoApiServer])));
}

#[test]
fn the_store_budget_is_a_share_of_the_memory_limit() {
    let limited = Environment { memory_limit: Some(256 << 20), ..environment() };
    let budget = |flags: &[&str]| super::store_budget(parse(flags).unwrap().store_budget, limited.memory_limit);
    assert_eq!(budget(&[]), Some(ByteSize((256 << 20) / 100 * 60)));
    assert_eq!(budget(&["--store-budget=50%"]), Some(ByteSize((256 << 20) / 100 * 50)));
    assert_eq!(budget(&["--store-budget=64Mi"]), Some(ByteSize(64 << 20)));
    assert_eq!(budget(&["--store-budget=0"]), None);
    let config = |environment| Config::new(parse(&["--store-budget=64Mi"]).unwrap(), environment).unwrap();
    assert_eq!(config(environment()).collection.store_budget, Some(ByteSize(64 << 20)), "no limit is needed for bytes");
}

/// The table of all flags as `docs/configuration.md` has it.
fn flag_table() -> String {
    use std::fmt::Write as _;

    let mut table = String::new();
    let mut heading = None;
    for flag in Flags::command().get_arguments() {
        let Some(long) = flag.get_long().filter(|long| *long != "help") else { continue };
        if heading != Some(flag.get_help_heading()) {
            heading = Some(flag.get_help_heading());
            writeln!(
                table,
                "\n### {}\n\n| Flag | Default | Meaning |\n| --- | --- | --- |",
                flag.get_help_heading().unwrap_or("General")
            )
            .unwrap();
        }
        let default = flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<String>();
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(table, "| `--{long}` | {default} | {help} |").unwrap();
    }
    table
}

#[test]
fn the_page_on_configuration_lists_every_flag() {
    let page = include_str!("../../docs/configuration.md");
    let table = flag_table();
    assert!(page.contains(&table), "docs/configuration.md is out of date; between its markers belongs:\n{table}");
}
