{{/*
A component: its ServiceAccount, Deployment and, with more than one replica, PodDisruptionBudget.

Argument: root; component, the name; ports, a map of name to number; args, a list; volumes, a list of {name, mountPath, source};
extraVolumes and extraVolumeMounts, as a Pod and a container have them, besides those of the component's values;
gracePeriod, the seconds that it may take to stop; serviceAccountAnnotations, a map; hostNetwork, whether Pods have the node's.
*/}}
{{- define "keyferry.component" -}}
{{- include "keyferry.checkVolumes" . -}}
{{- /* What is said for all components holds where a component says nothing of its own; maps are merged. */ -}}
{{- $shared := pick .root.Values "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "deploymentAnnotations" "podAnnotations" "podLabels" "dnsPolicy" "dnsConfig" -}}
{{- $values := merge (deepCopy (get .root.Values .component)) (deepCopy $shared) -}}
{{- $env := concat .root.Values.env $values.env -}}
{{- include "keyferry.checkComponent" (merge (dict "values" $values "env" $env) .) -}}
{{- $extraVolumes := concat (.extraVolumes | default list) $values.extraVolumes -}}
{{- $extraVolumeMounts := concat (.extraVolumeMounts | default list) $values.extraVolumeMounts -}}
{{- if $values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "keyferry.serviceAccountName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- merge (include "keyferry.labels" . | fromYaml) $values.serviceAccount.labels | toYaml | nindent 4 }}
  {{- with merge $values.serviceAccount.annotations (.serviceAccountAnnotations | default dict) }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
---
{{- end }}
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
      {{- /* On the node's network, a new Pod may need the port of an old one. */}}
      maxUnavailable: {{ ternary 1 0 (default false .hostNetwork) }}
      maxSurge: 1
  template:
    metadata:
      labels:
        {{- merge (include "keyferry.labels" . | fromYaml) $values.podLabels | toYaml | nindent 8 }}
      annotations:
        {{- merge $values.podAnnotations (dict "kubectl.kubernetes.io/default-container" .component) | toYaml | nindent 8 }}
    spec:
      serviceAccountName: {{ include "keyferry.serviceAccountName" . }}
      terminationGracePeriodSeconds: {{ .gracePeriod }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if .hostNetwork }}
      hostNetwork: true
      {{- end }}
      {{- with $values.dnsPolicy | default (ternary "ClusterFirstWithHostNet" "" (default false .hostNetwork)) }}
      dnsPolicy: {{ . }}
      {{- end }}
      {{- with $values.dnsConfig }}
      dnsConfig:
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
        {{- if lt (int (.ports.https | default 1024)) 1024 }}
        # For a port below 1024 without rights.
        sysctls:
        - name: net.ipv4.ip_unprivileged_port_start
          value: {{ .ports.https | quote }}
        {{- end }}
      containers:
      - name: {{ .component }}
        image: {{ include "keyferry.image" (dict "root" .root "image" .root.Values.image) }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        command: [/{{ .component }}]
        args:
        {{- range concat .args (include "keyferry.commonArgs" .root | fromYamlArray) $values.extraArgs }}
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
  {{- with .root.Values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  selector:
    {{- include "keyferry.selectorLabels" . | nindent 4 }}
  {{- with .root.Values.service.ipFamilyPolicy }}
  ipFamilyPolicy: {{ . }}
  {{- end }}
  {{- with .root.Values.service.ipFamilies }}
  ipFamilies: {{ toJson . }}
  {{- end }}
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

{{/* Arguments of all components, as a YAML list. Argument: the root. */}}
{{- define "keyferry.commonArgs" -}}
- --log-level={{ .Values.logLevel }}
{{- if include "keyferry.plainMetrics" . }}
- --metrics-secure=false
{{- end }}
{{- end }}

{{/* Arguments for what the operator allows, which all components decide by, as a YAML list. Argument: the root. */}}
{{- define "keyferry.policyArgs" -}}
{{- $args := list -}}
{{- if .Values.allowLinkLocal }}
{{- $args = append $args "--allow-link-local" }}
{{- end }}
{{- with .Values.ambientIdentity.namespaces }}
{{- $args = append $args (printf "--ambient-identity-namespaces=%s" (join "," .)) }}
{{- end }}
{{- toYaml $args }}
{{- end }}

{{/* The argument that names the provider file, if there is one. Argument: the root. */}}
{{- define "keyferry.providerArgs" -}}
{{- if .Values.providerFile -}}
- --provider-file=/etc/keyferry/providers/providers.json
{{- end }}
{{- end }}
