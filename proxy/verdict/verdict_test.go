package verdict_test

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func rule(id string, priority int, p verdict.Policy, peer string) verdict.Rule {
	return verdict.Rule{ID: id, Priority: priority, Policy: p, Protocol: verdict.TCP, From: 80, To: 443, Peer: netip.MustParsePrefix(peer)}
}

func TestExplain(t *testing.T) {
	web := verdict.Group{ID: "web", Rules: []verdict.Rule{
		rule("wide", 50, verdict.Accept, "10.0.0.0/16"),
		rule("barred", 10, verdict.Drop, "10.0.9.0/24"),
	}}
	members := verdict.Group{ID: "members", Members: []netip.Addr{addr("10.0.1.1")}, IntraAllow: true}
	byGroup := verdict.Group{ID: "by-group", Rules: []verdict.Rule{
		{ID: "r", Priority: 1, Policy: verdict.Accept, Protocol: verdict.All, Group: "members"},
	}}
	tie := verdict.Group{ID: "tie", Rules: []verdict.Rule{
		rule("yes", 5, verdict.Accept, "10.0.0.0/8"),
		rule("no", 5, verdict.Drop, "10.0.0.0/8"),
	}}
	all := map[string]verdict.Group{"web": web, "members": members, "by-group": byGroup, "tie": tie}

	tests := []struct {
		name   string
		groups []verdict.Group
		source string
		port   uint16
		want   verdict.Trace
	}{
		{"no group refuses", nil, "10.0.1.1", 80, verdict.Trace{Reason: verdict.ByNoGroup}},
		{"a rule accepts", []verdict.Group{web}, "10.0.1.1", 80, verdict.Trace{Accept: true, Reason: verdict.ByRule, Group: "web", Rule: "wide"}},
		{"both ends of the ports belong", []verdict.Group{web}, "10.0.1.1", 443, verdict.Trace{Accept: true, Reason: verdict.ByRule, Group: "web", Rule: "wide"}},
		{"a port beyond is refused", []verdict.Group{web}, "10.0.1.1", 444, verdict.Trace{Reason: verdict.ByDefault}},
		{"a smaller priority decides", []verdict.Group{web}, "10.0.9.1", 80, verdict.Trace{Reason: verdict.ByRule, Group: "web", Rule: "barred"}},
		{"a stranger is refused", []verdict.Group{web}, "192.0.2.1", 80, verdict.Trace{Reason: verdict.ByDefault}},
		{"drop wins a tie", []verdict.Group{tie}, "10.0.1.1", 80, verdict.Trace{Reason: verdict.ByRule, Group: "tie", Rule: "no"}},
		{"members of a named group", []verdict.Group{byGroup}, "10.0.1.1", 1, verdict.Trace{Accept: true, Reason: verdict.ByRule, Group: "by-group", Rule: "r"}},
		{"others than members", []verdict.Group{byGroup}, "10.0.1.2", 1, verdict.Trace{Reason: verdict.ByDefault}},
		{"among members before any rule", []verdict.Group{tie, members}, "10.0.1.1", 80, verdict.Trace{Accept: true, Reason: verdict.ByIntraGroup, Group: "members"}},
		{"rules of all groups together", []verdict.Group{tie, web}, "10.0.9.1", 80, verdict.Trace{Reason: verdict.ByRule, Group: "tie", Rule: "no"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			flow := verdict.Flow{Source: addr(tt.source), Protocol: verdict.TCP, Port: tt.port}
			if got := verdict.Explain(tt.groups, all, flow); got != tt.want {
				t.Errorf("Explain: got %+v, want %+v", got, tt.want)
			}
			if got := verdict.Compile(tt.groups, all).Explain(flow); got != tt.want {
				t.Errorf("Filter: got %+v, want %+v", got, tt.want)
			}
		})
	}
	if got := new(verdict.Filter).Explain(verdict.Flow{Source: addr("10.0.1.1")}); got.Accept {
		t.Errorf("the zero Filter accepted: %+v", got)
	}
}

