// Package markers publishes consistency markers on the shared subject of a group.
//
// It owns the marker's way onto the bus. It never freezes anything and never
// decides whether a point exists: that is control's, once the vault has confirmed
// every cut the marker names.
package markers
