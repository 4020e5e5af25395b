package reconcile

import (
	"slices"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// BenchmarkDecisions accepts and rejects one connection beside 10,000 endpoints, and
// reports what a provider and a consumer wait for: from the click to Connected and
// the first byte through the endpoint (at most 300 ms for 99 of 100), and from the
// click to the reset of a live flow (at most 200 ms).
func BenchmarkDecisions(b *testing.B) {
	s := play(b, func(w *domaintest.World) {
		domaintest.Fill(b, w, 1000, 10_000)
		for _, account := range []string{w.Provider.Account().ID, w.Consumer.Account().ID} {
			for _, quota := range []string{"vpcs", "load_balancers", "services", "security_groups"} {
				if err := w.Operator.SetQuota(b.Context(), account, quota, 100_000); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	s.patience = 3 * time.Minute
	s.accept() // everything is made before the first measurement
	_, err := s.Provider.RejectConnection(b.Context(), s.endpoint.ID, domain.RejectInput{})
	s.ok(err)
	s.waits(domain.Disconnected)
	var accepted, rejected []time.Duration
	for b.Loop() {
		begun := time.Now()
		_, err := s.Provider.AcceptConnection(b.Context(), s.endpoint.ID, domain.AcceptInput{})
		s.ok(err)
		s.waits(domain.Connected)
		c, err := s.dial()
		s.ok(err)
		if got, err := say(c, "x"); got != "x" {
			b.Fatalf("got %q, %v", got, err)
		}
		accepted = append(accepted, time.Since(begun))
		begun = time.Now()
		_, err = s.Provider.RejectConnection(b.Context(), s.endpoint.ID, domain.RejectInput{})
		s.ok(err)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			b.Fatal("the flow goes on")
		}
		rejected = append(rejected, time.Since(begun))
		s.waits(domain.Disconnected)
	}
	report := func(name string, all []time.Duration) {
		slices.Sort(all)
		at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000 }
		b.ReportMetric(at(0.5), name+"-p50-ms")
		b.ReportMetric(at(0.99), name+"-p99-ms")
	}
	report("accept-to-byte", accepted)
	report("reject-to-reset", rejected)
}
