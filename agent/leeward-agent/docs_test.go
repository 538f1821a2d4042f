package main

import (
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/streams/docstest"
)

// Every call of the agent that README and docs show is one that it knows.
func TestCommandsInDocs(t *testing.T) {
	all := docstest.Commands(t, "../..", "leeward-agent")
	if len(all) < 5 {
		t.Fatalf("found %d commands in the docs: are they still in blocks?", len(all))
	}
	parse := func(args []string) error {
		c, rest, err := rootCommand().Find(args)
		if err != nil {
			return err
		}
		if err := c.ParseFlags(rest); err != nil {
			return err
		}
		return c.ValidateArgs(c.Flags().Args())
	}
	for _, c := range all {
		for i, a := range c.Args { // what stands for more
			if a == "…" {
				c.Args = append(c.Args[:i:i], c.Args[i+1:]...)
				break
			}
		}
		if err := parse(c.Args); err != nil {
			t.Errorf("%s: leeward-agent %s: %v", c.Where, strings.Join(c.Args, " "), err)
		}
	}
	for _, bad := range []string{"nothing", "run --no-such-flag", "profile --link"} {
		if parse(strings.Fields(bad)) == nil {
			t.Errorf("leeward-agent %s passed", bad)
		}
	}
}
