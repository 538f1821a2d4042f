package cli

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/drill"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/notify"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/push"
	"github.com/leeward-dr/leeward/control/session"
	"github.com/leeward-dr/leeward/control/target/azure"
)

// planDocument is a version of a plan as -o json prints it. Schema "leeward.plan-version.v1".
type planDocument struct {
	Schema string `json:"schema"`
	*api.Plan
}

// policyDocument is a policy as -o json prints it. Schema "leeward.policy.v1".
type policyDocument struct {
	Schema string `json:"schema"`
	*api.Policy
}

// notifyDocument is where notifications go. Schema "leeward.notify.v1".
type notifyDocument struct {
	Schema string `json:"schema"`
	*notify.Config
}

// sentDocument is what became of a test notification. Schema "leeward.notify-test.v1".
type sentDocument struct {
	Schema string `json:"schema"`
	*notify.Report
}

// documents are the types of what -o json prints, by schema. docs/ops/cli.md says which
// command prints which; a test holds all three together.
func documents() map[string]reflect.Type {
	return map[string]reflect.Type{
		"leeward.status.v1":   reflect.TypeFor[statusDocument](),
		"leeward.machines.v1": reflect.TypeFor[document[api.Machine]](), "leeward.machine.v1": reflect.TypeFor[api.Machine](),
		"leeward.points.v1": reflect.TypeFor[document[api.Point]](), "leeward.point.v1": reflect.TypeFor[api.Point](),
		"leeward.trace.v1": reflect.TypeFor[api.Trace](),
		"leeward.jobs.v1":  reflect.TypeFor[document[failover.Job]](), "leeward.job.v1": reflect.TypeFor[jobDocument](),
		"leeward.lives.v1": reflect.TypeFor[document[life.Life]](), "leeward.life.v1": reflect.TypeFor[life.Life](),
		"leeward.validation.v1": reflect.TypeFor[api.Validation](),
		"leeward.fences.v1":     reflect.TypeFor[document[api.Fence]](), "leeward.fence.v1": reflect.TypeFor[api.Fence](),
		"leeward.events.v1": reflect.TypeFor[document[api.Event]](), "leeward.audit.v1": reflect.TypeFor[document[api.Record]](),
		"leeward.groups.v1": reflect.TypeFor[document[api.Group]](), "leeward.group.v1": reflect.TypeFor[api.Group](),
		"leeward.policies.v1": reflect.TypeFor[document[api.Policy]](), "leeward.policy.v1": reflect.TypeFor[policyDocument](),
		"leeward.plans.v1": reflect.TypeFor[document[api.Plan]](), "leeward.plan-version.v1": reflect.TypeFor[planDocument](), plan.Schema: reflect.TypeFor[plan.Plan](),
		"leeward.forecast.v1": reflect.TypeFor[plan.DryRun](), "leeward.run.v1": reflect.TypeFor[plan.Run](), "leeward.runs.v1": reflect.TypeFor[document[plan.Run]](),
		"leeward.drills.v1": reflect.TypeFor[document[api.Drill]](), "leeward.drill-reports.v1": reflect.TypeFor[document[api.ReportRef]](), drill.SignedSchema: reflect.TypeFor[drill.Signed](),
		"leeward.notify.v1": reflect.TypeFor[notifyDocument](), "leeward.notify-test.v1": reflect.TypeFor[sentDocument](), "leeward.notification.v1": reflect.TypeFor[notify.Message](),
		"leeward.streams.v1": reflect.TypeFor[document[api.Stream]](),
		"leeward.tokens.v1":  reflect.TypeFor[document[enrol.Token]](), "leeward.token.v1": reflect.TypeFor[enrol.Token](),
		"leeward.agents.v1": reflect.TypeFor[document[enrol.Agent]](), "leeward.agent.v1": reflect.TypeFor[enrol.Agent](),
		"leeward.pushes.v1": reflect.TypeFor[document[push.Result]](), "leeward.push.v1": reflect.TypeFor[push.Result](),
		"leeward.login.v1": reflect.TypeFor[session.Login](), "leeward.users.v1": reflect.TypeFor[document[session.User]](), "leeward.user.v1": reflect.TypeFor[session.User](),
		"leeward.endpoints.v1": reflect.TypeFor[document[api.Contract]](), "leeward.endpoint.v1": reflect.TypeFor[api.Contract](),
		"leeward.standbys.v1": reflect.TypeFor[document[standbyRow]](), "leeward.standby.v1": reflect.TypeFor[standbyDocument](),
		"leeward.azure.v1": reflect.TypeFor[document[azure.Made]](),
		"leeward.vault.v1": reflect.TypeFor[api.VaultInfo](), "leeward.vault-disks.v1": reflect.TypeFor[document[diskRow]](), "leeward.vault-objects.v1": reflect.TypeFor[document[objectRow]](),
		"leeward.vault-check.v1": reflect.TypeFor[checkDocument](), "leeward.vault-prune.v1": reflect.TypeFor[pruneDocument](),
		"leeward.vault-keys.v1": reflect.TypeFor[document[keyRow]](), "leeward.vault-key.v1": reflect.TypeFor[keyDocument](),
		"leeward.restore.v1": reflect.TypeFor[restored](), "leeward.mastertarget.v1": reflect.TypeFor[broughtHome](), "leeward.version.v1": reflect.TypeFor[Version](), SettingsSchema: reflect.TypeFor[Settings](),
	}
}

// Documents lists the schemas of what -o json prints, by name.
func Documents() []string { return slices.Sorted(maps.Keys(documents())) }

// DocumentSchema is the JSON Schema of a document; nil if there is none of that name.
func DocumentSchema(name string) json.RawMessage {
	t := documents()[name]
	if t == nil {
		return nil
	}
	return api.SchemaOf(t)
}
