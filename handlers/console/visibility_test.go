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

// pages are the pages about what the provider and the consumer have, as paths in
// their accounts.
func (w *linkWorld) pages() (provider, consumer []string) {
	provider = []string{
		"", "/services", "/connections", "/load-balancers", "/catalogue", "/endpoints",
		"/services/" + w.service.ID, "/services/" + w.service.ID + "?tab=resources", "/services/" + w.service.ID + "?tab=whitelist",
		"/services/" + w.service.ID + "?tab=connections", "/services/" + w.service.ID + "?tab=flows", "/services/" + w.service.ID + "?tab=audit",
		"/load-balancers/" + w.balancer.ID, "/connections/" + w.endpoint.ID, "/connections/" + w.endpoint.ID + "/traffic",
	}
	consumer = []string{
		"", "/services", "/connections", "/load-balancers", "/catalogue", "/endpoints",
		"/endpoints/" + w.endpoint.ID, "/endpoints/" + w.endpoint.ID + "?tab=zones", "/endpoints/" + w.endpoint.ID + "?tab=groups",
		"/endpoints/" + w.endpoint.ID + "?tab=flows", "/endpoints/" + w.endpoint.ID + "?tab=audit", "/endpoints/" + w.endpoint.ID + "/traffic",
	}
	return provider, consumer
}

// dialogs are the forms and questions, as paths in the accounts of their owners.
func (w *linkWorld) dialogs(t *testing.T) (provider, consumer []string) {
	t.Helper()
	b, err := w.Provider.LoadBalancer(t.Context(), w.balancer.ID)
	if err != nil {
		t.Fatal(err)
	}
	at, listener := "/load-balancers/"+w.balancer.ID, b.Listeners[0]
	svc := "/services/" + w.service.ID
	provider = []string{
		"/load-balancers/new", at + "/edit", at + "/delete", at + "/add-listener",
		at + "/listeners/" + listener.ID + "/edit", at + "/listeners/" + listener.ID + "/delete", at + "/listeners/" + listener.ID + "/add-target",
		at + "/targets/" + listener.Servers[0].ID + "/weight", at + "/targets/" + listener.Servers[0].ID + "/remove",
		"/services/new", svc + "/edit", svc + "/delete", svc + "/add-resource", svc + "/add-accounts",
		svc + "/remove-resource?" + url.Values{"load_balancer": {w.balancer.ID}, "zone": {b.Zones[0].ZoneID}}.Encode(),
		svc + "/whitelist/" + w.Consumer.Account().ID + "/edit", svc + "/whitelist/" + w.Consumer.Account().ID + "/remove",
		"/connections/" + w.endpoint.ID + "/reject", "/connections/" + w.endpoint.ID + "/terms",
		"/connections/" + w.endpoint.ID + "/zones/" + b.Zones[0].ZoneID + "/reject", "/connections/" + w.endpoint.ID + "/zones/" + b.Zones[0].ZoneID + "/close",
	}
	ep := "/endpoints/" + w.endpoint.ID
	consumer = []string{
		"/endpoints/new", "/endpoints/new?service=" + w.service.ID, ep + "/edit", ep + "/groups", ep + "/add-zone", ep + "/delete",
		ep + "/zones/" + b.Zones[0].ZoneID + "/remove",
	}
	return provider, consumer
}

// Every page and question is there for its owner, and not there in another
// account, whoever asks.
func TestPagesAreTheirAccountsOnly(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	pages := map[*domain.Scope][]string{}
	for _, list := range []func() ([]string, []string){w.pages, func() ([]string, []string) { return w.dialogs(t) }} {
		p, c := list()
		pages[w.Provider] = append(pages[w.Provider], p...)
		pages[w.Consumer] = append(pages[w.Consumer], c...)
	}
	browsers := map[*domain.Scope]*http.Client{w.Provider: w.provider, w.Consumer: w.consumer}
	stranger := w.as(t, w.Stranger, domain.RoleOwner)
	for s, paths := range pages {
		for _, path := range paths {
			if strings.HasSuffix(path, "/traffic") {
				continue // a part of a page
			}
			w.page(t, browsers[s], account(s)+path)
			if res := w.get(t, stranger, account(s)+path); res.StatusCode != http.StatusNotFound {
				t.Errorf("%s for a stranger: got %d, want 404", path, res.StatusCode)
			}
			want := 0 // what everybody has for themselves
			switch {
			case strings.HasPrefix(path, "/endpoints/new?service="):
				want = http.StatusUnprocessableEntity // beside the name that was looked for
			case strings.Contains(path, w.service.ID) || strings.Contains(path, w.balancer.ID) || strings.Contains(path, w.endpoint.ID):
				want = http.StatusNotFound
			}
			if res := w.get(t, stranger, account(w.Stranger)+path); want != 0 && res.StatusCode != want {
				t.Errorf("%s in another account: got %d, want %d", path, res.StatusCode, want)
			}
		}
	}
}

