package domain_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
)

func TestPastedAccounts(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	const a, b, c = "1000000000000042", "1000000000000077", "1000000000000099"
	tests := []struct {
		pasted string
		added  []string
		want   string
	}{
		{a + "," + b, []string{a, b}, ""},
		{a + "\n" + b + "\r\n\t" + c + "  ", []string{a, b, c}, ""},
		{a + ";" + b + "|" + a + "、" + b + "，" + c, []string{a, b, c}, ""},
		{"[\"" + a + "\", '" + b + "']", []string{a, b}, ""},
		{"acs:ram:*:" + a + ":*", []string{a}, ""},
		{"acs:ram:*::*", []string{"*"}, ""},
		{"* " + a, []string{"*", a}, ""},
		{"", nil, "accounts: missing_accounts"},
		{" ,;\n", nil, "accounts: missing_accounts"},
		{a + " northwind 42", nil, "accounts: invalid_account, accounts: invalid_account"},
		{"2000000000000042", nil, "accounts: invalid_account"},
		{a + "0", nil, "accounts: invalid_account"},
		{"acs:ram:*:42:*", nil, "accounts: invalid_account"},
	}
	for _, tt := range tests {
		svc := must(p.CreateService(ctx, domain.ServiceInput{LoadBalancerIDs: []string{m.balancer.ID}}))(t)
		added, _, err := p.AddToWhitelist(ctx, svc.ID, tt.pasted, false)
		if got := faults(err); got != tt.want || !slices.Equal(added, tt.added) {
			t.Errorf("%q: added %v, %q; want %v, %q", tt.pasted, added, got, tt.added, tt.want)
		}
		for _, f := range domain.Fields(err) {
			if f.Reason == "invalid_account" && !strings.Contains(f.Message, "“") {
				t.Errorf("%q: %q names no token", tt.pasted, f.Message)
			}
		}
		check(t, p.DeleteService(ctx, svc.ID))
	}
	var many strings.Builder
	for i := range 60_000 { // a megabyte
		fmt.Fprintf(&many, "no-%d\n", i)
	}
	_, _, err := p.AddToWhitelist(ctx, m.service.ID, many.String(), false)
	if n := len(domain.Fields(err)); n != 21 {
		t.Errorf("%d faults, want 20 tokens and how many more", n)
	}
}

func TestWhitelist(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	own, consumer, stranger := p.Account().ID, m.Consumer.Account().ID, m.Stranger.Account().ID
	entries := func(q domain.Query) []string {
		var out []string
		for _, e := range must(p.Whitelist(ctx, m.service.ID, q))(t).Items {
			out = append(out, fmt.Sprintf("%s %s %d", e.UserAccountID, e.AccountName, e.Connections))
		}
		return out
	}
	if diff := cmp.Diff(sorted([]string{own + " provider 0", consumer + " consumer 0"}), entries(domain.Query{})); diff != "" {
		t.Errorf("from the beginning:\n%s", diff)
	}
	added, warnings, err := p.AddToWhitelist(ctx, m.service.ID, consumer+" "+stranger+" 1000000000000042", true)
	if err != nil || !slices.Equal(added, []string{stranger, "1000000000000042"}) || len(warnings) != 1 || !strings.Contains(warnings[0], "1000000000000042") {
		t.Errorf("added %v, warned %q, %v", added, warnings, err)
	}
	if _, again, err := p.AddToWhitelist(ctx, m.service.ID, stranger, false); err != nil || len(again) > 0 {
		t.Errorf("added again: %q, %v", again, err)
	}
	if _, warnings, err := p.AddToWhitelist(ctx, m.service.ID, "*", true); err != nil || !strings.Contains(warnings[0], "without being asked") {
		t.Errorf("everyone: %q, %v", warnings, err)
	}
	check(t, p.SetWhitelistEntry(ctx, m.service.ID, stranger, domain.WhitelistUpdate{Note: new("Trial until May")}))
	if got := entries(domain.Query{Text: "TRIAL"}); len(got) != 1 || !strings.HasPrefix(got[0], stranger) {
		t.Errorf("found %v", got)
	}
	fails(t, p.SetWhitelistEntry(ctx, m.service.ID, "1000000000000077", domain.WhitelistUpdate{Note: new("x")}), domain.NotFound, "not_whitelisted")

	// Off the list, the service is out of sight and the connection stays.
	check(t, p.RemoveFromWhitelist(ctx, m.service.ID, "*"))
	ep := m.ask(t, "to-orders", m.sh).ID
	check(t, accept(t, m, ep))
	m.Follow()
	check(t, p.RemoveFromWhitelist(ctx, m.service.ID, consumer))
	if got := m.states(t, ep); got != "Connected accepted, Active: Connected" || !m.carries(t, ep) {
		t.Errorf("the connection is %s", got)
	}
	_, err = m.Consumer.CreateEndpoint(ctx, domain.EndpointInput{ServiceName: m.service.ID, VPCID: m.shop.ID, NewGroup: true})
	fails(t, err, domain.NotFound, "service_not_found")
	fails(t, p.RemoveFromWhitelist(ctx, m.service.ID, consumer), domain.NotFound, "not_whitelisted")

	check(t, m.Operator.SetQuota(ctx, own, "whitelist_per_service", 4))
	_, _, err = p.AddToWhitelist(ctx, m.service.ID, "1000000000000051 1000000000000052", false)
	if got := faults(err); got != "accounts: quota_whitelist_per_service" {
		t.Errorf("beyond the limit: %s", got)
	}
}

