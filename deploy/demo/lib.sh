# Helpers of demo.sh: start and stop what the demo needs, check, measure, clean up.

ROOT=$PWD
T=$(mktemp -d "${TMPDIR:-/tmp}/leeward-demo.XXXXXX")
SCALE=${SCALE:-8}
LOOP= RESTORED= MNT=$T/mnt AGENT= APPLIANCE= OWNED=() CHECKS=0 FAILED=0 TABLE=()
PORT=$((20000 + RANDOM % 20000)) PORT_SOURCE=$((PORT + 1)) PORT_RESTORED=$((PORT + 2))
PGBIN=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
START=$(date +%s.%N)
chmod 755 "$T"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN{printf "%.1f", b-a}'; }
minus() { awk -v a="$1" -v b="$2" 'BEGIN{printf "%.2f", a-b}'; }
measure() { TABLE+=("$1|$2"); printf '   %-28s %s\n' "$1" "$2"; }
own() { OWNED+=("$1"); }

# check TEXT COMMAND...: the demo fails at the end if COMMAND does.
check() {
	local text=$1
	shift
	CHECKS=$((CHECKS + 1))
	if "$@" >"$T/check.log" 2>&1; then
		printf '   ok    %s\n' "$text"
	else
		printf '   FAIL  %s\n' "$text"
		tail -5 "$T/check.log"
		FAILED=$((FAILED + 1))
	fi
}

leeward() { "$ROOT/bin/leeward" "$@"; }

need_tools() {
	[ "$(id -u)" = 0 ] || { echo "the demo mounts filesystems and traces a block device: run it as root (README says what works without)" >&2; exit 1; }
	local t
	for t in losetup mkfs.ext4 qemu-system-x86_64 jq; do
		command -v "$t" >/dev/null || { echo "$t is missing: run deploy/ci/need.sh demo" >&2; exit 1; }
	done
	[ -n "$PGBIN" ] || { echo "PostgreSQL is missing: run deploy/ci/need.sh demo" >&2; exit 1; }
}

start_appliance() {
	say "The appliance: NATS, process server and control in one process"
	export LEEWARD_DIR=$T/appliance
	"$ROOT/bin/leeward" up --dir "$LEEWARD_DIR" --listen "127.0.0.1:$PORT" >"$T/appliance.log" 2>&1 &
	APPLIANCE=$!
	until_ok 60 leeward status || die "the appliance did not start" "$T/appliance.log"
	leeward status
}

# until_ok SECONDS COMMAND...
until_ok() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}

die() {
	echo "demo: $1" >&2
	[ -z "${2:-}" ] || tail -20 "$2" >&2
	exit 1
}

make_disk() {
	truncate -s 1G "$T/disk.img"
	LOOP=$(losetup -f --show "$T/disk.img")
	mkfs.ext4 -q "$LOOP"
	mkdir -p "$MNT"
	mount "$LOOP" "$MNT"
	mkdir "$MNT/pg"
	chown postgres "$MNT/pg"
	chmod 755 "$MNT"
}

PG() { (cd / && runuser -u postgres -- env PGPORT="${PGPORT:-$PORT_SOURCE}" PGHOST="$T/sock" "$PGBIN/$1" "${@:2}"); }

# start_postgres DIR PORT
start_postgres() {
	mkdir -p "$T/sock"
	chown postgres "$T/sock"
	[ -s "$1/PG_VERSION" ] || PG initdb -A trust -D "$1" --wal-segsize=1 >"$T/initdb.log"
	PGPORT=$2 PG pg_ctl -D "$1" -w -l "$T/sock/log-$2" -o "-c listen_addresses='' -c unix_socket_directories=$T/sock -c max_wal_size=64MB" start >"$T/pg-$2.log" 2>&1 || die "PostgreSQL did not start" "$T/sock/log-$2"
}

stop_postgres() { PG pg_ctl -D "$1" -m fast stop >/dev/null 2>&1 || true; }

