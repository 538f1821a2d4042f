package api

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/control/failover"
)

// Some requests may say what is done on control's own host: a command to run, a file or a
// device to write. Whoever may say that is the admin of that host in fact, so such requests
// are taken on a subject of their own, which ends in this word and which the bus lets only
// admins publish to. Without those words the same request is good on the other subject.
const trustedVerb = ".admin"

// OtherDisk, before the path of a disk at home, says that it may be another disk than the
// machine had: what is on it is lost.
const OtherDisk = "other:"

// RescueDisk, before the name of a rescue in place of the path of a disk at home, says that
// a machine there has the disk (`leeward-agent rescue`), where somebody chose and confirmed
// which of its disks is overwritten.
const RescueDisk = "rescue:"

// EveryDisk stands for the disks that are not named.
const EveryDisk = "*"

// trustedKey marks the context of a request that came on a subject for admins.
type trustedKey struct{}

// OnHost says what a request wants done on control's host; "" if nothing.
func OnHost(request any) string {
	switch r := request.(type) {
	case failover.Request:
		if r.Target == "disk" || r.Options.Out != "" {
			return "a file or device to write (--out)"
		}
	case LifeRequest:
		switch {
		case r.Quiesce != "":
			return "a command to run (--quiesce)"
		case r.Shutdown != "":
			return "a command to run (--shutdown)"
		}
		for _, path := range r.Home {
			if strings.HasPrefix(path, OtherDisk) {
				return "a disk to overwrite that is not the machine's own (--disk NAME=" + OtherDisk + "PATH)"
			}
		}
	}
	return ""
}

// trusts reports whether an endpoint, named like failover.start, has a twin for requests
// that say what OnHost finds. One that only looks whether they would work needs none.
func trusts(name string) bool {
	return strings.HasPrefix(name, "failover.") && !slices.Contains(reads, strings.TrimPrefix(name, "failover."))
}

// hosted reports whether the endpoint has such a twin.
func (e *endpoint) hosted() bool {
	return trusts(e.name()) && (e.in == reflect.TypeFor[failover.Request]() || e.in == reflect.TypeFor[LifeRequest]())
}

// mayTouchHost refuses what the caller may not have done on control's host.
func mayTouchHost(ctx context.Context, request any) error {
	trusted, _ := ctx.Value(trustedKey{}).(bool)
	if what := OnHost(request); what != "" && !trusted {
		return Errorf(CodeNotAuthorised, "ask as an admin, with the context file DIR/contexts/admin.json", "the request names %s on the host of control, which only an admin may", what)
	}
	return nil
}
