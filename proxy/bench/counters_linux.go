package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

const (
	countersName = "counters"
	rulesName    = "rules"
)

// counters follows the engine's counters while bytes flow. It returns the longest
// time that they stood still, and fails if they are not exact in the end.
func (r *rig) counters(ctx context.Context, p peer) (still time.Duration, err error) {
	const each = 3 * time.Second // several of the intervals in which the engine counts
	now, err := r.counted(ctx, 0, p.name)
	if err != nil {
		return 0, err
	}
	first := now.in
	type outcome struct {
		sent float64
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		res, err := r.load(ctx, workload{load: "bulk", conns: 1}, p, each)
		done <- outcome{res.Work, err}
	}()
	var moves []time.Time
	ctx, cancel := context.WithTimeout(ctx, each+10*time.Second)
	defer cancel()
	var end *outcome
	for end == nil || now.in-first < int64(end.sent) {
		next, err := r.counted(ctx, now.next, p.name)
		if err != nil {
			return 0, fmt.Errorf("%d bytes of those sent were counted: %w", now.in-first, err)
		}
		if next.in != now.in {
			moves = append(moves, time.Now())
		}
		now = next
		select {
		case o := <-done:
			if end = &o; o.err != nil {
				return 0, o.err
			}
		default:
		}
	}
	if got := now.in - first; got != int64(end.sent) {
		return 0, fmt.Errorf("%d bytes were counted and %.0f sent", got, end.sent)
	}
	for i := range len(moves) - 1 {
		still = max(still, moves[i+1].Sub(moves[i]))
	}
	if still == 0 {
		return 0, errors.New("the counters moved only once")
	}
	return still, nil
}

// count is what an endpoint has counted.
type count struct {
	in   int64
	next uint64 // where to go on
}

// counted waits for a change of the endpoint's counter after since.
func (r *rig) counted(ctx context.Context, since uint64, endpoint string) (count, error) {
	for {
		o, err := r.engine.Observe(ctx, since)
		if err != nil {
			return count{}, err
		}
		at := slices.IndexFunc(o.Counters, func(c proxy.Counter) bool { return c.Endpoint == endpoint })
		if at >= 0 {
			return count{o.Counters[at].In, o.Next}, nil
		}
		if since == 0 {
			return count{0, o.Next}, nil
		}
		since = o.Next
	}
}

// judged takes the time of a security group's decision, in nanoseconds.
func judged(n int) float64 {
	const times = 200_000
	group := verdict.Group{ID: "sg", Rules: rules(n)}
	filter := verdict.Compile([]verdict.Group{group}, nil)
	flow := verdict.Flow{Source: clientAt, Protocol: verdict.TCP, Port: 443}
	began := time.Now()
	for range times {
		if !filter.Explain(flow).Accept {
			return 0 // rules ends with one that accepts
		}
	}
	return float64(time.Since(began).Nanoseconds()) / times
}
