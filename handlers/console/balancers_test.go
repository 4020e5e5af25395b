package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

func TestCreateBalancer(t *testing.T) {
	w := newLinkWorld(t)
	path := account(w.Provider) + "/load-balancers/new"

	// As it stands: both zones, one listener, the first attachment.
	d := w.moved(t, w.provider, w.press(t, w.provider, path, "#load-balancer", nil))
	if got := words(d.Find("[data-testid=listener] h2")); got != "TCP 80" {
		t.Errorf("listens on %q", got)
	}
	if got := words(d.Find("[data-testid=target] .nm")); got != "backend-one" {
		t.Errorf("target %q", got)
	}
	if n := d.Find(".aside .tw tbody tr").Length(); n != 2 {
		t.Errorf("in %d zones", n)
	}

	// The buttons that add rows send nothing.
	action, values := filled(t, w.page(t, w.provider, path), "#load-balancer")
	values.Set("more", "0")
	values.Set("name", "nlb-typed")
	res := w.post(t, w.provider, action, values)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("another target: %d", res.StatusCode)
	}
	_, values = filled(t, res.doc(t), "#load-balancer")
	if values.Get("name") != "nlb-typed" || !values.Has("listeners.0.servers.1.port") {
		t.Errorf("the form is now %v", values)
	}
	values.Set("more", "listener")
	part := w.post(t, w.provider, action, values, partial...).doc(t)
	if got := partials(part); len(got) != 1 || got[0] != "#load-balancer" {
		t.Errorf("htmx gets %v", got)
	}
	_, values = filled(t, part, "#load-balancer")
	if !values.Has("listeners.1.servers.0.attachment_id") {
		t.Errorf("no second listener: %v", values)
	}
	values.Set("less", "0.1")
	_, values = filled(t, w.post(t, w.provider, action, values).doc(t), "#load-balancer")
	if values.Has("listeners.0.servers.1.port") || !values.Has("listeners.1.port") {
		t.Errorf("the second target stays: %v", values)
	}

	// Every fault is beside its own field, also where rows before it are not sent.
	values.Del("zones.0.zone_id")
	values.Set("zones.1.address", "172.20.1.9")
	values.Set("listeners.1.port", "70000")
	values.Set("health.interval", "99")
	res = w.post(t, w.provider, action, values)
	if res.StatusCode != http.StatusUnprocessableEntity {
		t.Fatalf("got %d, want 422", res.StatusCode)
	}
	d = res.doc(t)
	if got := words(d.Find(`[id="load-balancer-zones.1.address-err"]`)); got == "" {
		t.Errorf("nothing beside the address of the second zone: %s", words(d.Find(".summary")))
	}
	values.Set("zones.1.address", "")
	d = w.post(t, w.provider, action, values).doc(t)
	for _, id := range []string{"listeners.1.port", "health.interval"} {
		if d.Find(fmt.Sprintf(`[id="load-balancer-%s-err"]`, id)).Length() != 1 {
			t.Errorf("nothing beside %s: %s", id, words(d.Find(".summary")))
		}
	}
	if _, open := d.Find("details.more").Attr("open"); !open {
		t.Error("the settings with the fault are closed")
	}
	values.Set("listeners.1.port", "443")
	values.Set("health.interval", "")
	values.Set("listeners.1.servers.0.attachment_id", "")
	values.Set("listeners.1.servers.0.address", "127.0.0.1")
	d = w.post(t, w.provider, action, values).doc(t)
	if got := words(d.Find(`[id="load-balancer-listeners.1.servers.0.address-err"]`)); !strings.Contains(got, "A target is an address of the VPC") {
		t.Errorf("beside the loopback address: %q", got)
	}
}

func TestTargets(t *testing.T) {
	w := newLinkWorld(t)
	w.follow(t)
	page := account(w.Provider) + "/load-balancers/" + w.balancer.ID
	d := w.page(t, w.provider, page)
	target := d.Find("[data-testid=target]")
	if got := words(target.Find("[data-testid=status]")); got != "Healthy" {
		t.Errorf("health %q", got)
	}

	// Draining is one click.
	d = w.moved(t, w.provider, w.press(t, w.provider, page, `[data-testid=target] form`, url.Values{"weight": {"0"}}))
	if got := words(d.Find("[data-testid=target] [data-label=Weight]")); got != "Draining" {
		t.Errorf("weight %q", got)
	}
	weight := d.Find(`[data-testid=target] a[href$="/weight"]`).AttrOr("href", "")
	res := w.press(t, w.provider, weight, "#weight", url.Values{"weight": {"200"}}, partial...)
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#weight-weight").AttrOr("value", "") != "200" {
		t.Errorf("weight 200: %d", res.StatusCode)
	}
	d = w.moved(t, w.provider, w.press(t, w.provider, weight, "#weight", url.Values{"weight": {"7"}}))
	if got := words(d.Find("[data-testid=target] [data-label=Weight]")); got != "7" {
		t.Errorf("weight %q", got)
	}

	add := d.Find(`[data-testid=listener] a[href$="/add-target"]`).AttrOr("href", "")
	res = w.press(t, w.provider, add, "#add-target", url.Values{"attachment_id": {""}, "address": {"172.20.1.1"}})
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(words(d.Find("#add-target-address-err")), "gateway") {
		t.Errorf("the gateway as a target: %d, %q", res.StatusCode, words(d.Find(".err")))
	}
	d = w.moved(t, w.provider, w.press(t, w.provider, add, "#add-target", url.Values{"attachment_id": {""}, "address": {"172.20.2.9"}, "port": {"81"}}))
	if n := d.Find("[data-testid=target]").Length(); n != 2 {
		t.Errorf("%d targets", n)
	}
	remove := d.Find(`[data-testid=target] a[href$="/remove"]`).Last().AttrOr("href", "")
	d = w.moved(t, w.provider, w.press(t, w.provider, remove, "#remove-target", nil))
	if n := d.Find("[data-testid=target]").Length(); n != 1 {
		t.Errorf("%d targets", n)
	}
}

