package vpc

import (
	"context"
	"fmt"
	"net"
	"runtime"
)

// thread is an OS thread that enters namespaces to do there what only a thread
// inside can: make sockets and set sysctls. It is locked for life and has no
// home, because in a user namespace it could not go back to the host's: between
// jobs it parks in an empty namespace, where it keeps no VPC alive.
type thread struct {
	jobs  chan job
	quit  chan struct{}
	ended chan struct{}
}

type job struct {
	where *namespace // nil: stay in the parking namespace
	do    func() error
	done  chan error
}

func startThread() (*thread, error) {
	t := &thread{jobs: make(chan job), quit: make(chan struct{}), ended: make(chan struct{})}
	ready := make(chan error)
	go t.run(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return t, nil
}

func (t *thread) run(ready chan<- error) {
	defer close(t.ended)
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	park, err := unshare()
	ready <- err
	if err != nil {
		return
	}
	defer park.close()
	for {
		select {
		case <-t.quit:
			return
		case j := <-t.jobs:
			err := error(nil)
			if j.where != nil {
				err = j.where.enter()
			}
			if err == nil {
				err = j.do()
			}
			if back := park.enter(); back != nil && err == nil {
				err = fmt.Errorf("leave the namespace: %w", back)
			}
			j.done <- err
		}
	}
}

// in runs do inside where, or in the parking namespace if where is nil. ctx bounds
// the wait for the thread; do itself must not block.
func (t *thread) in(ctx context.Context, where *namespace, do func() error) error {
	j := job{where, do, make(chan error, 1)}
	select {
	case t.jobs <- j:
		return <-j.done
	case <-ctx.Done():
		return ctx.Err()
	case <-t.ended:
		return net.ErrClosed
	}
}

func (t *thread) stop() {
	close(t.quit)
	<-t.ended
}
