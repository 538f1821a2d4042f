// Package disk writes a disk of a recovery point somewhere as a whole: to a file (raw,
// fixed VHD, qcow2, VMDK) or onto a block device.
//
// What is written is verified. The disk itself vouches for what it hands out
// (target.Restorer); what another program made of that (qcow2, VMDK), and anything if
// asked, is read back and compared.
//
// A file NAME is written in a directory NAME.partial beside it and moved into place
// when it is complete and on stable storage: half a file never looks like a whole one.
// What a run that was killed left there, the next run to NAME replaces. Files are
// sparse where the disk holds zeros.
//
// A block device is written only if nobody uses it, it is large enough, and it is
// blank or the caller insists. Every byte of the disk is written, zeros too; what the
// device has beyond the end of the disk is left as it is.
//
// The package never starts machines and never decides which point to write.
package disk
