#!/usr/bin/env bash
# Builds the container images leeward-server and leeward-appliance from this tree with
# podman, buildah or docker, whichever is there, and writes them into dist/ as OCI archives.
# ENGINE=buildah chooses; TARGETS=server builds the one that needs no registry.
set -euo pipefail
cd "$(dirname "$0")/../.."
go=${GO:-go} version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo devel)}
engine=${ENGINE:-}
for e in podman buildah docker; do [ -n "$engine" ] || ! command -v $e >/dev/null || engine=$e; done
[ -n "$engine" ] || { echo "image: needs podman, buildah or docker" >&2; exit 1; }
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/bin" "$stage/agents" dist
mkdir -m 0700 "$stage/empty"
cp /etc/ssl/certs/ca-certificates.crt "$stage/"
build() { CGO_ENABLED=0 GOOS=linux GOARCH=$1 "$go" build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.Version=$version" -o "$3" "$2"; }
build amd64 . "$stage/bin/leeward"
for arch in amd64 arm64; do build $arch ./agent/leeward-agent "$stage/agents/leeward-agent-linux-$arch"; done
cp LICENSE NOTICE deploy/container/Containerfile "$stage/"
for target in ${TARGETS:-server appliance}; do
	name=leeward-$target:$version
	case $engine in
	docker) docker build -q -t "$name" --target $target "$stage" >/dev/null && docker save -o "dist/leeward-$target-$version.tar" "$name" ;;
	*) $engine build -q --format oci -t "$name" --target $target -f "$stage/Containerfile" "$stage" >/dev/null && $engine push -q "$name" "oci-archive:dist/leeward-$target-$version.tar:$name" ;;
	esac
	echo "dist/leeward-$target-$version.tar"
done
