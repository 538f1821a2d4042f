#!/usr/bin/env bash
# Installs, uses, upgrades, removes and purges what deploy/ci/package.sh has built, in
# a throw-away copy-on-write view of this machine's root with its own mounts,
# processes and network. What is left at the end is compared with what was before. What is
# built for other processors is run by QEMU, as far as a program alone can be.
#
#	try-packages.sh [DIST]
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
cd "$(dirname "$0")/../.."
fail() { echo "try-packages: $*" >&2; exit 1; }

emulated() { # emulated ARCH EMULATOR: the programs in that architecture's packages run
	local debs=("$dist"/leeward_*_"$1".deb "$dist"/leeward-agent_*_"$1".deb) d
	[ -e "${debs[0]}" ] && [ -e "${debs[1]}" ] || { echo "try-packages: nothing was built for $1"; return 0; }
	command -v "$2" >/dev/null || fail "needs $2: deploy/ci/need.sh package"
	for d in "${debs[@]}"; do dpkg-deb -x "$d" "$top/$1"; done
	run() { timeout 120 "$2" "$top/$1/usr/bin/$3" "${@:4}" >"$top/said" 2>&1 || { cat "$top/said" >&2; fail "$3 ${*:4} of $1 does not run"; }; }
	run "$1" "$2" leeward version
	grep -q "$1" "$top/said" || fail "leeward of $1 says it is $(cat "$top/said")"
	run "$1" "$2" leeward config check --dir "$top/$1/dir"
	run "$1" "$2" leeward vault init --vault "dir://$top/$1/vault" --key-file "$top/$1/key"
	run "$1" "$2" leeward vault check --vault "dir://$top/$1/vault" --key-file "$top/$1/key"
	run "$1" "$2" leeward-agent version
	run "$1" "$2" leeward-agent run --help
	echo "the programs for $1 run"
}

if [ "${1-}" != inside ]; then
	dist=$(realpath "${1:-dist}")
	[ "$(id -u)" = 0 ] || { echo "try-packages: SKIPPED: only root can make a root to install into"; exit 0; }
	for tool in dpkg rpm unshare systemd-analyze setpriv ip; do
		command -v "$tool" >/dev/null || fail "needs $tool: deploy/ci/need.sh package"
	done
	top=$(mktemp -d)
	trap 'rm -rf "$top"' EXIT
	case $(dpkg --print-architecture) in
	amd64) emulated arm64 qemu-aarch64 ;;
	arm64) emulated amd64 qemu-x86_64 ;;
	esac
	timeout --kill-after=10 300 unshare --mount --pid --fork --kill-child --net --ipc --uts --propagation private \
		"$0" inside "$dist" "$top"
	exit
fi

# From here on nothing outlives this process: its mounts and children end with it.
dist=$2 top=$3 arch=$(dpkg --print-architecture)
mount -t tmpfs none "$top"
mkdir "$top"/{upper,work,root,packages}
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
root=$top/root upper=$top/upper
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/tmp"
ip link set lo up
in_root() { chroot "$root" "$@"; }
[ ! -e "$root/usr/bin/leeward" ] && [ ! -e "$root/etc/leeward" ] && [ ! -e "$root/var/lib/leeward" ] || fail "leeward is installed on this machine; it would disturb the comparison"

