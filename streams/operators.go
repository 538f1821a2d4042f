package streams

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Book is the key-value bucket with what operators decided.
const Book = "LEEWARD_BOOK"

// Audit is the stream with every action that changed something, and who did it.
const Audit = "AUDIT"

// AuditSubject carries the actions of one kind, like "policy-set".
func AuditSubject(action string) string { return root + ".audit." + action }

func ensureBook(ctx context.Context, js jetstream.JetStream, c Config) error {
	_, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: Book, Description: "groups, policies, plans: what operators decided", History: 64,
		Storage: jetstream.FileStorage, Replicas: c.Replicas, MaxValueSize: 1 << 20,
	})
	if err != nil {
		return fmt.Errorf("create bucket %s: %w", Book, err)
	}
	return nil
}
