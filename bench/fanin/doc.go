// Package fanin sends small changes of very many disks through one appliance, or
// through a cluster of three nodes, and looks at what each disk costs.
//
// The disks are simulated: links made here, over the agents' own connection file,
// with everything that an agent sends but no disk behind it. The servers are the
// real programs. What is measured is theirs: time, memory, processor, and how long it
// takes from a marker until its point is listed.
package fanin
