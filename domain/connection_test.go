package domain_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// step is something that happens to a connection, and what is seen after it.
type step struct {
	do      func(t *testing.T, m *market, ep string) error
	states  string // see market.states; "" if the endpoint is gone
	carries bool
}

func accept(t *testing.T, m *market, ep string) error {
	t.Helper()
	_, err := m.Provider.AcceptConnection(t.Context(), ep, domain.AcceptInput{Message: "Welcome."})
	return err
}

func reject(t *testing.T, m *market, ep string) error {
	t.Helper()
	_, err := m.Provider.RejectConnection(t.Context(), ep, domain.RejectInput{Message: "Not now."})
	return err
}

func modify(t *testing.T, m *market, ep string) error {
	t.Helper()
	_, err := m.Provider.ModifyConnection(t.Context(), ep, domain.ModifyInput{Bandwidth: new(512)})
	return err
}

func undo(t *testing.T, m *market, ep string) error {
	t.Helper()
	_, err := m.Provider.UndoDecision(t.Context(), ep, 0)
	return err
}

func remove(t *testing.T, m *market, ep string) error {
	t.Helper()
	return m.Consumer.DeleteEndpoint(t.Context(), ep, domain.RemoveInput{})
}

func withdraw(t *testing.T, m *market, _ string) error {
	t.Helper()
	return m.Provider.DeleteService(t.Context(), m.service.ID)
}

func follow(_ *testing.T, m *market, _ string) error {
	m.Follow()
	return nil
}

