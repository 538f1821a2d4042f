package stages

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Use is what one stage used.
type Use struct {
	Stage string        `json:"stage"`
	CPU   time.Duration `json:"cpu"`
}

// Rest is the stage of what belongs to no other.
const Rest = "rest"

// stage is a name and what the functions of it begin with.
type stage struct {
	name     string
	prefixes []string
}

const (
	ours   = "github.com/leeward-dr/leeward/"
	server = "github.com/nats-io/nats-server/v2/server."
	client = "github.com/nats-io/nats.go"
)

// way lists the stages in the order of the way. A sample belongs to the first function
// of its stack, from the leaf upwards, that a prefix fits.
var way = []stage{
	{"agent: read the disk", []string{ours + "agent/disk."}},
	{"agent: sums of blocks", []string{ours + "agent/capture/scan.", ours + "streams/sums."}},
	{"agent: pack and compress", []string{ours + "producers/blocks.(*Publisher).pack", ours + "producers/blocks.(*Builder)"}},
	{"wire: encode", []string{ours + "streams/wire.Encode"}},
	{"wire: hash of links", []string{ours + "streams/wire.HashOf", ours + "streams/wire.LinkHash"}},
	{"wire: decode and check", []string{ours + "streams/wire."}},
	{"agent: publish", []string{ours + "producers/blocks.", client + "/jetstream.(*jetStream).PublishMsgAsync"}},
	{"JetStream: store", []string{server + "(*fileStore)", server + "(*msgBlock)", server + "(*memStore)"}},
	{"JetStream: streams and consumers", []string{server + "(*stream)", server + "(*consumer)", server + "(*jsAccount)"}},
	{"NATS server: connections", []string{server}},
	{"NATS client: connections", []string{client}},
	{"process: coalesce and compress", []string{ours + "consumers/optimize."}},
	{"vault: seal", []string{ours + "consumers/vault.(*disk).write", ours + "consumers/vault/internal/seal."}},
	{"vault: put", []string{ours + "consumers/vault/store"}},
	{"vault: plan and digest", []string{ours + "consumers/vault."}},
	{"process: follow the chain", []string{ours + "consumers/process."}},
	{"control", []string{ours + "control"}},
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcStart", "runtime.gcMarkDone"}},
	{"scheduler", []string{"runtime.schedule", "runtime.mcall", "runtime.park_m", "runtime.mstart", "runtime.sysmon"}},
}

// Of reads a CPU profile and says what each stage used, in the order of the way, the
// rest last.
func Of(profiled []byte) ([]Use, error) {
	p, err := decode(profiled)
	if err != nil {
		return nil, err
	}
	used := map[string]time.Duration{}
	for _, s := range p.samples {
		used[stageOf(p.names(s))] += time.Duration(s.value)
	}
	var all []Use
	for _, w := range way {
		all = append(all, Use{w.name, used[w.name]})
	}
	return append(all, Use{Rest, used[Rest]}), nil
}

func stageOf(names []string) string {
	for _, n := range names {
		best, length := "", 0
		for _, w := range way {
			for _, p := range w.prefixes {
				if len(p) > length && strings.HasPrefix(n, p) {
					best, length = w.name, len(p)
				}
			}
		}
		if best != "" {
			return best
		}
	}
	return Rest
}

// Top lists the functions that used most themselves, for people.
func Top(profiled []byte, n int) ([]Use, error) {
	p, err := decode(profiled)
	if err != nil {
		return nil, err
	}
	used := map[string]time.Duration{}
	for _, s := range p.samples {
		if names := p.names(s); len(names) > 0 {
			used[names[0]] += time.Duration(s.value)
		}
	}
	var all []Use
	for name, t := range used {
		all = append(all, Use{name, t})
	}
	slices.SortFunc(all, func(a, b Use) int {
		return cmp.Or(cmp.Compare(b.CPU, a.CPU), cmp.Compare(a.Stage, b.Stage))
	})
	return all[:min(n, len(all))], nil
}

// Count is how much of anything a function used.
type Count struct {
	Function string `json:"function"`
	Value    int64  `json:"value"` // nanoseconds, or bytes
}

// Since reads a profile of any kind and lists who used most of what is not in an earlier
// one, which may be nil: each sample belongs to the first function of its stack, from the
// leaf upwards, that is ours or NATS's, so that the copying, locking and waiting of the
// runtime has the name of who asked for it.
func Since(profiled, before []byte, n int) (who []Count, err error) {
	used := map[string]int64{}
	if before != nil {
		if err := addUp(before, used, -1); err != nil {
			return nil, err
		}
	}
	if err := addUp(profiled, used, 1); err != nil {
		return nil, err
	}
	for name, v := range used {
		if v > 0 {
			who = append(who, Count{name, v})
		}
	}
	slices.SortFunc(who, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), cmp.Compare(a.Function, b.Function))
	})
	return who[:min(n, len(who))], nil
}

// addUp adds what a profile says to what everybody used, so many times.
func addUp(profiled []byte, used map[string]int64, times int64) error {
	p, err := decode(profiled)
	if err != nil {
		return err
	}
	for _, s := range p.samples {
		name := Rest
		for _, f := range p.names(s) {
			if short, ok := strings.CutPrefix(f, ours); ok {
				name = short
			} else if short, ok := strings.CutPrefix(f, server); ok {
				name = "nats-server." + short
			} else if strings.HasPrefix(f, client) {
				name = strings.TrimPrefix(f, "github.com/nats-io/")
			} else {
				continue
			}
			break
		}
		name, _, _ = strings.Cut(name, "[go.shape")
		used[name] += times * s.value
	}
	return nil
}
