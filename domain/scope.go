package domain

import (
	"context"
	"slices"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Role of a user in an account.
type Role string

// The roles. Operators of the installation are apart: see [Operator].
const (
	RoleOwner    Role = "owner"
	RoleProvider Role = "provider"
	RoleConsumer Role = "consumer"
	RoleNetwork  Role = "network"
	RoleAuditor  Role = "auditor"
)

// Roles lists every role, most powerful first.
var Roles = []Role{RoleOwner, RoleProvider, RoleConsumer, RoleNetwork, RoleAuditor}

// Permission is what an operation asks for.
type Permission string

// The permissions.
const (
	ReadProvide  Permission = "provide:read"  // services, whitelist, connections of own services
	WriteProvide Permission = "provide:write" // and load balancers
	ReadConsume  Permission = "consume:read"  // catalogue, endpoints
	WriteConsume Permission = "consume:write"
	ReadNetwork  Permission = "network:read" // VPCs, attachments, routes, security groups, load balancers
	WriteNetwork Permission = "network:write"
	ReadAudit    Permission = "audit:read"
	ReadAccount  Permission = "account:read" // users and roles, access keys, quotas
	WriteAccount Permission = "account:write"
)

// grants is the whole of authorisation inside an account: role by permission.
var grants = map[Role][]Permission{
	RoleOwner:    {ReadProvide, WriteProvide, ReadConsume, WriteConsume, ReadNetwork, WriteNetwork, ReadAudit, ReadAccount, WriteAccount},
	RoleProvider: {ReadProvide, WriteProvide, ReadConsume, ReadNetwork, ReadAudit, ReadAccount},
	RoleConsumer: {ReadProvide, ReadConsume, WriteConsume, ReadNetwork, ReadAudit, ReadAccount},
	RoleNetwork:  {ReadProvide, ReadConsume, ReadNetwork, WriteNetwork, ReadAudit, ReadAccount},
	RoleAuditor:  {ReadProvide, ReadConsume, ReadNetwork, ReadAudit, ReadAccount},
}

// Allows reports whether the role has the permission.
func (r Role) Allows(p Permission) bool { return slices.Contains(grants[r], p) }

// Kinds of actors in the audit trail.
const (
	ActorUser     = "user"
	ActorOperator = "operator"
	ActorSystem   = "system" // the product itself, e.g. an expiry
	ActorEngine   = "engine"
	ActorPeer     = "peer" // the account at the other side of a connection; ID is the account
)

// Actor is who does something, and from where.
type Actor struct {
	Kind, ID, Name string
	Channel        string // console, api, cli, system
	Address        string // source IP
	RequestID      string
}

// Scope is one user acting for one account. Tenant operations are its methods;
// nothing else reaches tenant data.
type Scope struct {
	store   *Store
	account Account
	user    User
	role    Role
	by      Actor
}

// Account returns the account this scope acts for.
func (s *Scope) Account() Account { return s.account }

// User returns who acts.
func (s *Scope) User() User { return s.user }

// Role returns the user's role in the account.
func (s *Scope) Role() Role { return s.role }

// Can reports whether the user's role has the permission, to leave out controls
// that would be refused.
func (s *Scope) Can(p Permission) bool {
	return s.role.Allows(p) && (s.account.State == AccountActive || !p.writes())
}

func (p Permission) writes() bool {
	return p == WriteProvide || p == WriteConsume || p == WriteNetwork || p == WriteAccount
}

func (s *Scope) may(p Permission) error {
	if !s.role.Allows(p) {
		return fail(Denied, "no_permission", "Your role in %s, %s, does not have the permission %s. An owner of the account can grant it.", s.account.Name, s.role, p)
	}
	if p.writes() && s.account.State != AccountActive {
		return suspended(s.account)
	}
	return nil
}

// read returns a handle for reading, if the role allows it.
func (s *Scope) read(ctx context.Context, p Permission) (*gorm.DB, error) {
	if err := s.may(p); err != nil {
		return nil, err
	}
	return s.store.handle(ctx), nil
}

// write runs f in a transaction, if the role allows it. Writes of one account
// happen one after the other, on PostgreSQL as on SQLite: what f reads of its own
// account stays so until the commit.
func (s *Scope) write(ctx context.Context, p Permission, f func(*tx) error) error {
	if err := s.may(p); err != nil {
		return err
	}
	return s.store.inTx(ctx, s.by, s.account.ID, func(t *tx) error {
		account, err := t.lock(s.account.ID)
		if err != nil {
			return err
		}
		if account.State != AccountActive { // since this scope was made
			return suspended(account)
		}
		return f(t)
	})
}

// lock makes every other writer of the account wait until the transaction ends.
func (t *tx) lock(account string) (Account, error) {
	var a Account
	// SQLite has one writer at a time and leaves the clause out.
	err := first(t.Clauses(clause.Locking{Strength: "NO KEY UPDATE"}), KindAccount, &a, "id = ?", account)
	return a, err
}

func suspended(a Account) error {
	return fail(Denied, "account_suspended", "The account %s is suspended: nothing can be changed until an operator resumes it.", a.Name)
}

// System is the product acting by itself: the reconciler's reports, expiries.
type System struct{ store *Store }

// System returns the store's own hand. Only the program's wiring calls it.
func (s *Store) System() *System { return &System{s} }

func (y *System) write(ctx context.Context, account string, f func(*tx) error) error {
	return y.store.inTx(ctx, Actor{Kind: ActorEngine, Channel: "system"}, account, f)
}
