#!/usr/bin/env bash
# node-image.sh
#
# Prints the name of a kind node image that the running Docker engine has: the official one where it can be pulled, else one that
# is built here from Go modules and Debian packages.
#
# NODE_IMAGE           an image to use as it is, such as kindest/node:v1.33.4@sha256:…
# KUBERNETES_VERSION   the version, such as v1.33.4; without it the official image is the one that kind was released with
# NODE_IMAGE_PULL      no: build at once
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# kind's own default image, by digest, for the kind that e2e/go.mod requires.
official() {
  if [ -n "${KUBERNETES_VERSION:-}" ]; then
    echo "kindest/node:$KUBERNETES_VERSION"
  else
    sed -n 's/^const Image = "\(.*\)"$/\1/p' "$(kind_module)/pkg/apis/config/defaults/image.go"
  fi
}

kind_module() {
  (cd "$here/.." && go mod download sigs.k8s.io/kind && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)
}

has() { docker image inspect "$1" >/dev/null 2>&1; }

# pull IMAGE: says whether it is here now. Where no registry can be reached this must not cost minutes.
pull() {
  has "$1" && return
  [ "${NODE_IMAGE_PULL:-}" != no ] || return 1
  if ! timeout 10 docker manifest inspect "$1" >/dev/null 2>&1; then
    say "$1 cannot be pulled"
    return 1
  fi
  say "pulling $1"
  timeout 600 docker pull --quiet "$1" >&2
}

# Everything below makes a node image from nothing.

# debian_root: the root file system of nodes and of control plane images.
debian_root() {
  local root=$cache/debian/root packages
  packages=systemd,systemd-sysv,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,bash
  packages+=,ca-certificates,curl,jq,procps,hostname,containernetworking-plugins
  rm -rf "$root"
  mkdir -p "$root"
  debootstrap --variant=minbase --include="$packages" bookworm "$root"
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
  tar -C "$root" -cf "$cache/debian/bookworm.tar.new" .
  mv "$cache/debian/bookworm.tar.new" "$cache/debian/bookworm.tar"
  rm -rf "$root"
}

# control_plane_images FILE: the images that kubeadm asks for, in one archive. They are one image under several names.
control_plane_images() {
  local root=$work/control-plane name
  mkdir "$root"
  tar -C "$root" -xf "$cache/debian/bookworm.tar"
  rm -rf "${root:?}"/usr/{share,lib/systemd}
  cp "$bin"/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,etcd} "$root/usr/local/bin/"
  cp "$bin"/{coredns,pause} "$root/"
  import "$root" "$scratch_name:control-plane"
  for name in "${names[@]}"; do
    {
      echo "FROM $scratch_name:control-plane"
      echo 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
      case $name in
        */coredns*) echo 'ENTRYPOINT ["/coredns"]' ;;
        */pause*) echo 'ENTRYPOINT ["/pause"]' ;;
      esac
    } | docker build -q -t "$name" -
  done
  docker save -o "$1" "${names[@]}"
}

