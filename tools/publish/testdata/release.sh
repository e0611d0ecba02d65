#!/usr/bin/env bash
# tools/publish/testdata/release.sh VERSION FOLDER
#
# Writes a release for Linux into a folder as make release does, with small stand-ins for the programs.
set -euo pipefail
version=${1:?usage: release.sh VERSION FOLDER}
folder=$(realpath "${2:?}")
cd "$(dirname "$0")/../../.."
. tools/goflags

programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
for arch in amd64 arm64; do
  dir=$programs/linux-$arch
  mkdir -p "$dir"
  GOOS=linux GOARCH=$arch go build -C tools/publish -buildvcs=false -ldflags '-s -w' -o "$dir/keyferry" ./testdata/program
  for name in webhook broker controller refresher; do
    cp "$dir/keyferry" "$dir/$name"
  done
done
cd tools/release
go run . -version "$version" -platforms linux/amd64,linux/arm64 -programs "$programs" -out "$folder"
