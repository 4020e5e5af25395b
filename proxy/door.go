package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/forward"
	"github.com/openprivatelink/openprivatelink/proxy/pp2"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	listenTimeout = 5 * time.Second
	dialAttempts  = 3 // servers that a flow tries
)

// door is one listening socket, or one range of ports in the hall of its network,
// and the flows that came in by it.
type door struct {
	place
	owner    object
	engine   *Local
	tally    *tally
	zone     string // of the endpoint or load balancer
	era      int64  // of the endpoint's zone; guarded by the engine
	mss      int
	listener forward.Listener // nil: it has a range
	gate     atomic.Pointer[gate]
	flows    flowSet
	filter   *verdict.Filter // of the rules that the socket was last given a program of; guarded by the engine
	filtered bool            // the socket drops what filter refuses; guarded by the engine

	// Of a door that is closed while flows live on; guarded by the engine.
	parting bool
	end     *time.Timer
}

// open listens at a place that nobody else has. The caller holds mu.
func (e *Local) open(owner object, v want) (*door, error) {
	if e.life.Err() != nil {
		return nil, ErrAway
	}
	if d := e.places[v.place]; d != nil {
		return nil, fmt.Errorf("%v is in use by %s", v.place, d.owner.id)
	}
	ctx, cancel := context.WithTimeout(e.life, listenTimeout)
	defer cancel()
	d := &door{place: v.place, owner: owner, engine: e, tally: v.tally, zone: v.zone, era: v.era, mss: v.mss}
	d.gate.Store(v.gate)
	filtered, err := d.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", v.place, err)
	}
	if v.network != "" && v.protocol == verdict.TCP {
		e.hall(v.network).enter(d)
	}
	if e.doors[owner] == nil {
		e.doors[owner] = map[place]*door{}
	}
	e.doors[owner][v.place], e.places[v.place] = d, d
	e.listeners.Add(1)
	e.screened(d, filtered)
	return d, nil
}

// open also reports whether the socket has a filter.
func (d *door) open(ctx context.Context) (filtered bool, err error) {
	e := d.engine
	if d.to != 0 {
		return false, e.hall(d.network).lead(ctx, d.ports())
	}
	serve, o := e.forwarder.Accept, vpc.SocketOptions{MSS: d.mss, Filter: e.filterFor(d.gate.Load(), d.place)}
	if d.protocol == verdict.UDP {
		serve, o.Packet = e.forwarder.Packets, true
	}
	fd, err := e.bind(ctx, d.network, d.at, o)
	if err != nil && o.Filter != nil { // it may be too much for the kernel
		o.Filter = nil
		fd, err = e.bind(ctx, d.network, d.at, o)
	}
	if err == nil {
		d.listener, err = serve(fd, d)
	}
	return o.Filter != nil, err
}

// session is a flow that was let in, on its way to a server and back.
type session struct {
	flow    *forward.Flow
	door    *door
	gate    *gate          // as it was let in
	source  netip.AddrPort // as the consumer's network knows it
	address netip.AddrPort // that its client asked for
	verdict verdict.Trace
	server  *server // that has it, or was tried last
	tried   [dialAttempts]*server
	tries   int
	from    origin                        // that it was tried from
	short   int                           // origins without a free port towards server
	inside  bool                          // counted as the server's
	stands  atomic.Bool                   // server and from stay from then on
	refusal atomic.Pointer[verdict.Trace] // by rules that changed since

	mu  sync.Mutex
	row row
}

