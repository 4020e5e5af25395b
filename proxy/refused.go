package proxy

import (
	"errors"

	"golang.org/x/net/bpf"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// A connection that the security groups refuse is dropped by the filter of the
// door's socket: the port does not look open. The engine sees it by a watch of the
// network. The verdict at accept stays: it decides where there is no filter, and in
// the moment in which one is replaced.

// watchMemory is how many first packets a watch remembers, to know one that is sent
// again.
const watchMemory = 4096

// watch is for what the doors of one network drop. The engine's mu guards it.
type watch struct {
	doors  set[*door] // with a filter
	socket vpc.Watch  // nil until it is open
	known  set[vpc.Opening]
	ring   []vpc.Opening // of known, the oldest at next once it is full
	next   int
}

// again reports whether o was seen before, and remembers it.
func (w *watch) again(o vpc.Opening) bool {
	if _, known := w.known[o]; known {
		return true
	}
	if len(w.ring) < watchMemory {
		w.ring = append(w.ring, o)
	} else {
		delete(w.known, w.ring[w.next])
		w.ring[w.next] = o
		w.next = (w.next + 1) % watchMemory
	}
	w.known.add(o)
	return false
}

// filterFor is the program for the socket of a door there, with that gate; nil if it needs
// none or cannot have one. The caller holds mu.
func (e *Local) filterFor(g *gate, p place) []bpf.RawInstruction {
	if g.rules == nil || p.protocol != verdict.TCP || !e.driver.Capabilities().Filters {
		return nil
	}
	return g.rules.program(p.at.Port())
}

// screened notes that the door's socket has the program of its rules, as they are
// now, or none. The caller holds mu.
func (e *Local) screened(d *door, filtered bool) {
	if g := d.gate.Load(); g.rules != nil {
		d.filter = g.rules.filter.Load()
	}
	w := e.watches[d.network]
	if w == nil {
		if !filtered {
			return
		}
		w = &watch{doors: set[*door]{}, known: set[vpc.Opening]{}}
		e.watches[d.network] = w
	}
	delete(w.doors, d)
	if d.filtered = filtered; filtered {
		w.doors.add(d)
	}
	e.unwatched.add(d.network)
}

// enforce makes the doors of an endpoint refuse what its rules refuse, and ends its
// live flows that they refuse if it rechecks them. The caller holds mu.
func (e *Local) enforce(id string) {
	o := object{anEndpoint, id}
	ep := e.endpoints[id]
	if ep == nil {
		return
	}
	filter := ep.rules.filter.Load()
	for _, d := range e.doors[o] {
		if d.filter == filter || d.listener == nil { // a range has no socket of its own
			continue
		}
		program := e.filterFor(d.gate.Load(), d.place)
		if program == nil && !d.filtered {
			continue
		}
		err := d.listener.Filter(program)
		if err != nil {
			e.log.Warn("filter", "network", d.network, "addr", d.at, "err", err)
			_ = d.listener.Filter(nil) // rather than that of other rules
		}
		e.screened(d, program != nil && err == nil)
	}
	if !ep.Recheck {
		return
	}
	for _, d := range e.doors[o] {
		d.recheck(filter)
	}
	for d := range e.closed[o] {
		d.recheck(filter)
	}
}

// recheck ends the flows that filter refuses.
func (d *door) recheck(filter *verdict.Filter) {
	d.flows.cut(ReasonGroup, func(s *session) bool {
		trace := filter.Explain(verdict.Flow{Source: s.source.Addr(), Protocol: d.protocol, Port: s.address.Port()})
		if !trace.Accept {
			s.refusal.Store(&trace)
		}
		return !trace.Accept
	})
}

// lookOut makes the watches see what the doors drop now.
func (e *Local) lookOut() {
	for _, w := range e.adjustWatches() {
		_ = w.Close() // not under mu, which what it has seen waits for
	}
}

// adjustWatches returns the watches that nobody needs.
func (e *Local) adjustWatches() (idle []vpc.Watch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for network := range e.unwatched {
		w := e.watches[network]
		if len(w.doors) == 0 {
			if w.socket != nil {
				idle = append(idle, w.socket)
			}
			delete(e.watches, network)
			delete(e.unwatched, network)
			continue
		}
		var err error
		if w.socket == nil {
			w.socket, err = e.driver.Watch(e.life, network, func(o vpc.Opening) { e.dropped(network, o) })
		}
		if err == nil {
			var doors []verdict.Door
			for d := range w.doors {
				doors = append(doors, verdict.Door{Address: d.at, Filter: d.filter})
			}
			err = w.socket.Filter(verdict.Refused(doors))
		}
		if err == nil {
			delete(e.unwatched, network)
		} else if !errors.Is(err, vpc.ErrNoNetwork) { // which is about to be made
			e.log.Warn("watch", "network", network, "err", err) // refused connections are not recorded until something changes
		}
	}
	return idle
}

// dropped counts and records a connection that a door's filter dropped, once.
func (e *Local) dropped(network string, o vpc.Opening) {
	e.mu.Lock()
	w, d := e.watches[network], e.places[place{network: network, protocol: verdict.TCP, at: o.To}]
	if w == nil || d == nil || !d.filtered {
		e.mu.Unlock()
		return
	}
	trace := d.filter.Explain(verdict.Flow{Source: o.Source.Addr(), Protocol: verdict.TCP, Port: o.To.Port()})
	first := !trace.Accept && !w.again(o)
	e.mu.Unlock()
	if !first {
		return
	}
	e.ends.count(ReasonGroup)
	d.tally.refused.Add(1)
	d.tally.denied.Add(1)
	now := e.now()
	e.records.Add(&Record{
		Protocol: verdict.TCP, Endpoint: d.tally.endpoint, Zone: d.tally.zone, Service: d.tally.service,
		Source: o.Source, Address: d.at, Start: now, End: now, Action: ActionReject, Reason: ReasonGroup, Verdict: trace,
	})
}
