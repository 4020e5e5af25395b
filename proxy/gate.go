package proxy

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/forward"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	listenTimeout = 5 * time.Second
	dialAttempts  = 3                 // servers that a flow tries
	defaultIdle   = 900 * time.Second // for listeners that say nothing
)

// place is where a door listens. No network means the host's own namespace.
type place struct {
	network string
	at      netip.AddrPort
}

// gate is what a new flow meets behind a door. It never changes: a change of the
// snapshot puts another one in its place.
type gate struct {
	rules *rules // nil: nobody is refused
	pool  *pool
	idle  time.Duration
}

// tally counts an endpoint's zone for as long as the engine knows it, over every
// time that it carries. Without an endpoint nobody asks for it.
type tally struct {
	endpoint, zone, service string
	active, flows, refused  atomic.Int64
	bytes                   forward.Bytes
	posted                  Counter // guarded by the engine
}

func newTally(endpoint, zone, service string) *tally {
	t := &tally{endpoint: endpoint, zone: zone, service: service}
	t.posted = t.counter()
	return t
}

func (t *tally) counter() Counter {
	return Counter{
		Endpoint: t.endpoint, Zone: t.zone,
		Active: t.active.Load(), Flows: t.flows.Load(), Refused: t.refused.Load(),
		In: t.bytes[forward.In].Load(), Out: t.bytes[forward.Out].Load(),
	}
}

// want is a door that shall be open.
type want struct {
	place
	zone  string // of the endpoint or load balancer
	tally *tally
	gate  *gate
	err   error // why the snapshot gives it nothing to lead to
}

// wants lists the doors that o shall have.
func (e *Local) wants(o object) (doors []want) {
	switch o.kind {
	case anEndpoint:
		ep := e.endpoints[o.id]
		if ep == nil || !ep.Carry {
			return nil
		}
		for _, z := range ep.Zones {
			if z.Carry {
				doors = append(doors, e.lead(z.LoadBalancer, z.Zone, ep.Network, z.Address, ep.tallies[z.Zone], ep.rules)...)
			}
		}
	case aBalancer: // its own address, for clients in its own VPC
		b := e.balancers[o.id]
		if b == nil {
			return nil
		}
		for _, z := range b.Zones {
			doors = append(doors, e.lead(o.id, z.Zone, b.Network, z.Address, b.tally, nil)...)
		}
	case anAttachment:
		if a := e.attachments[o.id]; a != nil && a.Kind == vpc.PublishedPort {
			doors = append(doors, want{place: place{at: a.Host}, tally: a.tally, gate: &gate{pool: a.pool, idle: defaultIdle}})
		}
	}
	return doors
}

// lead lists the doors at an address that lead to a load balancer in a zone, one
// for each listener.
func (e *Local) lead(balancer, zone, network string, at netip.Addr, t *tally, r *rules) (doors []want) {
	b := e.balancers[balancer]
	if n := e.networks[network]; n == nil || !n.wanted {
		return []want{{zone: zone, err: fmt.Errorf("there is no network %q", network)}}
	}
	if b == nil {
		return []want{{zone: zone, err: fmt.Errorf("there is no load balancer %q", balancer)}}
	}
	if !slices.ContainsFunc(b.Zones, func(z LBZone) bool { return z.Zone == zone }) {
		return []want{{zone: zone, err: fmt.Errorf("load balancer %q is not in zone %q", balancer, zone)}}
	}
	for _, l := range b.tcp {
		doors = append(doors, want{
			place: place{network, netip.AddrPortFrom(at, l.Port)},
			zone:  zone,
			tally: t,
			gate: &gate{
				rules: r,
				pool:  b.pools[poolKey{zone, l.ServerGroup}],
				idle:  cmp.Or(time.Duration(l.IdleTimeout)*time.Second, defaultIdle),
			},
		})
	}
	return doors
}

// swap puts the gates of o into its doors and closes the doors that shall not be.
// The caller holds mu.
func (e *Local) swap(o object, w *work) {
	wants := map[place]want{}
	for _, v := range e.wants(o) {
		if v.err == nil {
			wants[v.place] = v
		}
	}
	for at, d := range e.doors[o] {
		if v, ok := wants[at]; ok && v.tally == d.tally {
			d.gate.Store(v.gate)
			continue
		}
		w.parting = append(w.parting, d.close(ReasonRevoked))
		e.forget(d)
	}
}

