package hooks

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Errors of this package, for errors.Is.
var (
	// ErrPre means that an application could not be made ready; all are let go.
	ErrPre = errors.New("before the cut")
	// ErrPost means that an application may not have been let go.
	ErrPost = errors.New("after the cut")
	// ErrLate means that the applications were let go before End was called.
	ErrLate = errors.New("the applications went on before the cut was complete")
	// ErrKeeper means that the keeper process did not do its work.
	ErrKeeper = errors.New("no hook keeper")
)

// Hook is one program to run.
type Hook struct {
	Name    string   `json:"name"`           // for people
	Command []string `json:"command"`        // "pre" or "post" is added
	User    string   `json:"user,omitempty"` // system user to run as; "": the agent's
}

// Options of a session.
type Options struct {
	Hooks       []Hook
	Machine     string
	Dir         string        // where a directory for the session is made
	PreTimeout  time.Duration // of each pre
	PostTimeout time.Duration // of each post
	Hold        time.Duration // from the first pre that is done until post is called by itself
	// KeeperCommand starts the keeper: a program that calls KeeperMain. Default: this
	// program with the one argument "hook-keeper".
	KeeperCommand []string
}

// Defaults of Options.
const (
	DefaultPreTimeout  = 60 * time.Second
	DefaultPostTimeout = 30 * time.Second
	DefaultHold        = 15 * time.Second
)

func (o Options) withDefaults() Options {
	if o.PreTimeout <= 0 {
		o.PreTimeout = DefaultPreTimeout
	}
	if o.PostTimeout <= 0 {
		o.PostTimeout = DefaultPostTimeout
	}
	if o.Hold <= 0 {
		o.Hold = DefaultHold
	}
	if len(o.KeeperCommand) == 0 {
		o.KeeperCommand = []string{"/proc/self/exe", "hook-keeper"}
	}
	return o
}

//go:embed scripts/*.sh
var scripts embed.FS

// builtin are the scripts that come with the agent and the user that each runs as
// when the agent is root.
var builtin = map[string]string{"postgresql": "postgres", "mariadb": ""}

// Builtins are the names of the hooks that come with the agent.
func Builtins() []string {
	var names []string
	for n := range builtin {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Script is the text of a hook that comes with the agent.
func Script(name string) (string, error) {
	if _, ok := builtin[name]; !ok {
		return "", fmt.Errorf("there is no hook %q: use one of %s, or the path of a program", name, strings.Join(Builtins(), ", "))
	}
	b, err := scripts.ReadFile("scripts/" + name + ".sh")
	return string(b), err
}

// Parse reads [USER@]NAME of a hook that comes with the agent, or [USER@]/PATH of a
// program.
func Parse(arg string) (Hook, error) {
	user, what, given := strings.Cut(arg, "@")
	if !given || strings.HasPrefix(arg, "/") {
		user, what = "", arg
	} else if user == "" {
		return Hook{}, fmt.Errorf("hook %q names no user before the @: use USER@NAME or USER@/PATH", arg)
	}
	if !filepath.IsAbs(what) {
		text, err := Script(what)
		if err != nil {
			return Hook{}, err
		}
		if u := builtin[what]; !given && u != "" && os.Geteuid() == 0 {
			user = u
		}
		return Hook{Name: what, Command: []string{"/bin/sh", "-c", text, what}, User: user}, nil
	}
	fi, err := os.Stat(what)
	if err != nil {
		return Hook{}, fmt.Errorf("hook: %w", err)
	}
	if fi.IsDir() || fi.Mode()&0o111 == 0 {
		return Hook{}, fmt.Errorf("hook %s is not a program: chmod +x it, or name another", what)
	}
	if fi.Mode()&0o022 != 0 && os.Geteuid() == 0 {
		return Hook{}, fmt.Errorf("hook %s may be changed by others than its owner, and root would run it: chmod go-w it", what)
	}
	return Hook{Name: filepath.Base(what), Command: []string{what}, User: user}, nil
}
