package domain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gorm.io/gorm"
)

// Report is what the engine observed.
type Report struct {
	Endpoints   []EndpointReport
	Servers     []ServerReport
	Attachments []ObjectReport
	VPCs        []ObjectReport
}

// EndpointReport says how far the engine follows an endpoint. A report about
// another version than the connection's own is about what nobody wants any more,
// and is ignored.
type EndpointReport struct {
	ID      string
	Version int64
	Zones   map[string]ZoneReport // by zone; one that is absent does not carry
}

// ZoneReport is one zone of it. A zone that does not carry has no live flow left.
type ZoneReport struct {
	Carrying bool
	Error    string
}

// ServerReport is the health of a target.
type ServerReport struct {
	ID     string
	Health string // HealthUnknown and its like
	Reason string
	Since  time.Time
}

// ObjectReport says whether an attachment or a VPC is there.
type ObjectReport struct {
	ID    string
	Up    bool
	Error string
}

// Report writes down what the engine observed. It is the only writer of facts:
// connected and disconnected, the states of zones, health, and what is up. Only what
// is new is written. An error is about the store; the same report may come again.
func (y *System) Report(ctx context.Context, r Report) error {
	return errors.Join(
		y.reportEndpoints(ctx, r.Endpoints),
		y.reportServers(ctx, r.Servers),
		reportObjects(ctx, y, KindAttachment, r.Attachments, func(a *Attachment) (string, string, bool, string) { return a.ID, a.VPCID, a.EngineUp, a.EngineError }),
		reportObjects(ctx, y, KindVPC, r.VPCs, func(v *VPC) (string, string, bool, string) { return v.ID, v.ID, v.EngineUp, v.EngineError }),
	)
}

// reportEndpoints looks at all reports in few queries, and gives each that says
// something new a transaction of its own, so that one lost race holds up no other.
func (y *System) reportEndpoints(ctx context.Context, reports []EndpointReport) error {
	if len(reports) == 0 {
		return nil
	}
	ids := each(reports, func(r EndpointReport) string { return r.ID })
	have, err := y.EngineEndpoints(ctx, ids)
	if err != nil {
		return err
	}
	connections, err := rowsOf[Connection](y.store.handle(ctx), "endpoint_id", ids, "endpoint_id")
	if err != nil {
		return fmt.Errorf("read connections: %w", err)
	}
	links := make(map[string]*link, len(have))
	for _, e := range have {
		links[e.ID] = &link{Endpoint: e.Endpoint, Zones: e.Zones}
	}
	for _, c := range connections {
		if l := links[c.EndpointID]; l != nil {
			l.Connection = c
		}
	}
	var errs []error
	for _, r := range reports {
		if l := links[r.ID]; l != nil && l.tells(r) {
			err := y.reportEndpoint(ctx, l.AccountID, r)
			if k := KindOf(err); err != nil && k != NotFound && k != Conflict { // a decision came in between: its own report follows
				errs = append(errs, fmt.Errorf("report endpoint %s: %w", r.ID, err))
			}
		}
	}
	return errors.Join(errs...)
}

// zoneEvent returns what a report means for a zone, "" for nothing.
func zoneEvent(z EndpointZone, r ZoneReport) ZoneEvent {
	switch {
	case z.Status == ZoneCreating:
		return ZoneReady
	case z.Status == ZoneConnecting && r.Carrying:
		return ZoneUp
	case z.Status == ZoneConnected && !r.Carrying:
		return ZoneLost
	case z.Status == ZoneDisconnecting && !r.Carrying:
		return ZoneDown
	}
	return ""
}

// connectionEvent returns what the zones' states mean for the connection, "" for
// nothing. Zones that are being removed count as long as they carry.
func (l *link) connectionEvent(r EndpointReport) ConnectionEvent {
	up, carrying := true, false
	for _, z := range l.Zones {
		up = up && (z.Status == ZoneDeleting || z.Status == ZoneConnected || z.Status == ZoneMigrating || z.Status == ZoneMigrated)
		carrying = carrying || r.Zones[z.ZoneID].Carrying
	}
	switch l.Connection.Status {
	case Connecting, Pending:
		if up {
			return Up
		}
	case Disconnecting:
		if !carrying {
			return Down
		}
	}
	return ""
}

