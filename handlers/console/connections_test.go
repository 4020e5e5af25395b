package console

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/openprivatelink/openprivatelink/domain"
)

// partials are the targets of an answer to htmx.
func partials(d *goquery.Document) []string {
	var out []string
	for _, p := range d.Find("hx-partial").EachIter() {
		out = append(out, p.AttrOr("hx-target", ""))
	}
	return out
}

// rowIn is a table row of an answer to htmx. (Outside of a table the parser for
// pages drops it; htmx parses partials by themselves.)
func rowIn(t *testing.T, body, id string) *goquery.Selection {
	t.Helper()
	_, row, ok := strings.Cut(body, `<tr id="`+id+`"`)
	row, _, closed := strings.Cut(row, "</tr>")
	if !ok || !closed {
		t.Fatalf("no row %s in %s", id, body)
	}
	d, err := goquery.NewDocumentFromReader(strings.NewReader("<table><tr" + row + "</tr></table>"))
	if err != nil {
		t.Fatal(err)
	}
	return d.Find("tr")
}

func TestAcceptWithScript(t *testing.T) {
	w := newLinkWorld(t)
	inbox := account(w.Provider) + "/connections"
	row := "#connection-" + w.endpoint.ID

	res := w.press(t, w.provider, inbox, row+` form[action$="/accept"]`, nil, partial...)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("got %d", res.StatusCode)
	}
	d := res.doc(t)
	got := strings.Join(partials(d), " ")
	for _, want := range []string{row, "#badge", "#bell", "#toasts"} {
		if !strings.Contains(got, want) {
			t.Errorf("the answer patches %s, not %s", got, want)
		}
	}
	patched := rowIn(t, res.body, row[1:])
	if got := words(patched.Find("[data-testid=status]")); got != "Connecting" {
		t.Errorf("row says %q", got)
	}
	if patched.Find(`form[action$="/accept"]`).Length() != 0 {
		t.Error("the row still offers Accept")
	}
	toast := d.Find("[data-testid=toast]")
	if got := words(toast.Find("b")); got != "consumer is being connected." {
		t.Errorf("toast says %q", got)
	}
	action, values := filled(t, d, "[data-testid=toast] form")
	if res := w.post(t, w.provider, action, values, partial...); res.StatusCode != http.StatusOK {
		t.Fatalf("undo: %d", res.StatusCode)
	}
	c, err := w.Provider.Connection(t.Context(), w.endpoint.ID)
	if err != nil || c.Decision != domain.Waiting {
		t.Errorf("after the undo it is %s (%v)", c.Decision, err)
	}
}

func TestAcceptWithoutScript(t *testing.T) {
	w := newLinkWorld(t)
	inbox := account(w.Provider) + "/connections?decision=waiting"
	res := w.press(t, w.provider, inbox, `tr form[action$="/accept"]`, nil)
	if to := res.Header.Get("Location"); !strings.HasPrefix(to, inbox+"&flash=") {
		t.Errorf("leads to %q, not back to the list", to)
	}
	d := w.moved(t, w.provider, res)
	if got := words(d.Find("[data-testid=flash] b")); got != "consumer is being connected." {
		t.Errorf("the page says %q", got)
	}
	action, values := filled(t, d, "[data-testid=flash] form")
	d = w.moved(t, w.provider, w.post(t, w.provider, action, values))
	if got := words(d.Find("[data-testid=flash] b")); !strings.Contains(got, "waiting again") {
		t.Errorf("after the undo the page says %q", got)
	}
	// A form of before is out of date.
	if res := w.post(t, w.provider, action, values); res.StatusCode != http.StatusConflict {
		t.Errorf("undone twice: %d", res.StatusCode)
	}
}

// One click on the overview accepts.
func TestAcceptFromTheOverview(t *testing.T) {
	w := newLinkWorld(t)
	d := w.moved(t, w.provider, w.press(t, w.provider, account(w.Provider), `[data-testid=ask] form[action$="/accept"]`, nil))
	if n := d.Find("[data-testid=ask]").Length(); n != 0 {
		t.Errorf("%d requests still wait on the overview", n)
	}
	w.follow(t)
	got := words(w.page(t, w.consumer, account(w.Consumer)+"/endpoints/"+w.endpoint.ID).Find(".head [data-testid=status]"))
	if got != "Connected" {
		t.Errorf("the consumer reads %q", got)
	}
}