// forget takes a closed door off the books. The caller holds mu.
func (e *Local) forget(d *door) {
	delete(e.doors[d.owner], d.place)
	if len(e.doors[d.owner]) == 0 {
		delete(e.doors, d.owner)
	}
	delete(e.places, d.place)
	e.listeners.Add(-1)
}

// settle opens the doors that o shall have and has not, and reports how it stands.
// What cannot be opened is tried again later.
func (e *Local) settle(o object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	faults := map[string][]string{} // by zone
	open := map[string]int{}
	retry := false
	for _, v := range e.wants(o) {
		d, err := e.doors[o][v.place], v.err
		if d == nil && err == nil {
			d, err = e.open(o, v)
			retry = retry || err != nil
		}
		if err != nil {
			faults[v.zone] = append(faults[v.zone], err.Error())
			continue
		}
		d.gate.Store(v.gate)
		open[v.zone]++
	}
	if retry {
		e.log.Warn("open listeners", "of", o.id, "faults", faults)
		e.repairs.failed(o)
	} else {
		e.repairs.done(o)
	}
	switch o.kind {
	case anEndpoint:
		if ep := e.endpoints[o.id]; ep != nil {
			e.board.post(o, ep.observed(open, faults))
		}
	case anAttachment:
		if a := e.attachments[o.id]; a != nil && a.Kind == vpc.PublishedPort {
			e.board.post(o, AttachmentObserved{ID: o.id, Up: len(faults) == 0, Error: strings.Join(faults[""], "; ")})
		}
	}
}

// flowSet holds the live flows of a door or a server until it is shut.
type flowSet struct {
	mu    sync.Mutex
	flows map[*forward.Flow]struct{}
	empty chan struct{} // not nil: shut; closed when the last flow has left
}

// add is false once the set is shut.
func (s *flowSet) add(f *forward.Flow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty != nil {
		return false
	}
	if s.flows == nil {
		s.flows = map[*forward.Flow]struct{}{}
	}
	s.flows[f] = struct{}{}
	return true
}

func (s *flowSet) remove(f *forward.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flows, f)
	if s.empty != nil && len(s.flows) == 0 {
		close(s.empty)
	}
}

// cut ends the flows inside; others may come.
func (s *flowSet) cut(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.flows {
		f.End(reason)
	}
}

// shut lets no flow in any more and ends those inside. It returns a channel that
// closes when all have left.
func (s *flowSet) shut(reason string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty == nil {
		s.empty = make(chan struct{})
		if len(s.flows) == 0 {
			close(s.empty)
		}
	}
	for f := range s.flows {
		f.End(reason)
	}
	return s.empty
}

// door is one listening socket and the flows that came in by it.
type door struct {
	place
	owner    object
	engine   *Local
	tally    *tally
	listener forward.Listener
	gate     atomic.Pointer[gate]
	flows    flowSet
}

// open listens at a place that nobody else has. The caller holds mu.
func (e *Local) open(o object, v want) (*door, error) {
	if e.life.Err() != nil {
		return nil, ErrAway
	}
	if d := e.places[v.place]; d != nil {
		return nil, fmt.Errorf("%v is in use by %s", v.at, d.owner.id)
	}
	ctx, cancel := context.WithTimeout(e.life, listenTimeout)
	defer cancel()
	d := &door{place: v.place, owner: o, engine: e, tally: v.tally}
	d.gate.Store(v.gate)
	fd, err := e.driver.Bind(ctx, v.network, v.at, vpc.SocketOptions{})
	if err == nil {
		d.listener, err = e.forwarder.Accept(fd, d)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", v.at, err)
	}
	if e.doors[o] == nil {
		e.doors[o] = map[place]*door{}
	}
	e.doors[o][v.place], e.places[v.place] = d, d
	e.listeners.Add(1)
	return d, nil
}

// close ends the listener and every flow. On return the address is free; the
// channel closes when the last flow has gone.
func (d *door) close(reason string) <-chan struct{} {
	d.listener.Close()
	return d.flows.shut(reason)
}

