package vault

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Keys of objects. Package format has the table.
const (
	markerKey      = "vault.json"
	slotPrefix     = "keys/vault/"
	diskKeyPrefix  = "keys/disks/"
	diskPrefix     = "disks/"
	pointPrefix    = "points/"
	keySuffix      = ".key"
	segmentSuffix  = ".seg"
	pointSuffix    = ".point"
	pointTime      = "20060102T150405.000000000Z"
	levelRaw       = 0
	maxNameLength  = 64
	hexDigits      = 16
	levelDirectory = "l0"
)

// validName reports why a name cannot be an element of a key.
func validName(kind, name string) error {
	if name == "" || len(name) > maxNameLength {
		return invalid("%s name %q has %d characters, want 1 to %d", kind, name, len(name), maxNameLength)
	}
	for i := range len(name) {
		c := name[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '_')
		if !ok {
			return invalid("%s name %q: use letters, digits, '-' and '_', starting with a letter or digit", kind, name)
		}
	}
	return nil
}

func (d DiskID) check() error {
	if err := validName("machine", d.Machine); err != nil {
		return err
	}
	return validName("disk", d.Disk)
}

func slotKey(id string) string { return slotPrefix + id + keySuffix }

func diskKeyKey(d DiskID) string { return diskKeyPrefix + d.String() + keySuffix }

func segmentsPrefix(d DiskID) string { return diskPrefix + d.String() + "/" }

func epochPrefix(d DiskID, epoch uint64) string {
	return fmt.Sprintf("%s%016x/%s/", segmentsPrefix(d), epoch, levelDirectory)
}

func segmentKey(d DiskID, epoch, first uint64) string {
	return fmt.Sprintf("%s%016x%s", epochPrefix(d, epoch), first, segmentSuffix)
}

// parseSegmentKey is the reverse of segmentKey.
func parseSegmentKey(key string) (d DiskID, epoch, first uint64, ok bool) {
	t := strings.Split(key, "/")
	if len(t) != 6 || t[4] != levelDirectory {
		return d, 0, 0, false
	}
	name, isSegment := strings.CutSuffix(t[5], segmentSuffix)
	d = DiskID{t[1], t[2]}
	epoch, okEpoch := parseHex(t[3])
	first, okFirst := parseHex(name)
	return d, epoch, first, isSegment && okEpoch && okFirst && segmentKey(d, epoch, first) == key
}

func parseHex(s string) (uint64, bool) {
	v, err := strconv.ParseUint(s, 16, 64)
	return v, err == nil && len(s) == hexDigits
}

func pointKey(group string, at time.Time, id string) string {
	return pointPrefix + group + "/" + at.UTC().Format(pointTime) + "-" + id + pointSuffix
}

// parsePointKey is the reverse of pointKey.
func parsePointKey(key string) (group string, at time.Time, id string, ok bool) {
	t := strings.Split(key, "/")
	if len(t) != 3 || len(t[2]) < len(pointTime)+1+len(pointSuffix) {
		return "", at, "", false
	}
	at, err := time.Parse(pointTime, t[2][:len(pointTime)])
	id = strings.TrimSuffix(t[2][len(pointTime)+1:], pointSuffix)
	return t[1], at, id, err == nil && pointKey(t[1], at, id) == key
}

// parseDiskKeyKey is the reverse of diskKeyKey.
func parseDiskKeyKey(key string) (d DiskID, ok bool) {
	t := strings.Split(strings.TrimSuffix(key, keySuffix), "/")
	if len(t) != 4 {
		return d, false
	}
	d = DiskID{t[2], t[3]}
	return d, diskKeyKey(d) == key && d.check() == nil
}
