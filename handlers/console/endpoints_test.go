package console

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// Connect, Create: everything is chosen that can be.
func TestCreateEndpointInTwoClicks(t *testing.T) {
	w := newLinkWorld(t)
	catalogue := w.page(t, w.consumer, account(w.Consumer)+"/catalogue")
	row := catalogue.Find("[data-testid=offering]")
	if got := words(row); !strings.Contains(got, "payments") || !strings.Contains(got, "provider") {
		t.Errorf("the catalogue says %q", got)
	}
	form := row.Find("td.acts a").AttrOr("href", "")
	d := w.page(t, w.consumer, form)
	if got := words(d.Find("[data-testid=verified] [data-testid=status]")); got != "Service verified" {
		t.Errorf("the service is %q", got)
	}
	if got := words(d.Find("#endpoint-group .choice").First()); !strings.Contains(got, "allow TCP 80 from 192.168.0.0/16") {
		t.Errorf("the suggested group is %q", got)
	}
	d = w.moved(t, w.consumer, w.press(t, w.consumer, form, "#endpoint", nil))
	if n := d.Find("[data-testid=address]").Length(); n != 2 {
		t.Errorf("%d addresses", n)
	}
	steps := strings.Join(d.Find(".strip li").Map(func(_ int, li *goquery.Selection) string { return words(li) }), " → ")
	if steps != "Requested → Waiting for approval → Connecting → Connected" {
		t.Errorf("steps %s", steps)
	}
}

func TestCreateEndpointByName(t *testing.T) {
	w := newLinkWorld(t)
	path := account(w.Consumer) + "/endpoints/new"
	for _, name := range []string{w.service.ServiceName(), w.service.ID} {
		d := w.page(t, w.consumer, path+"?service="+url.QueryEscape(name))
		if d.Find("#endpoint").Length() != 1 {
			t.Errorf("%s finds no service", name)
		}
	}
	// Unknown, foreign and not whitelisted are one answer.
	hidden, err := w.Provider.CreateService(t.Context(), domain.ServiceInput{Name: "hidden", LoadBalancerIDs: []string{w.balancer.ID}})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, name := range []string{hidden.ServiceName(), "epsrv-aaaaaaaaaaaaaaaaaaaa", "<b>"} {
		res := w.get(t, w.consumer, path+"?service="+url.QueryEscape(name))
		d := res.doc(t)
		if res.StatusCode != http.StatusUnprocessableEntity || d.Find("#find-service-service").AttrOr("value", "") != name {
			t.Errorf("%s: %d, and %q is left", name, res.StatusCode, d.Find("#find-service-service").AttrOr("value", ""))
		}
		said = append(said, words(d.Find("#find-service-service-err")))
	}
	if said[0] == "" || said[0] != said[1] || said[1] != said[2] {
		t.Errorf("the answers differ: %q", said)
	}
}

func TestEndpointFormKeepsWhatWasTyped(t *testing.T) {
	w := newLinkWorld(t)
	path := account(w.Consumer) + "/endpoints/new?service=" + w.service.ID
	typed := url.Values{"zones.0.zone_id": nil, "zones.1.address": {"192.168.1.77"}, "message": {"Please"}, "name": {"9lives"}}
	for _, header := range [][]string{nil, partial} {
		res := w.press(t, w.consumer, path, "#endpoint", typed, header...)
		if res.StatusCode != http.StatusUnprocessableEntity {
			t.Fatalf("got %d", res.StatusCode)
		}
		d := res.doc(t)
		_, kept := filled(t, d, "#endpoint")
		if kept.Get("zones.1.address") != "192.168.1.77" || kept.Get("message") != "Please" || kept.Get("name") != "9lives" || kept.Has("zones.0.zone_id") {
			t.Errorf("left: %v", kept)
		}
		if d.Find("#endpoint-name-err").Length() != 1 {
			t.Errorf("nothing beside the name: %s", words(d.Find(".summary")))
		}
	}
	typed.Set("name", "")
	d := w.press(t, w.consumer, path, "#endpoint", typed).doc(t)
	if got := words(d.Find(`[id="endpoint-zones.1.address-err"]`)); got == "" {
		t.Errorf("nothing beside the address of the only ticked zone: %s", words(d.Find(".summary")))
	}
	d = w.press(t, w.consumer, path, "#endpoint", url.Values{"zones.0.zone_id": nil, "zones.1.zone_id": nil}).doc(t)
	if d.Find("#endpoint-zones-err").Length() != 1 {
		t.Errorf("no zone at all: %s", words(d.Find(".summary")))
	}
}

