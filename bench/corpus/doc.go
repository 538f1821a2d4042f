// Package corpus builds the disks that the benches copy: a raw image that looks
// like a disk in use, and the same disk a day later.
//
// # What is on the disk, as shares of its size
//
//	42 %  files of this machine, from /usr/share and /usr/lib, in an order that
//	      depends on the seed only: programs, libraries, documentation, data
//	 8 %  pages of a table: rows with numbers, keys and text, as a database has them
//	 8 %  incompressible data, like media or archives
//	 6 %  what was deleted: more such files, whose blocks are free and not zero
//	rest  zeros
//
// As root the image is a real ext4 filesystem, made by mkfs and filled through a
// mount, so metadata and layout are those of a disk (Kind "ext4"). Without root
// the same contents lie one after the other with gaps between them, without a
// filesystem (Kind "synthetic"). Where the machine has too few files the share is
// filled up with table pages, and Info says how much came from where.
//
// # What changes in a day
//
// A given share of all 4 KiB blocks. Seven of ten lie in clusters of 16 to 512 blocks
// (new and rewritten files), most of which begin on blocks in use, some on blocks that
// were zero. The others are single blocks, scattered over a few hot stretches that
// make up 6 % of the blocks in use (tables and indexes that are written at random). A
// changed block is an edit of a few hundred bytes, contents that lay elsewhere, or
// incompressible data. So a tool that stores chunks of 1 to 2 MiB has to store about a
// tenth of the disk again for 1 %, which is what a day of a real database gave.
//
// The same seed, size and machine give the same contents; an ext4 image still
// differs in its timestamps, so images are compared by the digests of one build.
// This package measures nothing.
package corpus
