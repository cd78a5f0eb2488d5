{{/* Every variable that the manager reads; docs/reference has them in a table, and a test compares both. */}}
{{- define "flexinfer.managerEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- {name: FLEXINFER_IMAGE, value: {{ include "flexinfer.image" . | quote }}}
- {name: FLEXINFER_IMAGE_PULL_POLICY, value: {{ .Values.image.pullPolicy | quote }}}
- {name: FLEXINFER_IMAGE_PULL_SECRETS, value: {{ join "," .Values.imagePullSecrets | quote }}}
- {name: MODEL_CACHE_PATH, value: {{ .Values.models.cachePath | quote }}}
- {name: DEFAULT_SHM_SIZE_LIMIT, value: {{ .Values.controller.runtime.shmSizeLimit | quote }}}
- {name: FLEXINFER_ALLOW_HOST_PATH, value: {{ .Values.allowHostPath | quote }}}
- {name: FLEXINFER_WATCH_NAMESPACES, value: {{ join "," .Values.watchNamespaces | quote }}}
- {name: FLEXINFER_PROXY_SERVICE, value: {{ include "flexinfer.proxy" . | quote }}}
- {name: FLEXINFER_SCHEDULER_NAME, value: {{ .Values.models.schedulerName | quote }}}
- {name: FLEXINFER_LABEL_PREFIX, value: {{ .Values.models.labelPrefix | quote }}}
- {name: FLEXINFER_CLUSTER_DOMAIN, value: {{ .Values.clusterDomain | quote }}}
- {name: FLEXINFER_ALLOW_UPSTREAM, value: {{ join "," .Values.allowUpstream | quote }}}
- {name: FLEXINFER_MODEL_ACCESS, value: {{ ternary .Values.modelAccess "" .Values.networkPolicy.enabled | quote }}}
{{- if and .Values.proxy.enabled .Values.proxy.apiKeys.enabled }}
- {name: FLEXINFER_API_KEYS_SECRET, value: {{ .Values.proxy.apiKeys.secretName | quote }}}
{{- end }}
- {name: METRICS_BIND_ADDRESS, value: {{ .Values.controller.metricsBindAddress | quote }}}
- {name: HEALTH_PROBE_BIND_ADDRESS, value: {{ .Values.controller.healthProbeBindAddress | quote }}}
- {name: LEADER_ELECT, value: {{ .Values.controller.leaderElect | quote }}}
{{- with .Values.models.defaultBackendImage }}
- {name: DEFAULT_BACKEND_IMAGE, value: {{ . | quote }}}
{{- end }}
{{- range $name, $value := .Values.models.downloadEnv }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- with .Values.mlcllm.image }}
- {name: DEFAULT_MLC_LLM_IMAGE, value: {{ . | quote }}}
{{- end }}
{{- range $name, $image := .Values.models.images }}
- {name: {{ $name }}, value: {{ $image | quote }}}
{{- end }}
{{- with .Values.controller.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Every variable that the proxy reads. */}}
{{- define "flexinfer.proxyEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- {name: FLEXINFER_WATCH_NAMESPACES, value: {{ join "," .Values.watchNamespaces | quote }}}
- {name: FLEXINFER_ALLOW_UPSTREAM, value: {{ join "," .Values.allowUpstream | quote }}}
- {name: PROXY_MAX_QUEUE_SIZE, value: {{ .Values.proxy.maxQueueSize | quote }}}
- {name: PROXY_SHUTDOWN_DRAIN_DELAY, value: {{ .Values.proxy.gracefulShutdown.drainDelay | quote }}}
- {name: PROXY_GRACEFUL_SHUTDOWN_TIMEOUT, value: {{ .Values.proxy.gracefulShutdown.timeout | quote }}}
{{- with .Values.proxy.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The words after `flexinfer`. */}}
{{- define "flexinfer.proxyArgs" -}}
{{- $keys := ternary (list "--api-key-file" "/etc/flexinfer/keys/keys.txt") (list "--no-auth") .Values.proxy.apiKeys.enabled -}}
{{ concat (list "proxy") $keys .Values.proxy.extraArgs | toJson }}
{{- end -}}
