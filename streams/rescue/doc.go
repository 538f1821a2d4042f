// Package rescue says how a master target writes disks that are in another machine, one
// that was booted from a live system and runs `leeward-agent rescue`. It owns the messages
// and their limits; it never opens a disk or a connection.
//
// # Subjects
//
//	leeward.rescue.<name>.order    the master target says what to do; only control publishes here
//	leeward.rescue.<name>.report   the rescue answers; only who was enrolled as name publishes here
//
// Both are plain NATS. An order that is not answered is sent again with the same id, so
// every order may be done twice: what it writes is the same. A rescue does Sync only when
// all that it was told before is done.
//
// # Format
//
// Numbers are big endian. Offsets and lengths of disks are bytes, blocks have 4096.
//
//	order   "LWR1"  kind u8  id u64  session [16]  owner [16]  n u8  disk [n]  body
//	report  "LWR1"  kind u8  status u8  id u64  session [16]  body
//
// session is the rescue's: a rescue that was started anew has another one and refuses
// orders for the old with status Anew, because what it was told and has not synced may be
// lost. owner is the master target's: the last who said Hello has the disks, orders of
// others are refused with status Taken. Where status is not OK, the body of a report is a
// text for people.
//
//	Hello     order: empty, with the zero session    report: Host as JSON
//	Compare   order: size u64  start u64  count u32  group u32  tags [8]…
//	          report: for each group whose tag is another:  index u32  sums [16]…
//	Write     order: n u32  (offset u64  length u32)…  zstd data              report: empty
//	Zero      order: n u32  (offset u64  length u64)…                         report: empty
//	Sync      order: empty                                                    report: empty
//	Progress  order: done u64  total u64  text      nothing is reported
//	Done      order: text                                                     report: empty
//
// A tag is the first 8 bytes of SHA-256 over the sums of a group of blocks; the last group
// may be shorter. So of blocks that are the same only a byte or less each crosses. size is
// that of the protected disk: what a larger device holds behind it counts as zeros.
//
// # Versions
//
// The 1 in "LWR1" is the version. Both sides refuse another.
package rescue
