package proxy

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// server is one target of a group while its address stands: another address
// under the same id is another server.
type server struct {
	group, id string
	address   netip.AddrPort
	host      bool // dialled from the host's own namespace

	down  atomic.Bool // known to be unhealthy
	flows flowSet
	check *check // nil: not checked; guarded by the engine
}

// origin is where a pool's flows come from: a load balancer's address in its VPC.
type origin struct {
	network string
	local   netip.Addr
}

// pool balances the flows that reach a load balancer in one zone over the servers
// of one group. Everything that leads there shares it, so the weights hold over
// all of them.
type pool struct {
	mu    sync.Mutex
	from  origin
	slots []slot
}

type slot struct {
	*server
	weight  int
	current int // of the smooth weighted round robin
}

// fill replaces the servers; those that stay keep their turn.
func (p *pool) fill(from origin, slots []slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range slots {
		at := slices.IndexFunc(p.slots, func(s slot) bool { return s.server == slots[i].server })
		if at >= 0 {
			slots[i].current = p.slots[at].current
		}
	}
	p.from, p.slots = from, slots
}

// pick chooses the next server by smooth weighted round robin over those that are
// not known to be down, or over all if every one is. Servers in tried are passed
// over; nil says that none is left.
func (p *pool) pick(tried []*server) (*server, origin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	failOpen := !slices.ContainsFunc(p.slots, func(s slot) bool { return !s.down.Load() })
	var best *slot
	total := 0
	for i := range p.slots {
		s := &p.slots[i]
		if s.down.Load() && !failOpen || slices.Contains(tried, s.server) {
			continue
		}
		total += s.weight
		s.current += s.weight
		if best == nil || s.current > best.current {
			best = s
		}
	}
	if best == nil {
		return nil, p.from
	}
	best.current -= total
	return best.server, p.from
}
