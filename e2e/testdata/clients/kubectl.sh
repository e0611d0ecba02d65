#!/bin/bash
# What people do with kubectl in a Pod: it runs kubectl without pause, counts what fails, and prints what it sees, a JSON line for each run.
# Each kubectl is a process of its own, which reads everything again.
requests=0 failures=0 error='' user=''
while :; do
  requests=$((requests + 1))
  if ! namespaces=$(kubectl get namespaces -o 'jsonpath={.items[*].metadata.name}' --request-timeout=5s 2>/tmp/error); then
    failures=$((failures + 1)) error=$(tr -d '"\\\n' </tmp/error | head -c 300)
  fi
  if [ $((requests % 5)) = 1 ]; then
    user=$(kubectl auth whoami -o 'jsonpath={.status.userInfo.username}' --request-timeout=5s 2>/dev/null || echo "$user")
  fi
  token=$(sha256sum </var/run/secrets/kubernetes.io/serviceaccount/token | head -c 12)
  read -ra names <<<"$namespaces"
  list=$(printf '"%s",' "${names[@]}")
  printf '{"time":"%s","requests":%d,"failures":%d,"lastError":"%s","user":"%s","host":"https://%s:%s","tokenSHA256":"%s","namespaces":[%s],"watchEvents":0}\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$requests" "$failures" "$error" "$user" "$KUBERNETES_SERVICE_HOST" "$KUBERNETES_SERVICE_PORT" "$token" "${list%,}"
  sleep 0.5
done
