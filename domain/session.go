package domain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"
)

// Session is one signed-in browser of one user. The cookie holds the token, the
// row only its SHA-256.
type Session struct {
	ID        string `gorm:"primaryKey"` // public handle, e.g. to sign out
	TokenHash string
	UserID    string
	Address   string
	Agent     string
	CreatedAt time.Time
	SeenAt    time.Time // at most once a minute
	ExpiresAt time.Time
}

// SignInLink signs a user in once.
type SignInLink struct {
	TokenHash string `gorm:"primaryKey"`
	UserID    string
	ExpiresAt time.Time
	UsedAt    *time.Time
}

const (
	linkLife    = 10 * time.Minute
	sessionIdle = 12 * time.Hour     // a session ends so long after it was last used,
	sessionLife = 7 * 24 * time.Hour // and so long after it began in any case
	seenEvery   = time.Minute
	maxSessions = 50 // of a user; the ones unused for longest give way
)

// SignInMeta is where somebody signs in from.
type SignInMeta struct{ Address, Agent string }

// SignIn begins a session and returns its token, which only the caller ever has.
// A user who does not exist, is disabled or has no password is Denied as late as
// one with a wrong password, reason "wrong_credentials".
func (s *Store) SignIn(ctx context.Context, name, password string, m SignInMeta) (token string, err error) {
	var u User
	if err := s.db.WithContext(ctx).Where("name = ? AND NOT disabled", strings.ToLower(strings.TrimSpace(name))).Limit(1).Find(&u).Error; err != nil {
		return "", fmt.Errorf("read user: %w", err)
	}
	ok, err := checkPassword(ctx, u.PasswordHash, password)
	if err != nil {
		return "", err
	}
	wrong := fail(Denied, "wrong_credentials", "The name or the password is wrong.")
	if !ok {
		return "", wrong
	}
	err = s.inTx(ctx, u.actor(m.Address), installationChain, func(t *tx) (err error) {
		// The password may have been changed while it was checked.
		err = t.Where("id = ? AND password_hash = ? AND NOT disabled", u.ID, u.PasswordHash).Take(&User{}).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return wrong
		}
		if err != nil {
			return fmt.Errorf("read user: %w", err)
		}
		token, err = t.beginSession(u, m, "SignIn")
		return err
	})
	return token, err
}

// SignInByLink begins a session for who has a sign-in link. A link works once and
// for ten minutes; afterwards it is Denied, reason "link_invalid".
func (s *Store) SignInByLink(ctx context.Context, linkToken string, m SignInMeta) (token string, err error) {
	stale := fail(Denied, "link_invalid", "This sign-in link has been used or has expired. Ask for a new one.")
	var u User
	err = s.db.WithContext(ctx).Joins("JOIN sign_in_links l ON l.user_id = users.id").
		Where("l.token_hash = ?", digest(linkToken)).Take(&u).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return "", stale
	}
	if err != nil {
		return "", fmt.Errorf("read sign-in link: %w", err)
	}
	err = s.inTx(ctx, u.actor(m.Address), installationChain, func(t *tx) (err error) {
		res := t.Exec(`UPDATE sign_in_links SET used_at = ? WHERE token_hash = ? AND used_at IS NULL AND expires_at > ?
			AND EXISTS (SELECT 1 FROM users WHERE id = user_id AND NOT disabled)`, t.now, digest(linkToken), t.now)
		if res.Error != nil {
			return fmt.Errorf("use sign-in link: %w", res.Error)
		}
		if res.RowsAffected == 0 {
			return stale
		}
		token, err = t.beginSession(u, m, "SignInByLink")
		return err
	})
	return token, err
}

