package proxy

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Defaults of a health check, and the number of checks that may be under way.
const (
	defaultInterval  = 5 * time.Second
	defaultTimeout   = 5 * time.Second
	defaultThreshold = 2
	checksOnce       = 1024
)

// checkSpec is what a check does; another spec is another check.
type checkSpec struct {
	question
	interval, timeout time.Duration
	rise, fall        int
}

// check watches one server at a fixed rate. Between two questions it is a timer
// only, so thousands cost no goroutine; while one is under way the next waits for
// it and then starts at once.
type check struct {
	checkSpec
	ask    func(context.Context, question) (reason string)
	report func(Health, string) // after an answer that changed the health or its reason; not after stop
	slots  chan struct{}        // shared by all checks: one is taken for each question

	mu      sync.Mutex
	timer   *time.Timer
	due     time.Time // of the next
	stopped bool
	health  Health
	reason  string // of Unhealthy
	streak  int    // results in a row against health

	life   context.Context
	cancel context.CancelFunc
	busy   *sync.WaitGroup // shared: counts questions
}

// start begins to check. The first question comes within a tenth of the interval,
// those after it at a random phase, so that servers that came together are not
// checked together.
func (c *check) start(ctx context.Context) {
	c.life, c.cancel = context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	soon := c.interval / 20
	c.timer = time.AfterFunc(soon+rand.N(soon+1), c.run)
}

// stop ends the check and returns what it knew. It does not wait for a question
// that is under way; that is cancelled and reports nothing.
func (c *check) stop() Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.timer.Stop()
	c.cancel()
	return c.health
}

func (c *check) run() {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	c.busy.Add(1)
	defer c.busy.Done()
	now := time.Now()
	if c.due.IsZero() {
		c.due = now.Add(rand.N(c.interval))
	} else {
		c.due = c.due.Add(c.interval)
	}
	c.mu.Unlock()

	select {
	case c.slots <- struct{}{}:
	case <-c.life.Done():
		return
	}
	ctx, cancel := context.WithTimeout(c.life, c.timeout)
	reason := c.ask(ctx, c.question)
	cancel()
	<-c.slots

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	c.take(reason)
	now = time.Now()
	if c.due.Before(now) {
		c.due = now
	}
	c.timer.Reset(c.due.Sub(now))
}

// take counts a result. The first decides at once.
func (c *check) take(reason string) {
	is, threshold := Healthy, c.rise
	if reason != "" {
		is, threshold = Unhealthy, c.fall
	}
	if is == c.health {
		c.streak = 0
	} else if c.streak++; c.health != Unknown && c.streak < threshold {
		return
	}
	if is != c.health || reason != c.reason {
		c.health, c.reason, c.streak = is, reason, 0
		c.report(is, reason)
	}
}

// adoptChecks starts and stops the checks of a server group as the snapshot has
// it. Only groups behind a listener are checked, from the first load balancer that
// has them. The caller holds mu.
func (e *Local) adoptChecks(group string) {
	g := e.serverGroups[group]
	if g == nil || e.life.Err() != nil {
		return
	}
	for _, s := range g.servers {
		e.adoptCheck(g, s)
	}
	for _, s := range g.Servers {
		if k := g.kin[s.ID]; len(k.members) > 0 {
			e.judge(k)
		} else {
			h, reason := e.unnamed(s)
			e.observeServer(k, h, reason)
		}
	}
}

func (e *Local) adoptCheck(g *serverGroup, s *server) {
	b := e.checker(s.group)
	spec, ok := checkSpecOf(g.Health, b, s)
	reached := b == nil || e.reaches(b.Network, s.target)
	if s.check != nil && ok && reached && s.check.checkSpec == spec {
		return
	}
	knew := e.stopCheck(s)
	if s.before != "" {
		knew, s.before = s.before, ""
	}
	switch {
	case !reached:
		s.know(Unhealthy, nameRefused)
		return
	case !ok:
		s.stand(Unknown)
		s.know(Unknown, "")
		return
	}
	if knew == Unknown {
		s.know(Unknown, "")
	}
	s.check = &check{checkSpec: spec, health: knew, slots: e.checkSlots, busy: &e.checking, ask: e.ask, report: func(h Health, reason string) {
		s.stand(h)
		s.know(h, reason)
		e.judge(s.kin)
	}}
	s.check.start(e.life)
}

// checker returns the load balancer that checks the servers of a group, nil if none
// has it behind a listener.
func (e *Local) checker(group string) *balancer {
	if users := e.balancersOf[group]; len(users) > 0 {
		return e.balancers[slices.Min(slices.Collect(maps.Keys(users)))]
	}
	return nil
}

// checkSpecOf says how b checks s, and false if it does not.
func checkSpecOf(health HealthCheck, b *balancer, s *server) (checkSpec, bool) {
	if !health.Enabled || b == nil || len(b.Zones) == 0 {
		return checkSpec{}, false
	}
	zone := b.Zones[max(0, slices.IndexFunc(b.Zones, func(z LBZone) bool { return z.Zone == s.zone }))]
	seconds := func(n int, otherwise time.Duration) time.Duration {
		return cmp.Or(time.Duration(max(n, 0))*time.Second, otherwise)
	}
	q := newQuestion(health, netip.AddrPortFrom(s.address.Addr(), cmp.Or(health.Port, s.address.Port())))
	q.host, q.from = s.host, origin{b.Network, zone.Address}
	return checkSpec{
		question: q,
		interval: seconds(health.Interval, defaultInterval),
		timeout:  seconds(health.Timeout, defaultTimeout),
		rise:     cmp.Or(health.HealthyThreshold, defaultThreshold),
		fall:     cmp.Or(health.UnhealthyThreshold, defaultThreshold),
	}, true
}

// stopCheck stops the check of s, if it has one, and returns what it knew.
func (e *Local) stopCheck(s *server) Health {
	if s.check == nil {
		return Unknown
	}
	defer func() { s.check = nil }()
	return s.check.stop()
}

// know notes what is told of s.
func (s *server) know(h Health, reason string) {
	s.kin.mu.Lock()
	defer s.kin.mu.Unlock()
	s.health, s.reason = h, reason
}

// judge tells the health of a server of the snapshot. With several addresses that
// is healthy if one of them is, since flows go there, and unhealthy if all are.
func (e *Local) judge(k *kin) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.members) == 0 {
		return
	}
	best := slices.MinFunc(k.members, func(a, b *server) int { return order(a.health) - order(b.health) })
	e.observeServer(k, best.health, best.reason)
}

// order of a health, the better the smaller.
func order(h Health) int {
	return slices.Index([]Health{Healthy, Unknown, Unhealthy}, cmp.Or(h, Unknown))
}

func (e *Local) observeServer(k *kin, h Health, reason string) {
	o := within(aServer, k.group, k.id)
	h = cmp.Or(h, Unknown)
	was, ok := e.board.about(o).(ServerObserved)
	switch {
	case !ok || was.Health != h:
		e.board.post(o, ServerObserved{ServerGroup: k.group, ID: k.id, Health: h, Reason: reason, Since: e.now()})
	case was.Reason != reason:
		was.Reason = reason
		e.board.post(o, was)
	}
}
