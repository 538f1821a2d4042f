package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/embed"
)

func natsCommand() *cobra.Command {
	c := &cobra.Command{Use: "nats", Short: "Run a node of a NATS cluster, or prepare one"}
	var file, level string
	run := &cobra.Command{
		Use: "run", Short: "Run a NATS node from its configuration file (deploy/nats/node.conf)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := (&roleFlags{level: level}).log(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return embed.RunNode(cmd.Context(), file, log)
		},
	}
	run.Flags().StringVar(&file, "config", "node.conf", "the node's configuration `file`")
	run.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	var urls, ca string
	prepare := &cobra.Command{
		Use: "init", Short: "Write keys, contexts and accounts.conf of a cluster into --dir", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := cmd.Flags().GetString("dir")
			if err != nil {
				return err
			}
			if urls == "" {
				return cli.Usage("leeward nats init --help", "--urls is missing: name where the nodes listen")
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("make the cluster's directory: %w", err)
			}
			if ca != "" {
				if ca, err = filepath.Abs(ca); err != nil {
					return err
				}
			}
			if dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			return embed.WriteCluster(dir, urls, ca)
		},
	}
	prepare.Flags().StringVar(&urls, "urls", "", "where the nodes listen, with commas, e.g. tls://n1:4222,tls://n2:4222,tls://n3:4222")
	prepare.Flags().StringVar(&ca, "ca", "", "PEM `file` of the authority that signed the nodes' certificates")
	c.AddCommand(run, prepare)
	return c
}