# A systemctl that writes down what it is asked, and an init that seems to run.
mkdir -p "$root/run/systemd/system"
systemctl=$root$(readlink -f "$(command -v systemctl)")
rm "$systemctl" # in the view only
printf '#!/bin/sh\necho "$@" >>/run/asked\n' >"$systemctl"
chmod 0755 "$systemctl"
asked() { # asked WHAT: that, and no more, was asked of systemd since the last time
	local got
	got=$(paste -sd';' "$root/run/asked" 2>/dev/null || true)
	: >"$root/run/asked"
	[ "$got" = "$1" ] || fail "systemctl was asked \"$got\", want \"$1\""
}
files() { (cd "$upper" && find . -mindepth 1 ! -type d ! -name '*-' -printf '%P\n' | grep -vE '^(var/lib/(dpkg|rpm)/|var/log/|var/cache/|root/.rpmdb/|usr/lib/sysimage/|etc/\.pwd\.lock|etc/ld\.so\.cache)' || true) | sort; }
kind() { # kind deb|rpm NAME: the one package file of that kind for this machine
	local f=()
	case $1 in
	deb) f=("$dist/$2"_*_"$arch.deb") ;;
	rpm) f=("$dist/$2"-[0-9]*".$(uname -m).rpm") ;;
	esac
	[ ${#f[@]} = 1 ] && [ -e "${f[0]}" ] || fail "$dist has not one $1 of $2 for $arch"
	cp "${f[0]}" "$root/tmp/"
	echo "/tmp/${f[0]##*/}"
}
nothing_runs() { ! pgrep -f '^/usr/bin/leeward' >/dev/null || fail "$1 started something"; }

uses() { # what is installed is what it says, and works
	in_root /usr/bin/leeward version >/dev/null || fail "leeward does not run"
	in_root /usr/bin/leeward-agent version >/dev/null || fail "leeward-agent does not run"
	in_root getent passwd leeward | grep -q ':/var/lib/leeward:/usr/sbin/nologin$' || fail "there is no user leeward as the unit wants it"
	[ ! -e "$root/etc/leeward/agent.env" ] || fail "the package says what to protect"
	[ "$(in_root stat -c '%U:%G %a' /etc/leeward/leeward.env)" = "root:leeward 640" ] || fail "/etc/leeward/leeward.env has the wrong owner or mode"
	for u in leeward leeward-agent leeward-process leeward-control leeward-nats; do
		local said
		said=$(in_root systemd-analyze verify --man=no "/usr/lib/systemd/system/$u.service" 2>&1 | grep "$u" || true)
		[ -z "$said" ] || fail "systemd-analyze verify: $said"
		in_root systemd-analyze security --offline=yes --threshold=40 --no-pager "/usr/lib/systemd/system/$u.service" | tail -1
	done
	for u in leeward leeward-agent; do
		for what in bash-completion/completions/$u zsh/vendor-completions/_$u fish/vendor_completions.d/$u.fish; do
			[ -s "$root/usr/share/$what" ] || fail "/usr/share/$what is missing"
		done
		bash -n "$root/usr/share/bash-completion/completions/$u"
	done
	for what in man1/leeward.1.gz man1/leeward-failover-test.1.gz man8/leeward-agent.8.gz; do
		[ -s "$root/usr/share/man/$what" ] || fail "the manual lacks $what"
	done
}

appliance() { # the unit's command, as its user, until control answers
	mkdir -p -m 0700 "$root/var/lib/leeward"
	in_root chown leeward:leeward /var/lib/leeward
	chroot "$root" setpriv --reuid=leeward --regid=leeward --clear-groups --no-new-privs --bounding-set=-all \
		/usr/bin/leeward up --dir /var/lib/leeward >"$top/up" 2>&1 &
	local pid=$! n=0
	until in_root /usr/bin/leeward status >"$top/status" 2>&1 && grep -q 'nothing is protected yet' "$top/status"; do
		kill -0 "$pid" 2>/dev/null || { cat "$top/up" >&2; fail "the appliance ended"; }
		[ $((n += 1)) -lt 90 ] || { cat "$top/up" "$top/status" >&2; fail "the appliance did not come up"; }
		sleep 1
	done
	kill "$pid"
	wait "$pid" || fail "the appliance did not stop cleanly"
}

echo "deb: install, use"
deb_server=$(kind deb leeward) deb_agent=$(kind deb leeward-agent)
files >"$top/before"
in_root dpkg -i "$deb_server" "$deb_agent" >"$top/log" 2>&1 || { cat "$top/log" >&2; fail "dpkg -i failed"; }
asked "daemon-reload;daemon-reload"
nothing_runs "dpkg -i"
uses
appliance
echo "deb: upgrade keeps what the operator wrote"
echo 'LEEWARD_LOG_LEVEL=debug' >>"$root/etc/leeward/leeward.env"
echo 'LEEWARD_AGENT_ARGS=' >"$root/etc/leeward/agent.env"
in_root dpkg -i "$deb_server" "$deb_agent" >"$top/log" 2>&1 || { cat "$top/log" >&2; fail "the upgrade failed"; }
asked "daemon-reload;daemon-reload;daemon-reload;try-restart leeward.service leeward-nats.service leeward-process.service leeward-control.service;daemon-reload;try-restart leeward-agent.service"
grep -q LOG_LEVEL=debug "$root/etc/leeward/leeward.env" || fail "an upgrade lost the operator's settings"
echo "deb: remove and purge"
in_root dpkg -r leeward leeward-agent >"$top/log" 2>&1 || { cat "$top/log" >&2; fail "dpkg -r failed"; }
asked "--no-reload disable --now leeward.service leeward-nats.service leeward-process.service leeward-control.service;daemon-reload;--no-reload disable --now leeward-agent.service;daemon-reload"
[ -e "$root/etc/leeward/leeward.env" ] && [ -e "$root/etc/leeward/agent.env" ] || fail "a removal took the settings"
in_root dpkg -P leeward leeward-agent >"$top/log" 2>&1 || { cat "$top/log" >&2; fail "dpkg -P failed"; }
[ -e "$root/var/lib/leeward/keys/vault.key" ] || fail "a purge took the vault's key"
files | grep -v '^var/lib/leeward/' | comm -13 "$top/before" - >"$top/left"
! grep -vE '^etc/(passwd|group|shadow|gshadow|subuid|subgid)$' "$top/left" || fail "a purge left the above"
in_root getent passwd leeward >/dev/null || fail "the data have lost their user"
rm -rf "$root/var/lib/leeward" "$root/etc/leeward"

echo "rpm: install, use, upgrade, remove"
rpm_server=$(kind rpm leeward) rpm_agent=$(kind rpm leeward-agent)
: >"$root/run/asked"
in_root userdel leeward
# Debian's rpm knows nothing of what dpkg installed: --nodeps.
in_root rpm --nodeps -i "$rpm_server" "$rpm_agent" >"$top/log" 2>&1 || { cat "$top/log" >&2; fail "rpm -i failed"; }
asked "daemon-reload;daemon-reload"
nothing_runs "rpm -i"
uses
echo 'LEEWARD_LOG_LEVEL=debug' >>"$root/etc/leeward/leeward.env"
in_root rpm --nodeps -U --force "$rpm_server" "$rpm_agent" >"$top/log" 2>&1 || { cat "$top/log" >&2; fail "rpm -U failed"; }
grep -q LOG_LEVEL=debug "$root/etc/leeward/leeward.env" || fail "rpm -U lost the operator's settings"
grep -q 'try-restart leeward-agent' "$root/run/asked" && ! grep -q disable "$root/run/asked" || fail "rpm -U asked systemd: $(paste -sd';' "$root/run/asked")"
in_root rpm -e leeward leeward-agent >"$top/log" 2>&1 || { cat "$top/log" >&2; fail "rpm -e failed"; }
files | comm -13 "$top/before" - >"$top/left"
! grep -vE '^etc/(passwd|group|shadow|gshadow|subuid|subgid|leeward/leeward.env.rpmsave)$' "$top/left" || fail "rpm -e left the above"
! in_root getent passwd leeward || fail "the user leeward stays without data"
echo "packages install, work and go"
