#!/bin/bash
# commands.sh NAME: kubectl's commands that need more than requests and answers, on the Pod there of the target; a line for each. kubectl takes
# the namespace from the in-cluster configuration.
name=$1
cd "$(mktemp -d)" || exit 1

check() { # check WHAT COMMAND...
  local what=$1
  shift
  if output=$("$@" 2>&1); then echo "ok $what"; else echo "FAILED $what: ${output:0:400}"; fi
}

get() { kubectl get pod there -o 'jsonpath={.status.phase}' | grep -q Running; }

watch() {
  timeout 15 kubectl get configmaps --watch >seen &
  sleep 3
  kubectl create configmap "watched-$name" >/dev/null
  sleep 2
  grep -q "watched-$name" seen
}

execute() { [ "$(echo hello | kubectl exec -i there -- tr a-z A-Z)" = HELLO ]; }

attach() { timeout 5 kubectl attach there 2>/dev/null | grep -q line; }

port_forward() {
  kubectl port-forward pod/there 18080:8080 >forwarded 2>&1 &
  local forward=$! answer
  for _ in {1..50}; do grep -q Forwarding forwarded || sleep 0.2; done
  answer=$(python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:18080/", timeout=5).read().decode())' 2>&1)
  kill $forward
  [ "$answer" = from-there ] || { echo "$answer"; cat forwarded; return 1; }
}

copy() {
  head -c 20000000 /dev/urandom >there-and-back
  kubectl cp there-and-back "there:/tmp/copy-$name" && kubectl cp "there:/tmp/copy-$name" back >/dev/null && cmp there-and-back back
}

logs() { [ "$(timeout 6 kubectl logs -f there --tail=2 | wc -l)" -ge 5 ]; }

apply() {
  { printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"large-%s"},"data":{"text":"' "$name"; head -c 675000 /dev/urandom | base64 -w0; printf '"}}'; } >large.json
  kubectl apply --server-side -f large.json && [ "$(kubectl get configmap "large-$name" -o 'jsonpath={.data.text}' | wc -c)" = 900000 ]
}

for command in get watch execute attach port_forward copy logs apply; do check $command $command; done