// TestConnectionStories walks connections through their states, with the engine
// there and away.
func TestConnectionStories(t *testing.T) {
	const (
		asked    = "Disconnected waiting, Creating: Creating Creating"
		waiting  = "Disconnected waiting, Active: Wait Wait"
		coming   = "Connecting accepted, Active: Connecting Connecting"
		stands   = "Connected accepted, Active: Connected Connected"
		leaving  = "Disconnecting rejected, Active: Disconnecting Disconnecting"
		rejected = "Disconnected rejected, Active: Disconnected Disconnected"
	)
	tests := []struct {
		name  string
		steps []step
	}{
		{"accepted", []step{{follow, waiting, false}, {accept, coming, true}, {follow, stands, true}, {follow, stands, true}}},
		{"accepted before the engine saw it", []step{
			{accept, "Connecting accepted, Creating: Connecting Connecting", true}, {follow, stands, true},
		}},
		{"rejected, never accepted", []step{{follow, waiting, false}, {reject, leaving, false}, {follow, rejected, false}}},
		{"rejected before the engine saw it", []step{
			{reject, "Disconnecting rejected, Creating: Disconnecting Disconnecting", false}, {follow, rejected, false},
		}},
		{"revoked", []step{{accept, "Connecting accepted, Creating: Connecting Connecting", true}, {follow, stands, true}, {reject, leaving, false}, {follow, rejected, false}}},
		{"revoked while it connects", []step{{follow, waiting, false}, {accept, coming, true}, {reject, leaving, false}, {follow, rejected, false}}},
		{"accepted again", []step{
			{follow, waiting, false},
			{reject, leaving, false},
			{follow, rejected, false},
			{accept, coming, true},
			{follow, stands, true},
		}},
		{"modified", []step{
			{follow, waiting, false},
			{accept, coming, true},
			{follow, stands, true},
			{modify, "Pending accepted, Active: Connected Connected", true},
			{follow, stands, true},
		}},
		{"revoked while it is modified", []step{
			{follow, waiting, false},
			{accept, coming, true},
			{follow, stands, true},
			{modify, "Pending accepted, Active: Connected Connected", true},
			{reject, leaving, false},
			{follow, rejected, false},
		}},
		{"acceptance undone", []step{
			{follow, waiting, false},
			{accept, coming, true},
			{follow, stands, true},
			{undo, "Disconnecting waiting, Active: Disconnecting Disconnecting", false},
			{follow, "Disconnected waiting, Active: Disconnected Disconnected", false},
			{accept, coming, true},
			{follow, stands, true},
		}},
		{"rejection of what stood undone at once", []step{
			{follow, waiting, false},
			{accept, coming, true},
			{follow, stands, true},
			{reject, leaving, false},
			{undo, coming, true},
			{follow, stands, true},
		}},
		{"rejection of what stood undone after it was cut", []step{
			{follow, waiting, false},
			{accept, coming, true},
			{follow, stands, true},
			{reject, leaving, false},
			{follow, rejected, false},
			{undo, coming, true},
			{follow, stands, true},
		}},
		{"rejection of a request undone", []step{
			{follow, waiting, false},
			{reject, leaving, false},
			{undo, "Disconnecting waiting, Active: Disconnecting Disconnecting", false},
			{follow, "Disconnected waiting, Active: Disconnected Disconnected", false},
		}},
		{"acceptance of what was rejected undone", []step{
			{follow, waiting, false}, {reject, leaving, false}, {follow, rejected, false}, {accept, coming, true}, {undo, leaving, false}, {follow, rejected, false},
		}},
		{"deleted while it waits", []step{
			{follow, waiting, false}, {remove, "Deleting rejected, Deleting: Deleting Deleting", false}, {follow, "", false},
		}},
		{"deleted while it stands", []step{
			{accept, "Connecting accepted, Creating: Connecting Connecting", true},
			{follow, stands, true},
			{remove, "Deleting accepted, Deleting: Deleting Deleting", false},
			{follow, "", false},
		}},
		{"deleted while it is cut", []step{
			{follow, waiting, false},
			{accept, coming, true},
			{follow, stands, true},
			{reject, leaving, false},
			{remove, "Deleting rejected, Deleting: Deleting Deleting", false},
			{follow, "", false},
		}},
		{"service deleted", []step{
			{follow, waiting, false},
			{withdraw, "ServiceDeleted rejected, Active: Wait Wait", false},
			{follow, "ServiceDeleted rejected, Active: Wait Wait", false},
			{remove, "Deleting rejected, Deleting: Deleting Deleting", false},
			{follow, "", false},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMarket(t)
			ep := m.ask(t, "to-orders", m.sh, m.si).ID
			if got := m.states(t, ep); got != asked {
				t.Fatalf("asked for: %s, want %s", got, asked)
			}
			for i, st := range tt.steps {
				check(t, st.do(t, m, ep))
				if st.states == "" {
					_, err := m.Consumer.Endpoint(t.Context(), ep)
					fails(t, err, domain.NotFound, "endpoint_not_found")
					_, err = m.Provider.Connection(t.Context(), ep)
					fails(t, err, domain.NotFound, "connection_not_found")
					continue
				}
				if got := m.states(t, ep); got != st.states {
					t.Fatalf("step %d: %s, want %s", i+1, got, st.states)
				}
				if got := m.carries(t, ep); got != st.carries {
					t.Fatalf("step %d: carries %v, want %v", i+1, got, st.carries)
				}
			}
			for _, s := range []*domain.Scope{m.Provider, m.Consumer} {
				if c := must(s.VerifyAudit(t.Context()))(t); c.BrokenAt != 0 {
					t.Errorf("trail of %s is broken at %d", s.Account().Name, c.BrokenAt)
				}
			}
		})
	}
}

