{{/* What every object is named after: the release, with the chart's name where it does not say it. */}}
{{- define "flexinfer.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "flexinfer.manager" -}}{{ include "flexinfer.fullname" . }}-manager{{- end -}}
{{- define "flexinfer.proxy" -}}{{ include "flexinfer.fullname" . }}-proxy{{- end -}}

{{/* Cluster-scoped objects carry the namespace: two installations may watch different namespaces of one cluster. */}}
{{- define "flexinfer.clusterName" -}}{{ .root.Release.Namespace }}:{{ include (printf "flexinfer.%s" .part) .root }}{{- end -}}

{{- define "flexinfer.managerAccount" -}}
{{ .Values.controller.serviceAccount.name | default (include "flexinfer.manager" .) }}
{{- end -}}
{{- define "flexinfer.proxyAccount" -}}
{{ .Values.proxy.serviceAccount.name | default (include "flexinfer.proxy" .) }}
{{- end -}}

{{/* Of a part (manager, proxy): dict "root" $ "part" "proxy". */}}
{{- define "flexinfer.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}
{{- define "flexinfer.labels" -}}
{{ include "flexinfer.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "flexinfer.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The port in ":8080", "0.0.0.0:8080" or "8080". */}}
{{- define "flexinfer.portOf" -}}{{ . | splitList ":" | last }}{{- end -}}

{{/* What "restricted" asks of a pod and of its containers. */}}
{{- define "flexinfer.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "flexinfer.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the pods of a part run: dict "root" $ "part" "proxy" "values" .Values.proxy. */}}
{{- define "flexinfer.placement" -}}
{{- range $index, $name := .root.Values.imagePullSecrets }}
{{- if not $index }}imagePullSecrets:{{ end }}
  - name: {{ $name }}
{{ end }}
{{- with .values.nodeSelector -}}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
affinity:
{{- if .values.affinity }}
{{- toYaml .values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "flexinfer.selector" . | nindent 14 }}
{{- end }}
{{- end -}}

{{/* Rights in the namespaces of Models: in all of them, or in each that is watched. dict "root" "part" "account" "rules". */}}
{{- define "flexinfer.modelRights" -}}
{{- $labels := include "flexinfer.labels" . }}
{{- $subject := dict "kind" "ServiceAccount" "name" .account "namespace" .root.Release.Namespace }}
{{- $part := include (printf "flexinfer.%s" .part) .root }}
{{- $rules := .rules }}
{{- if not .root.Values.watchNamespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "flexinfer.clusterName" . }}-models
  labels: {{- $labels | nindent 4 }}
rules:
{{ $rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "flexinfer.clusterName" . }}-models
  labels: {{- $labels | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ include "flexinfer.clusterName" . | printf "%s-models" | quote }}}
subjects: [{{ toJson $subject }}]
{{- else }}
{{- range .root.Values.watchNamespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $part }}-models
  namespace: {{ . }}
  labels: {{- $labels | nindent 4 }}
rules:
{{ $rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $part }}-models
  namespace: {{ . }}
  labels: {{- $labels | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $part }}-models}
subjects: [{{ toJson $subject }}]
{{- end }}
{{- end }}
{{- end -}}
