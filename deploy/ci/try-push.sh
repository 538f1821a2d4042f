#!/usr/bin/env bash
# Puts the agent on a host over SSH with `leeward agent install`, upgrades and removes it.
# The host is a copy-on-write view of this machine's root with its own mounts, processes,
# network and systemd, and disks of its own; beside it a second one runs the appliance, with
# TLS, by its unit. What is left on the first at the end is compared with what was there
# before, and the machine is brought up from the vault by the second.
#
#	try-push.sh BIN [DRIVER OUT]
#
# BIN holds leeward, leeward-agent, new/leeward-agent of another version and
# broken/leeward-agent that does not stay up. DRIVER is a program that does the same with a
# browser in the console (the root's tests); what commands print as JSON is left in OUT.
. "$(dirname "$(realpath "$0")")/hosts.sh"

outside() {
	local bin loop boot dir
	bin=$(realpath "$1") dir=$(mktemp -d)
	for tool in losetup mkfs.ext4 sudo; do command -v "$tool" >/dev/null || fail "needs $tool: deploy/ci/need.sh test"; done
	truncate -s 64M "$dir/disk.img"
	mkfs.ext4 -q "$dir/disk.img"
	loop=$(losetup --find --show "$dir/disk.img")
	"$(dirname "$(realpath "$0")")/../images/make-bootable.sh" mbr "$dir/boot.img" >/dev/null 2>&1 || fail "no bootable disk"
	boot=$(losetup --find --show "$dir/boot.img")
	# shellcheck disable=SC2064 # as they are now
	trap "losetup -d $loop $boot; rm -rf $dir" EXIT
	hosts_enter inside "$bin" "$loop" "$boot" "${@:2}"
}

[ "${HOSTS_INSIDE-}" = inside ] || { outside "$@"; exit; }
bin=$1 loop=$2 boot=$3 driver=${4-} out=${5-}
hosts_inside
host_up webserver 10.77.0.1 /
root=$top/webserver/root
mkdir -p "$root/srv"
mount "$loop" "$root/srv"
ended() { # nothing may stay frozen or recorded, however this ends
	on webserver systemctl stop leeward-agent.service >/dev/null 2>&1 || true
	fsfreeze --unfreeze "$root/srv" >/dev/null 2>&1 || true
}
trap ended EXIT
# Its users: one whose sudo wants a password, one that may not use it at all.
for u in admin guest; do on webserver useradd --create-home --shell /bin/sh $u; done
word=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
printf 'admin:%s\nguest:%s\n' "$word" "$word" | on webserver chpasswd
mkdir -p "$root/etc/sudoers.d"
echo 'admin ALL=(ALL) ALL' >"$root/etc/sudoers.d/admin"
chmod 0440 "$root/etc/sudoers.d/admin"
step "the host is up: $(on webserver systemctl --version | head -1)"

# The appliance: as its package would have put it there.
host_up dr 10.77.0.2 /
dr=$top/dr/root units=$(dirname "$(realpath "$0")")/../systemd
install -m 0755 "$bin/leeward" "$dr/usr/bin/leeward"
install -m 0644 "$units/leeward.service" "$dr/etc/systemd/system/leeward.service"
mkdir -p "$dr/etc/leeward"
printf '%s\n' LEEWARD_LISTEN=10.77.0.2:9443 LEEWARD_MANAGE=10.77.0.2:443 >"$dr/etc/leeward/leeward.env"
on dr useradd --system --home-dir /var/lib/leeward --shell /usr/sbin/nologin leeward
on dr systemctl daemon-reload
on dr systemctl start leeward
lee=$dr/var/lib/leeward
mkdir -p "$dr/run/try/bin"
mount --bind "$bin" "$dr/run/try/bin"
cp -r "$top/keys" "$dr/run/try/keys"
leeward() { on dr env HOME=/run/try leeward "$@"; }
ready 180 leeward status
step "the appliance is up, as user $(on dr systemctl show -p User --value leeward)"

