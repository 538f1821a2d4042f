// Package vaulttest makes small real vaults for the tests of control: a directory
// store in the test's directory, disks with a few blocks, recovery points. It is
// used by tests only and knows nothing of the bus.
package vaulttest
