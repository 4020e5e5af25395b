package domain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"gorm.io/gorm"
)

// States of an account.
const (
	AccountActive    = "active"
	AccountSuspended = "suspended"
)

// Account is a tenant.
type Account struct {
	ID        string `gorm:"primaryKey"` // 16 digits, the first is 1; below 2^53
	Name      string
	SiteID    string
	State     string
	Demo      bool // made by the demo; removed by "start empty"
	CreatedAt time.Time
}

// User is a person who can sign in.
type User struct {
	ID           string `gorm:"primaryKey"`
	Name         string // for sign-in, unique
	DisplayName  string
	PasswordHash string // argon2id, PHC format; "" cannot sign in by password
	Operator     bool
	Disabled     bool
	Demo         bool
	CreatedAt    time.Time
}

// Membership gives a user a role in an account.
type Membership struct {
	UserID    string `gorm:"primaryKey"`
	AccountID string `gorm:"primaryKey"`
	Role      Role
}

// maxMembers of an account.
const maxMembers = 200

// Member is a user of an account.
type Member struct {
	User User
	Role Role
}

// Members returns the account's users by name.
func (s *Scope) Members(ctx context.Context) ([]Member, error) {
	db, err := s.read(ctx, ReadAccount)
	if err != nil {
		return nil, err
	}
	return membersOf(db, s.account.ID)
}