// TestRefusedDecisions tries each decision where the state does not allow it.
func TestRefusedDecisions(t *testing.T) {
	type act = func(*testing.T, *market, string) error
	tests := []struct {
		name   string
		before []act
		do     act
		want   string
	}{
		{"accept twice", []act{accept}, accept, "connection_status"},
		{"accept what stands", []act{accept, follow}, accept, "connection_status"},
		{"accept what is being cut", []act{accept, follow, reject}, accept, "connection_status"},
		{"accept what is being deleted", []act{remove}, accept, "connection_status"},
		{"accept for a deleted service", []act{withdraw}, accept, "connection_status"},
		{"reject twice", []act{reject}, reject, "connection_status"},
		{"reject what was cut", []act{reject, follow}, reject, "connection_status"},
		{"reject what is being deleted", []act{remove}, reject, "connection_status"},
		{"modify what waits", nil, modify, "connection_status"},
		{"modify what connects", []act{accept}, modify, "connection_status"},
		{"undo nothing", nil, undo, "undo_expired"},
		{"undo twice", []act{accept, undo}, undo, "undo_expired"},
		{"undo what was deleted meanwhile", []act{accept, remove}, undo, "connection_status"},
		{"delete twice", []act{remove}, remove, "endpoint_status"},
		{"delete the service of what stands", []act{accept, follow}, withdraw, "service_connected"},
		{"delete the service of what connects", []act{accept}, withdraw, "service_connected"},
		{"delete the service of what is cut", []act{reject}, withdraw, "service_connected"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMarket(t)
			ep := m.ask(t, "to-orders", m.sh).ID
			for _, do := range tt.before {
				check(t, do(t, m, ep))
			}
			before := dump(t, m.Store)
			fails(t, tt.do(t, m, ep), domain.Conflict, tt.want)
			if diff := cmp.Diff(before, dump(t, m.Store)); diff != "" {
				t.Errorf("what was refused changed something:\n%s", diff)
			}
		})
	}
}

func TestAcceptTerms(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	check(t, p.UpdateService(ctx, m.service.ID, domain.ServiceUpdate{Bandwidth: new(800)}))
	ep := m.ask(t, "to-orders", m.sh).ID
	later, past := m.Clock.Now().Add(time.Hour), m.Clock.Now()
	for want, in := range map[string]domain.AcceptInput{
		"bandwidth: out_of_range":    {Bandwidth: 99},
		"expires_at: not_in_future":  {ExpiresAt: &past},
		"message: text_too_long":     {Message: strings.Repeat("m", 501)},
		"message: invalid_text":      {Message: "a\x00b"},
		"security_connection_change": {},
	} {
		if want == "security_connection_change" {
			in.Version, want = 7, "connection_changed"
		}
		_, err := p.AcceptConnection(ctx, ep, in)
		if got := faults(err); got != want {
			t.Errorf("%+v: got %q, want %q", in, got, want)
		}
	}
	c := must(p.AcceptConnection(ctx, ep, domain.AcceptInput{Message: "Use TLS 1.3.", ExpiresAt: &later, Version: 1}))(t)
	if c.Bandwidth != 800 || c.DecisionMessage != "Use TLS 1.3." || !c.ExpiresAt.Equal(later) || c.Decision != domain.Accepted || c.Version != 2 {
		t.Errorf("accepted as %+v", c)
	}
	if c.DecidedBy != p.User().Name || !c.DecidedAt.Equal(m.Clock.Now()) {
		t.Errorf("decided by %s at %v", c.DecidedBy, c.DecidedAt)
	}
	got := must(m.Consumer.Endpoint(ctx, ep))(t).Connection
	if got.DecisionMessage != "Use TLS 1.3." || got.Bandwidth != 800 || got.RequestMessage != "Checkout needs it." || got.RequestedBy != m.Consumer.User().Name {
		t.Errorf("the consumer sees %+v", got)
	}
	m.Follow()
	if d := must(p.Connection(ctx, ep))(t); d.Version != 2 || d.Status != domain.Connected {
		t.Errorf("what the engine saw made version %d, %s", d.Version, d.Status)
	}
	c = must(p.ModifyConnection(ctx, ep, domain.ModifyInput{Bandwidth: new(0), ExpiresAt: new((*time.Time)(nil)), Version: 2}))(t)
	if c.Bandwidth != 0 || c.ExpiresAt != nil || c.Status != domain.Pending {
		t.Errorf("modified to %+v", c)
	}
}

