{{/*
Names are fixed: there is one Keyferry in a cluster (its custom resources, webhook configurations and the ConfigMap keyferry-trust are
there once), so that a second release is refused by Helm instead of fighting the first.
*/}}

{{/* Labels of an object. Argument: {root, component}; component may be left out. */}}
{{- define "keyferry.labels" -}}
{{ include "keyferry.selectorLabels" . }}
app.kubernetes.io/part-of: keyferry
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that select the Pods of a component. Argument: {root, component}. */}}
{{- define "keyferry.selectorLabels" -}}
app.kubernetes.io/name: keyferry
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* Reference of an image. Argument: {root, image}. */}}
{{- define "keyferry.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Namespaces in which Secrets may be read, as a JSON list: the release's first. */}}
{{- define "keyferry.secretNamespaces" -}}
{{ prepend .Values.secretAccess.namespaces .Release.Namespace | uniq | toJson }}
{{- end }}

{{/* Name of the Secret with the serving certificate of a component. Argument: {root, component}. */}}
{{- define "keyferry.certificateSecret" -}}
{{- $certificates := .root.Values.certificates -}}
{{- if eq $certificates.mode "provided" -}}
{{- $value := printf "%sSecret" .component -}}
{{ required (printf "certificates.provided.%s is required where certificates.mode is provided" $value) (get $certificates.provided $value) }}
{{- else -}}
keyferry-{{ .component }}-tls
{{- end -}}
{{- end }}

{{/* Whether the cluster has the kinds of the Prometheus Operator: "true" or nothing. Argument: the root. */}}
{{- define "keyferry.prometheusOperator" -}}
{{- if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}true{{ end -}}
{{- end }}
