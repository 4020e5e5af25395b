package console

import (
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// operator is a browser of somebody who runs the installation and is in no
// account.
func (w *linkWorld) operator(t *testing.T) *http.Client {
	t.Helper()
	if _, err := w.Operator.CreateUser(t.Context(), domain.UserInput{Name: "olga", Operator: true}); err != nil {
		t.Fatal(err)
	}
	link, err := w.Operator.SignInLink(t.Context(), "olga")
	if err != nil {
		t.Fatal(err)
	}
	b := w.browser(t)
	w.get(t, b, "/welcome?t="+link)
	return b
}

// adminPaths are the pages for operators.
func (w *linkWorld) adminPaths(t *testing.T) []string {
	t.Helper()
	o, err := w.Operator.CreateOffer(t.Context(), domain.OfferInput{Label: "db", Kind: domain.AttachHost, HostIP: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	u := w.User()
	id := w.Provider.Account().ID
	return []string{
		"/admin", "/admin/accounts", "/admin/accounts/new", "/admin/accounts/" + id, "/admin/accounts/" + id + "/suspend", "/admin/users", "/admin/users/new",
		"/admin/users/" + u.ID, "/admin/users/" + u.ID + "/disable", "/admin/offers", "/admin/offers/new", "/admin/offers/" + o.ID + "/delete", "/admin/places",
		"/admin/audit", "/admin/audit/1", "/admin/audit.csv",
	}
}

func TestAdminIsForOperators(t *testing.T) {
	w := newLinkWorld(t)
	operator := w.operator(t)
	stranger := w.browser(t)
	for _, path := range w.adminPaths(t) {
		if res := w.get(t, operator, path); res.StatusCode != http.StatusOK {
			t.Errorf("%s: got %d", path, res.StatusCode)
		}
		if res := w.get(t, w.provider, path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s for an owner: got %d, want 404", path, res.StatusCode)
		}
		if res := w.get(t, stranger, path); res.StatusCode != http.StatusSeeOther {
			t.Errorf("%s for a stranger: got %d, want the way to the sign-in page", path, res.StatusCode)
		}
	}
	for _, path := range []string{"/admin/accounts/new", "/admin/users/new", "/admin/offers/new", "/admin/places/regions"} {
		if res := w.post(t, w.provider, path, url.Values{"name": {"forged"}, "owner": {"forged"}}); res.StatusCode != http.StatusNotFound {
			t.Errorf("POST %s by an owner: got %d, want 404", path, res.StatusCode)
		}
	}
	// An operator sees no tenant's resources.
	if res := w.get(t, operator, account(w.Provider)+"/vpcs"); res.StatusCode != http.StatusNotFound {
		t.Errorf("an operator in an account: got %d, want 404", res.StatusCode)
	}
	for _, path := range []string{"/admin/accounts/1999999999999999", "/admin/users/nobody", "/admin/offers/off-x/delete", "/admin/audit/99999"} {
		if res := w.get(t, operator, path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", path, res.StatusCode)
		}
	}
}

// Somebody signs in to an empty installation and gets from there to a first VPC
// by following what the pages say.
func TestFromNothingToAFirstAccount(t *testing.T) {
	store := domaintest.Open(t, domaintest.Config(t, nil))
	w := &linkWorld{testApp: serve(t, &domaintest.World{Store: store})}
	token, err := w.Store.Local(domain.Actor{}).FirstSignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := w.browser(t)
	d := w.moved(t, b, w.get(t, b, w.get(t, b, "/welcome?t="+token).Header.Get("Location")))
	if got := words(d.Find("h1")); got != "Installation" {
		t.Fatalf("the first page is %q", got)
	}
	next := func(d *goquery.Document, label string) *goquery.Document {
		t.Helper()
		a := d.Find(".checks a").FilterFunction(func(_ int, a *goquery.Selection) bool { return words(a) == label })
		if a.Length() != 1 {
			t.Fatalf("no step %q in %q", label, words(d.Find("main")))
		}
		return w.page(t, b, a.AttrOr("href", ""))
	}
	send := func(d *goquery.Document, form string, change url.Values) *goquery.Document {
		t.Helper()
		action, v := filled(t, d, form)
		maps.Copy(v, change)
		return w.moved(t, b, w.post(t, b, action, v))
	}
	early := send(next(d, "Create account"), "form#account", url.Values{"name": {"early"}}).Find(".head a:contains('Open account')").AttrOr("href", "")
	if got := words(w.page(t, b, early+"/vpcs/new").Find("main")); !strings.Contains(got, "no region yet") {
		t.Errorf("a VPC before there is a region: %q", got)
	}
	d = w.page(t, b, "/admin")
	send(next(d, "Add region"), "form#region", url.Values{"region": {"cn-hangzhou"}, "zones": {"h, i"}})
	d = send(w.page(t, b, "/admin/accounts/new"), "form#account", url.Values{"name": {"acme"}}) // the owner is who asks
	open := d.Find(".head a:contains('Open account')").AttrOr("href", "")
	d = w.page(t, b, open)
	if got := words(d.Find("header.top")); !strings.Contains(got, "acme") {
		t.Errorf("in %q", got)
	}
	d = send(w.page(t, b, open+"/vpcs/new"), "form#vpc", nil)
	if got := d.Find("main tbody tr").Length(); got != 2 {
		t.Errorf("the first VPC has %d vSwitches, want 2", got)
	}
	if steps := w.page(t, b, "/admin").Find(".checks").Length(); steps != 0 {
		t.Error("the first steps are still shown")
	}
}

func TestAdminAccounts(t *testing.T) {
	w := newLinkWorld(t)
	b := w.operator(t)
	for name, tt := range map[string]struct {
		change url.Values
		field  string
	}{
		"no owner":     {url.Values{"name": {"acme"}, "owner": {""}}, "owner"},
		"bad owner":    {url.Values{"name": {"acme"}, "owner": {"a b"}}, "owner"},
		"same name":    {url.Values{"name": {"provider"}}, "name"},
		"bad name":     {url.Values{"name": {"1"}}, "name"},
		"bad id":       {url.Values{"name": {"acme"}, "account_id": {"12"}}, "account_id"},
		"same id":      {url.Values{"name": {"acme"}, "account_id": {w.Provider.Account().ID}}, "account_id"},
		"unknown site": {url.Values{"name": {"acme"}, "site_id": {"mars"}}, ""},
	} {
		res := w.press(t, b, "/admin/accounts/new", "form#account", tt.change)
		d := res.doc(t)
		if tt.field == "" {
			if res.StatusCode < 400 || res.StatusCode >= 500 {
				t.Errorf("%s: got %d", name, res.StatusCode)
			}
			continue
		}
		if res.StatusCode != http.StatusUnprocessableEntity || d.Find("[id='account-"+tt.field+"-err']").Length() != 1 {
			t.Errorf("%s: got %d, %q", name, res.StatusCode, words(d.Find("[data-testid=errors]")))
		}
		if got := d.Find("form#account [name=name]").AttrOr("value", ""); got != tt.change.Get("name") {
			t.Errorf("%s: the name is %q now", name, got)
		}
	}
	d := w.moved(t, b, w.press(t, b, "/admin/accounts/new", "form#account", url.Values{"name": {"acme"}, "owner": {"anna"}}))
	if !strings.Contains(words(d.Find("[data-testid=flash]")), "anna") || !strings.Contains(words(d.Find("[data-testid=member]")), "owner") {
		t.Errorf("created: %q", words(d.Find("main")))
	}
	if d.Find("a:contains('Open account')").Length() != 0 {
		t.Error("an operator who is not in it can open it")
	}

	at := "/admin/accounts/" + w.Provider.Account().ID
	res := w.press(t, b, at, "form#member", url.Values{"user": {"ghost"}})
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#member-user-err").Length() != 1 || d.Find("form#member [name=user]").AttrOr("value", "") != "ghost" {
		t.Errorf("an unknown member: %d", res.StatusCode)
	}
	d = w.moved(t, b, w.press(t, b, at, "form#member", url.Values{"user": {"anna"}, "role": {"auditor"}}))
	row := d.Find("[data-testid=member]:contains('anna')")
	if !strings.Contains(words(row), "auditor") {
		t.Errorf("member: %q", words(row))
	}
	d = w.moved(t, b, w.post(t, b, row.Find("form").AttrOr("action", ""), url.Values{}))
	if d.Find("[data-testid=member]:contains('anna')").Length() != 0 {
		t.Error("anna is still in it")
	}

	res = w.press(t, b, at, "form#quota", url.Values{"name": {"vpcs"}, "value": {"-3"}})
	if res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("a negative limit: %d", res.StatusCode)
	}
	d = w.moved(t, b, w.press(t, b, at, "form#quota", url.Values{"name": {"vpcs"}, "value": {"1"}}))
	if !strings.Contains(words(d.Find(".aside")), "1 of 1") {
		t.Errorf("limits: %q", words(d.Find(".aside")))
	}
	limited := w.press(t, w.provider, account(w.Provider)+"/vpcs/new", "form#vpc", nil)
	if limited.StatusCode != http.StatusTooManyRequests || !strings.Contains(limited.doc(t).Text(), "The limit of VPCs is 1") {
		t.Errorf("beyond the limit: got %d %q", limited.StatusCode, words(limited.doc(t).Find("main")))
	}
	d = w.moved(t, b, w.press(t, b, at, "form#quota", url.Values{"name": {"vpcs"}, "value": {""}}))
	if !strings.Contains(words(d.Find(".aside")), "1 of 50") {
		t.Errorf("back to the usual limit: %q", words(d.Find(".aside")))
	}
}

func TestSuspendAccount(t *testing.T) {
	w := newLinkWorld(t)
	b := w.operator(t)
	at := "/admin/accounts/" + w.Provider.Account().ID
	res := w.press(t, b, at+"/suspend", "form#suspend", url.Values{"confirm": {"consumer"}})
	if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("[name=confirm]").AttrOr("value", "") != "consumer" {
		t.Errorf("another name: %d", res.StatusCode)
	}
	d := w.moved(t, b, w.press(t, b, at+"/suspend", "form#suspend", url.Values{"confirm": {"provider"}}))
	if !strings.Contains(words(d.Find(".banner.warn")), "suspended") {
		t.Errorf("suspended: %q", words(d.Find("main")))
	}
	vpcs := w.page(t, w.provider, account(w.Provider)+"/vpcs")
	if vpcs.Find("a[href$='/vpcs/new']").Length() != 0 {
		t.Error("a suspended account offers to create a VPC")
	}
	d = w.moved(t, b, w.post(t, b, at+"/resume", url.Values{}))
	if !strings.Contains(words(d.Find(".head")), "Active") {
		t.Errorf("resumed: %q", words(d.Find(".head")))
	}
}

func TestAdminUsers(t *testing.T) {
	w := newLinkWorld(t)
	b := w.operator(t)
	res := w.press(t, b, "/admin/users/new", "form#user", url.Values{"name": {"A b"}, "password": {"short"}, "display_name": {"Mara"}})
	d := res.doc(t)
	if res.StatusCode != http.StatusUnprocessableEntity || d.Find("#user-name-err").Length() != 1 || d.Find("#user-password-err").Length() != 1 ||
		d.Find("[name=display_name]").AttrOr("value", "") != "Mara" {
		t.Errorf("wrong: %d %q", res.StatusCode, words(d.Find("[data-testid=errors]")))
	}
	if _, ok := d.Find("[name=password]").Attr("value"); ok || strings.Contains(res.body, "short") {
		t.Error("the password is sent back")
	}
	d = w.moved(t, b, w.press(t, b, "/admin/users/new", "form#user", url.Values{
		"name": {"mara"}, "display_name": {"Mara Lindt"}, "account": {w.Provider.Account().ID}, "role": {"provider"},
	}))
	if !strings.Contains(words(d.Find("[data-testid=member]")), "provider") {
		t.Errorf("created: %q", words(d.Find("main")))
	}
	link := d.Find(".head form[action$='/link']").AttrOr("action", "")
	shown := w.post(t, b, link, url.Values{})
	text := words(shown.doc(t).Find("[data-testid=sign-in-link] pre"))
	u, err := url.Parse(text)
	if err != nil || !strings.HasPrefix(text, w.URL+"/welcome?t=") {
		t.Fatalf("link: %q", text)
	}
	if htmx := w.post(t, b, link, url.Values{}, partial...); !strings.Contains(htmx.body, `hx-target="#dialog"`) || !strings.Contains(htmx.body, "/welcome?t=") {
		t.Errorf("with script: %.120s", htmx.body)
	}
	page := strings.TrimSuffix(link, "/link")
	if again := w.get(t, b, page); strings.Contains(again.body, "/welcome?t=") {
		t.Error("the link is shown again")
	}
	w.console.PublicURL = &url.URL{Scheme: "https", Host: "links.example.com"}
	if elsewhere := words(w.post(t, b, link, url.Values{}).doc(t).Find("[data-testid=sign-in-link] pre")); !strings.HasPrefix(elsewhere, "https://links.example.com/welcome?t=") {
		t.Errorf("link of an installation with an address of its own: %q", elsewhere)
	}
	mara := w.browser(t)
	if res := w.get(t, mara, u.RequestURI()); res.StatusCode != http.StatusSeeOther {
		t.Errorf("the link does not sign in: %d", res.StatusCode)
	}

	if res := w.press(t, b, page, "form#password", url.Values{"password": {"123"}}); res.StatusCode != http.StatusUnprocessableEntity || strings.Contains(res.body, `value="123"`) {
		t.Errorf("a short password: %d", res.StatusCode)
	}
	if res := w.get(t, mara, account(w.Provider)+"/vpcs"); res.StatusCode != http.StatusOK {
		t.Fatalf("mara in her account: %d", res.StatusCode)
	}
	d = w.moved(t, b, w.press(t, b, page+"/disable", "form#disable", nil))
	if d.Find("form[action$='/link']").Length() != 0 || !strings.Contains(words(d.Find(".head")), "Disabled") {
		t.Errorf("disabled: %q", words(d.Find(".head")))
	}
	if res := w.get(t, mara, account(w.Provider)+"/vpcs"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("mara after that: got %d, want the way to the sign-in page", res.StatusCode)
	}
	d = w.moved(t, b, w.post(t, b, page+"/enable", url.Values{}))
	if d.Find("form[action$='/link']").Length() != 1 {
		t.Errorf("enabled: %q", words(d.Find(".head")))
	}
	if rows := w.page(t, b, "/admin/users?q=mara").Find("[data-testid=user]").Length(); rows != 1 {
		t.Errorf("%d users are called mara", rows)
	}
}

func TestOffers(t *testing.T) {
	w := newLinkWorld(t)
	b := w.operator(t)
	file := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := map[string]url.Values{
		"path":      {"source": {"adopted"}, "label": {"web"}, "path": {"/run/netns/there-is-none"}},
		"device":    {"source": {"interface"}, "label": {"eth"}, "device": {"none0"}},
		"host_ip":   {"source": {"host_service"}, "label": {"db"}, "host_ip": {"nowhere"}},
		"port_from": {"source": {"published_port"}, "label": {"door"}, "host_ip": {"0.0.0.0"}, "port_from": {"9"}, "port_to": {"8"}},
		"label":     {"source": {"host_service"}, "label": {""}},
	}
	for field, change := range wrong {
		res := w.press(t, b, "/admin/offers/new", "form#offer", change)
		d := res.doc(t)
		if res.StatusCode != http.StatusUnprocessableEntity || d.Find("#offer-"+field+"-err").Length() != 1 {
			t.Errorf("%s: got %d, %q", field, res.StatusCode, words(d.Find("[data-testid=errors]")))
		}
		if got := d.Find("[name=source][checked]").AttrOr("value", ""); got != change.Get("source") {
			t.Errorf("%s: %q is chosen now", field, got)
		}
	}
	if res := w.press(t, b, "/admin/offers/new", "form#offer", url.Values{"source": {"interface"}, "label": {"loopback"}, "device": {"lo"}}); res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("the host's own interface: %d", res.StatusCode)
	}
	if _, err := os.Stat(ownNamespace); err == nil {
		res := w.press(t, b, "/admin/offers/new", "form#offer", url.Values{"source": {"adopted"}, "label": {"host"}, "path": {ownNamespace}})
		if res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(res.body, "the host&#39;s own network") {
			t.Errorf("the host's own namespace: %d", res.StatusCode)
		}
	}
	d := w.moved(t, b, w.press(t, b, "/admin/offers/new", "form#offer", url.Values{"source": {"adopted"}, "label": {"web"}, "path": {file}}))
	if got := words(d.Find("[data-testid=offer]")); !strings.Contains(got, file) || !strings.Contains(got, "every account") {
		t.Errorf("offer: %q", got)
	}
	all, err := w.Operator.Offers(t.Context())
	if err != nil || len(all) != 1 || all[0].Inode == 0 {
		t.Fatalf("the file is not pinned: %+v, %v", all, err)
	}
	d = w.moved(t, b, w.press(t, b, "/admin/offers/new", "form#offer", url.Values{
		"source": {"host_service"}, "label": {"billing"}, "port_from": {"5432"}, "account_id": {w.Provider.Account().ID},
	}))
	row := d.Find("[data-testid=offer]:contains('billing')")
	if !strings.Contains(words(row), "127.0.0.1:5432") || row.Find("a[href='/admin/accounts/"+w.Provider.Account().ID+"']").Length() != 1 {
		t.Errorf("offer: %q", words(row))
	}
	if rows := w.page(t, b, "/admin/offers?q=5432").Find("[data-testid=offer]").Length(); rows != 1 {
		t.Errorf("%d offers of port 5432", rows)
	}

	used, err := w.Provider.CreateAttachment(t.Context(), domain.AttachmentInput{
		VPCID: w.provide.vpc.ID, Kind: domain.AttachHost, Name: "pg", OfferID: strings.TrimPrefix(row.AttrOr("id", ""), "offer-"),
	})
	if err != nil {
		t.Fatal(err)
	}
	question := row.Find("a[href$='/delete']").AttrOr("href", "")
	if res := w.press(t, b, question, "form#delete", nil); res.StatusCode != http.StatusConflict || !strings.Contains(res.body, "attachment pg") {
		t.Errorf("in use: %d %q", res.StatusCode, words(res.doc(t).Find("main")))
	}
	if err := w.Provider.DeleteAttachment(t.Context(), used.ID); err != nil {
		t.Fatal(err)
	}
	d = w.moved(t, b, w.press(t, b, question, "form#delete", nil))
	if rows := d.Find("[data-testid=offer]").Length(); rows != 1 {
		t.Errorf("%d offers left, want 1", rows)
	}
}

