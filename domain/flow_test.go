package domain_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// Addresses that one side alone may see.
var (
	shopClient = netip.MustParseAddrPort("192.168.1.77:40001")
	shopENI    = netip.MustParseAddrPort("192.168.1.2:443")
	lbLocal    = netip.MustParseAddrPort("172.16.1.100:50001")
	lbTarget   = netip.MustParseAddrPort("172.16.1.200:8443")
)

// both is a record with everything in it that either side has.
func both(m *market, ep string, seq uint64) domain.FlowRecord {
	at := m.Clock.Now().Add(time.Duration(seq) * time.Second)
	return domain.FlowRecord{
		Seq: seq, Protocol: "tcp", EndpointID: ep, ServiceID: m.service.ID, ZoneID: m.sh.ZoneID, Start: at.Add(-time.Second), End: at,
		In: 1000 + int64(seq), Out: 2000, Accepted: true, Reason: "closed",
		Source: shopClient, Address: shopENI, Group: "sg-of-the-shop", Rule: "sgr-of-the-shop",
		LoadBalancerID: m.balancer.ID, ServerID: "srv-of-the-provider", Local: lbLocal, Target: lbTarget,
	}
}

// records are flows of every kind through ep, oldest first.
func (m *market) records(ep string) domaintest.Recorded {
	var all domaintest.Recorded
	for i, change := range []func(*domain.FlowRecord){
		func(*domain.FlowRecord) {},
		func(r *domain.FlowRecord) { r.Accepted, r.Reason = false, domain.FlowDenied },
		func(r *domain.FlowRecord) { r.Accepted, r.Reason = false, "connect" },
		func(r *domain.FlowRecord) { r.Reason = domain.FlowDenied }, // cut when the rules changed
		func(r *domain.FlowRecord) { r.Window, r.Reason = true, "open" },
		func(r *domain.FlowRecord) { r.Flow, r.Reason, r.Told = 5, "idle", true },
		func(r *domain.FlowRecord) { r.Accepted, r.Reason = false, "something new" },
	} {
		r := both(m, ep, uint64(i+1))
		change(&r)
		all = append(all, r)
	}
	return all
}

