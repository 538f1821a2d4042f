#!/usr/bin/env bash
# demo.sh - Leeward's main job, end to end, on this machine.
#
#   make demo                        a PostgreSQL under load is protected, killed and brought up again
#   make demo DISK=/path/disk.img    the same pipe on an image of yours (it is only read)
#
# Everything happens below one temporary directory and on loopback. Exit 0 only if
# every check held; the table at the end is what was measured in this run.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/demo/lib.sh

main() {
	need_tools
	start_appliance
	if [ -n "${DISK:-}" ]; then own_disk; else database; fi
	[ -n "${DISK:-}" ] || guest
	check "the vault is whole (leeward vault check --read-data)" leeward vault check --read-data
	summary
}

# ---- a database under load ------------------------------------------------------
database() {
	say "A server with a 1 GiB disk: ext4, PostgreSQL, pgbench"
	make_disk
	start_postgres "$MNT/pg" "$PORT_SOURCE"
	PG createdb bench
	PG pgbench -q -i -s "$SCALE" bench >"$T/pgbench-init.log" 2>&1
	PG psql -qc 'create table ledger(id int primary key, at timestamptz default clock_timestamp())' bench

	say "Protect it: first copy, then a recovery point every second"
	start_agent shop "$LOOP=db" --interval 1s
	wait_points shop 1 120
	measure "first point after" "$(since "$AGENT_BEGAN") s (disk of 1024 MiB)"

	say "Load: pgbench and a ledger whose commits are noted outside the disk"
	PG pgbench -n -c 4 -j 2 -T 600 bench >"$T/pgbench.log" 2>&1 &
	own $!
	ledger &
	own $!
	for _ in 1 2 3 4 5 6; do
		sleep 3
		leeward point ls shop | tail -1
	done

	say "The server dies in the middle of a write"
	crash_source
	local last point=latest
	leeward point ls shop -o json >"$T/points.json"
	last=$(jq -r '.items[-1].time' "$T/points.json")
	last=$(date -d "$last" +%s.%N)
	measure "RPO at the crash" "$(minus "$KILLED" "$last") s (the crash to the last listed point's cut)"
	measure "points listed" "$(points shop)"
	measure "freeze, median / longest" "$(jq -r '[.items[].frozen_seconds*1000]|sort|"\(.[length/2|floor]|round) / \(.[-1]|round) ms"' "$T/points.json")"

	say "Bring PostgreSQL up from the latest point"
	# BREAK=old-point restores the first point instead, to see that the checks can fail.
	[ "${BREAK:-}" != old-point ] || point=$(jq -r '.items[0].id' "$T/points.json")
	local began
	began=$(date +%s.%N)
	leeward vault restore --machine shop --disk db --point "$point" --to "$T/restored.img"
	RESTORED=$(losetup -f --show "$T/restored.img")
	mkdir -p "$T/r"
	mount "$RESTORED" "$T/r"
	start_postgres "$T/r/pg" "$PORT_RESTORED"
	PGPORT=$PORT_RESTORED PG psql -Atqc 'select 1' bench >/dev/null
	measure "RTO, database" "$(since "$began") s (restore, journal replay, WAL replay, first query)"
	check_database "$last"
	stop_postgres "$T/r/pg"
	umount "$T/r"
	losetup -d "$RESTORED"
	RESTORED=
}

