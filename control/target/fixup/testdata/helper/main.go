// Command helper is the program of a helper in tests, see fixup.Main.
package main

import (
	"fmt"
	"os"

	"github.com/leeward-dr/leeward/control/target/fixup"
)

func main() {
	if err := fixup.Main(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
