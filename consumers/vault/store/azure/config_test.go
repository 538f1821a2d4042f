package azure

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

func TestParse(t *testing.T) {
	c, err := Parse("azure://leeward01/dr-vault/site/a?tier=Cool&endpoint=https://x.example/leeward01&credentials=/etc/leeward/azure")
	want := Config{Account: "leeward01", Container: "dr-vault", Folder: "site/a", Tier: "cool", Endpoint: "https://x.example/leeward01", File: "/etc/leeward/azure"}
	if err != nil || c != want {
		t.Errorf("%+v, %v", c, err)
	}
	if again, err := Parse(c.URL()); err != nil || again != c {
		t.Errorf("%s: %+v, %v", c.URL(), again, err)
	}
	const secret = "U2VjcmV0U2VjcmV0"
	for _, bad := range []string{
		"azure://", "azure://acc", "azure://acc/x", "azure://ACC/container", "azure://acc/con--tainer", "azure://acc/container?tier=archive",
		"azure://acc/container?what=1", "azure://acc/container?tier=hot&tier=cool", "azure://acc/container?endpoint=ftp://x", "azure://acc/a//b?endpoint=x",
		"azure://acc/container?sv=2024-01-01&sig=" + secret, "azure://acc:" + secret + "@x/container", "azure://acc/container?AccountKey=" + secret,
		"azure://acc/con%zztainer?sig=" + secret, "azure://acc/container?endpoint=https://x/?sig%3d" + secret,
	} {
		if _, err := Parse(bad); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	const secret = "U2VjcmV0U2VjcmV0"
	c := Config{Account: "acc", Container: "container", Secret: NewSecret("AccountName=acc;AccountKey=" + secret)}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{secrets: []string{secret}}
	for _, text := range []string{
		fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%v", &c), string(b), c.URL(),
		s.scrub(errors.New("with " + secret)), s.scrub(errors.New("https://x/y?se=1&sig=abc" + secret + "&x=1")),
	} {
		if strings.Contains(text, secret) {
			t.Error("shown: " + text)
		}
	}
}

func TestSecretParts(t *testing.T) {
	for in, want := range map[string]string{
		"a2V5": "a2V5|||", "?sv=1&sig=x": "|sv=1&sig=x||", "sv=1&sig=x%3D": "|sv=1&sig=x%3D||",
		"AccountName=acc;AccountKey=a2V5==;EndpointSuffix=core.windows.net":    "a2V5==|||",
		"AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.chinacloudapi.cn": "a2V5||https://acc.blob.core.chinacloudapi.cn|",
		"BlobEndpoint=https://h/acc;SharedAccessSignature=sv=1&sig=x":          "|sv=1&sig=x|https://h/acc|",
		"AccountName=other;AccountKey=a2V5":                                    "|||for account",
		"AccountName=acc;What=1":                                               "|||neither",
		"AccountName;AccountKey":                                               "|||not a connection string",
	} {
		key, sas, endpoint, err := NewSecret(in).parts("acc")
		w := strings.Split(want, "|")
		if key != w[0] || sas != w[1] || endpoint != w[2] || (err == nil) != (w[3] == "") || err != nil && !strings.Contains(err.Error(), w[3]) {
			t.Errorf("%s: %q %q %q %v", in, key, sas, endpoint, err)
		}
	}
}

func TestSecretFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "azure")
	write := func(text string, mode os.FileMode) error {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		c := Config{Account: "acc", Container: "container", File: name}
		_, err := Open(c)
		return err
	}
	if err := write("a2V5a2V5\n", 0o600); err != nil {
		t.Error(err)
	}
	for text, mode := range map[string]os.FileMode{"a2V5a2V5": 0o640, "": 0o600, "a\nb": 0o600, "U2VjcmV0!": 0o600} {
		if err := write(text, mode); err == nil || strings.Contains(err.Error(), "U2VjcmV0") {
			t.Errorf("%q, mode %o: %v", text, mode, err)
		}
	}
}

// What only the real service says: no Azurite has policies.
func TestKept(t *testing.T) {
	s := &Store{place: "container c of account a"}
	for code, want := range map[string]error{
		"BlobImmutableDueToPolicy": store.ErrKept, "BlobHasLegalHold": store.ErrKept, "LeaseIdMissing": store.ErrKept,
		"BlobArchived": store.ErrDenied, "AccountIsDisabled": store.ErrAway, "ContainerBeingDeleted": store.ErrAway,
		"BlobAlreadyExists": store.ErrExists, "ConditionNotMet": store.ErrExists, "InvalidBlockList": store.ErrBusy,
	} {
		err := s.failed(t.Context(), "delete", "disks/x.seg", &azcore.ResponseError{ErrorCode: code, StatusCode: http.StatusConflict})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "disks/x.seg in container c of account a") {
			t.Errorf("%s: %v", code, err)
		}
	}
}
