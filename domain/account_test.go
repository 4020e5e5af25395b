package domain_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestMembers(t *testing.T) {
	w := domaintest.New(t)
	ctx, s := t.Context(), w.Provider
	u := w.User()
	fails(t, s.AddMember(ctx, "nobody", domain.RoleAuditor), domain.NotFound, "user_not_found")
	fails(t, s.AddMember(ctx, u.Name, "king"), domain.Invalid, "invalid_role")
	check(t, s.AddMember(ctx, u.Name, domain.RoleAuditor))
	fails(t, s.AddMember(ctx, u.Name, domain.RoleOwner), domain.Conflict, "already_member")
	fails(t, s.SetRole(ctx, u.ID, "king"), domain.Invalid, "invalid_role")
	check(t, s.SetRole(ctx, u.ID, domain.RoleConsumer))
	members, err := s.Members(ctx)
	check(t, err)
	if len(members) != 2 || members[1].User.Name != u.Name || members[1].Role != domain.RoleConsumer || members[0].Role != domain.RoleOwner {
		t.Errorf("members: %+v", members)
	}
	if got := w.Scope(u.ID, s.Account().ID).Role(); got != domain.RoleConsumer {
		t.Errorf("role %s, want consumer", got)
	}
	check(t, s.RemoveMember(ctx, u.ID))
	fails(t, s.RemoveMember(ctx, u.ID), domain.NotFound, "user_not_found")
	_, err = w.Identity(u.ID).Scope(s.Account().ID, domain.Actor{})
	fails(t, err, domain.NotFound, "account_not_found")
}

func TestLastOwnerStays(t *testing.T) {
	w := domaintest.New(t)
	ctx, s := t.Context(), w.Provider
	me := s.User().ID
	fails(t, s.RemoveMember(ctx, me), domain.Conflict, "last_owner")
	fails(t, s.SetRole(ctx, me, domain.RoleAuditor), domain.Conflict, "last_owner")
	fails(t, w.Operator.RemoveMember(ctx, s.Account().ID, s.User().Name), domain.Conflict, "last_owner")
	check(t, s.SetRole(ctx, me, domain.RoleOwner))

	other := w.As(s.Account().ID, domain.RoleOwner)
	check(t, other.SetRole(ctx, me, domain.RoleAuditor))
	fails(t, other.RemoveMember(ctx, other.User().ID), domain.Conflict, "last_owner")
	check(t, other.RemoveMember(ctx, me))
}

// TestOwnersRemoveEachOther at the same time: one of them stays.
func TestOwnersRemoveEachOther(t *testing.T) {
	w := domaintest.New(t)
	for range 5 {
		a := w.Provider
		b := w.As(a.Account().ID, domain.RoleOwner)
		var removed atomic.Int32
		var wg sync.WaitGroup
		for by, who := range map[*domain.Scope]string{a: b.User().ID, b: a.User().ID} {
			wg.Go(func() {
				if err := by.RemoveMember(t.Context(), who); err == nil {
					removed.Add(1)
				} else if reason(err) != "last_owner" {
					t.Errorf("got %v, want Conflict", err)
				}
			})
		}
		wg.Wait()
		members, err := a.Members(t.Context())
		check(t, err)
		if removed.Load() != 1 || len(members) != 1 || members[0].Role != domain.RoleOwner {
			t.Fatalf("%d removed, left %+v: want one owner", removed.Load(), members)
		}
		w.Provider = w.Scope(members[0].User.ID, a.Account().ID)
	}
}

