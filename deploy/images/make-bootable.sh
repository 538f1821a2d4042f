#!/bin/bash
# Builds a small disk image that boots, for tests and for the demo.
#
#   make-bootable.sh mbr  OUT [--size MIB] [--uuid UUID]
#   make-bootable.sh tiny OUT [--size MIB] [--uuid UUID] [--kernel generic|cloud] [--hw any|sata] [--no-efi]
#   make-bootable.sh debian OUT [--size MIB] [--uuid UUID] [--no-efi]
#
# mbr   One sector of code, no operating system, 1 MiB. Each boot says on COM1
#           HEARTBEAT marker=UUID boot=N write=ok
#       where UUID stands in sector 1 and N is kept in sector 2, then powers off.
#       BIOS only. It proves which disk was booted, and that it can be written.
# tiny  GPT, GRUB for BIOS and UEFI, Debian's kernel, busybox on ext4, 64 MiB.
#       Each boot says on ttyS0 (a root shell runs there too)
#           HEARTBEAT boot=N up=SECONDS root=DEVICE kernel=VERSION
#           NETWORK INTERFACE ADDRESS        when DHCP answered
#           BOOTFAIL ...                     no root file system; then powers off
#           SHUTDOWN clean                   after the power button
#       serves / over HTTP on port 8080, and appends "boot=N seq=I t=UNIX" to
#       /var/lib/heartbeat/log each second, synced.
#
# debian  A Debian server with systemd and its own initramfs, 2 GiB, root needed: says
#           HEARTBEAT boot=N up=SECONDS root=DEVICE mark=TEXT
#       where TEXT stands in sector 1500 of the disk, before the first partition's data.
#       Its root is made by debootstrap and kept in the cache.
#
# --kernel  generic (default): drivers for physical machines too (AHCI, e1000e);
#           cloud: smaller, only virtual machines' drivers.
# --hw      sata: an initramfs with no driver but those for SATA and IDE, like that
#           of a server which only ever saw its own hardware; its fstab and its boot
#           loader call the root /dev/sdaN, and no console is on ttyS0. What its
#           initramfs loads is named in conf/modules, as in one of Debian's.
#
# mbr and tiny need no root; none needs a loop device or a mount. Unpacked kernels are kept in
# ${XDG_CACHE_HOME:-~/.cache}/leeward. OUT appears only when it is complete.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

fail() { echo "make-bootable: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -e/{/^#/p}' "$0" | cut -c3- >&2; exit 2; }
need() { # need PACKAGE COMMAND...
	local package=$1 c; shift
	for c; do command -v "$c" >/dev/null || fail "$c not found: apt-get install $package"; done
}

[ $# -ge 2 ] || usage
mode=$1 out=$2
shift 2
size='' uuid=$(cat /proc/sys/kernel/random/uuid) flavour=generic hw=any efi=yes
while [ $# -gt 0 ]; do
	case $1 in
	--size) size=${2:?}; shift ;;
	--uuid) uuid=${2:?}; shift ;;
	--kernel) flavour=${2:?}; shift ;;
	--hw) hw=${2:?}; shift ;;
	--no-efi) efi=no ;;
	*) fail "unknown option $1" ;;
	esac
	shift
done
cache=${XDG_CACHE_HOME:-$HOME/.cache}/leeward
tmp=$(mktemp -d)
img=$out.partial
unpacked=
trap 'rm -rf "$tmp" "$img" ${unpacked:+"$unpacked"}' EXIT

# put FILE SECTOR: copies FILE to a sector of the image, leaving holes.
put() { dd if="$1" of="$img" bs=1M seek=$(($2 * 512)) oflag=seek_bytes conv=notrunc,sparse status=none; }
# poke FILE OFFSET BYTE...: overwrites single bytes (hexadecimal).
poke() {
	local file=$1 at=$2; shift 2
	printf "$(printf '\\x%s' "$@")" | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
}
# le64 NUMBER: the bytes of a number, lowest first, for poke.
le64() { local i; for i in 0 8 16 24 32 40 48 56; do printf '%02x ' $((($1 >> i) & 255)); done; }

