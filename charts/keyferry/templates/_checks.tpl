{{/* Fails if a value that has a default is missing, as it is after `helm upgrade --reuse-values` if the older chart did not have it. Argument:
the root. */}}
{{- define "keyferry.checkComplete" -}}
{{- $paths := list "image.repository" "image.pullPolicy" "refresher.image.repository" "refresher.image.pullPolicy" "refresher.resources"
  "refresher.restartSpread" "secretAccess.namespaces" "credentialRequests" "certificates.mode" "envFromFile" "imageVolume" "ambientIdentity"
  "logLevel" "crds.install" "crds.keep" "env" "service" "podDisruptionBudget.enabled" "podDisruptionBudget.maxUnavailable"
  "webhook.timeoutSeconds" "webhook.hostNetwork" "webhook.excludedNamespaces" "webhook.namespaceSelector" "webhook.workloads"
  "webhook.configurationAnnotations" "networkPolicy" "metrics.serviceMonitor" "metrics.podMonitor" "metrics.rules" -}}
{{- range $component := list "webhook" "broker" "controller" -}}
{{- range list "replicas" "serviceAccount.create" "serviceAccount.annotations" "serviceAccount.labels" "extraArgs" "env" "extraVolumes" "extraVolumeMounts" -}}
{{- $paths = append $paths (printf "%s.%s" $component .) -}}
{{- end -}}
{{- end -}}
{{- range $path := $paths -}}
{{- $parent := $.Values -}}
{{- range splitList "." $path -}}
{{- if not (and (kindIs "map" $parent) (hasKey $parent .)) -}}
{{- fail (printf "the value %s is missing: upgrade with --reset-then-reuse-values instead of --reuse-values, which leaves out the defaults of new values" $path) -}}
{{- end -}}
{{- $parent = get $parent . -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Fails if the values cannot work together. Argument: the root. */}}
{{- define "keyferry.checkValues" -}}
{{- include "keyferry.checkComplete" . -}}
{{- include "keyferry.checkFeatures" . -}}
{{- range list "serviceMonitor" "podMonitor" -}}
{{- include "keyferry.checkMonitor" (dict "value" (printf "metrics.%s" .) "monitor" (get $.Values.metrics .)) -}}
{{- end -}}
{{- $accounts := dict -}}
{{- range $component := list "webhook" "broker" "controller" -}}
{{- $name := include "keyferry.serviceAccountName" (dict "root" $ "component" $component) -}}
{{- with get $accounts $name -}}
{{- fail (printf "%s.serviceAccount.name and %s.serviceAccount.name are both %s, so that each has the rights of both: use two ServiceAccounts" . $component $name) -}}
{{- end -}}
{{- $_ := set $accounts $name $component -}}
{{- end -}}
{{- range .Values.webhook.workloads -}}
{{- if eq . "pods" -}}
{{- fail "webhook.workloads: pods: the webhook always checks Pods: remove it" -}}
{{- end -}}
{{- if not (or (contains "." .) (has . (list "replicationcontrollers" "podtemplates"))) -}}
{{- fail (printf "webhook.workloads: %s: the group is missing: use resource.group, such as rollouts.argoproj.io" .) -}}
{{- end -}}
{{- end -}}
{{- if has .Release.Namespace .Values.credentialRequests.namespaces -}}
{{- fail (printf "credentialRequests.namespaces must not list %s, Keyferry's own namespace, where the controller must not read and write all Secrets: create CredentialRequests in another namespace, and list that" .Release.Namespace) -}}
{{- end -}}
{{- $providers := dict -}}
{{- range (.Values.providerFile | default dict).providers -}}
{{- if hasKey $providers .name -}}
{{- fail (printf "providerFile: two providers have the name %s: rename one of them" .name) -}}
{{- end -}}
{{- if and (eq (.runIn | default "") "Pod") (not .image) -}}
{{- fail (printf "providerFile: provider %s: runIn is Pod, which needs the image with the program: set image" .name) -}}
{{- end -}}
{{- $_ := set $providers .name true -}}
{{- end -}}
{{- include "keyferry.checkResources" (dict "value" "refresher.resources" "resources" .Values.refresher.resources) -}}
{{- include "keyferry.checkSelector" (dict "value" "webhook.namespaceSelector" "selector" .Values.webhook.namespaceSelector) -}}
{{- include "keyferry.checkSelector" (dict "value" "webhook.objectSelector" "selector" .Values.webhook.objectSelector) -}}
{{- include "keyferry.checkKeys" (dict "value" "commonLabels" "keys" .Values.commonLabels) -}}
{{- range $label, $_ := .Values.commonLabels -}}
{{- if regexMatch "^(app[.]kubernetes[.]io|helm[.]sh)/" $label -}}
{{- fail (printf "commonLabels: %s is set by the chart: remove it" $label) -}}
{{- end -}}
{{- end -}}
{{- $budget := .Values.podDisruptionBudget -}}
{{- if and $budget.enabled (regexMatch "^0+%?$" (toString $budget.maxUnavailable)) -}}
{{- fail (printf "podDisruptionBudget.maxUnavailable is %v, so that no node of these Pods can be drained: use 1 or more" $budget.maxUnavailable) -}}
{{- end -}}
{{- $certificates := .Values.certificates -}}
{{- if and (dig "certManager" "issuerRef" nil $certificates) (ne $certificates.mode "cert-manager") -}}
{{- fail (printf "certificates.certManager.issuerRef has no effect, because certificates.mode is %s: set the mode to cert-manager, or remove the value" $certificates.mode) -}}
{{- end -}}
{{- if ne $certificates.mode "provided" -}}
{{- range $key, $secret := $certificates.provided -}}
{{- if $secret -}}
{{- fail (printf "certificates.provided.%s has no effect, because certificates.mode is %s: set the mode to provided, or remove the value" $key $certificates.mode) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $service := .Values.service -}}
{{- if and (eq $service.ipFamilyPolicy "SingleStack") (gt (len $service.ipFamilies) 1) -}}
{{- fail "service.ipFamilies has two families, and service.ipFamilyPolicy is SingleStack: remove one family, or use PreferDualStack or RequireDualStack" -}}
{{- end -}}
{{- $ports := include "keyferry.webhookPorts" . | fromYaml -}}
{{- $values := dict "https" "port" "metrics" "metricsPort" "health" "healthPort" -}}
{{- $taken := dict -}}
{{- range $name, $port := $ports -}}
{{- $value := get $values $name -}}
{{- with get $taken (toString $port) -}}
{{- fail (printf "webhook.%s and webhook.%s are both %v: use two ports" . $value $port) -}}
{{- end -}}
{{- $_ := set $taken (toString $port) $value -}}
{{- if $.Values.webhook.hostNetwork -}}
{{- if has (int $port) (list 10248 10249 10250 10256) -}}
{{- fail (printf "webhook.%s is %v, a port of the kubelet or of kube-proxy, and webhook.hostNetwork is true: use another port" $value $port) -}}
{{- end -}}
{{- if lt (int $port) 1024 -}}
{{- fail (printf "webhook.%s is %v, which on the node's network needs rights that the webhook does not have: use a port from 1024 on, or set webhook.hostNetwork to false" $value $port) -}}
{{- end -}}
{{- else if and (ne $name "https") (lt (int $port) 1024) -}}
{{- fail (printf "webhook.%s is %v: use a port from 1024 on" $value $port) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Fails if a request is higher than its limit. Argument: {value, resources}. */}}
{{- define "keyferry.checkResources" -}}
{{- $limits := .resources.limits | default dict -}}
{{- range $name, $request := .resources.requests -}}
{{- if hasKey $limits $name -}}
{{- $amounts := list (include "keyferry.amount" $request) (include "keyferry.amount" (get $limits $name)) -}}
{{- if and (first $amounts) (last $amounts) (gt (first $amounts | float64) (last $amounts | float64)) -}}
{{- fail (printf "%s: requests.%s is %v, more than limits.%s (%v): lower the request, or raise the limit" $.value $name $request $name (get $limits $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A quantity as a number; nothing if it has an exponent. Argument: the quantity. */}}
{{- define "keyferry.amount" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- $unit := trimPrefix $number (toString .) -}}
{{- if not (kindIs "string" .) -}}
{{ . }}
{{- else if hasKey $units $unit -}}
{{ mulf (float64 $number) (get $units $unit) }}
{{- end -}}
{{- end }}

{{/* A duration of Prometheus, such as 1m30s, in milliseconds. Argument: the duration. */}}
{{- define "keyferry.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 "w" 604800000 "y" 31536000000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|[smhdwy])" . -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $sum = add $sum (mul (trimSuffix $unit . | int64) (get $units $unit)) -}}
{{- end -}}
{{ $sum }}
{{- end }}

{{/* Fails if Prometheus would reject the times of a monitor. Argument: {value, monitor}. */}}
{{- define "keyferry.checkMonitor" -}}
{{- $interval := .monitor.interval -}}
{{- with .monitor.scrapeTimeout -}}
{{- if and $interval (gt (include "keyferry.milliseconds" . | int64) (include "keyferry.milliseconds" $interval | int64)) -}}
{{- fail (printf "%s.scrapeTimeout is %s, longer than the interval (%s): use a shorter one" $.value . $interval) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Fails if the API server would reject a label selector. Argument: {value, selector}. */}}
{{- define "keyferry.checkSelector" -}}
{{- range (.selector | default dict).matchExpressions -}}
{{- if and (has .operator (list "In" "NotIn")) (not .values) -}}
{{- fail (printf "%s.matchExpressions: key %s: operator %s needs values: list them" $.value .key .operator) -}}
{{- end -}}
{{- if and (has .operator (list "Exists" "DoesNotExist")) .values -}}
{{- fail (printf "%s.matchExpressions: key %s: operator %s has no values: remove them, or use In or NotIn" $.value .key .operator) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Fails if annotations or labels of Keyferry's own objects have a prefix of Keyferry: the guard denies annotated Pods in Keyferry's
namespace, and the controller reads such labels. Argument: {value, keys}. */}}
{{- define "keyferry.checkKeys" -}}
{{- range $key, $_ := .keys -}}
{{- if regexMatch "(?i)^keyferry[.]dev/" $key -}}
{{- fail (printf "%s: %s is for the Pods of applications, not for Keyferry's own: remove it" $.value $key) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Flags of a component that extraArgs must not have, as YAML: by flag, the value to use instead; empty where there is none. Argument: {root, component}. */}}
{{- define "keyferry.reservedFlags" -}}
provider-file: providerFile
cert-dir: ""
namespace: ""
metrics-secure: metrics.secure
allow-link-local: allowLinkLocal
ambient-identity-namespaces: ambientIdentity.namespaces
{{- if eq .component "webhook" }}
port: webhook.port
metrics-address: webhook.metricsPort
health-address: webhook.healthPort
client-ca-file: webhook.clientCertificates.configMap
client-names: webhook.clientCertificates.names
broker-url: ""
refresher-image: refresher.image
refresher-image-pull-policy: refresher.image.pullPolicy
refresher-resources: refresher.resources
restart-spread: refresher.restartSpread
image-volume: imageVolume
env-from-file: envFromFile
{{- else }}
metrics-address: ""
health-address: ""
max-credential-lifetime: maxCredentialLifetime
{{- if eq .component "broker" }}
listen-address: ""
{{- else }}
certificates: certificates.mode
trust-bundle-file: certificates.provided.caSecret
credential-request-namespaces: credentialRequests.namespaces
secret-access-labels: secretAccess.namespaceLabels
secret-access-service-accounts: secretAccess.namespaceLabels
broker-service: ""
broker-service-account: broker.serviceAccount.name
webhook-service: ""
webhook-configuration: ""
{{- end }}
{{- end }}
{{- end }}

{{/* The other flags of a component, as YAML: those that extraArgs can have. Argument: the name of the component. */}}
{{- define "keyferry.otherFlags" -}}
{{- $own := dict
  "webhook" (list "shutdown-delay-duration")
  "broker" (list "kube-api-burst" "kube-api-qps" "max-connections")
  "controller" (list "leader-elect" "max-concurrent-credential-requests" "max-concurrent-probes" "revocation-timeout" "target-timeout") -}}
{{ concat (list "allow-local-addresses" "log-level") (get $own .) | toYaml }}
{{- end }}

{{/* Fails if the values of a component cannot work together. Argument: that of keyferry.component, with values and env of the component. */}}
{{- define "keyferry.checkComponent" -}}
{{- $component := .component -}}
{{- $reserved := include "keyferry.reservedFlags" . | fromYaml -}}
{{- $flags := include "keyferry.otherFlags" $component | fromYamlArray -}}
{{- include "keyferry.checkResources" (dict "value" (printf "%s.resources" $component) "resources" (.values.resources | default dict)) -}}
{{- range .values.extraArgs -}}
{{- $flag := regexFind "^[^=]+" . | trimPrefix "--" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $flag) -}}
{{- fail (printf "%s.extraArgs: %q is not a flag: use one element for each flag, such as --flag=value" $component .) -}}
{{- end -}}
{{- if hasKey $reserved $flag -}}
{{- $remedy := "remove it, since the chart's other objects depend on it" -}}
{{- with get $reserved $flag -}}
{{- $remedy = printf "use the value %s" . -}}
{{- end -}}
{{- fail (printf "%s.extraArgs: --%s is set by the chart: %s" $component $flag $remedy) -}}
{{- end -}}
{{- if not (has $flag $flags) -}}
{{- fail (printf "%s.extraArgs: the %s has no flag --%s: use one of --%s" $component $component $flag (join ", --" $flags)) -}}
{{- end -}}
{{- end -}}
{{- range .env -}}
{{- if eq .name "POD_NAMESPACE" -}}
{{- fail (printf "%s.env: POD_NAMESPACE is set by the chart: remove it" $component) -}}
{{- end -}}
{{- if and .value .valueFrom -}}
{{- fail (printf "%s.env: %s has value and valueFrom: remove one of them" $component .name) -}}
{{- end -}}
{{- end -}}
{{- if eq (int .values.replicas) 0 -}}
{{- fail (printf "%s.replicas is 0, without which Keyferry does not work: use 1 or more" $component) -}}
{{- end -}}
{{- $account := .values.serviceAccount -}}
{{- if not $account.create -}}
{{- range list "annotations" "labels" -}}
{{- if get $account . -}}
{{- fail (printf "%s.serviceAccount.%s has no effect, because create is false: set it on the ServiceAccount %s, and remove the value" $component . $account.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $os := dig "kubernetes.io/os" "linux" .values.nodeSelector -}}
{{- if ne $os "linux" -}}
{{- fail (printf "%s: nodeSelector: kubernetes.io/os is %s, and Keyferry's images are for linux: use linux" $component $os) -}}
{{- end -}}
{{- range list "podAnnotations" "podLabels" "deploymentAnnotations" -}}
{{- include "keyferry.checkKeys" (dict "value" (printf "%s: %s" $component .) "keys" (get $.values .)) -}}
{{- end -}}
{{- $labels := include "keyferry.labels" (dict "root" .root "component" $component) | fromYaml -}}
{{- range $label, $value := .values.podLabels -}}
{{- if and (hasKey $labels $label) (ne $value (get $labels $label)) -}}
{{- fail (printf "%s: podLabels: %s is set by the chart: remove it" $component $label) -}}
{{- end -}}
{{- end -}}
{{- $dnsPolicy := .values.dnsPolicy -}}
{{- if and (eq $dnsPolicy "None") (not (dig "nameservers" list .values.dnsConfig)) -}}
{{- fail (printf "%s: dnsPolicy is None, and dnsConfig.nameservers is empty: list the nameservers, or leave dnsPolicy empty" $component) -}}
{{- end -}}
{{- if and (eq $component "webhook") (eq $dnsPolicy "Default") (not .hostNetwork) -}}
{{- fail "webhook: dnsPolicy is Default, which does not resolve the Service of the broker: leave it empty, or set webhook.dnsPolicy to ClusterFirst" -}}
{{- end -}}
{{- if and .hostNetwork (has $dnsPolicy (list "ClusterFirst" "Default")) -}}
{{- fail (printf "%s: dnsPolicy is %s, which with hostNetwork does not resolve Services: leave it empty" $component $dnsPolicy) -}}
{{- end -}}
{{- /* Those of the broker come to the controller, too. */ -}}
{{- $volumes := dict -}}
{{- range .volumes -}}
{{- $_ := set $volumes .name "the chart" -}}
{{- end -}}
{{- range list (dict "from" "broker" "volumes" .extraVolumes) (dict "from" $component "volumes" .values.extraVolumes) -}}
{{- $value := printf "%s.extraVolumes" .from -}}
{{- range .volumes -}}
{{- if hasKey $volumes .name -}}
{{- fail (printf "%s: volume %s is in %s, too: rename yours" $value .name (get $volumes .name)) -}}
{{- end -}}
{{- $_ := set $volumes .name $value -}}
{{- end -}}
{{- end -}}
{{- $paths := dict -}}
{{- range .volumes -}}
{{- $_ := set $paths (clean .mountPath) .name -}}
{{- end -}}
{{- range list (dict "from" "broker" "mounts" .extraVolumeMounts) (dict "from" $component "mounts" .values.extraVolumeMounts) -}}
{{- $from := .from -}}
{{- range .mounts -}}
{{- if not (hasKey $volumes .name) -}}
{{- fail (printf "%s.extraVolumeMounts: there is no volume %s: add it to %s.extraVolumes" $from .name $from) -}}
{{- end -}}
{{- $mount := . -}}
{{- range $.volumes -}}
{{- if hasPrefix (printf "%s/" .mountPath) (clean $mount.mountPath) -}}
{{- fail (printf "%s.extraVolumeMounts: volume %s is mounted at %s, inside volume %s, which is read-only: use a path outside of %s" $from $mount.name $mount.mountPath .name .mountPath) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $paths (clean .mountPath) -}}
{{- fail (printf "%s.extraVolumeMounts: volumes %s and %s are both mounted at %s: use two paths" $from (get $paths (clean .mountPath)) .name .mountPath) -}}
{{- end -}}
{{- $_ := set $paths (clean .mountPath) .name -}}
{{- end -}}
{{- end -}}
{{- end }}
