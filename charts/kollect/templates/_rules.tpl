{{/* What the operator may do, and nothing that it does not use. config/rbac/role.yaml says the same; a test compares. */}}
{{- define "kollect.rules.cluster" -}}
- apiGroups: [""]
  resources: [configmaps, namespaces, secrets, services]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, watch]
{{- if include "kollect.secureMetrics" . }}
{{ include "kollect.rules.authReviews" . }}
{{- end }}
- apiGroups: [kollect.dev]
  resources: [kollectclusterscopes, kollectprofiles, kollectscopes]
  verbs: [get, list, watch]
- apiGroups: [kollect.dev]
  resources:
    - kollectclusterinventories
    - kollectclustertargets
    - kollectconnectiontests
    - kollectdatabasesinks
    - kollecteventsinks
    - kollectinventories
    - kollectsnapshotsinks
    - kollecttargets
  verbs: [get, list, patch, update, watch]
- apiGroups: [kollect.dev]
  resources: [kollectconnectiontests]
  verbs: [delete]
- apiGroups: [kollect.dev]
  resources:
    - kollectclusterinventories/status
    - kollectclustertargets/status
    - kollectconnectiontests/status
    - kollectdatabasesinks/status
    - kollecteventsinks/status
    - kollectinventories/status
    - kollectsnapshotsinks/status
    - kollecttargets/status
  verbs: [get, patch, update]
{{- end -}}

{{/* Whose token it is, and whether its owner may read metrics. */}}
{{- define "kollect.rules.authReviews" -}}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end -}}

{{/* The same in one namespace. Kinds to collect are not among it: a team grants these itself, or by rbac.extraRules. */}}
{{- define "kollect.rules.tenant" -}}
# The namespace itself: its labels and annotations.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [kollect.dev]
  resources: [kollectprofiles, kollectscopes]
  verbs: [get, list, watch]
- apiGroups: [kollect.dev]
  resources:
    - kollectconnectiontests
    - kollectdatabasesinks
    - kollecteventsinks
    - kollectinventories
    - kollectsnapshotsinks
    - kollecttargets
  verbs: [get, list, patch, update, watch]
- apiGroups: [kollect.dev]
  resources: [kollectconnectiontests]
  verbs: [delete]
- apiGroups: [kollect.dev]
  resources:
    - kollectconnectiontests/status
    - kollectdatabasesinks/status
    - kollecteventsinks/status
    - kollectinventories/status
    - kollectsnapshotsinks/status
    - kollecttargets/status
  verbs: [get, patch, update]
{{- end -}}
