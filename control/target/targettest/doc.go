// Package targettest holds what the tests of targets share: disks in memory and from
// image files, disks that fail on demand, bootable images, and the conformance kits
// that every target.Disk and every target.Target passes.
//
// It is for tests only and never touches anything but temporary directories, the
// image cache in the user's cache directory, and machines that a test started.
package targettest