# node_root ROOT: what kind's own image build puts on its base, and then Kubernetes.
node_root() {
  local root=$1 files service
  files=$(kind_module)/images/base/files
  mkdir "$root"
  tar -C "$root" -xf "$cache/debian/bookworm.tar"
  cp -r --no-preserve=mode "$files"/etc/* "$root/etc/"
  mkdir -p "$root"/{kind/bin,kind/manifests,opt/cni/bin,etc/kubernetes/manifests,etc/cni/net.d,etc/systemd/system/multi-user.target.wants}
  cp -r --no-preserve=mode "$files"/kind/* "$root/kind/"
  cp --no-preserve=mode "$files"/usr/local/bin/* "$root/usr/local/bin/"
  chmod 755 "$root"/kind/bin/* "$root"/usr/local/bin/*
  cp "$root"/usr/lib/cni/* "$root/opt/cni/bin/"
  cp "$bin"/{containerd,containerd-shim-runc-v2,ctr} "$root/usr/local/bin/"
  cp "$bin/runc" "$root/usr/local/sbin/"
  cp "$bin"/{kubeadm,kubelet,kubectl} "$root/usr/bin/"
  echo "$kubernetes" >"$root/kind/version"

  # systemd in a container.
  rm -f "$root"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
    "$root"/lib/systemd/system/{multi-user.target.wants/*,local-fs.target.wants/*,sockets.target.wants/*udev*,sockets.target.wants/*initctl*,basic.target.wants/*} \
    "$root"/etc/systemd/system/*.wants/*
  echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
  : >"$root/etc/machine-id"
  for service in kubelet containerd undo-mount-hacks; do
    ln -sf "/etc/systemd/system/$service.service" "$root/etc/systemd/system/multi-user.target.wants/$service.service"
  done
  ln -sf /dev/null "$root/etc/systemd/system/systemd-binfmt.service"

  # containerd, also where the machine withholds CAP_SYS_RESOURCE and OOM scores cannot be lowered.
  "$bin/ctr" oci spec |
    jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >"$root/etc/containerd/cri-base.json"
  sed -i -e "s#sandbox_image = .*#sandbox_image = \"$sandbox\"#" -e 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' \
    "$root/etc/containerd/config.toml"
  sed -i '/^OOMScoreAdjust/d' "$root/etc/systemd/system/containerd.service"

  # The bridge plugin in place of kindnet, whose image no registry brings: enough for clusters of one node.
  cat >"$root/etc/cni/net.d/10-bridge.conflist" <<'CNI'
{
  "cniVersion": "0.4.0",
  "name": "kind",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
CNI
  # kind applies both files.
  cat >"$root/kind/manifests/default-cni.yaml" <<'MANIFEST'
apiVersion: v1
kind: ConfigMap
metadata: {name: cni-is-the-bridge-plugin, namespace: kube-system}
MANIFEST
  cat >"$root/kind/manifests/default-storage.yaml" <<'MANIFEST'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
MANIFEST
}

# import FOLDER IMAGE
import() { tar -C "$1" -c . | docker import - "$2"; }

# node_image ROOT ARCHIVE IMAGE: the node's file system with the archive's images in its containerd.
node_image() {
  import "$1" "$scratch_name:root"
  printf '%s\n' "FROM $scratch_name:root" 'ENV container=docker' 'STOPSIGNAL SIGRTMIN+3' \
    'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' | docker build -q -t "$scratch_name:base" -
  docker run -d --privileged --name "$container" --entrypoint sleep -v "$2:/images.tar:ro" "$scratch_name:base" 3600
  docker exec "$container" bash -ec '
    containerd & containerd=$!
    until ctr version >/dev/null 2>&1; do kill -0 $containerd; sleep 0.2; done
    ctr -n k8s.io images import /images.tar
    kill $containerd
    wait $containerd || true'
  docker commit -c 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' "$container" "$3"
}

clean_up() {
  docker rm -f "$container" >/dev/null 2>&1 || true
  docker rmi -f "${names[@]}" "$scratch_name":{control-plane,root,base} >/dev/null 2>&1 || true
  rm -rf "$work"
}

build() {
  [ "$(id -u)" = 0 ] || die "building a node image needs root (or let Docker pull $(official))"
  lock
  debian_packages debootstrap gcc jq libc6-dev libseccomp-dev pkg-config
  # The lock is ours: binaries.sh would wait for it.
  bin=$(KEYFERRY_LOCKED=yes "$here/binaries.sh" kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubeadm kubectl \
    etcd containerd containerd-shim-runc-v2 ctr runc coredns pause)
  mkdir -p "$cache/debian"
  [ -f "$cache/debian/bookworm.tar" ] || run "making a root file system from Debian packages" debian_root

  scratch_name=keyferry-node-build container=keyferry-node-build
  mapfile -t names < <("$bin/kubeadm" config images list --kubernetes-version "$kubernetes" 2>/dev/null)
  sandbox=$(printf '%s\n' "${names[@]}" | grep /pause:)
  work=$(mktemp -d "$cache/node-image.XXXXXX")
  trap clean_up EXIT
  docker rm -f "$container" >/dev/null 2>&1 || true
  run "making the images of the control plane" control_plane_images "$work/images.tar"
  run "making the node's file system" node_root "$work/root"
  run "making the node image $1" node_image "$work/root" "$work/images.tar" "$1"
}

if [ -n "${NODE_IMAGE:-}" ]; then
  has "$NODE_IMAGE" || docker pull --quiet "$NODE_IMAGE" >&2
  echo "$NODE_IMAGE"
  exit
fi
image=$(official)
if ! pull "$image"; then
  # A change of these scripts makes another image.
  image=keyferry/kind-node:$kubernetes-$(cat "$here"/{lib,binaries,node-image}.sh | sha256sum | cut -c1-8)
  has "$image" || build "$image"
fi
echo "$image"
