package domain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
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
		y.reportObjects(ctx, KindAttachment, r.Attachments),
		y.reportObjects(ctx, KindVPC, r.VPCs))
}

// linksAtOnce bounds how many endpoints one transaction reports about.
const linksAtOnce = 100

// reportEndpoints looks at all reports in a few queries and writes what is new in a
// few transactions.
func (y *System) reportEndpoints(ctx context.Context, reports []EndpointReport) error {
	links, err := y.links(ctx, each(reports, func(r EndpointReport) string { return r.ID }))
	if err != nil {
		return err
	}
	reports = slices.DeleteFunc(slices.Clone(reports), func(r EndpointReport) bool { return links[r.ID] == nil || !links[r.ID].tells(r) })
	slices.SortFunc(reports, func(a, b EndpointReport) int { return strings.Compare(a.ID, b.ID) }) // rows are locked in one order
	for batch := range slices.Chunk(reports, linksAtOnce) {
		err := y.write(ctx, "", func(t *tx) error {
			for _, r := range batch {
				if err := t.reportEndpoint(r); err != nil {
					return fmt.Errorf("report endpoint %s: %w", r.ID, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// links reads links by endpoint, unlocked.
func (y *System) links(ctx context.Context, ids []string) (map[string]*link, error) {
	db := y.store.handle(ctx)
	connections, err := rowsOf[Connection](db, "endpoint_id", ids, "endpoint_id")
	if err != nil {
		return nil, fmt.Errorf("read connections: %w", err)
	}
	endpoints, err := rowsOf[Endpoint](db, "id", ids, "id")
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	zones, err := rowsOf[EndpointZone](db, "endpoint_id", ids, "endpoint_id, zone_id")
	if err != nil {
		return nil, fmt.Errorf("read zones of endpoints: %w", err)
	}
	out := make(map[string]*link, len(endpoints))
	zonesOf := groupRows(zones, func(z EndpointZone) string { return z.EndpointID })
	for _, e := range endpoints {
		out[e.ID] = &link{Endpoint: e, Zones: zonesOf[e.ID]}
	}
	for _, c := range connections {
		if l := out[c.EndpointID]; l != nil {
			l.Connection = c
		}
	}
	return out, nil
}

// zoneEvent returns what a report means for a zone, "" for nothing.
func zoneEvent(z EndpointZone, r ZoneReport) ZoneEvent {
	switch {
	case z.Status == ZoneCreating:
		return ZoneReady
	case (z.Status == ZoneConnecting || z.Status == ZoneMigrating) && r.Carrying && z.ReplacedID != "":
		return ZoneMoved
	case (z.Status == ZoneConnecting || z.Status == ZoneMigrating) && r.Carrying:
		return ZoneUp
	case (z.Status == ZoneConnected || z.Status == ZoneMigrated) && !r.Carrying:
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
		up = up && z.Status != ZoneCreating && z.Status != ZoneWait && z.Status != ZoneConnecting // others are there, or shall not be
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

// reportEndpoint writes what a report tells, if it is still about what is wanted.
func (t *tx) reportEndpoint(r EndpointReport) error {
	l, err := t.lockLink(KindEndpoint, "endpoint_id = ? AND version = ?", r.ID, r.Version)
	if KindOf(err) == NotFound { // gone, or another decision has come in between: its own report follows
		return nil
	}
	if err != nil {
		return err
	}
	if l.ended(r) {
		return t.deleteEndpoint(l)
	}
	before, status := l.facts(), l.Status
	if err := t.reportZones(l, r); err != nil {
		return err
	}
	if _, ok := endpointMoves.after(l.Status, EndpointReady); ok {
		if err := t.moveEndpoint(l, EndpointReady); err != nil {
			return err
		}
	}
	action := "ZonesChanged"
	if event := l.connectionEvent(r); event != "" {
		if err := t.move(l, event, nil, nil); err != nil {
			return err
		}
		action = observed[event]
	}
	zones := l.facts().Zones
	maps.DeleteFunc(zones, func(id string, s ZoneStatus) bool { return s == before.Zones[id] || s == ZoneWait }) // to wait is no news
	switch {
	case l.Connection.Status != before.Status || len(zones) > 0 || len(l.Zones) < len(before.Zones):
		return t.auditLink(l, action, before)
	case l.Status != status:
		return t.auditIn(l.AccountID, "EndpointReady", KindEndpoint, l.ID, l.Name, map[string]any{"status": status}, map[string]any{"status": l.Status})
	}
	return nil
}

// observed are the engine's events of a connection in the trails.
var observed = map[ConnectionEvent]string{Up: "ConnectionConnected", Down: "ConnectionDisconnected"}

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
			if err := t.moveZones(l, event, nil, z.ZoneID); err != nil {
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
	return t.auditIn(l.ProviderID, "ConnectionDeleted", KindConnection, l.ID, l.label, nil, nil)
}

// reportServers writes the health of targets. Health comes and goes: what the trail
// holds is that no target answers any more in a zone of a service, or one does again.
func (y *System) reportServers(ctx context.Context, reports []ServerReport) error {
	servers, err := rowsOf[Server](y.store.handle(ctx), "id", each(reports, func(r ServerReport) string { return r.ID }), "id")
	if err != nil {
		return fmt.Errorf("read targets: %w", err)
	}
	known := make(map[string]Server, len(servers))
	for _, srv := range servers {
		known[srv.ID] = srv
	}
	reports = slices.DeleteFunc(slices.Clone(reports), func(r ServerReport) bool {
		srv, ok := known[r.ID]
		return !ok || (srv.Health == r.Health && srv.HealthReason == r.Reason)
	})
	if len(reports) == 0 {
		return nil
	}
	groups := map[string]bool{}
	for _, r := range reports {
		groups[known[r.ID].ServerGroupID] = true
	}
	return y.write(ctx, "", func(t *tx) error {
		services, err := t.leadTo(slices.Sorted(maps.Keys(groups)))
		if err != nil {
			return err
		}
		before, err := readFronts(t.DB, services)
		if err != nil {
			return err
		}
		for _, r := range reports {
			err := t.Model(&Server{}).Where("id = ?", r.ID).
				Updates(map[string]any{"health": r.Health, "health_reason": r.Reason, "health_since": r.Since.UTC().Truncate(time.Microsecond)}).Error
			if err != nil {
				return fmt.Errorf("note health: %w", err)
			}
		}
		after, err := readFronts(t.DB, services)
		if err != nil {
			return err
		}
		return t.auditHealth(services, before, after)
	})
}

// leadTo returns the services that lead to server groups, and tells who shows them,
// the groups and the load balancers between.
func (t *tx) leadTo(groups []string) ([]string, error) {
	var balancers []LoadBalancer
	err := t.Select("id", "account_id").Where("id IN (?)", t.Model(&Listener{}).Select("load_balancer_id").Where("server_group_id IN ?", groups)).
		Order("id").Find(&balancers).Error
	if err != nil {
		return nil, fmt.Errorf("find load balancers: %w", err)
	}
	for _, lb := range balancers {
		t.touched(lb.AccountID, KindLoadBalancer, lb.ID)
	}
	var owned []ServerGroup
	if err := t.Select("id", "account_id").Where("id IN ?", groups).Order("id").Find(&owned).Error; err != nil {
		return nil, fmt.Errorf("find server groups: %w", err)
	}
	for _, g := range owned {
		t.touched(g.AccountID, KindServerGroup, g.ID)
	}
	return t.servicesTouched(each(balancers, func(lb LoadBalancer) string { return lb.ID })...)
}

// auditHealth enters into the trails in which zones of services all targets failed
// or one came back.
func (t *tx) auditHealth(services []string, before, after *fronts) error {
	var rows []Service
	if err := t.Where("id IN ?", services).Order("id").Find(&rows).Error; err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	for _, svc := range rows {
		was := map[string]string{}
		for _, h := range before.zones(svc.ID) {
			was[h.ZoneID] = h.State()
		}
		for _, h := range after.zones(svc.ID) {
			is := h.State()
			if (is == ZoneFailed) == (was[h.ZoneID] == ZoneFailed) {
				continue
			}
			action := "ServiceZoneUp"
			if is == ZoneFailed {
				action = "ServiceZoneDown"
			}
			err := t.auditIn(svc.AccountID, action, KindService, svc.ID, svc.Name,
				map[string]any{"zone": h.ZoneID, "targets": was[h.ZoneID]}, map[string]any{"zone": h.ZoneID, "targets": is})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// object is what of an attachment or a VPC the engine reports about.
type object struct {
	ID, AccountID, Name string
	EngineUp            bool
	EngineError         string
}

// reportObjects writes whether attachments or VPCs are there.
func (y *System) reportObjects(ctx context.Context, kind string, reports []ObjectReport) error {
	have, err := rowsOf[object](y.store.handle(ctx).Table(tableOf[kind]), "id", each(reports, func(r ObjectReport) string { return r.ID }), "id")
	if err != nil {
		return fmt.Errorf("read %s: %w", kind, err)
	}
	known := make(map[string]object, len(have))
	for _, o := range have {
		known[o.ID] = o
	}
	reports = slices.DeleteFunc(slices.Clone(reports), func(r ObjectReport) bool {
		o, ok := known[r.ID]
		return !ok || (o.EngineUp == r.Up && o.EngineError == r.Error)
	})
	if len(reports) == 0 {
		return nil
	}
	return y.write(ctx, "", func(t *tx) error {
		for _, r := range reports {
			o := known[r.ID]
			res := t.Table(tableOf[kind]).Where("id = ?", r.ID).Updates(map[string]any{"engine_up": r.Up, "engine_error": r.Error})
			if res.Error != nil {
				return fmt.Errorf("note state of %s: %w", kind, res.Error)
			}
			if res.RowsAffected == 0 { // deleted meanwhile
				continue
			}
			t.touched(o.AccountID, kind, r.ID)
			if o.EngineUp == r.Up {
				continue
			}
			err := t.auditIn(o.AccountID, upDown[kind][r.Up], kind, r.ID, o.Name, nil, map[string]any{"up": r.Up, "error": r.Error})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// upDown are the engine's events of objects in the trails.
var upDown = map[string]map[bool]string{
	KindVPC:        {true: "VPCUp", false: "VPCDown"},
	KindAttachment: {true: "AttachmentUp", false: "AttachmentDown"},
}