func (t *tx) beginSession(u User, m SignInMeta, action string) (token string, err error) {
	token = rand.Text()
	row := Session{
		ID: newID(KindSession), TokenHash: digest(token), UserID: u.ID, Address: cut(m.Address, 64), Agent: cut(m.Agent, 256),
		CreatedAt: t.now, SeenAt: t.now, ExpiresAt: t.now.Add(sessionIdle),
	}
	if err := t.Create(&row).Error; err != nil {
		return "", fmt.Errorf("begin session: %w", err)
	}
	err = t.Exec(`DELETE FROM sessions WHERE user_id = ? AND id <> ? AND id NOT IN
		(SELECT id FROM sessions WHERE user_id = ? AND id <> ? ORDER BY seen_at DESC, id LIMIT ?)`, u.ID, row.ID, u.ID, row.ID, maxSessions-1).Error
	if err != nil {
		return "", fmt.Errorf("end oldest sessions: %w", err)
	}
	return token, t.audit(action, KindSession, row.ID, u.Name, nil, nil)
}

// cut shortens what a client sent about itself.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	return strings.ToValidUTF8(s[:min(len(s), n)], "")
}

// actor is the user, acting in the console before an account is chosen.
func (u User) actor(address string) Actor {
	return Actor{Kind: ActorUser, ID: u.ID, Name: u.Name, Channel: "console", Address: address}
}

// Identity is a user who has proved who they are.
type Identity struct {
	store    *Store
	session  Session
	user     User
	accounts []AccountRole
}

// AccountRole is an account and what a user is in it.
type AccountRole struct {
	Account Account
	Role    Role
}

// Identify returns whose session a token is of, and keeps the session alive.
// NotFound if there is none or it has ended.
func (s *Store) Identify(ctx context.Context, token string) (*Identity, error) {
	db := s.db.WithContext(ctx)
	now := s.now()
	i := &Identity{store: s}
	none := fail(NotFound, "session_not_found", "You are not signed in, or the session has ended. Sign in again.")
	err := db.Where("token_hash = ? AND expires_at > ?", digest(token), now).Limit(1).Find(&i.session).Error
	if err != nil {
		return nil, fmt.Errorf("read session: %w", err)
	}
	if i.session.ID == "" {
		return nil, none
	}
	if err := db.Where("id = ? AND NOT disabled", i.session.UserID).Limit(1).Find(&i.user).Error; err != nil {
		return nil, fmt.Errorf("read user: %w", err)
	}
	if i.user.ID == "" {
		return nil, none
	}
	i.user.PasswordHash = ""
	if i.accounts, err = accountsOf(db, i.user.ID); err != nil {
		return nil, err
	}
	if now.Sub(i.session.SeenAt) >= seenEvery {
		i.session.SeenAt, i.session.ExpiresAt = now, now.Add(sessionIdle)
		if end := i.session.CreatedAt.Add(sessionLife); end.Before(i.session.ExpiresAt) {
			i.session.ExpiresAt = end
		}
		err := db.Model(&Session{}).Where("id = ?", i.session.ID).
			Updates(map[string]any{"seen_at": i.session.SeenAt, "expires_at": i.session.ExpiresAt}).Error
		if err != nil {
			return nil, fmt.Errorf("keep session: %w", err)
		}
	}
	return i, nil
}

func accountsOf(db *gorm.DB, userID string) ([]AccountRole, error) {
	var rows []struct {
		Account
		Role Role
	}
	err := db.Table("memberships m").Select("a.*, m.role").Joins("JOIN accounts a ON a.id = m.account_id").
		Where("m.user_id = ?", userID).Order("a.name").Find(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("read accounts of user: %w", err)
	}
	out := make([]AccountRole, len(rows))
	for i, r := range rows {
		out[i] = AccountRole{Account: r.Account, Role: r.Role}
	}
	return out, nil
}

// User returns who it is.
func (i *Identity) User() User { return i.user }

// SessionID returns the public handle of the session.
func (i *Identity) SessionID() string { return i.session.ID }

// ExpiresAt returns when the session ends unless it is used again.
func (i *Identity) ExpiresAt() time.Time { return i.session.ExpiresAt }