// What one side keeps for itself is in nothing that the other side can read.
func TestTheOtherSideIsNotShown(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	e, err := w.Consumer.Endpoint(t.Context(), w.endpoint.ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.Provider.LoadBalancer(t.Context(), w.balancer.ID)
	if err != nil {
		t.Fatal(err)
	}
	providerOnly := []string{
		w.provide.vpc.ID, "vpc-provider", "172.20.", w.balancer.ID, "nlb-secret", w.provide.attachment.ID, "backend-one", "srv-of-theirs", b.Listeners[0].Servers[0].ID,
		w.Stranger.Account().ID, "owner-of-provider",
	}
	consumerOnly := []string{
		w.consume.vpc.ID, "vpc-consumer", "192.168.", w.consume.attachment.ID, "client-one", "to-payments", e.Groups[0].ID, e.Groups[0].Name, e.Zones[0].ENIID, "sgr-x",
		w.Stranger.Account().ID,
	}
	w.flows(t)
	if _, _, err := w.Provider.AddToWhitelist(t.Context(), w.service.ID, w.Stranger.Account().ID, false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Provider.RejectConnection(t.Context(), w.endpoint.ID, domain.RejectInput{Message: "No."}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Provider.UndoDecision(t.Context(), w.endpoint.ID, 0); err != nil {
		t.Fatal(err)
	}
	w.follow(t)

	look := func(where, body string, secrets []string) {
		for _, s := range secrets {
			if i := strings.Index(body, s); i >= 0 {
				t.Errorf("%s has %q: …%s…", where, s, body[max(i-60, 0):min(i+60, len(body))])
			}
		}
	}
	providerPages, consumerPages := w.pages()
	_, consumerForms := w.dialogs(t)
	for _, path := range append(consumerPages, append(consumerForms, "/audit", "/audit.csv", "/endpoints/"+w.endpoint.ID+"/flows.jsonl")...) {
		for _, header := range [][]string{nil, partial} {
			look(path, w.get(t, w.consumer, account(w.Consumer)+path, header...).body, providerOnly)
		}
	}
	// The consumer's account has the stranger's id nowhere; the provider whitelisted it.
	for _, path := range append(providerPages, "/connections/"+w.endpoint.ID+"/reject", "/audit", "/audit.csv", "/services/"+w.service.ID+"/flows.jsonl") {
		for _, header := range [][]string{nil, partial} {
			look(path, w.get(t, w.provider, account(w.Provider)+path, header...).body, consumerOnly[:len(consumerOnly)-1])
		}
	}
	for _, x := range []struct {
		s       *domain.Scope
		secrets []string
		views   map[string]liveView
	}{
		{w.Consumer, providerOnly, map[string]liveView{w.endpoint.ID: w.console.endpointChanged, w.service.ID: w.console.serviceChanged, w.balancer.ID: w.console.balancerChanged}},
		{w.Provider, consumerOnly[:len(consumerOnly)-1], map[string]liveView{w.endpoint.ID: w.console.connectionChanged, w.service.ID: w.console.serviceChanged}},
	} {
		for id, view := range x.views {
			c, err := view(t.Context(), x.s, id)
			if domain.KindOf(err) == domain.NotFound {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			if err := c.Render(context.Background(), &out); err != nil {
				t.Fatal(err)
			}
			look("the stream about "+id, strings.ReplaceAll(out.String(), id, ""), x.secrets)
		}
	}
}

// An auditor reads everything, finds nothing to write with, and is refused by name
// when they try.
func TestAuditorFindsNothingToWriteWith(t *testing.T) {
	w := newLinkWorld(t)
	providerPages, consumerPages := w.pages()
	browsers := map[*domain.Scope]*http.Client{}
	for s, paths := range map[*domain.Scope][]string{w.Provider: providerPages, w.Consumer: consumerPages} {
		b := w.as(t, s, domain.RoleAuditor)
		browsers[s] = b
		for _, path := range paths {
			if strings.HasSuffix(path, "/traffic") {
				continue
			}
			main := w.page(t, b, account(s)+path).Find("#main")
			if n := main.Find("form[method=post]").Length(); n != 0 {
				t.Errorf("%s has %d forms", path, n)
			}
			main.Find("a[href]").Each(func(_ int, a *goquery.Selection) {
				href, _, _ := strings.Cut(a.AttrOr("href", ""), "?")
				for _, verb := range []string{"/new", "/edit", "/delete", "/add-", "/remove", "/reject", "/terms", "/replace", "/close", "/weight", "/groups"} {
					if strings.Contains(href, verb) && !strings.HasSuffix(href, "/security-groups") && !strings.Contains(href, "/security-groups/") {
						t.Errorf("%s leads to %s", path, href)
					}
				}
			})
		}
	}
	auditor := browsers[w.Provider]
	res := w.post(t, auditor, account(w.Provider)+"/connections/"+w.endpoint.ID+"/accept", url.Values{"account": {w.Provider.Account().ID}})
	if res.StatusCode != http.StatusForbidden || !strings.Contains(words(res.doc(t).Find("[data-testid=failure]")), "provide:write") {
		t.Errorf("got %d: %s", res.StatusCode, words(res.doc(t).Find("[data-testid=failure]")))
	}
	for _, path := range []string{"/services/new", "/load-balancers/new", "/services/" + w.service.ID + "/edit", "/connections/" + w.endpoint.ID + "/reject"} {
		if res := w.get(t, auditor, account(w.Provider)+path); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: got %d", path, res.StatusCode)
		}
	}
}
