# shellcheck shell=bash
# Shared by the scripts of this folder; to be sourced.
#
# Progress goes to standard error, so that standard output is free for an answer.

# cache is where everything costly is kept, each thing under its version.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/keyferry
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The version of Kubernetes that is built where none can be downloaded: the one of the integration tests, so that both share it.
default_kubernetes=$(sed -n 's/^const KubernetesVersion = "\(.*\)"$/\1/p' "$here/../../internal/testenv/testenv.go")
# shellcheck disable=SC2034 # used by the scripts that source this
kubernetes=${KUBERNETES_VERSION:-$default_kubernetes}

say() { echo "$*" >&2; }
die() { say "$*"; exit 1; }

# run MESSAGE COMMAND...: runs a command (or a function, which stops at its first failure) with its output in a log; prints
# the message, every 30 s the end of the log, the time if it was more than 2 s, and on failure more of the log.
run() {
  local message=$1 start=$SECONDS log=$cache/log/${0##*/}.log status
  shift
  mkdir -p "$cache/log"
  say "$message"
  : >"$log"
  exec 8> >(show_progress "$log")
  set +e
  (set -e; "$@") >"$log" 2>&1 8>&- 9>&-
  status=$?
  set -e
  exec 8>&-
  if [ "$status" != 0 ]; then
    tail -n 20 "$log" >&2
    die "failed: $message (whole log: $log)"
  fi
  [ $((SECONDS - start)) -le 2 ] || say "  took $((SECONDS - start)) s"
}

# show_progress LOG: prints the last line of a log every 30 s, until standard input ends. Unlike sleep, read leaves no process behind.
show_progress() {
  local start=$SECONDS
  exec 9>&-
  until read -r -t 30 || [ $? -le 128 ]; do
    say "  $((SECONDS - start)) s: $(tail -n 1 "$1" | cut -c -100)"
  done
}

# lock: only one of these scripts works in the cache at a time; a second one waits. KEYFERRY_LOCKED says that the caller holds it.
lock() {
  mkdir -p "$cache"
  [ -z "${KEYFERRY_LOCKED:-}" ] || return 0
  command -v flock >/dev/null || return 0
  exec 9>"$cache/lock"
  flock --nonblock 9 && return
  say "waiting for another build in $cache"
  flock 9
}

# debian_packages PACKAGE...: installs what is missing, as root on Debian or Ubuntu; else says what to install.
debian_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    die "please install ${missing[*]} (Debian's names), or run this as root on Debian or Ubuntu"
  fi
  run "installing ${missing[*]}" apt_install "${missing[@]}"
}

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "$@"
}
