# Leeward hook for PostgreSQL.
#
# All disks are cut at one instant, so what PostgreSQL needs is what it needs after
# a power failure, and that it always keeps. What a checkpoint adds: every
# transaction that was committed before is on disk, also with synchronous_commit
# off, and recovery after a restore has next to nothing to replay. Nobody waits
# between pre and post. pg_backup_start() would add nothing: its label is for copies
# that are not of one instant.
#
# Settings are libpq's: PGHOST, PGPORT, PGUSER, PGPASSFILE, PGDATABASE.
set -u
export PGDATABASE="${PGDATABASE:-postgres}" PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-10}" PGAPPNAME=leeward
ask() { psql -X -q -A -t -v ON_ERROR_STOP=1 -c "$1"; }
case "${1-}" in
pre)
	command -v psql >/dev/null || { echo "psql is not installed"; exit 1; }
	if [ "$(ask "select pg_is_in_recovery()")" = t ]; then
		# A standby cannot write a checkpoint, only a restart point: CHECKPOINT does that.
		ask checkpoint || exit 1
		exit 0
	fi
	for s in fsync full_page_writes; do
		v=$(ask "show $s") || exit 1
		[ "$v" = on ] || { echo "$s is $v: such a database does not survive a power failure, and no copy of its disks does"; exit 1; }
	done
	ask checkpoint || exit 1
	;;
post) ;;
*) echo "usage: postgresql pre|post" >&2; exit 2 ;;
esac
