package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// Create service, tick a load balancer, Create: the accounts are in the same form.
func TestCreateServiceInThreeClicks(t *testing.T) {
	w := newLinkWorld(t)
	list := account(w.Provider) + "/services"
	form := w.page(t, w.provider, list).Find(".head .acts a").AttrOr("href", "")
	res := w.press(t, w.provider, form, "#service", url.Values{"load_balancer_ids": {w.balancer.ID}, "accounts": {"1000000000000077;\n1000000000000088"}})
	d := w.moved(t, w.provider, res)
	if got := words(d.Find("h1")); got != w.balancer.Name {
		t.Errorf("the service is called %q", got)
	}
	if got := words(d.Find(".big-id .id")); !strings.HasPrefix(got, "com.aliyuncs.privatelink.cn-hangzhou.epsrv-") {
		t.Errorf("service name %q", got)
	}
	path, _, _ := strings.Cut(res.Header.Get("Location"), "?")
	got := w.page(t, w.provider, path+"?tab=whitelist").Find("[data-testid=whitelisted] .id")
	if n := got.Length(); n != 3 {
		t.Errorf("%d accounts on the whitelist, want this one and two", n)
	}
}

func TestServiceFormKeepsWhatWasTyped(t *testing.T) {
	w := newLinkWorld(t)
	path := account(w.Provider) + "/services/new"
	typed := url.Values{
		"name": {"1st"}, "accounts": {"1000000000000077, me"}, "description": {"http://example.com"}, "load_balancer_ids": {w.balancer.ID},
		"auto_accept": {"on"}, "pending_expiry": {"soon"},
	}
	for _, header := range [][]string{nil, partial} {
		res := w.press(t, w.provider, path, "#service", typed, header...)
		if res.StatusCode != http.StatusUnprocessableEntity {
			t.Fatalf("got %d, want 422", res.StatusCode)
		}
		d := res.doc(t)
		if isPage := d.Find("h1").Length() == 1; isPage != (header == nil) {
			t.Errorf("a whole page: %v", isPage)
		}
		_, kept := filled(t, d, "#service")
		for name, want := range typed {
			if !slices.Equal(kept[name], want) {
				t.Errorf("%s: %q was typed, %q is left", name, want, kept[name])
			}
		}
		if d.Find("#service-pending_expiry-err").Length() != 1 {
			t.Errorf("no message beside the hours: %s", words(d.Find(".summary")))
		}
	}
	// The store's own rules, once everything can be read.
	typed.Set("pending_expiry", "")
	d := w.press(t, w.provider, path, "#service", typed).doc(t)
	for _, field := range []string{"name", "accounts", "description"} {
		if d.Find("#service-"+field+"-err").Length() != 1 {
			t.Errorf("no message beside %s", field)
		}
	}
	if d := w.press(t, w.provider, path, "#service", url.Values{"load_balancer_ids": nil}).doc(t); d.Find("#service-load_balancer_ids-err").Length() != 1 {
		t.Error("no message where nothing is to be published")
	}
}

func TestServiceFormSentTwiceMakesOne(t *testing.T) {
	w := newLinkWorld(t)
	action, values := filled(t, w.page(t, w.provider, account(w.Provider)+"/services/new"), "#service")
	values["load_balancer_ids"] = []string{w.balancer.ID}
	first, again := w.post(t, w.provider, action, values), w.post(t, w.provider, action, values)
	a, _, _ := strings.Cut(first.Header.Get("Location"), "?")
	b, _, _ := strings.Cut(again.Header.Get("Location"), "?")
	if first.StatusCode != http.StatusSeeOther || a != b {
		t.Errorf("made %q and %q", a, b)
	}
}

