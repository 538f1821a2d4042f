package cli

import (
	"fmt"
	"io"
	"time"
)

// progress shows how far long work is: one line that is redrawn on a terminal, a
// plain line every ten seconds elsewhere.
type progress struct {
	w      io.Writer
	width  int
	tty    bool
	drawn  bool
	last   time.Time
	start  time.Time
	what   string
	before int64 // done when what began
}

func newProgress(w io.Writer) *progress {
	width, tty := terminal(w)
	return &progress{w: w, width: width, tty: tty, last: time.Now()}
}

// say prints a line that stays.
func (p *progress) say(format string, args ...any) {
	p.erase()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// show tells how far what is. Calls may come at any rate.
func (p *progress) show(what string, done, total int64) {
	now := time.Now()
	if what != p.what {
		p.what, p.start, p.before = what, now, done
	}
	pause := 10 * time.Second
	if p.tty {
		pause = 100 * time.Millisecond
	}
	if now.Sub(p.last) < pause {
		return
	}
	p.last = now
	text := p.text(now, done, total)
	if !p.tty {
		fmt.Fprintln(p.w, text)
		return
	}
	if len(text) >= p.width {
		text = text[:p.width-1]
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", text)
	p.drawn = true
}

func (p *progress) text(now time.Time, done, total int64) string {
	if total <= 0 {
		return fmt.Sprintf("%s %s", p.what, size(max(done, 0)))
	}
	text := fmt.Sprintf("%s %d%% %s/%s", p.what, 100*done/total, size(done), size(total))
	took := now.Sub(p.start).Seconds()
	if took < 0.5 || done <= p.before {
		return text
	}
	rate := float64(done-p.before) / took
	return fmt.Sprintf("%s %s/s ETA %s", text, size(int64(rate)), seconds(float64(total-done)/rate))
}

func (p *progress) erase() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *progress) done() { p.erase() }
