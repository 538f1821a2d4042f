// Package rig is the ground the benches stand on: temporary directories, loop
// devices, mounted filesystems, processes whose cost is accounted, and direct
// reads of devices.
//
// Whatever a Rig makes, it takes away again on Close, in reverse order, on every
// way out. It ends only processes that it started, by their id. It never measures
// anything on its own and knows nothing of Leeward.
package rig
