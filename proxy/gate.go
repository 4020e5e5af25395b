package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/forward"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// Idle times for listeners that say nothing.
const (
	defaultIdle    = 900 * time.Second
	defaultUDPIdle = 20 * time.Second
)

// place is where a door listens. No network means the host's own namespace.
type place struct {
	network  string
	protocol verdict.Protocol
	at       netip.AddrPort
	to       uint16 // last port of a range that begins at the port of at; 0: it is that port alone
}

// gate is what a new flow meets behind a door. It never changes: a change of the
// snapshot puts another one in its place.
type gate struct {
	rules    *rules // nil: nobody is refused
	quota    quota
	balancer string
	pool     *pool
	idle     time.Duration
	limits   *forward.Limits // nil: none
	proxy    ProxyProtocol
}

// tally counts an endpoint's zone for as long as the engine knows it, over every
// time that it carries. Without an endpoint nobody asks for it.
type tally struct {
	endpoint, zone, service string
	active, flows, refused  atomic.Int64
	denied                  atomic.Int64 // refused by the security groups
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
		Endpoint: t.endpoint, Zone: t.zone, Service: t.service,
		Active: t.active.Load(), Flows: t.flows.Load(), Refused: t.refused.Load(),
		In: t.bytes[forward.In].Load(), Out: t.bytes[forward.Out].Load(),
	}
}

// want is a door that shall be open.
type want struct {
	place
	zone  string // of the endpoint or load balancer
	era   int64  // of the endpoint's zone
	mss   int    // of its listening socket
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
				for _, v := range e.lead(z.LoadBalancer, z.Zone, ep.Network, z.Address, ep.tallies[z.Zone], ep.rules) {
					v.era = z.Era
					if v.gate != nil {
						v.gate.limits, v.gate.quota.endpoint = ep.limits, &ep.connections
					}
					doors = append(doors, v)
				}
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
			doors = append(doors, want{place: place{protocol: verdict.TCP, at: a.Host}, tally: a.tally, gate: &gate{pool: a.pool, idle: defaultIdle}})
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
	var ranges []place
	for _, l := range b.served {
		idle := defaultIdle
		if l.Protocol == verdict.UDP {
			idle = defaultUDPIdle
		}
		where, mss := place{network: network, protocol: l.Protocol, at: netip.AddrPortFrom(at, l.Port)}, l.MSS
		if l.Port == 0 && l.Protocol == verdict.UDP {
			doors = append(doors, want{zone: zone, err: fmt.Errorf("listener %q: a range of ports carries no UDP", l.ID)})
			continue
		}
		if l.Port == 0 {
			where.at, where.to, mss = netip.AddrPortFrom(at, l.From), l.To, 0
			if l.From == 0 || l.To < l.From {
				doors = append(doors, want{zone: zone, err: fmt.Errorf("listener %q has no port", l.ID)})
				continue
			}
			if slices.ContainsFunc(ranges, where.overlaps) { // the first one stands
				doors = append(doors, want{zone: zone, err: fmt.Errorf("the ports of listener %q are another one's too", l.ID)})
				continue
			}
			ranges = append(ranges, where)
		}
		doors = append(doors, want{
			place: where,
			zone:  zone,
			mss:   mss,
			tally: t,
			gate: &gate{
				rules:    r,
				quota:    quota{balancer: &b.cps, listener: b.quotas[quotaKey{zone, l.ID}]},
				balancer: balancer,
				pool:     b.pools[poolKey{zone, l.ServerGroup}],
				idle:     cmp.Or(time.Duration(l.IdleTimeout)*time.Second, idle),
				proxy:    l.Proxy,
			},
		})
	}
	return doors
}

