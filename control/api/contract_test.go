package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/streams/trust"
)

var update = flag.Bool("update", false, "write testdata/contract.json anew")

// The contract is a file, so that whoever changes it sees that others read it: fields may
// be added to answers, not taken away, nor may what a request may hold become less.
func TestContractIsTheOneThatWasPromised(t *testing.T) {
	t.Parallel()
	var all []*Contract
	for _, c := range Contracts() {
		one, err := ContractOf(c.Name)
		if err != nil || one.Digest != c.Digest || len(c.Request) > 0 {
			t.Fatalf("%s: %+v, %v", c.Name, one, err)
		}
		all = append(all, one)
	}
	got, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "contract.json")
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(bytes.TrimSpace(want), got) {
		return
	}
	var was []Contract
	if err := json.Unmarshal(want, &was); err != nil {
		t.Fatal(err)
	}
	for i := range was {
		k := slices.IndexFunc(all, func(c *Contract) bool { return c.Name == was[i].Name })
		switch {
		case k < 0:
			t.Errorf("%s is gone", was[i].Name)
		case was[i].Role != all[k].Role || was[i].Changes != all[k].Changes || was[i].Document != all[k].Document:
			t.Errorf("%s was for %s, answered %s, and is for %s, answers %s", was[i].Name, was[i].Role, was[i].Document, all[k].Role, all[k].Document)
		case was[i].Digest != all[k].Digest:
			t.Errorf("%s takes or answers something else", was[i].Name)
		}
	}
	t.Errorf("the contract has changed: if nothing was taken away, go test ./control/api -run Contract -update")
}

