package qemu

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// resumeTime is for QEMU to take the word that a guest may go on.
const resumeTime = 10 * time.Second

// settleEvery is how long what a guest has written may be lost with this process, if the
// guest does not flush it. A disk with a cache does not keep it longer either.
const settleEvery = 5 * time.Second

// settle flushes the overlays now and then until QEMU has ended.
func (r *Run) settle() {
	t := time.NewTicker(settleEvery)
	defer t.Stop()
	for {
		select {
		case <-r.proc.done:
			return
		case <-t.C:
		}
		for _, o := range r.overlays {
			if err := o.Flush(); err != nil {
				r.log.Error("what the guest writes is not kept", "err", err)
			}
		}
	}
}

// Pause makes the guest stand still. When it returns nil all that the guest has written is
// in its overlays, and flushed. The guest goes on when resume is called, which may be done
// twice, and at the latest when ctx ends.
func (r *Run) Pause(ctx context.Context) (resume func() error, err error) {
	goOn := sync.OnceValue(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), resumeTime)
		defer cancel()
		if err := r.mon.call(ctx, "cont", nil, nil); err != nil {
			return fmt.Errorf("let the guest go on: %w", err)
		}
		return nil
	})
	stop := context.AfterFunc(ctx, func() { _ = goOn() })
	if err := r.mon.call(ctx, "stop", nil, nil); err != nil {
		stop()
		_ = goOn() // it may have been heard
		return nil, fmt.Errorf("pause the guest: %w", err)
	}
	return func() error {
		stop()
		return goOn()
	}, nil
}

// Off ends the guest as Stop does, and QEMU, but leaves its overlays open until Stop: what
// it wrote is all there is ever going to be.
func (r *Run) Off(ctx context.Context) error {
	r.stopMu.Lock()
	defer r.stopMu.Unlock()
	if r.stopped {
		return fmt.Errorf("the machine was stopped already")
	}
	r.powerOff(ctx)
	quit, cancel := context.WithTimeout(context.WithoutCancel(ctx), quitTime)
	defer cancel()
	r.quit(quit)
	select {
	case <-r.proc.done:
	case <-quit.Done():
		r.proc.kill()
		<-r.proc.done
	}
	for _, o := range r.overlays {
		if err := o.Flush(); err != nil {
			return err
		}
	}
	return nil
}
