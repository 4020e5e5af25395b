package console

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

func TestServerGroupPages(t *testing.T) {
	w := newLinkWorld(t)
	base := account(w.Provider)

	// As it stands, with every fault beside its field.
	path := base + "/server-groups/new"
	res := w.press(t, w.provider, path, "#server-group", url.Values{
		"name": {"1"}, "scheduler": {"qch"}, "drain": {"901"}, "health.type": {"http"}, "health.path": {"nowhere"}, "health.interval": {"99"},
	}, partial...)
	d := res.doc(t)
	for _, id := range []string{"name", "scheduler", "drain", "health.path", "health.interval"} {
		if res.StatusCode != http.StatusUnprocessableEntity || d.Find(`[id="server-group-`+id+`-err"]`).Length() != 1 {
			t.Errorf("%d, nothing beside %s: %s", res.StatusCode, id, words(d.Find(".summary")))
		}
	}
	if n := d.Find("details.more[open]").Length(); n != 3 { // the check, its HTTP request, as targets come and go
		t.Errorf("%d of the settings with faults are open", n)
	}
	d = w.moved(t, w.provider, w.press(t, w.provider, path, "#server-group", url.Values{"name": {"sgp-orders"}, "protocol": {"tcp_udp"}, "drain": {"30"}}))
	for _, want := range []string{"sgp-orders", "TCP and UDP", "No targets", "drain for 30 s", "TCP check every 5 s"} {
		if !strings.Contains(words(d.Find("main")), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	page := strings.TrimSuffix(d.Find(`main a[href$="/edit"]`).AttrOr("href", ""), "/edit")

	// Targets: by name, by address, drained and removed.
	d = w.moved(t, w.provider, w.press(t, w.provider, page+"/add-target", "#add-target", url.Values{"attachment_id": {""}, "address": {"db.example.internal"}, "port": {"5432"}}))
	if got := words(d.Find("[data-testid=target]")); !strings.Contains(got, "db.example.internal:5432") {
		t.Errorf("target %q", got)
	}
	res = w.press(t, w.provider, page+"/add-target", "#add-target", url.Values{"attachment_id": {""}, "address": {"a b"}, "port": {"1"}}, partial...)
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#add-target-address-err").Length() != 1 {
		t.Errorf("a bad name: %d, %q", res.StatusCode, words(d.Find(".err")))
	}
	part := w.press(t, w.provider, page, `[data-testid=target] form`, url.Values{"weight": {"0"}}, partial...).doc(t)
	if got := partials(part); len(got) == 0 || !strings.HasPrefix(got[0], "#server_group-") {
		t.Errorf("htmx gets %v", got)
	}
	d = w.page(t, w.provider, page)
	if got := words(d.Find("[data-testid=target] [data-label=Weight]")); got != "Draining" {
		t.Errorf("weight %q", got)
	}

	// A listener sends to it.
	balancer := base + "/load-balancers/" + w.balancer.ID
	id := page[strings.LastIndexByte(page, '/')+1:]
	d = w.moved(t, w.provider, w.press(t, w.provider, balancer+"/add-listener", "#listener", url.Values{
		"listeners.0.port": {"53"}, "listeners.0.protocol": {"udp"}, "listeners.0.server_group_id": {id},
	}))
	if got := words(d.Find("[data-testid=listener]").First()); !strings.Contains(got, "UDP 53") && !strings.Contains(got, "TCP 80") {
		t.Errorf("the first listener is %q", got)
	}
	d = w.moved(t, w.provider, w.press(t, w.provider, balancer+"/add-listener", "#listener", url.Values{"listeners.0.port": {"54"}, "listeners.0.server_group_id": {id}}))
	if got := words(d.Find("main")); !strings.Contains(got, "The same targets as UDP 53.") {
		t.Errorf("the second listener shows its targets again: %s", got)
	}
	d = w.page(t, w.provider, page)
	if got := words(d.Find(".aside")); !strings.Contains(got, "nlb-secret · UDP 53") || !strings.Contains(got, "nlb-secret · TCP 54") {
		t.Errorf("used by %q", got)
	}
	if got := words(w.page(t, w.provider, page+"/delete").Find("[data-testid=blocked]")); !strings.Contains(got, "nlb-secret · UDP 53") {
		t.Errorf("the question names %q", got)
	}

	if got := words(w.page(t, w.provider, base+"/vpcs/"+w.provide.vpc.ID+"/delete").Find("main")); !strings.Contains(got, "2 server groups") {
		t.Errorf("the question about the VPC says %q", got)
	}

	// Editing shows what is, and an old form is refused.
	action, values := filled(t, w.page(t, w.provider, page+"/edit"), "#edit-server-group")
	if values.Get("drain") != "30" || values.Get("health.interval") != "5" || values.Get("health.codes") != "http_2xx" {
		t.Errorf("the form shows %v", values)
	}
	values.Set("health.type", "http")
	values.Set("health.path", "/ready")
	values.Set("fail_closed", "on")
	d = w.moved(t, w.provider, w.post(t, w.provider, action, values))
	if got := words(d.Find(".aside")); !strings.Contains(got, "GET /ready HTTP/1.0") || !strings.Contains(got, "All targets downrefuse") {
		t.Errorf("the page says %q", got)
	}
	if res := w.post(t, w.provider, action, values); res.StatusCode != http.StatusConflict {
		t.Errorf("an old form: %d", res.StatusCode)
	}
	d = w.page(t, w.provider, base+"/server-groups?q=sgp-orders")
	if got := words(d.Find("[data-testid=server-group]")); !strings.Contains(got, "HTTP check every 5 s") || !strings.Contains(got, "2 listeners") {
		t.Errorf("in the list: %q", got)
	}
	if res := w.get(t, w.as(t, w.Provider, domain.RoleAuditor), path); res.StatusCode != http.StatusForbidden {
		t.Errorf("an auditor may create one: %d", res.StatusCode)
	}
}

// TestGroupFollows patches what is open when the health of a target changes.
func TestGroupFollows(t *testing.T) {
	w := newLinkWorld(t)
	w.follow(t)
	groups, err := w.Provider.ServerGroups(t.Context(), domain.Query{})
	if err != nil {
		t.Fatal(err)
	}
	id := groups.Items[0].ID
	c, err := w.console.serverGroupChanged(t.Context(), w.Provider, id)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := c.Render(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "1 of 1 healthy") || !strings.Contains(got, "server_group-"+id+"-page") {
		t.Errorf("the event is %s", got)
	}
	d, err := w.Provider.ServerGroup(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	err = w.Store.System().Report(t.Context(), domain.Report{Servers: []domain.ServerReport{{ID: d.Servers[0].ID, Health: domain.HealthUnhealthy, Reason: "CONNECT_TIMEOUT", Since: w.Clock.Now()}}})
	if err != nil {
		t.Fatal(err)
	}
	target := w.page(t, w.provider, account(w.Provider)+"/server-groups/"+id).Find("[data-testid=target] [data-label=Health]")
	if got := words(target); got != "Unhealthyno connection in time" {
		t.Errorf("health %q", got)
	}
}

func TestBalancerZonePages(t *testing.T) {
	w := newLinkWorld(t)
	lb, err := w.Provider.CreateLoadBalancer(t.Context(), domain.LoadBalancerInput{
		Name: "nlb-zonal", VPCID: w.provide.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: w.provide.switches[0].ID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	page := account(w.Provider) + "/load-balancers/" + lb.ID
	res := w.press(t, w.provider, page+"/zones/new", "#add-zone", url.Values{"address": {"172.20.1.9"}}, partial...)
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#add-zone-address-err").Length() != 1 {
		t.Errorf("an address of another zone: %d, %q", res.StatusCode, words(d.Find(".err")))
	}
	d := w.moved(t, w.provider, w.press(t, w.provider, page+"/zones/new", "#add-zone", url.Values{"local": {"2"}}))
	rows := d.Find(".aside .tw tbody tr")
	if got := words(rows.Last()); rows.Length() != 2 || !strings.Contains(got, "172.20.2.") || rows.Last().Find(".xs .id, .xs [data-copy]").Length() == 0 {
		t.Errorf("zones %q", got)
	}
	edit := rows.Last().Find(`a[href$="/edit"]`).AttrOr("href", "")
	d = w.moved(t, w.provider, w.press(t, w.provider, edit, "#edit-zone", url.Values{"local": {"0"}}))
	remove := d.Find(`.aside a[href$="/remove"]`).Last().AttrOr("href", "")
	d = w.moved(t, w.provider, w.press(t, w.provider, remove, "#remove-zone", nil))
	if n := d.Find(".aside .tw tbody tr").Length(); n != 1 {
		t.Errorf("%d zones are left", n)
	}
	// Of the one that a service publishes, nothing is taken away.
	page = account(w.Provider) + "/load-balancers/" + w.balancer.ID
	remove = w.page(t, w.provider, page).Find(`.aside a[href$="/remove"]`).First().AttrOr("href", "")
	if res := w.press(t, w.provider, remove, "#remove-zone", nil); res.StatusCode != http.StatusConflict {
		t.Errorf("a zone that a service publishes: %d", res.StatusCode)
	}
}
