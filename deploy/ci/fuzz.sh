#!/usr/bin/env bash
# Runs every fuzz target of the tree for FUZZTIME (default 20s), one after the other.
# A finding is written to the package's testdata/fuzz and becomes a test.
set -euo pipefail
cd "$(dirname "$0")/../.."
failed=() n=0
while IFS=: read -r file _ line; do
	target=${line#func } target=${target%%(*} dir=./${file%/*}
	n=$((n + 1))
	echo "== $dir $target"
	"${GO:-go}" test -run='^$' -fuzz="^$target\$" -fuzztime="${FUZZTIME:-20s}" "$dir" || failed+=("$dir $target")
done < <(grep -rnE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' -- *)
echo "$n fuzz targets, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
[ "$n" -gt 0 ] || { echo "found no fuzz target" >&2; exit 1; }