func TestAccessKeys(t *testing.T) {
	w := domaintest.New(t)
	ctx, s := t.Context(), w.Provider
	key, secret, err := s.CreateAccessKey(ctx)
	check(t, err)
	if !strings.HasPrefix(key.ID, "LTAI") || len(key.ID) != 24 || len(secret) != 30 || key.Sealed != nil {
		t.Errorf("key %+v with a secret of %d characters", key, len(secret))
	}
	for table, rows := range dump(t, w.Store) {
		if strings.Contains(rows, secret) {
			t.Errorf("%s holds the secret", table)
		}
	}
	signed := func(id, with string) (*domain.Scope, error) {
		return w.Store.SignedScope(ctx, id, domain.Actor{Channel: "api"}, func(secret string) error {
			if secret != with {
				return errors.New("signatures differ")
			}
			return nil
		})
	}
	got, err := signed(key.ID, secret)
	check(t, err)
	if got.Account() != s.Account() || got.User().ID != s.User().ID || got.Role() != domain.RoleOwner {
		t.Errorf("scope of %s in %s", got.User().Name, got.Account().Name)
	}
	if _, err = signed(key.ID, "another"); err == nil || err.Error() != "signatures differ" {
		t.Errorf("got %v, want what verify said", err)
	}
	_, err = signed("LTAInobody", secret)
	fails(t, err, domain.NotFound, "access_key_not_found")

	used := func() *time.Time {
		t.Helper()
		keys, err := s.AccessKeys(ctx)
		check(t, err)
		if len(keys) != 1 || keys[0].UserName != s.User().Name || keys[0].Sealed != nil || keys[0].LastUsedAt == nil {
			t.Fatalf("keys: %+v", keys)
		}
		return keys[0].LastUsedAt
	}
	before := used()
	w.Clock.Step(59 * time.Second)
	_, err = signed(key.ID, secret)
	check(t, err)
	if !used().Equal(*before) {
		t.Error("the use is written more than once a minute")
	}
	w.Clock.Step(time.Second)
	_, err = signed(key.ID, secret)
	check(t, err)
	if !used().Equal(w.Clock.Now()) {
		t.Error("the use is not written")
	}

	check(t, w.Operator.DisableUser(ctx, s.User().ID))
	_, err = signed(key.ID, secret)
	fails(t, err, domain.Denied, "access_key_inactive")
	check(t, w.Operator.EnableUser(ctx, s.User().ID))
	check(t, s.DisableAccessKey(ctx, key.ID))
	check(t, s.DisableAccessKey(ctx, key.ID))
	_, err = signed(key.ID, secret)
	fails(t, err, domain.Denied, "access_key_inactive")

	for range 5 {
		key, secret, err = s.CreateAccessKey(ctx)
		check(t, err)
	}
	_, _, err = s.CreateAccessKey(ctx)
	fails(t, err, domain.Limit, "quota_access_keys")

	// Who leaves the account has no key of it any more.
	other := w.As(s.Account().ID, domain.RoleOwner)
	check(t, other.RemoveMember(ctx, s.User().ID))
	_, err = signed(key.ID, secret)
	fails(t, err, domain.Denied, "access_key_inactive")
	_, _, err = s.CreateAccessKey(ctx)
	fails(t, err, domain.NotFound, "user_not_found")
}

func TestAccessKeyOfOperator(t *testing.T) {
	w := domaintest.New(t)
	ctx, account := t.Context(), w.Provider.Account().ID
	auditor := w.As(account, domain.RoleAuditor)
	key, _, err := w.Operator.CreateAccessKey(ctx, account, auditor.User().Name)
	check(t, err)
	keys, err := w.Operator.AccessKeys(ctx, account)
	check(t, err)
	if len(keys) != 1 || keys[0].ID != key.ID || keys[0].UserName != auditor.User().Name {
		t.Errorf("keys: %+v", keys)
	}
	_, _, err = w.Operator.CreateAccessKey(ctx, account, w.Consumer.User().Name)
	fails(t, err, domain.Conflict, "not_member")
	_, err = w.Operator.AccessKeys(ctx, "1999999999999999")
	fails(t, err, domain.NotFound, "account_not_found")
}

func TestAccountName(t *testing.T) {
	w := domaintest.New(t)
	ctx, db, now := t.Context(), w.Store.DB(), w.Clock.Now()
	a, b, c := w.Provider.Account().ID, w.Consumer.Account().ID, w.Stranger.Account().ID
	name := func(s *domain.Scope, id, want string) {
		t.Helper()
		if got := s.AccountName(ctx, id); got != want {
			t.Errorf("%s sees %s as %q, want %q", s.Account().Name, id, got, want)
		}
	}
	name(w.Provider, a, "provider")
	name(w.Provider, b, "")
	name(w.Consumer, a, "")

	svc := domain.Service{ID: "epsrv-test", AccountID: a, RegionID: domaintest.Region, Status: domain.ServiceActive, CreatedAt: now, UpdatedAt: now}
	check(t, db.Create(&svc).Error)
	entry := domain.ServiceUser{ServiceID: svc.ID, UserAccountID: b, AccountID: a, CreatedAt: now}
	check(t, db.Create(&entry).Error)
	name(w.Provider, b, "consumer")
	name(w.Consumer, a, "provider")
	name(w.Provider, c, "")
	name(w.Stranger, a, "")
	name(w.Consumer, c, "")

	// A connection outlives the entry.
	vpc := domain.VPC{ID: "vpc-test", AccountID: b, RegionID: domaintest.Region, CreatedAt: now}
	ep := domain.Endpoint{ID: "ep-test", AccountID: b, VPCID: vpc.ID, ServiceID: svc.ID, ProviderID: a, CreatedAt: now, UpdatedAt: now}
	conn := domain.Connection{EndpointID: ep.ID, ServiceID: svc.ID, ProviderID: a, ConsumerID: b, Status: domain.Disconnected, WaitingSince: now, CreatedAt: now, UpdatedAt: now}
	for _, row := range []any{&vpc, &ep, &conn} {
		check(t, db.Create(row).Error)
	}
	check(t, db.Delete(&entry).Error)
	name(w.Provider, b, "consumer")
	name(w.Consumer, a, "provider")

	check(t, db.Delete(&conn).Error)
	name(w.Consumer, a, "")
	everybody := domain.ServiceUser{ServiceID: svc.ID, UserAccountID: "*", AccountID: a, CreatedAt: now}
	check(t, db.Create(&everybody).Error)
	name(w.Consumer, a, "provider")
	name(w.Stranger, a, "provider")
	name(w.Provider, b, "")
}
