// Package blocks turns changed blocks of one disk into the links of its chain and
// publishes them.
//
// It owns what happens between bytes read from a disk and JetStream's ack: packing
// blocks into frames, sums, compression on every core, numbering and hashing in
// order, a bounded window of bytes under way, and patience when the stream is full.
// It never reads a disk, never decides what changed, and never forgets a change on
// anybody's behalf: JetStream's ack is not a promise, so whoever calls it keeps
// the ranges of every link (Options.OnLink) until the vault's receipt.
//
//	p, err := blocks.Open(ctx, js, "web1", "sda", 7, &wire.Open{…}, blocks.Options{OnLink: journal})
//	b := p.Builder()
//	b.Add(ctx, start, bytes, nil) // as often as needed
//	b.Flush(ctx)
//	number, err := p.Cut(ctx, &wire.Cut{…}) // returns when JetStream holds everything
package blocks