func TestEndpointOfAnAccountWithoutVPC(t *testing.T) {
	w := newLinkWorld(t)
	if _, _, err := w.Provider.AddToWhitelist(t.Context(), w.service.ID, w.Stranger.Account().ID, false); err != nil {
		t.Fatal(err)
	}
	b := w.as(t, w.Stranger, domain.RoleOwner)
	d := w.page(t, b, account(w.Stranger)+"/endpoints/new?service="+w.service.ID)
	if got := d.Find("#endpoint .banner a").AttrOr("href", ""); got != account(w.Stranger)+"/vpcs/new" {
		t.Errorf("the way out leads to %q", got)
	}
	if _, disabled := d.Find("#endpoint .btn.primary").Attr("disabled"); !disabled {
		t.Error("the form can be sent")
	}
}

func (w *linkWorld) connect(t *testing.T) {
	t.Helper()
	if _, err := w.Provider.AcceptConnection(t.Context(), w.endpoint.ID, domain.AcceptInput{}); err != nil {
		t.Fatal(err)
	}
	w.follow(t)
}

func TestTestIt(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	page := account(w.Consumer) + "/endpoints/" + w.endpoint.ID
	w.plane.probe = domain.ProbeResult{
		OK: true, Status: 200, Source: netip.MustParseAddr("192.168.1.50"), Connect: 1200 * time.Microsecond, Total: 3400 * time.Microsecond,
		Command: "curl -sS http://192.168.1.3/", Output: "hello <b>from</b> pay-2\n",
	}
	for _, header := range [][]string{nil, partial} {
		res := w.press(t, w.consumer, page, "#test", nil, header...)
		if res.StatusCode != http.StatusOK {
			t.Fatalf("got %d", res.StatusCode)
		}
		d := res.doc(t)
		got := words(d.Find("[data-testid=test-result]"))
		for _, want := range []string{"HTTP 200", "from client-one", "connected in 1.2 ms, done in 3.4 ms", "saw 192.168.1.50 as the source", "hello <b>from</b> pay-2"} {
			if !strings.Contains(strings.ToLower(got), strings.ToLower(want)) {
				t.Errorf("it says %q, not %s", got, want)
			}
		}
		if (d.Find("h1").Length() == 1) != (header == nil) {
			t.Error("a page for htmx, or none for a browser")
		}
	}
	if w.plane.asked.attachment != w.consume.attachment.ID || !w.plane.asked.http || w.plane.asked.target.Port() != 80 {
		t.Errorf("asked %+v", w.plane.asked)
	}

	// Refused by a rule: which one, and where it is edited.
	e, err := w.Consumer.Endpoint(t.Context(), w.endpoint.ID)
	if err != nil {
		t.Fatal(err)
	}
	group := e.Groups[0]
	w.plane.probe = domain.ProbeResult{Error: "timed out"}
	w.plane.Recorded = domaintest.Recorded{{
		Seq: 1, EndpointID: e.ID, Start: w.Clock.Now(), End: w.Clock.Now(), Source: netip.AddrPortFrom(netip.MustParseAddr(w.consume.attachment.Address), 40000),
		Address: w.plane.asked.target, ZoneID: e.Zones[0].ZoneID, Reason: domain.FlowDenied, Rule: "sgr-x", Group: group.ID,
	}}
	d := w.press(t, w.consumer, page, "#test", nil).doc(t)
	banner := d.Find("[data-testid=test-result] .banner")
	if got := words(banner); !strings.Contains(got, "Refused (no answer) by rule sgr-x of group "+group.Name) {
		t.Errorf("it says %q", got)
	}
	if got := banner.Find("a").AttrOr("href", ""); got != account(w.Consumer)+"/security-groups/"+group.ID+"?edit=sgr-x" {
		t.Errorf("the rule is edited at %q", got)
	}
	d = w.page(t, w.consumer, page+"?tab=flows")
	if got := words(d.Find("[data-testid=flow]")); !strings.Contains(got, "Refused") || !strings.Contains(got, "rule sgr-x") {
		t.Errorf("the flow says %q", got)
	}
	res := w.press(t, w.consumer, page, "#test", url.Values{"attachment_id": {w.provide.attachment.ID}}, partial...)
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#test-attachment_id-err").Length() != 1 {
		t.Errorf("an attachment of another account: %d", res.StatusCode)
	}
}

