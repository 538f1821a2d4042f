#!/usr/bin/env bash
# Puts the agent on a host over SSH with `leeward agent install`, upgrades and removes it.
# The host is a copy-on-write view of this machine's root with its own mounts, processes,
# network and systemd, and a disk of its own; beside it runs an appliance with TLS. What is
# left on the host at the end is compared with what was there before.
#
#	try-push.sh BIN      BIN holds leeward, leeward-agent, new/leeward-agent of another
#	                     version and broken/leeward-agent that does not stay up
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
fail() { echo "try-push: FAILED: $*" >&2; exit 1; }
step() { echo "try-push: $((SECONDS))s $*"; }

if [ "${1-}" != inside ]; then
	bin=$(realpath "$1")
	for tool in unshare ip losetup mkfs.ext4 ssh-keygen sudo /usr/sbin/sshd /lib/systemd/systemd; do
		command -v "$tool" >/dev/null || fail "needs $tool: deploy/ci/need.sh test"
	done
	top=$(mktemp -d)
	truncate -s 64M "$top/disk.img"
	mkfs.ext4 -q "$top/disk.img"
	loop=$(losetup --find --show "$top/disk.img")
	trap 'losetup -d "$loop"; rm -rf "$top"' EXIT
	timeout --kill-after=10 "${LEEWARD_TRY_SECONDS:-240}" unshare --mount --pid --fork --kill-child --net --ipc --uts --cgroup --propagation private \
		"$(realpath "$0")" inside "$bin" "$top" "$loop"
	exit
fi

# From here on nothing outlives this process: its mounts and children end with it.
bin=$2 top=$3 loop=$4
root=$top/root upper=$top/all/upper
mkdir "$top/all" "$root"
mount -t tmpfs none "$top/all"
mkdir "$upper" "$top/all/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$upper,workdir=$top/all/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mkdir -p "$root/sys/fs/cgroup"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
for d in run tmp var/log; do mount -t tmpfs -o mode=1777 none "$root/$d"; done
chmod 0755 "$root/run" "$root/var/log"
mkdir "$root/run/sshd"
mkdir -p "$root/srv"
mount "$loop" "$root/srv"
echo webserver >"$root/etc/hostname"
ip link set lo up
ip addr add 10.77.0.1/32 dev lo
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

# The host's users: one whose sudo wants a password, one that may not use it at all.
for u in admin guest; do in_root useradd --create-home --shell /bin/sh $u; done
word=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
printf 'admin:%s\nguest:%s\n' "$word" "$word" | in_root chpasswd
mkdir -p "$root/etc/sudoers.d"
echo 'admin ALL=(ALL) ALL' >"$root/etc/sudoers.d/admin"
chmod 0440 "$root/etc/sudoers.d/admin"
keys=$top/all/keys
mkdir -m 0700 "$keys" "$root/run/keys"
ssh-keygen -q -t ed25519 -N '' -f "$keys/host"
ssh-keygen -q -t ed25519 -N '' -f "$keys/user"
cp "$keys/host" "$keys/user.pub" "$root/run/keys/"
chmod 0755 "$root/run/keys" # sshd reads it as the user
cat >"$root/run/keys/sshd_config" <<-END
	ListenAddress 10.77.0.1:2222
	HostKey /run/keys/host
	AuthorizedKeysFile /run/keys/user.pub
	StrictModes no
	UsePAM no
	PasswordAuthentication yes
	PermitRootLogin yes
	PidFile none
	Subsystem sftp internal-sftp
END

