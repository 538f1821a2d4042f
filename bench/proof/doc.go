// Package proof takes recovery points of a filesystem under load and proves that
// each of them is, to the last byte, the disk as it was while it was frozen.
//
// An appliance and an agent run in this process; the filesystem lies on a loop
// device. At each cut, while the filesystem is frozen, the whole device is read past
// the page cache and its SHA-256 is kept under the point's id. In the end every
// point that is listed is restored and compared.
//
// That the comparison can fail is shown by sabotage: at one cut, a block is changed
// behind the device's back (in the file under the loop device), which is exactly
// what a change would look like that the tracker has missed. Every point from there
// on must then be found unequal.
package proof
