//! Each claim is shown to notice a chart that breaks it: one text of one file is replaced, and the claim has to fail.

use std::collections::BTreeSet;
use std::sync::Arc;

use kollect::lab::helm::Chart;
use kollect::lab::process::Guard;
use kollect::lab::tools::Tool;

use super::claims;
use crate::support::part_or_skip;

/// A file, a text in it, what is put in its place, and the beginning of the claim that is broken by that.
type Break = (&'static str, &'static str, &'static str, &'static str);

const DEPLOYMENT: &str = "templates/deployment.yaml";
const POD: &str = "templates/_pod.tpl";
const NAMES: &str = "templates/_names.tpl";
const RULES: &str = "templates/_rules.tpl";
const RBAC: &str = "templates/rbac.yaml";
const METRICS_RBAC: &str = "templates/metrics-rbac.yaml";
const MONITOR: &str = "templates/servicemonitor.yaml";
const CHECKS: &str = "templates/_checks.tpl";
const NOTES: &str = "templates/NOTES.txt";
const POLICY: &str = "templates/networkpolicy.yaml";
const WEBHOOKS: &str = "templates/webhooks.yaml";
const SCHEMA: &str = "values.schema.json";

const BREAKS: &[Break] = &[
    (POD, "- --health-probe-bind-address=:8081\n", "", "the default flags"),
    ("values.yaml", "collectDispatchWorkers: 4", "collectDispatchWorkers: 5", "the default flags"),
    (POD, "- --enable-pprof\n", "", "every flag that depends"),
    (POD, "--target-count-resync=", "--target-count=", "every flag that depends"),
    (POD, "if .Values.allowPrivateSinks", "if true", "private sinks"),
    (POD, "if .Values.allowPrivateSinks", "if false", "private sinks"),
    (
        POD,
        "{{- with .Values.leaderElection }}\n{{- if .enabled }}",
        "{{- with .Values.leaderElection }}\n{{- if true }}",
        "timings",
    ),
    (POD, "--leader-elect-retry-period=", "--leader-elect-renew-deadline=", "timings"),
    (POD, "(not .Values.webhooks.caBundle) }}yes", "true }}yes", "webhooks are served"),
    (POD, "and .Values.webhooks.enabled (not .Values.tenantMode)", ".Values.webhooks.enabled", "webhooks are served"),
    (WEBHOOKS, "operations: [CREATE, UPDATE]", "operations: [CREATE, UPDATE, DELETE]", "every kind has its webhook"),
    (WEBHOOKS, "!has(object.metadata.deletionTimestamp)", "true", "every kind has its webhook"),
    (WEBHOOKS, "operator: In, values", "operator: NotIn, values", "an operator of some namespaces"),
    (WEBHOOKS, "(hasPrefix \"cluster\" .)", "false", "an operator of some namespaces"),
    (WEBHOOKS, "cert-manager.io/inject-ca-from", "cert-manager.io/inject", "the certificate of the webhooks"),
    (
        WEBHOOKS,
        "    resourceNames: [{{ .Values.webhooks.certManager.secretName }}]\n",
        "",
        "the certificate of the webhooks",
    ),
    (POD, "- --tenant-mode\n", "", "in tenant mode the flag"),
    (POD, "(not .Values.watchNamespaces)", "false", "in tenant mode the flag"),
    (POD, ".dispatchWorkers }}{{ $workers = . }}", ".dispatchWorkers }}", "`collect` counts"),
    (POD, ".dispatchQueueSize }}{{ $queue = . }}", ".dispatchQueueSize }}", "`collect` counts"),
    (POD, "eq .Values.resourcesProfile \"large\"", "eq 1 2", "`collect` counts"),
    (POD, "(ne (toString .Values.metrics.bindAddress) \"0\")", "true", "metrics that are off"),
    (POD, "- {{ . | quote }}\n", "- {{ upper . }}\n", "a flag of the user"),
    (NAMES, "printf \"v%s\"", "printf \"%s\"", "the image"),
    (NAMES, "{{- if .digest -}}", "{{- if false -}}", "the image"),
    (NAMES, "| trunc 44 ", "", "names follow"),
    (NAMES, "contains $name .Release.Name", "eq 1 2", "names follow"),
    (NAMES, "app.kubernetes.io/instance: {{ .Release.Name }}\n", "", "two releases"),
    (
        DEPLOYMENT,
        "            {{- toYaml .Values.securityContext | nindent 12 }}",
        "            privileged: true",
        "the pod is as restricted",
    ),
    ("values.yaml", "drop: [ALL]", "drop: []", "the pod is as restricted"),
    ("values.yaml", "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 10", "probes, grace"),
    (DEPLOYMENT, "path: /readyz", "path: /healthz", "probes, grace"),
    (POD, "memory: 192Mi", "memory: 256Mi", "each profile"),
    (POD, "memory: 256Mi, ephemeral-storage: 1Gi", "memory: 256Mi", "each profile"),
    (POD, "unset $these $name", "get $these $name", "each profile"),
    ("values.yaml", "memory: 4Gi, ephemeral-storage: 4Gi", "memory: 4Gi", "each profile"),
    ("templates/service.yaml", "{{ include \"kollect.metricsPort\" . }}", "8443", "ports follow"),
    (DEPLOYMENT, "containerPort: {{ include \"kollect.metricsPort\" . }}", "containerPort: 8443", "ports follow"),
    (DEPLOYMENT, "/var/lib/kollect/git-mirrors", "/var/lib/kollect", "mirrors of git"),
    (POD, "OnRootMismatch", "Always", "mirrors of git"),
    (
        DEPLOYMENT,
        "{{- toYaml . | nindent 12 }}\n            {{- end }}\n          {{- end }}\n          ports:",
        "{{- end }}\n          {{- end }}\n          ports:",
        "variables and accounts",
    ),
    (
        NAMES,
        "default \"default\" .Values.serviceAccount.name",
        "include \"kollect.manager\" .",
        "variables and accounts",
    ),
    (
        DEPLOYMENT,
        "or (not .Values.leaderElection.enabled) (include \"kollect.singleVolume\" .)",
        "include \"kollect.singleVolume\" .",
        "two pods",
    ),
    (
        DEPLOYMENT,
        "or (not .Values.leaderElection.enabled) (include \"kollect.singleVolume\" .)",
        "not .Values.leaderElection.enabled",
        "two pods",
    ),
    (
        RULES,
        "  verbs: [get, list, patch, update, watch]",
        "  verbs: [create, get, list, patch, update, watch]",
        "the roles are those",
    ),
    (RULES, "{{- if include \"kollect.secureMetrics\" . }}", "{{- if true }}", "the roles are those"),
    (
        RULES,
        "resources: [secrets]\n  verbs: [get, list, watch]",
        "resources: [secrets]\n  verbs: [\"*\"]",
        "nothing but our own",
    ),
    (
        RULES,
        "resources: [deployments]\n  verbs: [get, list, watch]",
        "resources: [deployments]\n  verbs: [get, list, update, watch]",
        "nothing but our own",
    ),
    (RBAC, "{{- if .Values.rbac.create }}", "{{- if true }}", "without RBAC"),
    (
        METRICS_RBAC,
        "{{- if and .Values.rbac.create $secure .Values.tenantMode",
        "{{- if and $secure .Values.tenantMode",
        "without RBAC",
    ),
    (RBAC, "{{- if .Values.tenantMode }}", "{{- if false }}", "in tenant mode nothing"),
    (RBAC, "append .Values.watchNamespaces .Release.Namespace", "list .Release.Namespace", "in tenant mode nothing"),
    (
        RULES,
        "  resources: [namespaces]\n  verbs: [get]\n",
        "  resources: []\n  verbs: [get]\n",
        "a tenant may do nothing",
    ),
    (
        RULES,
        "resources: [kollectprofiles, kollectscopes]\n  verbs: [get, list, watch]",
        "resources: [kollectprofiles, kollectscopes]\n  verbs: [get, list, watch, patch]",
        "a tenant may do nothing",
    ),
    (
        RBAC,
        "  {{- with $.Values.rbac.extraRules }}\n  {{- toYaml . | nindent 2 }}\n  {{- end }}\n",
        "",
        "rules of the user",
    ),
    (
        RBAC,
        "  {{- with .Values.rbac.extraRules }}\n  {{- toYaml . | nindent 2 }}\n  {{- end }}\n",
        "",
        "rules of the user",
    ),
    (
        METRICS_RBAC,
        " (not .Values.tenantMode) .Values.metrics.readerRole.create",
        " (not .Values.tenantMode)",
        "the operator may read metrics",
    ),
    (
        METRICS_RBAC,
        "  {{- with .Values.metrics.readerRole.extraSubjects }}\n  {{- toYaml . | nindent 2 }}\n  {{- end }}\n",
        "",
        "the operator may read metrics",
    ),
    (METRICS_RBAC, "[/metrics]", "[/metrics, /debug]", "the operator may read metrics"),
    (
        RULES,
        "- apiGroups: [\"\"]\n  resources: [events]",
        "- apiGroups: [events.k8s.io]\n  resources: [events]",
        "Events are core",
    ),
    (
        MONITOR,
        "and (include \"kollect.metrics\" .) .Values.metrics.serviceMonitor.enabled",
        "true",
        "nothing of monitoring",
    ),
    (MONITOR, "and (include \"kollect.metrics\" .) ", "and ", "nothing of monitoring"),
    (MONITOR, "bearerTokenFile", "tokenFile", "the ServiceMonitor finds"),
    (MONITOR, "interval: {{ .interval }}", "interval: 30s", "the ServiceMonitor finds"),
    (MONITOR, "{{- if $.Values.metrics.secure }}", "{{- if true }}", "a ServiceMonitor of plain"),
    (MONITOR, "ternary \"https\" \"http\" $.Values.metrics.secure", "print \"https\"", "a ServiceMonitor of plain"),
    (MONITOR, "{{- if .caSecret }}", "{{- if false }}", "an authority"),
    (DEPLOYMENT, "mountPath: /etc/kollect/metrics-certs", "mountPath: /etc/kollect", "an authority"),
    (
        "templates/prometheusrule.yaml",
        "concat $rules $.Values.metrics.prometheusRule.additionalRules",
        "concat $.Values.metrics.prometheusRule.additionalRules $rules",
        "the alerts",
    ),
    ("files/rules.yaml", "alert: KollectExportLatencyHigh", "alert: KollectSlow", "the alerts"),
    ("templates/dashboards.yaml", "$.Files.Get $path", "tpl ($.Files.Get $path) $", "each dashboard"),
    (
        "templates/dashboards.yaml",
        "  {{- with .Values.metrics.dashboards.labels }}",
        "  {{- with .Values.none }}",
        "each dashboard",
    ),
    (POLICY, "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "the policy lets in"),
    (
        POLICY,
        "{port: {{ include \"kollect.metricsPort\" . }}, protocol: TCP}",
        "{port: 8443, protocol: TCP}",
        "the policy lets in",
    ),
    (POLICY, "if .Values.networkPolicy.enabled", "if true", "there is no policy"),
    ("templates/poddisruptionbudget.yaml", "(gt (int64 .Values.replicaCount) 1)", "true", "replicas are kept"),
    ("templates/poddisruptionbudget.yaml", "and .Values.podDisruptionBudget.enabled ", "and ", "replicas are kept"),
    (
        SCHEMA,
        "[\"default\", \"small\", \"large\"]",
        "[\"default\", \"small\", \"large\", \"huge\"]",
        "a value of a wrong type",
    ),
    (SCHEMA, "{\"enum\": [\"get\", \"list\", \"watch\"]}", "{}", "a value of a wrong type"),
    (CHECKS, "fail \"featureGates.inventoryHttp.enabled:", "fail \"", "what is not served"),
    (CHECKS, "if $v.oauth2Proxy.enabled", "if false", "what is not served"),
    (CHECKS, "or $v.ui.enabled $v.ui.ingress.enabled", "$v.ui.ingress.enabled", "what is not served"),
    (CHECKS, "(list \"\" \"0\" \"0s\")", "(list \"\" \"0\" \"5s\")", "what is not served"),
    (CHECKS, "(not $v.leaderElection.enabled)", "false", "values that cannot work"),
    (CHECKS, "and $v.webhooks.certManager.create $v.webhooks.caBundle", "false", "values that cannot work"),
    (CHECKS, "(include \"kollect.singleVolume\" .)", "false", "values that cannot work"),
    (NOTES, "not (has $key $known)", "false", "what has no effect"),
    (NOTES, "(not .Values.metrics.readerRole.extraSubjects)", "", "what has no effect"),
    ("values.yaml", "sinkDefaults:", "sinkDefault:", "every value has its place"),
    (SCHEMA, "    \"tenantMode\": {\"type\": \"boolean\"},\n", "", "every value has its place"),
    (CHECKS, " collect controller", " controller", "every value at the top"),
    ("Chart.yaml", "version: 0.1.0", "version: 0.0.9", "the chart has the version"),
    (
        "crds/kollect.dev_kollectscopes.yaml",
        "kind: CustomResourceDefinition",
        "kind: Definition",
        "the definitions lie",
    ),
];

#[test]
fn every_claim_notices_what_breaks_it() {
    if part_or_skip(Tool::Helm.path()).is_none() {
        return;
    }
    let guard = Arc::new(Guard::start().unwrap());
    let mut upset = BTreeSet::new();
    let mut blind = Vec::new();
    for (file, text, by, about) in BREAKS {
        let chart = Chart::own().copy(&guard).unwrap();
        chart.replace(file, text, by).unwrap();
        let (name, claim) = claims().find(|(name, _)| name.starts_with(about)).expect(about);
        match claim(&chart) {
            Ok(()) => blind.push(format!("{name}: does not notice {by:?} for {text:?} in {file}")),
            // What is no chart any more, any claim would notice.
            Err(error) if format!("{error:#}").contains("helm ended") => {
                chart.render(&[]).unwrap_or_else(|error| panic!("{by:?} for {text:?} in {file}: {error:#}"));
            }
            Err(_) => {}
        }
        upset.insert(name);
    }
    assert!(blind.is_empty(), "{}", blind.join("\n"));
    let untried: Vec<_> = claims().map(|(name, _)| name).filter(|name| !upset.contains(name)).collect();
    assert!(untried.is_empty(), "nothing breaks: {untried:?}");
}
