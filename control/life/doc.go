// Package life is the life cycle of one protected machine: where it stands between
// "protected at home" and "back home", what may be done next, and what a cancel undoes.
// It is pure: Step(event) changes a Life and says whether its phase has work to do. Who
// carries it out keeps the Life before that work begins, and reports Done or Fail.
//
//	phase                 work of the phase           done                 failed               cancel
//	protected             -                           start: checking      disable: disabling   -
//	checking              choose and check the point  draining¹ | fencing  protected            protected
//	draining              final point, wait for it    fencing              releasing            releasing
//	fencing               fence the source            stopping² | bringing releasing            releasing
//	stopping-source       run the operator's command  bringing             bringing             releasing
//	bringing-up           bring up from the point     failed-over          failover-failed      cancelling
//	failed-over           -                           commit: committed    change: changing     cancelling
//	failover-failed       -                                                change: changing     cancelling
//	changing-point        end the machine             bringing-up          failover-failed      cancelling
//	cancelling            end the machine             releasing            again                -
//	releasing-source      take the fence away         protected            again                -
//	committed             -                           reprotect, complete                       -
//	re-protecting         send what changes back      failback-ready       ending-re-protection the same
//	failback-ready        -                           failback: failing-back                    ending-re-protection
//	ending-re-protection  stop that                   committed            again                -
//	failing-back          final point, write at home  failed-back          cancelling-failback  the same
//	failed-back           -                           commit: settling                          cancelling-failback
//	cancelling-failback   start the machine again     failback-ready       again                -
//	settling-at-home      end the machine, unfence    protected            again                -
//	completing            let go of what leads home   migrated             again                -
//	migrated              -
//	disabling             fence, drop the history³    not-protected        again                -
//	not-protected         -                           enable: releasing                         -
//
//	¹ if the failover is planned  ² if a command was given  ³ if that was asked for
//
// Test failovers are no phase: they may run beside any of them and change nothing.
//
// Work that fails "again" is repeated, ever more rarely, until it succeeds: it only
// cleans up, and a machine must not be left half way. Work may be done twice, when
// control dies between doing it and keeping that it is done: all of it must be safe to
// repeat. A report of work that was cancelled or begun anew meanwhile changes nothing.
//
// What always holds, whatever is cancelled and whenever control dies:
//
//   - a copy of the machine with a network runs only while its source is fenced;
//   - a machine that is protected has no fence and no copy.
//
// The package knows no bus, no vault and no target, and reads no clock.
package life
