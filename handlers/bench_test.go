package handlers_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/openprivatelink/openprivatelink/domain/domaintest"
	"github.com/openprivatelink/openprivatelink/handlers"
)

// BenchmarkPages asks the server for each page of an account in a store with 10,000
// services and 50,000 endpoints; 99 of 100 answers shall take at most 30 ms.
func BenchmarkPages(b *testing.B) {
	w := domaintest.New(b)
	f := domaintest.Fill(b, w, 10_000, 50_000)
	h, err := handlers.New(handlers.Config{
		Store: w.Store, SessionKeys: func() ([]byte, error) { return bytes.Repeat([]byte("k"), 32), nil },
		Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	signIn := func(user string) []*http.Cookie {
		link, err := w.Operator.SignInLink(b.Context(), user)
		if err != nil {
			b.Fatal(err)
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/welcome?t="+link, nil))
		return rec.Result().Cookies()
	}
	provider, consumer := signIn(w.Provider.User().Name), signIn(w.Consumer.User().Name)
	p, c := "/a/"+w.Provider.Account().ID, "/a/"+w.Consumer.Account().ID
	name := strings.NewReplacer("/a/"+w.Provider.Account().ID, "provider", "/a/"+w.Consumer.Account().ID, "consumer",
		f.ServiceID, "id", f.WaitingID, "id", f.BalancerID, "id", f.EndpointID, "id", f.VPCID, "id")
	for _, page := range []struct {
		path    string
		cookies []*http.Cookie
	}{
		{p, provider},
		{p + "/services", provider},
		{p + "/services/" + f.ServiceID, provider},
		{p + "/services/" + f.ServiceID + "?tab=whitelist", provider},
		{p + "/connections", provider},
		{p + "/connections?decision=waiting", provider},
		{p + "/connections/" + f.WaitingID, provider},
		{p + "/load-balancers", provider},
		{p + "/load-balancers/" + f.BalancerID, provider},
		{p + "/audit", provider},
		{c, consumer},
		{c + "/catalogue", consumer},
		{c + "/endpoints", consumer},
		{c + "/endpoints/" + f.EndpointID, consumer},
		{c + "/vpcs", consumer},
		{c + "/vpcs/" + f.VPCID, consumer},
		{c + "/security-groups", consumer},
		{c + "/route-tables", consumer},
	} {
		b.Run(name.Replace(page.path), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, page.path, nil)
				for _, cookie := range page.cookies {
					req.AddCookie(cookie)
				}
				rec := httptest.NewRecorder()
				begun := time.Now()
				h.ServeHTTP(rec, req)
				took = append(took, time.Since(begun))
				if rec.Code != http.StatusOK {
					b.Fatalf("%s: %d", page.path, rec.Code)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
