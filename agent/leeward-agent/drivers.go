package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
)

// candidate is a disk and what could be promised about it. An array of these is the
// answer of `drivers -o json`; package control/push of the server reads it.
type candidate struct {
	Path      string   `json:"path"`
	Name      string   `json:"name"` // of the kernel
	SizeBytes uint64   `json:"size_bytes"`
	Driver    string   `json:"driver,omitempty"`
	Guarantee string   `json:"guarantee,omitempty"`
	NotTrace  string   `json:"not_trace,omitempty"` // why the better driver cannot
	Mounts    []string `json:"mounts,omitempty"`
	Error     string   `json:"error,omitempty"` // why it cannot be protected at all
}

func driversCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "drivers [PATH …]",
		Short: "Say which capture driver would protect a disk, and what it promises",
		Long: "Say which capture driver would protect a disk, and what it promises. Without a PATH: of all fixed disks of\n" +
			"this machine, by names that a reboot does not change.",
		RunE: func(c *cobra.Command, paths []string) error {
			if output != "table" && output != "json" {
				return usage{fmt.Errorf("--output is %q: use table or json", output)}
			}
			all, err := candidates(paths)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(c.OutOrStdout()).Encode(all)
			}
			return printDrivers(c.OutOrStdout(), all)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// candidates looks at each disk; a disk that cannot be looked at says so itself.
func candidates(paths []string) ([]candidate, error) {
	if len(paths) == 0 {
		locals, err := disk.Locals()
		if err != nil {
			return nil, err
		}
		for _, l := range locals {
			paths = append(paths, l.Stable)
		}
		if len(paths) == 0 {
			return nil, errors.New("this machine has no fixed disk of its own: name what to look at")
		}
	}
	all := []candidate{}
	for _, p := range paths {
		k := candidate{Path: p}
		if err := k.look(); err != nil {
			k.Error = err.Error()
		}
		all = append(all, k)
	}
	return all, nil
}

func (k *candidate) look() error {
	d, err := disk.Open(k.Path)
	if err != nil {
		return err
	}
	defer d.Close()
	k.Name, k.SizeBytes = d.Name(), d.Size()
	mounts, err := disk.Mounts(d)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		k.Mounts = append(k.Mounts, m.Path)
	}
	var src capture.Source
	src, why := trace.New(d, trace.Options{})
	if errors.Is(why, capture.ErrUnsupported) {
		k.NotTrace = why.Error()
		src, err = scan.New(d, scan.Options{}, nil)
	} else {
		err = why
	}
	if err != nil {
		return err
	}
	k.Driver, k.Guarantee = src.Name(), src.Guarantee()
	return nil
}

// printDrivers fails when no disk could be protected.
func printDrivers(w io.Writer, all []candidate) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	good := 0
	for _, k := range all {
		if k.Error != "" {
			fmt.Fprintf(t, "%s\t-\t\t%s\n", k.Path, k.Error)
			continue
		}
		good++
		fmt.Fprintf(t, "%s\t%s\t%d bytes\t%s\n", k.Path, k.Driver, k.SizeBytes, k.Guarantee)
		if k.NotTrace != "" {
			fmt.Fprintf(t, "%s\tnot trace:\t\t%s\n", k.Path, k.NotTrace)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if good == 0 {
		return errors.New("none of these can be protected")
	}
	return nil
}
