package domain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Operator runs the installation: places, accounts, users and offers of host
// objects. It reaches no tenant's resources.
type Operator struct {
	store *Store
	by    Actor
}

func (o *Operator) write(ctx context.Context, f func(*tx) error) error {
	return o.store.inTx(ctx, o.by, installationChain, f)
}

// installationChain is the audit chain of what operators do and who signs in.
const installationChain = "installation"

// Local returns the operator that the program itself is, e.g. for who may use its
// control socket. A Kind of "" is the system's.
func (s *Store) Local(a Actor) *Operator {
	return &Operator{store: s, by: system(a)}
}

// LocalScope returns an owner's scope for the program itself.
func (s *Store) LocalScope(ctx context.Context, accountID string, a Actor) (*Scope, error) {
	var account Account
	if err := find(s.handle(ctx), KindAccount, &account, "id = ?", accountID); err != nil {
		return nil, err
	}
	a = system(a)
	return &Scope{store: s, account: account, user: User{Name: a.Name}, role: RoleOwner, by: a}, nil
}

func system(a Actor) Actor {
	if a.Kind == "" {
		a.Kind = ActorSystem
	}
	if a.Name == "" {
		a.Name = "system"
	}
	if a.Channel == "" {
		a.Channel = "system"
	}
	return a
}

// unknown is the answer to who looks beyond one account.
func unknown(kind string) error {
	return fail(NotFound, kind+"_not_found", "There is no such %s.", nouns[kind])
}

// find is [first] for who looks beyond one account.
func find(db *gorm.DB, kind string, out any, where string, args ...any) error {
	err := first(db, kind, out, where, args...)
	if KindOf(err) == NotFound {
		return unknown(kind)
	}
	return err
}

// findUser finds a user by name or id.
func findUser(db *gorm.DB, ref string) (User, error) {
	var u User
	column := "name"
	if strings.HasPrefix(ref, prefixes[KindUser]+"-") {
		column = "id"
	}
	return u, find(db, KindUser, &u, column+" = ?", strings.ToLower(strings.TrimSpace(ref)))
}

// vacant refuses what is there already.
func (t *tx) vacant(kind string, model any, where string, args ...any) error {
	var n int64
	if err := t.Model(model).Where(where, args...).Count(&n).Error; err != nil {
		return fmt.Errorf("look for %s: %w", kind, err)
	}
	if n > 0 {
		return &Error{Kind: Conflict, Reason: kind + "_exists", Message: "There is a " + nouns[kind] + " of this name already.", Field: strings.Fields(where)[0]}
	}
	return nil
}

// concerns audits what an operator did to an account in both trails.
func (t *tx) concerns(account, action, kind, id, name string, before, after any) error {
	t.touched(account, kind, id)
	return errors.Join(t.audit(action, kind, id, name, before, after), t.auditIn(account, action, kind, id, name, before, after))
}

// AccountInput describes a new account.
type AccountInput struct {
	Name   string
	SiteID string // "" is [DefaultSite]
	ID     string // "" chooses one
	Demo   bool
}

var accountID = regexp.MustCompile(`^1[0-9]{15}$`)