func TestAutoAccept(t *testing.T) {
	tests := []struct {
		name   string
		set    func(t *testing.T, m *market)
		accept bool
	}{
		{"not", func(*testing.T, *market) {}, false},
		{"by the service", func(t *testing.T, m *market) {
			t.Helper()
			check(t, m.Provider.UpdateService(t.Context(), m.service.ID, domain.ServiceUpdate{AutoAccept: new(true)}))
		}, true},
		{"by the account's entry", func(t *testing.T, m *market) {
			t.Helper()
			check(t, m.Provider.SetWhitelistEntry(t.Context(), m.service.ID, m.Consumer.Account().ID, domain.WhitelistUpdate{AutoAccept: new(true)}))
		}, true},
		{"by everyone's entry, which the account's own stands above", func(t *testing.T, m *market) {
			t.Helper()
			_, _, err := m.Provider.AddToWhitelist(t.Context(), m.service.ID, "*", true)
			check(t, err)
		}, false},
		{"by everyone's entry", func(t *testing.T, m *market) {
			t.Helper()
			_, _, err := m.Provider.AddToWhitelist(t.Context(), m.service.ID, "*", true)
			check(t, err)
			check(t, m.Provider.RemoveFromWhitelist(t.Context(), m.service.ID, m.Consumer.Account().ID))
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMarket(t)
			tt.set(t, m)
			ep := m.ask(t, "to-orders", m.sh).ID
			want, trails := "Disconnected waiting, Creating: Creating", []string{"RequestConnection by peer"}
			if tt.accept {
				want, trails = "Connecting accepted, Creating: Connecting", append(trails, "AutoAcceptConnection by peer")
			}
			if got := m.states(t, ep); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if diff := cmp.Diff(trails, trail(t, m.Provider, ep)); diff != "" {
				t.Errorf("the provider's trail:\n%s", diff)
			}
			if o := must(m.Consumer.FindService(t.Context(), m.service.ID))(t); o.AutoAccept != tt.accept {
				t.Errorf("the catalogue says accepted at once: %v", o.AutoAccept)
			}
		})
	}
}

// TestAcceptFromNowOn accepts an account together with its later requests, and takes
// both back.
func TestAcceptFromNowOn(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	one := m.ask(t, "one", m.sh).ID
	c := must(m.Provider.AcceptConnection(ctx, one, domain.AcceptInput{AutoAcceptAccount: true}))(t)
	if two := m.ask(t, "two", m.sh); m.states(t, two.ID) != "Connecting accepted, Creating: Connecting" {
		t.Errorf("the next request is %s", m.states(t, two.ID))
	}
	must(m.Provider.UndoDecision(ctx, one, c.Version))(t)
	if three := m.ask(t, "three", m.sh); m.states(t, three.ID) != "Disconnected waiting, Creating: Creating" {
		t.Errorf("a request after the undo is %s", m.states(t, three.ID))
	}
	// An entry that was on auto-accept before stays so.
	check(t, m.Provider.SetWhitelistEntry(ctx, m.service.ID, m.Consumer.Account().ID, domain.WhitelistUpdate{AutoAccept: new(true)}))
	m.Follow()
	must(m.Provider.AcceptConnection(ctx, one, domain.AcceptInput{AutoAcceptAccount: true}))(t)
	must(m.Provider.UndoDecision(ctx, one, 0))(t)
	if page := must(m.Provider.Whitelist(ctx, m.service.ID, domain.Query{Text: m.Consumer.Account().ID}))(t); !page.Items[0].AutoAccept {
		t.Error("undoing took back what was set before")
	}
}