func TestWhatASchemaSays(t *testing.T) {
	t.Parallel()
	type inner struct {
		When time.Time `json:"when"`
	}
	type embedded struct {
		Up string `json:"up,omitempty"`
	}
	type doc struct {
		embedded
		Name   string            `json:"name"`
		Count  uint64            `json:"count,omitempty"`
		List   []inner           `json:"list"`
		Maybe  *inner            `json:"maybe"`
		Left   *inner            `json:"left,omitempty"`
		Phase  life.Phase        `json:"phase"`
		Bytes  []byte            `json:"bytes,omitempty"`
		Any    json.RawMessage   `json:"any,omitempty"`
		Words  map[string]string `json:"words"`
		Secret string            `json:"-"`
		hidden int
	}
	_ = doc{hidden: 1}
	var s struct {
		Properties map[string]map[string]any
		Required   []string
		Additional *bool          `json:"additionalProperties"`
		Defs       map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(schemaOf(reflect.TypeFor[doc](), false), &s); err != nil {
		t.Fatal(err)
	}
	if want := []string{"list", "maybe", "name", "phase", "words"}; !slices.Equal(s.Required, want) || s.Additional != nil {
		t.Errorf("an answer always has %v, want %v, and more: %v", s.Required, want, s.Additional)
	}
	if len(s.Properties) != 10 || len(s.Defs) != 1 || len(s.Properties["phase"]["enum"].([]any)) != len(life.Phases()) {
		t.Errorf("%+v", s)
	}
	for name, want := range map[string]string{
		"list": `{"items":{"$ref":"#/$defs/api.inner"},"type":["array","null"]}`, "maybe": `{"anyOf":[{"$ref":"#/$defs/api.inner"},{"type":"null"}]}`,
		"left": `{"$ref":"#/$defs/api.inner"}`, "bytes": `{"contentEncoding":"base64","type":"string"}`, "count": `{"minimum":0,"type":"integer"}`, "any": `{}`,
		"words": `{"additionalProperties":{"type":"string"},"type":["object","null"]}`, "up": `{"type":"string"}`,
	} {
		if got, err := json.Marshal(s.Properties[name]); err != nil || string(got) != want {
			t.Errorf("%s is %s, want %s, %v", name, got, want, err)
		}
	}
	s.Required, s.Additional = nil, nil
	if err := json.Unmarshal(schemaOf(reflect.TypeFor[doc](), true), &s); err != nil || s.Required != nil || s.Additional == nil || *s.Additional {
		t.Errorf("a request: %+v, %v", s, err)
	}
}

// What each role may ask stands in package trust; here it must come out as four steps.
func TestRolesAreSteps(t *testing.T) {
	t.Parallel()
	count := map[trust.Role]int{}
	for _, c := range Contracts() {
		count[c.Role]++
		from := slices.Index(people, c.Role)
		for i, r := range people {
			if may := trust.MayPublish(r, c.Subject); may != (i >= from) || may != Suffices(r, c.Name) {
				t.Errorf("%s may ask for %s: %v, %v", r, c.Name, may, Suffices(r, c.Name))
			}
		}
		if c.Role == trust.Viewer && c.Changes {
			t.Errorf("a viewer may ask for %s, which changes something", c.Name)
		}
		for _, r := range []trust.Role{trust.Process, trust.Machine, trust.Agent, trust.Tap} {
			if trust.MayPublish(r, c.Subject) || Suffices(r, c.Name) {
				t.Errorf("%s may ask for %s", r, c.Name)
			}
		}
	}
	if len(count) != 4 || count[trust.Admin] < 10 {
		t.Errorf("endpoints by role: %v", count)
	}
	if Suffices("", "status.show") || Suffices("root", "status.show") || Least("no.such") != trust.Admin {
		t.Error("who is nobody may look")
	}
}

// nats micro info shows of each endpoint what it is, and is small enough for a message.
func TestEndpointsTellOfThemselves(t *testing.T) {
	t.Parallel()
	nc, c := serveTest(t, &backend{})
	m, err := nc.Conn.Request("$SRV.INFO."+Service, nil, 10*time.Second)
	if err != nil || len(m.Data) > 256<<10 {
		t.Fatalf("%d bytes, %v", len(m.Data), err)
	}
	var info micro.Info
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	all, err := c.Contracts(t.Context())
	if err != nil || len(all) != len(info.Endpoints) || len(all) < 60 {
		t.Fatalf("%d contracts, %d endpoints, %v", len(all), len(info.Endpoints), err)
	}
	for _, e := range info.Endpoints {
		k := slices.IndexFunc(all, func(c Contract) bool { return c.Subject == e.Subject })
		if k < 0 || e.Metadata["role"] != string(all[k].Role) || e.Metadata["schema_sha256"] != all[k].Digest || e.Metadata["document"] != all[k].Document {
			t.Errorf("%s: %v", e.Subject, e.Metadata)
		}
	}
	// As the metadata says it is to be asked.
	subject, body, _ := strings.Cut(info.Endpoints[0].Metadata["schema"], " ")
	if m, err = nc.Conn.Request(subject, []byte(body), 10*time.Second); err != nil || !strings.Contains(string(m.Data), `"schema":"leeward.endpoint.v1"`) {
		t.Errorf("%s %s: %v, %v", subject, body, m, err)
	}
	if _, err := c.Contract(t.Context(), "tea.pot"); AsError(err).Code != CodeNotFound {
		t.Errorf("no such endpoint: %v", err)
	}
}

// What is done on control's own host is asked for where only admins may ask.
func TestHostIsTheAdmins(t *testing.T) {
	t.Parallel()
	b := &backend{}
	nc, c := serveTest(t, b)
	for body, what := range map[string]string{
		`{"machine":"web","shutdown":"poweroff"}`:         "start",
		`{"machine":"web","planned":true,"quiesce":"ls"}`: "start",
		`{"machine":"web","home":{"sda":"other:/dev/x"}}`: "failback",
		`{"machine":"web","target":"disk","out":""}`:      "test",
	} {
		if what == "test" {
			body = `{"machine":"web","target":"disk","options":{"out":"/etc/passwd"}}`
		}
		m, err := nc.Conn.Request(Prefix+".failover."+what, []byte(body), 10*time.Second)
		if err != nil || m.Header.Get(micro.ErrorCodeHeader) != string(CodeNotAuthorised) {
			t.Errorf("%s %s: %v, %v", what, body, m, err)
		}
	}
	if b.asked != 0 {
		t.Fatalf("%d of them were carried out", b.asked)
	}
	r := LifeRequest{Machine: "web"}
	r.Shutdown = "poweroff"
	if _, err := c.AskLife(t.Context(), life.Start, r); err != nil || b.asked != 1 {
		t.Errorf("the client asks where it may: %d, %v", b.asked, err)
	}
	r.Shutdown = ""
	if _, err := c.AskLife(t.Context(), life.Start, r); err != nil || b.asked != 2 {
		t.Errorf("without a command: %d, %v", b.asked, err)
	}
	if _, err := c.Test(t.Context(), failover.Request{Machine: "web", Target: "disk"}); err != nil || b.asked != 3 {
		t.Errorf("files, by the client: %d, %v", b.asked, err)
	}
}
