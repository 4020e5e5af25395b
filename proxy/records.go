package proxy

import (
	"context"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/flowlog"
	"github.com/openprivatelink/openprivatelink/proxy/forward"
)

const (
	flowsDir      = "flows" // below the engine's directory
	defaultWindow = 10 * time.Minute
	rowsOnce      = 1000                  // of windows; then the log gets time to write them
	rowsPause     = 20 * time.Millisecond // that much
)

func openRecords(cfg Config) (*flowlog.Log, error) {
	dir := cfg.Dir
	if dir != "" {
		dir = filepath.Join(dir, flowsDir)
	}
	return flowlog.Open(flowlog.Config{Dir: dir, Log: cfg.Log, Now: cfg.Now})
}

// Records implements [Engine].
func (e *Local) Records(ctx context.Context, q RecordQuery) (Records, error) {
	return e.records.Read(ctx, q)
}

// row is what the records of a flow say so far. The first record of a flow holds all
// of it, unless it lived for longer than a window.
type row struct {
	first uint64 // record of the flow; 0: none yet
	since time.Time
	moved moved
	final bool // the flow has ended
}

// moved is what has passed, by [forward.In] and [forward.Out].
type moved struct{ bytes, packets [2]int64 }

func newMoved(f *forward.Flow) (m moved) {
	for direction := range m.bytes {
		m.bytes[direction] = f.Moved[direction].Load()
		m.packets[direction] = f.Datagrams[direction].Load()
	}
	return m
}

// note counts a flow that has ended or was refused, and records it.
func (d *door) note(f *forward.Flow, s *session) {
	reason := f.Reason()
	d.engine.ends.count(reason)
	if !s.stands.Load() {
		d.tally.refused.Add(1)
		if reason == ReasonGroup {
			d.tally.denied.Add(1)
		}
	}
	s.record(reason)
}

// record writes what moved since the flow's last record. A reason other than
// [ReasonOpen] says that it was the last one.
func (s *session) record(reason string) {
	d := s.door
	if d.tally.endpoint == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.row.final {
		return
	}
	end := d.engine.now()
	r := Record{
		Flow: s.row.first, Window: reason == ReasonOpen, Protocol: d.protocol,
		Endpoint: d.tally.endpoint, Zone: d.tally.zone, Service: d.tally.service, Source: s.source, Address: s.address,
		Start: s.row.since, End: end, Action: ActionReject, Reason: reason, Verdict: s.verdict,
	}
	if r.Start.IsZero() {
		r.Start = end.Add(-time.Since(s.flow.Start))
	}
	if refusal := s.refusal.Load(); refusal != nil && reason == ReasonGroup {
		r.Verdict = *refusal
	}
	if s.verdict.Accept {
		r.LoadBalancer = s.gate.balancer
	}
	if s.server != nil {
		r.Server, r.Target = s.server.id, s.server.address
		if !s.server.host {
			r.Local = netip.AddrPortFrom(s.from.local, 0)
		}
	}
	if s.stands.Load() {
		r.Action, r.Told = ActionAccept, s.gate.proxy.Enabled
	}
	now, was := newMoved(s.flow), s.row.moved
	r.In, r.Out = now.bytes[forward.In]-was.bytes[forward.In], now.bytes[forward.Out]-was.bytes[forward.Out]
	r.PacketsIn, r.PacketsOut = now.packets[forward.In]-was.packets[forward.In], now.packets[forward.Out]-was.packets[forward.Out]
	seq := d.engine.records.Add(&r)
	s.row.final = !r.Window
	if seq == 0 {
		return // dropped; the next one covers it
	}
	s.row.since, s.row.moved = end, now
	if s.row.first == 0 {
		s.row.first = seq
	}
}

// recordWindows gives every flow that goes on a record each window, until the engine
// ends.
func (e *Local) recordWindows(window time.Duration) {
	for pause(e.life, window) == nil {
		e.recordOpen()
	}
}

// recordOpen gives every flow that goes on a record.
func (e *Local) recordOpen() {
	e.mu.Lock()
	doors := make([]*door, 0, len(e.places))
	for _, d := range e.places {
		doors = append(doors, d)
	}
	for _, parting := range e.closed {
		for d := range parting {
			doors = append(doors, d)
		}
	}
	e.mu.Unlock()
	rows := 0
	for _, d := range doors {
		for _, s := range d.flows.list() {
			if !s.stands.Load() {
				continue
			}
			s.record(ReasonOpen)
			if rows++; rows%rowsOnce == 0 && pause(e.life, rowsPause) != nil {
				return
			}
		}
	}
}

// reasons that flows end for or are refused by.
var reasons = []string{
	ReasonClosed, ReasonReset, ReasonIdle, ReasonUnreachable, ReasonRevoked, ReasonReplaced, ReasonRemoved, ReasonUnhealthy, ReasonShutdown,
	ReasonFull, ReasonFlows, ReasonGroup, ReasonGate, ReasonNoServer, ReasonConnect, ReasonCPS, ReasonMaxConnections, ReasonPorts, reasonOther,
}

const reasonOther = "other"

// reasonCounts counts flows by the reason of their end. It never grows.
type reasonCounts map[string]*atomic.Int64

func newReasonCounts() reasonCounts {
	c := reasonCounts{}
	for _, r := range reasons {
		c[r] = new(atomic.Int64)
	}
	return c
}

func (c reasonCounts) count(reason string) {
	n := c[reason]
	if n == nil {
		n = c[reasonOther]
	}
	n.Add(1)
}

// read returns the counts that are not 0.
func (c reasonCounts) read() map[string]int64 {
	out := map[string]int64{}
	for r, n := range c {
		if v := n.Load(); v > 0 {
			out[r] = v
		}
	}
	return out
}
