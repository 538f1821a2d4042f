package streams

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Book is the key-value bucket with what operators decided.
const Book = "LEEWARD_BOOK"

// Audit is the stream with every action that changed something, and who did it.
const Audit = "AUDIT"

// AuditSubject carries the actions of one kind, like "policy-set".
func AuditSubject(action string) string { return root + ".audit." + action }

func ensureBook(ctx context.Context, js jetstream.JetStream, c Config) error {
	err := ensureBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: Book, Description: "groups, policies, plans: what operators decided", History: 64,
		Storage: jetstream.FileStorage, Replicas: c.Replicas, MaxValueSize: 1 << 20,
	})
	if err != nil {
		return err
	}
	return ensurePeople(ctx, js, c)
}

// ensurePeople makes the buckets of the console. Both are bounded: who floods the
// door with codes takes no room from the changes.
func ensurePeople(ctx context.Context, js jetstream.JetStream, c Config) error {
	for _, b := range []jetstream.KeyValueConfig{
		{Bucket: Logins, Description: "one-time codes and sessions of the console, hashed", TTL: 12 * time.Hour, MaxBytes: 4 << 20},
		{Bucket: Users, Description: "users of the console", MaxBytes: 4 << 20},
	} {
		b.Storage, b.Replicas, b.MaxValueSize = jetstream.FileStorage, c.Replicas, 4<<10
		if err := ensureBucket(ctx, js, b); err != nil {
			return err
		}
	}
	return nil
}

// ensureBucket makes one bucket as it is. A request that a cluster does not answer, as
// it may while its nodes find each other, is made again and does not use up all the time.
func ensureBucket(ctx context.Context, js jetstream.JetStream, b jetstream.KeyValueConfig) error {
	err := patiently(ctx, func(ctx context.Context) error {
		_, err := js.CreateOrUpdateKeyValue(ctx, b)
		return err
	})
	if err != nil {
		return fmt.Errorf("create bucket %s: %w", b.Bucket, err)
	}
	return nil
}
