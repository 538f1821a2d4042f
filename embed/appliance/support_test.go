package appliance

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/notify"
)

// parts reads a support bundle.
func parts(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(h.Name, "leeward-support/")] = string(b)
	}
}

// A support bundle has what helps, and none of the secrets that lie about.
func TestSupportBundle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	startHere(t, dir)
	b := connect(t, dir, "admin")
	defer b.Close()
	c := api.NewClient(b.Conn)
	c.Actor = "test"
	if err := c.SetNotifications(t.Context(), notify.Config{
		Level: "warning", Webhooks: []notify.Webhook{{URL: "http://127.0.0.1:1/services/PLANThook?k=PLANTquery", TokenFile: "/etc/token"}},
	}); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "leeward.log")
	planted := "kept before\n" +
		`{"level":"info","password":"PLANTjson","token_file":"/kept/token"}` + "\n" +
		`msg="x" secret=PLANTtext account_key='PLANTquoted word' next=kept` + "\n" +
		`{"request":"{\"passphrase\":\"PLANTnested\"}"}` + "\n" +
		"https://u:PLANTuser@kept.example/PLANTpath azure://a/c?sv=1&sig=PLANTsas&x=kept\n" +
		"Authorization: Bearer PLANTbearer\nnats://PLANTname:PLANTpass@host:4222\n" +
		"lw_ab12_PLANTtoken\nSUAPLANT" + strings.Repeat("A2", 25) + "\neyJhbGciOiJQTEFOVA.PLANTpayload.PLANTsig\n" +
		"-----BEGIN EC PRIVATE KEY-----\nPLANTpem\n-----END EC PRIVATE KEY-----\nkept after\n"
	secrets := []string{"PLANT"}
	var keys []string
	for _, pattern := range []string{"keys/*", "trust/*", "trust/*/*"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern))
		keys = append(keys, files...)
	}
	for _, name := range keys {
		k, err := os.ReadFile(name)
		if err != nil {
			continue // a directory
		}
		for line := range strings.Lines(string(k)) {
			if line = strings.TrimSpace(line); len(line) >= 20 && !strings.HasPrefix(line, "-----") {
				secrets = append(secrets, line)
				planted += "it leaked: " + line + "\n"
			}
		}
	}
	if len(secrets) < 3 {
		t.Fatalf("the appliance has only %d lines of keys in %v", len(secrets)-1, keys)
	}
	for name, text := range map[string]string{log: planted, filepath.Join(dir, "leeward.yaml"): "# token: PLANTcomment\nlisten: 127.0.0.1:-1\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	if code, out, errs := lw(t, t.Context(), dir, "support", "bundle", file, "--log", log, "--journal-lines", "0"); code != 0 {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	all := parts(t, file)
	for _, want := range []string{
		"manifest.json", "version.json", "host.json", "config/leeward.yaml", "logs/1-leeward.log", "status.json", "machines.json", "events.json",
		"jobs.json", "streams.json", "vault.json", "groups.json", "policies.json", "plans.json", "runs.json", "notifications.json", "audit.json",
	} {
		text, ok := all[want]
		if !ok {
			t.Errorf("%s is missing", want)
		} else if strings.HasSuffix(want, ".json") && !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON: %s", want, text)
		}
	}
	for name, text := range all {
		for _, s := range secrets {
			if i := strings.Index(text, s); i >= 0 {
				t.Errorf("%s gives away a secret: %q", name, text[max(i-30, 0):min(i+40, len(text))])
			}
		}
	}
	for _, want := range []string{"kept before", "/kept/token", "next=kept", "kept.example", "x=kept", "host:4222", "kept after"} {
		if !strings.Contains(all["logs/1-leeward.log"], want) {
			t.Errorf("the log has lost %q:\n%s", want, all["logs/1-leeward.log"])
		}
	}
	if !strings.Contains(all["audit.json"], `"notify-set"`) || !strings.Contains(all["notifications.json"], "http://127.0.0.1:1/") {
		t.Errorf("audit %s\nnotifications %s", all["audit.json"], all["notifications.json"])
	}
	if code, _, errs := lw(t, t.Context(), dir, "support", "bundle", file); code != 5 || !strings.Contains(errs, "exists") {
		t.Errorf("over an old bundle: code %d, %s", code, errs)
	}
}

// When nothing answers a bundle is needed most.
func TestSupportBundleOfNobody(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	code, _, errs := lw(t, t.Context(), t.TempDir(), "support", "bundle", file, "--log", "/nowhere/PLANT.log", "--journal-lines", "0")
	if code != 3 || !strings.Contains(errs, "missing: what control knows: ") {
		t.Errorf("code %d: %s", code, errs)
	}
	all := parts(t, file)
	if all["version.json"] == "" || !strings.Contains(all["manifest.json"], "logs/1-PLANT.log") {
		t.Errorf("%v", all)
	}
}
