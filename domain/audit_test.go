package domain_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestAuditFindsTampering(t *testing.T) {
	w := domaintest.New(t)
	s := w.Provider
	const last = 10
	have, err := s.VerifyAudit(t.Context())
	check(t, err)
	check(t, domain.Note(t.Context(), s, w.Consumer.Account().ID, "", int(last-have.Entries)))
	tests := []struct {
		name, sql string
		want      int64 // broken at; 0 for intact
	}{
		{"nothing", "SELECT 1", 0},
		{"an entry of another account", "UPDATE audit_events SET action = 'Innocent' WHERE account_id <> ?", 0},
		{"a field", "UPDATE audit_events SET actor_name = 'somebody else' WHERE account_id = ? AND seq = 4", 4},
		{"the time", "UPDATE audit_events SET time = '2020-01-01 00:00:00' WHERE account_id = ? AND seq = 4", 4},
		{"a hash", "UPDATE audit_events SET hash = 'x' WHERE account_id = ? AND seq = 4", 4},
		{"an entry is deleted", "DELETE FROM audit_events WHERE account_id = ? AND seq = 4", 4},
		{"the first", "DELETE FROM audit_events WHERE account_id = ? AND seq = 1", 1},
		{"the end is cut off", "DELETE FROM audit_events WHERE account_id = ? AND seq >= 9", 9},
		{"all", "DELETE FROM audit_events WHERE account_id = ?", 1},
		{"the head", "UPDATE audit_heads SET hash = 'x' WHERE account_id = ?", 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tx := w.Store.DB().Begin()
			defer tx.Rollback()
			args := []any{s.Account().ID}
			if tt.want == 0 && tt.name == "nothing" {
				args = nil
			}
			check(t, tx.Exec(tt.sql, args...).Error)
			got, err := domain.VerifyChain(tx, s.Account().ID)
			check(t, err)
			if want := (domain.AuditCheck{Entries: last, BrokenAt: tt.want}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestAuditFindsForgery: an entry with a right hash that is not the one written.
func TestAuditFindsForgery(t *testing.T) {
	w := domaintest.New(t)
	s, db := w.Provider, w.Store.DB()
	check(t, domain.Note(t.Context(), s, w.Consumer.Account().ID, "", 5))
	var e domain.AuditEvent
	check(t, db.Where("account_id = ? AND seq = 4", s.Account().ID).Take(&e).Error)
	e.ActorName = "somebody else"
	e.Hash = domain.Sum(e)
	check(t, db.Where("account_id = ? AND seq = 4", e.AccountID).Updates(&e).Error)
	got, err := s.VerifyAudit(t.Context())
	check(t, err)
	if got.BrokenAt != 5 {
		t.Errorf("got %+v, want it broken where the chain goes on", got)
	}
}

// TestAuditIsOneChain lets many write about two accounts at the same time, from
// both sides.
func TestAuditIsOneChain(t *testing.T) {
	w := domaintest.New(t)
	ctx := t.Context()
	before := map[*domain.Scope]int64{}
	for _, s := range []*domain.Scope{w.Provider, w.Consumer} {
		c, err := s.VerifyAudit(ctx)
		check(t, err)
		before[s] = c.Entries
	}
	const writers, rounds, entries = 4, 5, 3
	var wg sync.WaitGroup
	for s, other := range map[*domain.Scope]*domain.Scope{w.Provider: w.Consumer, w.Consumer: w.Provider} {
		for i := range writers {
			wg.Go(func() {
				for range rounds {
					if err := domain.Note(ctx, s, other.Account().ID, fmt.Sprint(s.Account().Name, i), entries); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for s, n := range before {
		got, err := s.VerifyAudit(ctx)
		check(t, err)
		if want := (domain.AuditCheck{Entries: n + 2*writers*rounds*entries}); got != want {
			t.Errorf("trail of %s: %+v, want %+v", s.Account().Name, got, want)
		}
	}
}

func TestAuditList(t *testing.T) {
	w := domaintest.New(t)
	ctx, s := t.Context(), w.Provider
	check(t, domain.Note(ctx, s, w.Consumer.Account().ID, "Mine_50%", 30))
	check(t, domain.Note(ctx, w.Consumer, s.Account().ID, "Theirs", 3))
	list := func(q domain.AuditQuery) domain.Page[domain.AuditEvent] {
		t.Helper()
		p, err := s.Audit(ctx, q)
		check(t, err)
		return p
	}
	seqs := func(p domain.Page[domain.AuditEvent]) (out []int64) {
		for _, e := range p.Items {
			out = append(out, e.Seq)
		}
		return out
	}

	// All pages forwards, and backwards the same again.
	all := list(domain.AuditQuery{Query: domain.Query{Limit: 200}})
	if n := len(all.Items); n < 33 || all.Items[n-1].Seq != 1 || all.Items[0].Seq != int64(n) {
		t.Fatalf("the whole trail: %v", seqs(all))
	}
	var pages [][]int64
	p := list(domain.AuditQuery{Query: domain.Query{Limit: 10}})
	for {
		pages = append(pages, seqs(p))
		if p.Next == "" {
			break
		}
		p = list(domain.AuditQuery{Query: domain.Query{Limit: 10, After: p.Next}})
	}
	var joined []int64
	for _, page := range pages {
		joined = append(joined, page...)
	}
	if diff := cmp.Diff(seqs(all), joined); diff != "" {
		t.Errorf("pages are not the whole:\n%s", diff)
	}
	for i := len(pages) - 2; i >= 0; i-- {
		p = list(domain.AuditQuery{Query: domain.Query{Limit: 10, Before: p.Prev}})
		if diff := cmp.Diff(pages[i], seqs(p)); diff != "" {
			t.Errorf("back on page %d:\n%s", i, diff)
		}
	}
	if p.Prev != "" || p.Next == "" {
		t.Errorf("the first page, come back to: prev %q, next %q", p.Prev, p.Next)
	}

	for _, tt := range []struct {
		name string
		q    domain.AuditQuery
		want int
	}{
		{"actor by name", domain.AuditQuery{Actor: s.User().Name, Action: "Note"}, 30},
		{"actor by id", domain.AuditQuery{Actor: s.User().ID, Action: "Note"}, 30},
		{"the other side", domain.AuditQuery{Actor: w.Consumer.Account().ID}, 3},
		{"the other side's user", domain.AuditQuery{Actor: w.Consumer.User().Name}, 0},
		{"the system", domain.AuditQuery{Actor: "system", Action: "CreateAccount"}, 1},
		{"the engine", domain.AuditQuery{Actor: "engine"}, 0},
		{"resource", domain.AuditQuery{ResourceID: w.Consumer.Account().ID}, 3},
		{"text, any case", domain.AuditQuery{Query: domain.Query{Text: "mine_5"}}, 30},
		{"text is no pattern", domain.AuditQuery{Query: domain.Query{Text: "m%e"}}, 0},
		{"text is an id", domain.AuditQuery{Query: domain.Query{Text: w.Consumer.Account().ID}}, 3},
		{"none", domain.AuditQuery{Action: "Nothing"}, 0},
	} {
		tt.q.Limit = 200
		if got := list(tt.q); len(got.Items) != tt.want {
			t.Errorf("%s: %d entries, want %d", tt.name, len(got.Items), tt.want)
		}
	}
	if _, err := s.Audit(ctx, domain.AuditQuery{Query: domain.Query{After: "x"}}); domain.KindOf(err) != domain.Invalid {
		t.Errorf("a cursor of nobody: %v", err)
	}

	// The other side's entries tell which account acted and not who.
	e := list(domain.AuditQuery{ResourceID: w.Consumer.Account().ID}).Items[0]
	if e.ActorKind != domain.ActorPeer || e.ActorID != w.Consumer.Account().ID || e.ActorName != "" || e.SourceIP != "" || e.RequestID != "" {
		t.Errorf("the other side is shown as %+v", e)
	}
	own := list(domain.AuditQuery{Actor: s.User().Name}).Items[0]
	if own.ActorKind != domain.ActorUser || own.ActorName != s.User().Name || own.SourceIP != "192.0.2.1" || own.RequestID != "test" || own.Channel != "console" {
		t.Errorf("this side is shown as %+v", own)
	}
	one, err := s.AuditEvent(ctx, own.Seq)
	check(t, err)
	if diff := cmp.Diff(own, *one); diff != "" {
		t.Error(diff)
	}
	_, err = s.AuditEvent(ctx, 9999)
	fails(t, err, domain.NotFound, "audit_not_found")
}