// CreateAccount adds an account without users.
func (o *Operator) CreateAccount(ctx context.Context, in AccountInput) (*Account, error) {
	name, err := validName("name", in.Name)
	if in.ID != "" && !accountID.MatchString(in.ID) {
		err = errors.Join(err, invalid("id", "invalid_id", "The id of an account has 16 digits and begins with 1."))
	}
	if err != nil {
		return nil, err
	}
	a := &Account{ID: in.ID, Name: name, SiteID: in.SiteID, State: AccountActive, Demo: in.Demo}
	if a.SiteID == "" {
		a.SiteID = DefaultSite
	}
	if a.ID == "" {
		if a.ID, err = newAccountID(); err != nil {
			return nil, err
		}
	}
	err = o.write(ctx, func(t *tx) error {
		if err := find(t.DB, KindSite, &Site{}, "id = ?", a.SiteID); err != nil {
			return err
		}
		if err := errors.Join(t.vacant(KindAccount, a, "name = ?", a.Name), t.vacant(KindAccount, a, "id = ?", a.ID)); err != nil {
			return err
		}
		a.CreatedAt = t.now
		if err := t.Create(a).Error; err != nil {
			return fmt.Errorf("create account: %w", err)
		}
		return t.concerns(a.ID, "CreateAccount", KindAccount, a.ID, a.Name, nil, map[string]any{"name": a.Name, "site": a.SiteID})
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

func newAccountID() (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1e15))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("1%015d", n), nil
}

// Accounts lists accounts by name.
func (o *Operator) Accounts(ctx context.Context, q Query) (Page[Account], error) {
	db := matching(o.store.handle(ctx), q.Text)
	return paginate(db, q, order{columns: []string{"name"}}, func(a Account) []any { return []any{a.Name} })
}

// SuspendAccount stops every change in the account until it is resumed.
func (o *Operator) SuspendAccount(ctx context.Context, id string) error {
	return o.setState(ctx, "SuspendAccount", id, AccountSuspended)
}

// ResumeAccount ends a suspension.
func (o *Operator) ResumeAccount(ctx context.Context, id string) error {
	return o.setState(ctx, "ResumeAccount", id, AccountActive)
}

func (o *Operator) setState(ctx context.Context, action, id, state string) error {
	return o.write(ctx, func(t *tx) error {
		a, err := t.tenant(id)
		if err != nil || a.State == state {
			return err
		}
		if err := t.Model(&Account{}).Where("id = ?", id).Updates(map[string]any{"state": state}).Error; err != nil {
			return fmt.Errorf("update account: %w", err)
		}
		return t.concerns(id, action, KindAccount, id, a.Name, map[string]any{"state": a.State}, map[string]any{"state": state})
	})
}

// tenant locks an account for an operator.
func (t *tx) tenant(id string) (Account, error) {
	a, err := t.lock(id)
	if KindOf(err) == NotFound {
		err = unknown(KindAccount)
	}
	return a, err
}

// UserInput describes a new user.
type UserInput struct {
	Name        string // for sign-in
	DisplayName string // "" is the Name
	Password    string // "" cannot sign in by password
	Operator    bool
	Demo        bool
}

var userName = regexp.MustCompile(`^[a-z0-9][a-z0-9._@+-]{1,63}$`)

// CreateUser adds a user who is in no account.
func (o *Operator) CreateUser(ctx context.Context, in UserInput) (*User, error) {
	u := &User{Name: strings.ToLower(strings.TrimSpace(in.Name)), DisplayName: strings.TrimSpace(in.DisplayName), Operator: in.Operator, Demo: in.Demo}
	var faults []error
	if !userName.MatchString(u.Name) || strings.HasPrefix(u.Name, prefixes[KindUser]+"-") {
		faults = append(faults, invalid("name", "invalid_name", "A name for sign-in has 2 to 64 characters: letters, digits and . _ @ + -, and does not begin with usr-."))
	}
	if u.DisplayName == "" {
		u.DisplayName = u.Name
	} else if _, err := validName("display_name", u.DisplayName); err != nil {
		faults = append(faults, err)
	}
	if in.Password != "" {
		faults = append(faults, validPassword("password", in.Password))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	var hash string
	if in.Password != "" {
		var err error
		if hash, err = hashPassword(ctx, in.Password); err != nil {
			return nil, err
		}
	}
	err := o.write(ctx, func(t *tx) error {
		if err := t.vacant(KindUser, u, "name = ?", u.Name); err != nil {
			return err
		}
		u.ID, u.PasswordHash, u.CreatedAt = newID(KindUser), hash, t.now
		if err := t.Create(u).Error; err != nil {
			return fmt.Errorf("create user: %w", err)
		}
		u.PasswordHash = ""
		return t.audit("CreateUser", KindUser, u.ID, u.Name, nil, map[string]any{"name": u.Name, "operator": u.Operator})
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// Users lists users by name.
func (o *Operator) Users(ctx context.Context, q Query) (Page[User], error) {
	db := matching(o.store.handle(ctx).Omit("password_hash"), q.Text)
	return paginate(db, q, order{columns: []string{"name"}}, func(u User) []any { return []any{u.Name} })
}

// SetPassword gives a user, by name or id, another password and ends their
// sessions.
func (o *Operator) SetPassword(ctx context.Context, user, password string) error {
	if err := validPassword("password", password); err != nil {
		return err
	}
	hash, err := hashPassword(ctx, password)
	if err != nil {
		return err
	}
	return o.setUser(ctx, "SetPassword", user, map[string]any{"password_hash": hash}, true)
}

// DisableUser keeps a user, by name or id, from signing in and from signing API
// calls, and ends their sessions.
func (o *Operator) DisableUser(ctx context.Context, user string) error {
	return o.setUser(ctx, "DisableUser", user, map[string]any{"disabled": true}, true)
}

// EnableUser lets a disabled user, by name or id, in again.
func (o *Operator) EnableUser(ctx context.Context, user string) error {
	return o.setUser(ctx, "EnableUser", user, map[string]any{"disabled": false}, false)
}

func (o *Operator) setUser(ctx context.Context, action, user string, change map[string]any, out bool) error {
	return o.write(ctx, func(t *tx) error {
		u, err := findUser(t.DB, user)
		if err != nil {
			return err
		}
		if err := t.Model(&User{}).Where("id = ?", u.ID).Updates(change).Error; err != nil {
			return fmt.Errorf("update user: %w", err)
		}
		if out {
			if err := t.endSessions(u.ID, ""); err != nil {
				return err
			}
		}
		return t.audit(action, KindUser, u.ID, u.Name, nil, nil)
	})
}

// AddMember gives a user, by name or id, a role in an account.
func (o *Operator) AddMember(ctx context.Context, account, user string, r Role) error {
	return o.write(ctx, func(t *tx) error {
		a, err := t.tenant(account)
		if err != nil {
			return err
		}
		if err := t.addMember(a, user, r); err != nil {
			return err
		}
		return t.audit("AddMember", KindAccount, a.ID, a.Name, nil, map[string]any{"user": user, "role": r})
	})
}

// RemoveMember takes a user, by name or id, out of an account.
func (o *Operator) RemoveMember(ctx context.Context, account, user string) error {
	return o.write(ctx, func(t *tx) error {
		a, err := t.tenant(account)
		if err != nil {
			return err
		}
		u, err := findUser(t.DB, user)
		if err != nil {
			return err
		}
		if err := t.removeMember(a, u.ID); err != nil {
			return err
		}
		return t.audit("RemoveMember", KindAccount, a.ID, a.Name, map[string]any{"user": u.Name}, nil)
	})
}

// SignInLink returns the token of a link that signs a user, by name or id, in: once
// and within ten minutes.
func (o *Operator) SignInLink(ctx context.Context, user string) (token string, err error) {
	err = o.write(ctx, func(t *tx) (err error) {
		u, err := findUser(t.DB, user)
		if err != nil {
			return err
		}
		token, err = t.signInLink(u)
		return err
	})
	return token, err
}

// maxLinks of one user that wait to be used; the oldest give way.
const maxLinks = 10

func (t *tx) signInLink(u User) (string, error) {
	if u.Disabled {
		return "", fail(Conflict, "user_disabled", "The user %s is disabled.", u.Name)
	}
	token := rand.Text()
	row := SignInLink{TokenHash: digest(token), UserID: u.ID, ExpiresAt: t.now.Add(linkLife)}
	if err := t.Create(&row).Error; err != nil {
		return "", fmt.Errorf("create sign-in link: %w", err)
	}
	err := t.Exec(`DELETE FROM sign_in_links WHERE user_id = ? AND token_hash <> ? AND (used_at IS NOT NULL OR token_hash NOT IN
		(SELECT token_hash FROM sign_in_links WHERE user_id = ? AND used_at IS NULL ORDER BY expires_at DESC, token_hash LIMIT ?))`,
		u.ID, row.TokenHash, u.ID, maxLinks).Error
	if err != nil {
		return "", fmt.Errorf("delete old sign-in links: %w", err)
	}
	return token, t.audit("CreateSignInLink", KindUser, u.ID, u.Name, nil, nil)
}

// firstOperator is the name of the user that an empty store begins with.
const firstOperator = "operator"

// FirstSignIn returns the token of a sign-in link for the operator of a store that
// nobody can sign in to yet: there is no account and no user with a password. It
// makes the user, "operator", where needed. It returns "" for every other store.
func (o *Operator) FirstSignIn(ctx context.Context) (token string, err error) {
	err = o.write(ctx, func(t *tx) error {
		token = ""
		var known int64
		if err := t.Raw("SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM users WHERE password_hash <> '')").Scan(&known).Error; err != nil {
			return fmt.Errorf("count accounts: %w", err)
		}
		if known > 0 {
			return nil
		}
		u, err := findUser(t.DB, firstOperator)
		if KindOf(err) == NotFound {
			u = User{ID: newID(KindUser), Name: firstOperator, DisplayName: "Operator", Operator: true, CreatedAt: t.now}
			if err := t.Create(&u).Error; err != nil {
				return fmt.Errorf("create user: %w", err)
			}
			err = t.audit("CreateUser", KindUser, u.ID, u.Name, nil, map[string]any{"name": u.Name, "operator": true})
		}
		if err != nil {
			return err
		}
		token, err = t.signInLink(u)
		return err
	})
	return token, err
}

// Empty reports whether there is no account and no user yet.
func (o *Operator) Empty(ctx context.Context) (bool, error) {
	var n int64
	if err := o.store.handle(ctx).Raw("SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM users)").Scan(&n).Error; err != nil {
		return false, fmt.Errorf("count accounts: %w", err)
	}
	return n == 0, nil
}

// Installation returns the id of this installation: 5 characters of a-z and 2-7,
// made once.
func (o *Operator) Installation(ctx context.Context) (string, error) {
	db := o.store.handle(ctx)
	row := Setting{Name: "installation", Value: token(5)}
	if err := db.Clauses(clause.OnConflict{DoNothing: true}).Create(&row).Error; err != nil {
		return "", fmt.Errorf("create installation id: %w", err)
	}
	var have Setting
	if err := db.Where("name = ?", row.Name).Take(&have).Error; err != nil {
		return "", fmt.Errorf("read installation id: %w", err)
	}
	return have.Value, nil
}

// CreateAccessKey makes a key of a user, by name or id, for an account the user is
// in. The secret is shown here and never again.
func (o *Operator) CreateAccessKey(ctx context.Context, account, user string) (key *AccessKey, secret string, err error) {
	err = o.write(ctx, func(t *tx) error {
		a, err := t.tenant(account)
		if err != nil {
			return err
		}
		u, err := findUser(t.DB, user)
		if err != nil {
			return err
		}
		if _, _, err := t.member(a, u.ID); KindOf(err) == NotFound {
			return fail(Conflict, "not_member", "%s is not in the account %s. Add the user to the account first.", u.Name, a.Name)
		} else if err != nil {
			return err
		}
		if key, secret, err = t.createAccessKey(o.store, a, u); err != nil {
			return err
		}
		return t.audit("CreateAccessKey", KindAccessKey, key.ID, u.Name, nil, map[string]any{"account": a.ID})
	})
	return key, secret, err
}

// AccessKeys returns the keys of an account.
func (o *Operator) AccessKeys(ctx context.Context, account string) ([]AccessKeyInfo, error) {
	db := o.store.handle(ctx)
	if err := find(db, KindAccount, &Account{}, "id = ?", account); err != nil {
		return nil, err
	}
	return accessKeys(db, account)
}

// Audit lists what operators did and who signed in, newest first.
func (o *Operator) Audit(ctx context.Context, q AuditQuery) (Page[AuditEvent], error) {
	return auditPage(o.store.handle(ctx), installationChain, q)
}

// VerifyAudit goes through the installation's trail: see [Scope.VerifyAudit].
func (o *Operator) VerifyAudit(ctx context.Context) (AuditCheck, error) {
	return verifyChain(o.store.handle(ctx), installationChain)
}

// OfferInput describes an object of the host that an account may use.
type OfferInput struct {
	AccountID string // "" for every account
	Label     string // what tenants see
	Kind      string // AttachAdopted, AttachInterface, AttachHost, AttachPort
	Path      string // adopted: file of the namespace,
	Inode     uint64 // and what it was when it was offered
	Device    string // interface, and its number
	DeviceNo  int
	HostIP    string // host service, published port
	PortFrom  int    // and which ports; both 0 for any
	PortTo    int
	Demo      bool
}

// Offers returns every offer, by id.
func (o *Operator) Offers(ctx context.Context) ([]Offer, error) {
	var out []Offer
	if err := o.store.handle(ctx).Order("id").Find(&out).Error; err != nil {
		return nil, fmt.Errorf("list offers: %w", err)
	}
	return out, nil
}

// CreateOffer lets one or every account use an object of the host.
func (o *Operator) CreateOffer(ctx context.Context, in OfferInput) (*Offer, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	row := &Offer{
		ID: newID(KindOffer), AccountID: in.AccountID, Label: strings.TrimSpace(in.Label), Kind: in.Kind, Path: in.Path, Inode: in.Inode,
		Device: in.Device, DeviceNo: in.DeviceNo, HostIP: in.HostIP, PortFrom: in.PortFrom, PortTo: in.PortTo, Demo: in.Demo,
	}
	err := o.write(ctx, func(t *tx) error {
		if in.AccountID != "" {
			if _, err := t.tenant(in.AccountID); err != nil {
				return err
			}
			t.touched(in.AccountID, KindOffer, row.ID)
		}
		row.CreatedAt = t.now
		if err := t.Create(row).Error; err != nil {
			return fmt.Errorf("create offer: %w", err)
		}
		return t.audit("CreateOffer", KindOffer, row.ID, row.Label, nil, row)
	})
	if err != nil {
		return nil, err
	}
	return row, nil
}

// maxDeviceName is IFNAMSIZ without its end.
const maxDeviceName = 15

func (in OfferInput) check() error {
	_, err := validName("label", in.Label)
	faults := []error{err}
	wrong := func(field, message string) { faults = append(faults, invalid(field, "invalid_"+field, message)) }
	switch in.Kind {
	case AttachAdopted:
		if !filepath.IsAbs(in.Path) || filepath.Clean(in.Path) != in.Path {
			wrong("path", "The file of a namespace is named by its whole path.")
		}
	case AttachInterface:
		if in.Device == "" || len(in.Device) > maxDeviceName || in.Device == "lo" || strings.ContainsAny(in.Device, "/ ") || !printable(in.Device) {
			wrong("device", "The name of an interface has 1 to 15 characters, and it is not lo.")
		}
	case AttachHost, AttachPort:
		ip, err := netip.ParseAddr(in.HostIP)
		switch {
		case err != nil || ip.Zone() != "" || ip.IsMulticast():
			wrong("host_ip", "This is not an IP address of the host.")
		case in.Kind == AttachHost && ip.IsUnspecified():
			wrong("host_ip", "A host service has one address, not every address.")
		}
		if in.PortFrom < 0 || in.PortTo > 65535 || in.PortTo < in.PortFrom || (in.PortFrom == 0) != (in.PortTo == 0) {
			wrong("port_from", "Ports are from 1 to 65535, the first before the last; none for any.")
		}
	default:
		wrong("kind", "An offer is a namespace, an interface, a host service or a published port.")
	}
	return errors.Join(faults...)
}

// DeleteOffer withdraws an offer. A Conflict names the attachments that use it.
func (o *Operator) DeleteOffer(ctx context.Context, id string) error {
	return o.write(ctx, func(t *tx) error {
		var row Offer
		if err := find(locked(t.DB), KindOffer, &row, "id = ?", id); err != nil { // whoever wants to use it waits
			return err
		}
		var in uses
		if err := in.add(t.Model(&Attachment{}).Where("offer_id = ?", id), KindAttachment); err != nil {
			return err
		}
		if err := in.refusal(KindOffer, row.Label); err != nil {
			return err
		}
		if err := t.remove(&Offer{}, "id = ?", id); err != nil {
			return err
		}
		if row.AccountID != "" {
			t.touched(row.AccountID, KindOffer, id)
		}
		return t.audit("DeleteOffer", KindOffer, id, row.Label, row, nil)
	})
}