func TestUndoWindow(t *testing.T) {
	tests := []struct {
		name string
		who  func(m *market) *domain.Scope
		wait time.Duration
		ver  int64
		want string
	}{
		{"at the end", func(m *market) *domain.Scope { return m.Provider }, 29 * time.Second, 0, ""},
		{"with the version that the decision made", func(m *market) *domain.Scope { return m.Provider }, 0, 2, ""},
		{"with an older version", func(m *market) *domain.Scope { return m.Provider }, 0, 1, "connection_changed"},
		{"too late", func(m *market) *domain.Scope { return m.Provider }, 30 * time.Second, 0, "undo_expired"},
		{"by somebody else", func(m *market) *domain.Scope { return m.As(m.Provider.Account().ID, domain.RoleProvider) }, 0, 0, "undo_expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMarket(t)
			ep := m.ask(t, "to-orders", m.sh).ID
			waited := must(m.Provider.Connection(t.Context(), ep))(t).Connection
			m.Clock.Step(time.Minute)
			check(t, accept(t, m, ep))
			m.Follow() // what the engine sees is no reason against an undo
			if d := must(m.Provider.Connection(t.Context(), ep))(t); d.UndoUntil == nil || !d.UndoUntil.Equal(m.Clock.Now().Add(30*time.Second)) {
				t.Errorf("can be undone until %v", d.UndoUntil)
			}
			m.Clock.Step(tt.wait)
			who := tt.who(m)
			if d := must(who.Connection(t.Context(), ep))(t); (d.UndoUntil == nil) != (tt.want == "undo_expired") {
				t.Errorf("can be undone until %v", d.UndoUntil)
			}
			c, err := who.UndoDecision(t.Context(), ep, tt.ver)
			if got := reason(err); got != tt.want {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if err == nil && (c.Rank != waited.Rank || !c.WaitingSince.Equal(waited.WaitingSince) || c.DecidedAt != nil || c.DecidedBy != "" || c.DecisionMessage != "") {
				t.Errorf("not as it was: %+v", c)
			}
		})
	}
}

func TestExpire(t *testing.T) {
	m := newMarket(t)
	ctx, sys := t.Context(), m.Store.System()
	check(t, m.Provider.UpdateService(ctx, m.service.ID, domain.ServiceUpdate{PendingExpiry: new(24)}))
	waits, ends := m.ask(t, "waits", m.sh).ID, m.ask(t, "ends", m.sh).ID
	forever := m.ask(t, "forever", m.sh).ID
	in := m.Clock.Now().Add(time.Hour)
	must(m.Provider.AcceptConnection(ctx, ends, domain.AcceptInput{ExpiresAt: &in}))(t)
	check(t, accept(t, m, forever))
	m.Follow()

	now := func(want map[string]string) {
		t.Helper()
		check(t, sys.Expire(ctx))
		for ep, w := range want {
			if got := m.states(t, ep); got != w {
				t.Errorf("%s, want %s", got, w)
			}
		}
	}
	const stands, waiting = "Connected accepted, Active: Connected", "Disconnected waiting, Active: Wait"
	now(map[string]string{ends: stands, waits: waiting, forever: stands})
	m.Clock.Step(time.Hour)
	now(map[string]string{ends: "Disconnecting expired, Active: Disconnecting", waits: waiting, forever: stands})
	m.Follow()
	now(map[string]string{ends: "Disconnected expired, Active: Disconnected"})
	m.Clock.Step(23 * time.Hour)
	now(map[string]string{waits: "Disconnecting rejected, Active: Disconnecting", forever: stands})
	if got := must(m.Consumer.Endpoint(ctx, waits))(t).Connection.DecisionMessage; got == "" {
		t.Error("the consumer is not told why")
	}
	want := []string{"RequestConnection by peer", "ExpireConnection by system"}
	if diff := cmp.Diff(want, slices.DeleteFunc(trail(t, m.Provider, waits), func(s string) bool { return strings.HasSuffix(s, "by engine") })); diff != "" {
		t.Errorf("the provider's trail:\n%s", diff)
	}
	check(t, accept(t, m, ends)) // it may be accepted again
}

