package domain_test

import (
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// TestAcceptedBandwidth accepts with every way to say how much may pass. A CLB is
// made behind the store's back, as far as its kind matters here.
func TestAcceptedBandwidth(t *testing.T) {
	const none, limit, clb, nlb = domain.Scalability, domain.BandwidthLimit, domain.TypeCLB, domain.TypeNLB
	tests := []struct {
		name    string
		kind    string
		service int // its default
		loose   bool
		mode    domain.TrafficMode
		mbits   int
		want    int
		fault   string
	}{
		{"NLB, nothing said", nlb, 0, false, "", 0, 0, ""},
		{"NLB, nothing said, service has a default", nlb, 800, false, "", 0, 800, ""},
		{"NLB, no limit, though the service has a default", nlb, 800, false, none, 0, 0, ""},
		{"NLB, no limit, and a number without effect", nlb, 0, false, none, 7, 0, ""},
		{"NLB, a number", nlb, 800, false, "", 200, 200, ""},
		{"NLB, limited, a number", nlb, 0, false, limit, 50_000, 50_000, ""},
		{"NLB, limited, no number", nlb, 0, false, limit, 0, 3072, ""},
		{"NLB, limited as the service says", nlb, 800, false, limit, 0, 800, ""},
		{"NLB, too little", nlb, 0, false, limit, 99, 0, "bandwidth: out_of_range"},
		{"NLB, too much", nlb, 0, false, limit, 50_001, 0, "bandwidth: out_of_range"},
		{"NLB, less than nothing", nlb, 0, false, "", -1, 0, "bandwidth: out_of_range"},
		{"NLB, another mode", nlb, 0, false, "limit", 200, 0, "traffic_mode: invalid_traffic_mode"},
		{"CLB, nothing said", clb, 0, false, "", 0, 3072, ""},
		{"CLB, nothing said, service has a default", clb, 103, false, "", 0, 103, ""},
		{"CLB, a number", clb, 0, false, "", 10_240, 10_240, ""},
		{"CLB, limited", clb, 0, false, limit, 0, 3072, ""},
		{"CLB, no limit", clb, 0, false, none, 0, 0, "traffic_mode: limit_only"},
		{"CLB, too much", clb, 0, false, "", 10_241, 0, "bandwidth: out_of_range"},
		{"loose ranges, little", nlb, 0, true, limit, 1, 1, ""},
		{"loose ranges, much", clb, 0, true, limit, 1_000_000, 1_000_000, ""},
		{"loose ranges, too much", clb, 0, true, limit, 1_000_001, 0, "bandwidth: out_of_range"},
		{"loose ranges, no limit of a CLB", clb, 0, true, none, 0, 0, "traffic_mode: limit_only"},
	}
	m := newMarket(t)
	m.Config.LooseRanges = true
	loose := domaintest.Open(t, m.Config)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check(t, m.Store.DB().Model(&domain.Service{}).Where("id = ?", m.service.ID).Updates(map[string]any{"resource_type": tt.kind, "bandwidth": tt.service}).Error)
			ep := m.ask(t, "", m.sh)
			s := m.Provider
			if tt.loose {
				s = must(loose.LocalScope(t.Context(), s.Account().ID, domain.Actor{Name: "test"}))(t)
			}
			c, err := s.AcceptConnection(t.Context(), ep.ID, domain.AcceptInput{Mode: tt.mode, Bandwidth: tt.mbits})
			if got := faults(err); got != tt.fault {
				t.Fatalf("got %q, want %q", got, tt.fault)
			}
			if err != nil {
				return
			}
			mode := limit
			if tt.want == 0 {
				mode = none
			}
			if c.Bandwidth != tt.want || c.Mode() != mode {
				t.Errorf("got %d Mbit/s, %s; want %d, %s", c.Bandwidth, c.Mode(), tt.want, mode)
			}
			if e := m.wants(t, ep.ID); e.Bandwidth != tt.want {
				t.Errorf("the engine shall hold %d Mbit/s, want %d", e.Bandwidth, tt.want)
			}
		})
	}
}

