//go:build race

package vault

// slower is by how much less the long tests do, because the race detector slows them.
const slower = 5
