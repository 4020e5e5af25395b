package layout

import (
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"
	"github.com/a-h/templ"

	"github.com/openprivatelink/openprivatelink/web/ui"
)

func render(t *testing.T, c templ.Component) *goquery.Document {
	t.Helper()
	var b strings.Builder
	if err := c.Render(templ.WithChildren(t.Context(), templ.Raw("<p id='content'>content</p>")), &b); err != nil {
		t.Fatal(err)
	}
	d, err := goquery.NewDocumentFromReader(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func words(s *goquery.Selection) string { return strings.Join(strings.Fields(s.Text()), " ") }

func page() Page {
	mara := User{Name: "Mara Lindt", Login: "mara", Handle: "ses-1", Accounts: []Account{{"1000000000000001", "acme-payments"}, {"1000000000000002", "acme-dev"}}}
	jon := User{Name: "Jon", Login: "jon", Handle: "ses-2", Accounts: []Account{{"1000000000000001", "acme-payments"}}}
	return Page{Title: "Services", Nav: "/services", Account: mara.Accounts[0], User: mara, Users: []User{mara, jon}, Last: "run-7", Version: "v1"}
}

func TestLayout(t *testing.T) {
	p := page()
	d := render(t, Layout(p))
	if d.Find("main #content").Length() != 1 || d.Find("title").Text() != "Services · OpenPrivateLink" || d.Find(".skip").AttrOr("href", "") != "#main" {
		t.Error("the page is not in its frame")
	}
	current := d.Find("nav#nav [aria-current=page]")
	if words(current) != "Endpoint services" || current.AttrOr("href", "") != "/a/1000000000000001/services" {
		t.Errorf("current entry %q", words(current))
	}
	live := d.Find("script[data-account]")
	if live.AttrOr("data-account", "") != p.Account.ID || live.AttrOr("data-last", "") != "run-7" {
		t.Error("the page does not follow its account")
	}
	if strings.Contains(words(d.Find("nav#nav")), "Administer") {
		t.Error("administration is shown to who is no operator")
	}
	if n := d.Find("details nav a[href^='/a/']").Length(); n != 3 {
		t.Errorf("the switcher leads to %d accounts, want 3", n)
	}
	if here := d.Find("details nav a[aria-current]"); here.Length() != 1 {
		t.Errorf("%d accounts are the current one: two users share it", here.Length())
	}
	if n := d.Find("form[action^='/sign-out/']").Length(); n != 2 {
		t.Errorf("%d can sign out, want 2", n)
	}
	if _, hidden := d.Find("#badge").Attr("hidden"); !hidden {
		t.Error("nothing waits, and the badge is shown")
	}
	if words(d.Find("#bell")) != "0 connections wait for a decision" {
		t.Errorf("the bell says %q", words(d.Find("#bell")))
	}

	p.Operator, p.ReadOnly, p.Pending, p.Side, p.Theme, p.Notice = true, true, 3, ui.Consumer, "dark", "Loopback mode."
	d = render(t, Layout(p))
	for _, sel := range []string{"nav#nav a[href='/admin/accounts']", "html[data-theme=dark]", "header.consumer", ".notice"} {
		if d.Find(sel).Length() != 1 {
			t.Errorf("no %s", sel)
		}
	}
	if !strings.Contains(words(d.Find("header")), "Read-only") || words(d.Find("#badge")) != "3 waiting" {
		t.Errorf("the bar says %q, the badge %q", words(d.Find("header")), words(d.Find("#badge")))
	}
}

func TestErrorPage(t *testing.T) {
	f := Failure{Code: 404, Title: "Nothing", Text: "There is no such thing.", Request: "R1", Back: "/", BackTo: "Home"}
	for name, p := range map[string]Page{"stranger": {Title: "Nothing"}, "user": page()} {
		d := render(t, ErrorPage(p, f))
		if text := words(d.Find("[data-testid=failure]")); !strings.Contains(text, "There is no such thing.") || d.Find("[data-copy=R1]").Length() != 1 {
			t.Errorf("%s reads %q", name, text)
		}
		if framed := d.Find("nav#nav").Length() == 1; framed != (name == "user") {
			t.Errorf("%s: in the frame %v", name, framed)
		}
	}
}

// The page about missing files needs none.
func TestMissingAssets(t *testing.T) {
	d := render(t, MissingAssets([]string{"htmx.min.js"}))
	if d.Find("link, script, img").Length() != 0 || !strings.Contains(d.Text(), "make assets") || !strings.Contains(d.Text(), "htmx.min.js") {
		t.Errorf("got %q", d.Text())
	}
}

func TestPendingPatchesEveryNumber(t *testing.T) {
	d := render(t, Pending(2))
	for _, id := range []string{"badge", "bell"} {
		if d.Find("hx-partial[hx-target='#"+id+"'] #"+id).Length() != 1 {
			t.Errorf("#%s is not patched", id)
		}
	}
}

func TestInitials(t *testing.T) {
	for name, want := range map[string]string{"Mara Lindt": "ML", "mara": "M", "": "", "élan vital x": "ÉV", "j.ortiz@shop": "JO"} {
		if got := initials(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestTheme(t *testing.T) {
	for theme, want := range map[string]string{"": "light", "light": "dark", "dark": "system"} {
		if got := (Page{Theme: theme}).otherTheme(); got != want {
			t.Errorf("after %q comes %q, want %q", theme, got, want)
		}
	}
}
