// Command bench measures Leeward beside its peers and beside what the machine can
// do at best, and proves what it promises.
//
//	go run ./bench [flags]         initial replication, delta, restore, first read, beside restic, borg, qemu-img
//	go run ./bench groups [flags]  two databases: no point of a group lacks a cause, points cut alone do
//	go run ./bench proof [flags]   points under load, each compared with the frozen disk
//	go run ./bench overhead [flags] what tracking and freezing cost the protected machine
//	go run ./bench chaos [flags]   kill -9 at random moments, nothing lost
//	go run ./bench fleet [flags]   a cluster in network namespaces, broken again and again
//	go run ./bench boot [flags]    first serial line from 20 points in the vault, beside a raw file
//	go run ./bench pipe [flags]    incompressible blocks beside JetStream alone, and CPU time by stage
//	go run ./bench power [flags]   the same cluster, its nodes lose their power
//	go run ./bench rescue [flags]  a machine comes home to bare metal that loses its power in the middle
//	go run ./bench resync [flags]  a disk is compared with the vault, beside dd and what the CPUs can sum up
//	go run ./bench soak [flags]    half an hour of small faults: nothing grows, nothing is lost
//	go run ./bench extra [flags]   what FULL=1 adds: a month of points, RPO, failures, growth
//	go run ./bench profile [flags] what the runtime saw of a scenario: CPU, memory, waiting, locks
//	go run ./bench fanin [flags]   small changes of 10 000 disks, through an appliance and a cluster
//
// Everything that is measured is measured in the same run, in alternating order,
// and given as a ratio; a figure that could not be taken says why. Results are kept
// as JSON in bench/results. The exit code is 0 if everything that was asked for was
// done and held, 1 if not, 2 for wrong usage. A missed goal of speed is no failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/bench/proof"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "guard" {
		// The agent that runs in this process starts its freeze guard like this.
		os.Exit(quiesce.GuardMain())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	var u usage
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, &u):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type usage struct{ error }

// errFailed means that what was to be shown does not hold; the report says what.
var errFailed = errors.New("FAILED, see above")

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "proof-agent" { // the agent that proof kills
		return proof.AgentMain(ctx, args[1])
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "proof":
			return runProof(ctx, args[1:])
		case "groups":
			return runGroups(ctx, args[1:])
		case "chaos":
			return runChaos(ctx, args[1:])
		case "fleet":
			return runFleet(ctx, args[1:], false)
		case "power":
			return runFleet(ctx, args[1:], true)
		case "boot":
			return runBoot(ctx, args[1:])
		case "pipe":
			return runPipe(ctx, args[1:])
		case "fanin":
			return runFanin(ctx, args[1:])
		case "extra":
			return runExtra(ctx, args[1:])
		case "profile":
			return runProfile(ctx, args[1:])
		case "rescue":
			return runRescue(ctx, args[1:])
		case "resync":
			return runResync(ctx, args[1:])
		case "soak":
			return runSoak(ctx, args[1:])
		case "first-read":
			return firstRead(ctx, args[1:])
		case "peers":
			args = args[1:]
		case "overhead":
			return runOverhead(ctx, args[1:])
		default:
			return usage{fmt.Errorf("no scenario %q: use one that bench/main.go lists, or flags only", args[0])}
		}
	}
	return runPeers(ctx, args)
}

// common are the flags of every scenario.
type common struct {
	results string
	dir     string
	verbose bool
	keepDir bool
	seed    uint64
}

func (c *common) add(f *flag.FlagSet) {
	f.StringVar(&c.results, "results", filepath.Join(source(), "results"), "`directory` for the JSON results")
	f.StringVar(&c.dir, "dir", "", "`directory` for temporary files, on the disk under test (default: the system's)")
	f.BoolVar(&c.verbose, "v", false, "show the log of what is measured")
	f.BoolVar(&c.keepDir, "keep", false, "keep the temporary directory with disks and logs")
	f.Uint64Var(&c.seed, "seed", 1, "what everything random starts from")
}

func parse(f *flag.FlagSet, args []string) error {
	f.SetOutput(os.Stderr)
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usage{err}
	}
	if f.NArg() > 0 {
		return usage{fmt.Errorf("do not know what to do with %q", f.Arg(0))}
	}
	return nil
}

func (c *common) log() *slog.Logger {
	if !c.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// source is the folder of this program's source if it is run from the module, and
// the working directory otherwise.
func source() string {
	if _, err := os.Stat("bench/main.go"); err == nil {
		return "bench"
	}
	return "."
}

// bytesFlag reads sizes like 512M and 1G.
type bytesFlag int64

// String prints the size.
func (b *bytesFlag) String() string { return strconv.FormatInt(int64(*b)>>20, 10) + "M" }

// Set reads the size.
func (b *bytesFlag) Set(s string) error {
	unit, digits := int64(1), s
	for suffix, u := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		if d, ok := strings.CutSuffix(strings.ToUpper(s), suffix); ok {
			unit, digits = u, d
		}
	}
	n, err := strconv.ParseInt(digits, 10, 40)
	if err != nil || n <= 0 {
		return fmt.Errorf("%q is no size: use a number with K, M or G", s)
	}
	*b = bytesFlag(n * unit)
	return nil
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// facts are what a reader must know of the machine to judge the figures.
func facts() map[string]string {
	f := map[string]string{"cores": strconv.Itoa(runtime.GOMAXPROCS(0)), "go": runtime.Version(), "root": strconv.FormatBool(rig.Root())}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		f["kernel"] = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				f["cpu"] = strings.TrimSpace(v)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		f["load"] = strings.TrimSpace(string(b))
	}
	f["revision"] = revision()
	return f
}

func revision() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	if out, err := exec.Command("git", "rev-parse", "HEAD").Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	return "unknown"
}

func newResults() *report.Results {
	return &report.Results{Schema: "leeward.bench.v1", Time: time.Now(), Facts: facts()}
}

// keep saves the results and says where.
func (c *common) keep(r *report.Results, name string, out io.Writer) error {
	path, err := r.Save(c.results, name)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nresults: %s\n", path)
	return nil
}
