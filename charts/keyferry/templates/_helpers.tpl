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

{{/* Namespaces in which Secrets may be read, as a JSON list. */}}
{{- define "keyferry.secretNamespaces" -}}
{{- if has .Release.Namespace .Values.secretAccess.namespaces -}}
{{ fail (printf "secretAccess.namespaces must not list %s, Keyferry's own namespace, where the key of its CA is: keep TargetClusters in another namespace, and list that" .Release.Namespace) }}
{{- end -}}
{{ uniq .Values.secretAccess.namespaces | toJson }}
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

{{/* Whether metrics are served by plain HTTP: "true" or nothing. A value that is missing, as after an upgrade with --reuse-values, counts as
its default. Argument: the root. */}}
{{- define "keyferry.plainMetrics" -}}
{{- if eq (toString .Values.metrics.secure) "false" }}true{{ end -}}
{{- end }}

{{/* Whether the cluster has the kinds of the Prometheus Operator: "true" or nothing. Argument: the root. */}}
{{- define "keyferry.prometheusOperator" -}}
{{- if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}true{{ end -}}
{{- end }}

{{/* Fails if the values use a feature that no API server of this Kubernetes has: it would reject the objects, or drop the fields. Argument:
the root. */}}
{{- define "keyferry.checkFeatures" -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- range $value, $first := dict "imageVolume" "1.31" "envFromFile" "1.35" -}}
{{- if and (eq (toString (get $.Values $value)) "true") (semverCompare (printf "<%s.0-0" $first) $version) -}}
{{- fail (printf "%s is true, which needs Kubernetes %s; this cluster has %s: set %s to auto" $value $first $version $value) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Fails if a component's volume is an image and this Kubernetes has no image volumes. They are on by default since 1.35; since 1.31
they can be switched on, which imageVolume true states. Argument: {root, component}. */}}
{{- define "keyferry.checkVolumes" -}}
{{- $version := .root.Capabilities.KubeVersion.Version -}}
{{- $first := ternary "1.31" "1.35" (eq (toString .root.Values.imageVolume) "true") -}}
{{- if semverCompare (printf "<%s.0-0" $first) $version -}}
{{- range (get .root.Values .component).extraVolumes -}}
{{- if .image -}}
{{- $remedy := "use another kind of volume, or an image of Keyferry that contains the files" -}}
{{- if semverCompare ">=1.31.0-0" $version -}}
{{- $remedy = printf "%s; if the feature gate ImageVolume is on, set imageVolume to true" $remedy -}}
{{- end -}}
{{- fail (printf "%s.extraVolumes: volume %q is an image, which needs Kubernetes 1.35; this cluster has %s: %s" $.component .name $version $remedy) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Name of a component's ServiceAccount. Argument: {root, component}. */}}
{{- define "keyferry.serviceAccountName" -}}
{{- $values := (get .root.Values .component).serviceAccount -}}
{{- if not (or $values.create $values.name) -}}
{{- fail (printf "%s.serviceAccount: name is required where create is false" .component) -}}
{{- end -}}
{{ $values.name | default (printf "keyferry-%s" .component) }}
{{- end }}

{{/* Namespaces that the webhooks do not select, as a JSON list. Argument: the root. */}}
{{- define "keyferry.excludedNamespaces" -}}
{{ concat (list .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | join "\", \"" | printf "[\"%s\"]" }}
{{- end }}

{{/* Ports of the webhook's Pods, by name. Argument: the root. */}}
{{- define "keyferry.webhookPorts" -}}
{{- $values := .Values.webhook -}}
https: {{ $values.port | default (ternary 19443 9443 $values.hostNetwork) | int }}
metrics: {{ $values.metricsPort | default (ternary 19080 8080 $values.hostNetwork) | int }}
health: {{ $values.healthPort | default (ternary 19081 8081 $values.hostNetwork) | int }}
{{- end }}

{{/* The rest of the spec of a Pod that runs the command keyferry once. Argument: root; args, a list. */}}
{{- define "keyferry.checkPod" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
containers:
- name: check
  image: {{ include "keyferry.image" (dict "root" .root "image" .root.Values.image) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [/keyferry]
  args: {{ toJson .args }}
  resources:
    requests:
      cpu: 10m
      memory: 32Mi
    limits:
      memory: 128Mi
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
{{- end }}