func TestDecisionWithTerms(t *testing.T) {
	w := newLinkWorld(t)
	page := account(w.Provider) + "/connections/" + w.endpoint.ID
	d := w.page(t, w.provider, page)
	if got := words(d.Find("h1")); got != "consumer wants to connect" {
		t.Errorf("title %q", got)
	}
	if got := d.Find(".checks li").Length(); got != 5 {
		t.Errorf("%d checks", got)
	}
	if got := words(d.Find(".tl")); !strings.Contains(got, "“Checkout goes live Monday.”") {
		t.Errorf("the history says %q", got)
	}

	bad := url.Values{"traffic_mode": {"BandwidthLimit"}, "bandwidth": {"12 cows"}, "message": {"Welcome"}, "expires_at": {"2020-01-01T10:00"}}
	res := w.press(t, w.provider, page, "#decision", bad)
	if res.StatusCode != http.StatusUnprocessableEntity {
		t.Fatalf("got %d, want 422", res.StatusCode)
	}
	d = res.doc(t)
	if got := d.Find("#decision-bandwidth").AttrOr("value", ""); got != "12 cows" {
		t.Errorf("the bandwidth that was typed is now %q", got)
	}
	if got := d.Find("#decision-message").Text(); got != "Welcome" {
		t.Errorf("the note that was typed is now %q", got)
	}
	if d.Find("#decision-bandwidth-err").Length() != 1 || d.Find("h1").Length() != 1 {
		t.Error("no message beside the bandwidth, or no page around it")
	}
	res = w.press(t, w.provider, page, "#decision", url.Values{"traffic_mode": {"BandwidthLimit"}, "bandwidth": {"200"}, "expires_at": {"2020-01-01T10:00"}}, partial...)
	d = res.doc(t)
	if res.StatusCode != http.StatusUnprocessableEntity || d.Find("form#decision").Length() != 1 || d.Find("h1").Length() != 0 {
		t.Errorf("htmx got %d, with a page: %v", res.StatusCode, d.Find("h1").Length() > 0)
	}
	if got := words(d.Find("#decision-expires_at-err")); got != "This moment is past." {
		t.Errorf("beside the end: %q", got)
	}

	good := url.Values{"traffic_mode": {"BandwidthLimit"}, "bandwidth": {"1,024"}, "max_connections": {"9"}, "expiry_drain": {"30"}, "message": {"Welcome"}, "expires_at": {"2030-01-01T10:00"}, "auto_accept_account": {"on"}}
	w.moved(t, w.provider, w.press(t, w.provider, page, "#decision", good))
	c, err := w.Provider.Connection(t.Context(), w.endpoint.ID)
	if err != nil {
		t.Fatal(err)
	}
	if c.Bandwidth != 1024 || c.MaxConnections != 9 || c.ExpiryDrain != 30 || c.DecisionMessage != "Welcome" || c.ExpiresAt == nil || c.ExpiresAt.Format("2006-01-02 15:04") != "2030-01-01 10:00" {
		t.Errorf("accepted with %+v", c.Connection)
	}
	o, err := w.Consumer.FindService(t.Context(), w.service.ID)
	if err != nil || !o.AutoAccept {
		t.Errorf("later requests are not accepted by themselves (%v)", err)
	}
}

