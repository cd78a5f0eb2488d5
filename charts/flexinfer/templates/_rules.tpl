{{/* What the manager does where Models are. A child that is applied is patched, and created where it is new. */}}
{{- define "flexinfer.managerRules" -}}
- {apiGroups: [ai.flexinfer], resources: [models], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [ai.flexinfer], resources: [models/status], verbs: [patch]}
- {apiGroups: [ai.flexinfer], resources: [modeldeployments], verbs: [list, watch, patch]}
- {apiGroups: [ai.flexinfer], resources: [modeldeployments/status], verbs: [patch]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [apps], resources: [controllerrevisions], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [batch], resources: [jobs], verbs: [list, watch, create, patch, delete]}
- {apiGroups: [""], resources: [services], verbs: [get, list, watch, create, patch]}
- {apiGroups: [""], resources: [persistentvolumeclaims], verbs: [list, watch, create, patch, delete]}
- {apiGroups: [""], resources: [pods], verbs: [list, watch, delete]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch, create, patch, delete]}
{{- if .Values.networkPolicy.enabled }}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [get, list, watch, create, patch, delete]}
{{- end }}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
{{- end -}}

{{/* What the proxy does where Models are. */}}
{{- define "flexinfer.proxyRules" -}}
- {apiGroups: [ai.flexinfer], resources: [models], verbs: [get, list, watch]}
- {apiGroups: [ai.flexinfer], resources: [models/status], verbs: [patch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
{{- end -}}
