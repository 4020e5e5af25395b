package domain_test

import (
	"sync"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// TestDeadlock lets two transactions wait for each other: both get their turn.
func TestDeadlock(t *testing.T) {
	if domaintest.Postgres() == "" {
		t.Skip("SQLite has one writer at a time")
	}
	w := domaintest.New(t)
	var wg, met sync.WaitGroup
	met.Add(2)
	for s, other := range map[*domain.Scope]*domain.Scope{w.Provider: w.Consumer, w.Consumer: w.Provider} {
		wg.Go(func() {
			meet := sync.OnceFunc(func() { // each has locked its own account
				met.Done()
				met.Wait()
			})
			if err := domain.LockBoth(t.Context(), s, other.Account().ID, meet); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestRevisions lets many writers count changes for the engine at the same time:
// every one has a number, and no number is used twice.
func TestRevisions(t *testing.T) {
	w := domaintest.New(t)
	const writers, rounds, each = 4, 5, 3
	var wg sync.WaitGroup
	for _, s := range []*domain.Scope{w.Provider, w.Consumer} {
		for range writers {
			wg.Go(func() {
				for range rounds {
					if err := domain.Stale(t.Context(), s, "vpc-1", "vpc-2", "vpc-3"); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	var got struct{ Count, Low, High, Last int64 }
	check(t, w.Store.DB().Raw(`SELECT count(*) AS count, min(revision) AS low, max(revision) AS high,
		(SELECT revision FROM revisions) AS last FROM engine_changes`).Scan(&got).Error)
	const n = 2 * writers * rounds * each
	if want := (struct{ Count, Low, High, Last int64 }{n, 1, n, n}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestOfferRace withdraws offers while somebody begins to use them: no attachment is
// left with an offer that is gone.
func TestOfferRace(t *testing.T) {
	c := newCampus(t)
	ctx := t.Context()
	for range 10 {
		o := must(c.Operator.CreateOffer(ctx, domain.OfferInput{Label: "A database", Kind: domain.AttachHost, HostIP: "127.0.0.1"}))(t)
		var wg sync.WaitGroup
		var used, withdrawn error
		wg.Go(func() {
			_, used = c.Provider.CreateAttachment(ctx, domain.AttachmentInput{VPCID: c.vpc.ID, Kind: domain.AttachHost, OfferID: o.ID, HostPort: 80})
		})
		wg.Go(func() { withdrawn = c.Operator.DeleteOffer(ctx, o.ID) })
		wg.Wait()
		if (used == nil) == (withdrawn == nil) {
			t.Fatalf("used: %v; withdrawn: %v; want one of them", used, withdrawn)
		}
	}
}
