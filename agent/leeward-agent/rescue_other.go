//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func rescueCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rescue", Short: "Let this machine's disks be written from recovery points (from a live Linux)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return errors.New("rescue needs Linux: boot a live one") },
	}
}
