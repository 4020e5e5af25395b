package proxy

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// server is one target of a group while its address stands: another address
// under the same id is another server, and so is each address of a name.
type server struct {
	group string
	target

	standing atomic.Int32 // a standing
	since    atomic.Int64 // when it became healthy, in ns since 1970; 0: it always was
	live     atomic.Int64 // flows
	resets   atomic.Bool  // its flows when it goes down
	flows    flowSet

	// Guarded by the engine.
	zone    string
	weight  int
	kin     *kin
	check   *check    // nil: not checked
	before  Health    // that the program before knew; empty: none was
	drained time.Time // end of its drain

	// Guarded by kin.
	health Health
	reason string
}

// target is what makes a server of a group another one.
type target struct {
	id      string
	address netip.AddrPort // port 0: the one that the client used
	host    bool           // dialled from the host's own namespace
	named   bool           // found by a name
}

// enter is false once the server is removed.
func (s *server) enter(f *session) bool {
	if !s.flows.add(f) {
		return false
	}
	s.live.Add(1)
	return true
}

func (s *server) leave(f *session) {
	s.live.Add(-1)
	s.flows.remove(f)
}

// stand heeds what checks say.
func (s *server) stand(h Health) {
	was, is := standing(s.standing.Load()), up
	if h == Unhealthy {
		is = down
	}
	if h == Healthy && was != up {
		s.since.Store(time.Now().UnixNano())
	}
	s.standing.Store(int32(is))
	if is == down && was != down { // the next datagram of a UDP client finds another
		resets := s.resets.Load()
		s.flows.cut(ReasonUnhealthy, func(f *session) bool { return resets || f.door.protocol == verdict.UDP })
	}
}

// origin is where a pool's flows come from: an address of a load balancer in its
// VPC.
type origin struct {
	network string
	local   netip.Addr
}

// pool balances the flows that reach a load balancer in one zone over the servers
// of one group. Everything that leads there shares it, so the weights hold over
// all of them. Its methods may be called from several loops at once and allocate
// nothing.
type pool struct {
	table atomic.Pointer[table] // nil: no server
	next  atomic.Uint32         // local address
	ids   quicIDs
}

// table is a pool as it was filled last.
type table struct {
	*picker
	network string
	locals  []netip.Addr // that flows come from in turn; at least one
}

// fill replaces the servers; those that stay keep their turn. Flows come from
// locals in turn.
func (p *pool) fill(g *ServerGroup, network string, locals []netip.Addr, slots []slot) {
	var was *picker
	if t := p.table.Load(); t != nil {
		was = t.picker
	}
	p.table.Store(&table{newPicker(g, slots, was), network, locals})
}

// pick chooses a server for a new flow and the address that it is reached from.
// Servers in tried are passed over; nil says that none is left.
func (p *pool) pick(k *flowKey, tried []*server) (*server, origin) {
	t := p.table.Load()
	if t == nil {
		return nil, origin{}
	}
	from := origin{t.network, t.locals[p.next.Add(1)%uint32(len(t.locals))]}
	if t.scheduler == QUICConnectionHash {
		if s := p.ids.find(k.Datagram); s != nil && t.takes(s, tried) {
			return s, from
		}
	}
	var now int64
	if t.slowStart > 0 {
		now = time.Now().UnixNano()
	}
	return t.pick(k, tried, now), from
}

// origins is how many addresses flows come from.
func (p *pool) origins() int {
	if t := p.table.Load(); t != nil {
		return len(t.locals)
	}
	return 0
}

// after returns the origin that follows from, round and round.
func (p *pool) after(from origin) origin {
	if t := p.table.Load(); t != nil {
		from = origin{t.network, t.locals[(slices.Index(t.locals, from.local)+1)%len(t.locals)]}
	}
	return from
}

// learns says whether replies are of use to learn.
func (p *pool) learns() bool {
	t := p.table.Load()
	return t != nil && t.scheduler == QUICConnectionHash
}

// learn looks for the QUIC connection id in a reply of s, so that the connection
// is known when its client comes from another address.
func (p *pool) learn(s *server, reply []byte) {
	if p.learns() {
		p.ids.learn(s, reply)
	}
}
