#!/bin/bash
# What people do with kubectl in a Pod: it runs kubectl without pause, counts what fails, and prints what it sees, a JSON line for each run.
# Each kubectl is a process of its own, which reads everything again; a second one watches.
cd "$(mktemp -d)" || exit 1
client="kubectl $(kubectl version --client | sed -n 's/^Client Version: //p')"
requests=0 failures=0 error='' user=''
touch events
while :; do
  kubectl get namespaces --watch-only -o name >>events 2>/dev/null
  sleep 1
done &
while :; do
  requests=$((requests + 1))
  if ! namespaces=$(timeout 30 kubectl get namespaces -o 'jsonpath={.items[*].metadata.name}' 2>error); then
    failures=$((failures + 1)) error=$(tr -d '"\\\n' <error | head -c 300)
  fi
  if [ $((requests % 5)) = 1 ]; then
    user=$(timeout 30 kubectl auth whoami -o 'jsonpath={.status.userInfo.username}' 2>/dev/null || echo "$user")
  fi
  token=$(sha256sum </var/run/secrets/kubernetes.io/serviceaccount/token | head -c 12)
  read -ra names <<<"$namespaces"
  list=$(printf '"%s",' "${names[@]}")
  printf '{"time":"%s","client":"%s","requests":%d,"failures":%d,"lastError":"%s","user":"%s","host":"https://%s:%s","tokenSHA256":"%s","namespaces":[%s],"watchEvents":%d}\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$client" "$requests" "$failures" "$error" "$user" "$KUBERNETES_SERVICE_HOST" "$KUBERNETES_SERVICE_PORT" "$token" \
    "${list%,}" "$(wc -l <events)"
  sleep 3
done