// slow is the specification once more, as literally as it can be said: put all
// rules on one heap, sort it, and take the first that fits.
func slow(groups []verdict.Group, all map[string]verdict.Group, f verdict.Flow) verdict.Trace {
	if len(groups) == 0 {
		return verdict.Trace{Reason: verdict.ByNoGroup}
	}
	for _, g := range groups {
		for _, m := range g.Members {
			if g.IntraAllow && m == f.Source {
				return verdict.Trace{Accept: true, Reason: verdict.ByIntraGroup, Group: g.ID}
			}
		}
	}
	type entry struct {
		verdict.Rule
		group string
		place int
	}
	var heap []entry
	for _, g := range groups {
		for _, r := range g.Rules {
			heap = append(heap, entry{r, g.ID, len(heap)})
		}
	}
	slices.SortFunc(heap, func(a, b entry) int {
		if a.Priority != b.Priority {
			return cmp.Compare(a.Priority, b.Priority)
		}
		if a.Policy != b.Policy {
			if a.Policy == verdict.Drop {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.place, b.place)
	})
	for _, r := range heap {
		protocol := r.Protocol == verdict.All || r.Protocol == f.Protocol
		port := r.From == 0 && r.To == 0 || r.From <= f.Port && f.Port <= r.To
		peer := false
		if r.Group == "" {
			peer = r.Peer.IsValid() && r.Peer.Addr().Is4() == f.Source.Is4() && netip.PrefixFrom(f.Source, r.Peer.Bits()).Masked() == r.Peer.Masked()
		} else {
			for _, m := range all[r.Group].Members {
				peer = peer || m == f.Source
			}
		}
		if protocol && port && peer {
			return verdict.Trace{Accept: r.Policy == verdict.Accept, Reason: verdict.ByRule, Group: r.group, Rule: r.ID}
		}
	}
	return verdict.Trace{Reason: verdict.ByDefault}
}

// Small alphabets, so that rules overlap and tie, and flows hit their edges.
var (
	genAddr = rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.IntRange(0, 9).Draw(t, "v6") == 0 {
			return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 15: byte(rapid.IntRange(0, 3).Draw(t, "host"))})
		}
		return netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 3).Draw(t, "net")), byte(rapid.IntRange(0, 3).Draw(t, "host"))})
	})
	genRule = rapid.Custom(func(t *rapid.T) verdict.Rule {
		r := verdict.Rule{
			ID:       fmt.Sprint("r", rapid.IntRange(0, 999).Draw(t, "id")),
			Priority: rapid.IntRange(1, 4).Draw(t, "priority"),
			Policy:   rapid.SampledFrom([]verdict.Policy{verdict.Accept, verdict.Drop}).Draw(t, "policy"),
			Protocol: rapid.SampledFrom([]verdict.Protocol{verdict.All, verdict.TCP, verdict.UDP, verdict.ICMP}).Draw(t, "protocol"),
		}
		if rapid.Bool().Draw(t, "ports") {
			r.From = uint16(rapid.IntRange(0, 6).Draw(t, "from"))
			r.To = uint16(rapid.IntRange(0, 6).Draw(t, "to"))
		}
		switch rapid.IntRange(0, 5).Draw(t, "peer") {
		case 0:
			r.Group = fmt.Sprint("g", rapid.IntRange(0, 3).Draw(t, "group"))
		case 1: // nothing: matches no one
		default:
			a := genAddr.Draw(t, "addr")
			r.Peer = netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
		}
		return r
	})
)

// genGroups draws groups, and those of them that an interface has.
func genGroups(t *rapid.T, most int) (groups []verdict.Group, all map[string]verdict.Group) {
	all = map[string]verdict.Group{}
	for i := range 3 { // g3 is named by rules and does not exist
		id := fmt.Sprint("g", i)
		all[id] = verdict.Group{
			ID:         id,
			Rules:      rapid.SliceOfN(genRule, 0, most).Draw(t, "rules"),
			Members:    rapid.SliceOfN(genAddr, 0, 4).Draw(t, "members"),
			IntraAllow: rapid.Bool().Draw(t, "intra"),
		}
	}
	for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 2), 0, 3, rapid.ID).Draw(t, "groups") {
		groups = append(groups, all[fmt.Sprint("g", i)])
	}
	return groups, all
}

// configurations is how many random ones the forms of a verdict are compared on,
// each for many flows.
const configurations = 10_000

// The compiled form, the reference and a slow second implementation give one
// answer, and the listener's program that of the three.
func TestFormsAgree(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	defer func(was string) { _ = checks.Value.Set(was) }(checks.Value.String())
	if err := checks.Value.Set(strconv.Itoa(configurations)); err != nil {
		t.Fatal(err)
	}
	accepted, flows := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		groups, all := genGroups(t, 12)
		filter := verdict.Compile(groups, all)
		port := uint16(rapid.IntRange(0, 7).Draw(t, "listener"))
		listener := machine(t, groups, all, port)
		for range 30 {
			flow := verdict.Flow{
				Source:   genAddr.Draw(t, "source"),
				Protocol: rapid.SampledFrom([]verdict.Protocol{verdict.TCP, verdict.UDP, verdict.ICMP, "gre"}).Draw(t, "protocol"),
				Port:     uint16(rapid.IntRange(0, 7).Draw(t, "port")),
			}
			want := verdict.Explain(groups, all, flow)
			if got := slow(groups, all, flow); got != want {
				t.Fatalf("%+v: slow %+v, Explain %+v", flow, got, want)
			}
			if got := filter.Explain(flow); got != want {
				t.Fatalf("%+v: Filter %+v, Explain %+v", flow, got, want)
			}
			flows++
			if want.Accept {
				accepted++
			}
			if flow.Protocol, flow.Port = verdict.TCP, port; flow.Source.Is4() {
				if got, want := listener(flow.Source), verdict.Explain(groups, all, flow).Accept; got != want {
					t.Fatalf("%+v: the program lets pass: %v, want %v", flow, got, want)
				}
			}
		}
	})
	if accepted < flows/10 || accepted > flows*9/10 {
		t.Errorf("%d of %d flows accepted: the configurations say little", accepted, flows)
	}
}