func TestServiceList(t *testing.T) {
	w := newLinkWorld(t)
	w.follow(t)
	list := account(w.Provider) + "/services"
	row := w.page(t, w.provider, list).Find("#service-" + w.service.ID)
	if got := words(row.Find("[data-label=Connections]")); got != "0 1 to approve" {
		t.Errorf("connections: %q", got)
	}
	// The only target is in one of the two zones.
	if got := words(row.Find("[data-label=Status]")); got != "Degraded" {
		t.Errorf("status %q", got)
	}
	if got := strings.Join(row.Find(".zones li").Map(func(_ int, li *goquery.Selection) string { return li.AttrOr("title", "") }), ", "); got != "h: 1 of 1 healthy, i: no target" {
		t.Errorf("zones %q", got)
	}
	if got := w.page(t, w.provider, list+"?decision=waiting").Find("[data-testid=service]").Length(); got != 1 {
		t.Errorf("%d services need approval", got)
	}
	if _, err := w.Provider.AcceptConnection(t.Context(), w.endpoint.ID, domain.AcceptInput{}); err != nil {
		t.Fatal(err)
	}
	if got := w.page(t, w.provider, list+"?decision=waiting").Find("[data-testid=service]").Length(); got != 0 {
		t.Errorf("%d services need approval after it", got)
	}
	res := w.get(t, w.provider, list+"?q=nothing", partial...)
	if d := res.doc(t); d.Find("#services-results").Length() != 1 || d.Find("h1").Length() != 0 || !strings.Contains(words(d.Find(".empty")), "Clear filters") {
		t.Errorf("a search answers %s", res.body)
	}
}

func TestServiceTabs(t *testing.T) {
	w := newLinkWorld(t)
	w.follow(t)
	page := account(w.Provider) + "/services/" + w.service.ID
	for tab, want := range map[string]string{
		"": "backend-one", "?tab=resources": "nlb-secret", "?tab=whitelist": w.Consumer.Account().ID,
		"?tab=connections": w.endpoint.ID, "?tab=audit": "Create service",
	} {
		d := w.page(t, w.provider, page+tab)
		if got := words(d.Find("#main")); !strings.Contains(got, want) {
			t.Errorf("%s says %q, not %s", tab, got, want)
		}
		part := w.get(t, w.provider, page+tab, partial...).doc(t)
		if part.Find("#service-"+w.service.ID+"-page").Length() != 1 || part.Find("nav#nav").Length() != 0 {
			t.Errorf("%s: htmx does not get the region alone", tab)
		}
	}
	search := append([]string{"HX-Target", "div#whitelist-results"}, partial...)
	if d := w.get(t, w.provider, page+"?tab=whitelist&q=1000", search...).doc(t); d.Find("#whitelist-results").Length() != 1 || d.Find("h1").Length() != 0 {
		t.Error("a search of the whitelist does not answer the list alone")
	}
}

func TestAcceptanceSwitch(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Provider) + "/services/" + w.service.ID
	d := w.moved(t, w.provider, w.press(t, w.provider, page, `form[action$="/acceptance"]`, url.Values{"auto_accept": {"on"}}))
	if got := words(d.Find(".aside [data-testid=status]").First()); got != "Accept all" {
		t.Errorf("acceptance: %q", got)
	}
}

func TestWhitelistByPaste(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Provider) + "/services/" + w.service.ID
	d := w.moved(t, w.provider, w.press(t, w.provider, page+"/add-accounts", "#add-accounts", url.Values{
		"accounts": {"acs:ram:*:1000000000000077:* | " + w.Stranger.Account().ID}, "auto_accept": {"on"},
	}))
	if got := words(d.Find("[data-testid=flash]")); !strings.Contains(got, "2 accounts added.") || !strings.Contains(got, "There is no account 1000000000000077 yet.") {
		t.Errorf("the page says %q", got)
	}
	row := d.Find("#account-" + w.Stranger.Account().ID)
	if got := words(row); !strings.HasPrefix(got, "stranger") || !strings.Contains(got, "Without asking") {
		t.Errorf("the row says %q", got)
	}
	if got := words(d.Find("#account-1000000000000077")); !strings.HasPrefix(got, "Unknown account") {
		t.Errorf("the row says %q", got)
	}
	edit := row.Find("a[hx-get]").First().AttrOr("href", "")
	d = w.moved(t, w.provider, w.press(t, w.provider, edit, "#edit-entry", url.Values{"auto_accept": nil, "note": {"trial"}}))
	if got := words(d.Find("#account-" + w.Stranger.Account().ID)); !strings.Contains(got, "As the service") || !strings.Contains(got, "trial") {
		t.Errorf("the row says %q", got)
	}
	remove := d.Find("#account-"+w.Consumer.Account().ID+" a[hx-get]").Last().AttrOr("href", "")
	if got := words(w.page(t, w.provider, remove).Find("#remove-entry p")); !strings.Contains(got, "Its 1 connection stays until you reject it") {
		t.Errorf("the question says %q", got)
	}
	w.moved(t, w.provider, w.press(t, w.provider, remove, "#remove-entry", nil))
	if _, err := w.Consumer.FindService(t.Context(), w.service.ID); domain.KindOf(err) != domain.NotFound {
		t.Errorf("the consumer still finds the service: %v", err)
	}
	res := w.press(t, w.provider, page+"/add-accounts", "#add-accounts", url.Values{"accounts": {"them"}}, partial...)
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#add-accounts-accounts").Text() != "them" {
		t.Errorf("got %d, and %q is left", res.StatusCode, d.Find("#add-accounts-accounts").Text())
	}
}

