#!/usr/bin/env bash
# Builds dist/: both binaries, static and stripped, for amd64 and arm64, packed with
# licence, notice and systemd units, and SHA256SUMS. Two runs over the same commit
# give the same bytes.
#
# Not yet: deb and rpm. nfpm v2.48.0 was chosen for them, but two modules it needs
# (go.digitalxero.dev/rpm and go-msix) could not be had from the module proxy.
set -euo pipefail
cd "$(dirname "$0")/../.."
go=${GO:-go} vcs=false version=${VERSION:-} stamp=${SOURCE_DATE_EPOCH:-0}
if git status >/dev/null 2>&1; then
	vcs=auto
	stamp=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
	version=${version:-$(git describe --tags --always --dirty)}
fi
version=${version:-devel}
rm -rf dist
mkdir dist
for arch in amd64 arm64; do
	name=leeward-$version-linux-$arch
	mkdir "dist/$name"
	for what in leeward=. leeward-agent=./agent/leeward-agent; do
		CGO_ENABLED=0 GOOS=linux GOARCH=$arch "$go" build -trimpath -buildvcs=$vcs \
			-ldflags "-s -w -buildid= -X main.Version=$version" -o "dist/$name/${what%%=*}" "${what#*=}"
	done
	cp LICENSE NOTICE deploy/systemd/* "dist/$name/"
	[ ! -e README.md ] || cp README.md "dist/$name/"
	tar -C dist --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$stamp" -cf - "$name" | gzip -9n >"dist/$name.tar.gz"
	rm -r "dist/$name"
done
cd dist
sha256sum -- *.tar.gz | tee SHA256SUMS
