// Package product runs Leeward for the benches: its real binaries, or an appliance
// in this process, and looks at the result as an operator does: with the context
// file of the appliance, the API of control, and the vault's key.
//
// It has no way into Leeward that an operator does not have.
package product
