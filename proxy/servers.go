package proxy

import (
	"maps"
	"net/netip"
	"sync"
	"time"
)

// serverGroup is a server group as it was adopted.
type serverGroup struct {
	ServerGroup
	servers []*server // in the snapshot's order
	kin     map[string]*kin
}

// kin are the servers that stand for one server of the snapshot: itself, or each
// address of its name.
type kin struct {
	group, id string

	mu      sync.Mutex
	members []*server
}

// adoptServerGroup follows a server group. A server that is gone, or has another
// address, is drained; one that comes back in that time goes on with its flows.
// The load balancers that use the group go into refill. The caller holds mu.
func (e *Local) adoptServerGroup(id string, want *ServerGroup, w *work, refill set[string]) {
	was := e.serverGroups[id]
	if was == nil {
		was = new(serverGroup)
	}
	is := &serverGroup{kin: map[string]*kin{}}
	if want == nil {
		delete(e.serverGroups, id)
		is.Drain = was.Drain
	} else {
		e.serverGroups[id] = is
		is.ServerGroup = *want
	}
	e.adoptNames(id, was.Servers, is.Servers)
	have := map[target]*server{}
	for _, s := range was.servers {
		have[s.target] = s
	}
	for _, s := range is.Servers {
		if is.kin[s.ID] != nil {
			continue // the same once more
		}
		k := was.kin[s.ID]
		if k == nil {
			k = &kin{group: id, id: s.ID}
		}
		is.kin[s.ID] = k
		var members []*server
		for _, t := range e.targets(s) {
			if is.AnyPort {
				t.address = netip.AddrPortFrom(t.address.Addr(), 0)
			}
			r := have[t]
			if delete(have, t); r == nil {
				r = e.newServer(k, t, is.Health.Enabled)
			}
			r.zone, r.weight = s.Zone, s.Weight
			r.resets.Store(is.ResetOnUnhealthy)
			members = append(members, r)
		}
		k.mu.Lock()
		k.members = members
		k.mu.Unlock()
		is.servers = append(is.servers, members...)
	}
	for _, s := range was.servers {
		if have[s.target] != nil {
			e.stopCheck(s)
			e.drain(s, is.Drain, w)
		}
	}
	for server := range was.kin {
		if is.kin[server] == nil {
			e.board.drop(within(aServer, id, server))
		}
	}
	w.groups.add(id)
	maps.Copy(refill, e.balancersOf[id])
}

// newServer makes a server, or takes back the one that is still drained.
func (e *Local) newServer(k *kin, t target, checked bool) *server {
	for s, end := range e.draining {
		if s.group == k.group && s.target == t {
			end.Stop()
			delete(e.draining, s)
			s.kin = k
			return s
		}
	}
	s := &server{group: k.group, target: t, kin: k}
	if checked {
		s.standing.Store(int32(untested))
	}
	return s
}

// drain lets the flows of a removed server live on for some seconds.
func (e *Local) drain(s *server, seconds int, w *work) {
	if seconds <= 0 || s.live.Load() == 0 {
		w.parting = append(w.parting, s.flows.end(ReasonRemoved))
		return
	}
	e.drainUntil(s, time.Now().Add(time.Duration(seconds)*time.Second))
}

func (e *Local) drainUntil(s *server, end time.Time) {
	s.drained = end
	e.draining[s] = time.AfterFunc(time.Until(end), func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.draining[s] != nil {
			delete(e.draining, s)
			s.flows.end(ReasonRemoved)
		}
	})
}

// refill brings the pools of a load balancer up to date. A pool stays the same one
// while it has a use, so gates that lead to it need no change.
func (e *Local) refill(id string) {
	b := e.balancers[id]
	if b == nil {
		return
	}
	pools := map[poolKey]*pool{}
	for _, z := range b.Zones {
		locals := z.Local
		if len(locals) == 0 {
			locals = []netip.Addr{z.Address}
		}
		for _, l := range b.served {
			key := poolKey{z.Zone, l.ServerGroup}
			if pools[key] != nil {
				continue
			}
			p := b.pools[key]
			if p == nil {
				p = new(pool)
			}
			g := e.serverGroups[l.ServerGroup]
			if g == nil {
				g = new(serverGroup)
			}
			var slots []slot
			for _, s := range g.servers {
				if s.weight > 0 && (b.CrossZone || s.zone == "" || s.zone == z.Zone) && e.reaches(b.Network, s.target) {
					slots = append(slots, slot{server: s, weight: s.weight})
				}
			}
			p.fill(&g.ServerGroup, b.Network, locals, slots)
			pools[key] = p
		}
	}
	b.pools = pools
}
