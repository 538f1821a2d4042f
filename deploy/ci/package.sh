#!/usr/bin/env bash
# Builds dist/: both binaries, static and stripped, packed as a tarball with licence,
# notice and units, as deb and as rpm, and SHA256SUMS. Two runs over the same commit
# give the same bytes. ARCHES="amd64" builds only that.
set -euo pipefail
cd "$(dirname "$0")/../.."
go=${GO:-go} vcs=false version=${VERSION:-} stamp=${SOURCE_DATE_EPOCH:-0}
if git status >/dev/null 2>&1; then
	vcs=auto
	stamp=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
	version=${version:-$(git describe --tags --always --dirty)}
fi
version=${version:-devel}
# What dpkg and rpm take for a version, in the order of time: v1.2.3 is 1.2.3, commits
# after it are 1.2.3+5.gabc, 1.2.3-rc.1 is 1.2.3~rc.1, and without a tag there is only the day.
case $version in
v[0-9]*) package_version=${version#v} ;;
*) package_version=0.0.0+$(date -u -d "@$stamp" +%Y%m%d).$version ;;
esac
package_version=$(sed -E 's/-([0-9]+)-g/+\1.g/; s/-dirty$/+dirty/; s/-/~/g' <<<"$package_version")
rm -rf dist
mkdir dist
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

build() { # build ARCH NAME PACKAGE FILE
	CGO_ENABLED=0 GOOS=linux GOARCH=$1 "$go" build -trimpath -buildvcs=$vcs \
		-ldflags "-s -w -buildid= -X main.Version=$version" -o "$4" "$3"
}

put() { # put MODE FILE... DIR: files into a directory of the staged tree
	local mode=$1
	shift
	mkdir -p "${!#}"
	install -m "$mode" "$@"
}

# Completions and manual pages come from the program itself, the one of this machine.
host=$("$go" env GOHOSTARCH)
build "$host" leeward . "$stage/host.leeward"
build "$host" leeward-agent ./agent/leeward-agent "$stage/host.leeward-agent"

tree() { # tree ARCH NAME: the files of one package below $stage/NAME
	local root=$stage/$2
	rm -rf "$root"
	put 0755 "dist/leeward-$version-linux-$1/$2" "$root/usr/bin"
	put 0644 "deploy/systemd/$2.service" "$root/usr/lib/systemd/system"
	put 0644 LICENSE NOTICE "$root/usr/share/doc/$2"
	case $2 in
	leeward)
		mkdir -p "$root/usr/lib/sysusers.d"
		put 0644 deploy/systemd/leeward-{process,control,nats}.service "$root/usr/lib/systemd/system"
		mkdir -p "$root/usr/share/leeward"
		cp -r "$stage/agents" "$root/usr/share/leeward/agents" # for leeward agent install
		put 0644 deploy/nats/node.conf "$root/usr/share/doc/$2"
		install -m 0644 deploy/package/leeward.sysusers "$root/usr/lib/sysusers.d/leeward.conf"
		"$stage/host.leeward" man "$root/usr/share/man/man1"
		;;
	leeward-agent)
		put 0644 deploy/package/agent.env.example "$root/usr/share/doc/$2"
		put 0644 deploy/package/leeward-agent.8 "$root/usr/share/man/man8" # leeward-agent(1) is the command leeward agent
		;;
	esac
	find "$root/usr/share/man" -type f -exec gzip -9n {} +
	mkdir -p "$root/usr/share/"{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
	"$stage/host.$2" completion bash >"$root/usr/share/bash-completion/completions/$2"
	"$stage/host.$2" completion zsh >"$root/usr/share/zsh/vendor-completions/_$2"
	"$stage/host.$2" completion fish >"$root/usr/share/fish/vendor_completions.d/$2.fish"
	chmod -R u=rwX,go=rX "$root"
	find "$root" -exec touch -h -d "@$stamp" {} +
}

# The server installs agents on hosts of any kind.
mkdir "$stage/agents"
for arch in amd64 arm64; do
	build "$arch" leeward-agent ./agent/leeward-agent "$stage/agents/leeward-agent-linux-$arch"
done

for arch in ${ARCHES:-amd64 arm64}; do
	name=leeward-$version-linux-$arch
	mkdir "dist/$name"
	build "$arch" leeward . "dist/$name/leeward"
	build "$arch" leeward-agent ./agent/leeward-agent "dist/$name/leeward-agent"
	for what in leeward leeward-agent; do
		tree "$arch" "$what"
		touch -d "@$stamp" deploy/package/leeward.env deploy/package/disks
		for kind in deb rpm; do
			STAGE=$stage ARCH=$arch PACKAGE_VERSION=$package_version SOURCE_DATE_EPOCH=$stamp \
				"$go" tool -modfile=deploy/tools/go.mod nfpm package -f "deploy/package/$what.yaml" -p "$kind" -t dist/ >"$stage/nfpm" 2>&1 || { cat "$stage/nfpm" >&2; exit 1; }
		done
	done
	cp LICENSE NOTICE deploy/systemd/*.service "dist/$name/"
	[ ! -e README.md ] || cp README.md "dist/$name/"
	tar -C dist --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$stamp" -cf - "$name" | gzip -9n >"dist/$name.tar.gz"
	rm -r "dist/$name"
done
cd dist
sha256sum -- *.tar.gz *.deb *.rpm | tee SHA256SUMS