func TestEveryoneIsConfirmed(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Provider) + "/services/" + w.service.ID + "/add-accounts"
	res := w.press(t, w.provider, page, "#add-accounts", url.Values{"accounts": {"*"}})
	if res.StatusCode != http.StatusUnprocessableEntity {
		t.Fatalf("got %d, want 422", res.StatusCode)
	}
	action, values := filled(t, res.doc(t), "#add-accounts")
	values.Set("everyone", "everyone")
	d := w.moved(t, w.provider, w.post(t, w.provider, action, values))
	if got := words(d.Find("[data-testid=whitelisted]").First()); !strings.HasPrefix(got, "Every account") {
		t.Errorf("the first entry is %q", got)
	}
	if _, err := w.Stranger.FindService(t.Context(), w.service.ID); err != nil {
		t.Errorf("a stranger does not find the service: %v", err)
	}
}

func TestResources(t *testing.T) {
	w := newLinkWorld(t)
	second, err := w.Provider.CreateLoadBalancer(t.Context(), domain.LoadBalancerInput{
		Name: "nlb-two", VPCID: w.provide.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: w.provide.switches[1].ID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	page := account(w.Provider) + "/services/" + w.service.ID
	d := w.moved(t, w.provider, w.press(t, w.provider, page+"/add-resource", "#add-resource", nil))
	if n := d.Find("[data-testid=resource]").Length(); n != 3 {
		t.Errorf("%d resources", n)
	}
	remove := page + "/remove-resource?" + url.Values{"load_balancer": {second.ID}, "zone": {domaintest.ZoneI}}.Encode()
	d = w.moved(t, w.provider, w.press(t, w.provider, remove, "#remove-resource", nil))
	if n := d.Find("[data-testid=resource]").Length(); n != 2 {
		t.Errorf("%d resources", n)
	}
	// The endpoint leads to the first one.
	used := page + "/remove-resource?" + url.Values{"load_balancer": {w.balancer.ID}, "zone": {domaintest.ZoneH}}.Encode()
	if res := w.press(t, w.provider, used, "#remove-resource", nil); res.StatusCode != http.StatusConflict {
		t.Errorf("removed what an endpoint leads to: %d", res.StatusCode)
	}
}

func TestDeleteService(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Provider) + "/services/" + w.service.ID
	if _, err := w.Provider.AcceptConnection(t.Context(), w.endpoint.ID, domain.AcceptInput{}); err != nil {
		t.Fatal(err)
	}
	w.follow(t)
	d := w.page(t, w.provider, page+"/delete")
	if got := words(d.Find("[data-testid=blocked]")); !strings.Contains(got, w.endpoint.ID) || d.Find("form#delete-service").Length() != 0 {
		t.Errorf("while connected it says %q", got)
	}
	if _, err := w.Provider.RejectConnection(t.Context(), w.endpoint.ID, domain.RejectInput{}); err != nil {
		t.Fatal(err)
	}
	w.follow(t)
	res := w.press(t, w.provider, page+"/delete", "#delete-service", url.Values{"confirm": {"payment"}})
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#delete-service-confirm").AttrOr("value", "") != "payment" {
		t.Errorf("a wrong name: %d", res.StatusCode)
	}
	w.moved(t, w.provider, w.press(t, w.provider, page+"/delete", "#delete-service", url.Values{"confirm": {"payments"}}))
	if res := w.get(t, w.provider, page); res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusGone {
		t.Errorf("the page of the deleted service: %d", res.StatusCode)
	}
	d = w.page(t, w.consumer, account(w.Consumer)+"/endpoints/"+w.endpoint.ID)
	if got := words(d.Find(".head [data-testid=status]")); got != "Service deleted" {
		t.Errorf("the consumer reads %q", got)
	}
}
