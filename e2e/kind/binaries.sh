#!/usr/bin/env bash
# binaries.sh PROGRAM...
#
# Builds programs of Kubernetes and what a node needs around it from Go modules, into the user's cache, and prints the folder of
# the version of Kubernetes. What is there is not built again. KUBERNETES_VERSION chooses the version.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

etcd=v3.6.8 containerd=v2.4.2 runc=v1.5.2 coredns=v1.12.4
out=$cache/kubernetes-$kubernetes

# kubernetes_module: a module from which the programs of Kubernetes build. Kubernetes replaces k8s.io/* by folders of its own
# module; this one says the same with their published versions.
kubernetes_module() {
  local source
  source=$(cd / && go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
  {
    printf 'module keyferry.dev/build\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes %s\n\nreplace (\n' "$kubernetes"
    sed -n 's#^[\t ]*\(k8s.io/[a-z-]*\) => ./staging/.*#\1#p' "$source/go.mod" |
      while read -r module; do printf '\t%s => %s v0.%s\n' "$module" "$module" "${kubernetes#v1.}"; done
    printf ')\n'
  } >go.mod
  go mod download "k8s.io/kubernetes@$kubernetes"
}

# compile OUTPUT MODULE VERSION PACKAGE [BUILD FLAG...]: one program, from a module of its own, so that its dependencies are those
# that its authors tested. The output appears when it is whole.
compile() {
  local output=$1 module=$2 version=$3 package=$4 work
  shift 4
  work=$(mktemp -d)
  # Expanded at once: when the subshell ends, the variable is gone.
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  cd "$work"
  if [ "$module" = k8s.io/kubernetes ]; then
    kubernetes_module
  else
    go mod init keyferry.dev/build
  fi
  go get "$package@$version"
  mkdir -p "$(dirname "$output")"
  CGO_ENABLED=${CGO_ENABLED:-0} go build -trimpath "$@" -o "$output.new" "$package"
  mv "$output.new" "$output"
}

# build PROGRAM
build() {
  local program=$1 minor=${kubernetes#v1.}
  [ ! -x "$out/$program" ] || return 0
  local stamp=k8s.io/component-base/version message="building $program from its Go module"
  case $program in
    kube-*|kubelet|kubeadm|kubectl)
      run "building $program $kubernetes from its Go module" compile "$out/$program" k8s.io/kubernetes "$kubernetes" \
        "k8s.io/kubernetes/cmd/$program" \
        -ldflags "-s -w -X $stamp.gitVersion=$kubernetes -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}" ;;
    etcd)
      run "$message" compile "$out/etcd" go.etcd.io/etcd/server/v3 $etcd go.etcd.io/etcd/server/v3 -ldflags "-s -w" ;;
    containerd|containerd-shim-runc-v2|ctr)
      run "$message" compile "$out/$program" github.com/containerd/containerd/v2 $containerd \
        "github.com/containerd/containerd/v2/cmd/$program" -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$containerd" ;;
    runc)
      CGO_ENABLED=1 run "$message" compile "$out/runc" github.com/opencontainers/runc $runc github.com/opencontainers/runc \
        -tags seccomp -ldflags "-s -w" ;;
    coredns)
      run "$message" compile "$out/coredns" github.com/coredns/coredns $coredns github.com/coredns/coredns -ldflags "-s -w" ;;
    pause)
      run "building pause" pause ;;
    *)
      die "binaries.sh cannot build $program" ;;
  esac
}

pause() {
  cd "$here"
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/pause.new" ./pause
  mv "$out/pause.new" "$out/pause"
}

lock
mkdir -p "$out"
rm -f "$out"/*.new
for program in "$@"; do
  build "$program"
done
echo "$out"
