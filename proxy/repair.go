package proxy

import (
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	firstPause = time.Second // before what failed is tried again
	lastPause  = 30 * time.Second
	roundPause = 5 * time.Second // between two networks that are looked after
)

// repairs remembers what could not be made and when it is tried again, each object
// with its own growing pause.
type repairs struct {
	mu    sync.Mutex
	later map[object]*attempt
	wake  chan struct{}
}

type attempt struct {
	at    time.Time // zero while it is being tried
	pause time.Duration
}

func newRepairs() *repairs {
	return &repairs{later: map[object]*attempt{}, wake: make(chan struct{}, 1)}
}

// failed asks for another attempt at o.
func (r *repairs) failed(o object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.later[o]
	switch {
	case a == nil:
		a = &attempt{pause: firstPause}
		r.later[o] = a
	case a.at.IsZero():
		a.pause = min(2*a.pause, lastPause)
	default:
		return // it has its turn
	}
	a.at = time.Now().Add(a.pause)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// done forgets o: it stands, or shall not be any more.
func (r *repairs) done(o object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.later, o)
}

func (r *repairs) pending(o object) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.later[o] != nil
}

// due takes what is to be tried now, and says how long until the next.
func (r *repairs) due() (now []object, next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next = roundPause
	for o, a := range r.later {
		if a.at.IsZero() {
			continue
		}
		if d := time.Until(a.at); d > 0 {
			next = min(next, d)
			continue
		}
		a.at = time.Time{}
		now = append(now, o)
	}
	return now, next
}

// repair tries again what failed and looks after one network after the other, until
// the engine ends.
func (e *Local) repair() {
	last, looked := "", time.Now()
	for e.life.Err() == nil {
		if time.Since(looked) >= roundPause {
			last, looked = e.nextNetwork(last), time.Now()
			e.lookAfter(last)
		}
		now, next := e.repairs.due()
		for _, o := range now {
			switch o.kind {
			case aNetwork:
				e.makeNetwork(o.id)
				e.settleIn(o.id)
			case aCommand:
				e.mu.Lock()
				if a := e.attachments[o.id]; a != nil && len(a.Command) > 0 && !a.running {
					e.startCommand(o.id, a)
				}
				e.mu.Unlock()
			default:
				e.settle(o)
			}
		}
		e.lookOut()
		timer := time.NewTimer(next)
		select {
		case <-e.repairs.wake:
		case <-timer.C:
		case <-e.life.Done():
		}
		timer.Stop()
	}
}

// nextNetwork returns the id that follows last, round and round.
func (e *Local) nextNetwork(last string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := slices.Sorted(maps.Keys(e.snapshot.Networks))
	if len(ids) == 0 {
		return ""
	}
	at, found := slices.BinarySearch(ids, last)
	if found {
		at++
	}
	return ids[at%len(ids)]
}

// settleIn opens what could not be opened in a network before.
func (e *Local) settleIn(network string) {
	e.mu.Lock()
	var owners []object
	for o := range e.inNetwork[network] {
		if e.repairs.pending(o) {
			owners = append(owners, o)
		}
	}
	e.mu.Unlock()
	for _, o := range owners {
		e.settle(o)
	}
}
