{{/* What could only end in an operator that does not start, or in a value without effect, ends here, by name. */}}
{{- define "kollect.checks" -}}
{{- $v := .Values -}}
{{- if and $v.webhooks.certManager.create $v.webhooks.caBundle -}}
{{- fail "webhooks.caBundle: cert-manager brings its own authority; leave it empty, or set webhooks.certManager.create to false" -}}
{{- end -}}
{{- if $v.featureGates.inventoryHttp.enabled -}}
{{- fail "featureGates.inventoryHttp.enabled: this release serves no read API; leave it false" -}}
{{- end -}}
{{- if $v.oauth2Proxy.enabled -}}
{{- fail "oauth2Proxy.enabled: this release has no read API to stand before; leave it false" -}}
{{- end -}}
{{- if or $v.ui.enabled $v.ui.ingress.enabled -}}
{{- fail "ui.enabled: this release has no console; leave ui.enabled and ui.ingress.enabled false" -}}
{{- end -}}
{{- if not (has ($v.controller.reconcileRateLimit | toString) (list "" "0" "0s")) -}}
{{- fail "controller.reconcileRateLimit: nothing in this release is retried in a loop; leave it empty" -}}
{{- end -}}
{{- if and (gt (int64 $v.replicaCount) 1) (not $v.leaderElection.enabled) -}}
{{- fail "replicaCount: more than 1 needs leaderElection.enabled" -}}
{{- end -}}
{{- if and (gt (int64 $v.replicaCount) 1) (include "kollect.singleVolume" .) -}}
{{- fail "gitMirror.accessMode: several replicas mount the volume at the same time; say ReadWriteMany, or name a claim that can" -}}
{{- end -}}
{{- end -}}

{{/* The top of values.yaml; a test compares. */}}
{{- define "kollect.knownValues" -}}
affinity allowPrivateSinks collect controller createNamespace defaultExcludedNamespaces defaultIncludedNamespaces extraArgs
extraEnv featureGates fullnameOverride gitMirror global image imagePullSecrets largeCluster leaderElection metrics mode
nameOverride networkPolicy nodeSelector oauth2Proxy podAnnotations podDisruptionBudget podLabels podSecurityContext pprof
priorityClassName rbac replicaCount resources resourcesProfile scrubKeys securityContext serviceAccount sinkDefaults
tenantMode terminationGracePeriodSeconds tolerations ui watchNamespaces webhooks
{{- end -}}
