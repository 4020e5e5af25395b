package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
	"github.com/openprivatelink/openprivatelink/handlers/session"
	"github.com/openprivatelink/openprivatelink/web/layout"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// testApp is a console over a world, with pages of the test's own beside its own.
type testApp struct {
	*httptest.Server
	*domaintest.World
	console  *Console
	sessions *session.Sessions
	log      *bytes.Buffer
}

func newTestApp(t *testing.T, pages ...func(*Console, router)) *testApp {
	t.Helper()
	return serve(t, domaintest.New(t), pages...)
}

// serve is a console over a world of the test's own.
func serve(t *testing.T, w *domaintest.World, pages ...func(*Console, router)) *testApp {
	t.Helper()
	a := &testApp{World: w, log: &bytes.Buffer{}}
	a.sessions = session.New(a.Store, bytes.Repeat([]byte("k"), 32), false)
	a.console = New(Config{Sessions: a.sessions, Log: slog.New(slog.NewTextHandler(a.log, nil)), Version: "v1"})
	e := echo.New()
	e.HTTPErrorHandler = a.console.Fail
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Response().Header().Set(echo.HeaderXRequestID, "REQUEST")
			return next(c)
		}
	})
	for _, p := range pages {
		p(a.console, router{k: a.console, account: e.Group("/a/:account"), admin: e.Group("/admin")})
	}
	a.console.Register(e)
	a.Server = httptest.NewServer(e)
	t.Cleanup(a.Close)
	return a
}

func (a *testApp) browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// context is a request of b, for asking the sessions directly.
func (a *testApp) context(t *testing.T, b *http.Client) echo.Context {
	t.Helper()
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	for _, ck := range b.Jar.Cookies(u) {
		req.AddCookie(ck)
	}
	return echo.New().NewContext(req, httptest.NewRecorder())
}

type answer struct {
	*http.Response
	body string
}

func (a answer) doc(t *testing.T) *goquery.Document {
	t.Helper()
	d, err := goquery.NewDocumentFromReader(strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (a *testApp) send(t *testing.T, b *http.Client, method, path string, form url.Values, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, a.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := b.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res, string(body)}
}

func (a *testApp) get(t *testing.T, b *http.Client, path string, header ...string) answer {
	t.Helper()
	return a.send(t, b, http.MethodGet, path, nil, header...)
}

func (a *testApp) post(t *testing.T, b *http.Client, path string, form url.Values, header ...string) answer {
	t.Helper()
	return a.send(t, b, http.MethodPost, path, form, header...)
}

// user makes a user with a password who owns the accounts of the scopes.
func (a *testApp) user(t *testing.T, name string, accounts ...*domain.Scope) string {
	t.Helper()
	if _, err := a.Operator.CreateUser(t.Context(), domain.UserInput{Name: name, Password: "correct horse " + name}); err != nil {
		t.Fatal(err)
	}
	for _, s := range accounts {
		if err := a.Operator.AddMember(t.Context(), s.Account().ID, name, domain.RoleOwner); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

func (a *testApp) signIn(t *testing.T, b *http.Client, name string) {
	t.Helper()
	if res := a.post(t, b, "/sign-in", url.Values{"user": {name}, "password": {"correct horse " + name}}); res.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign in as %s: %d", name, res.StatusCode)
	}
}

var (
	asHTMX = []string{"HX-Request", "true", "HX-Request-Type", "partial"}
	asFull = []string{"HX-Request", "true", "HX-Request-Type", "full"}
)

func TestFailuresAreMappedOnce(t *testing.T) {
	var fault error
	a := newTestApp(t, func(_ *Console, r router) {
		r.get("/fault", func(echo.Context, *domain.Scope) error { return fault })
	})
	b := a.browser(t)
	a.signIn(t, b, a.user(t, "mara", a.Provider))
	path := "/a/" + a.Provider.Account().ID + "/fault"
	tests := []struct {
		err  error
		want int
		text string
	}{
		{&domain.Error{Kind: domain.Invalid, Message: "Not a number."}, 422, "Not a number."},
		{&domain.Error{Kind: domain.NotFound, Message: "There is no such thing."}, 404, "There is no such thing."},
		{&domain.Error{Kind: domain.Gone, Message: "Deleted."}, 410, "Deleted."},
		{&domain.Error{Kind: domain.Denied, Message: "Your role does not."}, 403, "Your role does not."},
		{&domain.Error{Kind: domain.Conflict, Message: "It changed meanwhile."}, 409, "It changed meanwhile."},
		{&domain.Error{Kind: domain.Limit, Message: "Quota."}, 429, "Quota."},
		{errors.Join(errors.New("wrapped"), &domain.Error{Kind: domain.Conflict, Message: "Inside."}), 409, "Inside."},
		{&domain.Error{Kind: domain.Internal, Message: "secret cause"}, 500, texts[500]},
		{errors.New("secret cause"), 500, texts[500]},
		{echo.NewHTTPError(http.StatusRequestEntityTooLarge, "At most 1 MiB."), 413, "At most 1 MiB."},
	}
	for _, tt := range tests {
		fault = tt.err
		a.log.Reset()
		page := a.get(t, b, path)
		if page.StatusCode != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, page.StatusCode, tt.want)
		}
		shown := page.doc(t).Find("[data-testid=failure]").Text()
		if !strings.Contains(shown, tt.text) || !strings.Contains(shown, "REQUEST") {
			t.Errorf("%v: the page says %q", tt.err, shown)
		}
		toast := a.get(t, b, path, asHTMX...)
		if toast.StatusCode != tt.want {
			t.Errorf("%v: htmx got %d, want %d", tt.err, toast.StatusCode, tt.want)
		}
		partial := toast.doc(t).Find("hx-partial[hx-target='#toasts'][hx-swap=beforeend]")
		if partial.Find("[role=alert]").Length() != 1 || !strings.Contains(partial.Text(), tt.text) || strings.Contains(toast.body, "<html") {
			t.Errorf("%v: htmx got %q", tt.err, toast.body)
		}
		if strings.Contains(page.body+toast.body, "secret") {
			t.Errorf("%v: the cause is shown", tt.err)
		}
		if logged := strings.Contains(a.log.String(), "secret cause"); logged != (tt.want == 500) {
			t.Errorf("%v: in the log: %v", tt.err, logged)
		}
	}
}

