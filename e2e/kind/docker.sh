#!/usr/bin/env bash
# docker.sh [start|stop]
#
# start (the default) makes sure that a Docker engine answers: it uses the one that runs; as root on Debian or Ubuntu it installs
# and starts one; elsewhere it says what to do. stop ends an engine that start launched by hand, and no other.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

pid_file=/run/keyferry-dockerd.pid
log=/var/log/keyferry-dockerd.log
runtime=/usr/local/bin/keyferry-runc

answers() { docker info >/dev/null 2>&1; }

# answers_within SECONDS
answers_within() {
  local end=$((SECONDS + $1))
  until answers; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.5
  done
}

# Some virtual machines withhold CAP_SYS_RESOURCE from root. Privileged containers, and so kind's nodes, ask for all
# capabilities and would not start.
lacks_sys_resource() {
  local bounding
  bounding=$(awk '/^CapBnd:/ {print $2}' /proc/self/status)
  [ $((0x$bounding >> 24 & 1)) = 0 ]
}

# This runtime leaves out of a container's specification what such a machine cannot give, and calls runc.
write_runtime() {
  cat >"$runtime.new" <<'RUNTIME'
#!/usr/bin/env bash
# runc without CAP_SYS_RESOURCE, and without the OOM scores that only this capability may set.
set -eu
arguments=("$@")
bundle='' process=''
while [ $# -gt 0 ]; do
  case $1 in
    --bundle|-b) bundle=$2 ;;
    --bundle=*) bundle=${1#*=} ;;
    --process|-p) process=$2 ;;
    --process=*) process=${1#*=} ;;
  esac
  shift
done
# strip FILE FILTER
strip() {
  jq "def lower: (.capabilities // {}) |= map_values(map(select(. != \"CAP_SYS_RESOURCE\"))) | del(.oomScoreAdj); $2" "$1" >"$1.new"
  cat "$1.new" >"$1"
  rm "$1.new"
}
[ -z "$bundle" ] || strip "$bundle/config.json" '.process |= lower'
[ -z "$process" ] || strip "$process" 'lower'
exec runc "${arguments[@]}"
RUNTIME
  chmod 755 "$runtime.new"
  mv "$runtime.new" "$runtime"
}

launch() {
  local arguments=()
  if lacks_sys_resource; then
    debian_packages jq
    write_runtime
    arguments=(--add-runtime "keyferry=$runtime" --default-runtime keyferry)
  fi
  # A session of its own: Ctrl-C in the terminal is meant for make, not for the engine.
  setsid dockerd "${arguments[@]}" >"$log" 2>&1 </dev/null 9>&- &
  echo $! >"$pid_file"
  answers_within 60 || { tail -n 20 "$log"; return 1; }
}

start() {
  answers && return
  if command -v docker >/dev/null && [ "$(id -u)" != 0 ]; then
    die "no Docker engine answers ($(docker info 2>&1 | tail -n 1)): start it (sudo systemctl start docker, or Docker Desktop) or run this as root"
  fi
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    die "Docker is needed for kind clusters: install it (https://docs.docker.com/engine/install), or run this as root on Debian or Ubuntu"
  fi
  lock
  # Not docker.io alone: its recommended packages are left out, but without iptables no container gets a network.
  debian_packages docker.io iptables ca-certificates
  if [ -d /run/systemd/system ] && ! lacks_sys_resource; then
    run "starting Docker by systemd" systemctl start docker
    answers_within 30 || die "Docker does not answer after its start by systemd: see journalctl -u docker"
  else
    run "starting Docker (log: $log)" launch
  fi
}

stop() {
  [ -f "$pid_file" ] || return 0
  local pid
  pid=$(cat "$pid_file")
  # The number may belong to somebody else by now.
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
    kill "$pid"
    for _ in $(seq 60); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.5
    done
  fi
  rm -f "$pid_file"
}

case ${1:-start} in
  start) start ;;
  stop) stop ;;
  *) die "usage: docker.sh [start|stop]" ;;
esac
