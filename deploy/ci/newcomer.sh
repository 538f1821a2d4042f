#!/usr/bin/env bash
# What somebody does on the first day, on two fresh Debian hosts and with what `make package`
# has built: install the server's package on one, put the agent on the other over SSH, see
# a first recovery point, boot it in a test failover, clean up. Each step is timed.
#
#	newcomer.sh [DIST]
#
# The hosts' root is made by debootstrap and kept in ${XDG_CACHE_HOME:-~/.cache}/leeward;
# ROOT=/ takes this machine's own root instead, with what is installed here.
. "$(dirname "$(realpath "$0")")/hosts.sh"

root_dir() { # a Debian with no more than a server has, and what a test failover needs
	local cache=${XDG_CACHE_HOME:-$HOME/.cache}/leeward/debian-bookworm-1 mirror
	if [ ! -e "$cache" ]; then
		command -v debootstrap >/dev/null || fail "needs debootstrap, or ROOT=/"
		mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -1)
		[ -n "$mirror" ] || mirror=http://deb.debian.org/debian
		step "making a Debian" >&2
		rm -rf "$cache.new"
		mkdir -p "$(dirname "$cache")"
		debootstrap --variant=minbase --include=systemd,dbus,openssh-server,iproute2,procps,ca-certificates,qemu-system-x86,xz-utils bookworm "$cache.new" "$mirror" >"$cache.log" 2>&1 ||
			fail "debootstrap: $(tail -3 "$cache.log")"
		mv "$cache.new" "$cache"
	fi
	echo "$cache"
}

outside() {
	local dist loop dir root deb
	dist=$(realpath "${1:-dist}") dir=$(mktemp -d)
	deb=("$dist"/leeward_*_"$(dpkg --print-architecture)".deb)
	[ -e "${deb[0]}" ] || fail "$dist has no package: make package"
	root=${ROOT:-$(root_dir)}
	deploy/images/make-bootable.sh mbr "$dir/disk.img" >/dev/null
	loop=$(losetup --find --show "$dir/disk.img")
	# shellcheck disable=SC2064 # as they are now
	trap "losetup -d $loop; rm -rf $dir" EXIT
	hosts_enter inside "${deb[0]}" "$loop" "$root"
}

cd "$(dirname "$(realpath "$0")")/../.."
[ "${HOSTS_INSIDE-}" = inside ] || { outside "${1-}"; exit; }
deb=$1 loop=$2 lower=$3
hosts_inside
host_up web1 10.77.0.1 "$lower"
host_up dr 10.77.0.2 "$lower"
trap 'on web1 systemctl stop leeward-agent.service >/dev/null 2>&1 || true' EXIT
# Both are on one loopback here: the address of the SSH connection is not the server's.
step "two hosts are up: $(on dr sed -n 's/^PRETTY_NAME=//p' /etc/os-release)"
leeward() { on dr leeward "$@"; }

cp "$deb" "$top/dr/root/tmp/leeward.deb"
on dr dpkg -i /tmp/leeward.deb >"$top/dpkg.log" 2>&1 || fail "dpkg: $(cat "$top/dpkg.log")"
printf '%s\n' LEEWARD_LISTEN=10.77.0.2:9443 LEEWARD_MANAGE=10.77.0.2:443 >>"$top/dr/root/etc/leeward/leeward.env"
on dr systemctl enable --quiet --now leeward
ready 60 leeward status
step "the appliance runs from its package: $(on dr systemctl show -p User --value leeward)"

mkdir -m 0700 -p "$top/dr/root/root/.ssh"
cp "$top/keys/user" "$top/dr/root/root/.ssh/id_ed25519"
on dr ssh-keyscan -p 2222 10.77.0.1 >"$top/dr/root/root/.ssh/known_hosts" 2>/dev/null
on dr env HOME=/root leeward agent install root@10.77.0.1:2222 --manage https://10.77.0.2:443 --disk "$loop=system"
step "the agent runs on the other host"

points() { leeward point ls web1 -o json | grep -c '"id"'; }
ready 60 points
leeward status
step "the first point is there: it can be recovered from now on"

leeward failover test web1 --serial 'HEARTBEAT.*write=ok' --memory 64MiB >"$top/test.log" 2>&1 || fail "test failover: $(cat "$top/test.log")"
job=$(leeward job ls -o json | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' | head -1)
leeward job show "$job"
step "it has booted from the vault"
leeward failover cleanup "$job" >/dev/null
[ -z "$(on dr pgrep -f qemu-system || true)" ] || fail "a machine still runs after cleanup"
step "cleaned up"

on dr env HOME=/root leeward agent uninstall root@10.77.0.1:2222
[ -z "$(host_files web1 | grep -E 'leeward' || true)" ] || fail "left on the protected host: $(host_files web1 | grep leeward)"
on dr systemctl stop leeward
on dr dpkg -P leeward >"$top/dpkg.log" 2>&1 || fail "dpkg -P: $(cat "$top/dpkg.log")"
step "removed again"
for u in leeward leeward-process leeward-control leeward-nats; do [ ! -e "$top/dr/root/usr/lib/systemd/system/$u.service" ] || fail "$u.service is left"; done
