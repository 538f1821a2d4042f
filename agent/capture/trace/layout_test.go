package trace

import (
	"os"
	"strings"
	"testing"
)

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLayoutGolden(t *testing.T) {
	l, err := parseLayout(readTestdata(t, "format"), readTestdata(t, "header_page"))
	if err != nil || l != testLayout {
		t.Fatalf("got %+v, %v\nwant %+v", l, err, testLayout)
	}
}

// Kernels before 6.10 had no ioprio and other offsets; 32-bit ones a shorter header.
func TestLayoutOther(t *testing.T) {
	const format = `name: block_rq_complete
ID: 1100
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:dev_t dev;	offset:8;	size:4;	signed:0;
	field:sector_t sector;	offset:16;	size:8;	signed:0;
	field:unsigned int nr_sector;	offset:24;	size:4;	signed:0;
	field:int error;	offset:28;	size:4;	signed:1;
	field:char rwbs[8];	offset:32;	size:8;	signed:1;
	field:__data_loc char[] cmd;	offset:40;	size:4;	signed:1;
`
	const header = `	field: u64 timestamp;	offset:0;	size:8;	signed:0;
	field: local_t commit;	offset:8;	size:4;	signed:1;
	field: int overwrite;	offset:8;	size:1;	signed:1;
	field: char data;	offset:12;	size:4084;	signed:1;
`
	l, err := parseLayout([]byte(format), []byte(header))
	want := layout{id: 1100, commitSize: 4, dataOff: 12, pageSize: 4096, sector: field{16, 8}, count: field{24, 4}, rwbs: field{32, 8}, minimum: 40}
	if err != nil || l != want {
		t.Fatalf("got %+v, %v\nwant %+v", l, err, want)
	}
	for _, cut := range []string{"ID: 1100", "sector;", "nr_sector", "rwbs", "common_type"} {
		if _, err := parseLayout([]byte(strings.ReplaceAll(format, cut, "gone;")), []byte(header)); err == nil {
			t.Errorf("a format without %q was accepted", cut)
		}
	}
	for _, cut := range []string{"commit", "data", "size:4084"} {
		if _, err := parseLayout([]byte(format), []byte(strings.ReplaceAll(header, cut, "gone"))); err == nil {
			t.Errorf("a header without %q was accepted", cut)
		}
	}
}

func FuzzLayout(f *testing.F) {
	f.Add(string(readTestdata(f, "format")), string(readTestdata(f, "header_page")), []byte("any page at all, of some bytes in length"))
	f.Fuzz(func(t *testing.T, format, header string, page []byte) {
		l, err := parseLayout([]byte(format), []byte(header))
		if err == nil {
			_, _, _ = l.page(page, &sink{done: func(event) {}}) // must not read behind its input
		}
		parseCounters([]byte(format))
		_, _ = parseStat(header)
	})
}

func TestLedger(t *testing.T) {
	steps := func(l ledger, rs ...reading) (ok bool) {
		for _, r := range rs {
			if ok = l.judge(r); !ok {
				return false
			}
		}
		return true
	}
	start := newLedger(1000, 1100) // tracing began while 100 sectors were under way
	for name, c := range map[string]struct {
		readings []reading
		want     bool
	}{
		"quiet, exact":                  {[]reading{{before: 1050, after: 1050, seen: 0}, {before: 1250, after: 1250, seen: 200}}, true},
		"lost before the first reading": {[]reading{{before: 1301, after: 1301, seen: 200}}, false},
		"more seen than counted":        {[]reading{{before: 1100, after: 1100, seen: 200}}, false},
		"lost later":                    {[]reading{{before: 1050, after: 1050}, {before: 1258, after: 1258, seen: 200}}, false},
		"lost later, within the start":  {[]reading{{before: 1050, after: 1050}, {before: 1051, after: 1051, seen: 0}}, false},
		"busy but possible":             {[]reading{{before: 1050, after: 1050}, {before: 1200, after: 1300, seen: 200, inflight: true}}, true},
		"busy and impossible":           {[]reading{{before: 1050, after: 1050}, {before: 1300, after: 1310, seen: 200, inflight: true}}, false},
		"busy does not calibrate":       {[]reading{{before: 1010, after: 1010, inflight: true}, {before: 1090, after: 1090}}, true},
		"counter not settled":           {[]reading{{before: 10, after: 20, seen: 30}}, false},
	} {
		if got := steps(start, c.readings...); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestParseStat(t *testing.T) {
	st, err := parseStat("  1 2 3 4 5 6 777 8 9 10 11 12 13 1444 15 16 17\n")
	if err != nil || st != (diskstat{777, 9, 1444}) {
		t.Errorf("got %+v, %v", st, err)
	}
	if st, err := parseStat("1 2 3 4 5 6 777 8 9 10 11"); err != nil || st != (diskstat{777, 9, 0}) {
		t.Errorf("before 4.18: got %+v, %v", st, err)
	}
	for _, bad := range []string{"", "1 2 3 4 5 6", "1 2 3 4 5 6 x 8 9 10 11"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestParseCounters(t *testing.T) {
	got := parseCounters([]byte("entries: 7\noverrun: 1\ncommit overrun: 2\nbytes: 99\noldest event ts:  1.5\ndropped events: 4\nread events: 8\n"))
	if got != (counters{entries: 7, lost: 7, read: 8}) {
		t.Errorf("got %+v", got)
	}
}

func TestOptions(t *testing.T) {
	o := Options{}.withDefaults("loop0")
	if o.Name != "loop0" || o.BufferKB < 2048 || o.BufferKB > 16384 || o.TracingRoot != DefaultRoot {
		t.Errorf("defaults %+v", o)
	}
	if o := (Options{Name: "../a-b c"}).withDefaults(""); o.Name != "___a_b_c" {
		t.Errorf("name %q", o.Name)
	}
}
