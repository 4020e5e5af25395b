package proxy

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// flowKey is what a server may be chosen by.
type flowKey struct {
	Client   netip.AddrPort // as the consumer's network knows it
	Local    netip.AddrPort // that the client reached
	Endpoint string         // empty for clients of the load balancer's own VPC
	Datagram []byte         // the first of a UDP flow; nil for TCP
}

// standing is what checks say of a server, the better the smaller.
type standing int32

const (
	up       standing = iota // healthy, or not checked
	untested                 // new, and not checked yet
	down
)

// slot is a server's place in a picker.
type slot struct {
	*server
	weight int    // above 0
	seed   uint64 // of its scores
}

// weightUnit is a weight of 1, so that slow start has steps in between.
const weightUnit = 1024

// picker is a scheduler over the servers of a pool. It reads what servers do at
// the moment and no clock; beside that it only remembers turns.
type picker struct {
	scheduler  Scheduler
	slowStart  time.Duration
	failClosed bool
	key        hash // that its hashes begin with
	even       bool // every weight is the same, for good
	slots      []slot

	mu    sync.Mutex
	turns []int64 // of the smooth weighted round robin, by slot
	round []int   // slots that take part in the turn; scratch
}

// newPicker makes the picker of a server group. Servers that was had already keep
// their turn.
func newPicker(g *ServerGroup, slots []slot, was *picker) *picker {
	p := &picker{
		scheduler: g.Scheduler, failClosed: g.FailClosed, slowStart: time.Duration(g.SlowStart) * time.Second,
		key: hash(0).text(g.ID), slots: slots, turns: make([]int64, len(slots)), round: make([]int, 0, len(slots)),
	}
	p.even = p.slowStart == 0
	for i := range slots {
		s := &slots[i]
		if p.scheduler == RoundRobin {
			s.weight = 1
		}
		s.seed = uint64(p.key.text(s.id).address(s.address))
		p.even = p.even && s.weight == slots[0].weight
	}
	if was == nil {
		return p
	}
	was.mu.Lock()
	defer was.mu.Unlock()
	for i := range slots {
		if at := slices.IndexFunc(was.slots, func(s slot) bool { return s.server == slots[i].server }); at >= 0 {
			p.turns[i] = was.turns[at]
		}
	}
	return p
}

// pick chooses a server for a new flow at the time now, in nanoseconds since 1970,
// which only slow start asks for. Servers in tried are passed over. It returns nil
// if none is left. Of the rest only those of the best standing take part; servers
// that are down do only if every one is and the group fails open.
func (p *picker) pick(k *flowKey, tried []*server, now int64) *server {
	for {
		worst := p.worst(tried)
		if worst < 0 {
			return nil
		}
		if s := p.among(k, worst, tried, now); s != nil {
			return s
		} // else a standing has changed meanwhile
	}
}

func (p *picker) among(k *flowKey, worst standing, tried []*server, now int64) *server {
	switch p.scheduler {
	case SourceHash:
		return p.highest(p.key.ip(k.Client.Addr()).text(k.Endpoint), worst, tried, now)
	case TupleHash:
		return p.highest(p.key.address(k.Client).address(k.Local), worst, tried, now)
	case QUICConnectionHash:
		h := p.key.address(k.Client).address(k.Local)
		if id, ok := destinationID(k.Datagram); ok {
			h = p.key.word(id.head())
		}
		return p.highest(h, worst, tried, now)
	}
	return p.turn(worst, tried, now)
}

// may says whether a server that is neither tried nor worse can be picked.
func (p *picker) may(s *slot, worst standing, tried []*server) bool {
	return standing(s.standing.Load()) <= worst && !slices.Contains(tried, s.server)
}

// takes says whether s may have a new flow.
func (p *picker) takes(s *server, tried []*server) bool {
	worst := p.worst(tried)
	at := slices.IndexFunc(p.slots, func(v slot) bool { return v.server == s })
	return at >= 0 && p.may(&p.slots[at], worst, tried)
}

