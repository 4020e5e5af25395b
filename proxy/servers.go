package proxy

import (
	"net/netip"
	"time"
)

// serverGroup is a server group as it was adopted.
type serverGroup struct {
	ServerGroup
	servers []*server // in the snapshot's order
}

// adoptServerGroup follows a server group. A server that is gone, or has another
// address, is drained; one that comes back in that time goes on with its flows.
func (e *Local) adoptServerGroup(id string, want *ServerGroup, w *work) {
	was := e.serverGroups[id]
	if was == nil {
		was = new(serverGroup)
	}
	is := &serverGroup{}
	if want == nil {
		delete(e.serverGroups, id)
		is.Drain = was.Drain
	} else {
		e.serverGroups[id] = is
		is.ServerGroup = *want
	}
	have := map[target]*server{}
	for _, s := range was.servers {
		have[s.target] = s
	}
	ids, seen := set[string]{}, set[target]{}
	for _, s := range is.Servers {
		t := target{id: s.ID, address: s.Address, host: s.Host}
		if _, twice := seen[t]; twice {
			continue
		}
		seen.add(t)
		r := have[t]
		if delete(have, t); r == nil {
			r = e.undrain(id, t)
		}
		if r == nil {
			r = &server{group: id, target: t}
			if is.Health.Enabled {
				r.standing.Store(int32(untested))
			}
		}
		r.zone, r.weight = s.Zone, s.Weight
		r.resets.Store(is.ResetOnUnhealthy)
		is.servers = append(is.servers, r)
		ids.add(s.ID)
	}
	for _, s := range was.servers {
		if have[s.target] == nil {
			continue
		}
		e.stopCheck(s)
		e.drain(s, is.Drain, w)
		if _, stays := ids[s.id]; !stays {
			e.board.drop(within(aServer, id, s.id))
		}
	}
	w.groups.add(id)
}

// drain lets the flows of a removed server live on for some seconds.
func (e *Local) drain(s *server, seconds int, w *work) {
	if seconds <= 0 || s.live.Load() == 0 {
		w.parting = append(w.parting, s.flows.end(ReasonRemoved))
		return
	}
	e.draining[s] = time.AfterFunc(time.Duration(seconds)*time.Second, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.draining[s] != nil {
			delete(e.draining, s)
			s.flows.end(ReasonRemoved)
		}
	})
}

// undrain takes back a server that is still drained; nil if there is none.
func (e *Local) undrain(group string, t target) *server {
	for s, end := range e.draining {
		if s.group == group && s.target == t {
			end.Stop()
			delete(e.draining, s)
			return s
		}
	}
	return nil
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
		for _, l := range b.tcp {
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
				if s.weight > 0 && (b.CrossZone || s.zone == "" || s.zone == z.Zone) {
					slots = append(slots, slot{server: s, weight: s.weight})
				}
			}
			p.fill(&g.ServerGroup, b.Network, locals, slots)
			pools[key] = p
		}
	}
	b.pools = pools
}
