package vault

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Keys of objects. Package format has the table.
const (
	markerKey     = "vault.json"
	slotPrefix    = "keys/vault/"
	diskKeyPrefix = "keys/disks/"
	diskPrefix    = "disks/"
	pointPrefix   = "points/"
	keySuffix     = ".key"
	pinPrefix     = "pins/"
	pinSuffix     = ".pin"
	recordPrefix  = "records/"
	recordSuffix  = ".rec"
	segmentSuffix = ".seg"
	mapSuffix     = ".map"
	pointSuffix   = ".point"
	pointTime     = "20060102T150405.000000000Z"
	maxNameLength = 64
	hexDigits     = 16
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
	return fmt.Sprintf("%s%016x/", segmentsPrefix(d), epoch)
}

// segmentKey is the key of a raw segment.
func segmentKey(d DiskID, epoch, first uint64) string {
	return segmentRef{epoch: epoch, first: first}.key(d)
}

func (r segmentRef) key(d DiskID) string {
	if r.isMap() {
		return fmt.Sprintf("%sm%d/%016x-%016x-%016x-%016x-%016x%s", epochPrefix(d, r.epoch), r.level-levelMap, r.first, r.last, r.until.Epoch, r.until.Number, r.sum, mapSuffix)
	}
	if r.level == levelRaw {
		return fmt.Sprintf("%sl0/%016x%s", epochPrefix(d, r.epoch), r.first, segmentSuffix)
	}
	return fmt.Sprintf("%sl%d/%016x-%016x-%016x-%016x%s", epochPrefix(d, r.epoch), r.level, r.first, r.last, r.until.Epoch, r.until.Number, segmentSuffix)
}

// parseSegmentKey is the reverse of segmentRef.key.
func parseSegmentKey(key string) (d DiskID, r segmentRef, ok bool) {
	t := strings.Split(key, "/")
	if len(t) != 6 || len(t[4]) != 2 {
		return d, r, false
	}
	name, _ := strings.CutSuffix(t[5], segmentSuffix)
	d = DiskID{t[1], t[2]}
	r.epoch, _ = parseHex(t[3])
	r.level = t[4][1] - '0'
	numbers := strings.Split(name, "-")
	switch {
	case r.level == levelRaw && len(numbers) == 1:
		r.first, _ = parseHex(numbers[0])
	case r.level == levelFolded && len(numbers) == 4:
		r.first, _ = parseHex(numbers[0])
		r.last, _ = parseHex(numbers[1])
		r.until.Epoch, _ = parseHex(numbers[2])
		r.until.Number, _ = parseHex(numbers[3])
		if r.last < r.first || r.until.Compare(r.foldEnd()) < 0 {
			return d, r, false
		}
	default:
		return d, r, false
	}
	return d, r, r.first != 0 && r.epoch != 0 && r.key(d) == key
}

// parseMapKey is the reverse of segmentRef.key for a map.
func parseMapKey(key string) (d DiskID, r segmentRef, ok bool) {
	t := strings.Split(key, "/")
	if len(t) != 6 || len(t[4]) != 2 || t[4][0] != 'm' || t[4][1] < '1' || t[4][1] > '9' {
		return d, r, false
	}
	name, _ := strings.CutSuffix(t[5], mapSuffix)
	numbers := strings.Split(name, "-")
	if len(numbers) != 5 {
		return d, r, false
	}
	d, r.level = DiskID{t[1], t[2]}, levelMap+t[4][1]-'0'
	r.epoch, _ = parseHex(t[3])
	for i, n := range []*uint64{&r.first, &r.last, &r.until.Epoch, &r.until.Number, &r.sum} {
		*n, _ = parseHex(numbers[i])
	}
	if r.epoch == 0 || r.first == 0 || r.last < r.first || r.until.Compare(r.foldEnd()) < 0 {
		return d, r, false
	}
	return d, r, r.key(d) == key && d.check() == nil && t[0]+"/" == diskPrefix
}

func parseHex(s string) (uint64, bool) {
	v, err := strconv.ParseUint(s, 16, 64)
	return v, err == nil && len(s) == hexDigits
}

func pointKey(group string, at time.Time, id string) string {
	return pointPrefix + group + "/" + at.UTC().Format(pointTime) + "-" + id + pointSuffix
}

// pinKey is the key of the pin of the point at key.
func pinKey(point string) string {
	return pinPrefix + strings.TrimPrefix(strings.TrimSuffix(point, pointSuffix), pointPrefix) + pinSuffix
}

// pinnedKey is the key of the point that the pin at key keeps.
func pinnedKey(pin string) (point string, ok bool) {
	point = pointPrefix + strings.TrimPrefix(strings.TrimSuffix(pin, pinSuffix), pinPrefix) + pointSuffix
	_, _, _, ok = parsePointKey(point)
	return point, ok && pinKey(point) == pin
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

func recordKey(kind, name string, version uint64) string {
	return fmt.Sprintf("%s%s/%s/%016x%s", recordPrefix, kind, name, version, recordSuffix)
}

// parseRecordKey is the reverse of recordKey.
func parseRecordKey(key string) (kind, name string, version uint64, ok bool) {
	t := strings.Split(key, "/")
	if len(t) != 4 {
		return "", "", 0, false
	}
	version, _ = parseHex(strings.TrimSuffix(t[3], recordSuffix))
	ok = version != 0 && recordKey(t[1], t[2], version) == key && validName("kind", t[1]) == nil && validName("record", t[2]) == nil
	return t[1], t[2], version, ok
}