func TestScope(t *testing.T) {
	a := newTestApp(t, func(k *Console, r router) {
		r.get("/who", func(c echo.Context, s *domain.Scope) error {
			return c.String(http.StatusOK, s.User().Name+" as "+k.page(c, s, "", "").User.Login)
		})
		r.post("/write", func(c echo.Context, s *domain.Scope) error { return c.String(http.StatusOK, s.Account().ID) })
		r.adminGet("/place", func(c echo.Context, _ *domain.Operator) error { return c.String(http.StatusOK, "operator") })
		r.resource("things", func(_ context.Context, s *domain.Scope, id string) error {
			if s.Account().Name == "consumer" && id == "t-1" {
				return nil
			}
			return &domain.Error{Kind: domain.NotFound}
		})
	})
	provider, consumer, stranger := a.Provider.Account().ID, a.Consumer.Account().ID, a.Stranger.Account().ID
	b := a.browser(t)
	if res := a.get(t, b, "/a/"+provider+"/who?x=1"); res.Header.Get("Location") != "/sign-in?next="+url.QueryEscape("/a/"+provider+"/who?x=1") {
		t.Errorf("a stranger is sent to %q", res.Header.Get("Location"))
	}
	res := a.get(t, b, "/a/"+provider+"/who", append(asHTMX, "HX-Current-URL", "http://x/a/1/services")...)
	if res.StatusCode != http.StatusUnauthorized || res.Header.Get("HX-Redirect") != "/sign-in?next="+url.QueryEscape("/a/1/services") {
		t.Errorf("htmx of a stranger: %d, sent to %q", res.StatusCode, res.Header.Get("HX-Redirect"))
	}
	a.signIn(t, b, a.user(t, "mara", a.Provider))
	a.signIn(t, b, a.user(t, "jon", a.Consumer))

	for account, want := range map[string]string{provider: "mara as mara", consumer: "jon as jon"} {
		if res := a.get(t, b, "/a/"+account+"/who"); res.body != want {
			t.Errorf("in %s acts %q, want %q", account, res.body, want)
		}
		if res := a.get(t, b, "/"); res.Header.Get("Location") != "/a/"+account {
			t.Errorf("/ leads to %q, want the account used last", res.Header.Get("Location"))
		}
	}
	for _, path := range []string{"/a/" + stranger + "/who", "/a/1999999999999999/who", "/admin/place", "/things/t-2"} {
		if res := a.get(t, b, path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", path, res.StatusCode)
		}
	}
	if res := a.get(t, b, "/things/t-1?tab=x"); res.Header.Get("Location") != "/a/"+consumer+"/things/t-1?tab=x" {
		t.Errorf("/things/t-1 leads to %q", res.Header.Get("Location"))
	}

	switching := a.get(t, b, "/a/"+provider+"/things/t-1?tab=x").doc(t).Find("[data-testid=failure] a")
	if to := switching.AttrOr("href", ""); to != "/a/"+consumer+"/things/t-1?tab=x" || !strings.Contains(switching.Text(), "Switch to consumer") {
		t.Errorf("a link into another account of ours leads to %q", to)
	}
	other := a.browser(t)
	a.signIn(t, other, a.user(t, "ann", a.Provider))
	if res := a.get(t, other, "/a/"+provider+"/things/t-1"); res.StatusCode != http.StatusNotFound || strings.Contains(res.body, "consumer") {
		t.Errorf("who may not see it is told: %d", res.StatusCode)
	}

	// A form of one account does not write in another.
	for form, want := range map[string]int{provider: http.StatusOK, consumer: http.StatusConflict, "": http.StatusConflict} {
		if res := a.post(t, b, "/a/"+provider+"/write", url.Values{"account": {form}}); res.StatusCode != want {
			t.Errorf("a form of %q: got %d, want %d", form, res.StatusCode, want)
		}
	}
}

