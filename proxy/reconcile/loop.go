// Package reconcile makes the running engine match the domain and reports back.
// It is the only code that imports both: wants go one way, as changes of one
// snapshot, and facts come the other way, as observations.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/proxy"
)

const (
	// lookEvery is how late a change of another process is seen at most, whose wake-up did not reach this one.
	lookEvery = 5 * time.Second
	// resyncEvery is how often everything is read and sent again.
	resyncEvery = 10 * time.Minute
	// retryAfter is the pause after a pass that failed.
	retryAfter = 100 * time.Millisecond
	// observeFor is how long one question for observations may wait for an answer.
	observeFor = 30 * time.Second
	// refsAtOnce bounds what one pass patches; beyond it everything is read anew.
	refsAtOnce = 2000
)

// Loop carries wants to the engine and facts to the domain. The zero value with
// Source and Engine set is ready; it also answers the questions that the domain
// asks the data plane.
type Loop struct {
	Source *domain.System
	Engine proxy.Engine
	Log    *slog.Logger

	mu       sync.Mutex
	counters map[string]map[string]proxy.Counter // by endpoint and zone
	totals   totals

	// Of the goroutine that applies:
	revision   int64  // of the domain, that the engine knows
	generation uint64 // of the engine's snapshot; 0: send everything
	full       time.Time
}

// totals are what /metrics tells of the loop itself.
type totals struct {
	passes, failures, resyncs int64
	generation                uint64
	engineUp                  bool
}

// Run works until ctx ends. What fails is logged and tried again.
func (l *Loop) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { l.observe(ctx) })
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	failing := false
	for {
		err := l.pass(ctx)
		if ctx.Err() != nil {
			return nil
		}
		l.count(err)
		if err != nil {
			if !failing { // once, until it works again
				l.Log.ErrorContext(ctx, "reconcile", "err", err)
			}
			failing = true
			if !pause(ctx, retryAfter) {
				return nil
			}
			continue
		}
		if failing {
			l.Log.InfoContext(ctx, "reconcile works again")
		}
		failing = false
		select {
		case <-ctx.Done():
			return nil
		case <-l.Source.Wake():
		case <-look.C:
		}
	}
}

// pass sends the engine what it does not know yet.
func (l *Loop) pass(ctx context.Context) error {
	if l.generation == 0 || time.Since(l.full) > resyncEvery {
		return l.resync(ctx)
	}
	refs, next, complete, err := l.Source.ChangedSince(ctx, l.revision, refsAtOnce)
	if err != nil {
		return err
	}
	if !complete {
		return l.resync(ctx)
	}
	if len(refs) == 0 {
		l.revision = next
		return nil
	}
	set, gone, err := read(ctx, l.Source, refs)
	if err != nil {
		return err
	}
	err = l.Engine.Apply(ctx, proxy.Change{Base: l.generation, Generation: l.generation + 1, Set: set, Delete: gone})
	if errors.Is(err, proxy.ErrGeneration) { // another engine, or one that lost our last answer
		return l.resync(ctx)
	}
	if err != nil {
		return err
	}
	l.generation++
	l.revision = next
	return nil
}

// resync sends everything. What the engine has already does not change by that.
func (l *Loop) resync(ctx context.Context) error {
	l.generation = 0
	status, err := l.Engine.Status(ctx)
	if err != nil {
		return err
	}
	revision, err := l.Source.Revision(ctx) // before the rows: what changes meanwhile is sent again
	if err != nil {
		return err
	}
	set, _, err := read(ctx, l.Source, nil)
	if err != nil {
		return err
	}
	generation := status.Generation + 1
	if err := l.Engine.Apply(ctx, proxy.Change{Generation: generation, Set: set}); err != nil {
		return err
	}
	l.generation, l.revision, l.full = generation, revision, time.Now()
	l.mu.Lock()
	l.totals.resyncs++
	l.mu.Unlock()
	return nil
}

func (l *Loop) count(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.passes++
	if err != nil {
		l.totals.failures++
	}
	l.totals.generation = l.generation
}

// observe brings the engine's facts to the domain. A fact that could not be
// reported is asked for again.
func (l *Loop) observe(ctx context.Context) {
	var since uint64
	for ctx.Err() == nil {
		o, err := l.ask(ctx, since)
		l.mu.Lock()
		l.totals.engineUp = err == nil
		l.mu.Unlock()
		if err == nil {
			err = l.Source.Report(ctx, report(o))
		}
		if err == nil {
			l.keep(o, since == 0)
			since = o.Next
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, proxy.ErrAway) {
			l.Log.ErrorContext(ctx, "observe engine", "err", err)
		}
		if !pause(ctx, retryAfter) {
			return
		}
	}
}

func (l *Loop) ask(ctx context.Context, since uint64) (proxy.Observations, error) {
	ctx, cancel := context.WithTimeout(ctx, observeFor)
	defer cancel()
	return l.Engine.Observe(ctx, since)
}

// keep remembers counters; all says that o holds every one there is.
func (l *Loop) keep(o proxy.Observations, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counters == nil || all {
		l.counters = map[string]map[string]proxy.Counter{}
	}
	for _, c := range o.Counters {
		if l.counters[c.Endpoint] == nil {
			l.counters[c.Endpoint] = map[string]proxy.Counter{}
		}
		l.counters[c.Endpoint][c.Zone] = c
	}
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
