package console

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// status is the API's word for the connection's state on its page.
func (w *linkWorld) status(t *testing.T) string {
	t.Helper()
	d, err := w.Provider.Connection(t.Context(), w.endpoint.ID)
	if err != nil {
		t.Fatal(err)
	}
	return string(d.Status)
}

// TestRejectWithTime lets open flows drain, as a page and as a dialog, and cuts them
// after all.
func TestRejectWithTime(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	page := account(w.Provider) + "/connections/" + w.endpoint.ID
	for seconds, want := range map[string]string{"": "choose so", "0": "choose so", "901": "0 to 900 seconds", "soon": "whole number"} {
		res := w.press(t, w.provider, page+"/reject", "#reject", url.Values{"cut": {"drain"}, "drain": {seconds}})
		d := res.doc(t)
		if got := words(d.Find("#reject-drain-err")); res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(got, want) || d.Find("h1").Length() != 1 {
			t.Errorf("for %q seconds: %d %q", seconds, res.StatusCode, got)
		}
		if d.Find("#reject [name=cut][value=drain][checked]").Length() != 1 {
			t.Errorf("for %q seconds: the choice is forgotten", seconds)
		}
	}
	d := w.moved(t, w.provider, w.press(t, w.provider, page+"/reject", "#reject", url.Values{"cut": {"drain"}, "drain": {"90"}}))
	if got := words(d.Find("[data-testid=flash]")); !strings.Contains(got, "Open flows may go on for 90 s.") || !strings.Contains(got, "Undo") {
		t.Errorf("the page says %q", got)
	}
	if got := words(d.Find(".head [data-testid=status]")); got != "Draining" || w.status(t) != "Disconnecting" {
		t.Errorf("the page reads %q, the connection is %s", got, w.status(t))
	}
	if d.Find("#connection-"+w.endpoint.ID+"-traffic").Length() != 1 {
		t.Error("what still passes is not shown")
	}
	inbox := account(w.Provider) + "/connections"
	row := w.page(t, w.provider, inbox).Find("#connection-" + w.endpoint.ID)
	if !strings.HasPrefix(words(row.Find("[data-testid=draining]")), "open flows end") || row.Find(`form[action$="/reject"], a[href$="/reject"]`).Length() != 0 {
		t.Errorf("the row says %q", words(row))
	}
	consumers := account(w.Consumer) + "/endpoints/" + w.endpoint.ID
	if d := w.page(t, w.consumer, consumers); d.Find("[data-testid=draining]").Length() != 1 || d.Find(`form[action$="/cut"]`).Length() != 1 {
		t.Errorf("the consumer reads %q", words(d.Find(".banner")))
	}

	res := w.press(t, w.provider, inbox, `tr form[action$="/cut"]`, nil, partial...)
	if row := rowIn(t, res.body, "connection-"+w.endpoint.ID); row.Find("[data-testid=draining]").Length() != 0 || words(row.Find("[data-testid=status]")) != "Disconnecting" {
		t.Errorf("after the cut the row says %q", words(row))
	}
	if n := w.page(t, w.consumer, consumers).Find("[data-testid=draining]").Length(); n != 0 {
		t.Error("the consumer still reads that it drains")
	}
	if res := w.get(t, w.provider, page+"/traffic", partial...); res.StatusCode != http.StatusOK || res.Header.Get("HX-Location") != page {
		t.Errorf("the traffic of what is cut: %d %q", res.StatusCode, res.body)
	}
	// A form of before cuts nothing else.
	if res := w.post(t, w.provider, page+"/cut", url.Values{"account": {w.Provider.Account().ID}}); res.StatusCode != http.StatusConflict {
		t.Errorf("cut twice: %d", res.StatusCode)
	}
}

// TestConsumerDrains deletes an endpoint and lets its flows drain, and cuts them.
func TestConsumerDrains(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Consumer) + "/endpoints/" + w.endpoint.ID
	if n := w.page(t, w.consumer, page+"/delete").Find("[name=cut]").Length(); n != 0 {
		t.Error("asks about open flows of what was never accepted")
	}
	w.connect(t)
	zone := page + "/zones/" + domaintest.ZoneI + "/remove"
	if res := w.press(t, w.consumer, zone, "#remove-zone", url.Values{"cut": {"drain"}, "drain": {"-3"}}, partial...); res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("a zone that drains for less than nothing: %d", res.StatusCode)
	}
	w.moved(t, w.consumer, w.press(t, w.consumer, zone, "#remove-zone", url.Values{"cut": {"drain"}, "drain": {"30"}}))
	if n := w.page(t, w.consumer, page+"?tab=zones").Find("[data-testid=draining]").Length(); n != 1 {
		t.Errorf("a zone that drains is told of %d times", n)
	}
	if res := w.press(t, w.consumer, page+"/delete", "#delete-endpoint", url.Values{"cut": {"drain"}, "drain": {"1000"}}); res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("an endpoint that drains for too long: %d", res.StatusCode)
	}
	w.moved(t, w.consumer, w.press(t, w.consumer, page+"/delete", "#delete-endpoint", url.Values{"cut": {"drain"}, "drain": {"30"}}))
	d := w.moved(t, w.consumer, w.press(t, w.consumer, page, `form[action$="/cut"]`, nil))
	if got := words(d.Find("[data-testid=flash]")); !strings.HasPrefix(got, "What was draining is cut.") || d.Find("[data-testid=draining]").Length() != 0 {
		t.Errorf("the page says %q", got)
	}
}