// machine runs the program for the listener at port.
func machine(t *rapid.T, groups []verdict.Group, all map[string]verdict.Group, port uint16) func(netip.Addr) bool {
	raw := verdict.Compile(groups, all).Program(verdict.TCP, port)
	if raw == nil { // nobody is refused
		return func(netip.Addr) bool { return true }
	}
	vm := load(t, raw)
	return func(source netip.Addr) bool {
		n, err := vm.Run(syn(source, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, 9}), port)))
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
}

// worst are configurations that cost a Filter much, with flows for each.
func worst() map[string]struct {
	filter *verdict.Filter
	flows  []verdict.Flow
} {
	// No rule matches.
	apart := verdict.Group{ID: "apart"}
	for i := range 60 {
		apart.Rules = append(apart.Rules, rule(fmt.Sprint(i), i%100+1, verdict.Accept, fmt.Sprintf("172.16.%d.0/24", i)))
	}
	// Prefixes of every length around one address, each with many ports.
	nested := verdict.Group{ID: "nested"}
	for i := range 1000 {
		port := uint16(i/33) * 10
		nested.Rules = append(nested.Rules, verdict.Rule{
			ID: fmt.Sprint(i), Priority: 1 + i%7, Policy: verdict.Accept, Protocol: verdict.TCP,
			From: port + 1, To: port + 5, Peer: netip.PrefixFrom(addr("10.1.2.3"), i%33),
		})
	}
	// Large groups as peers.
	named := verdict.Group{ID: "named"}
	all := map[string]verdict.Group{}
	for i := range 20 {
		g := verdict.Group{ID: fmt.Sprint("peer", i)}
		for j := range 2000 {
			g.Members = append(g.Members, memberOf(j))
		}
		all[g.ID] = g
		for j := range 50 {
			port := uint16(j * 10)
			named.Rules = append(named.Rules, verdict.Rule{ID: fmt.Sprint(i, "-", j), Priority: 1 + j, Policy: verdict.Drop, Protocol: verdict.All, From: port, To: port + 5, Group: g.ID})
		}
	}
	random := rand.New(rand.NewPCG(5, 6))
	flows := func(source func() netip.Addr) (list []verdict.Flow) {
		for range 1024 {
			list = append(list, verdict.Flow{Source: source(), Protocol: verdict.TCP, Port: uint16(random.IntN(600))})
		}
		return list
	}
	anybody := func() netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(random.IntN(3)), byte(random.Uint32()), byte(random.Uint32())})
	}
	member := func() netip.Addr { return memberOf(random.IntN(2000)) }
	same := func() netip.Addr { return addr("10.1.2.3") }
	type hard = struct {
		filter *verdict.Filter
		flows  []verdict.Flow
	}
	return map[string]hard{
		"60 apart":    {verdict.Compile([]verdict.Group{apart}, nil), flows(anybody)},
		"60 random":   {verdict.Compile([]verdict.Group{large(60, 7)}, nil), flows(anybody)},
		"1000 random": {verdict.Compile([]verdict.Group{large(1000, 7)}, nil), flows(anybody)},
		"1000 nested": {verdict.Compile([]verdict.Group{nested}, nil), flows(same)},
		"1000 groups": {verdict.Compile([]verdict.Group{named}, all), flows(member)},
	}
}

func memberOf(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i % 3), byte(i >> 8), byte(i)})
}

func TestFilterAllocatesNothing(t *testing.T) {
	for name, w := range worst() {
		i := 0
		if n := testing.AllocsPerRun(len(w.flows), func() { w.filter.Explain(w.flows[i%len(w.flows)]); i++ }); n != 0 {
			t.Errorf("%s: got %v allocations a flow, want 0", name, n)
		}
	}
}

func BenchmarkVerdict(b *testing.B) {
	for name, w := range worst() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w.filter.Explain(w.flows[i%len(w.flows)])
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	groups := []verdict.Group{large(1000, 7)}
	b.Run("1000", func(b *testing.B) {
		for b.Loop() {
			verdict.Compile(groups, nil)
		}
	})
	small := verdict.Compile([]verdict.Group{large(300, 7)}, nil)
	b.Run("program 300", func(b *testing.B) {
		for b.Loop() {
			small.Program(verdict.TCP, 443)
		}
	})
}