func TestEndpointPage(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	w.plane.counters = domain.Counters{Active: 3, Flows: 1204, Out: 64 << 20}
	page := account(w.Consumer) + "/endpoints/" + w.endpoint.ID
	d := w.page(t, w.consumer, page)
	if got := words(d.Find(".code pre")); !strings.HasPrefix(got, "curl -sS http://192.168.1.") {
		t.Errorf("to copy: %q", got)
	}
	traffic := d.Find("#endpoint-" + w.endpoint.ID + "-traffic")
	if got := words(traffic); !strings.Contains(got, "1,204") || !strings.Contains(got, "64 MiB") {
		t.Errorf("traffic %q", got)
	}
	part := w.get(t, w.consumer, traffic.AttrOr("hx-get", ""), partial...).doc(t)
	if part.Find("#endpoint-"+w.endpoint.ID+"-traffic").Length() != 1 || part.Find("h1").Length() != 0 {
		t.Error("the counters cannot be fetched alone")
	}

	edit := page + "/edit"
	d = w.moved(t, w.consumer, w.press(t, w.consumer, edit, "#edit-endpoint", url.Values{"name": {"payments-eu"}, "description": {"For the shop"}}))
	if got := words(d.Find("h1")); got != "payments-eu" {
		t.Errorf("name %q", got)
	}
	other, err := w.Consumer.CreateGroup(t.Context(), domain.GroupInput{VPCID: w.consume.vpc.ID, Name: "sg-other"})
	if err != nil {
		t.Fatal(err)
	}
	res := w.press(t, w.consumer, page+"/groups", "#endpoint-groups", url.Values{"group_ids": nil})
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#endpoint-groups-group_ids-err").Length() != 1 {
		t.Errorf("no group at all: %d", res.StatusCode)
	}
	d = w.moved(t, w.consumer, w.press(t, w.consumer, page+"/groups", "#endpoint-groups", url.Values{"group_ids": {other.ID}}))
	if got := words(d.Find(".tw .nm")); got != "sg-other" {
		t.Errorf("groups %q", got)
	}
	if got := words(d.Find("main")); !strings.Contains(got, "until they end by themselves") {
		t.Errorf("open flows: %q", got)
	}
	d = w.moved(t, w.consumer, w.press(t, w.consumer, page+"/groups", "#endpoint-groups", url.Values{"change": {"recheck"}}))
	if got := words(d.Find("main")); words(d.Find(".tw .nm")) != "sg-other" || !strings.Contains(got, "judged again") {
		t.Errorf("open flows: %q", got)
	}
	if _, v := filled(t, w.page(t, w.consumer, page+"/groups"), "#endpoint-groups"); v.Get("change") != "recheck" {
		t.Errorf("the form begins with %q", v.Get("change"))
	}
	zone := w.page(t, w.consumer, page+"?tab=zones").Find("[data-testid=endpoint-zone] a").First().AttrOr("href", "")
	w.moved(t, w.consumer, w.press(t, w.consumer, zone, "#remove-zone", nil))
	w.follow(t)
	d = w.page(t, w.consumer, page+"?tab=zones")
	if n := d.Find("[data-testid=endpoint-zone]").Length(); n != 1 {
		t.Errorf("%d zones", n)
	}
	add := d.Find(`a[href$="/add-zone"]`).AttrOr("href", "")
	res = w.press(t, w.consumer, add, "#add-zone", url.Values{"address": {"192.168.9.9"}}, partial...)
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#add-zone-address-err").Length() != 1 {
		t.Errorf("an address elsewhere: %d", res.StatusCode)
	}
	d = w.moved(t, w.consumer, w.press(t, w.consumer, add, "#add-zone", nil))
	if n := d.Find("[data-testid=endpoint-zone]").Length(); n != 2 {
		t.Errorf("%d zones", n)
	}
	if got := words(w.page(t, w.consumer, page+"/delete").Find("#delete-endpoint [data-testid=cut-flows]")); got != "3 flows are" {
		t.Errorf("the question says %q", got)
	}
	w.moved(t, w.consumer, w.press(t, w.consumer, page+"/delete", "#delete-endpoint", nil))
	w.follow(t)
	if n := w.page(t, w.consumer, account(w.Consumer)+"/endpoints").Find("[data-testid=endpoint]").Length(); n != 0 {
		t.Errorf("%d endpoints are left", n)
	}
}

func TestEndpointList(t *testing.T) {
	w := newLinkWorld(t)
	list := account(w.Consumer) + "/endpoints"
	row := w.page(t, w.consumer, list).Find("#endpoint-" + w.endpoint.ID)
	if got := words(row.Find("[data-label=State]")); got != "Waiting for approval" {
		t.Errorf("state %q", got)
	}
	if got := row.Find("[data-label=Addresses] .id").Length(); got != 2 {
		t.Errorf("%d addresses", got)
	}
	if got := w.page(t, w.consumer, list+"?service="+w.service.ID).Find("[data-testid=endpoint]").Length(); got != 1 {
		t.Errorf("%d endpoints of the service", got)
	}
	if got := words(w.page(t, w.consumer, list+"?q=nothing").Find(".empty")); !strings.Contains(got, "Clear filters") {
		t.Errorf("no match says %q", got)
	}
}
