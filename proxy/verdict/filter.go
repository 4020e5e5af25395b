package verdict

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sort"
)

// Filter is [Explain] compiled for the groups of one network interface. It never
// changes and may be used by many goroutines; the zero Filter refuses everything.
//
// Prefixes lie inside each other or apart, and a member is a prefix of one address,
// so they form a tree. Whatever concerns a source is met on the way from the
// narrowest prefix that holds it to the root, and what the rules there say of a
// port is found by binary search.
type Filter struct {
	traces []Trace // in the order in which they decide
	none   Reason  // when nothing matches

	nodes  []node       // by first address, wider before narrower, IPv4 before IPv6
	v4     []uint32     // first addresses of the nodes of IPv4
	v6     []netip.Addr // and of those of IPv6, which follow
	uses   []int32      // tables of nodes
	tables []table
	starts []uint32 // of runs of slots, table by table
	ranks  []int32  // traces[ranks[i]] decides about the run that begins at starts[i]
}

// node is a prefix that rules or members name.
type node struct {
	netip.Prefix
	parent   int32 // the narrowest around it; -1: none
	from, to int32 // in uses, which are in the order of their best ranks
	best     int32 // least rank of its tables and those around it
}

// table is what the rules for one peer say.
type table struct {
	from, to int32 // in starts and ranks
	best     int32 // least of its ranks
}

// undecided is the rank of slots that no rule speaks of.
const undecided = math.MaxInt32

// slot numbers a protocol and a port. Protocols that no rule can name are one.
func slot(p Protocol, port uint16) uint32 {
	row := uint32(3)
	switch p {
	case TCP:
		row = 0
	case UDP:
		row = 1
	case ICMP:
		row = 2
	}
	return row<<16 | uint32(port)
}

// line is a rule with its decision. What members of a group may do among themselves
// is such a rule, too.
type line struct {
	Rule
	trace   Trace
	members []netip.Addr // of Group
}

// span is the slots from one to another, both included, that a line speaks of.
type span struct {
	from, to uint32
	rank     int32
}

// spans of the line, which has that rank.
func (l *line) spans(rank int32) (list []span) {
	from, to := l.From, l.To
	if from == 0 && to == 0 {
		to = math.MaxUint16
	}
	if from > to {
		return nil
	}
	for _, p := range [...]Protocol{TCP, UDP, ICMP, All} {
		if l.Protocol == All || l.Protocol == p {
			list = append(list, span{slot(p, from), slot(p, to), rank})
		}
	}
	return list
}

// lines of groups in the order in which they decide.
func lines(groups []Group, all map[string]Group) (list []*line) {
	for _, g := range groups {
		if g.IntraAllow {
			trace := Trace{Accept: true, Reason: ByIntraGroup, Group: g.ID}
			list = append(list, &line{Rule{Protocol: All, Group: g.ID}, trace, g.Members})
		}
	}
	rules := len(list)
	for _, g := range groups {
		for _, r := range g.Rules {
			list = append(list, &line{r, Trace{Accept: r.Policy == Accept, Reason: ByRule, Group: g.ID, Rule: r.ID}, all[r.Group].Members})
		}
	}
	slices.SortStableFunc(list[rules:], func(a, b *line) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(weight(a.Policy), weight(b.Policy)))
	})
	return list
}

// weight orders policies at equal priority: drop wins.
func weight(p Policy) int {
	if p == Drop {
		return 0
	}
	return 1
}

// Compile makes the Filter whose answer is Explain(groups, all, flow) for every
// flow. It keeps nothing of its arguments.
func Compile(groups []Group, all map[string]Group) *Filter {
	if len(groups) == 0 {
		return &Filter{none: ByNoGroup}
	}
	type peer struct {
		prefix netip.Prefix
		group  string
		among  bool // the group's own members
	}
	f := &Filter{none: ByDefault}
	var peers []peer
	spans, members := map[peer][]span{}, map[peer][]netip.Addr{}
	for i, l := range lines(groups, all) {
		f.traces = append(f.traces, l.trace)
		own := l.spans(int32(i))
		if len(own) == 0 {
			continue
		}
		p := peer{group: l.Group, among: l.trace.Reason == ByIntraGroup}
		if p.group == "" {
			p.prefix = l.Peer.Masked()
		}
		if _, known := spans[p]; !known {
			peers = append(peers, p)
		}
		spans[p], members[p] = append(spans[p], own...), l.members
	}
	uses := map[netip.Prefix][]int32{}
	for _, p := range peers {
		t := f.add(spans[p])
		for _, a := range members[p] {
			at := netip.PrefixFrom(a, a.BitLen())
			uses[at] = append(uses[at], t)
		}
		if p.group == "" {
			uses[p.prefix] = append(uses[p.prefix], t)
		}
	}
	delete(uses, netip.Prefix{}) // of rules without a peer
	f.plant(uses)
	return f
}

