# Leeward hook for MariaDB (10.4 and later) and, with FLUSH TABLES WITH READ LOCK,
# for MySQL and older servers.
#
# InnoDB needs nothing for a cut of all disks at one instant. Tables of other engines
# (Aria, MyISAM, system tables), the binary log and statements that change table
# definitions do: BACKUP STAGE BLOCK_COMMIT flushes them and holds commits until
# BACKUP STAGE END. The lock lives in a session, so pre leaves a client behind that
# keeps it; it gives up by itself some time after LEEWARD_HOLD, if nobody comes.
#
# Settings: MYSQL_HOST, MYSQL_UNIX_PORT, MYSQL_TCP_PORT, and in MARIADB_DEFAULTS the
# path of an option file with user and password.
set -u
client=$(command -v mariadb || command -v mysql) || { echo "no mariadb or mysql client is installed"; exit 1; }
ask() {
	# Given as options, because the client's own files win over the environment.
	"$client" ${MARIADB_DEFAULTS:+--defaults-extra-file="$MARIADB_DEFAULTS"} ${MYSQL_HOST:+--host="$MYSQL_HOST"} \
		${MYSQL_TCP_PORT:+--port="$MYSQL_TCP_PORT"} ${MYSQL_UNIX_PORT:+--socket="$MYSQL_UNIX_PORT"} \
		--batch --skip-column-names --unbuffered --connect-timeout=10 "$@"
}
fifo=$LEEWARD_DIR/mariadb.in out=$LEEWARD_DIR/mariadb.out done=$LEEWARD_DIR/mariadb.done

# wait_for_post waits longer than the keeper does, which calls post when its hold time
# is over: the lock must not be gone before that.
wait_for_post() { timeout $((LEEWARD_HOLD * 2 + 10)) cat "$fifo"; }

# hold keeps a session with the lock until post closes the pipe or the time is over.
hold() {
	{
		case "$1" in
		stages)
			echo "BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT; SELECT 'held';"
			wait_for_post && said=released || said=expired
			echo "BACKUP STAGE END; SELECT '$said';" ;;
		*)
			echo "FLUSH TABLES WITH READ LOCK; SELECT 'held';"
			wait_for_post && said=released || said=expired
			echo "UNLOCK TABLES; SELECT '$said';" ;;
		esac
	} | ask >"$out" 2>&1
	echo over >"$done"
}

case "${1-}" in
pre)
	version=$(ask -e "SELECT VERSION()") || exit 1
	how=lock
	case "$version" in
	10.[4-9].*MariaDB* | 10.1[0-9].*MariaDB* | 1[1-9].*MariaDB*) how=stages ;;
	esac
	mkfifo "$fifo" || exit 1
	hold "$how" </dev/null >/dev/null 2>&1 &
	while ! grep -q '^held' "$out" 2>/dev/null; do
		[ ! -e "$done" ] && ! grep -q '^ERROR' "$out" 2>/dev/null || { cat "$out"; exit 1; }
		sleep 0.05
	done
	;;
post)
	[ -p "$fifo" ] || exit 0
	# Opening waits for the reader; if there is none any more the session is over.
	timeout 2 sh -c ': >"$1"' sh "$fifo" || true
	while [ ! -e "$done" ]; do sleep 0.05; done
	grep -q '^held' "$out" || exit 0
	grep -q '^released' "$out" || { echo "the session with the lock ended early:"; cat "$out"; exit 1; }
	;;
*) echo "usage: mariadb pre|post" >&2; exit 2 ;;
esac
