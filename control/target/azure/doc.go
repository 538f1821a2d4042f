// Package azure brings machines up in Azure: each disk of a recovery point becomes a
// managed disk, a network interface goes into a network, and a virtual machine gets both.
//
// # What is made
//
// Everything of a run lies in one resource group that must exist, bears the tag
// leeward-run, and has a name made of the machine's and the run's:
//
//	lw-MACHINE-RUN-disk0…      managed disks
//	lw-MACHINE-RUN-net, -nsg   a test's own network, without peering, way in or way out
//	lw-MACHINE-RUN-nic         without a public address
//	lw-MACHINE-RUN             the virtual machine
//
// A machine that is failed over for real goes into the subnet that Place names, which is
// never changed. Stop deletes all of a run, in the reverse order; what is gone already is
// no error. Names are known before anything is made, so what a process had just begun
// when it was killed is found too. Leftovers lists by the tag what nobody knows of any
// more.
//
// # How a disk gets there
//
// With direct upload, the default, a disk is made empty, opened for one writer by a
// signature that ends, filled, and closed. With import the same bytes go into a page blob
// of a storage account, of which Azure makes the disk. Either way only blocks that are not
// zero are sent, each request with a CRC64 that the service checks, and a fixed VHD's
// footer. What was sent has the digest that the point promises, or the disk is given up.
// Afterwards the service is asked which pages it holds: they must be those that were
// sent. That list also says what an upload that was killed need not send again.
//
// # What survives
//
// The run's directory holds azure.json: what is made, the operation that goes on with the
// token to resume it, and what is done; written before the next step. While a disk is
// filled, its signature lies beside it in a file only the owner can read. A machine in
// Azure outlives the process that made it. Start in the same directory goes on where the
// run stopped; Adopt takes over a machine that is up, or removes one that is not.
//
//	azure.json     the run
//	disk0.sas      while the first disk is filled
//	serial.log     what the machine said, screen.png or .bmp what it showed
//
// # The way home
//
// A machine that is to come home is deallocated (Off). Then its managed disks can be opened for
// reading (Disks), by signatures that are kept nowhere: a process that comes after one that
// died takes them back and asks for others. On closes the disks and starts the machine again.
//
// The package never touches a resource that a run did not make, never changes a network
// that was there, never logs or keeps a secret but those signatures, and never runs a
// test where it could reach anything. It has been run against Azurite and Microsoft's
// fakes of its API only, never against Azure itself.
package azure
