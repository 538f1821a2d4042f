// Package fleet runs a whole site on one machine, each part in a network namespace of
// its own with its own address: three NATS nodes from deploy/nats, three process
// servers, two controls, and agents that protect disks which are written to. Then it
// breaks something, again and again: kill -9 of a random part, a cable pulled for a
// while, a rolling restart of everything; and looks whether a promise was broken.
//
//   - after each fault every machine must get a new recovery point within a time
//   - no disk may be compared with the vault as a whole (a full resync)
//   - every point that was ever listed must still be there in the end
//   - points must restore to their digest, mount, and hold every record that was
//     synced before the cut
//   - when all is quiet, a last point of each disk must be equal to the disk
//
// The program that runs it lives in a network namespace, too, which is the switch
// that the others are plugged into; nothing reaches the machine's own network.
package fleet
