package handlers_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/handlers/session"
)

// signedIn are the handles of who is signed in to b, by name, read from the page.
func (a *app) signedIn(t *testing.T, b *http.Client) map[string]string {
	t.Helper()
	who := map[string]string{}
	d := page(t, a.do(t, b, "GET", "/no/such/page", nil))
	for _, f := range d.Find("form[action^='/sign-out/']").EachIter() {
		name := strings.TrimPrefix(strings.TrimSpace(f.Find("button").Text()), "Sign out ")
		who[name] = strings.TrimPrefix(f.AttrOr("action", ""), "/sign-out/")
	}
	return who
}

func TestTwoUsersInOneBrowser(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	a.password(t, "mara", a.Provider)
	a.password(t, "jon", a.Consumer)
	if res := a.signIn(t, b, "mara"); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/" {
		t.Fatalf("sign in: got %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	if got, want := a.do(t, b, "GET", "/", nil).Header.Get("Location"), "/a/"+a.Provider.Account().ID; got != want {
		t.Errorf("/ leads to %q, want %q", got, want)
	}
	a.signIn(t, b, "jon")
	a.signIn(t, b, "jon") // again: it replaces the first
	who := a.signedIn(t, b)
	if len(who) != 2 {
		t.Fatalf("signed in: %v, want mara and jon", who)
	}
	// The switcher leads to the accounts of both.
	d := page(t, a.do(t, b, "GET", "/sign-in", nil))
	if text := d.Find("main").Text(); !strings.Contains(text, "mara") || !strings.Contains(text, "jon") {
		t.Errorf("the sign-in page does not say who is signed in: %q", text)
	}

	stranger := a.browser(t)
	a.password(t, "eve", a.Stranger)
	a.signIn(t, stranger, "eve")
	if res := a.do(t, stranger, "POST", "/sign-out/"+who["jon"], nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("signing out somebody else: got %d, want 404", res.StatusCode)
	}
	if res := a.do(t, b, "POST", "/sign-out/"+who["jon"], nil); res.StatusCode != http.StatusSeeOther {
		t.Errorf("sign out: got %d", res.StatusCode)
	}
	if who := a.signedIn(t, b); len(who) != 1 || who["mara"] == "" {
		t.Errorf("after jon's sign-out: %v, want mara alone", who)
	}
	// The row is gone, not only the cookie's word for it.
	a.do(t, b, "POST", "/sign-out/"+who["mara"], nil)
	if res := a.do(t, b, "GET", "/", nil); res.Header.Get("Location") != "/sign-in" {
		t.Errorf("after the last sign-out, / leads to %q", res.Header.Get("Location"))
	}
}

func TestSignInRefusals(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	a.password(t, "mara", a.Provider)
	wrong := func(user, password string) string {
		t.Helper()
		res := a.do(t, b, "POST", "/sign-in", url.Values{"user": {user}, "password": {password}})
		if res.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d, want 422", user, res.StatusCode)
		}
		d := page(t, res)
		if got := d.Find("input[name=user]").AttrOr("value", ""); got != user {
			t.Errorf("the name was %q and is now %q", user, got)
		}
		if d.Find("input[name=password]").AttrOr("value", "") != "" {
			t.Error("the page repeats the password")
		}
		return d.Find("[data-testid=errors] li").Text()
	}
	if known, unknown := wrong("mara", "wrong"), wrong("nobody", "wrong"); known != unknown || known == "" {
		t.Errorf("a known user is told %q and an unknown one %q", known, unknown)
	}
	if got := wrong("mara", ""); got != "The password is missing." {
		t.Errorf("without a password: %q", got)
	}
	for range 20 {
		wrong("mara", "wrong")
	}
	if got := wrong("mara", "correct horse mara"); !strings.HasPrefix(got, "Too many attempts") {
		t.Errorf("after many attempts the right password gets %q", got)
	}
	if res := a.signIn(t, b, a.password(t, "jon")); res.StatusCode != http.StatusSeeOther {
		t.Errorf("another user from the same address: got %d", res.StatusCode)
	}
}