// TestModifiedBandwidth changes what may pass through a connection that stands, again
// and again. It is Pending until the engine has followed, and always carries.
func TestModifiedBandwidth(t *testing.T) {
	none, limit := domain.Scalability, domain.BandwidthLimit
	m := newMarket(t)
	ep := m.ask(t, "to-orders", m.sh).ID
	check(t, accept(t, m, ep))
	m.Follow()
	for i, tt := range []struct {
		in           domain.ModifyInput
		mbits, flows int
		fault        string
	}{
		{domain.ModifyInput{Mode: &limit}, 3072, 0, ""},
		{domain.ModifyInput{Bandwidth: new(200)}, 200, 0, ""},
		{domain.ModifyInput{Mode: &limit}, 200, 0, ""},
		{domain.ModifyInput{MaxConnections: new(50)}, 200, 50, ""},
		{domain.ModifyInput{Mode: &limit, Bandwidth: new(300), MaxConnections: new(0)}, 300, 0, ""},
		{domain.ModifyInput{Bandwidth: new(99)}, 300, 0, "bandwidth: out_of_range"},
		{domain.ModifyInput{MaxConnections: new(1_000_001)}, 300, 0, "max_connections: out_of_range"},
		{domain.ModifyInput{MaxConnections: new(-1)}, 300, 0, "max_connections: out_of_range"},
		{domain.ModifyInput{Mode: &none}, 0, 0, ""},
		{domain.ModifyInput{Bandwidth: new(400), MaxConnections: new(1)}, 400, 1, ""},
		{domain.ModifyInput{Bandwidth: new(0)}, 0, 1, ""},
	} {
		_, err := m.Provider.ModifyConnection(t.Context(), ep, tt.in)
		if got := faults(err); got != tt.fault {
			t.Fatalf("step %d: got %q, want %q", i+1, got, tt.fault)
		}
		if want := "Pending accepted, Active: Connected"; err == nil && m.states(t, ep) != want {
			t.Errorf("step %d: %s, want %s", i+1, m.states(t, ep), want)
		}
		if e := m.wants(t, ep); !m.carries(t, ep) || e.Bandwidth != tt.mbits || e.MaxConnections != tt.flows {
			t.Errorf("step %d: the engine shall hold %d Mbit/s and %d flows, want %d and %d", i+1, e.Bandwidth, e.MaxConnections, tt.mbits, tt.flows)
		}
		m.Follow()
		if want := "Connected accepted, Active: Connected"; m.states(t, ep) != want {
			t.Errorf("step %d: %s, want %s", i+1, m.states(t, ep), want)
		}
	}
	seen := must(m.Consumer.Endpoint(t.Context(), ep))(t).Connection
	if seen.Bandwidth != 0 || seen.MaxConnections != 1 {
		t.Errorf("the consumer sees %d Mbit/s, %d flows", seen.Bandwidth, seen.MaxConnections)
	}
}

// TestUndoneTerms takes back a rejection: what stood has the limits it had.
func TestUndoneTerms(t *testing.T) {
	m := newMarket(t)
	ep := m.ask(t, "to-orders", m.sh).ID
	must(m.Provider.AcceptConnection(t.Context(), ep, domain.AcceptInput{Bandwidth: 500, MaxConnections: 9, ExpiryDrain: 3}))(t)
	m.Follow()
	check(t, reject(t, m, ep))
	check(t, undo(t, m, ep))
	if c := must(m.Provider.Connection(t.Context(), ep))(t); c.Bandwidth != 500 || c.MaxConnections != 9 || c.ExpiryDrain != 3 {
		t.Errorf("it came back with %d Mbit/s, %d flows, %d s", c.Bandwidth, c.MaxConnections, c.ExpiryDrain)
	}
}
