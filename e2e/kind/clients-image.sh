#!/usr/bin/env bash
# clients-image.sh
#
# Prints the name and the archive of an image that has what clients in other languages than Go need: Debian's Python and its python3-kubernetes,
# Debian's Node.js and @kubernetes/client-node, and kubectl. The archive is kept in the cache, under what went into it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

suite=trixie
packages=$here/../testdata/clients/node
name=ghcr.io/keyferry/e2e-clients

clients_root() {
  debootstrap --variant=minbase "$suite" "$work/root"
  # By apt and not by debootstrap, which does not know alternatives among dependencies.
  chroot "$work/root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-kubernetes nodejs ca-certificates
  rm -rf "$work"/root/var/{cache/apt,lib/apt/lists}/* "$work"/root/usr/share/{doc,man,locale}/*
  # At the root, programs of any folder find them.
  (cd "$packages" && cp package.json package-lock.json "$work/root/")
  (cd "$work/root" && npm ci --ignore-scripts --no-audit --no-fund --omit=dev)
  install -m 755 "$bin/kubectl" "$work/root/usr/local/bin/kubectl"
}

clients_image() {
  tar -C "$work/root" -c . | docker import - "$1"
  docker save -o "$archive.new" "$1"
  docker rmi "$1"
  mv "$archive.new" "$archive"
}

bin=$("$here/binaries.sh" kubectl)
inputs=$({ echo "$suite $kubernetes"; cat "$packages"/package* "$0"; } | sha256sum | head -c 12)
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
