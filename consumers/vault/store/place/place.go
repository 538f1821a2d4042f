package place

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/azure"
	"github.com/leeward-dr/leeward/consumers/vault/store/dir"
	"github.com/leeward-dr/leeward/consumers/vault/store/shard"
)

// Help is the forms of a URL, for a flag's description.
const Help = "dir:///path, azure://account/container or shard:4+2:URL,URL,…"

const openTime = time.Minute

// memberPolicy is short: a set goes on without the store meanwhile.
var memberPolicy = store.Policy{Tries: 3, Base: 200 * time.Millisecond, Max: 2 * time.Second}

// Open opens the store a URL names. With create it makes what is missing: a directory,
// a container, a set. Without, a store that is not there is an fs.ErrNotExist.
func Open(rawURL string, create bool) (store.Store, error) {
	scheme, rest := split(rawURL)
	if scheme == "shard" {
		return openSet(rawURL, rest, create)
	}
	s, err := openOne(rawURL, create)
	if err != nil {
		return nil, err
	}
	if scheme == "azure" {
		s = store.Retry(s, store.DefaultPolicy())
	}
	return s, nil
}

// split takes a URL's scheme off; a path has none.
func split(rawURL string) (scheme, rest string) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	if !ok || strings.Contains(scheme, "/") {
		return "", rawURL
	}
	return scheme, rest
}

func openOne(rawURL string, create bool) (store.Store, error) {
	switch scheme, rest := split(rawURL); scheme {
	case "":
		if rest == "" {
			return nil, fmt.Errorf("store URL is empty: want %s", Help)
		}
		return dir.OpenWith(rest, dir.Options{Create: create})
	case "dir":
		path, o, err := parseDir(rest)
		if err != nil {
			return nil, err
		}
		o.Create = create
		return dir.OpenWith(path, o)
	case "azure":
		c, err := azure.Parse(rawURL)
		if err != nil {
			return nil, err
		}
		c.Create = create
		return azure.Open(c)
	case "shard":
		return nil, errors.New("store URL: a set cannot be part of a set")
	default:
		return nil, fmt.Errorf("store URL: unknown scheme %q, want %s", scheme, Help)
	}
}

func parseDir(rest string) (path string, o dir.Options, err error) {
	path, query, _ := strings.Cut(rest, "?")
	path = strings.TrimPrefix(path, "//")
	if !strings.HasPrefix(path, "/") {
		return "", o, fmt.Errorf("store URL dir:%s: want dir:///absolute/path", rest)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", o, fmt.Errorf("store URL dir:%s: %w", rest, err)
	}
	for name, v := range values {
		if name != "keep" {
			return "", o, fmt.Errorf("store URL dir:%s: unknown option %q, want keep=168h", rest, name)
		}
		if o.Keep, err = time.ParseDuration(v[0]); err != nil || o.Keep < 0 {
			return "", o, fmt.Errorf("store URL dir:%s: keep wants a time such as 168h", rest)
		}
	}
	return path, o, nil
}

// openSet opens shard:K+M:URL,URL,…
func openSet(rawURL, rest string, create bool) (store.Store, error) {
	code, list, _ := strings.Cut(rest, ":")
	k, m, err := parseCode(code)
	if err != nil {
		return nil, err
	}
	urls := strings.Split(list, ",")
	if len(urls) != k+m {
		return nil, fmt.Errorf("store URL shard:%s: %d stores, want %d: shard:%s:URL,URL,…", code, len(urls), k+m, code)
	}
	c := shard.Config{K: k, M: m, Create: create}
	named := make([]string, 0, len(urls)) // without what may be a secret, and absolute
	for _, u := range urls {
		s, err := openMember(u, create)
		if err != nil {
			return nil, err
		}
		named = append(named, s.URL())
		c.Members = append(c.Members, s)
	}
	c.URL = "shard:" + code + ":" + strings.Join(named, ",")
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	s, err := shard.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func parseCode(code string) (k, m int, err error) {
	a, b, ok := strings.Cut(code, "+")
	if ok {
		if k, err = strconv.Atoi(a); err == nil {
			m, err = strconv.Atoi(b)
		}
	}
	if !ok || err != nil {
		return 0, 0, errors.New("store URL shard: want shard:K+M:URL,URL,… such as shard:4+2: and six stores")
	}
	return k, m, nil
}

// openMember opens a store of a set. One that is not there yet is opened later.
func openMember(rawURL string, create bool) (store.Store, error) {
	rawURL = strings.TrimSpace(rawURL)
	if scheme, rest := split(rawURL); scheme == "" && !strings.HasPrefix(rest, "/") {
		return nil, fmt.Errorf("store URL: %q in a set: want an absolute path, or a URL", rest)
	}
	s, err := openOne(rawURL, create)
	switch {
	case err == nil:
	case !create && (errors.Is(err, store.ErrAway) || errors.Is(err, fs.ErrNotExist)):
		s = &lazy{url: rawURL, err: err, tried: time.Now()}
	default:
		return nil, err
	}
	if scheme, _ := split(rawURL); scheme == "azure" {
		s = store.Retry(s, memberPolicy)
	}
	return s, nil
}
