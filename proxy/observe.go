package proxy

import (
	"context"
	"reflect"
	"sync"
	"time"
)

const (
	observeBatch    = 5000                 // facts in one answer; the next call gets the rest at once
	counterInterval = time.Second          // at most this often
	observeGather   = 2 * time.Millisecond // after the first news, so that what comes together is told together
)

// kind of an object.
type kind uint8

const (
	aNetwork kind = iota
	anAttachment
	aBalancer
	anEndpoint
	aServer
	aCounter
	aCommand
)

// object names a thing of the snapshot: what doors belong to, what facts are about
// and what is tried again.
type object struct {
	kind kind
	id   string // of a server: group and id; of a counter: endpoint and zone; of a command: its attachment
}

func within(k kind, outer, inner string) object { return object{k, outer + "/" + inner} }

// board holds the newest fact about each object, in the order in which they
// changed. A fact that changes again moves to the end, so that the board is as
// large as the snapshot, however long nobody reads it.
type board struct {
	mu    sync.Mutex
	facts map[object]*fact
	ring  fact // head of a circle: next is the oldest, prev the newest
	seq   uint64
	wake  chan struct{} // closed and replaced by each change
}

type fact struct {
	about      object
	seq        uint64
	value      any
	prev, next *fact
}

// newBoard starts to count at start, so that numbers of a former board are old
// to this one.
func newBoard(start time.Time) *board {
	b := &board{facts: map[object]*fact{}, seq: uint64(start.UnixMicro()), wake: make(chan struct{})}
	b.ring.prev, b.ring.next = &b.ring, &b.ring
	return b
}

// post makes value the newest fact about o, if it is news.
func (b *board) post(o object, value any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.facts[o]
	switch {
	case f == nil:
		f = &fact{about: o}
		b.facts[o] = f
	case reflect.DeepEqual(f.value, value):
		return
	default:
		f.unlink()
	}
	b.seq++
	f.seq, f.value = b.seq, value
	f.prev, f.next = b.ring.prev, &b.ring
	f.prev.next, f.next.prev = f, f
	close(b.wake)
	b.wake = make(chan struct{})
}

// about returns the newest fact about o, or nil.
func (b *board) about(o object) any {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.facts[o]; f != nil {
		return f.value
	}
	return nil
}

// drop forgets o.
func (b *board) drop(o object) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.facts[o]; f != nil {
		f.unlink()
		delete(b.facts, o)
	}
}

func (f *fact) unlink() { f.prev.next, f.next.prev = f.next, f.prev }

// since collects what is newer, oldest first, and a channel that closes with the
// next change.
func (b *board) since(seq uint64) (Observations, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if seq > b.seq {
		seq = 0 // the number of a board whose clock was ahead
	}
	first := &b.ring
	for first.prev != &b.ring && first.prev.seq > seq {
		first = first.prev
	}
	o := Observations{Next: b.seq}
	n := 0
	for f := first; f != &b.ring; f = f.next {
		if n++; n > observeBatch {
			break
		}
		o.Next = f.seq
		o.add(f.value)
	}
	return o, b.wake
}

func (o *Observations) add(value any) {
	switch v := value.(type) {
	case EndpointObserved:
		o.Endpoints = append(o.Endpoints, v)
	case ServerObserved:
		o.Servers = append(o.Servers, v)
	case AttachmentObserved:
		o.Attachment = append(o.Attachment, v)
	case NetworkObserved:
		o.Networks = append(o.Networks, v)
	case Counter:
		o.Counters = append(o.Counters, v)
	}
}

func (o *Observations) empty() bool {
	return len(o.Endpoints)+len(o.Servers)+len(o.Attachment)+len(o.Networks)+len(o.Counters) == 0
}

// Observe implements [Engine].
func (e *Local) Observe(ctx context.Context, since uint64) (Observations, error) {
	for {
		next := e.count()
		o, wake := e.board.since(since)
		o.Generation = e.generation.Load()
		if since == 0 || !o.empty() {
			return o, nil
		}
		if e.wait(ctx, wake, next) {
			e.wait(ctx, nil, observeGather)
		}
		if err := ctx.Err(); err != nil {
			return Observations{Next: since, Generation: o.Generation}, err
		}
		if e.life.Err() != nil {
			return Observations{}, ErrAway
		}
	}
}

// wait returns whether wake came before d was over, ctx ended or the engine did.
func (e *Local) wait(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
		return true
	case <-timer.C:
	case <-ctx.Done():
	case <-e.life.Done():
	}
	return false
}

// count posts the counters that moved, unless that was done less than
// counterInterval ago. It returns the time until it is due again. Only who
// observes pays for it.
func (e *Local) count() time.Duration {
	e.counting.Lock()
	defer e.counting.Unlock()
	if age := time.Since(e.counted); age < counterInterval {
		return counterInterval - age
	}
	e.counted = time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ep := range e.endpoints {
		for _, t := range ep.tallies {
			if c := t.counter(); c != t.posted {
				t.posted = c
				e.board.post(within(aCounter, t.endpoint, t.zone), c)
			}
		}
	}
	return counterInterval
}
