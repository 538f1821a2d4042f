package azure

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config says which container, and how to get at it.
type Config struct {
	Account   string
	Container string
	Folder    string // before every key, without slashes around it; empty: none
	Endpoint  string // of the account; empty: https://ACCOUNT.blob.core.windows.net
	Tier      string // hot, cool or cold; empty: as the account has it
	File      string // credentials; empty: the environment decides
	Create    bool   // make the container if it is missing

	Secret Secret // wins over File and the environment

	// For tests; 0 is a good choice.
	BlockSize int           // bytes of a block, and of the largest blob that goes up at once
	Patience  time.Duration // for an answer, on top of the time for its bytes
	Page      int32         // blobs in a page of a list
}

// Secret is a connection string, a shared access signature or an account key. It
// does not print.
type Secret struct{ value string }

// NewSecret wraps a secret.
func NewSecret(value string) Secret { return Secret{strings.TrimSpace(value)} }

// String hides the secret.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return "[hidden]"
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

var (
	accountName   = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	containerName = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9])*$`)
	tiers         = []string{"", "hot", "cool", "cold"}
)

// errSecret never shows what it found.
var errSecret = errors.New("a secret stands in the store URL: take it out (and renew it, if it was logged), put it into a file that only you can read, and name that: &credentials=FILE")

// Parse reads a store URL; see the package's documentation.
func Parse(raw string) (Config, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return Config{}, errors.New("store URL: not a URL: want azure://ACCOUNT/CONTAINER") // err holds the URL, and that perhaps a secret
	}
	q := u.Query()
	if u.User != nil || q.Has("sig") || q.Has("AccountKey") || strings.Contains(raw, "AccountKey=") || strings.Contains(raw, "sig=") {
		return Config{}, errSecret
	}
	container, folder, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	c := Config{Account: u.Host, Container: container, Folder: folder}
	for name, values := range q {
		v := values[0]
		switch name {
		case "tier":
			c.Tier = strings.ToLower(v)
		case "endpoint":
			c.Endpoint = v
		case "credentials":
			c.File = v
		default:
			return Config{}, fmt.Errorf("store URL: unknown option %q: want tier, credentials or endpoint", name)
		}
		if len(values) > 1 {
			return Config{}, fmt.Errorf("store URL: %s is given twice", name)
		}
	}
	return c, c.Validate()
}

// Validate reports what is wrong, and the remedy.
func (c Config) Validate() error {
	switch {
	case !accountName.MatchString(c.Account):
		return fmt.Errorf("azure store: account %q: want 3 to 24 lower-case letters and digits: azure://ACCOUNT/CONTAINER", c.Account)
	case len(c.Container) < 3 || len(c.Container) > 63 || !containerName.MatchString(c.Container):
		return fmt.Errorf("azure store: container %q: want 3 to 63 lower-case letters, digits and single dashes: azure://ACCOUNT/CONTAINER", c.Container)
	case !slices.Contains(tiers, c.Tier):
		return fmt.Errorf("azure store: tier %q: want hot, cool or cold: what is archived cannot be read at once", c.Tier)
	case len(c.Folder) > 200 || strings.Contains(c.Folder, "//"):
		return fmt.Errorf("azure store: folder %q: too long, or with an empty part", c.Folder)
	}
	if c.Endpoint != "" {
		e, err := url.Parse(c.Endpoint)
		if err != nil || e.Host == "" || e.Scheme != "https" && e.Scheme != "http" || e.User != nil || e.RawQuery != "" {
			return errors.New("azure store: endpoint: want the URL of the account's blob service, without anything behind it")
		}
	}
	return nil
}

func (c Config) endpoint() string {
	if c.Endpoint != "" {
		return strings.TrimSuffix(c.Endpoint, "/")
	}
	return "https://" + c.Account + ".blob.core.windows.net"
}

// URL is how Parse takes it, without a secret.
func (c Config) URL() string {
	u := "azure://" + c.Account + "/" + c.Container
	if c.Folder != "" {
		u += "/" + c.Folder
	}
	q := url.Values{}
	for name, v := range map[string]string{"tier": c.Tier, "endpoint": c.Endpoint, "credentials": c.File} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	return u
}

const maxSecretFile = 16 << 10

// secret finds the secret to use; none means: ask azidentity.
func (c Config) secret() (Secret, error) {
	if c.Secret.value != "" {
		return c.Secret, nil
	}
	if c.File != "" {
		return readSecret(c.File)
	}
	for _, name := range []string{"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_KEY"} {
		if v := os.Getenv(name); v != "" {
			return NewSecret(v), nil
		}
	}
	return Secret{}, nil
}

func readSecret(name string) (Secret, error) {
	f, err := os.Stat(name)
	if err != nil {
		return Secret{}, fmt.Errorf("azure credentials: %w", err)
	}
	if f.Mode().Perm()&0o077 != 0 {
		return Secret{}, fmt.Errorf("azure credentials: others may read %s: chmod 600 %s", name, name)
	}
	if f.Size() > maxSecretFile {
		return Secret{}, fmt.Errorf("azure credentials: %s has %d bytes: want one line", name, f.Size())
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return Secret{}, fmt.Errorf("azure credentials: %w", err)
	}
	s := NewSecret(string(b))
	if s.value == "" || strings.ContainsAny(s.value, "\r\n") {
		return Secret{}, fmt.Errorf("azure credentials: %s: want one line with a connection string, a shared access signature or an account key", name)
	}
	return s, nil
}

// parts takes a secret apart: key or sas, and the endpoint if it names one.
func (s Secret) parts(account string) (key, sas, endpoint string, err error) {
	v := s.value
	switch {
	case strings.Contains(v, "sig=") && !strings.Contains(v, ";"):
		return "", strings.TrimPrefix(v, "?"), "", nil
	case !strings.Contains(v, ";"):
		return v, "", "", nil
	}
	m := map[string]string{}
	for part := range strings.SplitSeq(strings.Trim(v, ";"), ";") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return "", "", "", errors.New("azure credentials: not a connection string: want Name=Value;…")
		}
		m[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
	}
	if name := m["accountname"]; name != "" && name != account {
		return "", "", "", fmt.Errorf("azure credentials: the connection string is for account %q, the store URL names %q", name, account)
	}
	key, sas, endpoint = m["accountkey"], strings.TrimPrefix(m["sharedaccesssignature"], "?"), m["blobendpoint"]
	if key == "" && sas == "" {
		return "", "", "", errors.New("azure credentials: the connection string has neither AccountKey nor SharedAccessSignature")
	}
	if endpoint == "" && m["endpointsuffix"] != "" && m["endpointsuffix"] != "core.windows.net" {
		endpoint = "https://" + account + ".blob." + m["endpointsuffix"]
	}
	return key, sas, endpoint, nil
}