// TestOneAnswer asks for services that do not exist, belong to others, or were
// taken away: the answer is the same to the letter.
func TestOneAnswer(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	was := must(m.Provider.CreateService(ctx, domain.ServiceInput{LoadBalancerIDs: []string{m.balancer.ID}, Accounts: m.Stranger.Account().ID}))(t)
	check(t, m.Provider.RemoveFromWhitelist(ctx, was.ID, m.Stranger.Account().ID))
	gone := must(m.Provider.CreateService(ctx, domain.ServiceInput{LoadBalancerIDs: []string{m.balancer.ID}, Accounts: m.Stranger.Account().ID}))(t)
	check(t, m.Provider.DeleteService(ctx, gone.ID))
	want := ""
	for _, name := range []string{"epsrv-aaaaaaaaaaaaaaaaaaaa", m.service.ID, m.service.ServiceName(), was.ID, gone.ServiceName(), "orders", "", "\x00", "' OR 1=1 --"} {
		_, err := m.Stranger.FindService(ctx, name)
		fails(t, err, domain.NotFound, "service_not_found")
		if want == "" {
			want = err.Error()
		}
		if err.Error() != want {
			t.Errorf("%q: %q, want %q", name, err, want)
		}
	}
	check(t, m.Provider.UpdateService(ctx, m.service.ID, domain.ServiceUpdate{Description: new("Orders of all shops")}))
	_, _, err := m.Provider.AddToWhitelist(ctx, m.service.ID, m.Stranger.Account().ID, false)
	check(t, err)
	o := must(m.Stranger.FindService(ctx, " "+m.service.ServiceName()+" "))(t)
	if o.Name != "orders" || o.Description != "Orders of all shops" || o.ProviderName != "provider" || fmt.Sprint(o.Openings) != "[TCP 443]" || len(o.Zones) != 2 || o.MyEndpoints != 0 {
		t.Errorf("found %+v", o)
	}
}

func TestCatalogue(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	me := m.Stranger.Account().ID
	create := func(name, accounts string) string {
		return must(p.CreateService(ctx, domain.ServiceInput{Name: name, LoadBalancerIDs: []string{m.balancer.ID}, Accounts: accounts}))(t).ID
	}
	var want []string
	for _, s := range []struct{ name, accounts string }{
		{"ledger", me}, {"archive", "*"}, {"billing", me + " *"}, {"hidden", ""}, {"zebra", "*"}, {"audit", me}, {"archive", me},
	} {
		if id := create(s.name, s.accounts); s.accounts != "" {
			want = append(want, s.name+" "+id)
		}
	}
	slices.Sort(want)
	list := func(q domain.Query) (got []string) {
		t.Helper()
		for {
			page := must(m.Stranger.Catalogue(ctx, q))(t)
			for _, o := range page.Items {
				got = append(got, o.Name+" "+o.ServiceID)
			}
			if q.After = page.Next; page.Next == "" {
				return got
			}
		}
	}
	for _, limit := range []int{1, 2, 3, 25} {
		if diff := cmp.Diff(want, list(domain.Query{Limit: limit})); diff != "" {
			t.Errorf("%d at a time:\n%s", limit, diff)
		}
	}
	if got := list(domain.Query{Text: "ARCH"}); len(got) != 2 {
		t.Errorf("text: %v", got)
	}
	id := strings.Fields(want[2])[1]
	if got := list(domain.Query{Text: "com.aliyuncs.privatelink.cn-hangzhou." + id}); len(got) != 1 || !strings.HasSuffix(got[0], id) {
		t.Errorf("service name: %v", got)
	}
	m.ask(t, "one", m.sh)
	m.ask(t, "two", m.sh)
	mine := must(m.Consumer.Catalogue(ctx, domain.Query{Text: "orders"}))(t).Items
	if len(mine) != 1 || mine[0].MyEndpoints != 2 {
		t.Errorf("mine: %+v", mine)
	}
}
