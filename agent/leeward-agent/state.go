package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/agent/capture/trace"
)

func statusCommand() *cobra.Command {
	dir, asJSON := agent.Default().StateDir, false
	c := &cobra.Command{
		Use:   "status",
		Short: "Say which driver protects each disk, and what it promises",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			st, running, err := agent.ReadStatus(dir)
			if err != nil {
				return err
			}
			if asJSON {
				b, err := json.MarshalIndent(struct {
					agent.Status
					Running bool `json:"running"`
				}{st, running}, "", "  ")
				fmt.Println(string(b))
				return err
			}
			state := "is running"
			if !running {
				state = "is NOT running"
			}
			fmt.Printf("machine %s: the agent (pid %d, since %s) %s\n", st.Machine, st.PID, st.Since.Format("2006-01-02 15:04:05Z07:00"), state)
			if st.Fenced != "" {
				fmt.Printf("FENCED: nothing is replicated: %s\n", st.Fenced)
			}
			for _, d := range st.Disks {
				fmt.Printf("\n%s  %s  %d bytes\n  driver     %s\n  guarantee  %s\n", d.Name, d.Path, d.Size, d.Driver, d.Guarantee)
				kept := "nothing is recorded: the next agent compares the whole disk"
				if d.WithoutAgent {
					kept = "the kernel goes on recording for the next agent"
				}
				fmt.Printf("  no agent   %s\n", kept)
				if d.Waits != "" {
					fmt.Printf("  points     NOT in them: %s\n", d.Waits)
				}
				if d.Resumed != "" {
					fmt.Printf("  compared   %s\n", d.Resumed)
				}
			}
			for _, x := range st.Aside {
				fmt.Printf("\n%s  %s\n  NOT protected: %s\n", x.Name, x.Path, x.Why)
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "state-dir", dir, "`directory` that the agent was given")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func forgetCommand() *cobra.Command {
	dir, all := agent.Default().StateDir, false
	c := &cobra.Command{
		Use:   "forget",
		Short: "Remove what the kernel keeps recording for the next agent",
		Long: "Ends the recording that goes on while no agent runs, and removes what was recorded.\n" +
			"Use it when this machine is no longer to be protected. An agent that is started later\n" +
			"compares each disk with the vault. Disks that an agent works on now are left alone.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			removed, err := trace.Forget(dir, "", all)
			for _, r := range removed {
				fmt.Println("removed", r)
			}
			return err
		},
	}
	c.Flags().StringVar(&dir, "state-dir", dir, "`directory` that the agent was given")
	c.Flags().BoolVar(&all, "all", false, "also what was recorded for agents with other state directories")
	return c
}

// readDisks reads a list of disks from a file.
func readDisks(file string) ([]agent.DiskConfig, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the list of disks: %w", err)
	}
	return agent.ParseDisks(string(b))
}

// reload reads the list of disks again at every SIGHUP until the returned function
// is called.
func (f *runFlags) reload(a *agent.Agent, log *slog.Logger) (stop func()) {
	hup, end := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-end:
				return
			case <-hup:
			}
			if f.disksFile == "" {
				log.Warn("nothing to reload: the disks were named on the command line; name a file with --disks-file")
				continue
			}
			disks, err := readDisks(f.disksFile)
			if err == nil {
				err = a.SetDisks(append(f.named[:len(f.named):len(f.named)], disks...))
			}
			if err != nil {
				log.Error("the disks stay as they are", "error", err)
			}
		}
	}()
	return func() { signal.Stop(hup); close(end) }
}
