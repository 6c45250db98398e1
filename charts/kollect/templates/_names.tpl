{{- define "kollect.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "kollect.fullname" -}}
{{- $name := include "kollect.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Deployment, Service and ServiceAccount; cut so that the whole is a name that a Service may have. */}}
{{- define "kollect.manager" -}}
{{- include "kollect.fullname" . | trunc 44 | trimSuffix "-" }}-controller-manager
{{- end -}}

{{- define "kollect.webhookService" -}}
{{- include "kollect.fullname" . | trunc 47 | trimSuffix "-" }}-webhook-service
{{- end -}}

{{- define "kollect.webhookConfiguration" -}}
{{- include "kollect.fullname" . }}-validating-webhook-configuration
{{- end -}}

{{- define "kollect.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kollect.manager" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "kollect.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kollect.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
control-plane: controller-manager
{{- end -}}

{{- define "kollect.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kollect.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "kollect.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default (printf "v%s" $.Chart.AppVersion) .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The subject of every binding. */}}
{{- define "kollect.subject" -}}
- kind: ServiceAccount
  name: {{ include "kollect.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}