func membersOf(db *gorm.DB, account string) ([]Member, error) {
	var rows []struct {
		User
		Role Role
	}
	err := db.Table("memberships m").Select("u.id, u.name, u.display_name, u.operator, u.disabled, u.demo, u.created_at, m.role").
		Joins("JOIN users u ON u.id = m.user_id").Where("m.account_id = ?", account).Order("u.name").Find(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	out := make([]Member, len(rows))
	for i, r := range rows {
		out[i] = Member{User: r.User, Role: r.Role}
	}
	return out, nil
}

// AddMember gives a user of the installation, by name, a role in the account.
func (s *Scope) AddMember(ctx context.Context, userName string, r Role) error {
	return s.write(ctx, WriteAccount, func(t *tx) error { return t.addMember(s.account, userName, r) })
}

// SetRole gives a member another role. The last owner stays one.
func (s *Scope) SetRole(ctx context.Context, userID string, r Role) error {
	return s.write(ctx, WriteAccount, func(t *tx) error {
		if err := validRole(r); err != nil {
			return err
		}
		u, m, err := t.member(s.account, userID)
		if err != nil || m.Role == r {
			return err
		}
		if err := t.leavesOwner(m); err != nil {
			return err
		}
		res := t.Model(&Membership{}).Where("user_id = ? AND account_id = ?", u.ID, s.account.ID).Updates(map[string]any{"role": r})
		if err := guarded(res, KindUser); err != nil {
			return err
		}
		t.touched(s.account.ID, KindUser, u.ID)
		return t.audit("SetRole", KindUser, u.ID, u.Name, map[string]any{"role": m.Role}, map[string]any{"role": r})
	})
}

// RemoveMember takes a user out of the account; their access keys for it stop
// working. The last owner cannot be removed.
func (s *Scope) RemoveMember(ctx context.Context, userID string) error {
	return s.write(ctx, WriteAccount, func(t *tx) error { return t.removeMember(s.account, userID) })
}

func validRole(r Role) error {
	if !slices.Contains(Roles, r) {
		return invalid("role", "invalid_role", "A role is one of owner, provider, consumer, network and auditor.")
	}
	return nil
}

// member reads a user of the account.
func (t *tx) member(a Account, userID string) (User, Membership, error) {
	var u User
	var m Membership
	if err := first(t.DB, KindUser, &m, "account_id = ? AND user_id = ?", a.ID, userID); err != nil {
		return u, m, err
	}
	return u, m, first(t.DB, KindUser, &u, "id = ?", userID)
}

// leavesOwner refuses what would leave the account of m without an owner.
func (t *tx) leavesOwner(m Membership) error {
	if m.Role != RoleOwner {
		return nil
	}
	var others int64
	err := t.Model(&Membership{}).Where("account_id = ? AND role = ? AND user_id <> ?", m.AccountID, RoleOwner, m.UserID).Count(&others).Error
	if err != nil {
		return fmt.Errorf("count owners: %w", err)
	}
	if others == 0 {
		return fail(Conflict, "last_owner", "This is the last owner of the account. Make somebody else an owner first.")
	}
	return nil
}

func (t *tx) addMember(a Account, user string, r Role) error {
	if err := validRole(r); err != nil {
		return err
	}
	u, err := findUser(t.DB, user)
	if err != nil {
		return err
	}
	var have []Membership
	if err := t.Where("account_id = ?", a.ID).Find(&have).Error; err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	if slices.ContainsFunc(have, func(m Membership) bool { return m.UserID == u.ID }) {
		return fail(Conflict, "already_member", "%s is in the account %s already.", u.Name, a.Name)
	}
	if len(have) >= maxMembers {
		return fail(Limit, "quota_members", "An account has at most %d users.", maxMembers)
	}
	if err := t.Create(&Membership{UserID: u.ID, AccountID: a.ID, Role: r}).Error; err != nil {
		return fmt.Errorf("add member: %w", err)
	}
	t.touched(a.ID, KindUser, u.ID)
	return t.auditIn(a.ID, "AddMember", KindUser, u.ID, u.Name, nil, map[string]any{"role": r})
}

func (t *tx) removeMember(a Account, userID string) error {
	u, m, err := t.member(a, userID)
	if err != nil {
		return err
	}
	if err := t.leavesOwner(m); err != nil {
		return err
	}
	if err := t.Where("account_id = ? AND user_id = ?", a.ID, u.ID).Delete(&Membership{}).Error; err != nil {
		return fmt.Errorf("remove member: %w", err)
	}
	err = t.Model(&AccessKey{}).Where("account_id = ? AND user_id = ?", a.ID, u.ID).Updates(map[string]any{"state": KeyInactive}).Error
	if err != nil {
		return fmt.Errorf("disable access keys: %w", err)
	}
	t.touched(a.ID, KindUser, u.ID)
	return t.auditIn(a.ID, "RemoveMember", KindUser, u.ID, u.Name, map[string]any{"role": m.Role}, nil)
}

// States of an access key.
const (
	KeyActive   = "active"
	KeyInactive = "inactive"
)

// maxAccessKeys that are active at a time, of one user for one account.
const maxAccessKeys = 5

// AccessKey signs API calls of a user for an account.
type AccessKey struct {
	ID         string `gorm:"primaryKey"` // "LTAI" and 20 characters
	UserID     string
	AccountID  string
	Sealed     []byte // the secret, encrypted under the installation's key
	State      string // active, inactive
	CreatedAt  time.Time
	LastUsedAt *time.Time // at most once a minute
}

// AccessKeyInfo is an access key without its secret, and whose it is.
type AccessKeyInfo struct {
	AccessKey
	UserName string
}

// AccessKeys returns the keys of the account.
func (s *Scope) AccessKeys(ctx context.Context) ([]AccessKeyInfo, error) {
	db, err := s.read(ctx, ReadAccount)
	if err != nil {
		return nil, err
	}
	return accessKeys(db, s.account.ID)
}

func accessKeys(db *gorm.DB, account string) ([]AccessKeyInfo, error) {
	var rows []AccessKeyInfo
	err := db.Table("access_keys k").Select("k.id, k.user_id, k.account_id, k.state, k.created_at, k.last_used_at, u.name AS user_name").
		Joins("JOIN users u ON u.id = k.user_id").Where("k.account_id = ?", account).Order("k.id").Find(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("list access keys: %w", err)
	}
	return rows, nil
}

// CreateAccessKey makes a key of this user for the account. The secret is shown
// here and never again.
func (s *Scope) CreateAccessKey(ctx context.Context) (key *AccessKey, secret string, err error) {
	err = s.write(ctx, WriteAccount, func(t *tx) (err error) {
		if _, _, err := t.member(s.account, s.user.ID); err != nil {
			return err
		}
		key, secret, err = t.createAccessKey(s.store, s.account, s.user)
		return err
	})
	return key, secret, err
}

func (t *tx) createAccessKey(s *Store, a Account, u User) (*AccessKey, string, error) {
	var active int64
	if err := t.Model(&AccessKey{}).Where("user_id = ? AND account_id = ? AND state = ?", u.ID, a.ID, KeyActive).Count(&active).Error; err != nil {
		return nil, "", fmt.Errorf("count access keys: %w", err)
	}
	if active >= maxAccessKeys {
		return nil, "", fail(Limit, "quota_access_keys", "%s has %d active access keys for this account, which is the limit. Disable one first.", u.Name, active)
	}
	secret := rand.Text() + rand.Text()[:4] // 30 characters
	key := &AccessKey{ID: "LTAI" + token(20), UserID: u.ID, AccountID: a.ID, State: KeyActive, CreatedAt: t.now}
	var err error
	if key.Sealed, err = s.seal(key.ID, secret); err != nil {
		return nil, "", err
	}
	if err := t.Create(key).Error; err != nil {
		return nil, "", fmt.Errorf("create access key: %w", err)
	}
	key.Sealed = nil
	t.touched(a.ID, KindAccessKey, key.ID)
	return key, secret, t.auditIn(a.ID, "CreateAccessKey", KindAccessKey, key.ID, u.Name, nil, nil)
}

// DisableAccessKey stops a key of the account from working, for good.
func (s *Scope) DisableAccessKey(ctx context.Context, id string) error {
	return s.write(ctx, WriteAccount, func(t *tx) error {
		var key AccessKey
		if err := first(t.DB, KindAccessKey, &key, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
			return err
		}
		if key.State == KeyInactive {
			return nil
		}
		if err := t.Model(&AccessKey{}).Where("id = ?", id).Updates(map[string]any{"state": KeyInactive}).Error; err != nil {
			return fmt.Errorf("disable access key: %w", err)
		}
		t.touched(s.account.ID, KindAccessKey, id)
		return t.audit("DisableAccessKey", KindAccessKey, id, "", map[string]any{"state": KeyActive}, map[string]any{"state": KeyInactive})
	})
}

// SignedScope returns the scope of an access key for who proves to have its
// secret: verify compares a signature made with it. NotFound if there is no such
// key, Denied if it is inactive or its user is disabled.
func (s *Store) SignedScope(ctx context.Context, keyID string, a Actor, verify func(secret string) error) (*Scope, error) {
	db := s.db.WithContext(ctx)
	var key AccessKey
	if err := find(db, KindAccessKey, &key, "id = ?", keyID); err != nil {
		return nil, err
	}
	secret, err := s.open(key.ID, key.Sealed)
	if err != nil {
		return nil, err
	}
	if err := verify(secret); err != nil {
		return nil, err
	}
	inactive := fail(Denied, "access_key_inactive", "This access key is not active.")
	if key.State != KeyActive {
		return nil, inactive
	}
	var u User
	if err := db.Where("id = ? AND NOT disabled", key.UserID).Take(&u).Error; errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, inactive
	} else if err != nil {
		return nil, fmt.Errorf("read user: %w", err)
	}
	u.PasswordHash = ""
	accounts, err := accountsOf(db, u.ID)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(accounts, func(r AccountRole) bool { return r.Account.ID == key.AccountID })
	if i < 0 {
		return nil, inactive
	}
	now := s.now()
	if key.LastUsedAt == nil || now.Sub(*key.LastUsedAt) >= seenEvery {
		if err := db.Model(&AccessKey{}).Where("id = ?", key.ID).Updates(map[string]any{"last_used_at": now}).Error; err != nil {
			return nil, fmt.Errorf("note use of access key: %w", err)
		}
	}
	return s.scope(accounts[i], u, a), nil
}

// AccountName returns the name of this account, or of one that a connection or a
// whitelist joins to it; "" for every other.
func (s *Scope) AccountName(ctx context.Context, id string) string {
	if id == s.account.ID {
		return s.account.Name
	}
	var name string
	me := s.account.ID
	err := s.store.handle(ctx).Raw(`SELECT name FROM accounts WHERE id = ? AND (
		EXISTS (SELECT 1 FROM connections WHERE provider_id = ? AND consumer_id = ?)
		OR EXISTS (SELECT 1 FROM connections WHERE consumer_id = ? AND provider_id = ?)
		OR EXISTS (SELECT 1 FROM service_users WHERE user_account_id = ? AND account_id = ?)
		OR EXISTS (SELECT 1 FROM service_users WHERE user_account_id IN (?, '*') AND account_id = ?))`,
		id, me, id, me, id, id, me, me, id).Scan(&name).Error
	if err != nil {
		s.store.log.WarnContext(ctx, "read account name", "account", id, "err", err)
	}
	return name
}
