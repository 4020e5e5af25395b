package console

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"

	"github.com/openprivatelink/openprivatelink/domain"
)

// flows are 60 flows of the endpoint, a second apart, the last one a window of a
// flow that goes on; every third is refused by a rule.
func (w *linkWorld) flows(t *testing.T) *domain.EndpointDetail {
	t.Helper()
	e, err := w.Consumer.Endpoint(t.Context(), w.endpoint.ID)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		r := domain.FlowRecord{
			Seq: uint64(i + 1), Protocol: "tcp", EndpointID: e.ID, ServiceID: w.service.ID, ZoneID: e.Zones[0].ZoneID,
			Start: time.Now().Add(time.Duration(i-61) * time.Second), End: time.Now().Add(time.Duration(i-60) * time.Second),
			In: 1 << 10, Out: 1 << 20, Accepted: true, Reason: "closed", Source: netip.MustParseAddrPort("192.168.1.50:40000"),
			Address: netip.AddrPortFrom(netip.MustParseAddr(e.Zones[0].Address), 80), Group: e.Groups[0].ID, Rule: "sgr-x",
			LoadBalancerID: w.balancer.ID, ServerID: "srv-of-theirs", Local: netip.MustParseAddrPort("172.20.1.2:50000"), Target: netip.MustParseAddrPort("172.20.1.9:8080"),
		}
		if i%3 == 0 {
			r.Accepted, r.Reason = false, domain.FlowDenied
		}
		if i == 59 {
			r.Accepted, r.Reason, r.Window = true, "open", true
		}
		w.plane.Recorded = append(w.plane.Recorded, r)
	}
	return e
}

func TestFlowPagesOfBothSides(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	e := w.flows(t)
	rows := func(d *goquery.Document) *goquery.Selection { return d.Find("[data-testid=flow]") }
	page := account(w.Consumer) + "/endpoints/" + e.ID

	d := w.page(t, w.consumer, page+"?tab=flows")
	if n := rows(d).Length(); n != pageSize {
		t.Fatalf("%d rows, want a page", n)
	}
	first := words(rows(d).First())
	for _, want := range []string{"192.168.1.50:40000", e.Zones[0].Address + ":80", "Goes on", "1 KiB", "1 MiB", "1.0 s"} {
		if !strings.Contains(first, want) {
			t.Errorf("the newest says %q, not %q", first, want)
		}
	}
	if got := rows(d).Eq(2).Find("a").AttrOr("href", ""); got != account(w.Consumer)+"/security-groups/"+e.Groups[0].ID+"?edit=sgr-x" {
		t.Errorf("the rule leads to %q", got)
	}
	seen := map[string]bool{}
	for next := page + "?tab=flows"; next != ""; {
		d = w.page(t, w.consumer, next)
		rows(d).Each(func(_ int, r *goquery.Selection) { seen[r.AttrOr("id", "")] = true })
		next = d.Find("a[aria-label='Next page']").AttrOr("href", "")
	}
	if len(seen) != 60 {
		t.Errorf("all pages show %d flows, want 60", len(seen))
	}
	for query, want := range map[string]int{
		"action=reject": 20, "reason=closed": 25, "q=192.168.": 25, "q=172.20.": 0, "within=30s": 25, "within=10s&action=reject": 3, "q=10.0.0.0/8": 0,
	} {
		d := w.page(t, w.consumer, page+"?tab=flows&"+query)
		if n := rows(d).Length(); n != want {
			t.Errorf("%s: %d rows, want %d", query, n, want)
		}
		part := w.get(t, w.consumer, page+"?tab=flows&"+query, append([]string{"HX-Target", "div#flows-results"}, partial...)...).doc(t)
		if part.Find("#flows-results").Length() != 1 || part.Find("h1").Length() != 0 || rows(part).Length() != want {
			t.Errorf("%s: htmx got no list", query)
		}
	}
	if res := w.get(t, w.consumer, page+"?tab=flows&q=nonsense"); res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("nonsense: %d", res.StatusCode)
	}

	d = w.page(t, w.provider, account(w.Provider)+"/services/"+w.service.ID+"?tab=flows")
	first = words(rows(d).First())
	for _, want := range []string{e.ID, w.Consumer.Account().Name, "172.20.1.2:50000", "172.20.1.9:8080"} {
		if !strings.Contains(first, want) {
			t.Errorf("the provider reads %q, not %q", first, want)
		}
	}
	if strings.Contains(words(rows(d)), "192.168.") || strings.Contains(words(rows(d)), "Refused") {
		t.Errorf("the provider reads %q", words(rows(d)))
	}
	d = w.page(t, w.provider, account(w.Provider)+"/services/"+w.service.ID+"?tab=flows&endpoint=ep-other")
	if rows(d).Length() != 0 {
		t.Error("flows of another connection")
	}
}