// Each side sees its half of a flow, and of what is the other side's alone not even
// that it is there.
func TestFlowHalves(t *testing.T) {
	m := newMarketAt(t, "192.168")
	ep := m.ask(t, "to-orders", m.sh).ID
	other := both(m, "ep-of-another-service", 8)
	other.ServiceID = "epsrv-of-another"
	m.Store.UseDataPlane(&plane{Recorded: append(m.records(ep), other)})
	ctx := t.Context()

	summary := func(p domain.Page[domain.Flow]) (out []string) {
		for _, f := range p.Items {
			out = append(out, strings.Join([]string{f.Reason, f.Source.String(), f.Address.String(), f.Rule, f.ServerID, f.Client.String(), f.ConsumerID}, " "))
		}
		return out
	}
	me := m.Consumer.Account().ID
	ours := must(m.Consumer.EndpointFlows(ctx, ep, domain.FlowQuery{}))(t)
	mine := shopClient.String() + " " + shopENI.String() + " sgr-of-the-shop  invalid AddrPort " + me
	want := []string{"something new " + mine, "idle " + mine, "open " + mine, "sg " + mine, "connect " + mine, "sg " + mine, "closed " + mine}
	if diff := cmp.Diff(want, summary(ours)); diff != "" {
		t.Errorf("the consumer's half: %s", diff)
	}
	theirs := must(m.Provider.ServiceFlows(ctx, m.service.ID, domain.FlowQuery{}))(t)
	half := lbLocal.String() + " " + lbTarget.String() + "  srv-of-the-provider "
	want = []string{
		"idle " + half + shopClient.String() + " " + me, "open " + half + "invalid AddrPort " + me,
		domain.FlowOther + " " + half + "invalid AddrPort " + me, "connect " + half + "invalid AddrPort " + me, "closed " + half + "invalid AddrPort " + me,
	}
	if diff := cmp.Diff(want, summary(theirs)); diff != "" {
		t.Errorf("the provider's half: %s", diff)
	}

	// No filter finds what the answer does not show.
	for _, q := range []domain.FlowQuery{{Source: "192.168.0.0/16", Action: "reject"}, {Reason: domain.FlowDenied}, {Source: "192.168.1.77", Reason: "closed"}, {Endpoint: "ep-of-another-service"}} {
		if got := must(m.Provider.ServiceFlows(ctx, m.service.ID, q))(t); len(got.Items) != 0 {
			t.Errorf("the provider found %v by %+v", summary(got), q)
		}
	}
	for _, q := range []domain.FlowQuery{{Source: "172.16.0.0/12"}, {Reason: domain.FlowOther}} {
		if got := must(m.Consumer.EndpointFlows(ctx, ep, q))(t); len(got.Items) != 0 {
			t.Errorf("the consumer found %v by %+v", summary(got), q)
		}
	}
	if got := must(m.Provider.ServiceFlows(ctx, m.service.ID, domain.FlowQuery{Reason: domain.FlowOther}))(t); len(got.Items) != 1 {
		t.Errorf("ended by the consumer's side: %v", summary(got))
	}

	// Nor does an export hold it.
	export := func(run func(func(domain.FlowLine) error) error) string {
		var b strings.Builder
		enc := json.NewEncoder(&b)
		check(t, run(func(l domain.FlowLine) error { return enc.Encode(l) }))
		return b.String()
	}
	lines := export(func(y func(domain.FlowLine) error) error {
		return m.Consumer.ExportEndpointFlows(ctx, ep, domain.FlowQuery{}, y)
	})
	hides(t, "consumer by the export", lines, []string{"172.16.", m.balancer.ID, "srv-of-the-provider", m.vpc.ID, "another"})
	if n := strings.Count(lines, "\n"); n != 4*2+3 {
		t.Errorf("%d lines:\n%s", n, lines)
	}
	for _, part := range []string{
		`"srcaddr":"192.168.1.77","srcport":40001,"dstaddr":"192.168.1.2","dstport":443,"protocol":6,"direction":"in","bytes":1001`,
		`"srcaddr":"192.168.1.2","srcport":443,"dstaddr":"192.168.1.77","dstport":40001,"protocol":6,"direction":"out","bytes":2000`,
		`"account-id":"` + me + `","vpc-id":"` + m.shop.ID + `","vswitch-id":"` + m.sh.ID + `","eni-id":"eni-`,
		`"action":"REJECT","reject-reason":"sg","end-reason":"-","security-group-id":"sg-of-the-shop","security-group-rule-id":"sgr-of-the-shop"`,
		`"flow-id":"5","record-id":"6"`,
	} {
		if !strings.Contains(lines, part) {
			t.Errorf("no %s in\n%s", part, lines)
		}
	}
	lines = export(func(y func(domain.FlowLine) error) error {
		return m.Provider.ExportServiceFlows(ctx, m.service.ID, domain.FlowQuery{To: m.Clock.Now().Add(6 * time.Second)}, y)
	})
	hides(t, "provider by the export", lines, []string{"192.168.", "of-the-shop", m.shop.ID, m.sh.ID, `"eni-id":"eni`, "another", `"sg"`})
	if n := strings.Count(lines, "\n"); n != 3*2+1 || !strings.Contains(lines, `"vpc-id":"`+m.vpc.ID+`"`) || !strings.Contains(lines, `"consumer-account-id":"`+me+`"`) {
		t.Errorf("%d lines:\n%s", n, lines)
	}
	stop := errors.New("enough")
	if err := m.Provider.ExportServiceFlows(ctx, m.service.ID, domain.FlowQuery{}, func(domain.FlowLine) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// Whatever is asked for, going forth by Next and back by Prev shows the flows that a
// plain filter selects, newest first, each once.
func TestFlowPages(t *testing.T) {
	m := newMarket(t)
	ep := m.ask(t, "to-orders", m.sh).ID
	var all domaintest.Recorded
	for i := range 60 {
		r := both(m, ep, uint64(i+1))
		if i%3 == 0 {
			r.Accepted, r.Reason = false, domain.FlowDenied
		}
		if i%7 == 0 {
			r.Source = netip.MustParseAddrPort("10.9.0.1:99")
		}
		all = append(all, r)
	}
	m.Store.UseDataPlane(&plane{Recorded: all})
	rapid.Check(t, func(rt *rapid.T) {
		q := domain.FlowQuery{
			Limit: rapid.IntRange(1, 30).Draw(rt, "limit"), Action: rapid.SampledFrom([]string{"", "accept", "reject"}).Draw(rt, "action"),
			Source: rapid.SampledFrom([]string{"", "10.9.0.1", "10.9.0.0/16"}).Draw(rt, "source"),
		}
		var want []uint64
		for _, r := range slices.Backward(all) {
			if (q.Action == "" || r.Accepted == (q.Action == "accept")) && (q.Source == "" || r.Source.Port() == 99) {
				want = append(want, r.Seq)
			}
		}
		seqs := func(p domain.Page[domain.Flow]) (out []uint64) {
			for _, f := range p.Items {
				out = append(out, f.Seq)
			}
			return out
		}
		var forth, back []uint64
		var last domain.Page[domain.Flow]
		for range 100 {
			p, err := m.Consumer.EndpointFlows(t.Context(), ep, q)
			if err != nil {
				rt.Fatal(err)
			}
			forth, last = append(forth, seqs(p)...), p
			if q.After = p.Next; p.Next == "" {
				break
			}
		}
		if diff := cmp.Diff(want, forth); diff != "" {
			rt.Fatalf("forth: %s", diff)
		}
		back = seqs(last)
		for q.Before = last.Prev; q.Before != ""; {
			p, err := m.Consumer.EndpointFlows(t.Context(), ep, q)
			if err != nil {
				rt.Fatal(err)
			}
			back, q.Before = append(seqs(p), back...), p.Prev
		}
		if diff := cmp.Diff(want, back); diff != "" {
			rt.Fatalf("back: %s", diff)
		}
	})
}

func TestFlowFiltersAreChecked(t *testing.T) {
	m := newMarket(t)
	ep := m.ask(t, "to-orders", m.sh).ID
	m.Store.UseDataPlane(&plane{})
	for q, want := range map[domain.FlowQuery]string{
		{Action: "pass"}:        "action invalid_action",
		{Reason: "boredom"}:     "reason invalid_reason",
		{Source: "10.0.0"}:      "source invalid_source",
		{Source: "10.0.0.0/33"}: "source invalid_source",
		{After: "!"}:            "after invalid_cursor",
		{Before: "0"}:           "after invalid_cursor",
	} {
		_, err := m.Consumer.EndpointFlows(t.Context(), ep, q)
		if e, ok := errors.AsType[*domain.Error](err); !ok || e.Kind != domain.Invalid || e.Field+" "+e.Reason != want {
			t.Errorf("%+v: got %v, want %s", q, err, want)
		}
	}
}