# ---- mbr -------------------------------------------------------------------------------
build_mbr() {
	need binutils as ld
	cat >"$tmp/mbr.s" <<'ASM'
	.code16
	.set	text, 0x8000		# sector 1 is read here,
	.set	count, 0x8200		# and sector 2 here
start:	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %ss
	mov	$start, %sp
	cld
	push	%dx			# the BIOS gives the drive in dl
	mov	$0x4200, %ax		# extended read
	call	disk
	mov	$greet, %si
	call	say
	mov	$text, %si
	call	say
	mov	$boot, %si
	call	say
	incl	count
	mov	count, %eax
	call	number
	pop	%dx
	push	%dx
	mov	$0x4300, %ax		# extended write, no verify
	call	disk
	mov	$done, %si
	call	say
	mov	$0x2000, %ax		# sleep type 0 and the enable bit: S5
	mov	$0x604, %dx		# PM1a control, where SeaBIOS puts it
	out	%ax, %dx
stop:	hlt
	jmp	stop

disk:	mov	$packet, %si
	int	$0x13
	jc	error
	ret
error:	mov	$broken, %si
	call	say
	jmp	stop

number:	mov	$digits_end, %si	# eax in decimal, built from its end
	mov	$10, %ecx
next:	xor	%edx, %edx
	div	%ecx
	add	$'0', %dl
	dec	%si
	mov	%dl, (%si)
	test	%eax, %eax
	jnz	next
say:	lodsb				# the string at si to COM1
	test	%al, %al
	jz	said
	mov	%al, %ah
	mov	$0x3fd, %dx
busy:	in	%dx, %al
	test	$0x20, %al
	jz	busy
	mov	%ah, %al
	mov	$0x3f8, %dx
	out	%al, %dx
	jmp	say
said:	ret

greet:	.asciz	"HEARTBEAT "
boot:	.asciz	" boot="
done:	.asciz	" write=ok\r\n"
broken:	.asciz	"DISK ERROR\r\n"
digits:	.space	10
digits_end:
	.byte	0
	.balign	4
packet:	.byte	16, 0
	.word	2, text, 0		# two sectors, to 0:text
	.quad	1			# from sector 1
	.org	510
	.byte	0x55, 0xaa
ASM
	as --32 -o "$tmp/mbr.o" "$tmp/mbr.s"
	ld -m elf_i386 -Ttext 0x7c00 -e 0x7c00 --oformat binary -o "$tmp/mbr" "$tmp/mbr.o"
	printf 'marker=%s\0' "$uuid" >"$tmp/text"
	truncate -s "${size:-1}M" "$img"
	put "$tmp/mbr" 0
	put "$tmp/text" 1
}

# ---- tiny: kernel and modules ----------------------------------------------------------
# The checksums are what ext4 and sd_mod ask the kernel's crypto layer for by name.
boot_drivers='crc32c_generic crct10dif_generic ata_piix ahci sd_mod ext4'
all_drivers='virtio_pci virtio_blk virtio_scsi nvme hv_storvsc'
helper_drivers='dm_mod md_mod raid0 raid1 raid10 raid456' # for tests that look into images with this kernel
later_drivers='button evdev af_packet e1000e virtio_net hv_netvsc hv_utils'