func TestFlowExport(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	e := w.flows(t)
	at := account(w.Consumer) + "/endpoints/" + e.ID
	href, err := url.Parse(w.page(t, w.consumer, at+"?tab=flows&action=reject").Find("a[href*='flows.jsonl']").AttrOr("href", ""))
	if err != nil || href.Query().Get("action") != "reject" {
		t.Fatalf("the export is at %v, %v", href, err)
	}
	read := func(b *http.Client, path string) (lines []domain.FlowLine) {
		res := w.get(t, b, path)
		if got := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || got != "application/x-ndjson" {
			t.Fatalf("%s: %d of type %s", path, res.StatusCode, got)
		}
		for text := range strings.Lines(res.body) {
			var l domain.FlowLine
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			lines = append(lines, l)
		}
		return lines
	}
	lines := read(w.consumer, href.String())
	if len(lines) != 20 || lines[0].Action != "REJECT" || lines[0].Record != "1" || lines[19].Record != "58" {
		t.Errorf("%d lines, the first %+v", len(lines), lines[0])
	}
	if lines = read(w.consumer, at+"/flows.jsonl"); len(lines) != 20+40*2 {
		t.Errorf("%d lines of everything", len(lines))
	}
	if lines = read(w.consumer, at+"/flows.jsonl?q=10.0.0.1"); len(lines) != 0 {
		t.Errorf("%d lines of nobody", len(lines))
	}
	theirs := account(w.Provider) + "/services/" + w.service.ID + "/flows.jsonl"
	if lines = read(w.provider, theirs); len(lines) != 40*2 || lines[0].Source != "172.20.1.2" {
		t.Errorf("%d lines, the first %+v", len(lines), lines[0])
	}
	if body := w.get(t, w.provider, theirs).body; strings.Contains(body, "192.168.") || strings.Contains(body, e.Groups[0].ID) {
		t.Error("the provider's export has the consumer's half")
	}

	// Neither is anybody else's.
	stranger := w.as(t, w.Stranger, domain.RoleOwner)
	for _, path := range []string{at + "/flows.jsonl", theirs, account(w.Stranger) + "/endpoints/" + e.ID + "/flows.jsonl", account(w.Stranger) + "/services/" + w.service.ID + "/flows.jsonl"} {
		if res := w.get(t, stranger, path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s for a stranger: %d", path, res.StatusCode)
		}
	}
	if res := w.get(t, w.consumer, account(w.Consumer)+"/services/"+w.service.ID+"/flows.jsonl"); res.StatusCode != http.StatusNotFound {
		t.Errorf("the service's for the consumer: %d", res.StatusCode)
	}
	if res := w.get(t, w.consumer, at+"/flows.jsonl?action=maybe"); res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("a wrong filter: %d", res.StatusCode)
	}
}

func TestWholeRange(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "10": "10.0.0.0/8", "10.": "10.0.0.0/8", "10.0.1": "10.0.1.0/24", "10.0.1.": "10.0.1.0/24", "10.0.1.7": "10.0.1.7",
		"10.0.1.7/": "10.0.1.7", "10.0.0.0/16": "10.0.0.0/16", "fd00::1": "fd00::1", "300": "300", "x": "x",
	} {
		if got := wholeRange(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