// ended reports whether the engine has let go of an endpoint that is being deleted.
func (l *link) ended(r EndpointReport) bool {
	return l.Connection.Status == Deleting && !slices.ContainsFunc(l.Zones, func(z EndpointZone) bool { return r.Zones[z.ZoneID].Carrying })
}

// tells reports whether r has anything new about l.
func (l *link) tells(r EndpointReport) bool {
	if r.Version != l.Connection.Version {
		return false
	}
	if l.Status == EndpointCreating || l.Status == EndpointPending || l.ended(r) || l.connectionEvent(r) != "" {
		return true
	}
	return slices.ContainsFunc(l.Zones, func(z EndpointZone) bool {
		zr := r.Zones[z.ZoneID]
		return zoneEvent(z, zr) != "" || z.EngineError != zr.Error || (z.Status == ZoneDeleting && !zr.Carrying)
	})
}

func (y *System) reportEndpoint(ctx context.Context, consumer string, r EndpointReport) error {
	return y.write(ctx, consumer, func(t *tx) error {
		l, err := t.lockLink(KindEndpoint, "endpoint_id = ?", r.ID)
		if err != nil {
			return err
		}
		if r.Version != l.Connection.Version {
			return nil
		}
		if l.ended(r) {
			return t.deleteEndpoint(l)
		}
		if err := t.reportZones(l, r); err != nil {
			return err
		}
		if l.Status == EndpointCreating || l.Status == EndpointPending {
			if err := t.moveEndpoint(l, EndpointReady); err != nil {
				return err
			}
		}
		event := l.connectionEvent(r)
		if event == "" {
			return nil
		}
		before := l.facts()
		if err := t.move(l, event, nil); err != nil {
			return err
		}
		return t.auditLink(l, facts[event], before)
	})
}

// facts are the engine's events in the audit trail.
var facts = map[ConnectionEvent]string{Up: "ConnectionConnected", Down: "ConnectionDisconnected"}

// reportZones moves each zone as far as the report says, and lets zones go that were
// removed.
func (t *tx) reportZones(l *link, r EndpointReport) error {
	for _, z := range slices.Clone(l.Zones) {
		zr := r.Zones[z.ZoneID]
		if z.Status == ZoneDeleting && !zr.Carrying {
			if err := t.dropZone(l, z); err != nil {
				return err
			}
			continue
		}
		if event := zoneEvent(z, zr); event != "" {
			if err := t.moveZones(l, event, z.ZoneID); err != nil {
				return err
			}
		}
		if z.EngineError != zr.Error {
			err := t.Model(&EndpointZone{}).Where("endpoint_id = ? AND zone_id = ?", l.ID, z.ZoneID).Update("engine_error", zr.Error).Error
			if err != nil {
				return fmt.Errorf("note error of zone: %w", err)
			}
			t.linkTouched(l)
		}
	}
	return nil
}

// dropZone deletes a zone that carries no more, with its address.
func (t *tx) dropZone(l *link, z EndpointZone) error {
	if err := t.Where("endpoint_id = ? AND zone_id = ?", l.ID, z.ZoneID).Delete(&EndpointZone{}).Error; err != nil {
		return fmt.Errorf("delete zone: %w", err)
	}
	l.Zones = slices.DeleteFunc(l.Zones, func(have EndpointZone) bool { return have.ZoneID == z.ZoneID })
	if err := release(t, l.VPCID, l.ID, z.Address); err != nil {
		return err
	}
	t.stale(KindEndpoint, l.ID)
	t.linkTouched(l)
	return nil
}

