package trace

import "testing"

func TestSizeChange(t *testing.T) {
	for text, want := range map[string][3]uint64{
		"loop3: detected capacity change from 16384 to 8192":    {16384, 8192, 1},
		"loop3: detected capacity change from 16384 to 8192\n":  {16384, 8192, 1},
		"loop3: detected capacity change from 0 to 8192":        {0, 8192, 1},
		"loop33: detected capacity change from 16384 to 8192":   {},
		"loop3: detected capacity change from 16384 to":         {},
		"loop3: detected capacity change from -1 to 8192":       {},
		"loop3: detected capacity change from 1 to 8192 blocks": {},
		"": {},
	} {
		from, to, ok := sizeChange([]byte(text), "loop3")
		if ok != (want[2] == 1) || ok && (from != want[0] || to != want[1]) {
			t.Errorf("%q: %d to %d, %v", text, from, to, ok)
		}
	}
}

func TestResizedEvent(t *testing.T) {
	const words = "ACTION=change\x00DEVPATH=/devices/virtual/block/loop3\x00SUBSYSTEM=block\x00RESIZE=1\x00DEVNAME=loop3\x00DEVTYPE=disk\x00SEQNUM=9\x00"
	for msg, want := range map[string]bool{
		"change@/devices/virtual/block/loop3\x00" + words:                        true,
		"change@/devices/virtual/block/loop3\x00RESIZE=1\x00DEVNAME=loop3":       true,
		"add@/devices/virtual/block/loop3\x00" + words:                           false,
		"change@/devices/virtual/block/loop3\x00DEVNAME=loop3\x00":               false,
		"change@/devices/virtual/block/loop33\x00RESIZE=1\x00DEVNAME=loop33\x00": false,
		"change@/devices/virtual/block/loop3":                                    false,
		"":                                                                       false,
	} {
		if got := resizedEvent([]byte(msg), "loop3"); got != want {
			t.Errorf("%q: %v", msg, got)
		}
	}
}

func TestBetween(t *testing.T) {
	for in, want := range map[[3]uint64][2]uint64{
		{80, 40, 10}:                    {5, 5},
		{40, 80, 10}:                    {5, 5},
		{80, 41, 10}:                    {5, 5},
		{80, 39, 10}:                    {4, 6},
		{79, 40, 20}:                    {5, 5},
		{81, 40, 20}:                    {5, 6},
		{80, 160, 10}:                   {0, 0}, // grown beyond what is followed
		{160, 80, 10}:                   {0, 0},
		{40, 40, 10}:                    {5, 0},
		{0, ^uint64(0), 10}:             {0, 10},
		{^uint64(0), ^uint64(0) - 1, 4}: {0, 0},
	} {
		if start, count := between(in[0], in[1], in[2]); count != want[1] || count > 0 && start != want[0] {
			t.Errorf("%v: %d+%d, want %v", in, start, count, want)
		}
	}
}

func FuzzSizeChange(f *testing.F) {
	f.Add([]byte("loop3: detected capacity change from 16384 to 8192"), "loop3", uint64(10))
	f.Fuzz(func(t *testing.T, text []byte, name string, limit uint64) {
		resizedEvent(text, name)
		from, to, ok := sizeChange(text, name)
		if start, count := between(from, to, limit); count > 0 && (!ok || start+count > limit || start+count < start) {
			t.Fatalf("%q gives %d+%d of %d", text, start, count, limit)
		}
	})
}
