package domain_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// BenchmarkFilled measures pages and the engine's reads in a store with 10,000
// services and 50,000 endpoints, of which half belong to one account.
func BenchmarkFilled(b *testing.B) {
	w := domaintest.New(b)
	begun := time.Now()
	f := domaintest.Fill(b, w, 10_000, 50_000)
	b.Logf("filled in %v", time.Since(begun).Round(time.Millisecond))
	p, c, sys := w.Provider, w.Consumer, w.Store.System()
	first := domain.Query{}
	filter := func(key, value string) domain.Query { return domain.Query{Filter: map[string][]string{key: {value}}} }
	deep := func(page func(domain.Query) (next string, err error)) domain.Query { // hundred pages in
		q := domain.Query{}
		for range 100 {
			next, err := page(q)
			if err != nil {
				b.Fatal(err)
			}
			q.After = next
		}
		return q
	}
	services := deep(func(q domain.Query) (string, error) { x, err := p.Services(b.Context(), q); return x.Next, err })
	connections := deep(func(q domain.Query) (string, error) {
		x, err := p.Connections(b.Context(), domain.ConnQuery{Query: q})
		return x.Next, err
	})
	for _, bm := range []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"Services", func(ctx context.Context) error { _, err := p.Services(ctx, first); return err }},
		{"Services/deep", func(ctx context.Context) error { _, err := p.Services(ctx, services); return err }},
		{"Services/text", func(ctx context.Context) error {
			_, err := p.Services(ctx, domain.Query{Text: "service-04"})
			return err
		}},
		{"Services/waiting", func(ctx context.Context) error { _, err := p.Services(ctx, filter("decision", "waiting")); return err }},
		{"Service", func(ctx context.Context) error { _, err := p.Service(ctx, f.ServiceID); return err }},
		{"Whitelist", func(ctx context.Context) error { _, err := p.Whitelist(ctx, f.ServiceID, first); return err }},
		{"LoadBalancers", func(ctx context.Context) error { _, err := p.LoadBalancers(ctx, first); return err }},
		{"LoadBalancer", func(ctx context.Context) error { _, err := p.LoadBalancer(ctx, f.BalancerID); return err }},
		{"Connections", func(ctx context.Context) error { _, err := p.Connections(ctx, domain.ConnQuery{}); return err }},
		{"Connections/deep", func(ctx context.Context) error {
			_, err := p.Connections(ctx, domain.ConnQuery{Query: connections})
			return err
		}},
		{"Connections/waiting", func(ctx context.Context) error {
			_, err := p.Connections(ctx, domain.ConnQuery{Query: filter("decision", "waiting")})
			return err
		}},
		{"Connections/service", func(ctx context.Context) error {
			_, err := p.Connections(ctx, domain.ConnQuery{Query: filter("service", f.ServiceID)})
			return err
		}},
		{"Connections/nobody", func(ctx context.Context) error {
			_, err := p.Connections(ctx, domain.ConnQuery{Query: domain.Query{Text: "nobody"}})
			return err
		}},
		{"ConnectionCounts", func(ctx context.Context) error { _, _, _, _, err := p.ConnectionCounts(ctx); return err }},
		{"Connection", func(ctx context.Context) error { _, err := p.Connection(ctx, f.WaitingID); return err }},
		{"Catalogue", func(ctx context.Context) error { _, err := c.Catalogue(ctx, first); return err }},
		{"FindService", func(ctx context.Context) error { _, err := c.FindService(ctx, f.ServiceID); return err }},
		{"Endpoints", func(ctx context.Context) error { _, err := c.Endpoints(ctx, first); return err }},
		{"Endpoints/vpc", func(ctx context.Context) error { _, err := c.Endpoints(ctx, filter("vpc", f.VPCID)); return err }},
		{"Endpoints/waiting", func(ctx context.Context) error { _, err := c.Endpoints(ctx, filter("decision", "waiting")); return err }},
		{"Endpoint", func(ctx context.Context) error { _, err := c.Endpoint(ctx, f.EndpointID); return err }},
		{"EngineEndpoints/one", func(ctx context.Context) error {
			_, err := sys.EngineEndpoints(ctx, []string{f.EndpointID})
			return err
		}},
		{"EngineEndpoints/all", func(ctx context.Context) error { _, err := sys.EngineEndpoints(ctx, nil); return err }},
		{"EngineVPCs/one", func(ctx context.Context) error { _, err := sys.EngineVPCs(ctx, []string{f.VPCID}); return err }},
		{"EngineVPCs/all", func(ctx context.Context) error { _, err := sys.EngineVPCs(ctx, nil); return err }},
		{"AcceptAndConnect", func(ctx context.Context) error {
			if _, err := p.AcceptConnection(ctx, f.WaitingID, domain.AcceptInput{}); err != nil {
				return err
			}
			if err := followOne(ctx, sys, f.WaitingID); err != nil {
				return err
			}
			if _, err := p.RejectConnection(ctx, f.WaitingID, domain.RejectInput{}); err != nil {
				return err
			}
			return followOne(ctx, sys, f.WaitingID)
		}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				begun := time.Now()
				if err := bm.call(b.Context()); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begun))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// followOne does for one endpoint what the engine and its reports do.
func followOne(ctx context.Context, sys *domain.System, ep string) error {
	e, err := sys.EngineEndpoints(ctx, []string{ep})
	if err != nil {
		return err
	}
	return sys.Report(ctx, domain.Report{Endpoints: []domain.EndpointReport{domaintest.Followed(e[0])}})
}
