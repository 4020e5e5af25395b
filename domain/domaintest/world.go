package domaintest

import (
	"fmt"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

// The place of a [World].
const (
	Region = "cn-hangzhou"
	ZoneH  = "cn-hangzhou-h"
	ZoneI  = "cn-hangzhou-i"
)

// World is a store with one region of two zones and three accounts. Its clock
// stands still.
type World struct {
	Store    *domain.Store
	Config   domain.Config // of the store, to open it once more
	Clock    *Clock
	Operator *domain.Operator

	Provider, Consumer, Stranger *domain.Scope // owners of the accounts

	tb    testing.TB
	users int
}

// New makes a world that ends with the test.
func New(tb testing.TB) *World {
	tb.Helper()
	w := &World{tb: tb, Clock: NewClock()}
	w.Config = Config(tb, w.Clock)
	w.Store = Open(tb, w.Config)
	w.Operator = w.Store.Local(domain.Actor{})
	_, err := w.Operator.CreateRegion(tb.Context(), domain.RegionInput{ID: Region, Mainland: true})
	w.must(err)
	for _, z := range []string{ZoneH, ZoneI} {
		_, err := w.Operator.CreateZone(tb.Context(), domain.ZoneInput{ID: z, RegionID: Region})
		w.must(err)
	}
	w.Provider, w.Consumer, w.Stranger = w.Account("provider"), w.Account("consumer"), w.Account("stranger")
	return w
}

// Account makes an account and returns the scope of an owner of it.
func (w *World) Account(name string) *domain.Scope {
	w.tb.Helper()
	a, err := w.Operator.CreateAccount(w.tb.Context(), domain.AccountInput{Name: name})
	w.must(err)
	return w.As(a.ID, domain.RoleOwner)
}

// As makes a user with a role in an account and returns their scope.
func (w *World) As(account string, r domain.Role) *domain.Scope {
	w.tb.Helper()
	u := w.User()
	w.must(w.Operator.AddMember(w.tb.Context(), account, u.ID, r))
	return w.Scope(u.ID, account)
}

// User makes a user who is in no account.
func (w *World) User() *domain.User {
	w.tb.Helper()
	w.users++
	u, err := w.Operator.CreateUser(w.tb.Context(), domain.UserInput{Name: fmt.Sprintf("user-%d", w.users)})
	w.must(err)
	return u
}

// Token signs a user in and returns the session's token.
func (w *World) Token(user string) string {
	w.tb.Helper()
	link, err := w.Operator.SignInLink(w.tb.Context(), user)
	w.must(err)
	token, err := w.Store.SignInByLink(w.tb.Context(), link, domain.SignInMeta{Address: "192.0.2.1", Agent: "test"})
	w.must(err)
	return token
}

// Identity signs a user in.
func (w *World) Identity(user string) *domain.Identity {
	w.tb.Helper()
	i, err := w.Store.Identify(w.tb.Context(), w.Token(user))
	w.must(err)
	return i
}

// Scope signs a user in, for an account they are in.
func (w *World) Scope(user, account string) *domain.Scope {
	w.tb.Helper()
	s, err := w.Identity(user).Scope(account, domain.Actor{Channel: "console", Address: "192.0.2.1", RequestID: "test"})
	w.must(err)
	return s
}

func (w *World) must(err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatal(err)
	}
}
