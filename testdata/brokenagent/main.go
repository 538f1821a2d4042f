// Command brokenagent is an agent that can tell its version and nothing else: what an
// upgrade must recover from.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		fmt.Println("leeward-agent broken")
		return
	}
	fmt.Fprintln(os.Stderr, "broken on purpose")
	os.Exit(1)
}
