package proxy

import (
	"context"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/flowlog"
	"github.com/openprivatelink/openprivatelink/proxy/forward"
)

// Series of what the engine counts.
type (
	SeriesQuery = flowlog.SeriesQuery
	Points      = flowlog.Points
	Object      = flowlog.Object
)

// Kinds of objects that have series.
const (
	OfEndpoint     = flowlog.OfEndpoint
	OfService      = flowlog.OfService
	OfLoadBalancer = flowlog.OfLoadBalancer
	OfServer       = flowlog.OfServer
)

// Series implements [Engine].
func (e *Local) Series(_ context.Context, q SeriesQuery) (Points, error) {
	return e.series.Read(q, e.now()), nil
}

// sampleSeries samples every step, at its full multiples, until the engine ends.
func (e *Local) sampleSeries() {
	last := time.Now()
	was := map[*tally][flowlog.ActiveFlows]int64{}
	for {
		next := time.Now().Truncate(flowlog.SeriesStep).Add(flowlog.SeriesStep)
		if pause(e.life, time.Until(next)) != nil {
			return
		}
		now := time.Now()
		all := e.sample(was, now.Sub(last))
		e.series.Sample(next, now.Sub(last), all)
		last = now
	}
}

// sample says what everything did in the span since the last sample, whose counts
// are in was.
func (e *Local) sample(was map[*tally][flowlog.ActiveFlows]int64, span time.Duration) map[Object]*flowlog.Values {
	all := map[Object]*flowlog.Values{}
	add := func(o Object, v *flowlog.Values) {
		if all[o] == nil {
			all[o] = new(flowlog.Values)
		}
		all[o].Add(v)
	}
	seen := set[*tally]{}
	take := func(t *tally) *flowlog.Values {
		seen.add(t)
		is := [...]int64{
			flowlog.InBytes: t.bytes[forward.In].Load(), flowlog.OutBytes: t.bytes[forward.Out].Load(),
			flowlog.NewFlows: t.flows.Load(), flowlog.Denied: t.denied.Load(), flowlog.Refused: t.refused.Load(),
		}
		v := new(flowlog.Values)
		for i, n := range is {
			v[i] = uint64(n - was[t][i])
		}
		was[t] = is
		v[flowlog.ActiveFlows] = uint64(max(t.active.Load(), 0))
		return v
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, ep := range e.endpoints {
		for _, z := range ep.Zones {
			v := take(ep.tallies[z.Zone])
			came := *v // to the service: what security groups refused did not
			came[flowlog.Refused], came[flowlog.Denied] = v[flowlog.Refused]-min(v[flowlog.Denied], v[flowlog.Refused]), 0
			add(Object{Kind: OfService, ID: ep.Service, Zone: z.Zone}, &came)
			add(Object{Kind: OfLoadBalancer, ID: z.LoadBalancer, Zone: z.Zone}, &came)
			if ep.Bandwidth > 0 {
				most := float64(ep.Bandwidth) * 125_000 * span.Seconds()
				v[flowlog.Utilization] = uint64(1000 * float64(max(v[flowlog.InBytes], v[flowlog.OutBytes])) / most)
			}
			add(Object{Kind: OfEndpoint, ID: id, Zone: z.Zone}, v)
		}
	}
	for id, b := range e.balancers {
		add(Object{Kind: OfLoadBalancer, ID: id}, take(b.tally)) // direct clients
		for zone, v := range e.standing(b) {
			add(Object{Kind: OfLoadBalancer, ID: id, Zone: zone}, v)
		}
	}
	for _, g := range e.serverGroups {
		for _, s := range g.servers {
			v := &flowlog.Values{flowlog.ActiveFlows: uint64(max(s.live.Load(), 0))}
			if standing(s.standing.Load()) == down {
				v[flowlog.Unhealthy] = 1
			}
			add(Object{Kind: OfServer, ID: s.id}, v)
		}
	}
	for t := range was {
		if _, ok := seen[t]; !ok {
			delete(was, t)
		}
	}
	return all
}

// standing says in which zones a load balancer has servers that are down. The
// caller holds mu.
func (e *Local) standing(b *balancer) map[string]*flowlog.Values {
	out := map[string]*flowlog.Values{}
	for _, z := range b.Zones {
		seen := set[*server]{}
		bad := uint64(0)
		for _, l := range b.Listeners {
			g := e.serverGroups[l.ServerGroup]
			if g == nil {
				continue
			}
			for _, s := range g.servers {
				serves := b.CrossZone || s.zone == "" || s.zone == z.Zone
				if _, again := seen[s]; again || !serves || s.weight == 0 {
					continue
				}
				seen.add(s)
				if standing(s.standing.Load()) == down {
					bad++
				}
			}
		}
		v := &flowlog.Values{flowlog.Unhealthy: bad}
		if bad > 0 && int(bad) == len(seen) {
			v[flowlog.ZoneDown] = 1
		}
		out[z.Zone] = v
	}
	return out
}
