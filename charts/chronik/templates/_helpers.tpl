{{/* Name of the chart. */}}
{{- define "chronik.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of the names of objects. */}}
{{- define "chronik.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "chronik.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Name of the operator's objects. */}}
{{- define "chronik.operator" -}}
{{- printf "%s-operator" (include "chronik.fullname" .) }}
{{- end }}

{{/* Name of cluster-wide objects: two releases of one name in two namespaces do not meet. */}}
{{- define "chronik.clusterWide" -}}
{{- printf "%s-%s" .Release.Namespace (include "chronik.operator" .) }}
{{- end }}

{{/* Chart and version as a label. */}}
{{- define "chronik.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Labels of everything. */}}
{{- define "chronik.labels" -}}
helm.sh/chart: {{ include "chronik.chart" . }}
{{ include "chronik.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: chronik
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels of the operator's pods; the brokers' NetworkPolicy knows the first. */}}
{{- define "chronik.selectorLabels" -}}
app.kubernetes.io/name: chronik-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Name of the ServiceAccount. */}}
{{- define "chronik.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "chronik.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Image of the operator. */}}
{{- define "chronik.operatorImage" -}}
{{- printf "%s:%s" .Values.operator.image.repository (default .Chart.AppVersion .Values.operator.image.tag) }}
{{- end }}

{{/* Image of brokers that name none. */}}
{{- define "chronik.brokerImage" -}}
{{- printf "%s:%s" .Values.broker.image.repository (default .Chart.AppVersion .Values.broker.image.tag) }}
{{- end }}

{{/* Name of the first cluster. */}}
{{- define "chronik.cluster" -}}
{{- default (.Release.Name | trunc 40 | trimSuffix "-") .Values.cluster.name }}
{{- end }}

{{/* What helm test connects to; empty = there is nothing to test. */}}
{{- define "chronik.testBootstrap" -}}
{{- if .Values.test.bootstrap }}
{{- .Values.test.bootstrap }}
{{- else if .Values.cluster.create }}
{{- $port := 9092 }}
{{- range .Values.cluster.spec.listeners }}
{{- if eq .type "internal" }}{{ $port = default 9092 .port }}{{ end }}
{{- end }}
{{- printf "%s-bootstrap.%s.svc:%d" (include "chronik.cluster" .) .Release.Namespace (int $port) }}
{{- end }}
{{- end }}

{{/* What restricted namespaces ask of a pod. */}}
{{- define "chronik.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What restricted namespaces ask of a container. */}}
{{- define "chronik.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What the operator does in each namespace that it watches. */}}
{{- define "chronik.rules" -}}
- apiGroups: [chronik.io]
  resources: [chronikclusters]
  verbs: [get, list, watch]
- apiGroups: [chronik.io]
  resources: [chronikclusters/status]
  verbs: [get, update, patch]
- apiGroups: [chronik.io]
  resources: [chronikclusters/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps, secrets, services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
