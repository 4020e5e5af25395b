package vpc

import (
	"context"
	"fmt"
	"net"
	"runtime"
)

// visitor is the calling thread as one that enters namespaces. It has no home,
// because in a user namespace it could not go back to the host's: in between it
// parks in an empty namespace, where it keeps no VPC alive.
type visitor struct{ park *namespace }

// visit parks the calling thread, which must be locked for life.
func visit() (visitor, error) {
	park, err := unshare()
	return visitor{park}, err
}

func (v visitor) leave() error {
	if err := v.park.enter(); err != nil {
		return fmt.Errorf("leave the namespace: %w", err)
	}
	return nil
}

// Thread implements [Driver].
func (d *namespaces) Thread() (Thread, error) {
	v, err := visit()
	if err != nil {
		return nil, err
	}
	return threadIn{v, d}, nil
}

type threadIn struct {
	visitor
	d *namespaces
}

func (t threadIn) Enter(network string) error {
	ns, err := t.d.routerOf(network)
	if err != nil {
		return err
	}
	if err := ns.enter(); err != nil {
		return fmt.Errorf("enter network %s: %w", network, err)
	}
	return nil
}

func (t threadIn) Leave() error { return t.leave() }
func (t threadIn) Close()       { t.park.close() }

// thread is a visitor that works for others: it makes sockets and sets sysctls.
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
	v, err := visit()
	ready <- err
	if err != nil {
		return
	}
	defer v.park.close()
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
			if back := v.leave(); back != nil && err == nil {
				err = back
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
