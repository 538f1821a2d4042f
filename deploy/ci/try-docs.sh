#!/usr/bin/env bash
# Does what pages of the documentation say, line by line, on hosts with their own systemd:
# dr, where everything is typed, and web1 and db1, which are protected.
#
#	try-docs.sh DIR      DIR holds leeward, leeward-agent, disk.img, which boots, plan.yaml,
#	                     notify.yaml and steps: lines of SESSION, WHERE, WHAT and COMMAND,
#	                     apart by tabs (the root's tests write them)
#
# A session has a directory of its own on dr and keeps what was exported. WHAT is run, or
# wait: run until it succeeds. JOB and POINT are what was last told or listed. Who is asked
# to type a name types web1.
. "$(dirname "$(realpath "$0")")/hosts.sh"

outside() {
	local dir disk other
	dir=$(realpath "$1")
	cp "$dir/disk.img" "$dir/other.img"
	disk=$(losetup --find --show "$dir/disk.img")
	other=$(losetup --find --show "$dir/other.img")
	# shellcheck disable=SC2064 # as they are now
	trap "losetup -d $disk $other" EXIT
	hosts_enter inside "$dir" "$disk" "$other"
}

[ "${HOSTS_INSIDE-}" = inside ] || { outside "$1"; exit; }
cd "$(dirname "$(realpath "$0")")/../.."
dir=$1 disk=$2 other=$3
hosts_inside
ended() { # nothing may stay recorded, however this ends
	on dr pkill -x leeward-agent || true
	for h in web1 db1; do on $h systemctl stop leeward-agent.service || true; done
	[ -z "$(on dr pgrep -x leeward-agent || true)" ] || sleep 2
}
trap 'ended >/dev/null 2>&1' EXIT
host_up web1 10.77.0.1 /
host_up dr 10.77.0.2 /
host_up db1 10.77.0.3 /
dr=$top/dr/root

# Their disk is /dev/sdb, and nothing else of this machine is.
devices() { # devices HOST DISK
	local root=$top/$1/root disk=$2 d
	mkdir "$top/$1/dev"
	mount -t tmpfs -o mode=0755 none "$top/$1/dev"
	for d in null zero full random urandom tty loop-control kvm ptmx; do [ ! -e "/dev/$d" ] || cp -a "/dev/$d" "$top/$1/dev/"; done
	ln -s /proc/self/fd "$top/$1/dev/fd"
	ln -s /proc/self/fd/0 "$top/$1/dev/stdin"
	mkdir "$top/$1/dev/shm" "$top/$1/dev/pts"
	mknod "$top/$1/dev/sdb" b $((0x$(stat -c %t "$disk"))) $((0x$(stat -c %T "$disk")))
	mount --bind "$top/$1/dev" "$root/dev"
}
devices dr "$disk"
devices web1 "$other"
devices db1 "$other"

# A package, as dpkg takes it: make package builds the one that is given away.
pkg=$top/pkg
mkdir -p "$pkg"/{DEBIAN,usr/bin,usr/lib/systemd/system,usr/lib/sysusers.d,usr/share/leeward/agents,etc/leeward}
install -m 0755 "$dir/leeward" "$pkg/usr/bin/leeward"
install -m 0755 "$dir/leeward-agent" "$pkg/usr/share/leeward/agents/leeward-agent-linux-$(dpkg --print-architecture)"
install -m 0644 deploy/systemd/leeward{,-process,-control,-nats}.service "$pkg/usr/lib/systemd/system/"
install -m 0644 deploy/package/leeward.sysusers "$pkg/usr/lib/sysusers.d/leeward.conf"
install -m 0640 deploy/package/leeward.env "$pkg/etc/leeward/leeward.env"
for s in postinst prerm postrm; do install -m 0755 "deploy/package/leeward.$s" "$pkg/DEBIAN/$s"; done
printf 'Package: leeward\nVersion: 0.0.1\nArchitecture: %s\nMaintainer: nobody <nobody@leeward.invalid>\nDescription: for a test\n' "$(dpkg --print-architecture)" >"$pkg/DEBIAN/control"
dpkg-deb --root-owner-group -Znone --build "$pkg" "$top/leeward.deb" >/dev/null

# Who types has a key that the hosts know, and knows theirs.
mkdir -p -m 0700 "$dr/root/.ssh"
cp "$top/keys/user" "$dr/root/.ssh/id_ed25519"
for h in web1 db1; do printf '[%s]:2222 %s\n' $h "$(cat "$top/keys/host.pub")"; done >"$dr/root/.ssh/known_hosts"
printf '127.0.0.1 localhost\n10.77.0.1 web1\n10.77.0.2 dr\n10.77.0.3 db1\n' >"$top/hosts"
mount --bind "$top/hosts" "$dr/etc/hosts"
mkdir -p "$dr/srv/bin"
mount --bind "$dir" "$dr/srv/bin"
step "three hosts are up"

said=$top/said job='' point=''
run() { # run SESSION COMMAND: as somebody would type it
	local home=$dr/root/$1
	[ -d "$home" ] || { mkdir -p "$home"; cp "$dir/plan.yaml" "$dir/notify.yaml" "$home/"; cp "$top/leeward.deb" "$home/leeward_VERSION_amd64.deb"; }
	printf '%s\n' "$2" >"$home/.line"
	on dr env HOME=/root bash -c 'cd "$1"; [ ! -e .env ] || . ./.env; echo web1 >.typed; rm -f .said; eval "$(cat .line)" <.typed >.said 2>&1; code=$?; export -p >.env; exit $code' bash "/root/$1"
}
while IFS=$'\t' read -r session where what command; do
	case $command in *JOB*) [ -n "$job" ] || fail "$where: no job was told of yet" ;; esac
	case $command in *POINT*) point=$(on dr leeward point ls web1 -o json | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' | head -1) ;; esac
	command=${command//JOB/$job} command=${command//POINT/$point} code=0
	if [ "$what" = wait ]; then
		end=$((SECONDS + 180))
		until run "$session" "$command"; do
			[ $SECONDS -lt $end ] || fail "$where: waited in vain for: $command: $(cat "$dr/root/$session/.said")"
			sleep 0.3
		done
		continue
	fi
	run "$session" "$command" || code=$?
	step "$where: $command"
	cp "$dr/root/$session/.said" "$said"
	[ $code = 0 ] || fail "$where: it ended with $code: $(cat "$said")"
	if grep -q '^job  *' "$said"; then job=$(sed -n 's/^job  *//p' "$said" | head -1); fi
done <"$dir/steps"
step "all of it worked"
