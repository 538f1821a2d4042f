#!/usr/bin/env bash
# Installs the Debian packages that a group of targets needs and that are missing, and
# for the tests Azurite from npm and promtool out of Debian's package of Prometheus.
#
#	need.sh GROUP...     GROUP: test, race, demo, bench, package
#
# It looks for commands and files, not at dpkg, so that it is done in milliseconds
# when everything is there, whoever put it there. Not being root, or without
# apt-get, it says what to install and what will not work; it fails only where
# nothing works without (demo, bench, race, package).
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

# group ; package ; what shows that it is there: a command, a path or a function ; what does not work without it
table='
test,demo,bench ; e2fsprogs            ; mkfs.ext4                              ; disks with ext4
test,demo,bench ; util-linux           ; losetup                                ; loop devices
test,bench      ; xfsprogs             ; mkfs.xfs                               ; disks with xfs
test            ; sudo                 ; sudo                                   ; installing the agent on other hosts
test            ; openssh-server       ; sshd                                   ; scripts of plans on other hosts
test,bench      ; btrfs-progs          ; mkfs.btrfs                             ; disks with btrfs
test,demo       ; fdisk                ; sfdisk                                 ; bootable disks
test,demo       ; mtools               ; mcopy                                  ; bootable disks
test,demo       ; dosfstools           ; mkfs.fat                               ; bootable disks
test,demo       ; grub-common          ; grub-mkimage                           ; bootable disks
test,demo       ; grub-pc-bin          ; /usr/lib/grub/i386-pc/boot.img         ; booting with a BIOS
test,demo       ; grub-efi-amd64-bin   ; /usr/lib/grub/x86_64-efi/moddep.lst    ; booting with UEFI
test,demo       ; busybox-static       ; static_busybox                         ; bootable disks
test,demo       ; cpio                 ; cpio                                   ; bootable disks
test,demo       ; kmod                 ; depmod                                 ; bootable disks
test,demo       ; lz4                  ; lz4                                    ; bootable disks
test,demo       ; binutils             ; objcopy                                ; bootable disks
test,demo       ; qemu-system-x86      ; qemu-system-x86_64                     ; failover to QEMU
test,demo,bench ; qemu-utils           ; qemu-img                               ; comparing disk images
test,demo       ; ovmf                 ; /usr/share/OVMF/OVMF_CODE_4M.fd        ; booting with UEFI
test,demo       ; libnbd-bin           ; nbdinfo                                ; checking the NBD server with another client
test,package    ; systemd              ; systemd-analyze                        ; checking the systemd units
package         ; debootstrap          ; debootstrap                            ; fresh hosts for the first day
package         ; qemu-user            ; qemu-aarch64                           ; running what is built for arm64
package         ; rpm                  ; rpm                                    ; installing the rpm packages
test,package    ; iproute2             ; ip                                     ; bridges of a test, a root to install packages into
test,package    ; procps               ; pgrep                                  ; seeing that an install starts nothing
race            ; gcc                  ; cc                                     ; the race detector
race            ; libc6-dev            ; /usr/include/stdlib.h                  ; the race detector
test,demo,bench ; postgresql           ; /usr/lib/postgresql/*/bin/postgres     ; the database
test            ; mariadb-server-core  ; mariadbd                               ; points of MariaDB
test            ; mariadb-client-core  ; mariadb                                ; points of MariaDB
test            ; lvm2                 ; lvcreate                               ; logical volumes as LVM makes them
test            ; libvirt0             ; /usr/share/libvirt/schemas/domain.rng  ; checking what is written for libvirt
test            ; libxml2-utils        ; xmllint                                ; checking what is written for libvirt
test            ; chromium-headless-shell ; chromium-headless-shell             ; clicking through the console in a browser
test            ; fonts-dejavu-core    ; /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ; pictures of the console with letters
test            ; nodejs               ; node                                   ; Azurite, the emulator of Azure
test            ; npm                  ; azurite_or_npm                         ; Azurite, the emulator of Azure
demo,bench      ; postgresql-contrib   ; /usr/lib/postgresql/*/bin/pgbench      ; the load on the database
test,bench      ; fio                  ; fio                                    ; the load on the disk
demo            ; jq                   ; jq                                     ; reading what the CLI says
bench           ; restic               ; restic                                 ; the comparison
bench           ; borgbackup           ; borg                                   ; the comparison
bench           ; qemu-system-common   ; qemu-storage-daemon                    ; the comparison with dirty bitmaps
bench           ; rsync                ; rsync                                  ; plain copies in the comparison
bench           ; zstd                 ; zstd                                   ; plain copies in the comparison
bench           ; openssl              ; openssl                                ; plain copies in the comparison
'

static_busybox() { command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1; }

