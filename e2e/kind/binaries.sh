#!/usr/bin/env bash
# binaries.sh PROGRAM...
#
# Builds programs of Kubernetes, and the other programs of a node, from Go modules into the user's cache. It prints the directory,
# which belongs to one version of Kubernetes; KUBERNETES_VERSION chooses the version. Programs that exist are not built again.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$here/../../tools/goflags"

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

# compile VERSION LINKER_FLAGS PACKAGE...: programs of one Go module into the output directory, together: they share packages, and
# while one program is linked, others compile. The build is a module of its own, so the dependencies are those that the authors
# tested. A program appears when it is complete.
compile() {
  local version=$1 flags=$2
  shift 2
  cd "$work"
  if [[ $1 = k8s.io/kubernetes/* ]]; then
    kubernetes_module
  else
    go mod init keyferry.dev/build
  fi
  go get "${@/%/@$version}"
  go build -v -ldflags "-s -w $flags" -o programs/ "$@"
  [ ! -e programs/server ] || mv programs/server programs/etcd
  mv programs/* "$out/"
}

# build MESSAGE COMMAND...: runs a command with an empty directory to work in.
build() {
  work=$(mktemp -d "$out/build.XXXXXX")
  run "$@"
  rm -r "$work"
}

build_kubernetes() {
  local minor=${kubernetes#v1.} stamp=k8s.io/component-base/version
  build "building $* $kubernetes" compile "$kubernetes" "-X $stamp.gitVersion=$kubernetes -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}" \
    "${@/#/k8s.io/kubernetes/cmd/}"
}

build_containerd() {
  local module=github.com/containerd/containerd/v2
  build "building $* $containerd" compile $containerd "-X $module/version.Version=$containerd" "${@/#/$module/cmd/}"
}

lock
mkdir -p "$out"
rm -rf "$out"/build.*
of_kubernetes=() of_containerd=() others=()
for program in "$@"; do
  [ ! -x "$out/$program" ] || continue
  case $program in
    kube-*|kubelet|kubeadm|kubectl) of_kubernetes+=("$program") ;;
    containerd*|ctr) of_containerd+=("$program") ;;
    etcd|runc|coredns|pause) others+=("$program") ;;
    *) die "binaries.sh cannot build $program" ;;
  esac
done
[ ${#of_kubernetes[@]} = 0 ] || build_kubernetes "${of_kubernetes[@]}"
[ ${#of_containerd[@]} = 0 ] || build_containerd "${of_containerd[@]}"
for program in ${others[@]+"${others[@]}"}; do
  case $program in
    etcd) build "building etcd $etcd" compile $etcd '' go.etcd.io/etcd/server/v3 ;;
    coredns) build "building coredns $coredns" compile $coredns '' github.com/coredns/coredns ;;
    runc) CGO_ENABLED=1 GOFLAGS="$GOFLAGS -tags=seccomp" build "building runc $runc" compile $runc '' github.com/opencontainers/runc ;;
    pause) (cd "$here" && go build -ldflags '-s -w' -o "$out/pause" ./pause) ;;
  esac
done
echo "$out"
