{{/* Empty is off. */}}
{{- define "kollect.metrics" -}}
{{- if and .Values.metrics.enabled (ne (toString .Values.metrics.bindAddress) "0") }}on{{ end -}}
{{- end -}}

{{- define "kollect.metricsPort" -}}
{{- regexFind "[0-9]+$" .Values.metrics.bindAddress -}}
{{- end -}}

{{- define "kollect.secureMetrics" -}}
{{- if and (include "kollect.metrics" .) .Values.metrics.secure }}on{{ end -}}
{{- end -}}

{{/* Empty is off. A team cannot register webhooks, which are of the whole cluster. */}}
{{- define "kollect.webhooks" -}}
{{- if and .Values.webhooks.enabled (not .Values.tenantMode) }}on{{ end -}}
{{- end -}}

{{/* The operator makes the pair of the webhooks itself. */}}
{{- define "kollect.ownCertificate" -}}
{{- if and (include "kollect.webhooks" .) (not .Values.webhooks.certManager.create) (not .Values.webhooks.caBundle) }}yes{{ end -}}
{{- end -}}

{{/* Somebody else makes it, and it is mounted. */}}
{{- define "kollect.webhookVolume" -}}
{{- if and (include "kollect.webhooks" .) (not (include "kollect.ownCertificate" .)) }}yes{{ end -}}
{{- end -}}

{{/* The namespaces that the operator watches in tenant mode, or is told to watch. */}}
{{- define "kollect.watchNamespaces" -}}
{{- if and .Values.tenantMode (not .Values.watchNamespaces) -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- join "," .Values.watchNamespaces -}}
{{- end -}}
{{- end -}}

{{/* What the profile sets, and `collect` before it. */}}
{{- define "kollect.workers" -}}
{{- $large := eq .Values.resourcesProfile "large" -}}
{{- $from := ternary .Values.largeCluster .Values.controller $large -}}
{{- $workers := $from.collectDispatchWorkers -}}
{{- $queue := $from.collectDispatchQueueSize -}}
{{- with (.Values.collect | default dict).dispatchWorkers }}{{ $workers = . }}{{ end -}}
{{- with (.Values.collect | default dict).dispatchQueueSize }}{{ $queue = . }}{{ end -}}
target: {{ int64 $from.maxConcurrentReconciles.target }}
inventory: {{ int64 $from.maxConcurrentReconciles.inventory }}
dispatchWorkers: {{ int64 $workers }}
dispatchQueueSize: {{ int64 $queue }}
{{- end -}}

