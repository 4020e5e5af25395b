package domain

import (
	"context"
	"errors"
	"fmt"
)

// expireAtOnce bounds how many connections one call of [System.Expire] ends.
const expireAtOnce = 100

// Expire ends approvals that have come to their end, and rejects requests that have
// waited longer than their service lets them.
func (y *System) Expire(ctx context.Context) error {
	db, now := y.store.handle(ctx), y.store.now()
	var ended []Connection
	err := db.Where("expires_at IS NOT NULL AND expires_at <= ? AND decision = ?", now, Accepted).Order("expires_at, endpoint_id").Limit(expireAtOnce).Find(&ended).Error
	if err != nil {
		return fmt.Errorf("find ended approvals: %w", err)
	}
	var hours []Service
	if err := db.Select("id", "pending_expiry").Where("pending_expiry > 0").Find(&hours).Error; err != nil {
		return fmt.Errorf("find services: %w", err)
	}
	for _, svc := range hours {
		var waited []Connection
		err := db.Where("service_id = ? AND decision = ? AND rank <= ?", svc.ID, Waiting, now.UnixMicro()-int64(svc.PendingExpiry)*3600e6).
			Order("rank, endpoint_id").Limit(expireAtOnce).Find(&waited).Error
		if err != nil {
			return fmt.Errorf("find old requests: %w", err)
		}
		ended = append(ended, waited...)
	}
	var errs []error
	for _, c := range ended {
		if err := y.expire(ctx, c); err != nil && KindOf(err) != Conflict && KindOf(err) != NotFound {
			errs = append(errs, fmt.Errorf("expire connection %s: %w", c.EndpointID, err))
		}
	}
	return errors.Join(errs...)
}

// expire ends a connection as it was read; one that changed meanwhile is left alone.
func (y *System) expire(ctx context.Context, was Connection) error {
	return y.store.inTx(ctx, Actor{Kind: ActorSystem, Channel: "system"}, was.ProviderID, func(t *tx) error {
		l, err := t.lockLink(KindConnection, "endpoint_id = ? AND version = ?", was.EndpointID, was.Version)
		if err != nil {
			return err
		}
		before := l.facts()
		d := terms{Decision: Expired, Message: "The approval has come to its end.", capacity: was.capacity()}
		if was.Decision == Waiting {
			d.Decision, d.Message = Rejected, "Nobody answered the request in time."
		}
		d.DecidedAt, d.Rank = &t.now, t.now.UnixMicro()
		err = t.move(l, Reject, t.after(was.ExpiryDrain), d.values())
		if err != nil {
			return err
		}
		return t.auditLink(l, "ExpireConnection", before)
	})
}
