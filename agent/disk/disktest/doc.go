// Package disktest makes real disks for tests: loop devices over temporary files,
// with partitions and mounted filesystems, and takes them away again.
//
// It never touches a device that it did not make.
package disktest