func TestPlaces(t *testing.T) {
	w := newLinkWorld(t)
	b := w.operator(t)
	for field, change := range map[string]url.Values{
		"region": {"region": {"X"}, "zones": {"a"}}, "zones": {"region": {"eu-central-1"}, "zones": {"a b C"}},
	} {
		res := w.press(t, b, "/admin/places", "form#region", change)
		if d := res.doc(t); res.StatusCode != http.StatusUnprocessableEntity || d.Find("#region-"+field+"-err").Length() != 1 ||
			d.Find("form#region [name=zones]").AttrOr("value", "") != change.Get("zones") {
			t.Errorf("%s: %d", field, res.StatusCode)
		}
	}
	if res := w.press(t, b, "/admin/places", "form#region", url.Values{"region": {domaintest.Region}, "zones": {"z"}}); res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("a region that is there: %d", res.StatusCode)
	}
	w.moved(t, b, w.press(t, b, "/admin/places", "form#region", url.Values{"region": {"eu-central-1"}, "name": {"Frankfurt"}, "zones": {"a, b"}}))
	d := w.moved(t, b, w.press(t, b, "/admin/places", "form#zone", url.Values{"region_id": {"eu-central-1"}, "zone": {"c"}}))
	if got := words(d.Find("#region-eu-central-1")); !strings.Contains(got, "eu-central-1-a, eu-central-1-b, eu-central-1-c") || !strings.Contains(got, "Frankfurt") {
		t.Errorf("region: %q", got)
	}
	if res := w.press(t, b, "/admin/places", "form#zone", url.Values{"region_id": {"eu-central-1"}, "zone": {"c"}}); res.StatusCode != http.StatusUnprocessableEntity || res.doc(t).Find("#zone-zone-err").Length() != 1 {
		t.Errorf("a zone that is there: %d", res.StatusCode)
	}
}

func TestInstallation(t *testing.T) {
	w := newLinkWorld(t)
	b := w.operator(t)
	d := w.page(t, b, "/admin")
	for _, want := range []string{"Accounts 3", "1 service, 1 endpoint", "2 zones", "Running", "Network namespaces, as root"} {
		if !strings.Contains(words(d.Find("main")), want) {
			t.Errorf("no %q in %q", want, words(d.Find("main")))
		}
	}
	w.Store.UseDataPlane(nil)
	if got := words(w.page(t, b, "/admin").Find("main")); !strings.Contains(got, "Does not answer") {
		t.Errorf("without an engine: %q", got)
	}
	if got := words(w.page(t, b, "/admin/audit").Find("main")); !strings.Contains(got, "Chain intact") || !strings.Contains(got, "Sign in by link") {
		t.Errorf("the operators' trail: %q", got)
	}
}
