package trace

import (
	"bytes"
	"fmt"
	"strconv"
)

// sizeSays is what the kernel says in its log, behind a disk's name, when it has another size.
const sizeSays = ": detected capacity change from "

// logFilter selects the lines of the kernel's log that are of a disk's size.
func logFilter(name string) string { return fmt.Sprintf(`msg ~ "%s%s*"`, name, sizeSays) }

// resizedEvent says whether a message of the kernel to device managers is of a change of a
// disk's size: "change@PATH", then words NAME=VALUE, each with a zero behind it.
func resizedEvent(msg []byte, name string) bool {
	head, words, ok := bytes.Cut(msg, []byte{0})
	if !ok || !bytes.HasPrefix(head, []byte("change@")) {
		return false
	}
	disk, resized := false, false
	for w := range bytes.SplitSeq(words, []byte{0}) {
		disk = disk || string(w) == "DEVNAME="+name
		resized = resized || string(w) == "RESIZE=1"
	}
	return disk && resized
}

// sizeChange reads what the kernel says of a disk's size, in sectors. text may be anything.
func sizeChange(text []byte, name string) (from, to uint64, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(name+sizeSays))
	if !ok {
		return 0, 0, false
	}
	a, b, ok := bytes.Cut(bytes.TrimSpace(rest), []byte(" to "))
	if !ok {
		return 0, 0, false
	}
	from, err := strconv.ParseUint(string(a), 10, 64)
	if err != nil {
		return 0, 0, false
	}
	to, err = strconv.ParseUint(string(b), 10, 64)
	return from, to, err == nil
}

// between are the blocks between two sizes of a disk in sectors, that in which either ends
// among them, cut at the end of a disk of limit blocks.
func between(from, to, limit uint64) (start, count uint64) {
	const per = 8
	start = min(from, to) / per
	end := max(from, to)
	end = min(end/per+min(end%per, 1), limit)
	if start >= end {
		return 0, 0
	}
	return start, end - start
}