// worst returns the standing down to which servers take part, or -1 for none.
func (p *picker) worst(tried []*server) standing {
	best, every := down+1, true
	for i := range p.slots {
		s := standing(p.slots[i].standing.Load())
		every = every && s == down
		if s < best && !slices.Contains(tried, p.slots[i].server) {
			best = s
		}
	}
	if best > down || best == down && (p.failClosed || !every) {
		return -1
	}
	return best
}

// weight of a server now, in weightUnits: it grows evenly in the time of slow
// start.
func (p *picker) weight(s *slot, now int64) int64 {
	full := int64(s.weight) * weightUnit
	if p.slowStart == 0 {
		return full
	}
	age := now - s.since.Load()
	if age < 0 || age >= int64(p.slowStart) { // a clock that was set back ends it
		return full
	}
	return max(1, int64(float64(full)*float64(age)/float64(p.slowStart)))
}

// turn is the smooth weighted round robin: of all servers, or for wlc of those with
// the fewest live flows for their weight.
func (p *picker) turn(worst standing, tried []*server, now int64) *server {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.round = p.round[:0]
	var flows, weight int64 // of the least loaded so far
	for i := range p.slots {
		s := &p.slots[i]
		if !p.may(s, worst, tried) {
			continue
		}
		if p.scheduler == WeightedLeastConns {
			f, w := s.live.Load()+1, p.weight(s, now)
			if len(p.round) > 0 && f*weight > flows*w {
				continue
			}
			if f*weight < flows*w {
				p.round = p.round[:0]
			}
			flows, weight = f, w
		}
		p.round = append(p.round, i)
	}
	best, total := -1, int64(0)
	for _, i := range p.round {
		w := p.weight(&p.slots[i], now)
		total += w
		p.turns[i] += w
		if best < 0 || p.turns[i] > p.turns[best] {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	p.turns[best] -= total
	return p.slots[best].server
}

// highest is the weighted rendezvous: each server has a score for the hash, and
// the highest wins. A server that comes or goes moves its own flows only.
func (p *picker) highest(h hash, worst standing, tried []*server, now int64) *server {
	var best *server
	var most uint64
	score := 0.0
	for i := range p.slots {
		s := &p.slots[i]
		if !p.may(s, worst, tried) {
			continue
		}
		n := uint64(h.word(s.seed))
		if p.even {
			if best == nil || n > most {
				best, most = s.server, n
			}
			continue
		}
		// The hash as a number between 0 and 1, neither of them.
		u, w := (float64(n>>12)+0.5)/(1<<52), float64(p.weight(s, now))
		if w <= score*(1-u) {
			continue // -log u is no less than 1-u, so the logarithm need not be known
		}
		if v := w / -math.Log(u); v > score {
			best, score = s.server, v
		}
	}
	return best
}

// hash is a 64-bit hash in the making; what it begins with is its key. Each step
// ends in the finaliser of MurmurHash3, after which every bit of the input counts
// in every bit of the hash.
type hash uint64

func (h hash) word(w uint64) hash {
	x := (uint64(h) ^ w) + 0x9e3779b97f4a7c15
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return hash(x ^ x>>33)
}

func (h hash) text(s string) hash {
	h = h.word(uint64(len(s)))
	var w uint64
	for i := range len(s) {
		if w = w<<8 | uint64(s[i]); i%8 == 7 || i == len(s)-1 {
			h, w = h.word(w), 0
		}
	}
	return h
}

func (h hash) ip(a netip.Addr) hash {
	b := a.As16()
	return h.word(binary.BigEndian.Uint64(b[:8])).word(binary.BigEndian.Uint64(b[8:]))
}

func (h hash) address(a netip.AddrPort) hash { return h.ip(a.Addr()).word(uint64(a.Port())) }