# kernel: sets $kver and $kdir, a directory with vmlinuz and lib/modules/$kver.
kernel() {
	local meta package
	case $flavour in
	generic) meta=linux-image-amd64 ;;
	cloud) meta=linux-image-cloud-amd64 ;;
	*) fail "--kernel $flavour: generic or cloud" ;;
	esac
	package=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$package" ] || fail "no package behind $meta: apt-get update"
	kver=${package#linux-image-}
	kdir=$cache/kernel-md-$kver
	[ ! -d "$kdir" ] || return 0
	mkdir -p "$tmp/deb" "$cache"
	unpacked=$(mktemp -d "$cache/unpack.XXXXXX")
	(cd "$tmp/deb" && apt-get download -q "$package" >log 2>&1) || fail "apt-get download $package: $(tail -n 1 "$tmp/deb/log")"
	dpkg-deb --fsys-tarfile "$tmp"/deb/*.deb | tar -x -C "$tmp/deb" ./boot ./lib/modules
	depmod -b "$tmp/deb" "$kver"
	modules "$tmp/deb" "$unpacked" $boot_drivers $all_drivers $later_drivers $helper_drivers
	cp "$tmp/deb/boot/vmlinuz-$kver" "$unpacked/vmlinuz"
	# Two builds at once: the first wins, and both leave the same thing.
	mv -T "$unpacked" "$kdir" 2>/dev/null || [ -d "$kdir" ]
}

# modules FROM TO NAME...: copies modules and what they need from one root to another. A
# name without a module is built in, or not of this flavour.
modules() {
	local from=$1/lib/modules/$kver to=$2/lib/modules/$kver name line file
	shift 2
	mkdir -p "$to"
	for name; do
		line=$(grep -E "/${name//_/[-_]}\.ko:" "$from/modules.dep" || true)
		for file in ${line/:/ }; do
			[ ! -e "$to/$file" ] || continue
			mkdir -p "$to/${file%/*}"
			objcopy --strip-debug --remove-section=.BTF "$from/$file" "$to/$file"
		done
	done
	cp "$from"/modules.{builtin,builtin.modinfo,order} "$to/"
	depmod -b "${to%/lib/modules/*}" "$kver"
	rm -f "$to"/modules.*.bin "$to"/modules.{symbols,devname}
}

# ---- tiny: the two file systems --------------------------------------------------------
initramfs() {
	local dir=$tmp/initramfs drivers=$boot_drivers
	case $hw in
	any) drivers="$drivers $all_drivers" ;;
	esac
	mkdir -p "$dir"/{bin,conf,dev,proc,sys,root}
	printf '%s\n' $drivers >"$dir/conf/modules"
	cp /bin/busybox "$dir/bin/"
	modules "$kdir" "$dir" $drivers
	{
		cat <<'SH'
#!/bin/busybox sh
/bin/busybox --install -s /bin
PATH=/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
give_up() {
	echo "BOOTFAIL: $*; block devices: $(ls /sys/class/block | tr '\n' ' ')" >/dev/ttyS0
	sleep 1
	poweroff -f
}
for d in $(cat /conf/modules); do modprobe -q "$d"; done 2>/dev/null
want=$(sed 's/.*root=\([^ ]*\).*/\1/' /proc/cmdline)
tries=60
until dev=$(findfs "$want" 2>/dev/null) && [ -b "$dev" ]; do
	tries=$((tries - 1))
	[ $tries -gt 0 ] || give_up "no root device $want"
	usleep 100000
done
mount -t ext4 -o noatime "$dev" /root || give_up "cannot mount $dev"
echo "$dev" >/dev/root-device
mount -o move /dev /root/dev
umount /proc /sys
exec switch_root /root /sbin/init
SH
	} >"$dir/init"
	chmod +x "$dir/init"
	(cd "$dir" && find . | cpio -o -H newc --quiet -R 0:0 | lz4 -l -9 -q) >"$1"
}

script() { # script FILE: standard input becomes an executable shell script
	{ echo '#!/bin/sh'; cat; } >"$1"
	chmod +x "$1"
}

rootfs() { # rootfs DIR ROOT CONSOLES
	local dir=$1 applet
	mkdir -p "$dir"/{bin,sbin,boot/grub,dev,proc,sys,run,tmp,root,etc/acpi/PWRF,var/lib/heartbeat}
	cp /bin/busybox "$dir/bin/"
	for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$dir/bin/$applet"; done
	ln -s ../bin/busybox "$dir/sbin/init"
	modules "$kdir" "$dir" $boot_drivers $all_drivers $later_drivers # as on a server: all there are
	cp "$kdir/vmlinuz" "$dir/boot/vmlinuz"
	initramfs "$dir/boot/initrd"
	echo tiny >"$dir/etc/hostname"
	echo "$later_drivers" >"$dir/etc/drivers"
	echo "$2 / ext4 defaults 0 1" >"$dir/etc/fstab"
	echo 'root::0:0:root:/root:/bin/sh' >"$dir/etc/passwd"
	echo 'root:x:0:' >"$dir/etc/group"
	cat >"$dir/boot/grub/grub.cfg" <<CFG
serial --unit=0 --speed=115200
terminal_output serial
linux /boot/vmlinuz root=$2 $3 quiet nokaslr mitigations=off no_timer_check random.trust_cpu=on panic=5
initrd /boot/initrd
boot
CFG
	cat >"$dir/etc/inittab" <<'TAB'
::sysinit:/etc/start
::respawn:/etc/beat
ttyS0::respawn:/bin/getty -L -n -l /bin/sh ttyS0 115200 vt100
::shutdown:/etc/stop
TAB
	script "$dir/etc/start" <<'SH'
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /run
hostname -F /etc/hostname
cd /var/lib/heartbeat
n=$(($(cat boots 2>/dev/null) + 1))
echo $n >boots
echo "tiny boot=$n" >index.html
sync
read -r up rest </proc/uptime
echo "HEARTBEAT boot=$n up=$up root=$(cat /dev/root-device) kernel=$(uname -r)" >/dev/ttyS0
for d in $(cat /etc/drivers); do modprobe -q $d; done 2>/dev/null
acpid -c /etc/acpi -l /run/acpid.log
ip link set lo up
httpd -p 8080 -h /var/lib/heartbeat
for i in /sys/class/net/*; do
	i=${i##*/}
	[ $i != lo ] || continue
	ip link set $i up
	udhcpc -q -n -t 8 -T 1 -i $i -s /etc/lease >/dev/null 2>&1 &