// TestTerms changes what may pass through a connection that stands.
func TestTerms(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	page := account(w.Provider) + "/connections/" + w.endpoint.ID
	d := w.page(t, w.provider, page+"/terms")
	if d.Find("[name=traffic_mode][value=Scalability][checked]").Length() != 1 || d.Find("#terms-bandwidth").AttrOr("value", "") != "3,072" || words(d.Find("#terms-bandwidth-hint")) != "100 to 50,000." {
		t.Errorf("the form begins with %q", words(d.Find("#terms")))
	}
	bad := url.Values{"traffic_mode": {"BandwidthLimit"}, "bandwidth": {"99"}, "max_connections": {"-1"}, "expiry_drain": {"901"}}
	d = w.press(t, w.provider, page+"/terms", "#terms", bad).doc(t)
	for _, field := range []string{"bandwidth", "max_connections", "expiry_drain"} {
		if d.Find("#terms-"+field+"-err").Length() != 1 {
			t.Errorf("nothing beside %s", field)
		}
	}
	good := url.Values{"traffic_mode": {"BandwidthLimit"}, "bandwidth": {"256"}, "max_connections": {"20"}, "expires_at": {"2030-01-01T10:00"}, "expiry_drain": {"60"}}
	d = w.moved(t, w.provider, w.press(t, w.provider, page+"/terms", "#terms", good))
	if got := words(d.Find(".aside .kv")); !strings.Contains(got, "256 Mbit/s each way") || !strings.Contains(got, "at most 20") || !strings.Contains(got, "for 60 s") || w.status(t) != "Pending" {
		t.Errorf("the page says %q, the connection is %s", got, w.status(t))
	}
	w.follow(t)
	if got := words(w.page(t, w.consumer, account(w.Consumer)+"/endpoints/"+w.endpoint.ID).Find(".aside .kv")); !strings.Contains(got, "256 Mbit/s each way") || !strings.Contains(got, "at most 20") {
		t.Errorf("the consumer reads %q", got)
	}
	d = w.page(t, w.provider, page+"/terms")
	if d.Find("[name=traffic_mode][value=BandwidthLimit][checked]").Length() != 1 || d.Find("#terms-expires_at").AttrOr("value", "") != "2030-01-01T10:00" {
		t.Errorf("the form begins with %q", words(d.Find("#terms")))
	}
	w.moved(t, w.provider, w.press(t, w.provider, page+"/terms", "#terms", url.Values{"traffic_mode": {"Scalability"}, "bandwidth": {"99"}}))
	if c, err := w.Provider.Connection(t.Context(), w.endpoint.ID); err != nil || c.Bandwidth != 0 {
		t.Errorf("without a limit it has %d Mbit/s (%v)", c.Bandwidth, err)
	}
}