said=$top/said
try() { # try CODE TEXT ARGS…: leeward agent ARGS ends with CODE and says TEXT
	local want=$1 text=$2 got=0
	shift 2
	leeward agent "$@" >"$said" 2>&1 </dev/null || got=$?
	[ $got = "$want" ] || fail "leeward agent $* ended with $got, want $want: $(cat "$said")"
	grep -qF -- "$text" "$said" || fail "leeward agent $* does not say \"$text\": $(cat "$said")"
}
printf '%s\n' "$word" >"$dr/run/try/keys/password"
printf '[10.77.0.1]:2222 %s\n' "$(cat "$top/keys/host.pub")" >"$dr/run/try/keys/known"
install -m 0755 "$bin/leeward-agent" "$dr/usr/bin/leeward-agent" # beside leeward: that is where it looks
print=$(ssh-keygen -lf "$top/keys/host.pub" | awk '{print $2}')
known=(--known-hosts /run/try/keys/known)
host_files webserver >"$top/before"

# Who is refused, and that nothing was touched then.
try 5 "$print" install root@10.77.0.1:2222 --identity /run/try/keys/user --known-hosts /dev/null --disk "$loop"
try 7 "--identity" install root@10.77.0.1:2222 "${known[@]}" --disk "$loop"
try 6 "10.77.0.9" install root@10.77.0.9:2222 "${known[@]}" --connect-time 1s --disk "$loop"
try 5 "sudo" install guest@10.77.0.1:2222 "${known[@]}" --password-file /run/try/keys/password --disk "$loop"
try 5 "sudo wants a password" install admin@10.77.0.1:2222 "${known[@]}" --identity /run/try/keys/user --disk "$loop"
try 5 "/dev/none" install root@10.77.0.1:2222 "${known[@]}" --identity /run/try/keys/user --disk /dev/none
host_files webserver | diff "$top/before" - || fail "a refused install left something"
step "six refusals, nothing touched"

# By password and sudo.
try 0 "webserver" install admin@10.77.0.1:2222 --host-key "$print" --password-file /run/try/keys/password --disk "$boot=boot" --disk "$loop=data" --manage https://10.77.0.2:443 --agent-arg=--interval=2s
on webserver systemctl is-active --quiet leeward-agent.service || fail "the unit does not run"
on webserver systemctl is-enabled --quiet leeward-agent.service || fail "the unit does not start at boot"
has_points() { [ "$(leeward point ls webserver -o json | grep -c '"id"')" -ge "$1" ]; }
ready 180 has_points 1
dd if=/dev/urandom of="$root/srv/file" bs=1M count=8 conv=fsync status=none
ready 180 has_points 3
leeward failover test webserver --serial 'HEARTBEAT.*write=ok' --memory 64MiB --timeout 180s >"$said" 2>&1 || fail "the unit cannot bring machines up: $(cat "$said")"
leeward failover cleanup "$(sed -n 's/^job  *//p' "$said")" >/dev/null
step "installed, protected, booted: $(leeward point ls webserver | sed -n 2p)"
! grep -rqF -e "$word" "$lee" "$root/var/log" "$root/etc/leeward" "$root/run" --exclude-dir=keys || fail "the password is in a file"
! grep -rqE -e 'lw_[A-Z0-9]{12}_' "$lee" "$root/var/log" "$root/etc/leeward" || fail "a token is in a file"
[ -z "$(find "$root/tmp" -name 'leeward-*')" ] || fail "what was sent is still there"
[ "$(stat -c '%a %U' "$root/etc/leeward/agent.creds" "$root/etc/leeward/agent.env" | sort -u)" = "600 root" ] || fail "others can read the agent's key or environment"
try 5 "upgrade" install admin@10.77.0.1:2222 "${known[@]}" --password-file /run/try/keys/password --disk "$loop"