// deleteEndpoint deletes an endpoint that the engine has let go of.
func (t *tx) deleteEndpoint(l *link) error {
	for _, model := range []any{&Connection{}, &EndpointZone{}, &EndpointGroup{}} {
		if err := t.Where("endpoint_id = ?", l.ID).Delete(model).Error; err != nil {
			return fmt.Errorf("delete what belongs to endpoint: %w", err)
		}
	}
	if err := t.Where("id = ?", l.ID).Delete(&Endpoint{}).Error; err != nil {
		return fmt.Errorf("delete endpoint: %w", err)
	}
	if err := release(t, l.VPCID, l.ID); err != nil {
		return err
	}
	t.stale(KindEndpoint, l.ID)
	t.linkTouched(l)
	if err := t.auditIn(l.AccountID, "EndpointDeleted", KindEndpoint, l.ID, l.Name, nil, nil); err != nil {
		return err
	}
	return t.auditIn(l.ProviderID, "ConnectionDeleted", KindConnection, l.ID, "", nil, nil)
}

// reportServers writes the health of targets. Health comes and goes: it is shown,
// and not audited.
func (y *System) reportServers(ctx context.Context, reports []ServerReport) error {
	if len(reports) == 0 {
		return nil
	}
	return y.write(ctx, "", func(t *tx) error {
		rows, err := rowsOf[Server](t.DB, "id", each(reports, func(r ServerReport) string { return r.ID }), "id")
		if err != nil {
			return fmt.Errorf("read targets: %w", err)
		}
		known := make(map[string]Server, len(rows))
		for _, srv := range rows {
			known[srv.ID] = srv
		}
		groups := map[string]bool{}
		for _, r := range reports {
			srv, ok := known[r.ID]
			if !ok || (srv.Health == r.Health && srv.HealthReason == r.Reason) {
				continue
			}
			err := t.Model(&Server{}).Where("id = ?", r.ID).
				Updates(map[string]any{"health": r.Health, "health_reason": r.Reason, "health_since": r.Since.UTC().Truncate(time.Microsecond)}).Error
			if err != nil {
				return fmt.Errorf("note health: %w", err)
			}
			if !groups[srv.ServerGroupID] {
				groups[srv.ServerGroupID] = true
				if err := t.healthTouched(srv.ServerGroupID); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// healthTouched tells who shows load balancers and services with a server group.
func (t *tx) healthTouched(groupID string) error {
	var balancers []LoadBalancer
	err := t.Select("id", "account_id").Where("id IN (?)", t.Model(&Listener{}).Select("load_balancer_id").Where("server_group_id = ?", groupID)).Find(&balancers).Error
	if err != nil {
		return fmt.Errorf("find load balancers: %w", err)
	}
	ids := make([]string, len(balancers))
	for i, b := range balancers {
		ids[i] = b.ID
		t.touched(b.AccountID, KindLoadBalancer, b.ID)
	}
	return t.servicesTouched(ids...)
}

// reportObjects writes whether attachments or VPCs are there. of returns an object's
// id, its VPC's id and what is known of it.
func reportObjects[T any](ctx context.Context, y *System, kind string, reports []ObjectReport, of func(*T) (id, vpcID string, up bool, problem string)) error {
	if len(reports) == 0 {
		return nil
	}
	return y.write(ctx, "", func(t *tx) error {
		for _, r := range reports {
			var row T
			err := t.Where("id = ?", r.ID).Take(&row).Error
			if errors.Is(err, gorm.ErrRecordNotFound) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read %s: %w", kind, err)
			}
			id, vpcID, up, problem := of(&row)
			if up == r.Up && problem == r.Error {
				continue
			}
			if err := t.Model(&row).Where("id = ?", id).Updates(map[string]any{"engine_up": r.Up, "engine_error": r.Error}).Error; err != nil {
				return fmt.Errorf("note state of %s: %w", kind, err)
			}
			var account string
			if err := t.Model(&VPC{}).Where("id = ?", vpcID).Pluck("account_id", &account).Error; err != nil {
				return fmt.Errorf("find account: %w", err)
			}
			t.touched(account, kind, id)
		}
		return nil
	})
}
