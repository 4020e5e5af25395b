package domain_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

const password = "correct horse"

// person makes a user with the password.
func person(t *testing.T, w *domaintest.World, name string) *domain.User {
	t.Helper()
	u, err := w.Operator.CreateUser(t.Context(), domain.UserInput{Name: name, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails checks the kind and the reason of an error.
func fails(t *testing.T, err error, kind domain.Kind, want string) {
	t.Helper()
	if domain.KindOf(err) != kind || reason(err) != want {
		t.Errorf("got %v, want %s %s", err, kind, want)
	}
}

func TestSignIn(t *testing.T) {
	w := domaintest.New(t)
	anna, ben := person(t, w, "anna"), person(t, w, "ben")
	check(t, w.Operator.DisableUser(t.Context(), ben.ID))
	noPassword := w.User()
	tests := []struct {
		name, user, password string
		ok                   bool
	}{
		{"right", "anna", password, true},
		{"other case and spaces", " Anna ", password, true},
		{"wrong password", "anna", "correct horsf", false},
		{"no password given", "anna", "", false},
		{"nobody", "nobody", password, false},
		{"no name", "", password, false},
		{"disabled", "ben", password, false},
		{"has no password", noPassword.Name, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token, err := w.Store.SignIn(t.Context(), tt.user, tt.password, domain.SignInMeta{Address: "192.0.2.7", Agent: "Browser"})
			if !tt.ok {
				fails(t, err, domain.Denied, "wrong_credentials")
				return
			}
			check(t, err)
			i, err := w.Store.Identify(t.Context(), token)
			check(t, err)
			if i.User().ID != anna.ID || i.User().PasswordHash != "" {
				t.Errorf("got %+v, want anna without a hash", i.User())
			}
		})
	}
	t.Run("all take a hash", func(t *testing.T) {
		defer domain.HoldHashes()()
		for _, tt := range tests {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if _, err := w.Store.SignIn(ctx, tt.user, tt.password, domain.SignInMeta{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want one that waits for its hash", tt.name, err)
			}
			cancel()
		}
	})
}

func TestSignInLink(t *testing.T) {
	w := domaintest.New(t)
	u := w.User()
	link := func() string {
		t.Helper()
		l, err := w.Operator.SignInLink(t.Context(), u.Name)
		check(t, err)
		return l
	}
	use := func(l string) error {
		_, err := w.Store.SignInByLink(t.Context(), l, domain.SignInMeta{})
		return err
	}

	l := link()
	check(t, use(l))
	fails(t, use(l), domain.Denied, "link_invalid")
	fails(t, use("no link"), domain.Denied, "link_invalid")

	l = link()
	w.Clock.Step(10*time.Minute - time.Second)
	check(t, use(l))
	l = link()
	w.Clock.Step(10 * time.Minute)
	fails(t, use(l), domain.Denied, "link_invalid")

	l = link()
	check(t, w.Operator.DisableUser(t.Context(), u.ID))
	check(t, w.Operator.EnableUser(t.Context(), u.ID))
	fails(t, use(l), domain.Denied, "link_invalid") // it was made before

	l = link()
	w.Clock.Step(time.Second)
	for range 9 { // so many are kept beside it
		link()
	}
	w.Clock.Step(time.Second)
	newest := link()
	fails(t, use(l), domain.Denied, "link_invalid")
	check(t, use(newest))
	var stored int64
	check(t, w.Store.DB().Model(&domain.SignInLink{}).Where("user_id = ?", u.ID).Count(&stored).Error)
	if stored != 10 {
		t.Errorf("%d links are kept, want 10", stored)
	}

	// Even if a link or a session of somebody disabled were left.
	l = link()
	session := w.Token(u.ID)
	check(t, w.Store.DB().Model(&domain.User{}).Where("id = ?", u.ID).Update("disabled", true).Error)
	fails(t, use(l), domain.Denied, "link_invalid")
	_, err := w.Store.Identify(t.Context(), session)
	fails(t, err, domain.NotFound, "session_not_found")

	_, err = w.Operator.SignInLink(t.Context(), u.ID)
	fails(t, err, domain.Conflict, "user_disabled")
	_, err = w.Operator.SignInLink(t.Context(), "nobody")
	fails(t, err, domain.NotFound, "user_not_found")
}

// TestSignInLinkWorksOnce lets many use one link at the same time.
func TestSignInLinkWorksOnce(t *testing.T) {
	w := domaintest.New(t)
	for range 5 {
		link, err := w.Operator.SignInLink(t.Context(), w.Provider.User().ID)
		check(t, err)
		var signedIn atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				switch _, err := w.Store.SignInByLink(t.Context(), link, domain.SignInMeta{}); {
				case err == nil:
					signedIn.Add(1)
				case reason(err) != "link_invalid":
					t.Errorf("got %v, want Denied", err)
				}
			})
		}
		wg.Wait()
		if got := signedIn.Load(); got != 1 {
			t.Errorf("%d signed in by one link, want 1", got)
		}
	}
}

