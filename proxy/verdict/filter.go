package verdict

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// Filter is [Explain] compiled for the groups of one network interface: rules in
// the order in which they decide, prefixes as masks, members as sets. It never
// changes and may be used by many goroutines; the zero Filter refuses everything.
type Filter struct {
	intra []intra
	rules []line
	trace []Trace // of rules, by index: kept apart so that the search touches less memory
	none  Reason  // when nothing matches
}

// intra accepts flows from members of group.
type intra struct {
	group   string
	members members
}

type members map[netip.Addr]struct{}

// line is one rule. An IPv4 prefix is compared as a masked number, anything else
// by peer or members.
type line struct {
	v4, mask uint32
	from, to uint16
	protocol protocols
	kind     kind
	peer     netip.Prefix
	members  members
}

type kind uint8

const (
	byV4 kind = iota
	byPrefix
	byMembers
)

// protocols is a set of those that rules can name.
type protocols uint8

const (
	tcp protocols = 1 << iota
	udp
	icmp
)

func protocolsOf(p Protocol) protocols {
	switch p {
	case TCP:
		return tcp
	case UDP:
		return udp
	case ICMP:
		return icmp
	case All:
		return tcp | udp | icmp
	}
	return 0
}

// Compile makes the Filter whose answer is Explain(groups, all, flow) for every
// flow of TCP, UDP or ICMP. It keeps nothing of its arguments.
func Compile(groups []Group, all map[string]Group) *Filter {
	if len(groups) == 0 {
		return &Filter{none: ByNoGroup}
	}
	f := &Filter{none: ByDefault}
	sets := map[string]members{} // a group is often named by several rules
	membersOf := func(id string) members {
		if _, ok := sets[id]; !ok {
			sets[id] = setOf(all[id].Members)
		}
		return sets[id]
	}
	type ranked struct {
		Rule
		group string
	}
	var order []ranked
	for _, g := range groups {
		if g.IntraAllow && len(g.Members) > 0 {
			f.intra = append(f.intra, intra{g.ID, setOf(g.Members)})
		}
		for _, r := range g.Rules {
			order = append(order, ranked{r, g.ID})
		}
	}
	slices.SortStableFunc(order, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(rank(a.Policy), rank(b.Policy)))
	})
	for _, r := range order {
		l := line{from: r.From, to: r.To, protocol: protocolsOf(r.Protocol)}
		if l.from == 0 && l.to == 0 {
			l.to = 65535
		}
		switch peer := r.Peer.Masked(); {
		case r.Group != "":
			l.kind, l.members = byMembers, membersOf(r.Group)
		case peer.Addr().Is4():
			l.mask = ^uint32(0) << (32 - peer.Bits())
			l.v4 = number(peer.Addr())
		case peer.IsValid():
			l.kind, l.peer = byPrefix, peer
		default:
			continue // no peer: matches nothing
		}
		f.rules = append(f.rules, l)
		f.trace = append(f.trace, Trace{Accept: r.Policy == Accept, Reason: ByRule, Group: r.group, Rule: r.ID})
	}
	return f
}

// Explain decides about a flow. It allocates nothing.
func (f *Filter) Explain(flow Flow) Trace {
	for _, g := range f.intra {
		if _, ok := g.members[flow.Source]; ok {
			return Trace{Accept: true, Reason: ByIntraGroup, Group: g.group}
		}
	}
	v4, is4 := uint32(0), flow.Source.Is4()
	if is4 {
		v4 = number(flow.Source)
	}
	protocol := protocolsOf(flow.Protocol)
	for i := range f.rules {
		r := &f.rules[i]
		if r.protocol&protocol == 0 || flow.Port < r.from || flow.Port > r.to {
			continue
		}
		var match bool
		switch r.kind {
		case byV4:
			match = is4 && v4&r.mask == r.v4
		case byPrefix:
			match = r.peer.Contains(flow.Source)
		case byMembers:
			_, match = r.members[flow.Source]
		}
		if match {
			return f.trace[i]
		}
	}
	return Trace{Reason: f.none}
}

// rank orders policies at equal priority: drop wins.
func rank(p Policy) int {
	if p == Drop {
		return 0
	}
	return 1
}

func setOf(addrs []netip.Addr) members {
	s := make(members, len(addrs))
	for _, a := range addrs {
		s[a] = struct{}{}
	}
	return s
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
