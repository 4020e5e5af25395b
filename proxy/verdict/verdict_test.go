package verdict_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
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

func TestThreeFormsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := map[string]verdict.Group{}
		for i := range 3 { // g3 is named by rules and does not exist
			id := fmt.Sprint("g", i)
			all[id] = verdict.Group{
				ID:         id,
				Rules:      rapid.SliceOfN(genRule, 0, 12).Draw(t, "rules"),
				Members:    rapid.SliceOfN(genAddr, 0, 4).Draw(t, "members"),
				IntraAllow: rapid.Bool().Draw(t, "intra"),
			}
		}
		var groups []verdict.Group
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 2), 0, 3, rapid.ID).Draw(t, "groups") {
			groups = append(groups, all[fmt.Sprint("g", i)])
		}
		filter := verdict.Compile(groups, all)
		for range 100 {
			flow := verdict.Flow{
				Source:   genAddr.Draw(t, "source"),
				Protocol: rapid.SampledFrom([]verdict.Protocol{verdict.TCP, verdict.UDP, verdict.ICMP}).Draw(t, "protocol"),
				Port:     uint16(rapid.IntRange(0, 7).Draw(t, "port")),
			}
			want := verdict.Explain(groups, all, flow)
			if got := slow(groups, all, flow); got != want {
				t.Fatalf("%+v: slow %+v, Explain %+v", flow, got, want)
			}
			if got := filter.Explain(flow); got != want {
				t.Fatalf("%+v: Filter %+v, Explain %+v", flow, got, want)
			}
		}
	})
}

// sixty are rules of which none matches, the worst case.
func sixty() (*verdict.Filter, verdict.Flow) {
	g := verdict.Group{ID: "sg"}
	for i := range 60 {
		g.Rules = append(g.Rules, rule(fmt.Sprint(i), i%100+1, verdict.Accept, fmt.Sprintf("172.16.%d.0/24", i)))
	}
	return verdict.Compile([]verdict.Group{g}, nil), verdict.Flow{Source: addr("10.0.0.1"), Protocol: verdict.TCP, Port: 80}
}

func TestFilterAllocatesNothing(t *testing.T) {
	f, flow := sixty()
	if n := testing.AllocsPerRun(100, func() { f.Explain(flow) }); n != 0 {
		t.Errorf("got %v allocations a flow, want 0", n)
	}
}

func BenchmarkVerdict60Rules(b *testing.B) {
	f, flow := sixty()
	b.ReportAllocs()
	for b.Loop() {
		f.Explain(flow)
	}
}