// TestZonesOfConnection rejects and accepts a zone, and leads it to another load
// balancer.
func TestZonesOfConnection(t *testing.T) {
	w := newLinkWorld(t)
	second, err := w.Provider.CreateLoadBalancer(t.Context(), domain.LoadBalancerInput{
		Name: "nlb-two", VPCID: w.provide.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: w.provide.switches[0].ID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Provider.AddResource(t.Context(), w.service.ID, domain.ResourceInput{LoadBalancerID: second.ID, Manual: true}); err != nil {
		t.Fatal(err)
	}
	page := account(w.Provider) + "/connections/" + w.endpoint.ID
	at := page + "/zones/" + domaintest.ZoneH
	zone := func() string { return words(w.page(t, w.provider, page).Find("[data-testid=connection-zone]").First()) }
	steps := []struct {
		do   func() answer
		want []string
	}{
		{func() answer {
			return w.press(t, w.provider, at+"/replace", "#replace", url.Values{"load_balancer_id": {second.ID}})
		}, []string{"nlb-two", "chosen by you", "Choose"}},
		{func() answer {
			return w.press(t, w.provider, at+"/replace", "#replace", url.Values{"load_balancer_id": {"auto"}})
		}, []string{"nlb-secret", "Choose"}},
		{func() answer { return w.press(t, w.provider, page, "#decision", nil) }, []string{"Connecting"}},
		{nil, []string{"Connected", "Replace", "Reject"}},
		{func() answer {
			services := account(w.Provider) + "/services/" + w.service.ID + "?tab=resources"
			if got := words(w.page(t, w.provider, at+"/replace").Find("[data-testid=blocked]")); !strings.Contains(got, "nlb-secret is given to new endpoints") {
				t.Errorf("the question says %q", got)
			}
			w.moved(t, w.provider, w.press(t, w.provider, services, `[data-testid=resource]:contains(nlb-two) form:has(button[value=on])`, url.Values{"give": {"on"}}))
			return w.press(t, w.provider, services, `[data-testid=resource]:contains(nlb-secret) form:has(button[value=off])`, url.Values{"give": {"off"}})
		}, []string{"Connected", "Replace", "Reject"}},
		{func() answer {
			return w.press(t, w.provider, at+"/replace", "#replace", url.Values{"mode": {"Graceful"}})
		}, []string{"Updating", "nlb-two", "older flows stay with nlb-secret"}},
		{nil, []string{"Connected", "nlb-two", "older flows stay with nlb-secret", "Close older flows", "Reject"}},
		{func() answer { return w.press(t, w.provider, at+"/close", "#close", nil) }, []string{"Updating", "nlb-two"}},
		{nil, []string{"Connected", "nlb-two", "Replace"}},
		{func() answer {
			return w.press(t, w.provider, at+"/reject", "#reject-zone", url.Values{"cut": {"drain"}, "drain": {"45"}})
		}, []string{"Draining", "open flows end"}},
		{nil, []string{"Disconnected", "Accept"}},
		{func() answer { return w.press(t, w.provider, page, `form[action$="/accept"]`, nil) }, []string{"Connecting"}},
		{nil, []string{"Connected", "Reject"}},
	}
	for i, st := range steps {
		if st.do == nil {
			w.follow(t)
		} else {
			w.moved(t, w.provider, st.do())
		}
		for _, want := range st.want {
			if got := zone(); !strings.Contains(got, want) {
				t.Fatalf("step %d: the zone says %q, not %q", i+1, got, want)
			}
		}
	}
	if got := words(w.page(t, w.provider, page).Find(".tl")); !strings.Contains(got, "Zone rejected") || !strings.Contains(got, "Older flows closed") {
		t.Errorf("the history says %q", got)
	}
}

// TestReplaceForAll replaces a load balancer of a service for every endpoint.
func TestReplaceForAll(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	services := account(w.Provider) + "/services/" + w.service.ID
	if d := w.page(t, w.provider, services+"?tab=resources"); d.Find(`a[href*="/replace-resource"], form[action$="/give-resource"]`).Length() != 0 {
		t.Error("offers to replace what has no other")
	}
	second, err := w.Provider.CreateLoadBalancer(t.Context(), domain.LoadBalancerInput{
		Name: "nlb-two", VPCID: w.provide.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: w.provide.switches[0].ID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.moved(t, w.provider, w.press(t, w.provider, services+"/add-resource", "#add-resource", url.Values{"resource": {second.ID + " " + domaintest.ZoneH}, "manual": {"on"}}))
	row := w.page(t, w.provider, services+"?tab=resources").Find("[data-testid=resource]:contains(nlb-two)")
	if got := words(row); !strings.Contains(got, "not given to new endpoints") || !strings.Contains(got, "Use for new endpoints in "+domaintest.ZoneH+": nlb-two") {
		t.Errorf("the new one says %q", got)
	}
	q := services + "/replace-resource?" + url.Values{"load_balancer": {w.balancer.ID}, "zone": {domaintest.ZoneH}}.Encode()
	d := w.moved(t, w.provider, w.press(t, w.provider, q, "#replace-resource", nil))
	if got := words(d.Find("[data-testid=flash]")); !strings.HasPrefix(got, "1 endpoint zone is led to the other load balancer.") {
		t.Errorf("the page says %q", got)
	}
	w.follow(t)
	old := w.page(t, w.provider, services+"?tab=resources").Find("[data-testid=resource]:contains(nlb-secret)").First()
	if got := words(old); !strings.Contains(got, "older flows of 1") || !strings.Contains(got, "not given to new endpoints") {
		t.Errorf("the former one says %q", got)
	}
	// The consumer learns nothing of it.
	if d := w.page(t, w.consumer, account(w.Consumer)+"/endpoints/"+w.endpoint.ID+"?tab=audit"); strings.Contains(d.Text(), "nlb-") || strings.Contains(d.Text(), second.ID) {
		t.Error("the consumer's page names a load balancer")
	}
	for _, path := range []string{"/replace-resource", "/replace-resource?load_balancer=nlb-none&zone=" + domaintest.ZoneH} {
		if res := w.get(t, w.provider, services+path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
}
