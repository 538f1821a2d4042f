// Package azuritetest runs Azurite, the emulator of Azure Blob Storage, for tests.
//
// Azurite is real code of the service's makers, but not the service: it has no soft
// delete, no versions, no immutability policies, and not the limits of Azure. What is
// proven with it is said so.
package azuritetest