{{/* The order is published: a test compares it. */}}
{{- define "kollect.args" -}}
{{- $workers := include "kollect.workers" . | fromYaml -}}
{{- with .Values.leaderElection }}
{{- if .enabled }}
- --leader-elect
{{- with .leaseDuration }}
- --leader-elect-lease-duration={{ . }}
{{- end }}
{{- with .renewDeadline }}
- --leader-elect-renew-deadline={{ . }}
{{- end }}
{{- with .retryPeriod }}
- --leader-elect-retry-period={{ . }}
{{- end }}
{{- end }}
{{- end }}
- --health-probe-bind-address=:8081
{{- if include "kollect.metrics" . }}
- --metrics-bind-address={{ .Values.metrics.bindAddress }}
- --metrics-secure={{ .Values.metrics.secure }}
{{- if and .Values.metrics.secure .Values.metrics.certSecret }}
- --metrics-cert-path=/etc/kollect/metrics-certs
{{- end }}
{{- else }}
- --metrics-bind-address=0
{{- end }}
- --max-concurrent-reconciles-target={{ $workers.target }}
- --max-concurrent-reconciles-inventory={{ $workers.inventory }}
{{- with .Values.controller.maxConcurrentReconciles }}
{{- if ne (int64 .clusterTarget) 2 }}
- --max-concurrent-reconciles-cluster-target={{ int64 .clusterTarget }}
{{- end }}
{{- if ne (int64 .clusterInventory) 2 }}
- --max-concurrent-reconciles-cluster-inventory={{ int64 .clusterInventory }}
{{- end }}
{{- end }}
- --collect-dispatch-workers={{ $workers.dispatchWorkers }}
- --collect-dispatch-queue-size={{ $workers.dispatchQueueSize }}
- --informer-resync-period={{ .Values.controller.informerResyncPeriod }}
- --collect-metrics-sample-interval={{ .Values.controller.collectMetricsSampleInterval }}
{{- with .Values.controller.reconcileRateLimit }}
- --reconcile-rate-limit={{ . }}
{{- end }}
{{- with .Values.controller.targetCountResync }}
- --target-count-resync={{ . }}
{{- end }}
{{- if .Values.pprof.enabled }}
- --enable-pprof
- --pprof-bind-address={{ .Values.pprof.bindAddress }}
{{- end }}
- --validating-webhooks-enabled={{ if include "kollect.webhooks" . }}true{{ else }}false{{ end }}
{{- if include "kollect.webhookVolume" . }}
- --webhook-cert-path=/tmp/k8s-webhook-server/serving-certs
{{- end }}
{{- if include "kollect.ownCertificate" . }}
- --webhook-secret={{ .Values.webhooks.certManager.secretName }}
- --webhook-configuration={{ include "kollect.webhookConfiguration" . }}
{{- end }}
{{- if .Values.tenantMode }}
- --tenant-mode
{{- end }}
{{- if .Values.allowPrivateSinks }}
- --allow-private-sinks
{{- end }}
{{- with include "kollect.watchNamespaces" . }}
- --watch-namespaces={{ . }}
{{- end }}
{{- with .Values.defaultIncludedNamespaces }}
- --default-included-namespaces={{ join "," . }}
{{- end }}
{{- with .Values.defaultExcludedNamespaces }}
- --default-excluded-namespaces={{ join "," . }}
{{- end }}
{{- with .Values.scrubKeys }}
- --scrub-keys={{ join "," . }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "kollect.profile.default" -}}
requests: {cpu: 10m, memory: 64Mi}
limits: {cpu: 500m, memory: 256Mi, ephemeral-storage: 1Gi}
{{- end -}}

{{/* One core at the start, when everything is listed; the store takes 60 % of the memory. */}}
{{- define "kollect.profile.small" -}}
requests: {cpu: 50m, memory: 128Mi}
limits: {cpu: "1", memory: 192Mi, ephemeral-storage: 1Gi}
{{- end -}}

{{/* The profile, and over it `resources`, where null takes away what the profile has. */}}
{{- define "kollect.resources" -}}
{{- $all := .Values.largeCluster.resources -}}
{{- if ne .Values.resourcesProfile "large" -}}
{{- $all = include (printf "kollect.profile.%s" .Values.resourcesProfile) . | fromYaml -}}
{{- end -}}
{{- $result := omit .Values.resources "requests" "limits" -}}
{{- range $kind := list "requests" "limits" -}}
{{- $these := deepCopy (get $all $kind | default dict) -}}
{{- range $name, $quantity := get $.Values.resources $kind | default dict -}}
{{- if kindIs "invalid" $quantity -}}
{{- $_ := unset $these $name -}}
{{- else -}}
{{- $_ := set $these $name $quantity -}}
{{- end -}}
{{- end -}}
{{- if $these -}}
{{- $_ := set $result $kind $these -}}
{{- end -}}
{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{/* A claim that one node alone may mount: the old pod has to go before the new one comes. */}}
{{- define "kollect.singleVolume" -}}
{{- with .Values.gitMirror }}{{ if and .enabled (not .existingClaim) (eq .accessMode "ReadWriteOnce") }}yes{{ end }}{{ end -}}
{{- end -}}

{{- define "kollect.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext -}}
{{- if .Values.gitMirror.enabled -}}
{{/* The volume has to be writable, and the mirrors on it have to keep the mode that the operator gave them. */}}
{{- $context = merge $context (dict "fsGroup" 65532 "fsGroupChangePolicy" "OnRootMismatch") -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}