func TestSessionEnds(t *testing.T) {
	w := domaintest.New(t)
	u := w.User()
	alive := func(token string) bool {
		t.Helper()
		_, err := w.Store.Identify(t.Context(), token)
		if err != nil {
			fails(t, err, domain.NotFound, "session_not_found")
		}
		return err == nil
	}
	tests := []struct {
		name  string
		use   time.Duration // how often it is used
		after time.Duration
		alive bool
	}{
		{"unused for less than 12 hours", 0, 12*time.Hour - time.Second, true},
		{"unused for 12 hours", 0, 12 * time.Hour, false},
		{"used, for days", 11 * time.Hour, 6 * 24 * time.Hour, true},
		{"used, for a week", 11 * time.Hour, 7 * 24 * time.Hour, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token := w.Token(u.ID)
			left := tt.after
			for tt.use > 0 && left > tt.use {
				w.Clock.Step(tt.use)
				left -= tt.use
				if !alive(token) {
					t.Fatalf("ended %v before its time", left)
				}
			}
			w.Clock.Step(left)
			if got := alive(token); got != tt.alive {
				t.Errorf("alive: %v, want %v", got, tt.alive)
			}
		})
	}
	if alive("") || alive("no token") {
		t.Error("a token of nobody is somebody's")
	}
}

// TestSessionIsWrittenOnceAMinute keeps pages from being writes.
func TestSessionIsWrittenOnceAMinute(t *testing.T) {
	w := domaintest.New(t)
	token := w.Token(w.User().ID)
	for _, tt := range []struct {
		step    time.Duration
		written bool
	}{{59 * time.Second, false}, {time.Second, true}, {59 * time.Second, false}, {time.Hour, true}} {
		before := dump(t, w.Store)["Session.jsonl"]
		w.Clock.Step(tt.step)
		_, err := w.Store.Identify(t.Context(), token)
		check(t, err)
		if got := dump(t, w.Store)["Session.jsonl"] != before; got != tt.written {
			t.Errorf("after %v: written %v, want %v", tt.step, got, tt.written)
		}
	}
}