// Accounts returns the accounts the user is in, by name.
func (i *Identity) Accounts() []AccountRole { return i.accounts }

// Operator reports whether the user runs the installation.
func (i *Identity) Operator() bool { return i.user.Operator }

// Scope returns the user acting for an account; a tells by which channel and from
// where. NotFound unless the user is in the account.
func (i *Identity) Scope(accountID string, a Actor) (*Scope, error) {
	for _, r := range i.accounts {
		if r.Account.ID == accountID {
			return i.store.scope(r, i.user, a), nil
		}
	}
	return nil, unknown(KindAccount)
}

func (s *Store) scope(r AccountRole, u User, a Actor) *Scope {
	a.Kind, a.ID, a.Name = ActorUser, u.ID, u.Name
	return &Scope{store: s, account: r.Account, user: u, role: r.Role, by: a}
}

// AsOperator returns the user acting for the installation. NotFound unless the
// user is an operator.
func (i *Identity) AsOperator(a Actor) (*Operator, error) {
	if !i.user.Operator {
		return nil, fail(NotFound, "operator_not_found", "There is nothing here.")
	}
	a.Kind, a.ID, a.Name = ActorOperator, i.user.ID, i.user.Name
	return &Operator{store: i.store, by: a}, nil
}

func (i *Identity) write(ctx context.Context, f func(*tx) error) error {
	return i.store.inTx(ctx, i.user.actor(i.session.Address), installationChain, f)
}

// SignOut ends this session. The user's others go on.
func (i *Identity) SignOut(ctx context.Context) error {
	return i.write(ctx, func(t *tx) error {
		if err := t.Where("id = ?", i.session.ID).Delete(&Session{}).Error; err != nil {
			return fmt.Errorf("end session: %w", err)
		}
		return t.audit("SignOut", KindSession, i.session.ID, i.user.Name, nil, nil)
	})
}

// SignOutEverywhere ends every session of the user.
func (i *Identity) SignOutEverywhere(ctx context.Context) error {
	return i.write(ctx, func(t *tx) error {
		if err := t.endSessions(i.user.ID, ""); err != nil {
			return err
		}
		return t.audit("SignOutEverywhere", KindUser, i.user.ID, i.user.Name, nil, nil)
	})
}

// endSessions ends the user's sessions but one, and makes sign-in links useless.
func (t *tx) endSessions(userID, but string) error {
	if err := t.Where("user_id = ? AND id <> ?", userID, but).Delete(&Session{}).Error; err != nil {
		return fmt.Errorf("end sessions: %w", err)
	}
	if err := t.Where("user_id = ?", userID).Delete(&SignInLink{}).Error; err != nil {
		return fmt.Errorf("delete sign-in links: %w", err)
	}
	return nil
}

// ChangePassword sets another password and ends the user's other sessions. Who has
// no password yet gives "" as the old one.
func (i *Identity) ChangePassword(ctx context.Context, old, password string) error {
	if err := validPassword("new", password); err != nil {
		return err
	}
	var u User
	if err := find(i.store.db.WithContext(ctx), KindUser, &u, "id = ?", i.user.ID); err != nil {
		return err
	}
	if u.PasswordHash != "" || old != "" {
		ok, err := checkPassword(ctx, u.PasswordHash, old)
		if err != nil {
			return err
		}
		if !ok {
			return invalid("old", "wrong_password", "This is not your present password.")
		}
	}
	hash, err := hashPassword(ctx, password)
	if err != nil {
		return err
	}
	return i.write(ctx, func(t *tx) error {
		res := t.Model(&User{}).Where("id = ? AND password_hash = ?", u.ID, u.PasswordHash).Updates(map[string]any{"password_hash": hash})
		if err := guarded(res, KindUser); err != nil {
			return err
		}
		if err := t.endSessions(u.ID, i.session.ID); err != nil {
			return err
		}
		return t.audit("ChangePassword", KindUser, u.ID, u.Name, nil, nil)
	})
}
