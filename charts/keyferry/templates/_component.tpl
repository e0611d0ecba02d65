{{/*
A component: its ServiceAccount, Deployment and, with more than one replica, PodDisruptionBudget.

Argument: root; component, the name; ports, a map of name to number; args, a list; volumes, a list of {name, mountPath, source};
extraVolumes and extraVolumeMounts, as a Pod and a container have them, besides those of the component's values;
gracePeriod, the seconds that it may take to stop; serviceAccountAnnotations, a map.
*/}}
{{- define "keyferry.component" -}}
{{- include "keyferry.checkVolumes" . -}}
{{- /* What is said for all components holds where a component says nothing of its own; maps are merged. */ -}}
{{- $shared := pick .root.Values "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "deploymentAnnotations" "podAnnotations" "podLabels" -}}
{{- $values := merge (deepCopy (get .root.Values .component)) (deepCopy $shared) -}}
{{- $env := concat .root.Values.env $values.env -}}
{{- $extraVolumes := concat (.extraVolumes | default list) $values.extraVolumes -}}
{{- $extraVolumeMounts := concat (.extraVolumeMounts | default list) $values.extraVolumeMounts -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: keyferry-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "keyferry.labels" . | nindent 4 }}
  {{- with .serviceAccountAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: keyferry-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "keyferry.labels" . | nindent 4 }}
  {{- with $values.deploymentAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  replicas: {{ $values.replicas }}
  selector:
    matchLabels:
      {{- include "keyferry.selectorLabels" . | nindent 6 }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  template:
    metadata:
      labels:
        {{- merge (include "keyferry.labels" . | fromYaml) $values.podLabels | toYaml | nindent 8 }}
      annotations:
        {{- merge $values.podAnnotations (dict "kubectl.kubernetes.io/default-container" .component) | toYaml | nindent 8 }}
    spec:
      serviceAccountName: keyferry-{{ .component }}
      terminationGracePeriodSeconds: {{ .gracePeriod }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
      {{- range $values.topologySpreadConstraints | default (include "keyferry.topologySpreadConstraints" . | fromYamlArray) }}
      - {{ merge . (dict "labelSelector" (dict "matchLabels" (include "keyferry.selectorLabels" $ | fromYaml))) | toYaml | nindent 8 | trim }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        seccompProfile:
          type: RuntimeDefault
      containers:
      - name: {{ .component }}
        image: {{ include "keyferry.image" (dict "root" .root "image" .root.Values.image) }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        command: [/{{ .component }}]
        args:
        {{- range concat .args (list (printf "--log-level=%v" .root.Values.logLevel)) $values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
        env:
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              apiVersion: v1
              fieldPath: metadata.namespace
        {{- with $env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        ports:
        {{- range $name, $port := .ports }}
        - name: {{ $name }}
          containerPort: {{ $port }}
        {{- end }}
        livenessProbe:
          httpGet:
            path: /healthz
            port: health
          periodSeconds: 10
          failureThreshold: 6
        readinessProbe:
          httpGet:
            path: /readyz
            port: health
          periodSeconds: 2
        resources:
          {{- toYaml $values.resources | nindent 10 }}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: [ALL]
        {{- if or .volumes $extraVolumeMounts }}
        volumeMounts:
        {{- range .volumes }}
        - name: {{ .name }}
          mountPath: {{ .mountPath }}
          readOnly: true
        {{- end }}
        {{- with $extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- end }}
      {{- if or .volumes $extraVolumes }}
      volumes:
      {{- range .volumes }}
      - name: {{ .name }}
        {{- toYaml .source | nindent 8 }}
      {{- end }}
      {{- with $extraVolumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- end }}
{{- $budget := .root.Values.podDisruptionBudget }}
{{- if and $budget.enabled (gt (int $values.replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: keyferry-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "keyferry.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $budget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "keyferry.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* Over nodes and zones where possible; each rollout by itself, or the old Pods would count. */}}
{{- define "keyferry.topologySpreadConstraints" -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{/* The Service of a component that serves HTTPS. Argument: {root, component}, and optionally sessionAffinity. */}}
{{- define "keyferry.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: keyferry-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "keyferry.labels" . | nindent 4 }}
spec:
  selector:
    {{- include "keyferry.selectorLabels" . | nindent 4 }}
  {{- with .sessionAffinity }}
  sessionAffinity: {{ . }}
  {{- end }}
  ports:
  - name: https
    port: 443
    targetPort: https
{{- end }}

{{/* The volume with the serving certificate of a component. A Pod waits until the Secret is there. Argument: {root, component}. */}}
{{- define "keyferry.certificateVolume" -}}
name: tls
mountPath: /etc/keyferry/tls
source:
  secret:
    secretName: {{ include "keyferry.certificateSecret" . }}
{{- end }}

{{/* The volume with the provider file, if there is one. Argument: the root. */}}
{{- define "keyferry.providerVolumes" -}}
{{- if .Values.providerFile -}}
- name: providers
  mountPath: /etc/keyferry/providers
  source:
    configMap:
      name: keyferry-providers
{{- end }}
{{- end }}

{{/* The argument that names the provider file, if there is one. Argument: the root. */}}
{{- define "keyferry.providerArgs" -}}
{{- if .Values.providerFile -}}
- --provider-file=/etc/keyferry/providers/providers.json
{{- end }}
{{- end }}
