package domain_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

const token = "one-render-of-a-form"

// keys counts the access keys of the account.
func keys(t *testing.T, s *domain.Scope) int {
	t.Helper()
	ks, err := s.AccessKeys(t.Context())
	check(t, err)
	return len(ks)
}

func createKey(ctx context.Context, s *domain.Scope) (string, error) {
	key, _, err := s.CreateAccessKey(ctx)
	if err != nil {
		return "", err
	}
	return key.ID, nil
}

func TestOnce(t *testing.T) {
	w := domaintest.New(t)
	ctx, s := t.Context(), w.Provider
	send := func(s *domain.Scope, token, action, digest string) (string, bool, error) {
		return s.Once(ctx, token, action, digest, func(ctx context.Context) (string, error) { return createKey(ctx, s) })
	}
	first, repeated, err := send(s, token, "create", "a=1")
	check(t, err)
	if first == "" || repeated {
		t.Errorf("got %q, repeated %v", first, repeated)
	}
	again, repeated, err := send(s, token, "create", "a=1")
	check(t, err)
	if again != first || !repeated || keys(t, s) != 1 {
		t.Errorf("sent twice: got %q, repeated %v, %d keys; want %q once", again, repeated, keys(t, s), first)
	}
	_, _, err = send(s, token, "create", "a=2")
	fails(t, err, domain.Conflict, "form_token_reused")
	_, _, err = send(s, token, "destroy", "a=1")
	fails(t, err, domain.Conflict, "form_token_reused")
	for _, bad := range []string{"", "short", "a token with spaces", strings.Repeat("x", 65), "not-a-token\x00------"} {
		_, _, err = send(s, bad, "create", "a=1")
		fails(t, err, domain.Invalid, "invalid_form_token")
	}
	if _, repeated, err = send(w.Consumer, token, "create", "a=1"); err != nil || repeated {
		t.Errorf("another account's form: repeated %v, %v", repeated, err)
	}

	w.Clock.Step(24*time.Hour - time.Second)
	check(t, w.Store.System().Housekeep(ctx))
	if _, repeated, err = send(s, token, "create", "a=1"); err != nil || !repeated {
		t.Errorf("a day later: repeated %v, %v", repeated, err)
	}
	w.Clock.Step(time.Second)
	check(t, w.Store.System().Housekeep(ctx))
	if _, repeated, err = send(s, token, "create", "a=1"); err != nil || repeated {
		t.Errorf("two days later: repeated %v, %v", repeated, err)
	}
}

// TestOnceIsOneTransaction: what fails in the middle has not happened, and the form
// can be sent again.
func TestOnceIsOneTransaction(t *testing.T) {
	w := domaintest.New(t)
	ctx, s := t.Context(), w.Provider
	before := dump(t, w.Store)
	fault := errors.New("in the middle")
	_, _, err := s.Once(ctx, token, "create", "", func(ctx context.Context) (string, error) {
		if _, err := createKey(ctx, s); err != nil {
			return "", err
		}
		ks, err := s.AccessKeys(ctx)
		if err != nil || len(ks) != 1 {
			t.Errorf("inside: %d keys, %v; want the new one", len(ks), err)
		}
		return "", fault
	})
	if !errors.Is(err, fault) {
		t.Errorf("got %v, want the fault", err)
	}
	for table, rows := range dump(t, w.Store) {
		if rows != before[table] {
			t.Errorf("%s changed", table)
		}
	}
	// What belongs to another account is not written on the side.
	_, _, err = s.Once(ctx, token, "create", "", func(ctx context.Context) (string, error) { return createKey(ctx, w.Consumer) })
	if err == nil || keys(t, w.Consumer) != 0 {
		t.Errorf("joined another account's transaction: %v", err)
	}
	_, repeated, err := s.Once(ctx, token, "create", "", func(ctx context.Context) (string, error) { return createKey(ctx, s) })
	check(t, err)
	if repeated || keys(t, s) != 1 {
		t.Errorf("sent again: repeated %v, %d keys", repeated, keys(t, s))
	}
}

// TestOnceAtTheSameTime sends one form many times at once: it happens once, and
// everybody gets the result.
func TestOnceAtTheSameTime(t *testing.T) {
	w := domaintest.New(t)
	s := w.Provider
	var ran, first atomic.Int32
	var wg sync.WaitGroup
	results := make([]string, 8)
	for i := range results {
		wg.Go(func() {
			result, repeated, err := s.Once(t.Context(), token, "create", "", func(ctx context.Context) (string, error) {
				ran.Add(1)
				return createKey(ctx, s)
			})
			if err != nil {
				t.Error(err)
			}
			if !repeated {
				first.Add(1)
			}
			results[i] = result
		})
	}
	wg.Wait()
	if ran.Load() != 1 || first.Load() != 1 || keys(t, s) != 1 {
		t.Errorf("ran %d times, first %d times, made %d keys; want 1", ran.Load(), first.Load(), keys(t, s))
	}
	for _, r := range results {
		if r == "" || r != results[0] {
			t.Errorf("results %v, want the same", results)
			break
		}
	}
}

func TestHousekeep(t *testing.T) {
	w := domaintest.New(t)
	ctx, u := t.Context(), w.User()
	w.Token(u.ID)
	_, err := w.Operator.SignInLink(ctx, u.ID)
	check(t, err)
	check(t, domain.Stale(ctx, w.Provider, "vpc-1", "vpc-2"))
	y := w.Store.System()
	count := func(table string) (n int64) {
		t.Helper()
		check(t, w.Store.DB().Table(table).Count(&n).Error)
		return n
	}
	w.Clock.Step(10*time.Minute - time.Second)
	links, sessions := count("sign_in_links"), count("sessions")
	check(t, y.Housekeep(ctx))
	if count("sign_in_links") != links || count("sessions") != sessions || count("engine_changes") != 2 {
		t.Error("something was deleted before its time")
	}
	w.Clock.Step(time.Second)
	check(t, y.Housekeep(ctx))
	if count("sign_in_links") != 0 || count("sessions") != sessions {
		t.Errorf("after ten minutes: %d links, %d sessions, want 0 and %d", count("sign_in_links"), count("sessions"), sessions)
	}
	w.Clock.Step(12 * time.Hour)
	check(t, w.Store.DB().Exec("UPDATE revisions SET revision = revision + 99999").Error)
	check(t, y.Housekeep(ctx))
	if count("sessions") != 0 || count("engine_changes") != 1 {
		t.Errorf("later: %d sessions, %d changes for the engine; want 0 and 1", count("sessions"), count("engine_changes"))
	}
}