# Another version; one that does not stay up; several hosts of which one is not there.
instance() { leeward machine show webserver -o json | grep agent_instance; }
before=$(instance)
try 3 "1 of 2 hosts" upgrade root@10.77.0.1:2222 root@10.77.0.9:2222 "${known[@]}" --identity /run/try/keys/user --connect-time 10s --agent /run/try/bin/new/leeward-agent
[ "$("$root/usr/local/bin/leeward-agent" version)" = "leeward-agent v9.9.9-try" ] || fail "the new version is not there"
grep -q 'v9.9.9-try.*yes' "$said" || fail "it does not say what is there now: $(cat "$said")"
[ "$before" != "$(instance)" ] || fail "the agent before still runs"
try 1 "runs again" upgrade root@10.77.0.1:2222 "${known[@]}" --identity /run/try/keys/user --agent /run/try/bin/broken/leeward-agent
[ "$("$root/usr/local/bin/leeward-agent" version)" = "leeward-agent v9.9.9-try" ] || fail "the version before did not come back"
on webserver systemctl is-active --quiet leeward-agent.service || fail "the version before does not run"
n=$(leeward point ls webserver -o json | grep -c '"id"')
ready 180 has_points $((n + 2))
step "upgraded; a broken one made room again"

# Nothing is left, and its key is refused.
try 0 "uninstalled" uninstall root@10.77.0.1:2222 "${known[@]}" --identity /run/try/keys/user
host_files webserver | diff "$top/before" - || fail "an uninstall left something"
[ ! -e "$root/run/leeward-agent" ] || fail "/run/leeward-agent is left"
[ -z "$(ls "$root/sys/kernel/tracing/instances" 2>/dev/null | grep "$(basename "$loop")" || true)" ] || fail "the kernel still records"
leeward agent ls | grep -q 'webserver.*revoked' || fail "its key is still let in: $(leeward agent ls)"
try 0 "uninstalled" uninstall root@10.77.0.1:2222 "${known[@]}" --identity /run/try/keys/user
step "uninstalled, nothing left"

# As root by key, and again: a host that was protected before can be once more.
try 0 "installed" install root@10.77.0.1:2222 "${known[@]}" --identity /run/try/keys/user --disk "$loop=data" --manage https://10.77.0.2:443 -o json
document() { [ -z "$out" ] || sed -n '/^{/,/^}/p' "$said" >"$out/$1.json"; } # without what is said on the way
document install
try 0 "uninstalled" uninstall root@10.77.0.1:2222 "${known[@]}" --identity /run/try/keys/user -o json
document uninstall
try 3 "1 of 2 hosts" uninstall root@10.77.0.1:2222 root@10.77.0.9:2222 "${known[@]}" --identity /run/try/keys/user --connect-time 10s -o json
document partial
step "installed again by key, and removed"
[ -n "$driver" ] || exit 0

# The same with a browser, by clicking.
export TRY_LOGIN TRY_PASSWORD=$word TRY_KEY=$top/keys/user TRY_PRINT=$print TRY_DISK=$boot=boot TRY_VIEWER
TRY_LOGIN=$(leeward console login --role admin --url https://10.77.0.2)
TRY_VIEWER=$(leeward console login --role operator --url https://10.77.0.2)
"$driver" -test.run '^TestPushInTheConsole$' -test.v -test.timeout 5m || fail "the browser's way"
host_files webserver | diff "$top/before" - || fail "the console's uninstall left something"
! grep -rqF -e "$word" "$lee" "$root/var/log" "$root/etc" "$root/run" "$dr/var/log" --exclude-dir=keys || fail "the password is in a file"
! grep -rqF -e "$(sed -n 4p "$top/keys/user")" "$lee" "$root/var/log" "$root/etc" "$root/run" "$dr/var/log" --exclude-dir=keys || fail "the private key is in a file"
! on dr journalctl -q | grep -qF -e "$word" || fail "the password is in the journal"
leeward audit ls -o json | grep -q '"agent-push"' || fail "the audit trail does not tell of the console's push"
! leeward audit ls -o json | grep -qF -e "$word" || fail "the password is in the audit trail"
step "installed, upgraded and removed by clicking"
