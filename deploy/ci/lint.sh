#!/usr/bin/env bash
# Looks at the whole tree without running it. The first run builds staticcheck.
set -euo pipefail
cd "$(dirname "$0")/../.."
go=${GO:-go} bad=0
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { printf 'not gofmt-ed: %s\n' $unformatted; bad=1; }
"$go" vet ./... || bad=1
# Fields named _msgpack only carry a tag for the encoder, which staticcheck cannot see.
found=$("$go" tool -modfile=deploy/tools/go.mod staticcheck ./... 2>&1) || true
found=$(grep -v 'field _msgpack is unused' <<<"$found" || true)
[ -z "$found" ] || { printf '%s\n' "$found"; bad=1; }
scripts=$(grep -rlE --exclude-dir=.git --exclude-dir=bin --exclude-dir=dist '^#!.*\b(ba)?sh$' .)
for s in $scripts; do bash -n "$s" || bad=1; done
if command -v shellcheck >/dev/null; then
	shellcheck $scripts || bad=1
else
	echo "shellcheck is not installed: scripts were only parsed"
fi
if command -v systemd-analyze >/dev/null; then
	# The binaries that the units start need not be installed here.
	units=$(mktemp -d)
	trap 'rm -rf "$units"' EXIT
	for u in deploy/systemd/*.service; do
		sed 's#^ExecStart=/usr/bin/[a-z-]*#ExecStart=/bin/true#' "$u" >"$units/${u##*/}"
		systemd-analyze verify --man=no "$units/${u##*/}" || bad=1
	done
else
	echo "systemd-analyze is not installed: units were not verified"
fi
exit $bad