func TestNextLeadsNowhereElse(t *testing.T) {
	a := start(t)
	a.password(t, "mara", a.Provider)
	for next, want := range map[string]string{
		"/a/1/services?q=x": "/a/1/services?q=x", "": "/", "https://evil.example/": "/", "//evil.example": "/", `/\evil.example`: "/", "evil": "/", "/\t/evil.example": "/",
	} {
		res := a.do(t, a.browser(t), "POST", "/sign-in", url.Values{"user": {"mara"}, "password": {"correct horse mara"}, "next": {next}})
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("next %q leads to %q, want %q", next, got, want)
		}
	}
}

func TestSignInLinkWorksOnce(t *testing.T) {
	a := start(t)
	a.password(t, "mara", a.Provider)
	link, err := a.Operator.SignInLink(t.Context(), "mara")
	if err != nil {
		t.Fatal(err)
	}
	b := a.browser(t)
	if res := a.do(t, b, "GET", "/welcome?t="+link, nil); res.StatusCode != http.StatusSeeOther || strings.Contains(res.Header.Get("Location"), link) {
		t.Fatalf("got %d to %q, want an address without the link", res.StatusCode, res.Header.Get("Location"))
	}
	if who := a.signedIn(t, b); who["mara"] == "" {
		t.Errorf("signed in: %v, want mara", who)
	}
	res := a.do(t, a.browser(t), "GET", "/welcome?t="+link, nil)
	if res.StatusCode != http.StatusUnprocessableEntity || len(res.Cookies()) != 0 {
		t.Errorf("the second time: got %d with cookies %v, want 422 without", res.StatusCode, res.Cookies())
	}
}

func TestCookie(t *testing.T) {
	for _, https := range []bool{false, true} {
		a := start(t)
		a.password(t, "mara")
		sessions := session.New(a.Store, bytes.Repeat([]byte("k"), 32), https)
		e := echo.New()
		rec := httptest.NewRecorder()
		if _, err := sessions.SignIn(e.NewContext(httptest.NewRequest("POST", "/sign-in", nil), rec), "mara", "correct horse mara"); err != nil {
			t.Fatal(err)
		}
		ck := rec.Result().Cookies()[0]
		want := "privatelink"
		if https {
			want = "__Host-privatelink"
		}
		if ck.Name != want || ck.Secure != https || !ck.HttpOnly || ck.SameSite != http.SameSiteLaxMode || ck.Path != "/" || ck.Domain != "" {
			t.Errorf("https %v: got %+v", https, ck)
		}
		// A cookie that somebody else signed is nobody's, and keeps nobody out.
		forged := httptest.NewRequest("GET", "/", nil)
		forged.AddCookie(ck)
		other := session.New(a.Store, bytes.Repeat([]byte("x"), 32), https)
		c := e.NewContext(forged, httptest.NewRecorder())
		if who, err := other.Identities(c); err != nil || len(who) != 0 {
			t.Errorf("a forged cookie is %v, %v", who, err)
		}
		if _, err := other.SignIn(c, "mara", "correct horse mara"); err != nil {
			t.Errorf("sign in beside a forged cookie: %v", err)
		}
	}
}

// A role of another account opens nothing here.
func TestForeignAccountIsNotFound(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	a.password(t, "mara", a.Provider)
	a.signIn(t, b, "mara")
	for _, id := range []string{a.Consumer.Account().ID, "1999999999999999", "x"} {
		res := a.do(t, b, "GET", "/events?account="+id, nil)
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("/events of %s: got %d, want 401", id, res.StatusCode)
		}
		if res := a.do(t, b, "GET", "/a/"+id, nil); res.StatusCode != http.StatusNotFound || strings.Contains(res.body, "consumer") {
			t.Errorf("/a/%s: got %d", id, res.StatusCode)
		}
	}
}
