package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams/wire"
)

// maxPayload is more than any message of the bus has.
const maxPayload = 2 << 20

func (a *app) streamCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List the streams of the bus", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Streams(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.streams.v1", all), func(w io.Writer) {
				row(w, "STREAM", "MESSAGES", "BYTES", "LIMIT", "LAST", "ABOUT")
				for _, s := range all {
					limit := ""
					if s.MaxBytes > 0 {
						limit = size(s.MaxBytes)
					}
					row(w, s.Name, s.Messages, size(s.Bytes), limit, ago(s.Last), s.About)
				}
			})
		}),
	}
	var subject string
	decode := &cobra.Command{
		Use: "decode", Short: "Read one message's payload on stdin, print it as JSON", Args: args(),
		Long: "Read the payload of one message on stdin and print it as JSON. Made for the nats CLI:\n\n" +
			"  nats sub 'leeward.markers.>' --translate 'leeward stream decode'\n" +
			"  nats stream view RECEIPTS --translate 'leeward stream decode'\n\n" +
			"The nats CLI passes the payload only; what it is shows from its shape. --subject '{{Subject}}' says it too.",
		RunE: func(*cobra.Command, []string) error {
			b, err := io.ReadAll(io.LimitReader(a.In, maxPayload+1))
			if err != nil {
				return fmt.Errorf("read the payload from stdin: %w", err)
			}
			if len(b) > maxPayload {
				return fmt.Errorf("the payload has more than %d bytes: no message of Leeward is so long", maxPayload)
			}
			v, err := wire.Describe(subject, b)
			if err != nil {
				return err
			}
			e := json.NewEncoder(a.Out)
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			return e.Encode(v)
		},
	}
	decode.Flags().StringVar(&subject, "subject", "", "subject the message was on")
	return noun("stream", "The bus: its streams and what flows on them", ls, decode)
}