# check_database POINT_TIME: what must be true of a database at a recovery point.
check_database() {
	local sums lost
	sums=$(PGPORT=$PORT_RESTORED PG psql -Atqc "
		select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
		   and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
		   and (select sum(tbalance) from pgbench_tellers)  = (select sum(delta) from pgbench_history)" bench)
	check "row sums agree (accounts = branches = tellers = history)" [ "$sums" = t ]
	PGPORT=$PORT_RESTORED PG psql -Atqc 'select id from ledger order by id' bench >"$T/have"
	awk -v t="$1" '$2 <= t {print $1}' "$T/committed" | sort >"$T/want"
	lost=$(sort "$T/have" | comm -13 - "$T/want" | wc -l)
	check "no transaction committed before the point is missing ($(wc -l <"$T/want") checked, $lost missing)" [ "$lost" = 0 ]
	check "the ledger was written at all" [ "$(wc -l <"$T/want")" -gt 20 ]
	PGPORT=$PORT_RESTORED PG psql -qc 'create extension amcheck' bench
	check "every table and index is whole (pg_amcheck)" pg_amcheck_restored
	measure "rows in pgbench_history" "$(PGPORT=$PORT_RESTORED PG psql -Atqc 'select count(*) from pgbench_history' bench)"
}

pg_amcheck_restored() { PGPORT=$PORT_RESTORED PG pg_amcheck --heapallindexed bench; }

# ---- a machine that boots -------------------------------------------------------
guest() {
	say "A small server boots from the vault in QEMU"
	deploy/images/make-bootable.sh tiny "$T/tiny.img" >"$T/tiny.log" 2>&1 || die "the bootable disk was not made" "$T/tiny.log"
	start_agent tiny "$T/tiny.img=vda" --interval 1s
	wait_points tiny 1 60
	stop_agent
	local before dir how="with KVM"
	before=$(sha256sum <"$T/tiny.img")
	leeward failover test tiny --point latest --target qemu --serial HEARTBEAT --port 8080 --http / --timeout 180s -o json >"$T/job.json" || true
	dir=$(jq -r .directory "$T/job.json")
	check "the guest is alive: serial line and HTTP answer" jq -e .result.alive "$T/job.json"
	grep -qs "guest is emulated" "$dir/run/keeper.log" && how="emulated, without KVM"
	measure "RTO, machine" "$(jq -r '.result.rto_seconds*10|round/10' "$T/job.json") s (request to HTTP answer, straight from the vault, $how)"
	measure "bytes the guest read" "$(jq -r '.result.guest_read_bytes/1048576|round' "$T/job.json") MiB of $(($(stat -c %s "$T/tiny.img") >> 20)) MiB"
	printf '   its first words: %s\n' "$(grep -a -m1 HEARTBEAT "$(jq -r .result.serial_log "$T/job.json")" | tr -d '\r' | sed 's/.*HEARTBEAT/HEARTBEAT/')"
	check "a picture of its screen was kept" test -s "$(jq -r .result.screen "$T/job.json")"
	leeward failover cleanup "$(jq -r .id "$T/job.json")"
	check "cleanup removed every trace" [ ! -e "$dir" ]
	check "the protected disk was not touched" [ "$before" = "$(sha256sum <"$T/tiny.img")" ]
}

# ---- the user's own image -------------------------------------------------------
own_disk() {
	say "Your disk: $DISK"
	local want began
	start_agent own "$DISK=disk" --interval 2s
	wait_points own 1 3600
	measure "first point after" "$(since "$AGENT_BEGAN") s ($(($(blockdev --getsize64 "$DISK" 2>/dev/null || stat -Lc %s "$DISK") >> 20)) MiB)"
	stop_agent
	want=$(sha256sum <"$DISK")
	began=$(date +%s.%N)
	leeward vault restore --machine own --disk disk --point latest --to "$T/restored.img"
	measure "restore" "$(since "$began") s"
	check "the restored disk equals yours (SHA-256; fails if yours was written to meanwhile)" [ "$want" = "$(sha256sum <"$T/restored.img")" ]
	say "Boot it in QEMU (serial output or a picture, 60 s at most; a disk without a system shows neither)"
	leeward failover test own --point latest --target qemu --serial . --timeout 60s -o json >"$T/job.json" || true
	jq -r '.result | "   it spoke: \(.alive)", (.evidence[]? | "   " + .)' "$T/job.json"
	leeward failover cleanup "$(jq -r .id "$T/job.json")"
}

main
