package domain

import (
	"context"
	"fmt"
)

// Census counts what an installation has.
type Census struct {
	Accounts, Users, Regions, Zones, Offers int
	VPCs, Attachments, Services, Endpoints  int
	Failed                                  int // VPCs and attachments that the engine could not set up
}

// Census counts what the installation has, over all accounts.
func (o *Operator) Census(ctx context.Context) (Census, error) {
	var n Census
	err := o.store.handle(ctx).Raw(`SELECT
		(SELECT COUNT(*) FROM accounts), (SELECT COUNT(*) FROM users), (SELECT COUNT(*) FROM regions), (SELECT COUNT(*) FROM zones),
		(SELECT COUNT(*) FROM offers), (SELECT COUNT(*) FROM vpcs), (SELECT COUNT(*) FROM attachments), (SELECT COUNT(*) FROM services),
		(SELECT COUNT(*) FROM endpoints),
		(SELECT COUNT(*) FROM vpcs WHERE engine_error <> '') + (SELECT COUNT(*) FROM attachments WHERE engine_error <> '')`).
		Row().Scan(&n.Accounts, &n.Users, &n.Regions, &n.Zones, &n.Offers, &n.VPCs, &n.Attachments, &n.Services, &n.Endpoints, &n.Failed)
	if err != nil {
		return Census{}, fmt.Errorf("count: %w", err)
	}
	return n, nil
}

// Engine asks the data plane how it is.
//
// Errors: Conflict if none is there to answer.
func (o *Operator) Engine(ctx context.Context) (EngineStatus, error) {
	if o.store.plane == nil {
		return EngineStatus{}, fail(Conflict, "no_engine", "No engine is connected.")
	}
	return o.store.plane.Status(ctx)
}

// Account returns an account and who is in it, by name.
func (o *Operator) Account(ctx context.Context, id string) (*Account, []Member, error) {
	db := o.store.handle(ctx)
	var a Account
	if err := find(db, KindAccount, &a, "id = ?", id); err != nil {
		return nil, nil, err
	}
	members, err := membersOf(db, id)
	return &a, members, err
}

// User returns a user, by name or id, and the accounts they are in.
func (o *Operator) User(ctx context.Context, user string) (*User, []AccountRole, error) {
	db := o.store.handle(ctx)
	u, err := findUser(db, user)
	if err != nil {
		return nil, nil, err
	}
	u.PasswordHash = ""
	accounts, err := accountsOf(db, u.ID)
	return &u, accounts, err
}

// AuditEvent returns one entry of the installation's trail.
func (o *Operator) AuditEvent(ctx context.Context, seq int64) (*AuditEvent, error) {
	var e AuditEvent
	if err := find(o.store.handle(ctx), KindAudit, &e, "account_id = ? AND seq = ?", installationChain, seq); err != nil {
		return nil, err
	}
	return &e, nil
}