func TestConnectionsList(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	other := must(m.Provider.CreateService(ctx, domain.ServiceInput{Name: "billing", LoadBalancerIDs: []string{m.balancer.ID}, Accounts: m.Consumer.Account().ID}))(t)
	var ids []string
	for i := range 7 {
		m.Clock.Step(time.Minute)
		if i == 6 {
			m.service = other
		}
		ids = append(ids, m.ask(t, fmt.Sprintf("ep-%d", i), m.sh).ID)
	}
	for _, ep := range ids[:2] {
		m.Clock.Step(time.Minute)
		check(t, accept(t, m, ep))
	}
	check(t, reject(t, m, ids[2]))
	m.Follow()
	list := func(q domain.Query) []int {
		t.Helper()
		var out []int
		for _, c := range must(m.Provider.Connections(ctx, domain.ConnQuery{Query: q}))(t).Items {
			out = append(out, slices.Index(ids, c.EndpointID))
		}
		return out
	}
	filter := func(key string, values ...string) domain.Query {
		return domain.Query{Filter: map[string][]string{key: values}}
	}
	newest := []int{1, 2, 0, 6, 5, 4, 3} // 1 and 2 were decided in the same moment
	if ids[1] < ids[2] {
		newest[0], newest[1] = 2, 1
	}
	for name, tt := range map[string]struct {
		q    domain.Query
		want []int
	}{
		"all":             {domain.Query{}, newest},
		"waiting":         {filter("decision", "waiting"), []int{6, 5, 4, 3}},
		"connected":       {filter("decision", "accepted"), []int{1, 0}},
		"rejected":        {filter("decision", "rejected"), []int{2}},
		"two decisions":   {filter("decision", "rejected", "waiting"), []int{2, 6, 5, 4, 3}},
		"by status":       {filter("status", "Connected"), []int{1, 0}},
		"by service":      {filter("service", other.ID), []int{6}},
		"by name":         {domain.Query{Text: "CONSUM"}, newest},
		"by nobody":       {domain.Query{Text: "nobody"}, nil},
		"by endpoint":     {domain.Query{Text: ids[3]}, []int{3}},
		"by service name": {domain.Query{Text: other.ServiceName()}, []int{6}},
	} {
		if diff := cmp.Diff(tt.want, list(tt.q)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	var paged []int
	q := domain.ConnQuery{Query: domain.Query{Limit: 3}}
	for {
		page := must(m.Provider.Connections(ctx, q))(t)
		for _, c := range page.Items {
			paged = append(paged, slices.Index(ids, c.EndpointID))
		}
		if q.After = page.Next; page.Next == "" {
			break
		}
	}
	if diff := cmp.Diff(newest, paged); diff != "" {
		t.Errorf("page by page:\n%s", diff)
	}
	waiting, connected, rejected, expired, err := m.Provider.ConnectionCounts(ctx)
	if err != nil || waiting != 4 || connected != 2 || rejected != 1 || expired != 0 {
		t.Errorf("counted %d waiting, %d connected, %d rejected, %d expired, %v", waiting, connected, rejected, expired, err)
	}
	services := must(m.Provider.Services(ctx, domain.Query{}))(t).Items
	if len(services) != 2 || services[1].Waiting != 3 || services[1].Connected != 2 || services[0].Waiting != 1 || services[0].Whitelisted != 2 {
		t.Errorf("services: %+v", services)
	}
	if page := must(m.Provider.Connections(ctx, domain.ConnQuery{Query: filter("service", other.ID)}))(t); page.Items[0].ConsumerName != "consumer" || page.Items[0].ServiceName != "billing" ||
		!slices.Equal(page.Items[0].Zones, []string{domaintest.ZoneH}) {
		t.Errorf("row: %+v", page.Items[0])
	}
}

func TestConnectionChecks(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	ep := m.ask(t, "to-orders", m.sh, m.si).ID
	states := func() map[string]domain.CheckState {
		out := map[string]domain.CheckState{}
		for _, c := range must(m.Provider.Connection(ctx, ep))(t).Checks {
			out[c.ID] = c.State
		}
		return out
	}
	const ok, warn, bad = domain.CheckOK, domain.CheckWarn, domain.CheckBad
	want := map[string]domain.CheckState{"whitelist": ok, "zones": ok, "listeners": ok, "targets": warn, "network": bad}
	compare := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, states()); diff != "" {
			t.Errorf("%s:\n%s", when, diff)
		}
	}
	compare("before the engine knows anything")
	m.Follow()
	want["targets"], want["network"] = ok, ok
	compare("once it has followed")
	d := must(m.Provider.Connection(ctx, ep))(t)
	if !slices.Equal(d.SeenAs, []string{"10.0.1.100", "10.0.2.100"}) {
		t.Errorf("seen as %v", d.SeenAs)
	}
	if len(d.ZoneStates) != 2 || d.ZoneStates[0].LoadBalancerName != "nlb-orders" || d.ZoneStates[0].Health != (domain.ZoneHealth{ZoneID: domaintest.ZoneH, Healthy: 1, Total: 1}) {
		t.Errorf("zones %+v", d.ZoneStates)
	}
	if len(d.History) != 1 || d.History[0].Action != "RequestConnection" {
		t.Errorf("history %+v", d.History)
	}
	servers := must(m.Provider.LoadBalancer(ctx, m.balancer.ID))(t).Listeners[0].Servers
	down := func(i int) {
		check(t, m.Store.System().Report(ctx, domain.Report{Servers: []domain.ServerReport{
			{ID: servers[i].ID, Health: domain.HealthUnhealthy, Reason: "CONNECT_FAILED", Since: m.Clock.Now()},
		}}))
	}
	down(0)
	want["targets"] = warn
	compare("one target down")
	down(1)
	want["targets"] = bad
	compare("both targets down")
	check(t, m.Provider.RemoveFromWhitelist(ctx, m.service.ID, m.Consumer.Account().ID))
	want["whitelist"] = warn
	compare("off the whitelist")
	check(t, m.Provider.DeleteListener(ctx, must(m.Provider.LoadBalancer(ctx, m.balancer.ID))(t).Listeners[0].ID))
	want["listeners"] = bad
	compare("without a listener")
	check(t, accept(t, m, ep)) // the checks warn; the provider decides
}

