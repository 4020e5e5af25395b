package handlers_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
	"github.com/openprivatelink/openprivatelink/handlers"
)

// app is a server on a loopback port over a world.
type app struct {
	*httptest.Server
	*domaintest.World
	handler *echo.Echo
	log     *bytes.Buffer
	metrics *prometheus.Registry
}

func start(t *testing.T, change ...func(*handlers.Config)) *app {
	t.Helper()
	a := &app{World: domaintest.New(t), log: &bytes.Buffer{}, metrics: prometheus.NewRegistry()}
	log := slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	conf := handlers.Config{
		Store:       a.Store,
		SessionKeys: func() ([]byte, error) { return bytes.Repeat([]byte("k"), 32), nil },
		Metrics:     a.metrics,
		Log:         log,
	}
	for _, c := range change {
		c(&conf)
	}
	h, err := handlers.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	a.handler = h.Echo()
	a.Server = httptest.NewServer(h)
	t.Cleanup(a.Close)
	return a
}

// browser keeps cookies and does not follow redirects.
func (a *app) browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body string
}

func (a *app) do(t *testing.T, b *http.Client, method, path string, form url.Values, header ...string) answer {
	t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(t.Context(), method, a.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
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
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res, string(text)}
}

// password makes a user with a password in the accounts, and returns their name.
func (a *app) password(t *testing.T, name string, accounts ...*domain.Scope) string {
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

func (a *app) signIn(t *testing.T, b *http.Client, name string) answer {
	t.Helper()
	return a.do(t, b, "POST", "/sign-in", url.Values{"user": {name}, "password": {"correct horse " + name}, "next": {"/"}})
}

var htmx = []string{"HX-Request", "true", "HX-Request-Type", "partial"}

func page(t *testing.T, a answer) *goquery.Document {
	t.Helper()
	d, err := goquery.NewDocumentFromReader(strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSecurityHeadersAreOnEveryAnswer(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	static := page(t, a.do(t, b, "GET", "/sign-in", nil)).Find("link[rel=stylesheet]").AttrOr("href", "")
	for _, path := range []string{"/", "/sign-in", "/nowhere", "/healthz", "/readyz", static, "/static/wrong.js", "/a/1/services", "/events"} {
		res := a.do(t, b, "GET", path, nil)
		csp := res.Header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "script-src 'self'") || strings.Contains(csp, "unsafe") {
			t.Errorf("GET %s: CSP %q", path, csp)
		}
		for h, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"} {
			if got := res.Header.Get(h); got != want {
				t.Errorf("GET %s: %s = %q, want %q", path, h, got, want)
			}
		}
		if res.Header.Get("X-Request-Id") == "" {
			t.Errorf("GET %s: no request id", path)
		}
		if res.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("GET %s: Strict-Transport-Security over http", path)
		}
	}
}

// Every page of the console asks who it is, but those on the public list.
func TestStrangersSeeOnlyPublicRoutes(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	checked := 0
	for _, r := range a.handler.Routes() {
		name := r.Method + " " + r.Path
		if slices.Contains(handlers.Public, name) || r.Method == echo.RouteNotFound {
			continue
		}
		checked++
		path := strings.NewReplacer(":account", a.Provider.Account().ID, ":session", "ses-1", ":", "", "*", "x").Replace(r.Path)
		t.Run(name, func(t *testing.T) {
			res := a.do(t, b, r.Method, path, nil)
			switch {
			case res.StatusCode == http.StatusUnauthorized:
			case res.StatusCode == http.StatusSeeOther && strings.HasPrefix(res.Header.Get("Location"), "/sign-in"):
			default:
				t.Errorf("got %d, Location %q; want the way to the sign-in page", res.StatusCode, res.Header.Get("Location"))
			}
			if strings.Contains(res.body, "provider") {
				t.Error("the answer names the account")
			}
		})
		res := a.do(t, b, r.Method, path, nil, htmx...)
		if res.StatusCode == http.StatusUnauthorized && r.Path != "/events" && !strings.HasPrefix(res.Header.Get("HX-Redirect"), "/sign-in") {
			t.Errorf("%s: htmx is not sent to the sign-in page", name)
		}
	}
	if checked < 3 {
		t.Fatalf("checked %d routes: the list of routes is not read", checked)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	big := url.Values{"user": {strings.Repeat("x", 1<<20)}}
	if res := a.do(t, b, "POST", "/sign-in", big); res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("with a length: got %d, want 413", res.StatusCode)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", a.URL+"/sign-in", struct{ io.Reader }{strings.NewReader(big.Encode())})
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := b.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("chunked: got %d, want 413", res.StatusCode)
	}
}

