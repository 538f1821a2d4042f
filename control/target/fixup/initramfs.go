package fixup

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// initramfs is what an initramfs holds: a chain of cpio archives, each compressed or not,
// with zeros between them. What a later archive has replaces what an earlier one had.
type initramfs struct {
	members  map[string]uint32 // mode by name, without a leading "./"
	contents map[string][]byte // of the files that were wanted
	archives []string          // how each was packed
	// rest says that what follows the last archive was not looked at: some formats do not
	// tell where they end.
	rest bool
}

// Limits of an initramfs. The largest seen has 500 MB unpacked, in 20,000 files.
const (
	maxUnpacked = 4 << 30
	maxMembers  = 1 << 20
	maxWanted   = 1 << 20 // of a file whose contents are wanted
	maxWindow   = 128 << 20
)

// scanInitramfs reads all archives of an initramfs of size bytes, which may have limit bytes
// unpacked. want picks the files whose contents are kept.
func scanInitramfs(file io.ReaderAt, size, limit int64, want func(name string) bool) (*initramfs, error) {
	fs := &initramfs{members: map[string]uint32{}, contents: map[string][]byte{}}
	left := limit
	for at := skipZeros(file, 0, size); at < size; {
		p, err := unpack(file, at, size)
		if err == nil {
			in := &io.LimitedReader{R: p.r, N: left}
			err = fs.read(in, p.alone, want)
			if p.close != nil {
				p.close()
			}
			if left = in.N; left <= 0 {
				err = fmt.Errorf("it unpacks to more than %d bytes", limit)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("archive %d, %s at byte %d: %w", len(fs.archives)+1, p.kind, at, err)
		}
		fs.archives = append(fs.archives, p.kind)
		if p.end == nil {
			fs.rest = true
			break
		}
		at = skipZeros(file, p.end(), size)
	}
	if len(fs.archives) == 0 {
		return nil, errors.New("it holds no archive")
	}
	return fs, nil
}

// read takes in the archives that one after another make up in, or the one that it begins
// with.
func (fs *initramfs) read(in io.Reader, alone bool, want func(string) bool) error {
	visit := func(m member, body io.Reader) error { return fs.take(m, body, want) }
	if alone {
		return readCPIO(in, visit) // not a byte more
	}
	r := bufio.NewReader(in)
	for first := true; ; {
		c, err := r.ReadByte()
		switch {
		case errors.Is(err, io.EOF) && !first:
			return nil
		case err != nil:
			return cut(err)
		case c == 0 && !first:
			continue
		}
		if err := r.UnreadByte(); err != nil {
			return err
		}
		first = false
		if err := readCPIO(r, visit); err != nil {
			return err
		}
	}
}

func (fs *initramfs) take(m member, body io.Reader, want func(string) bool) error {
	name := strings.TrimPrefix(path.Clean("/"+m.name), "/")
	if name == "" {
		return nil
	}
	if len(fs.members) >= maxMembers {
		return fmt.Errorf("it holds more than %d files", maxMembers)
	}
	fs.members[name] = m.mode
	delete(fs.contents, name)
	if m.mode&modeType != modeFile || !want(name) {
		return nil
	}
	if m.size > maxWanted {
		return fmt.Errorf("%s has %d bytes, at most %d are expected", name, m.size, maxWanted)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if int64(len(b)) < m.size {
		return io.ErrUnexpectedEOF
	}
	fs.contents[name] = b
	return nil
}

// skipZeros returns where the first byte from at on lies that is not zero.
func skipZeros(r io.ReaderAt, at, size int64) int64 {
	b := make([]byte, 4096)
	for at < size {
		n, err := r.ReadAt(b[:min(int64(len(b)), size-at)], at)
		if i := bytes.IndexFunc(b[:n], func(r rune) bool { return r != 0 }); i >= 0 {
			return at + int64(i)
		}
		at += int64(n)
		if err != nil || n == 0 {
			break
		}
	}
	return size
}

// kinds of archives, by how they begin.
var kinds = []struct{ name, magic string }{
	{"cpio", cpioMagic}, {"cpio", cpioSumMagic},
	{"gzip", "\x1f\x8b"}, {"zstd", "\x28\xb5\x2f\xfd"}, {"xz", "\xfd7zXZ\x00"}, {"lz4", "\x02\x21\x4c\x18"},
	{"bzip2", "BZh"}, {"lzma", "\x5d\x00\x00"}, {"lzo", "\x89LZO"},
}

// packed is an archive, or several that were packed together.
type packed struct {
	kind  string
	r     io.Reader    // unpacks it
	alone bool         // only the first archive of r is to be read
	end   func() int64 // where what follows begins, once r was read; nil: nobody knows
	close func()       // nil if there is nothing to close
}

// unpack opens the archive at a byte of an initramfs.
func unpack(r io.ReaderAt, at, size int64) (p packed, err error) {
	begin := make([]byte, 32)
	n, _ := r.ReadAt(begin[:min(int64(len(begin)), size-at)], at) // what is missing is zeros
	for _, k := range kinds {
		if bytes.HasPrefix(begin[:n], []byte(k.magic)) {
			p.kind = k.name
			break
		}
	}
	part := io.NewSectionReader(r, at, size-at)
	in := bufio.NewReaderSize(part, 1<<16)
	here := func() int64 { // what in gave away
		pos, _ := part.Seek(0, io.SeekCurrent) // a section knows where it is
		return at + pos - int64(in.Buffered())
	}
	switch p.kind {
	case "cpio":
		p.r, p.alone, p.end = in, true, here
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return p, err
		}
		z.Multistream(false)
		p.r, p.end = z, here
	case "lz4":
		p.r, p.end = &lz4Legacy{r: in}, here
	case "zstd":
		length, err := zstdFrame(part)
		if err != nil {
			return p, err
		}
		z, err := zstd.NewReader(io.NewSectionReader(r, at, length), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return p, err
		}
		p.r, p.close, p.end = z, z.Close, func() int64 { return at + length }
	case "xz":
		if d := xzDictionary(begin); d > maxWindow {
			return p, fmt.Errorf("it wants a dictionary of %d bytes", d)
		}
		p.alone = true
		p.r, err = xz.NewReader(in)
	case "lzma":
		if d := binary.LittleEndian.Uint32(begin[1:]); d > maxWindow {
			return p, fmt.Errorf("it wants a dictionary of %d bytes", d)
		}
		p.alone = true
		p.r, err = lzma.NewReader(in)
	case "bzip2":
		p.r, p.alone = bzip2.NewReader(in), true
	case "":
		err = fmt.Errorf("it begins with % x, which is no archive that kernels know", begin[:min(n, 6)])
	default:
		err = errors.New("it cannot be unpacked here")
	}
	return p, err
}

// xzDictionary returns how large a dictionary the first block of an xz stream wants. A
// block that tells its sizes too is let pass.
func xzDictionary(begin []byte) int64 {
	block := begin[12:] // its size, flags, and for each filter: id, length, properties
	if block[1]&0xc0 != 0 || block[2] != 0x21 || block[3] != 1 || block[4] > 40 {
		return 0
	}
	bits := block[4]
	if bits == 40 {
		return 1<<32 - 1
	}
	return int64(2|bits&1) << (bits/2 + 11)
}

// zstdFrame returns the length of the zstd frame that r begins with.
func zstdFrame(r io.ReaderAt) (int64, error) {
	read := func(at int64, n int) (uint64, error) {
		var b [8]byte
		if _, err := r.ReadAt(b[:n], at); err != nil {
			return 0, cut(err)
		}
		return binary.LittleEndian.Uint64(b[:]), nil
	}
	flags, err := read(4, 1)
	if err != nil {
		return 0, err
	}
	at := int64(5)
	single := flags&0x20 != 0
	if !single {
		at++ // the window
	}
	at += [...]int64{0, 1, 2, 4}[flags&3]
	size := [...]int64{0, 2, 4, 8}[flags>>6]
	if size == 0 && single {
		size = 1
	}
	at += size
	for {
		h, err := read(at, 3)
		if err != nil {
			return 0, err
		}
		at += 3
		switch h >> 1 & 3 {
		case 1: // one byte, repeated
			at++
		case 3:
			return 0, errors.New("a block of unknown kind")
		default:
			at += int64(h >> 3)
		}
		if h&1 != 0 {
			break
		}
	}
	if flags&4 != 0 {
		at += 4 // checksum
	}
	return at, nil
}
