//go:build !race

package vault

// slower is by how much less the long tests do.
const slower = 1
