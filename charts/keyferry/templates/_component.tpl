{{/*
A component: its ServiceAccount, Deployment and, with more than one replica, PodDisruptionBudget.

Argument: root; component, the name; ports, a map of name to number; args, a list; volumes, a list of {name, mountPath, source};
extraVolumes and extraVolumeMounts, as a Pod and a container have them;
gracePeriod, the seconds that it may take to stop; preStopSleep, the seconds for which it goes on serving before;
serviceAccountAnnotations, a map.
*/}}
{{- define "keyferry.component" -}}
{{- $values := get .root.Values .component -}}
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
        {{- merge (include "keyferry.labels" . | fromYaml) .root.Values.podLabels | toYaml | nindent 8 }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .component }}
        {{- with .root.Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: keyferry-{{ .component }}
      terminationGracePeriodSeconds: {{ .gracePeriod }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .root.Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
      {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
      - topologyKey: {{ . }}
        maxSkew: 1
        whenUnsatisfiable: ScheduleAnyway
        labelSelector:
          matchLabels:
            {{- include "keyferry.selectorLabels" $ | nindent 12 }}
        matchLabelKeys: [pod-template-hash]
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
              fieldPath: metadata.namespace
        {{- with .root.Values.env }}
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
        {{- with .preStopSleep }}
        lifecycle:
          preStop:
            sleep:
              seconds: {{ . }}
        {{- end }}
        resources:
          {{- toYaml $values.resources | nindent 10 }}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: [ALL]
        {{- if or .volumes .extraVolumeMounts }}
        volumeMounts:
        {{- range .volumes }}
        - name: {{ .name }}
          mountPath: {{ .mountPath }}
          readOnly: true
        {{- end }}
        {{- with .extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- end }}
      {{- if or .volumes .extraVolumes }}
      volumes:
      {{- range .volumes }}
      - name: {{ .name }}
        {{- toYaml .source | nindent 8 }}
      {{- end }}
      {{- with .extraVolumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- end }}
{{- if gt (int $values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: keyferry-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "keyferry.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "keyferry.selectorLabels" . | nindent 6 }}
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
