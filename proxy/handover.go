package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/forward"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// An upgrade puts another program in the place of this process: exec(2) keeps the
// descriptors, the children, the user namespace and the process id, so that all
// the next program needs is to be told what they are. Nothing that is live has to
// travel, and there are never two engines.

// handoverFormat changes when a program of before could not read it.
const handoverFormat = 1

// handover is what the next program is told.
type handover struct {
	Format    int             `json:"format"`
	Version   string          `json:"version"` // of the program that leaves it
	State     state           `json:"state"`
	Control   int             `json:"control"` // the control socket
	Driver    vpc.Inheritance `json:"driver"`
	Listeners []heldListener  `json:"listeners,omitempty"`
	Flows     []heldFlow      `json:"flows,omitempty"`
	Servers   []heldServer    `json:"servers,omitempty"`
	Counters  []Counter       `json:"counters,omitempty"`
}

// check refuses what this program cannot go on with.
func (h *handover) check() error {
	if h.Format != handoverFormat {
		return fmt.Errorf("the hand-over of version %s has format %d, this program reads %d", h.Version, h.Format, handoverFormat)
	}
	if h.State.Format != storeFormat {
		return fmt.Errorf("the state of version %s has format %d, this program reads %d", h.Version, h.State.Format, storeFormat)
	}
	return nil
}

// descriptors lists those that the next program goes on with.
func (h *handover) descriptors() []int {
	fds := append(h.Driver.Descriptors(), h.Control)
	for _, l := range h.Listeners {
		fds = append(fds, l.FD)
	}
	for _, f := range h.Flows {
		fds = append(fds, f.Client, f.Server)
	}
	return fds
}

// heldSocket names a socket by where it is bound.
type heldSocket struct {
	Network string         `json:"network,omitempty"`
	At      netip.AddrPort `json:"at"`
	Packet  bool           `json:"packet,omitempty"`
}

type heldListener struct {
	heldSocket
	FD int `json:"fd"`
}

// heldPlace is the place of a door.
type heldPlace struct {
	Network  string           `json:"network,omitempty"`
	Protocol verdict.Protocol `json:"protocol"`
	At       netip.AddrPort   `json:"at"`
	To       uint16           `json:"to,omitempty"`
}

func (p place) held() heldPlace { return heldPlace{p.network, p.protocol, p.at, p.to} }

func (p heldPlace) place() place { return place{p.Network, p.Protocol, p.At, p.To} }

func (p place) socket() heldSocket { return heldSocket{p.network, p.at, p.protocol == verdict.UDP} }

// heldFlow is a flow and what its session was.
type heldFlow struct {
	forward.Handover
	heldPlace
	OwnerKind kind           `json:"ownerKind"`
	Owner     string         `json:"owner"`
	Zone      string         `json:"zone,omitempty"`
	Era       int64          `json:"era,omitempty"`
	Balancer  string         `json:"balancer,omitempty"`
	Idle      time.Duration  `json:"idle"`
	Seen      netip.AddrPort `json:"seen"`  // the client, as the consumer's network knows it
	Asked     netip.AddrPort `json:"asked"` // the address that it asked for
	Verdict   verdict.Trace  `json:"verdict"`
	Target    *heldTarget    `json:"target,omitempty"` // nil: none yet
	From      netip.Addr     `json:"from,omitzero"`    // that it is reached from
	Row       heldRow        `json:"row,omitzero"`
}

// heldRow is what the records of a flow say so far.
type heldRow struct {
	First   uint64    `json:"first"`
	Since   time.Time `json:"since"`
	Bytes   [2]int64  `json:"bytes"`
	Packets [2]int64  `json:"packets"`
}

type heldTarget struct {
	Group   string         `json:"group"`
	ID      string         `json:"id"`
	Address netip.AddrPort `json:"address"`
	Host    bool           `json:"host,omitempty"`
	Named   bool           `json:"named,omitempty"`
}

