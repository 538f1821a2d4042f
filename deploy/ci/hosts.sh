# shellcheck shell=bash
# Hosts for trials, to be sourced: each is a copy-on-write view of a root directory with its
# own systemd and sshd, in namespaces of which the caller is the only root.
#
#	hosts_enter FUNCTION ARGS…   calls FUNCTION in namespaces of its own, for HOSTS_SECONDS
#	                             at most; nothing outlives it, $top is a directory of it
#	host_up NAME IP ROOT         boots one; its sshd listens at IP:2222
#	on NAME CMD…                 runs CMD in it, behind its init
#	host_files NAME              what it holds that its root does not, one a line
#	ready SECONDS CMD…           waits until CMD succeeds
#
# A host's units below /run keep its systemd away from the machine around it: kernel
# settings, devices, the clock.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
fail() { echo "$(basename "$0"): FAILED: $*" >&2; exit 1; }
step() { echo "$(basename "$0"): ${SECONDS}s $*"; }

hosts_enter() {
	local tool
	for tool in unshare ip nsenter ssh-keygen /usr/sbin/sshd /lib/systemd/systemd; do
		command -v "$tool" >/dev/null || fail "needs $tool: deploy/ci/need.sh test"
	done
	local id code=0
	id=leeward-hosts-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')
	timeout --kill-after=10 "${HOSTS_SECONDS:-240}" unshare --mount --pid --fork --kill-child --net --ipc --uts --cgroup --propagation private \
		env HOSTS_INSIDE="$1" HOSTS_ID="$id" "$(realpath "$0")" "${@:2}" || code=$?
	# Their processes are gone; the control groups they were in are not.
	unshare --mount --propagation private sh -c 'mount -t cgroup2 none /mnt && [ ! -d "/mnt/$1" ] || find "/mnt/$1" -depth -type d -exec rmdir {} +' sh "$id" || true
	return $code
}

hosts_inside() { # in the namespaces: the ground that the hosts stand on
	mount -t proc proc /proc
	top=$(mktemp -d)
	mount -t tmpfs none "$top"
	mkdir -m 0700 "$top/keys"
	ssh-keygen -q -t ed25519 -N '' -f "$top/keys/host"
	ssh-keygen -q -t ed25519 -N '' -f "$top/keys/user"
	ip link set lo up
}

ready() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "waited in vain for: $*"
		sleep 0.2
	done
}

host_up() {
	local name=$1 address=$2 lower=$3 root=$top/$1/root units u
	mkdir -p "$top/$name/upper" "$top/$name/work" "$root"
	mount -t overlay overlay -o "lowerdir=$lower,upperdir=$top/$name/upper,workdir=$top/$name/work" "$root"
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mkdir -p "$root/sys/fs/cgroup"
	mount -t cgroup2 none "$root/sys/fs/cgroup"
	mkdir -p "$root/sys/fs/cgroup/$HOSTS_ID/$name"
	mount --bind "$root/sys/fs/cgroup/$HOSTS_ID/$name" "$root/sys/fs/cgroup"
	mount --rbind /dev "$root/dev"
	for u in run tmp var/log; do mount -t tmpfs -o mode=1777 none "$root/$u"; done
	chmod 0755 "$root/run" "$root/var/log"
	echo "$name" >"$root/etc/hostname"
	: >"$root/etc/machine-id"
	ip addr add "$address/32" dev lo
	mkdir -p "$root/run/sshd" "$root/run/keys"
	cp "$top/keys/host" "$top/keys/user.pub" "$root/run/keys/"
	printf '%s\n' "ListenAddress $address:2222" 'HostKey /run/keys/host' 'AuthorizedKeysFile /run/keys/user.pub' 'StrictModes no' \
		'UsePAM no' 'PasswordAuthentication yes' 'PermitRootLogin yes' 'PidFile none' 'Subsystem sftp internal-sftp' >"$root/run/keys/sshd_config"
	units=$root/run/systemd/system
	mkdir -p "$units"
	printf '[Unit]\nDescription=A host\nRequires=try-sshd.service\nAfter=try-sshd.service\nAllowIsolate=yes\n' >"$units/try.target"
	printf '[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/sbin/sshd -D -e -f /run/keys/sshd_config\n' >"$units/try-sshd.service"
	for u in systemd-{sysctl,binfmt,modules-load,udevd,udev-trigger,update-utmp,random-seed,tmpfiles-setup,tmpfiles-setup-dev,remount-fs,sysusers,firstboot,timesyncd,hwdb-update}.service kmod-static-nodes.service ldconfig.service \
		proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-config.mount sys-fs-fuse-connections.mount \
		systemd-udevd-kernel.socket systemd-udevd-control.socket timers.target swap.target cryptsetup.target; do
		ln -s /dev/null "$units/$u"
	done
	# A namespace for its processes and its host name; the network is that of all of them.
	unshare --pid --uts --fork --kill-child chroot "$root" /usr/bin/env -i container=systemd-nspawn PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		sh -c "mount -t proc proc /proc; exec /lib/systemd/systemd --unit=try.target --show-status=0" </dev/null >"$top/$name/boot.log" 2>&1 &
	echo $! >"$top/$name/pid"
	ready 180 on "$name" systemctl is-active try-sshd.service
}

on() {
	local name=$1 init
	shift
	init=$(pgrep -P "$(cat "$top/$name/pid")" | head -1)
	nsenter --target "$init" --pid --uts -- chroot "$top/$name/root" /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

host_files() {
	(cd "$top/$1/upper" && find . -mindepth 1 ! -type d -printf '%P %s\n') |
		grep -vE '^(var/(log|cache|lib/(sudo|systemd|dbus|private))/|etc/(machine-id|mtab|hostname) |home/[a-z]*/\.sudo_as_admin_successful )' | sort || true
}
