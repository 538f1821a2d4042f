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
	{"agent: sums of blocks", []string{ours + "agent/capture/scan.", ours + "streams/wire.SumOf"}},
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
		used[stageOf(p.names(s))] += time.Duration(s.nanos)
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
			used[names[0]] += time.Duration(s.nanos)
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
