package embed

import (
	"fmt"
	"log/slog"
	"sync"
)

// logger hands the server's own log to ours and keeps the first fatal line, which
// is the only place where the server says why it does not start.
type logger struct {
	log   *slog.Logger
	audit *audit // nil: nobody wants to know

	mu    sync.Mutex
	fatal string
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l *logger) Debugf(string, ...any)           {}
func (l *logger) Tracef(string, ...any)           {}

func (l *logger) Errorf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	if l.audit != nil {
		l.audit.line(line)
	}
	l.log.Error("nats: " + line)
}

func (l *logger) Fatalf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	l.mu.Lock()
	if l.fatal == "" {
		l.fatal = line
	}
	l.mu.Unlock()
	l.log.Error("nats: " + line)
}

func (l *logger) first() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}
