package handlers_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

// Somebody who may see everything follows every link from the first page on. All
// of them lead somewhere, and every page keeps the rules of the console.
func TestEveryLinkLeadsSomewhere(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	_, err := a.Operator.CreateUser(t.Context(), domain.UserInput{Name: "mara", Password: "correct horse mara", Operator: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*domain.Scope{a.Provider, a.Consumer} {
		if err := a.Operator.AddMember(t.Context(), s.Account().ID, "mara", domain.RoleOwner); err != nil {
			t.Fatal(err)
		}
	}
	a.signIn(t, b, "mara")

	type link struct{ from, to string }
	queue, seen := []link{{"", "/"}}, map[string]bool{"/": true}
	const most = 500 // pages; there are lists that lead to lists
	pages := 0
	for len(queue) > 0 && pages < most {
		l := queue[0]
		queue = queue[1:]
		pages++
		res := a.do(t, b, "GET", l.to, nil, "Accept", "text/html")
		if res.StatusCode == http.StatusSeeOther {
			if to := res.Header.Get("Location"); !seen[to] {
				seen[to] = true
				queue = append(queue, link{l.to, to})
			}
			continue
		}
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s, from %s: got %d", l.to, l.from, res.StatusCode)
			continue
		}
		if kind := res.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/html") {
			continue
		}
		d := page(t, res)
		if n := d.Find("h1").Length(); n != 1 {
			t.Errorf("%s has %d headings of the first level", l.to, n)
		}
		ids := map[string]bool{}
		for _, el := range d.Find("[id]").EachIter() {
			id := el.AttrOr("id", "")
			if ids[id] {
				t.Errorf("%s has two elements #%s", l.to, id)
			}
			ids[id] = true
		}
		if el := d.Find("[style], style, script:not([src])"); el.Length() > 0 {
			t.Errorf("%s has %s, which the policy refuses", l.to, el.Get(0).Data)
		}
		for _, f := range d.Find("form").EachIter() {
			action, ok := f.Attr("action")
			if !ok {
				t.Errorf("%s has a form without an action", l.to)
			}
			if f.AttrOr("method", "") == "post" && strings.HasPrefix(action, "/a/") && f.Find("[name=account]").Length() != 1 {
				t.Errorf("%s: the form to %s does not name its account", l.to, action)
			}
		}
		for _, el := range d.Find("a[href]").EachIter() {
			at, err := url.Parse(l.to)
			if err != nil {
				t.Fatal(err)
			}
			href, err := at.Parse(el.AttrOr("href", ""))
			if err != nil {
				t.Errorf("%s: link %q: %v", l.to, el.AttrOr("href", ""), err)
				continue
			}
			if href.Fragment != "" && href.Path == at.Path {
				if !ids[href.Fragment] {
					t.Errorf("%s leads to #%s, which is not there", l.to, href.Fragment)
				}
				continue
			}
			if to := href.RequestURI(); href.Host == "" && !seen[to] {
				seen[to] = true
				queue = append(queue, link{l.to, to})
			}
		}
	}
	if pages < 20 {
		t.Errorf("only %d pages were reached", pages)
	}
	t.Logf("%d pages", pages)
}