func TestWritesFromOtherSitesAreRefused(t *testing.T) {
	public, err := url.Parse("https://link.example.com")
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, func(c *handlers.Config) { c.PublicURL = public })
	b := a.browser(t)
	tests := []struct {
		header []string
		want   int
	}{
		{nil, http.StatusSeeOther},
		{[]string{"Sec-Fetch-Site", "same-origin"}, http.StatusSeeOther},
		{[]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{[]string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		{[]string{"Origin", "https://evil.example"}, http.StatusForbidden},
		{[]string{"Origin", "null"}, http.StatusForbidden},
		{[]string{"Origin", "https://link.example.com"}, http.StatusSeeOther},
	}
	for _, tt := range tests {
		res := a.do(t, b, "POST", "/theme", url.Values{"theme": {"dark"}}, tt.header...)
		if res.StatusCode != tt.want {
			t.Errorf("%v: got %d, want %d", tt.header, res.StatusCode, tt.want)
		}
	}
	if got := a.do(t, b, "GET", "/healthz", nil).Header.Get("Strict-Transport-Security"); got == "" {
		t.Error("no Strict-Transport-Security with an https address")
	}
}

func TestOnlyTrustedProxiesSpeakForOthers(t *testing.T) {
	tests := []struct {
		trusted string
		want    string
	}{
		{"", "127.0.0.1"},
		{"192.0.2.0/24", "127.0.0.1"},
		{"127.0.0.0/8", "203.0.113.9"},
	}
	for _, tt := range tests {
		t.Run("trusted "+tt.trusted, func(t *testing.T) {
			a := start(t, func(c *handlers.Config) {
				if tt.trusted != "" {
					c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(tt.trusted)}
				}
			})
			a.do(t, a.browser(t), "GET", "/healthz", nil, "X-Forwarded-For", "198.51.100.1, 203.0.113.9")
			if want := "addr=" + tt.want + " "; !strings.Contains(a.log.String(), want) {
				t.Errorf("log has no %q:\n%s", want, a.log)
			}
		})
	}
}

func TestSecretsStayOutOfTheLog(t *testing.T) {
	a := start(t)
	a.do(t, a.browser(t), "GET", "/welcome?t=SECRETLINK", nil)
	a.do(t, a.browser(t), "POST", "/sign-in", url.Values{"user": {"mara"}, "password": {"SECRETWORD"}})
	if strings.Contains(a.log.String(), "SECRET") {
		t.Errorf("the log holds a secret:\n%s", a.log)
	}
}

func TestHealth(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	for _, path := range []string{"/healthz", "/readyz"} {
		if res := a.do(t, b, "GET", path, nil); res.StatusCode != http.StatusOK {
			t.Errorf("%s: got %d, want 200", path, res.StatusCode)
		}
	}
	if err := a.Store.Close(); err != nil {
		t.Fatal(err)
	}
	if res := a.do(t, b, "GET", "/readyz", nil); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz without a store: got %d, want 503", res.StatusCode)
	}
	if res := a.do(t, b, "GET", "/healthz", nil); res.StatusCode != http.StatusOK {
		t.Errorf("/healthz without a store: got %d, want 200", res.StatusCode)
	}
	if res := a.do(t, b, "GET", "/metrics", nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("/metrics where tenants are: got %d", res.StatusCode)
	}
	out := httptest.NewRecorder()
	promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{}).ServeHTTP(out, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(out.Body.String(), `openprivatelink_http_request_seconds_count{code="200",method="GET",route="/healthz"} 2`) {
		t.Errorf("requests are not counted by route:\n%s", out.Body)
	}
}

func TestNowhere(t *testing.T) {
	a := start(t)
	b := a.browser(t)
	res := a.do(t, b, "GET", "/no/such/page", nil)
	if res.StatusCode != http.StatusNotFound || page(t, res).Find("[data-testid=failure]").Length() != 1 {
		t.Errorf("got %d: %s", res.StatusCode, res.body)
	}
	if res := a.do(t, b, "DELETE", "/sign-in", nil); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("DELETE /sign-in: got %d, want 405", res.StatusCode)
	}
}

func TestMissingAssetsAreNamed(t *testing.T) {
	get := func(missing []string, accept string) *httptest.ResponseRecorder {
		e := echo.New()
		e.Use(handlers.WithAssets(missing))
		e.GET("/", func(c echo.Context) error { return c.String(http.StatusOK, "page") })
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		req.Header.Set("Accept", accept)
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		return rec
	}
	if rec := get([]string{"htmx.min.js"}, "text/html,*/*"); rec.Code != http.StatusServiceUnavailable || !strings.Contains(rec.Body.String(), "htmx.min.js") {
		t.Errorf("a page without its files: %d %s", rec.Code, rec.Body)
	}
	for _, rec := range []*httptest.ResponseRecorder{get(nil, "text/html"), get([]string{"htmx.min.js"}, "application/json")} {
		if rec.Body.String() != "page" {
			t.Errorf("got %d %s", rec.Code, rec.Body)
		}
	}
}

func TestAPIHasTheRootForItself(t *testing.T) {
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"from": "api"})
	})
	a := start(t, func(c *handlers.Config) { c.API = api })
	b := a.browser(t)
	for _, r := range []struct{ method, path string }{{"POST", "/"}, {"GET", "/?Action=DescribeRegions"}, {"POST", "/?Action=DescribeRegions"}} {
		if res := a.do(t, b, r.method, r.path, nil); !strings.Contains(res.body, `"from":"api"`) {
			t.Errorf("%s %s: got %d %q, want the API", r.method, r.path, res.StatusCode, res.body)
		}
	}
	if res := a.do(t, b, "GET", "/", nil); res.StatusCode != http.StatusSeeOther {
		t.Errorf("GET /: got %d, want the console's redirect", res.StatusCode)
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	a := start(t)
	a.handler.GET("/panic", func(echo.Context) error { panic("at /secret/path.go:1") })
	res := a.do(t, a.browser(t), "GET", "/panic", nil)
	if res.StatusCode != http.StatusInternalServerError {
		t.Errorf("got %d, want 500", res.StatusCode)
	}
	if strings.Contains(res.body, "path.go") {
		t.Error("the page shows the panic")
	}
	if id := res.Header.Get("X-Request-Id"); !strings.Contains(res.body, id) || !strings.Contains(a.log.String(), "at /secret/path.go:1") {
		t.Error("the request id is not on the page, or the panic not in the log")
	}
}
