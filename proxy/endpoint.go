package proxy

import (
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/net/bpf"

	"github.com/openprivatelink/openprivatelink/proxy/forward"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

const megabit = 1e6 / 8 // bytes

// endpoint is an endpoint as it was adopted.
type endpoint struct {
	Endpoint
	rules       *rules
	tallies     map[string]*tally // by zone
	limits      *forward.Limits   // of all its flows
	connections ceiling
}

func (e *Local) adoptEndpoint(id string, want *Endpoint, w *work) {
	o := object{anEndpoint, id}
	ep := e.endpoints[id]
	var was *rules
	if ep == nil {
		ep = &endpoint{tallies: map[string]*tally{}, limits: new(forward.Limits)}
		e.endpoints[id] = ep
	} else {
		e.inNetwork.remove(ep.Network, o)
		for _, z := range ep.Zones {
			e.endpointsOf.remove(z.LoadBalancer, id)
		}
		was = ep.rules
	}
	w.owners.add(o)
	w.ruled.add(id)
	if want == nil {
		want = new(Endpoint)
		delete(e.endpoints, id)
		e.board.drop(o)
		ep.rules = nil
	} else {
		e.inNetwork.add(want.Network, o)
		ep.rules = e.acquireRules(want.Groups, id)
	}
	if was != nil && was != ep.rules {
		e.releaseRules(was, id)
	}
	ep.Endpoint = *want
	for direction := range ep.limits {
		ep.limits[direction].Set(int64(ep.Bandwidth) * megabit)
	}
	ep.connections.most.Store(int64(want.MaxConnections))
	tallies := map[string]*tally{}
	for _, z := range ep.Zones {
		e.endpointsOf.add(z.LoadBalancer, id)
		if tallies[z.Zone] = ep.tallies[z.Zone]; tallies[z.Zone] == nil {
			tallies[z.Zone] = newTally(id, z.Zone, ep.Service)
		}
	}
	for zone := range ep.tallies {
		if tallies[zone] == nil {
			e.board.drop(within(aCounter, id, zone))
		}
	}
	ep.tallies = tallies
}

// zone returns a zone of the endpoint, or nil.
func (ep *endpoint) zone(id string) *EndpointZone {
	i := slices.IndexFunc(ep.Zones, func(z EndpointZone) bool { return z.Zone == id })
	if i < 0 {
		return nil
	}
	return &ep.Zones[i]
}

// leads says whether flows may go by a load balancer, be it for what is left of
// them.
func (z *EndpointZone) leads(balancer string) bool {
	return balancer == z.LoadBalancer || balancer == z.Replaced
}

// observed says how the endpoint stands, by the number of open doors, whether flows
// of closed ones live on, and the faults of each zone.
func (ep *endpoint) observed(open map[string]int, draining map[string]bool, faults map[string][]string) EndpointObserved {
	o := EndpointObserved{ID: ep.ID, Version: ep.Version}
	for _, z := range ep.Zones {
		o.Zones = append(o.Zones, ZoneObserved{
			Zone:     z.Zone,
			Carrying: draining[z.Zone] || ep.Carry && z.Carry && (open[z.Zone] > 0 || len(faults[z.Zone]) == 0),
			Error:    strings.Join(faults[z.Zone], "; "),
		})
	}
	return o
}

// rules is the filter that all endpoints with the same security groups share.
type rules struct {
	key    string
	groups []string
	names  set[string] // of every group that the filter was compiled from
	users  set[string] // endpoints
	filter atomic.Pointer[verdict.Filter]

	programs map[uint16][]bpf.RawInstruction // of filter, by port; guarded by the engine
}

// program returns the filter's program for the socket that listens at port. The
// caller holds mu.
func (r *rules) program(port uint16) []bpf.RawInstruction {
	p, ok := r.programs[port]
	if !ok {
		p = r.filter.Load().Program(verdict.TCP, port)
		r.programs[port] = p
	}
	return p
}

// acquireRules returns the rules of a list of security groups, compiled.
func (e *Local) acquireRules(groups []string, endpoint string) *rules {
	key := strings.Join(groups, "\x00")
	r := e.rules[key]
	if r == nil {
		r = &rules{key: key, groups: slices.Clone(groups), users: set[string]{}}
		e.rules[key] = r
		e.compile(key)
	}
	r.users.add(endpoint)
	return r
}

func (e *Local) releaseRules(r *rules, endpoint string) {
	delete(r.users, endpoint)
	if len(r.users) > 0 {
		return
	}
	for id := range r.names {
		e.rulesOf.remove(id, r.key)
	}
	delete(e.rules, r.key)
}

// compile swaps in a filter made from the security groups as they are now. A group
// that is not there has no rules, so it lets nobody in.
func (e *Local) compile(key string) {
	r := e.rules[key]
	for id := range r.names {
		e.rulesOf.remove(id, key)
	}
	r.names = set[string]{}
	groups := make([]verdict.Group, 0, len(r.groups))
	for _, id := range r.groups {
		r.names.add(id)
		g := e.snapshot.Groups[id]
		g.ID = id
		groups = append(groups, g)
		for _, rule := range g.Rules {
			if rule.Group != "" {
				r.names.add(rule.Group)
			}
		}
	}
	for id := range r.names {
		e.rulesOf.add(id, key)
	}
	r.filter.Store(verdict.Compile(groups, e.snapshot.Groups))
	r.programs = map[uint16][]bpf.RawInstruction{}
}