# ledger commits one row after the other over one connection and notes, outside the
# disk, when it knew each commit to be done.
ledger() {
	trap - EXIT
	local i=0 got
	coproc SQL { PG psql -Atq bench 2>/dev/null; }
	while :; do
		i=$((i + 1))
		echo "insert into ledger(id) values ($i) returning id;" >&"${SQL[1]}" || break
		read -r got <&"${SQL[0]}" || break
		echo "$got $(date +%s.%N)" >>"$T/committed"
	done
}

# start_agent MACHINE DISK FLAGS...
start_agent() {
	AGENT_BEGAN=$(date +%s.%N)
	local m=$1 d=$2
	shift 2
	"$ROOT/bin/leeward-agent" run --context "$LEEWARD_DIR/contexts/agent.json" --machine "$m" --disk "$d" --state-dir "$T/agent" "$@" 2> >(tee "$T/agent-$m.log" | progress_lines) &
	AGENT=$!
}

# progress_lines shows a person what the agent's log says about copying.
progress_lines() {
	local line
	while read -r line; do
		case $line in *'"first copy"'* | *'"compare"'* | *'"disk compared'* | *'"no recovery point"'*)
			jq -r '"   agent: \(.msg)" + (if .percent then " \(.percent) % of \(.of/1048576|floor) MiB" elif .sent then ": \(.sent/1048576|floor) MiB sent in \(.seconds*10|round/10) s" else " \(.error // "")" end)' <<<"$line" 2>/dev/null || true ;;
		esac
	done
}

stop_agent() {
	kill "$AGENT" 2>/dev/null || true
	wait "$AGENT" 2>/dev/null || true
	AGENT=
}

points() { leeward point ls "$1" -o json | jq '.items|length'; }

# wait_points MACHINE COUNT SECONDS
wait_points() {
	local end=$((SECONDS + $3))
	until [ "$(points "$1" 2>/dev/null || echo 0)" -ge "$2" ]; do
		kill -0 "$AGENT" 2>/dev/null || die "the agent ended" "$T/agent-$1.log"
		[ $SECONDS -lt $end ] || die "no recovery point of $1 within $3 s" "$T/agent-$1.log"
		sleep 0.2
	done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# crash_source ends everything on the protected server without a goodbye.
crash_source() {
	local pids=("$AGENT" $(pgrep -P "$(head -1 "$MNT/pg/postmaster.pid")" || true) "$(head -1 "$MNT/pg/postmaster.pid")")
	KILLED=$(date +%s.%N)
	kill -9 "${pids[@]}" 2>/dev/null || true
	wait "$AGENT" 2>/dev/null || true
	AGENT=
	local p
	# One that still ends, because it waits for its disk, keeps a PostgreSQL of the copy from
	# starting: it finds the same process id in the copy's postmaster.pid.
	for p in "${pids[@]}"; do until_ok 30 gone "$p" || die "process $p does not end"; done
	for p in "${OWNED[@]}"; do
		kill "$p" 2>/dev/null || true
		wait "$p" 2>/dev/null || true
	done
	OWNED=()
	umount -l "$MNT"
	losetup -d "$LOOP" || true
	LOOP=
}

cleanup() {
	local status=$? p
	set +e
	trap - EXIT INT TERM
	for p in "${OWNED[@]}" $AGENT; do kill "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
	for p in "$MNT/pg" "$T/r/pg"; do [ ! -s "$p/postmaster.pid" ] || stop_postgres "$p"; done
	[ -z "$APPLIANCE" ] || { kill "$APPLIANCE" 2>/dev/null; wait "$APPLIANCE" 2>/dev/null; }
	for p in "$MNT" "$T/r"; do ! mountpoint -q "$p" || umount -l "$p"; done
	for p in $LOOP $RESTORED; do losetup -d "$p" 2>/dev/null; done
	if [ -n "${KEEP:-}" ]; then echo "kept: $T"; else rm -rf "$T"; fi
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

summary() {
	say "Measured in this run ($(since "$START") s in all)"
	local row
	for row in "${TABLE[@]}"; do printf '   %-28s %s\n' "${row%%|*}" "${row#*|}"; done
	echo
	if [ "$FAILED" -gt 0 ]; then
		echo "   $FAILED of $CHECKS checks FAILED"
		exit 1
	fi
	echo "   all $CHECKS checks held"
}
