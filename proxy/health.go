package proxy

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
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

// Reasons of an unhealthy server, as the load balancer's API names them.
const (
	connectTimeout = "CONNECT_TIMEOUT"
	connectFailed  = "CONNECT_FAILED"
)

// checkSpec is what a check does; another spec is another check.
type checkSpec struct {
	host              bool
	from              origin
	to                netip.AddrPort
	interval, timeout time.Duration
	rise, fall        int
}

// check watches one server at a fixed rate. Between two connects it is a timer
// only, so thousands cost no goroutine; while one is under way the next waits for
// it and then starts at once.
type check struct {
	checkSpec
	connect func(context.Context, checkSpec) error
	report  func(Health, string) // after a connect that changed the health; not after stop
	slots   chan struct{}        // shared by all checks: one is taken for each connect

	mu      sync.Mutex
	timer   *time.Timer
	due     time.Time // of the next
	stopped bool
	health  Health
	streak  int // results in a row against health

	life   context.Context
	cancel context.CancelFunc
	busy   *sync.WaitGroup // shared: counts connects
}

// start begins to check. The first connect comes within a tenth of the interval,
// those after it at a random phase, so that servers that came together are not
// checked together.
func (c *check) start(ctx context.Context) {
	c.life, c.cancel = context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	soon := c.interval / 20
	c.timer = time.AfterFunc(soon+rand.N(soon+1), c.run)
}

// stop ends the check and returns what it knew. It does not wait for a connect
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
	err := c.connect(ctx, c.checkSpec)
	cancel()
	<-c.slots

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	c.take(err)
	now = time.Now()
	if c.due.Before(now) {
		c.due = now
	}
	c.timer.Reset(c.due.Sub(now))
}

// take counts a result. The first decides at once.
func (c *check) take(err error) {
	is, reason, threshold := Healthy, "", c.rise
	if err != nil {
		is, reason, threshold = Unhealthy, connectFailed, c.fall
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) {
			reason = connectTimeout
		}
	}
	if is == c.health {
		c.streak = 0
		return
	}
	c.streak++
	if c.health == Unknown || c.streak >= threshold {
		c.health, c.streak = is, 0
		c.report(is, reason)
	}
}

// adoptChecks starts and stops the checks of a server group as the snapshot has
// it. Only groups behind a listener are checked, from the first load balancer that
// has them. The caller holds mu.
func (e *Local) adoptChecks(group string) {
	if e.life.Err() != nil {
		return
	}
	g := e.serverGroups[group]
	if g == nil {
		return
	}
	for _, r := range g.servers {
		spec, ok := e.checkSpec(g, r)
		if r.check != nil && ok && r.check.checkSpec == spec {
			continue
		}
		health := e.stopCheck(r)
		if !ok {
			r.stand(Unknown)
			e.observeServer(r, Unknown, "")
			continue
		}
		if health == Unknown {
			e.observeServer(r, Unknown, "")
		}
		c := &check{checkSpec: spec, health: health, slots: e.checkSlots, busy: &e.checking, connect: func(ctx context.Context, s checkSpec) error {
			c, err := e.dial(ctx, s.host, s.from, s.to)
			if err == nil {
				_ = c.Close()
			}
			return err
		}}
		c.report = func(h Health, reason string) {
			r.stand(h)
			e.observeServer(r, h, reason)
		}
		r.check = c
		c.start(e.life)
	}
}

// checkSpec says how to check s, and false if it is not to be checked.
func (e *Local) checkSpec(g *serverGroup, s *server) (checkSpec, bool) {
	health, users := g.Health, e.balancersOf[s.group]
	if !health.Enabled || len(users) == 0 {
		return checkSpec{}, false
	}
	b := e.balancers[slices.Min(slices.Collect(maps.Keys(users)))]
	if len(b.Zones) == 0 {
		return checkSpec{}, false
	}
	zone := b.Zones[max(0, slices.IndexFunc(b.Zones, func(z LBZone) bool { return z.Zone == s.zone }))]
	seconds := func(n int, otherwise time.Duration) time.Duration {
		return cmp.Or(time.Duration(max(n, 0))*time.Second, otherwise)
	}
	return checkSpec{
		host:     s.host,
		from:     origin{b.Network, zone.Address},
		to:       netip.AddrPortFrom(s.address.Addr(), cmp.Or(health.Port, s.address.Port())),
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

func (e *Local) observeServer(s *server, h Health, reason string) {
	o := within(aServer, s.group, s.id)
	if was, ok := e.board.about(o).(ServerObserved); !ok || was.Health != h || was.Reason != reason {
		e.board.post(o, ServerObserved{ServerGroup: s.group, ID: s.id, Health: h, Reason: reason, Since: e.now()})
	}
}