done
SH
	script "$dir/etc/lease" <<'SH'
case $1 in bound | renew) ;; *) exit 0 ;; esac
ip addr flush dev $interface
ip addr add $ip/${mask:-24} dev $interface
[ -z "$router" ] || ip route add default via $router dev $interface
echo "NETWORK $interface $ip" >/dev/ttyS0
SH
	script "$dir/etc/beat" <<'SH'
cd /var/lib/heartbeat
n=$(cat boots)
i=0
while :; do
	i=$((i + 1))
	echo "boot=$n seq=$i t=$(date +%s)" >>log
	sync
	sleep 1
done
SH
	script "$dir/etc/stop" <<'SH'
sync
echo 'SHUTDOWN clean' >/dev/ttyS0
umount -a -r
SH
	script "$dir/etc/acpi/PWRF/00000080" <<<poweroff
}

# ---- debian ----------------------------------------------------------------------------
debian_tree() { # sets $tree, a Debian as debootstrap makes it
	local mirror
	tree=$cache/debian-server-1
	[ ! -d "$tree" ] || return 0
	[ "$(id -u)" = 0 ] || fail "debian: run as root"
	need debootstrap debootstrap
	mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -1)
	rm -rf "$tree.new"
	mkdir -p "$cache"
	debootstrap --variant=minbase --include=systemd-sysv,udev,dbus,kmod,iproute2,initramfs-tools,lvm2,linux-image-amd64 \
		bookworm "$tree.new" "${mirror:-http://deb.debian.org/debian}" >"$tree.log" 2>&1 || fail "debootstrap: $(tail -n 3 "$tree.log")"
	rm -rf "$tree.new"/var/cache/apt/archives/*.deb "$tree.new"/var/lib/apt/lists/*
	mv -T "$tree.new" "$tree"
}

debian_root() { # debian_root DIR ROOT: a copy of it as a machine
	local dir=$1 kver unit=etc/systemd/system/heartbeat.service
	cp -a "$tree" "$dir"
	kver=$(basename "$(echo "$dir"/boot/vmlinuz-*)")
	kver=${kver#vmlinuz-}
	[ -s "$dir/boot/initrd.img-$kver" ] || fail "debootstrap left no initramfs for $kver: remove $tree"
	echo debian >"$dir/etc/hostname"
	echo "$2 / ext4 errors=remount-ro 0 1" >"$dir/etc/fstab"
	mkdir -p "$dir/boot/grub" "$dir/var/lib/heartbeat"
	cat >"$dir/boot/grub/grub.cfg" <<CFG
serial --unit=0 --speed=115200
terminal_output serial
linux /boot/vmlinuz-$kver root=$2 ro console=tty0 console=ttyS0,115200 quiet nokaslr mitigations=off no_timer_check random.trust_cpu=on
initrd /boot/initrd.img-$kver
boot
CFG
	script "$dir/usr/local/sbin/heartbeat" <<'SH'
cd /var/lib/heartbeat || exit 1
n=$(($(cat boots 2>/dev/null) + 1))
echo $n >boots
sync
root=$(findmnt -no SOURCE /)
disk=/dev/$(lsblk -sno NAME,TYPE -r "$root" | awk '$2 == "disk" { print $1; exit }')
mark=$(dd if="$disk" bs=512 skip=1500 count=1 2>/dev/null | tr -d '\0' | head -n 1)
read -r up rest </proc/uptime
echo "HEARTBEAT boot=$n up=$up root=$root mark=$mark" >/dev/ttyS0
while :; do
	i=$((i + 1))
	echo "boot=$n seq=$i t=$(date +%s)" >>log
	sync
	sleep 1
done
SH
	cat >"$dir/$unit" <<'UNIT'
[Unit]
Description=Says that this machine lives
[Service]
ExecStart=/usr/local/sbin/heartbeat
[Install]
WantedBy=multi-user.target
UNIT
	mkdir -p "$dir/etc/systemd/system/multi-user.target.wants"
	ln -s "/$unit" "$dir/etc/systemd/system/multi-user.target.wants/heartbeat.service"
	: >"$dir/etc/machine-id"
}

build_debian() {
	need fdisk sfdisk; need e2fsprogs mke2fs; need mtools mmd mcopy; need dosfstools mkfs.vfat
	need grub-common grub-mkimage
	debian_tree
	debian_root "$tmp/root" "UUID=$uuid"
	disk "$tmp/root" $((${size:-2048} * 2048))
}

# ---- tiny: partitions and boot loaders -------------------------------------------------
grub_image() { # grub_image FORMAT OUT MODULE...: a GRUB that finds the root by its UUID
	printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$uuid" >"$tmp/grub-early"
	grub-mkimage -O "$1" -d "/usr/lib/grub/$1" -c "$tmp/grub-early" -p /boot/grub -o "$2" \
		"${@:3}" part_gpt ext2 search search_fs_uuid normal configfile linux serial terminal
}

bios_loader() { # bios_loader SECTOR: what grub-bios-setup does, which would want a device
	[ -e /usr/lib/grub/i386-pc/boot.img ] || fail "no GRUB for BIOS: apt-get install grub-pc-bin"
	grub_image i386-pc "$tmp/core" biosdisk
	[ "$(stat -c %s "$tmp/core")" -le 1048576 ] || fail "GRUB does not fit its partition"
	head -c 440 /usr/lib/grub/i386-pc/boot.img >"$tmp/boot"
	poke "$tmp/boot" $((0x5c)) $(le64 "$1")         # where the core's first sector is
	poke "$tmp/boot" $((0x66)) 90 90                # trust the BIOS about the drive
	poke "$tmp/core" $((0x1f4)) $(le64 $(($1 + 1))) # where its rest is
	put "$tmp/core" "$1"
	dd if="$tmp/boot" of="$img" conv=notrunc status=none # not put: sparse would keep old bytes
}

efi_loader() { # efi_loader SECTOR SECTORS: as removable media have it, so no NVRAM is needed
	[ -d /usr/lib/grub/x86_64-efi ] || fail "no GRUB for UEFI: apt-get install grub-efi-amd64-bin"
	grub_image x86_64-efi "$tmp/bootx64.efi" fat
	truncate -s $(($2 * 512)) "$tmp/esp"
	mkfs.vfat -n ESP "$tmp/esp" >/dev/null
	mmd -i "$tmp/esp" ::/EFI ::/EFI/BOOT
	mcopy -i "$tmp/esp" "$tmp/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
	put "$tmp/esp" "$1"
}

build_tiny() {
	need fdisk sfdisk; need e2fsprogs mke2fs; need mtools mmd mcopy; need dosfstools mkfs.vfat
	need grub-common grub-mkimage; need busybox-static busybox; need cpio cpio; need kmod depmod
	need lz4 lz4; need binutils objcopy
	[ "${size:-64}" -ge 48 ] || fail "--size $size: tiny needs 48 MiB or more"
	kernel
	case $hw in
	any) rootfs "$tmp/root" "UUID=$uuid" 'console=tty0 console=ttyS0,115200' ;;
	sata) rootfs "$tmp/root" "/dev/sda$([ $efi = yes ] && echo 3 || echo 2)" '' ;;
	*) fail "--hw $hw: any or sata" ;;
	esac
	disk "$tmp/root" $((${size:-64} * 2048))
}

disk() { # disk TREE SECTORS: the image, with a root file system that has what is in a folder
	local total=$2 bios=2048 esp=4096 esp_len=8192 root
	root=$((esp + esp_len))
	[ $efi = yes ] || root=$esp
	truncate -s $((total * 512)) "$img"
	{
		echo 'label: gpt'
		echo "start=$bios, size=2048, type=21686148-6449-6E6F-744E-656564454649"
		[ $efi = no ] || echo "start=$esp, size=$esp_len, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
		echo "start=$root, size=$((total - root - 2048)), type=0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	} | sfdisk -q "$img"
	mke2fs -q -t ext4 -U "$uuid" -L root -m 0 -E root_owner=0:0 -d "$1" -F "$tmp/ext4" $(((total - root - 2048) / 2))k >/dev/null
	put "$tmp/ext4" $root
	[ $efi = no ] || efi_loader $esp $esp_len
	bios_loader $bios
}

rm -f "$img"
case $mode in
mbr) build_mbr ;;
tiny) build_tiny ;;
debian) build_debian ;;
*) usage ;;
esac
mv "$img" "$out"
echo "$out: $(($(stat -c %s "$out") >> 20)) MiB, $(du -k "$out" | cut -f1) KiB allocated, $uuid" >&2
