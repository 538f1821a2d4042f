// Package timing counts how long things take.
//
// A Histogram has fixed bounds, the same for everything, so that what agents,
// process servers and control have counted can be put side by side, and so that
// counting allocates nothing. It never says what was counted: names belong to who
// shows it.
package timing
