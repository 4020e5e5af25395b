package proxy

import (
	"sync/atomic"
	"time"
)

// bucket admits so many flows a second, and as many at once after a quiet second.
// The zero one admits all.
type bucket struct {
	rate atomic.Int64 // flows a second; 0: no limit
	full atomic.Int64 // when the flows so far are paid for, in ns since 1970
}

// admit takes a flow at the time now, in ns since 1970.
func (b *bucket) admit(now int64) bool {
	rate := b.rate.Load()
	if rate <= 0 {
		return true
	}
	price := int64(time.Second) / rate
	for {
		full := b.full.Load()
		next := max(full, now) + price
		if full > now+2*int64(time.Second) { // the clock was set back
			next = now + price
		}
		if next > now+int64(time.Second) {
			return false
		}
		if b.full.CompareAndSwap(full, next) {
			return true
		}
	}
}

// ceiling admits so many flows at the same time. The zero one admits all, and
// counts them.
type ceiling struct {
	most atomic.Int64 // 0: no limit
	live atomic.Int64
}

// admit takes a flow, which has to leave.
func (c *ceiling) admit() bool {
	n := c.live.Add(1)
	if most := c.most.Load(); most > 0 && n > most {
		c.live.Add(-1)
		return false
	}
	return true
}

// enter takes a flow that was admitted elsewhere.
func (c *ceiling) enter() { c.live.Add(1) }

func (c *ceiling) leave() { c.live.Add(-1) }

// listenerQuota is that of a listener in a zone.
type listenerQuota struct {
	cps         bucket
	connections ceiling
}

// setQuotas brings the quotas of a load balancer up to date.
func (b *balancer) setQuotas() {
	b.cps.rate.Store(int64(b.CPS))
	was := b.quotas
	b.quotas = map[quotaKey]*listenerQuota{}
	for _, z := range b.Zones {
		for _, l := range b.Listeners {
			key := quotaKey{z.Zone, l.ID}
			r := was[key]
			if r == nil {
				r = new(listenerQuota)
			}
			r.cps.rate.Store(int64(l.CPS))
			r.connections.most.Store(int64(l.MaxConnections))
			b.quotas[key] = r
		}
	}
}

// quota is what a new flow is held against. Its parts outlive the gates that refer
// to them, so a change of other things lets nobody in twice.
type quota struct {
	balancer *bucket
	listener *listenerQuota
	endpoint *ceiling // nil: the client is none of an endpoint's
}

// admit takes a flow, which has to leave, or says why it may not pass.
func (q quota) admit() (refused string) {
	if q.listener == nil { // a published port
		return ""
	}
	if q.endpoint != nil && !q.endpoint.admit() {
		return ReasonMaxConnections
	}
	if !q.listener.connections.admit() {
		if q.endpoint != nil {
			q.endpoint.leave()
		}
		return ReasonMaxConnections
	}
	// In this order a listener over its own limit takes nothing from the others.
	if now := time.Now().UnixNano(); !q.listener.cps.admit(now) || !q.balancer.admit(now) {
		q.leave()
		return ReasonCPS
	}
	return ""
}

// enter counts a flow that the program before admitted.
func (q quota) enter() {
	if q.listener == nil {
		return
	}
	q.listener.connections.enter()
	if q.endpoint != nil {
		q.endpoint.enter()
	}
}

func (q quota) leave() {
	if q.listener == nil {
		return
	}
	q.listener.connections.leave()
	if q.endpoint != nil {
		q.endpoint.leave()
	}
}