// add makes a table of spans, of which earlier ones win.
func (f *Filter) add(spans []span) int32 {
	cuts := []uint32{0}
	for _, s := range spans {
		cuts = append(cuts, s.from, s.to+1)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	index := func(at uint32) int { i, _ := slices.BinarySearch(cuts, at); return i }

	ranks := slices.Repeat([]int32{undecided}, len(cuts))
	free := make([]int, len(cuts)+1) // leads to the next cut that no span has taken
	for i := range free {
		free[i] = i
	}
	next := func(i int) int {
		for free[i] != i {
			free[i] = free[free[i]]
			i = free[i]
		}
		return i
	}
	best := int32(undecided)
	for _, s := range spans {
		best = min(best, s.rank)
		for i, end := next(index(s.from)), index(s.to+1); i < end; i = next(i) {
			ranks[i], free[i] = s.rank, i+1
		}
	}
	from := int32(len(f.starts))
	for i, r := range ranks {
		if i == 0 || r != ranks[i-1] {
			f.starts, f.ranks = append(f.starts, cuts[i]), append(f.ranks, r)
		}
	}
	f.tables = append(f.tables, table{from, int32(len(f.starts)), best})
	return int32(len(f.tables) - 1)
}

// plant makes the tree of the prefixes that use tables.
func (f *Filter) plant(uses map[netip.Prefix][]int32) {
	parent := int32(-1)
	for i, p := range slices.SortedFunc(maps.Keys(uses), netip.Prefix.Compare) {
		for parent >= 0 && !f.nodes[parent].Contains(p.Addr()) {
			parent = f.nodes[parent].parent
		}
		from := int32(len(f.uses))
		f.uses = append(f.uses, uses[p]...)
		best := f.tables[uses[p][0]].best
		if parent >= 0 {
			best = min(best, f.nodes[parent].best)
		}
		f.nodes = append(f.nodes, node{p, parent, from, int32(len(f.uses)), best})
		if p.Addr().Is4() {
			f.v4 = append(f.v4, number(p.Addr()))
		} else {
			f.v6 = append(f.v6, p.Addr())
		}
		parent = int32(i)
	}
}

// Explain decides about a flow, whose source has no zone. It allocates nothing.
func (f *Filter) Explain(flow Flow) Trace {
	rank, s := int32(undecided), slot(flow.Protocol, flow.Port)
	for i := f.before(flow.Source); i >= 0; {
		n := &f.nodes[i]
		if n.best >= rank {
			break
		}
		if n.Contains(flow.Source) {
			rank = f.rank(n, s, rank)
		}
		i = n.parent
	}
	if rank == undecided {
		return Trace{Reason: f.none}
	}
	return f.traces[rank]
}

// before returns the last node that begins at a or before, or -1: all prefixes that
// hold a are it and those around it.
func (f *Filter) before(a netip.Addr) int32 {
	if a.Is4() {
		v := number(a)
		return int32(sort.Search(len(f.v4), func(i int) bool { return f.v4[i] > v })) - 1
	}
	return int32(len(f.v4)+sort.Search(len(f.v6), func(i int) bool { return f.v6[i].Compare(a) > 0 })) - 1
}

// rank returns the least of rank and the ranks of what n's tables say of a slot.
func (f *Filter) rank(n *node, s uint32, rank int32) int32 {
	for _, i := range f.uses[n.from:n.to] {
		t := &f.tables[i]
		if t.best >= rank {
			break
		}
		starts := f.starts[t.from:t.to]
		run := sort.Search(len(starts), func(i int) bool { return starts[i] > s }) - 1
		rank = min(rank, f.ranks[int(t.from)+run])
	}
	return rank
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