# Azurite is no Debian package. It lives outside the tree, in a folder with its version
# in the name, which package azuritetest knows.
azurite_version=3.37.0
azurite_home=${XDG_CACHE_HOME:-$HOME/.cache}/leeward/azurite-$azurite_version
azurite_or_npm() { [ -e "$azurite_home/node_modules/.bin/azurite-blob" ] || command -v npm >/dev/null; }
install_azurite() { # one at a time; a folder that is there is whole
	[ ! -e "$azurite_home" ] || return 0
	command -v npm >/dev/null || { echo "need.sh: no npm: the tests of the Azure store will not run" >&2; return 0; }
	mkdir -p "${azurite_home%/*}"
	(
		flock -w 600 9
		[ ! -e "$azurite_home" ] || exit 0
		echo "need.sh: installing Azurite $azurite_version in $azurite_home" >&2
		fresh=$(mktemp -d "$azurite_home.XXXXXX")
		trap 'rm -rf "$fresh"' EXIT
		for try in 1 2 3; do
			! timeout 300 npm install --prefix "$fresh" --no-audit --no-fund --omit=dev --ignore-scripts --loglevel=error "azurite@$azurite_version" >"$fresh/npm.log" 2>&1 || { mv "$fresh" "$azurite_home"; exit 0; }
			sleep $((try * 5))
		done
		cat "$fresh/npm.log" >&2
		echo "need.sh: npm cannot install Azurite: the tests of the Azure store will not run" >&2
	) 9>"${azurite_home%/*}/azurite.lock"
}

# Promtool checks our alerts. Debian's package of it would also start a server, so it is
# only unpacked, and the tool put where the tests look for it.
promtool=${XDG_CACHE_HOME:-$HOME/.cache}/leeward/promtool
install_promtool() {
	! command -v promtool >/dev/null && [ ! -e "$promtool" ] || return 0
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "need.sh: no promtool: whether the alerts fire will not be seen" >&2; return 0; }
	mkdir -p "${promtool%/*}"
	(
		flock -w 600 9
		[ ! -e "$promtool" ] || exit 0
		echo "need.sh: taking promtool out of Debian's package prometheus" >&2
		fresh=$(mktemp -d "$promtool.XXXXXX")
		trap 'rm -rf "$fresh"' EXIT
		cd "$fresh"
		for try in 1 2 3; do
			! { timeout 300 apt-get -qq download prometheus && dpkg-deb -x prometheus_*.deb . && mv usr/bin/promtool "$promtool"; } >>log 2>&1 || exit 0
			sleep $((try * 5))
			[ "$(id -u)" != 0 ] || timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120 update >>log 2>&1 || true
		done
		cat log >&2
		echo "need.sh: no promtool can be had: whether the alerts fire will not be seen" >&2
	) 9>"$promtool.lock"
}

present() { # present COMMAND|PATH|FUNCTION; a path may hold a '*'
	case $1 in
	/*) compgen -G "$1" >/dev/null ;;
	*_*) if declare -F "$1" >/dev/null; then "$1"; else command -v "$1" >/dev/null; fi ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing=() why=()
look() { # look GROUP: what of the table is missing for it
	local groups package sign without
	while IFS=';' read -r groups package sign without; do
		groups=${groups// /} package=${package// /} sign=${sign// /} without=${without# }
		[ -n "$groups" ] || continue
		case ",$groups," in *",$1,"*) ;; *) continue ;; esac
		present "$sign" && continue
		case " ${missing[*]-} " in *" $package "*) continue ;; esac
		missing+=("$package") why+=("  $package: $without")
	done <<<"$table"
}

[ $# -gt 0 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
needed=0
for group in "$@"; do
	case $group in
	test) ;;
	race | demo | bench | package) needed=1 ;;
	*) echo "need.sh: no group \"$group\": use test, race, demo, bench or package" >&2; exit 2 ;;
	esac
	look "$group"
done
finish() { # what no package manager installs
	case " $* " in *" test "*) install_azurite ;; esac
	case " $* " in *" test "* | *" package "*) install_promtool ;; esac
}
[ ${#missing[@]} -gt 0 ] || { finish "$@"; exit 0; }

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	{
		echo "need.sh: cannot install packages here (needs root and apt-get). Without these some things will not work:"
		printf '%s\n' "${why[@]}"
		echo "Install them with: apt-get install --no-install-recommends ${missing[*]}"
	} >&2
	finish "$@"
	exit "$needed"
fi

# Debian starts a database cluster of its own when PostgreSQL is installed. We make
# ours in temporary folders; on a machine that has none yet, leave it so.
case " ${missing[*]} " in *" postgresql "*)
	conf=/etc/postgresql-common/createcluster.conf
	if [ ! -e "$conf" ] && [ ! -e /usr/share/postgresql-common ]; then
		mkdir -p "${conf%/*}"
		echo 'create_main_cluster = false' >"$conf"
		echo "need.sh: wrote $conf, so that installing PostgreSQL starts no server" >&2
	fi
	;;
esac

export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1
apt() { apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 "$@"; }
install_missing() { apt install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "need.sh: installing ${missing[*]}" >&2
if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || ! install_missing; then
	# No package lists yet, or lists so old that they name what is gone.
	apt update >"$log" 2>&1 && install_missing || { cat "$log" >&2; echo "need.sh: installing failed, see above" >&2; exit 1; }
fi
missing=() why=()
for group in "$@"; do look "$group"; done
if [ ${#missing[@]} -gt 0 ]; then
	echo "need.sh: installed, yet not found:" >&2
	printf '%s\n' "${why[@]}" >&2
	exit 1
fi
finish "$@"