func TestPageAndPart(t *testing.T) {
	a := newTestApp(t, func(k *Console, r router) {
		r.get("/both", func(c echo.Context, s *domain.Scope) error {
			return show(c, layout.Layout(k.page(c, s, "Both", "/services")), ui.Tag("part"))
		})
		r.post("/changed", func(c echo.Context, s *domain.Scope) error {
			return k.changed(c, s, "/both", ui.Note{Kind: ui.OK, Title: "Saved it."}, patch("row-1", ui.Tag("row")))
		})
		r.post("/moved", func(c echo.Context, s *domain.Scope) error {
			return k.seeOther(c, s, "/both?tab=x", ui.Note{Kind: ui.OK, Title: "Made it."})
		})
	})
	b := a.browser(t)
	a.signIn(t, b, a.user(t, "mara", a.Provider))
	base := "/a/" + a.Provider.Account().ID
	form := url.Values{"account": {a.Provider.Account().ID}}

	for _, tt := range []struct {
		header []string
		page   bool
	}{{nil, true}, {asFull, true}, {asHTMX, false}, {[]string{"HX-History-Restore-Request", "true", "HX-Request-Type", "full"}, true}} {
		res := a.get(t, b, base+"/both", tt.header...)
		if got := strings.Contains(res.body, "<html"); got != tt.page {
			t.Errorf("%v: a page %v, want %v", tt.header, got, tt.page)
		}
		if v := res.Header.Get("Vary"); !strings.Contains(v, "HX-Request-Type") {
			t.Errorf("%v: Vary %q", tt.header, v)
		}
	}
	d := a.get(t, b, base+"/both").doc(t)
	if got := d.Find("nav [aria-current=page]").Text(); strings.TrimSpace(got) != "Endpoint services" {
		t.Errorf("current entry %q", got)
	}

	d = a.post(t, b, base+"/changed", form, asHTMX...).doc(t)
	if d.Find("hx-partial[hx-target='#row-1'][hx-swap=outerMorph] .tag").Length() != 1 || !strings.Contains(d.Find("hx-partial[hx-target='#toasts']").Text(), "Saved it.") {
		t.Error("htmx does not get the row and a toast")
	}
	res := a.post(t, b, base+"/changed", form)
	if res.StatusCode != http.StatusSeeOther {
		t.Fatalf("a browser gets %d", res.StatusCode)
	}
	for range 2 { // and again after a reload
		if got := a.get(t, b, res.Header.Get("Location")).doc(t).Find("[data-testid=flash]").Text(); !strings.Contains(got, "Saved it.") {
			t.Errorf("the page says %q", got)
		}
	}
	res = a.post(t, b, base+"/moved", form, asHTMX...)
	if to := res.Header.Get("HX-Location"); res.StatusCode != http.StatusOK || !strings.HasPrefix(to, base+"/both?tab=x&flash=") {
		t.Errorf("htmx: %d to %q", res.StatusCode, to)
	}
	// The note is of this account: elsewhere it says nothing.
	id := res.Header.Get("HX-Location")[strings.Index(res.Header.Get("HX-Location"), "flash=")+len("flash="):]
	if n := a.console.flashes.find(id, a.Consumer.Account().ID); n != nil {
		t.Errorf("another account reads %v", n)
	}
	for range maxFlashes {
		a.console.flashes.add("x", ui.Note{Title: "x"}, "/")
	}
	if n := a.console.flashes.find(id, a.Provider.Account().ID); n != nil || len(a.console.flashes.byID) != maxFlashes {
		t.Errorf("%d notes are kept", len(a.console.flashes.byID))
	}
}

func TestThemeIsKept(t *testing.T) {
	a := newTestApp(t)
	b := a.browser(t)
	for _, tt := range []struct{ set, want string }{{"dark", "dark"}, {"light", "light"}, {"system", ""}, {`"><script>`, ""}} {
		res := a.post(t, b, "/theme", url.Values{"theme": {tt.set}}, "Referer", a.URL+"/sign-in?next=%2Fx")
		if got := res.Header.Get("Location"); got != "/sign-in?next=%2Fx" {
			t.Errorf("leads to %q", got)
		}
		if got := a.get(t, b, "/sign-in").doc(t).Find("html").AttrOr("data-theme", ""); got != tt.want {
			t.Errorf("theme %q is shown as %q, want %q", tt.set, got, tt.want)
		}
	}
	if res := a.post(t, b, "/theme", url.Values{"theme": {"dark"}}, "Referer", "https://evil.example/x"); res.Header.Get("Location") != "/" {
		t.Errorf("from elsewhere it leads to %q", res.Header.Get("Location"))
	}
}
