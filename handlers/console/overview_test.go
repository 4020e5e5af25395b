package console

import (
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/openprivatelink/openprivatelink/domain"
)

func TestOverview(t *testing.T) {
	w := newLinkWorld(t)
	w.follow(t)
	d := w.page(t, w.provider, account(w.Provider))
	if got := words(d.Find("[data-testid=ask]")); !strings.Contains(got, "consumer") || !strings.Contains(got, "“Checkout goes live Monday.”") {
		t.Errorf("needs you: %q", got)
	}
	if got := words(d.Find("[data-testid=degraded]")); !strings.Contains(got, "payments") || !strings.Contains(got, "cn-hangzhou-i: no target") {
		t.Errorf("degraded: %q", got)
	}
	if got := words(d.Find(".tl")); !strings.Contains(got, "Requested: payments") {
		t.Errorf("recent: %q", got)
	}
	d = w.page(t, w.consumer, account(w.Consumer))
	if d.Find("[data-testid=ask], [data-testid=degraded]").Length() != 0 {
		t.Error("the consumer has something to decide")
	}
	if got := words(d.Find(".asks")); !strings.Contains(got, "to-payments") || !strings.Contains(got, "Waiting for approval") {
		t.Errorf("my endpoints: %q", got)
	}
	part := w.get(t, w.provider, account(w.Provider), partial...).doc(t)
	if part.Find("#overview").Length() != 1 || part.Find("h1").Length() != 0 {
		t.Error("htmx does not get the region alone")
	}
}

func TestOverviewOfAnEmptyAccount(t *testing.T) {
	w := newLinkWorld(t)
	steps := func(role domain.Role) string {
		d := w.page(t, w.as(t, w.Stranger, role), account(w.Stranger))
		if d.Find(".steps li").Length() != 6 {
			t.Errorf("%s sees %d steps", role, d.Find(".steps li").Length())
		}
		return strings.Join(d.Find(".steps a.btn").Map(func(_ int, a *goquery.Selection) string { return a.AttrOr("href", "") }), " ")
	}
	at := account(w.Stranger)
	want := strings.Join([]string{at + "/vpcs/new", at + "/load-balancers/new", at + "/services/new", at + "/vpcs/new", at + "/catalogue"}, " ")
	if got := steps(domain.RoleOwner); got != want {
		t.Errorf("the owner is led to %s, want %s", got, want)
	}
	if got := steps(domain.RoleAuditor); got != at+"/catalogue" {
		t.Errorf("the auditor is led to %s", got)
	}
}