// Admit implements [forward.Door].
func (d *door) Admit(f *forward.Flow) forward.Session {
	g := d.gate.Load()
	s := &session{flow: f, door: d, gate: g, source: f.Source, address: d.at, verdict: verdict.Trace{Accept: true}}
	if d.network != "" {
		s.source = d.engine.driver.Translate(d.network, f.Source)
	}
	if f.Address.IsValid() {
		s.address = f.Address
	}
	if g.rules != nil {
		s.verdict = g.rules.filter.Load().Explain(verdict.Flow{Source: s.source.Addr(), Protocol: d.protocol, Port: s.address.Port()})
	}
	s.equip(f)
	switch {
	case f.Reason() != "":
	case !s.verdict.Accept:
		f.End(ReasonGroup)
	default:
		if refused := g.quota.admit(); refused != "" {
			f.End(refused)
			break
		}
		if !d.flows.add(s) {
			g.quota.leave()
			f.End(ReasonGate)
			break
		}
		d.engine.flows.Add(1)
		d.tally.active.Add(1)
		return s
	}
	d.note(f, s)
	return nil
}

// equip sets what the gate says of a flow.
func (s *session) equip(f *forward.Flow) {
	f.Idle, f.Sum, f.Limits = s.gate.idle, &s.door.tally.bytes, s.gate.limits
	if s.door.protocol == verdict.UDP && s.gate.pool.learns() {
		f.Reply = s.reply
	}
}

// Next implements [forward.Session].
func (s *session) Next(f *forward.Flow) (forward.Target, bool) {
	if s.short > 0 && s.short < s.gate.pool.origins() && s.server.enter(s) {
		s.inside, s.from = true, s.gate.pool.after(s.from)
		return s.target(), true
	}
	key := flowKey{Client: s.source, Local: s.address, Endpoint: s.door.tally.endpoint, Datagram: f.First}
	for s.tries < dialAttempts {
		next, from := s.gate.pool.pick(&key, s.tried[:s.tries])
		if next == nil {
			break
		}
		s.tried[s.tries] = next
		s.tries++
		if !next.enter(s) {
			continue // removed this moment
		}
		s.server, s.inside, s.from, s.short = next, true, from, 0
		return s.target(), true
	}
	switch {
	case s.server == nil:
		f.End(ReasonNoServer)
	case s.short > 0:
		f.End(ReasonPorts)
	default:
		f.End(ReasonConnect)
	}
	return forward.Target{}, false
}

func (s *session) target() forward.Target {
	t := forward.Target{To: s.server.address, Preface: s.preface()}
	if t.To.Port() == 0 {
		t.To = netip.AddrPortFrom(t.To.Addr(), s.address.Port())
	}
	if !s.server.host {
		t.Network, t.From = s.from.network, s.from.local
	}
	return t
}

// preface is the header that the listener wants in front of a flow, if any.
func (s *session) preface() []byte {
	p, d := s.gate.proxy, s.door
	if !p.Enabled {
		return nil
	}
	h := pp2.Header{Source: s.source, To: s.address, Packet: d.protocol == verdict.UDP, Dialect: pp2.Dialect(p.Dialect)}
	if p.VPC {
		h.VPC = d.network
	}
	if p.Endpoint {
		h.Endpoint = d.tally.endpoint
	}
	if p.Service {
		h.Service = d.tally.service
	}
	return pp2.Append(nil, h)
}

// Failed implements [forward.Session].
func (s *session) Failed(_ *forward.Flow, err error) {
	s.inside = false
	s.server.leave(s)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		s.short++
	} else {
		s.short = 0
	}
	s.door.engine.log.Debug("connect", "server_group", s.server.group, "server", s.server.id, "err", err)
}

// reply sees what the server answers.
func (s *session) reply(d []byte) { s.gate.pool.learn(s.server, d) }

// Stands implements [forward.Session].
func (s *session) Stands(*forward.Flow) {
	s.stands.Store(true)
	s.door.tally.flows.Add(1)
	s.door.engine.active.Add(1)
}

// Ended implements [forward.Session].
func (s *session) Ended(f *forward.Flow) {
	d := s.door
	if s.stands.Load() {
		d.engine.active.Add(-1)
	}
	d.tally.active.Add(-1)
	d.note(f, s)
	if s.inside {
		s.server.leave(s)
	}
	s.gate.quota.leave()
	d.flows.remove(s)
	d.engine.flows.Done()
}