func TestListeners(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Provider) + "/load-balancers/" + w.balancer.ID
	res := w.press(t, w.provider, page+"/add-listener", "#listener", nil) // port 80 again
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find(`[id="listener-listeners.0.port-err"]`).Length() != 1 {
		t.Errorf("the same port: %d, %q", res.StatusCode, words(d.Find(".summary")))
	}
	d := w.moved(t, w.provider, w.press(t, w.provider, page+"/add-listener", "#listener", url.Values{"listeners.0.port": {"443"}, "health.enabled": nil}))
	card := d.Find("[data-testid=listener]").Last()
	if got := words(card.Find("header")); !strings.Contains(got, "TCP 443") || !strings.Contains(got, "health check off") {
		t.Errorf("the new listener says %q", got)
	}
	edit := card.Find(`a[href$="/edit"]`).AttrOr("href", "")
	res = w.press(t, w.provider, edit, "#edit-listener", url.Values{"port": {"1-443"}, "mss": {"1501"}}, partial...) // 80 is another listener's
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#edit-listener-port-err").Length() != 1 || d.Find("#edit-listener-mss-err").Length() != 1 {
		t.Errorf("an overlapping range: %d, %q", res.StatusCode, words(d.Find(".summary")))
	}
	d = w.moved(t, w.provider, w.press(t, w.provider, edit, "#edit-listener", url.Values{
		"port": {"8443"}, "idle_timeout": {"60"}, "cps": {"5000"}, "proxy.enabled": {"on"}, "proxy.ids": {"vpc", "endpoint"},
	}))
	card = d.Find("[data-testid=listener]").Last()
	for _, want := range []string{"TCP 8443", "idle limit 60 s", "5,000 new connections/s", "PROXY v2 (alibaba)"} {
		if got := words(card.Find("header")); !strings.Contains(got, want) {
			t.Errorf("the listener says %q, without %q", got, want)
		}
	}
	_, values := filled(t, w.page(t, w.provider, edit), "#edit-listener")
	if got := values["proxy.ids"]; len(got) != 2 || values.Get("port") != "8443" {
		t.Errorf("the form shows %v", values)
	}
	d = w.moved(t, w.provider, w.press(t, w.provider, card.Find(`a[href$="/delete"]`).AttrOr("href", ""), "#delete-listener", nil))
	if n := d.Find("[data-testid=listener]").Length(); n != 1 {
		t.Errorf("%d listeners", n)
	}
}

func TestDeleteBalancerNamesItsUsers(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Provider) + "/load-balancers/" + w.balancer.ID
	d := w.page(t, w.provider, page+"/delete")
	if got := words(d.Find("[data-testid=blocked] a").First()); got != "payments" || d.Find("form#delete-load-balancer").Length() != 0 {
		t.Errorf("the question names %q", got)
	}
	if res := w.post(t, w.provider, page+"/delete", url.Values{"account": {w.Provider.Account().ID}}); res.StatusCode != http.StatusConflict {
		t.Errorf("deleted while in use: %d", res.StatusCode)
	}
	free, err := w.Provider.CreateLoadBalancer(t.Context(), domain.LoadBalancerInput{
		Name: "nlb-free", VPCID: w.provide.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: w.provide.switches[0].ID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	d = w.moved(t, w.provider, w.press(t, w.provider, account(w.Provider)+"/load-balancers/"+free.ID+"/delete", "#delete-load-balancer", nil))
	if n := d.Find("[data-testid=balancer]").Length(); n != 1 {
		t.Errorf("%d load balancers are left", n)
	}
}

func TestEditBalancer(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Provider) + "/load-balancers/" + w.balancer.ID
	action, values := filled(t, w.page(t, w.provider, page+"/edit"), "#edit-load-balancer")
	values.Set("name", "nlb-renamed")
	values.Set("cross_zone", "on")
	d := w.moved(t, w.provider, w.post(t, w.provider, action, values))
	if got := words(d.Find("h1")); got != "nlb-renamed" {
		t.Errorf("name %q", got)
	}
	if res := w.post(t, w.provider, action, values); res.StatusCode != http.StatusConflict {
		t.Errorf("an old form: %d", res.StatusCode)
	}
}