func TestRejectConnectedAsksFirst(t *testing.T) {
	w := newLinkWorld(t)
	if _, err := w.Provider.AcceptConnection(t.Context(), w.endpoint.ID, domain.AcceptInput{}); err != nil {
		t.Fatal(err)
	}
	w.follow(t)
	w.plane.counters = domain.Counters{Active: 214, In: 1 << 20, Out: 63 << 20}
	page := account(w.Provider) + "/connections/" + w.endpoint.ID
	row := w.page(t, w.provider, account(w.Provider)+"/connections").Find("#connection-" + w.endpoint.ID)
	if got := row.Find("a[hx-get]").AttrOr("hx-get", ""); got != page+"/reject" || row.Find("form").Length() != 0 {
		t.Errorf("the row rejects at once; its question is at %q", got)
	}
	d := w.page(t, w.provider, page+"/reject")
	if got := words(d.Find("form#reject dl")); !strings.Contains(got, "214 open flows") || !strings.Contains(got, "1 MiB from it, 63 MiB to it") || !strings.Contains(got, w.Consumer.Account().ID) || !strings.Contains(got, w.endpoint.ID) {
		t.Errorf("the question says %q", got)
	}
	part := w.get(t, w.provider, page+"/reject", partial...).doc(t)
	if part.Find("form#reject").Length() != 1 || part.Find("h1").Length() != 0 {
		t.Error("htmx does not get the question alone")
	}
	// On the question's own page there is nothing to patch: script goes back, too.
	alone := append([]string{"HX-Current-URL", w.URL + page + "/reject"}, partial...)
	res := w.press(t, w.provider, page+"/reject", "#reject", url.Values{"message": {"Contract ended."}}, alone...)
	if to := res.Header.Get("HX-Location"); !strings.HasPrefix(to, page+"?flash=") {
		t.Errorf("script is led to %q", to)
	}
	w.follow(t)
	d = w.page(t, w.consumer, account(w.Consumer)+"/endpoints/"+w.endpoint.ID)
	if got := words(d.Find(".head [data-testid=status]")); got != "Rejected" {
		t.Errorf("the consumer reads %q", got)
	}
	if !strings.Contains(words(d.Find(".banner")), "provider says: “Contract ended.”") {
		t.Errorf("the consumer reads %q", words(d.Find(".banner")))
	}
	if got := d.Find(".head [data-testid=status]").AttrOr("title", ""); got != "ConnectionStatus: Disconnected" {
		t.Errorf("the API's word is %q", got)
	}
}

func TestInboxViewsAndFilters(t *testing.T) {
	w := newLinkWorld(t)
	inbox := account(w.Provider) + "/connections"
	d := w.page(t, w.provider, inbox)
	if got := strings.Join(d.Find(".views a").Map(func(_ int, a *goquery.Selection) string { return words(a) }), ", "); got != "Waiting 1, Connected 0, Rejected 0, Expired 0, All 1" {
		t.Errorf("views: %q", got)
	}
	for query, want := range map[string]int{
		"": 1, "?decision=waiting": 1, "?decision=rejected": 0, "?q=consumer": 1, "?q=" + w.endpoint.ID: 1, "?q=nobody": 0,
		"?service=" + w.service.ID: 1, "?service=epsrv-none": 0, "?decision=waiting&q=" + w.Consumer.Account().ID: 1,
	} {
		d := w.page(t, w.provider, inbox+query)
		if got := d.Find("[data-testid=connection]").Length(); got != want {
			t.Errorf("%s: %d rows, want %d", query, got, want)
		}
	}
	if got := words(w.page(t, w.provider, inbox+"?q=nobody").Find(".empty")); !strings.Contains(got, "Clear filters") {
		t.Errorf("no match says %q", got)
	}
	if got := words(w.page(t, w.provider, inbox+"?decision=rejected").Find(".empty")); !strings.Contains(got, "No connection is rejected") {
		t.Errorf("an empty view says %q", got)
	}
}

// A row that the stream sends is made for its reader.
func TestConnectionRowIsForItsReader(t *testing.T) {
	w := newLinkWorld(t)
	render := func(s *domain.Scope) string {
		t.Helper()
		c, err := w.console.connectionChanged(t.Context(), s, w.endpoint.ID)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := c.Render(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := render(w.Provider); !strings.Contains(got, "/accept") {
		t.Error("the owner's row has no Accept")
	}
	if got := render(w.As(w.Provider.Account().ID, domain.RoleAuditor)); strings.Contains(got, "<form") || !strings.Contains(got, w.endpoint.ID) {
		t.Error("the auditor's row has a form")
	}
	if got := render(w.Stranger); strings.Contains(got, "consumer") {
		t.Errorf("a stranger's stream says %s", got)
	}
}