// swap puts the gates of o into its doors, closes the doors that shall not be, and
// ends the flows that may not live on. The caller holds mu.
func (e *Local) swap(o object, w *work) {
	wants := map[place]want{}
	for _, v := range e.wants(o) {
		if v.err == nil {
			wants[v.place] = v
		}
	}
	for at, d := range e.doors[o] {
		v, ok := wants[at]
		if !ok || v.tally != d.tally || v.mss != d.mss {
			e.shut(d)
			e.closed.add(o, d)
			continue
		}
		d.gate.Store(v.gate)
		if d.era != v.era {
			d.era = v.era
			d.flows.cut(ReasonReplaced, func(*session) bool { return true })
		}
		if o.kind == anEndpoint {
			z := e.endpoints[o.id].zone(d.zone)
			d.flows.cut(ReasonReplaced, func(s *session) bool { return !z.leads(s.gate.balancer) })
		}
	}
	for d := range e.closed[o] {
		again := false
		for at := range wants {
			again = again || at.overlaps(d.place)
		}
		if again { // be it for a part of the ports
			d.flows.cut(ReasonRevoked, func(s *session) bool {
				for at := range wants {
					if at.protocol == d.protocol && at.covers(s.address) {
						return false
					}
				}
				return true
			})
		}
		if gone := e.part(d, again); gone != nil {
			w.parting = append(w.parting, gone)
		}
	}
}

// part decides about the flows of a door that is closed: they end now, in which case
// it returns a channel that closes when they have; or at the end of a drain; or they
// live on, because what they go by was replaced and nobody is to notice, or because
// there is such a door again. The caller holds mu.
func (e *Local) part(d *door, again bool) <-chan struct{} {
	if d.end != nil {
		d.end.Stop()
		d.end = nil
	}
	until, keep := e.fate(d, again)
	left := time.Until(until)
	if !keep && left <= 0 {
		e.closed.remove(d.owner, d)
		return d.flows.end(ReasonRevoked)
	}
	if !keep {
		d.end = time.AfterFunc(left, func() { d.flows.end(ReasonRevoked) })
	}
	if d.parting {
		return nil
	}
	d.parting = true
	empty := d.flows.shut()
	e.work.Go(func() {
		select {
		case <-empty:
		case <-e.life.Done():
			return
		}
		e.mu.Lock()
		e.closed.remove(d.owner, d)
		e.mu.Unlock()
		e.settle(d.owner) // which tells that nothing is left
		e.lookOut()
	})
	return nil
}

// fate is until when the flows of a closed door may live, or that they are kept.
func (e *Local) fate(d *door, again bool) (until time.Time, keep bool) {
	if d.owner.kind != anEndpoint {
		return time.Time{}, again && d.owner.kind == aBalancer
	}
	ep := e.endpoints[d.owner.id]
	if ep == nil {
		return time.Time{}, false
	}
	z := ep.zone(d.zone)
	switch {
	case z == nil:
		return time.Time{}, false
	case !ep.Carry:
		return ep.DrainUntil, false
	case !z.Carry:
		return z.DrainUntil, false
	}
	balancer := d.gate.Load().balancer
	return time.Time{}, d.era == z.Era && z.leads(balancer) && (again || balancer != z.LoadBalancer)
}

// shut closes a door and takes it off the books; its flows go on. The caller holds
// mu.
func (e *Local) shut(d *door) {
	if d.listener != nil {
		d.listener.Close()
	}
	if d.network != "" {
		e.hall(d.network).leave(d)
	}
	delete(e.doors[d.owner], d.place)
	if len(e.doors[d.owner]) == 0 {
		delete(e.doors, d.owner)
	}
	delete(e.places, d.place)
	e.screened(d, false)
	e.listeners.Add(-1)
}

// settle opens the doors that o shall have and has not, and reports how it stands.
// What cannot be opened is tried again later.
func (e *Local) settle(o object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	faults := map[string][]string{} // by zone
	open := map[string]int{}
	draining := map[string]bool{}
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
			for d := range e.closed[o] {
				draining[d.zone] = true
			}
			e.board.post(o, ep.observed(open, draining, faults))
		}
	case anAttachment:
		if a := e.attachments[o.id]; a != nil && a.Kind == vpc.PublishedPort {
			e.board.post(o, AttachmentObserved{ID: o.id, Up: len(faults) == 0, Error: strings.Join(faults[""], "; ")})
		}
	}
}