// heldServer is what is known of a server, or that it is drained.
type heldServer struct {
	heldTarget
	Health  Health    `json:"health,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Drained time.Time `json:"drained,omitzero"`
}

func (s *server) held() heldTarget { return heldTarget{s.group, s.id, s.address, s.host, s.named} }

// handOver stops everything and calls leave with what the next program needs. leave
// replaces the process, or returns why it could not; then everything goes on.
func (e *Local) handOver(try func(*handover) error, leave func(*handover) error) error {
	f, ok := e.forwarder.(forward.Heritable)
	if !ok {
		return errors.New("this engine cannot hand over its flows: stop and start it instead")
	}
	e.applying.Lock()
	defer e.applying.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.life.Err() != nil {
		return ErrAway
	}
	h := e.describe(f)
	if err := try(h); err != nil {
		return err
	}
	flows, thaw := f.Freeze()
	defer thaw()
	for _, v := range flows {
		h.Flows = append(h.Flows, v.Session.(*session).held(v))
	}
	h.Counters = e.counters()
	e.records.Flush()
	return leave(h)
}

// describe says everything but the flows. The caller holds mu.
func (e *Local) describe(f forward.Heritable) *handover {
	h := &handover{
		Format: handoverFormat, Version: e.version, Driver: e.driver.Inheritance(),
		State: state{Format: storeFormat, Generation: e.generation.Load(), Snapshot: e.snapshot},
	}
	keep := func(s heldSocket, l forward.Listener) {
		if l != nil {
			h.Listeners = append(h.Listeners, heldListener{s, f.Descriptor(l)})
		}
	}
	for at, d := range e.places {
		keep(at.socket(), d.listener)
	}
	for network, hall := range e.halls {
		keep(heldSocket{Network: network, At: vpc.Lobby}, hall.listener)
	}
	for _, g := range e.serverGroups {
		for _, s := range g.servers {
			s.kin.mu.Lock()
			h.Servers = append(h.Servers, heldServer{heldTarget: s.held(), Health: s.health, Reason: s.reason})
			s.kin.mu.Unlock()
		}
	}
	for s := range e.draining {
		h.Servers = append(h.Servers, heldServer{heldTarget: s.held(), Drained: s.drained})
	}
	return h
}

func (e *Local) counters() (all []Counter) {
	for _, ep := range e.endpoints {
		for _, t := range ep.tallies {
			all = append(all, t.counter())
		}
	}
	return all
}

func (s *session) held(h forward.Handover) heldFlow {
	d := s.door
	v := heldFlow{
		Handover: h, heldPlace: d.held(), OwnerKind: d.owner.kind, Owner: d.owner.id, Zone: d.zone, Era: d.era,
		Balancer: s.gate.balancer, Idle: s.flow.Idle, Seen: s.source, Asked: s.address, Verdict: s.verdict,
	}
	if s.stands.Load() {
		v.Target, v.From = new(s.server.held()), s.from.local
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.Row = heldRow{s.row.first, s.row.since, s.row.moved.bytes, s.row.moved.packets}
	return v
}

// inherit goes on with what the program before had. What is no longer wanted ends
// as it would have there. The caller holds mu.
func (e *Local) inherit(h *handover, w *work) {
	f := e.forwarder.(forward.Heritable)
	servers := e.inheritServers(h.Servers)
	for _, c := range h.Counters {
		if ep := e.endpoints[c.Endpoint]; ep != nil && ep.tallies[c.Zone] != nil {
			ep.tallies[c.Zone].goOn(c)
		}
	}
	for _, l := range h.Listeners {
		unix.CloseOnExec(l.FD)
		e.sockets[l.heldSocket] = l.FD
	}
	for o := range w.owners {
		for _, v := range e.wants(o) {
			if _, ok := e.sockets[v.socket()]; !ok || v.err != nil || v.to != 0 {
				continue // ranges are led anew, once their network is known
			}
			if _, err := e.open(o, v); err != nil {
				e.log.Error("go on listening", "addr", v.at, "err", err)
			}
		}
	}
	closed := map[heldPlace]*door{}
	for _, v := range h.Flows {
		e.inheritFlow(f, v, servers, closed)
	}
	for _, d := range closed {
		e.swap(d.owner, w)
	}
}

// bind takes a socket that the program before had, or makes one. The caller holds mu.
func (e *Local) bind(ctx context.Context, network string, at netip.AddrPort, o vpc.SocketOptions) (int, error) {
	key := heldSocket{network, at, o.Packet}
	fd, ok := e.sockets[key]
	if !ok {
		return e.driver.Bind(ctx, network, at, o)
	}
	if err := vpc.SetFilter(fd, o.Filter); err != nil {
		return -1, fmt.Errorf("filter a socket that was handed over: %w", err)
	}
	delete(e.sockets, key)
	return fd, nil
}

// dropSockets closes those that nobody took.
func (e *Local) dropSockets() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, fd := range e.sockets {
		_ = unix.Close(fd)
	}
	clear(e.sockets)
}

func (e *Local) inheritServers(held []heldServer) map[heldTarget]*server {
	servers := map[heldTarget]*server{}
	for _, g := range e.serverGroups {
		for _, s := range g.servers {
			servers[s.held()] = s
		}
	}
	for _, v := range held {
		s := servers[v.heldTarget]
		switch {
		case s == nil && !v.Drained.IsZero():
			s = e.removedServer(v.heldTarget)
			servers[v.heldTarget] = s
			e.drainUntil(s, v.Drained)
		case s != nil && v.Health != "":
			s.before = v.Health
			s.stand(v.Health)
			s.know(v.Health, v.Reason)
		}
	}
	return servers
}

// removedServer is one that the snapshot has no more.
func (e *Local) removedServer(t heldTarget) *server {
	return &server{group: t.Group, target: target{t.ID, t.Address, t.Host, t.Named}, kin: &kin{group: t.Group, id: t.ID}}
}

func (e *Local) inheritFlow(f forward.Heritable, v heldFlow, servers map[heldTarget]*server, closed map[heldPlace]*door) {
	for _, fd := range []int{v.Client, v.Server} {
		if fd >= 0 {
			unix.CloseOnExec(fd)
		}
	}
	owner := object{v.OwnerKind, v.Owner}
	d := e.places[v.place()]
	if d == nil || d.owner != owner || d.era != v.Era {
		if d = closed[v.heldPlace]; d == nil {
			d = e.closedDoor(owner, v)
			closed[v.heldPlace] = d
		}
	}
	g := *d.gate.Load()
	g.balancer, g.idle = v.Balancer, v.Idle
	s := &session{door: d, gate: &g, source: v.Seen, address: v.Asked, verdict: v.Verdict, from: origin{local: v.From}}
	s.row = row{first: v.Row.First, since: v.Row.Since, moved: moved{v.Row.Bytes, v.Row.Packets}}
	f.Adopt(v.Handover, d.listener, func(flow *forward.Flow) forward.Session {
		s.flow = flow
		s.equip(flow)
		if !d.flows.add(s) {
			return nil
		}
		g.quota.enter()
		e.flows.Add(1)
		d.tally.active.Add(1)
		if v.Target != nil {
			if s.server = servers[*v.Target]; s.server == nil {
				s.server = e.removedServer(*v.Target)
			}
			s.inside = s.server.enter(s)
			s.stands.Store(true)
			e.active.Add(1)
		}
		return s
	})
}

// closedDoor is the door of flows that outlive it.
func (e *Local) closedDoor(owner object, v heldFlow) *door {
	d := &door{place: v.place(), owner: owner, engine: e, zone: v.Zone, era: v.Era, tally: new(tally)}
	g := &gate{balancer: v.Balancer, pool: new(pool)}
	if ep := e.endpoints[owner.id]; ep != nil && owner.kind == anEndpoint {
		g.limits = ep.limits
		if t := ep.tallies[v.Zone]; t != nil {
			d.tally = t
		}
	}
	d.gate.Store(g)
	e.closed.add(owner, d)
	return d
}

// goOn counts on from where the program before was.
func (t *tally) goOn(c Counter) {
	t.flows.Store(c.Flows)
	t.refused.Store(c.Refused)
	t.bytes[forward.In].Store(c.In)
	t.bytes[forward.Out].Store(c.Out)
}
