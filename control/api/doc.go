// Package api is the door to control: a NATS micro service named leeward-control
// with JSON in and out, and the typed client that the CLI and the console use.
// Whatever they can do, `nats req leeward.api.<noun>.<verb> '{…}'` can do.
//
//	subject                        request              answer
//	leeward.api.status.show        {}                   Status
//	leeward.api.machine.ls         Query                Machines, in pages
//	leeward.api.machine.show       {"machine"}          Machine
//	leeward.api.point.ls           Query                Points, in pages, oldest first
//	leeward.api.point.show         {"id"}               Point
//	leeward.api.point.trace        {"id"}               Trace
//	leeward.api.event.ls           Query                Events, in pages, oldest first
//	leeward.api.failover.test      failover.Request     failover.Job at once; idempotent by request_id
//	leeward.api.failover.cleanup   {"id"}               failover.Job when it is cleaned, or after 20 s while it is being cleaned: then watch it
//	leeward.api.job.ls             Query                Jobs, in pages, oldest first
//	leeward.api.job.show           {"id", "after"}      failover.Job; with after: when its revision is greater, or after 20 s
//	leeward.api.job.note           NoteRequest          failover.Job
//	leeward.api.evidence.show      EvidenceRequest      Evidence: what the job's machine says and shows
//	leeward.api.vault.info         {}                   VaultInfo
//	leeward.api.stream.ls          {}                   Streams
//	leeward.api.token.new          NewToken             enrol.Token with its text, shown once
//	leeward.api.token.ls           {}                   enrol.Tokens without secrets, in pages, oldest first
//	leeward.api.token.rm           {"id"}               {}
//	leeward.api.agent.ls           {}                   enrol.Agents, in pages
//	leeward.api.agent.revoke       {"machine"}          enrol.Agent when the servers refuse it
//	leeward.api.agent.push         PushNote             {}; the audit trail keeps that agents are pushed over SSH
//
//	leeward.api.point.pin          {"id", "name"}       Point
//	leeward.api.point.unpin        {"id"}               Point
//	leeward.api.group.ls|show      Query | {"id"}       Groups | Group
//	leeward.api.group.change       GroupChange          Group
//	leeward.api.group.delete       {"id"}               {}
//	leeward.api.policy.ls|show     Query | {"id"}       Policies | Policy
//	leeward.api.policy.apply       policy.Document      Policies; all of it or nothing
//	leeward.api.policy.delete      {"id"}               {}
//	leeward.api.plan.ls|versions   Query | {"id"}       Plans
//	leeward.api.plan.apply         plan.Plan            Plan, a new version
//	leeward.api.plan.delete        {"id"}               {}
//	leeward.api.plan.forecast      RunRequest           plan.DryRun
//	leeward.api.plan.run           RunRequest           plan.Run at once; idempotent by request_id
//	leeward.api.run.ls|show        Query | {"id"}       Runs | plan.Run
//	leeward.api.run.answer         Answer               plan.Run
//	leeward.api.run.cancel         {"id"}               plan.Run
//	leeward.api.notify.show|set    {} | notify.Config   notify.Config | {}
//	leeward.api.notify.test        {}                   notify.Report
//	leeward.api.audit.ls           Query                Records, in pages, oldest first
//	leeward.api.schema.ls|show     {} | {"id"}          Contracts | Contract: what an endpoint takes and answers, as JSON Schema
//	leeward.api.fence.ls           Query                Fences
//	leeward.api.fence.lift         FenceRequest         Fence; only one that nothing needs
//	leeward.api.failover.*.admin                        as without; may name commands, files and devices of control's host
//
//	leeward.api.session.<role>     {}                   session.Login: a one-time code for the console
//	leeward.api.session.redeem     {"secret"}           session.Session with its secret; uses the code up
//	leeward.api.session.password   {"name","password"}  session.Session with its secret
//	leeward.api.session.check      {"secret"}           session.Session
//	leeward.api.session.end        {"secret"}           {}
//	leeward.api.user.ls            {}                   session.Users
//	leeward.api.user.set           UserRequest          session.User
//	leeward.api.user.delete        {"id"}               {}
//	leeward.api.history.show       {"machine"}          History
//	leeward.api.process.ls         {}                   ProcessServers
//
// Every request whose verb changes something is kept in the stream AUDIT with who
// asked, what, and what came of it; say who you are in the header Leeward-Actor. Of
// session and user only the name is kept, never what was sent.
//
// The least role that may ask for something is in its Contract; package trust has the
// table, and the servers hold everybody to it.
//
// An answer that would not fit a message carries a cursor in next: ask again with
// it. An error answer has the micro service headers, its code being one of Code,
// and an Error as its body.
//
// JSON is snake_case, times are RFC 3339 UTC, sizes are bytes and durations are
// seconds. Every document names its schema; fields are added, never removed or
// given another meaning, while the schema's name stays.
//
// This package decides nothing: Backend does.
package api
