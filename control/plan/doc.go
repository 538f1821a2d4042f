// Package plan is recovery plans: in which order machines are brought up, and what
// is done before and after each group of them.
//
// A Plan is a document (YAML or JSON, strict). Its stages run one after the other;
// the machines of a stage come up at once, after the stage's before steps and ahead of
// its after steps. The same plan runs as a test, a failover or a failback.
//
// A Run is what has become of one execution. Step is the whole of its logic: it takes
// an event and returns what to do next, reads no clock and does no I/O. A run is kept
// after every step, so that whoever carries it out may die at any moment: Resume
// starts again what was on its way, and what a step does must bear being done twice.
//
// Package control carries runs out.
package plan
