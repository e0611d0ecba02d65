#!/usr/bin/env bash
# clients-image.sh
#
# Prints the name and the archive of an image with clients in other languages than Go: Debian's Python and its python3-kubernetes, Node.js with
# @kubernetes/client-node, kubectl, and the programs of testdata/clients. The archive is kept in the cache, under what went into it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

suite=trixie
programs=$here/../testdata/clients
name=ghcr.io/keyferry/e2e-clients

clients_root() {
  debootstrap --variant=minbase "$suite" "$work/root"
  # By apt and not by debootstrap, which does not know alternatives among dependencies.
  chroot "$work/root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-kubernetes nodejs ca-certificates
  rm -rf "$work"/root/var/{cache/apt,lib/apt/lists}/* "$work"/root/usr/share/{doc,man,locale}/*
  mkdir -p "$work/root/client"
  cp "$programs"/* "$work/root/client/"
  (cd "$work/root/client" && npm ci --ignore-scripts --no-audit --no-fund --omit=dev)
  install -m 755 "$kubectl" "$work/root/usr/local/bin/kubectl"
}

clients_image() {
  tar -C "$work/root" -c . | docker import - "$1"
  docker save -o "$archive.new" "$1"
  docker rmi "$1"
  mv "$archive.new" "$archive"
}

kubectl=$(command -v kubectl || echo "$cache/kubernetes-$kubernetes/kubectl")
[ -x "$kubectl" ] || die "no kubectl: make envtest builds one"
inputs=$({ echo "$suite"; "$kubectl" version --client; cat "$programs"/* "$0"; } | sha256sum | head -c 12)
archive=$cache/clients-$inputs.tar
if [ ! -f "$archive" ]; then
  [ "$(id -u)" = 0 ] || die "making a root file system of Debian packages needs root"
  lock
  debian_packages debootstrap
  command -v npm >/dev/null || debian_packages npm
  rm -f "$cache"/clients-*.tar*
  work=$(mktemp -d "$cache/clients.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  run "making a root file system with Python, Node.js and kubectl" clients_root
  run "making the image $name:$inputs" clients_image "$name:$inputs"
fi
echo "$name:$inputs $archive"