func TestSeveralSessions(t *testing.T) {
	w := domaintest.New(t)
	ctx := t.Context()
	anna, ben := person(t, w, "anna"), person(t, w, "ben")
	alive := func(want bool, tokens ...string) {
		t.Helper()
		for n, token := range tokens {
			if _, err := w.Store.Identify(ctx, token); (err == nil) != want {
				t.Errorf("session %d: %v, want alive %v", n, err, want)
			}
		}
	}
	identify := func(token string) *domain.Identity {
		t.Helper()
		i, err := w.Store.Identify(ctx, token)
		check(t, err)
		return i
	}
	a1, a2, a3, b := w.Token(anna.ID), w.Token(anna.ID), w.Token(anna.ID), w.Token(ben.ID)
	if identify(a1).SessionID() == identify(a2).SessionID() {
		t.Error("two sessions have one id")
	}

	check(t, identify(a1).SignOut(ctx))
	alive(false, a1)
	alive(true, a2, a3, b)

	i := identify(a2)
	fails(t, i.ChangePassword(ctx, "not the password", "battery staple"), domain.Invalid, "wrong_password")
	fails(t, i.ChangePassword(ctx, password, "short"), domain.Invalid, "password_too_short")
	alive(true, a2, a3)
	check(t, i.ChangePassword(ctx, password, "battery staple"))
	alive(false, a3)
	alive(true, a2, b)
	_, err := w.Store.SignIn(ctx, "anna", password, domain.SignInMeta{})
	fails(t, err, domain.Denied, "wrong_credentials")
	a4, err := w.Store.SignIn(ctx, "anna", "battery staple", domain.SignInMeta{})
	check(t, err)

	check(t, identify(a2).SignOutEverywhere(ctx))
	alive(false, a2, a4)
	alive(true, b)

	a5 := w.Token(anna.ID)
	check(t, w.Operator.SetPassword(ctx, "anna", password))
	alive(false, a5)
	a6 := w.Token(anna.ID)
	check(t, w.Operator.DisableUser(ctx, "anna"))
	alive(false, a6)
	check(t, w.Operator.EnableUser(ctx, "anna"))
	alive(false, a6)
	alive(true, b)

	// Who has no password sets a first one.
	check(t, w.Identity(w.Provider.User().ID).ChangePassword(ctx, "", "battery staple"))
	_, err = w.Store.SignIn(ctx, w.Provider.User().Name, "battery staple", domain.SignInMeta{})
	check(t, err)
}

func TestOldestSessionsGiveWay(t *testing.T) {
	w := domaintest.New(t)
	u := w.User()
	first := w.Token(u.ID)
	w.Clock.Step(time.Minute)
	second := w.Token(u.ID)
	w.Clock.Step(time.Minute)
	_, err := w.Store.Identify(t.Context(), first) // used again
	check(t, err)
	for range 49 {
		w.Token(u.ID)
	}
	_, err = w.Store.Identify(t.Context(), second)
	fails(t, err, domain.NotFound, "session_not_found")
	_, err = w.Store.Identify(t.Context(), first)
	check(t, err)
}

// TestPasswordChangesRace lets two change one password: one of them wins.
func TestPasswordChangesRace(t *testing.T) {
	w := domaintest.New(t)
	u := person(t, w, "anna")
	var won atomic.Int32
	var wg sync.WaitGroup
	for _, next := range []string{"first of two", "second of two"} {
		i := w.Identity(u.ID)
		wg.Go(func() {
			switch err := i.ChangePassword(t.Context(), password, next); {
			case err == nil:
				won.Add(1)
			case domain.KindOf(err) != domain.Conflict && reason(err) != "wrong_password":
				t.Errorf("got %v, want Conflict or a wrong password", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d changes of one password, want 1", won.Load())
	}
}

func TestIdentityReachesOnlyItsOwn(t *testing.T) {
	w := domaintest.New(t)
	i := w.Identity(w.Provider.User().ID)
	for _, a := range []string{w.Consumer.Account().ID, "1999999999999999", ""} {
		_, err := i.Scope(a, domain.Actor{})
		fails(t, err, domain.NotFound, "account_not_found")
	}
	_, err := i.AsOperator(domain.Actor{})
	fails(t, err, domain.NotFound, "operator_not_found")
	if i.Operator() {
		t.Error("the provider is an operator")
	}

	boss, err := w.Operator.CreateUser(t.Context(), domain.UserInput{Name: "boss", Operator: true})
	check(t, err)
	check(t, w.Operator.AddMember(t.Context(), w.Consumer.Account().ID, boss.ID, domain.RoleAuditor))
	check(t, w.Operator.AddMember(t.Context(), w.Provider.Account().ID, boss.ID, domain.RoleOwner))
	i = w.Identity(boss.ID)
	o, err := i.AsOperator(domain.Actor{Channel: "console"})
	check(t, err)
	check(t, o.SuspendAccount(t.Context(), w.Stranger.Account().ID))
	var got []string
	for _, a := range i.Accounts() {
		got = append(got, a.Account.Name+" "+string(a.Role))
	}
	if want := []string{"consumer auditor", "provider owner"}; len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("accounts %v, want %v", got, want)
	}
	// An operator who is in no account reaches none.
	_, err = i.Scope(w.Stranger.Account().ID, domain.Actor{})
	fails(t, err, domain.NotFound, "account_not_found")
}
