// Package chaos kills the agent, the appliance, or both, again and again at random
// moments while a filesystem is written to, starts them again with the same command
// lines as a service manager would, and then looks whether a promise was broken.
//
//   - after each kill a new recovery point must be listed, without help
//   - every point that was ever listed must still be listed in the end
//   - the whole vault must be clean, all data read
//   - of every point that is looked at, the disk must have its digest, the filesystem
//     must mount, and every record that was synced before the cut must be there
//   - when everything is quiet, one more point must be equal to the disk: nothing was
//     missed in silence on the way
//
// The writer of the records is package load's ledger; it never stops for a kill.
package chaos