# Its systemd starts sshd and nothing that would reach the machine around it.
units=$root/run/systemd/system
mkdir -p "$units"
printf '[Unit]\nDescription=A host\nRequires=try-sshd.service\nAfter=try-sshd.service\nAllowIsolate=yes\n' >"$units/try.target"
printf '[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/sbin/sshd -D -e -f /run/keys/sshd_config\n' >"$units/try-sshd.service"
for u in systemd-sysctl systemd-binfmt systemd-modules-load systemd-udevd systemd-udev-trigger systemd-update-utmp systemd-random-seed systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-remount-fs kmod-static-nodes ldconfig systemd-sysusers systemd-firstboot; do ln -s /dev/null "$units/$u.service"; done
for u in proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-config.mount sys-fs-fuse-connections.mount systemd-udevd-kernel.socket systemd-udevd-control.socket timers.target swap.target cryptsetup.target; do ln -s /dev/null "$units/$u"; done
: >"$root/etc/machine-id"
in_root unshare --pid --fork --kill-child env -i container=systemd-nspawn PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	sh -c 'mount -t proc proc /proc; exec /lib/systemd/systemd --unit=try.target' </dev/null >"$top/all/systemd.log" 2>&1 &
ready() { # ready SECONDS WHAT…: wait until it is so
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "waited in vain for: $*"
		sleep 0.2
	done
}
on_host() { # what runs as part of the host, behind its init
	local init
	init=$(pgrep -f '^/lib/systemd/systemd --unit=try.target' | head -1)
	nsenter --target "$init" --pid -- chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
ready 60 on_host systemctl is-active try-sshd.service
ended() { # nothing may stay frozen or recorded, however this ends
	on_host systemctl stop leeward-agent.service >/dev/null 2>&1 || true
	fsfreeze --unfreeze "$root/srv" >/dev/null 2>&1 || true
}
trap ended EXIT
step "the host is up: $(on_host systemctl --version | head -1)"

# The appliance, with a certificate of its own.
lee=$top/all/leeward
"$bin/leeward" up --dir "$lee" --listen 10.77.0.1:9443 --manage 10.77.0.1:443 </dev/null >"$top/all/up.log" 2>&1 &
leeward() { "$bin/leeward" --dir "$lee" "$@"; }
ready 60 leeward status
step "the appliance is up"

said=$top/all/said
try() { # try CODE TEXT ARGS…: leeward agent ARGS ends with CODE and says TEXT
	local want=$1 text=$2 got=0
	shift 2
	SSH_AUTH_SOCK='' HOME=$top/all leeward agent "$@" >"$said" 2>&1 </dev/null || got=$?
	[ $got = "$want" ] || fail "leeward agent $* ended with $got, want $want: $(cat "$said")"
	grep -qF -- "$text" "$said" || fail "leeward agent $* does not say \"$text\": $(cat "$said")"
}
files() { (cd "$upper" && find . -mindepth 1 ! -type d -printf '%P %s\n') | grep -vE '^(var/(log|lib/(sudo|systemd|dbus|private))/|var/cache/|etc/(machine-id|mtab) |home/admin/\.sudo_as_admin_successful )' | sort; }
printf '%s\n' "$word" >"$keys/password"
printf '[10.77.0.1]:2222 %s\n' "$(cat "$keys/host.pub")" >"$keys/known"
print=$(ssh-keygen -lf "$keys/host.pub" | awk '{print $2}')
known=(--known-hosts "$keys/known")
files >"$top/all/before"

# Who is refused, and that nothing was touched then.
try 5 "$print" install root@10.77.0.1:2222 --identity "$keys/user" --known-hosts /dev/null --disk "$loop"
try 7 "--identity" install root@10.77.0.1:2222 "${known[@]}" --disk "$loop"
try 6 "10.77.0.9" install root@10.77.0.9:2222 "${known[@]}" --connect-time 1s --disk "$loop"
try 5 "sudo" install guest@10.77.0.1:2222 "${known[@]}" --password-file "$keys/password" --disk "$loop"
try 5 "sudo wants a password" install admin@10.77.0.1:2222 "${known[@]}" --identity "$keys/user" --disk "$loop"
try 5 "/dev/none" install root@10.77.0.1:2222 "${known[@]}" --identity "$keys/user" --disk /dev/none
files | diff "$top/all/before" - || fail "a refused install left something"
step "six refusals, nothing touched"

# By password and sudo.
try 0 "webserver" install admin@10.77.0.1:2222 --host-key "$print" --password-file "$keys/password" --disk "$loop=data" --agent-arg=--interval=2s
on_host systemctl is-active --quiet leeward-agent.service || fail "the unit does not run"
on_host systemctl is-enabled --quiet leeward-agent.service || fail "the unit does not start at boot"
has_points() { [ "$(leeward point ls webserver -o json | grep -c '"id"')" -ge "$1" ]; }
ready 60 has_points 1
dd if=/dev/urandom of="$root/srv/file" bs=1M count=8 conv=fsync status=none
ready 30 has_points 3
step "installed, protected: $(leeward point ls webserver | sed -n 2p)"
! grep -rqF -e "$word" "$top/all/up.log" "$root/var/log" "$root/etc/leeward" "$root/run" --exclude-dir=keys || fail "the password is in a file"
! grep -rqE -e 'lw_[A-Z0-9]{12}_' "$top/all/up.log" "$root/var/log" "$root/etc/leeward" || fail "a token is in a file"
[ -z "$(find "$root/tmp" -name 'leeward-*')" ] || fail "what was sent is still there"
[ "$(stat -c '%a %U' "$root/etc/leeward/agent.creds" "$root/etc/leeward/agent.env" | sort -u)" = "600 root" ] || fail "others can read the agent's key or environment"
try 5 "upgrade" install admin@10.77.0.1:2222 "${known[@]}" --password-file "$keys/password" --disk "$loop"

# Another version; one that does not stay up; several hosts of which one is not there.
instance() { leeward machine show webserver -o json | grep agent_instance; }
before=$(instance)
try 3 "1 of 2 hosts" upgrade root@10.77.0.1:2222 root@10.77.0.9:2222 "${known[@]}" --identity "$keys/user" --connect-time 1s --agent "$bin/new/leeward-agent"
[ "$("$root/usr/local/bin/leeward-agent" version)" = "leeward-agent v9.9.9-try" ] || fail "the new version is not there"
grep -q 'v9.9.9-try.*yes' "$said" || fail "it does not say what is there now: $(cat "$said")"
[ "$before" != "$(instance)" ] || fail "the agent before still runs"
try 1 "runs again" upgrade root@10.77.0.1:2222 "${known[@]}" --identity "$keys/user" --agent "$bin/broken/leeward-agent"
[ "$("$root/usr/local/bin/leeward-agent" version)" = "leeward-agent v9.9.9-try" ] || fail "the version before did not come back"
on_host systemctl is-active --quiet leeward-agent.service || fail "the version before does not run"
n=$(leeward point ls webserver -o json | grep -c '"id"')
ready 60 has_points $((n + 2))
step "upgraded; a broken one made room again"

# Nothing is left, and its key is refused.
try 0 "uninstalled" uninstall root@10.77.0.1:2222 "${known[@]}" --identity "$keys/user"
files | diff "$top/all/before" - || fail "an uninstall left something"
[ ! -e "$root/run/leeward-agent" ] || fail "/run/leeward-agent is left"
[ -z "$(ls "$root/sys/kernel/tracing/instances" 2>/dev/null | grep "$(basename "$loop")" || true)" ] || fail "the kernel still records"
leeward agent ls | grep -q 'webserver.*revoked' || fail "its key is still let in: $(leeward agent ls)"
try 0 "uninstalled" uninstall root@10.77.0.1:2222 "${known[@]}" --identity "$keys/user"
step "uninstalled, nothing left"

# As root by key, and again: a host that was protected before can be once more.
try 0 "installed" install root@10.77.0.1:2222 "${known[@]}" --identity "$keys/user" --disk "$loop=data" -o json
try 0 "uninstalled" uninstall root@10.77.0.1:2222 "${known[@]}" --identity "$keys/user" -o yaml
step "installed again by key, and removed"
