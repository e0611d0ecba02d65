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

# until_true COMMAND...: for half a minute.
until_true() {
  for _ in {1..150}; do
    if "$@"; then return; fi
    sleep 0.2
  done
  return 1
}

watch() {
  kubectl get configmaps --watch >seen 2>&1 &
  local watch=$! heard
  until_true test -s seen
  kubectl create configmap "watched-$name" >/dev/null
  until_true grep -q "watched-$name" seen
  heard=$?
  kill $watch
  return $heard
}

execute() { [ "$(echo hello | kubectl exec -i there -- tr a-z A-Z)" = HELLO ]; }

attach() { timeout 60 kubectl attach there 2>/dev/null | grep -q -m 1 line; }

port_forward() {
  kubectl port-forward pod/there 18080:8080 >forwarded 2>&1 &
  local forward=$! answer
  until_true grep -q Forwarding forwarded
  answer=$(python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:18080/", timeout=30).read().decode())' 2>&1)
  kill $forward
  [ "$answer" = from-there ] || { echo "$answer"; cat forwarded; return 1; }
}

copy() {
  head -c 20000000 /dev/urandom >there-and-back
  kubectl cp there-and-back "there:/tmp/copy-$name" && kubectl cp "there:/tmp/copy-$name" back >/dev/null && cmp there-and-back back
}

logs() { [ "$(timeout 60 kubectl logs -f there --tail=2 | head -n 6 | wc -l)" = 6 ]; }

apply() {
  { printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"large-%s"},"data":{"text":"' "$name"; head -c 675000 /dev/urandom | base64 -w0; printf '"}}'; } >large.json
  kubectl apply --server-side -f large.json && [ "$(kubectl get configmap "large-$name" -o 'jsonpath={.data.text}' | wc -c)" = 900000 ]
}

check get get
check watch watch
check exec execute
check attach attach
check port-forward port_forward
check 'cp of 20 MB, there and back' copy
check 'logs -f' logs
check 'apply of 900 KB' apply
