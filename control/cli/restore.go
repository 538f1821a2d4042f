package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/target/disk"
)

var formats = []string{string(disk.Raw), string(disk.VHD), string(disk.QCOW2), string(disk.VMDK)}

type restoreFlags struct {
	machine, disk, point, to, format string
	force                            bool
	readBack                         bool
}

func (a *app) vaultRestore() *cobra.Command {
	var f restoreFlags
	c := &cobra.Command{
		Use: "restore", Short: "Write a disk of a recovery point to a file or device, and verify it", Args: args(),
		Long: "Write a disk of a recovery point to a file or a block device. The bytes written are verified against the\n" +
			"digest that the vault recorded at the cut; a file has its name only when that succeeded.",
	}
	fl := c.Flags()
	fl.StringVar(&f.machine, "machine", "", "machine")
	fl.StringVar(&f.disk, "disk", "", "disk (default: the machine's only one)")
	fl.StringVar(&f.point, "point", failover.Latest, "latest, latest-app, an RFC 3339 time, or a point's id")
	fl.StringVar(&f.to, "to", "", "file to make, or block device to overwrite")
	fl.StringVar(&f.format, "format", "raw", "raw, vhd, qcow2 or vmdk")
	fl.BoolVar(&f.readBack, "read-back", false, "read what was written and compare it once more")
	fl.BoolVar(&f.force, "force", false, "overwrite what is there")
	c.PreRunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case f.machine == "":
			return Usage(cmd.CommandPath()+" --help", "%s needs --machine", cmd.CommandPath())
		case f.to == "":
			return Usage(cmd.CommandPath()+" --help", "%s needs --to FILE or DEVICE", cmd.CommandPath())
		case !slices.Contains(formats, f.format):
			return Usage("", "--format is %q: use %s", f.format, strings.Join(formats, ", "))
		}
		return nil
	}
	return a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, _ []string) error { return a.restore(ctx, v, &f) })
}

// restored is what a restore did. Schema "leeward.restore.v1".
type restored struct {
	Schema       string    `json:"schema"`
	Machine      string    `json:"machine"`
	Disk         string    `json:"disk"`
	Point        string    `json:"point"`
	PointTime    time.Time `json:"point_time"`
	To           string    `json:"to"`
	Format       string    `json:"format"`
	SizeBytes    int64     `json:"size_bytes"`
	DataBytes    int64     `json:"data_bytes"`    // written that is not zero
	FetchedBytes int64     `json:"fetched_bytes"` // read from the store
	Seconds      float64   `json:"seconds"`
	Digest       string    `json:"digest"`
	Verified     bool      `json:"verified"` // what was written has the digest
}

func (a *app) restore(ctx context.Context, v *vault.Vault, f *restoreFlags) error {
	all, err := a.pointsOf(ctx, v)
	if err != nil {
		return err
	}
	p, err := failover.Select(all, f.machine, f.point)
	if err != nil {
		return err
	}
	d, err := diskOf(p, f)
	if err != nil {
		return err
	}
	if st, err := os.Stat(f.to); err == nil && st.Mode().IsRegular() && !f.force {
		return api.Errorf(api.CodeRefused, "another --to, or --force to replace it", "%s exists", f.to)
	} else if err == nil && st.IsDir() {
		return Usage("", "%s is a directory: name a file or a block device", f.to)
	}
	id := vault.DiskID{Machine: f.machine, Disk: d.Disk}
	start := time.Now()
	r, err := failover.OpenDisk(ctx, v, id, d)
	if err != nil {
		return err
	}
	defer r.Close()
	bar := newProgress(a.Err)
	err = disk.Write(ctx, r, f.to, disk.Options{
		Format: disk.Format(f.format), Force: f.force, ReadBack: f.readBack,
		Progress: func(what string, done, total int64) { bar.show(what, done, total) },
	})
	bar.done()
	if err != nil {
		return err
	}
	doc := restored{
		Schema: "leeward.restore.v1", Machine: f.machine, Disk: d.Disk, Point: p.ID, PointTime: p.Time.UTC(), To: f.to, Format: f.format,
		SizeBytes: int64(d.Size), DataBytes: r.Data(), FetchedBytes: r.BytesFetched(), Seconds: time.Since(start).Seconds(),
		Digest: hex.EncodeToString(d.Digest[:]), Verified: true,
	}
	return a.print(doc, func(w io.Writer) {
		fmt.Fprintf(w, "disk %s of point %s (%s, %s-consistent) is in %s\n", id, p.ID, stamp(p.Time), p.Consistency, f.to)
		fmt.Fprintf(w, "%s, of which %s hold data, in %s; %s read from the vault\n", size(doc.SizeBytes), size(doc.DataBytes), seconds(doc.Seconds), size(doc.FetchedBytes))
		fmt.Fprintf(w, "digest %s verified\n", doc.Digest[:32])
	})
}

// diskOf finds the disk that is meant in a point.
func diskOf(p *vault.Point, f *restoreFlags) (*vault.PointDisk, error) {
	var names []string
	var found *vault.PointDisk
	for i := range p.Machines {
		if p.Machines[i].Machine != f.machine {
			continue
		}
		for k := range p.Machines[i].Disks {
			d := &p.Machines[i].Disks[k]
			names = append(names, d.Disk)
			if d.Disk == f.disk || f.disk == "" {
				found = d
			}
		}
	}
	switch {
	case f.disk == "" && len(names) > 1:
		return nil, Usage("add --disk "+names[0], "machine %s has %d disks in point %s: %s", f.machine, len(names), p.ID, strings.Join(names, ", "))
	case found == nil:
		return nil, api.Errorf(api.CodeNotFound, "", "machine %s has no disk %s in point %s, it has: %s", f.machine, f.disk, p.ID, strings.Join(names, ", "))
	}
	return found, nil
}
