package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	dialTimeout   = 5 * time.Second // for each server that is tried
	listenTimeout = 5 * time.Second
	dialAttempts  = 3                     // servers that a flow tries
	acceptPause   = 50 * time.Millisecond // after an accept that failed, such as out of descriptors
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
	endpoint, zone, service         string
	active, flows, refused, in, out atomic.Int64
	posted                          Counter // guarded by the engine
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
		In: t.in.Load(), Out: t.out.Load(),
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
	flows map[*flow]struct{}
	empty chan struct{} // not nil: shut; closed when the last flow has left
}

// add is false once the set is shut.
func (s *flowSet) add(f *flow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty != nil {
		return false
	}
	if s.flows == nil {
		s.flows = map[*flow]struct{}{}
	}
	s.flows[f] = struct{}{}
	return true
}

func (s *flowSet) remove(f *flow) {
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
		f.end(reason)
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
		f.end(reason)
	}
	return s.empty
}

// door is one listening socket and the flows that came in by it.
type door struct {
	place
	owner  object
	engine *Local
	tally  *tally
	ln     net.Listener
	gate   atomic.Pointer[gate]
	flows  flowSet
	closed chan struct{}
	done   chan struct{} // accept has returned and the socket is gone
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
	d := &door{place: v.place, owner: o, engine: e, tally: v.tally, closed: make(chan struct{}), done: make(chan struct{})}
	d.gate.Store(v.gate)
	var err error
	if v.network == "" {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		d.ln, err = lc.Listen(ctx, "tcp", v.at.String())
	} else {
		d.ln, err = e.driver.Listen(ctx, v.network, v.at)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", v.at, err)
	}
	if e.doors[o] == nil {
		e.doors[o] = map[place]*door{}
	}
	e.doors[o][v.place], e.places[v.place] = d, d
	e.listeners.Add(1)
	go d.accept()
	return d, nil
}

// close ends the listener and every flow. On return the address is free; the
// channel closes when the last flow has gone.
func (d *door) close(reason string) <-chan struct{} {
	close(d.closed)
	_ = d.ln.Close()
	<-d.done
	return d.flows.shut(reason)
}

// accept serves every connection until the door is closed. After an error, such as
// out of descriptors, it pauses and goes on.
func (d *door) accept() {
	defer close(d.done)
	failing := false
	for {
		c, err := d.ln.Accept()
		if tc, ok := c.(*net.TCPConn); ok && err == nil {
			failing = false
			d.engine.flows.Go(func() { d.serve(tc) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_ = c.Close()
			err = errors.New("not a TCP connection")
		}
		if !failing {
			d.engine.log.Warn("accept", "network", d.network, "addr", d.at, "err", err)
		}
		failing = true
		select {
		case <-d.closed:
			return
		case <-time.After(acceptPause):
		}
	}
}

// serve takes one connection from accept to its record.
func (d *door) serve(c *net.TCPConn) {
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok { // gone already
		reset(c)
		return
	}
	g := d.gate.Load()
	f := newFlow(d.engine.life, c, d.tally, g.idle)
	defer f.stop()
	f.source = netip.AddrPortFrom(peer.AddrPort().Addr().Unmap(), peer.AddrPort().Port())
	if d.network != "" {
		f.source = d.engine.driver.Translate(d.network, f.source)
	}
	trace := verdict.Trace{Accept: true}
	if g.rules != nil {
		trace = g.rules.filter.Load().Explain(verdict.Flow{Source: f.source.Addr(), Protocol: verdict.TCP, Port: d.at.Port()})
	}
	var server string
	switch {
	case !trace.Accept:
		f.end(ReasonGroup)
	case !d.flows.add(f):
		f.end(ReasonGate)
	default:
		defer d.flows.remove(f)
		d.tally.active.Add(1)
		defer d.tally.active.Add(-1)
		server = d.forward(f, g.pool)
	}
	d.note(f, trace, server)
}

// forward finds a server that answers and carries the flow to it.
func (d *door) forward(f *flow, p *pool) (id string) {
	reason := ReasonNoServer
	key := flowKey{Client: f.source, Local: d.at, Endpoint: d.tally.endpoint}
	var tried []*server
	for f.ended() == "" && len(tried) < dialAttempts {
		s, from := p.pick(&key, tried)
		if s == nil {
			break
		}
		tried = append(tried, s)
		if !s.enter(f) {
			continue // removed this moment
		}
		id, reason = s.id, ReasonConnect
		ctx, cancel := context.WithTimeout(f.live, dialTimeout)
		c, err := d.engine.dial(ctx, s.host, from, s.address)
		cancel()
		switch {
		case err != nil:
			d.engine.log.Debug("connect", "server_group", s.group, "server", s.id, "err", err)
		case f.attach(c):
			d.tally.flows.Add(1)
			d.engine.active.Add(1)
			d.engine.forwarder.carry(f)
			d.engine.active.Add(-1)
		}
		s.leave(f)
	}
	f.end(reason)
	return id
}

// dial connects to an address of the host, or of a VPC from one of the VPC's own.
func (e *Local) dial(ctx context.Context, host bool, from origin, to netip.AddrPort) (*net.TCPConn, error) {
	var c net.Conn
	var err error
	if host {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", to.String())
	} else {
		c, err = e.driver.Dial(ctx, from.network, from.local, to)
	}
	if err != nil {
		return nil, err
	}
	tc, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("dial %v: not a TCP connection", to)
	}
	return tc, nil
}

// note counts a flow that never had two sides as refused, and records the end of
// an endpoint's flow.
func (d *door) note(f *flow, trace verdict.Trace, server string) {
	action := ActionAccept
	if !f.stood() {
		action = ActionReject
		d.tally.refused.Add(1)
	}
	if d.tally.endpoint == "" {
		return
	}
	end := d.engine.now()
	d.engine.records.Add(&Record{
		Protocol: verdict.TCP, Endpoint: d.tally.endpoint, Zone: d.tally.zone, Service: d.tally.service, Source: f.source, Address: d.at, Server: server,
		Start: end.Add(-time.Since(f.start)), End: end,
		In: f.in.Load(), Out: f.out.Load(), Action: action, Reason: f.ended(), Verdict: trace,
	})
}