// session is a flow that was let in, on its way to a server and back.
type session struct {
	door    *door
	pool    *pool
	source  netip.AddrPort // as the consumer's network knows it
	verdict verdict.Trace
	server  *server // that has it, or was tried last
	tried   [dialAttempts]*server
	tries   int
	inside  bool // counted as the server's
	stands  bool
}

// Admit implements [forward.Door].
func (d *door) Admit(f *forward.Flow) forward.Session {
	g := d.gate.Load()
	s := &session{door: d, pool: g.pool, source: f.Source, verdict: verdict.Trace{Accept: true}}
	if d.network != "" {
		s.source = d.engine.driver.Translate(d.network, f.Source)
	}
	if g.rules != nil {
		s.verdict = g.rules.filter.Load().Explain(verdict.Flow{Source: s.source.Addr(), Protocol: verdict.TCP, Port: d.at.Port()})
	}
	f.Idle, f.Sum = g.idle, &d.tally.bytes
	switch {
	case f.Reason() != "":
	case !s.verdict.Accept:
		f.End(ReasonGroup)
	case !d.flows.add(f):
		f.End(ReasonGate)
	default:
		d.engine.flows.Add(1)
		d.tally.active.Add(1)
		return s
	}
	d.note(f, s)
	return nil
}

// Next implements [forward.Session].
func (s *session) Next(f *forward.Flow) (forward.Target, bool) {
	key := flowKey{Client: s.source, Local: s.door.at, Endpoint: s.door.tally.endpoint}
	for s.tries < dialAttempts {
		next, from := s.pool.pick(&key, s.tried[:s.tries])
		if next == nil {
			break
		}
		s.tried[s.tries] = next
		s.tries++
		if !next.enter(f) {
			continue // removed this moment
		}
		s.server, s.inside = next, true
		if next.host {
			return forward.Target{To: next.address}, true
		}
		return forward.Target{Network: from.network, From: from.local, To: next.address}, true
	}
	if s.server == nil {
		f.End(ReasonNoServer)
	} else {
		f.End(ReasonConnect)
	}
	return forward.Target{}, false
}

// Failed implements [forward.Session].
func (s *session) Failed(f *forward.Flow, err error) {
	s.inside = false
	s.server.leave(f)
	s.door.engine.log.Debug("connect", "server_group", s.server.group, "server", s.server.id, "err", err)
}

// Stands implements [forward.Session].
func (s *session) Stands(*forward.Flow) {
	s.stands = true
	s.door.tally.flows.Add(1)
	s.door.engine.active.Add(1)
}

// Ended implements [forward.Session].
func (s *session) Ended(f *forward.Flow) {
	d := s.door
	if s.stands {
		d.engine.active.Add(-1)
	}
	d.tally.active.Add(-1)
	d.note(f, s)
	if s.inside {
		s.server.leave(f)
	}
	d.flows.remove(f)
	d.engine.flows.Done()
}

// note counts a flow that never had two sides as refused, and records the end of
// an endpoint's flow.
func (d *door) note(f *forward.Flow, s *session) {
	action := ActionAccept
	if !s.stands {
		action = ActionReject
		d.tally.refused.Add(1)
	}
	if d.tally.endpoint == "" {
		return
	}
	server := ""
	if s.server != nil {
		server = s.server.id
	}
	end := d.engine.now()
	d.engine.records.Add(&Record{
		Protocol: verdict.TCP, Endpoint: d.tally.endpoint, Zone: d.tally.zone, Service: d.tally.service, Source: s.source, Address: d.at, Server: server,
		Start: end.Add(-time.Since(f.Start)), End: end,
		In: f.Moved[forward.In].Load(), Out: f.Moved[forward.Out].Load(), Action: action, Reason: f.Reason(), Verdict: s.verdict,
	})
}

// dial connects to an address of the host, or of a VPC from one of the VPC's own.
func (e *Local) dial(ctx context.Context, host bool, from origin, to netip.AddrPort) (net.Conn, error) {
	if host {
		return new(net.Dialer).DialContext(ctx, "tcp", to.String())
	}
	return e.driver.Dial(ctx, from.network, from.local, to)
}