// TestRacingDecisions lets decisions meet: one of them wins, the others are
// conflicts, and a deletion always ends.
func TestRacingDecisions(t *testing.T) {
	m := newMarket(t)
	const rounds = 8
	for i := range rounds {
		ep := m.ask(t, fmt.Sprintf("ep-%d", i), m.sh).ID
		var mu sync.Mutex
		won := map[string]bool{}
		var wg sync.WaitGroup
		try := func(name string, f func() error) {
			wg.Go(func() {
				switch err := f(); domain.KindOf(err) {
				case domain.Conflict, domain.NotFound:
				default:
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					mu.Lock()
					won[name] = true
					mu.Unlock()
				}
			})
		}
		try("accept", func() error { return accept(t, m, ep) })
		try("accept again", func() error { return accept(t, m, ep) })
		try("reject", func() error { return reject(t, m, ep) })
		if i%2 == 0 {
			try("delete", func() error { return remove(t, m, ep) })
		}
		try("engine", func() error {
			e, err := m.Store.System().EngineEndpoints(context.WithoutCancel(t.Context()), []string{ep})
			if err != nil || len(e) == 0 {
				return err
			}
			return m.Store.System().Report(t.Context(), domain.Report{Endpoints: []domain.EndpointReport{domaintest.Followed(e[0])}})
		})
		wg.Wait()
		if won["accept"] && won["accept again"] && !won["reject"] {
			t.Errorf("round %d: accepted twice", i)
		}
		m.Follow()
		_, err := m.Consumer.Endpoint(t.Context(), ep)
		if i%2 == 0 {
			fails(t, err, domain.NotFound, "endpoint_not_found")
			continue
		}
		check(t, err)
		got, want := m.states(t, ep), "Disconnected rejected, Active: Disconnected"
		if !won["reject"] {
			want = "Connected accepted, Active: Connected"
		}
		if got != want && (!won["reject"] || got != "Connected accepted, Active: Connected") { // rejected first, accepted after
			t.Errorf("round %d, won %v: %s, want %s", i, won, got, want)
		}
	}
}
