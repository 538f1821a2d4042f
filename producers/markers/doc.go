// Package markers makes consistency markers and publishes them on the shared
// subject of a group.
//
// A machine that cuts alone publishes its marker itself (Publish). Machines of a
// group cut together, in a barrier of five stages that a coordinator leads:
//
//	call      are you there and free?            answered at once
//	prepare   copy what changed, while all runs  answered when little is left
//	close     copy the rest once more            answered when done
//	freeze    stand still, catch every disk      answered when caught, still frozen
//	go        run on, publish the cuts           answered with the positions of the cuts
//
// The coordinator (Lead) goes to the next stage when every member has answered the
// one before. So between the last answer to freeze and the order to go there is an
// instant at which all members stood still, and a member takes its cut back if it
// did not stand still until it heard go. What one member's clients did because of
// what they saw on another is therefore never in a point without its cause, and no
// clock is compared with another.
//
// The point is all or none: the coordinator publishes the one marker that names all
// members only when all have answered go. A member that fails, is late, or is not
// heard of aborts the barrier; an order to abort thaws the others at once. Nobody
// has to hear it: each member thaws by itself when its bound is over, also when the
// coordinator is gone, and the guard of the agent thaws when the agent is gone.
//
// Orders go to leeward.barrier.<machine>.order, answers come from
// leeward.barrier.<machine>.report, both as JSON (Order, Report) over plain NATS:
// they mean nothing later, so no stream keeps them. Each machine has subjects of its
// own so that no member can speak for another, and so that joining or leaving a group
// changes nobody's permissions.
//
// Barrier is the coordinator's part without a bus or a clock, Join a member's part
// around a Machine. The package never freezes anything and never decides whether a
// point exists: that is control's, once the vault has confirmed every cut the marker
// names.
package markers
