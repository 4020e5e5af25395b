package domain

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"gorm.io/gorm"
)

// What a service's owner decides about one zone of a connection: whether it carries,
// and which of the service's load balancers it leads to.

// RejectZoneInput says what becomes of live flows of a zone.
type RejectZoneInput struct {
	Drain   int   // seconds that they may go on, to 900; 0: they are cut at once
	Version int64 // of the connection, that the form showed; 0 is not checked
}

// ReplaceInput leads a zone of a connection to another load balancer.
type ReplaceInput struct {
	LoadBalancerID string // of the service, in the same zone
	Force          bool   // cut live flows; else they stay with the former one, which goes on with them
	Version        int64  // of the connection, that the form showed; 0 is not checked
}

// AllocateInput chooses the load balancer of a zone of a connection that is not up.
type AllocateInput struct {
	LoadBalancerID string // of the service, in the same zone; "" lets chance choose
	Version        int64  // of the connection, that the form showed; 0 is not checked
}

// onZone runs f on a zone of a connection to a service of the account, makes a new
// version, and enters both into the trails.
func (s *Scope) onZone(ctx context.Context, action, endpointID, zoneID string, version int64, f func(*tx, *link, *EndpointZone) error) (*Connection, error) {
	return s.onConnection(ctx, endpointID, version, func(t *tx, l *link) error {
		i := slices.IndexFunc(l.Zones, func(z EndpointZone) bool { return z.ZoneID == zoneID && z.Status != ZoneDeleting })
		if i < 0 {
			return fail(NotFound, "endpoint_zone_not_found", "The endpoint is not in zone %s.", zoneID)
		}
		return t.changeZone(l, &l.Zones[i], action, f)
	})
}

func (t *tx) changeZone(l *link, z *EndpointZone, action string, f func(*tx, *link, *EndpointZone) error) error {
	before, was := l.facts(), z.facts()
	if err := f(t, l, z); err != nil {
		return err
	}
	if err := t.revise(l, nil); err != nil {
		return err
	}
	if err := t.auditIn(l.ProviderID, action, KindConnection, l.ID, l.label, was, z.facts()); err != nil {
		return err
	}
	if was.Status == z.Status { // where a zone leads is the provider's own affair
		return nil
	}
	return t.auditIn(l.AccountID, action, KindEndpoint, l.ID, l.Name, before, l.facts())
}

// zoneFacts are what the provider's trail holds of a zone.
type zoneFacts struct {
	Zone         string     `json:"zone"`
	Status       ZoneStatus `json:"status"`
	LoadBalancer string     `json:"load_balancer"`
	Replaced     string     `json:"replaced,omitempty"`
	Manual       bool       `json:"manual,omitempty"`
}

func (z EndpointZone) facts() zoneFacts {
	return zoneFacts{z.ZoneID, z.Status, z.LoadBalancerID, z.ReplacedID, z.Manual}
}

// zoneIs refuses what is about a zone unless its connection is Connected and it is in
// one of the states.
func (l *link) zoneIs(z *EndpointZone, states ...ZoneStatus) error {
	if l.Connection.Status != Connected || !slices.Contains(states, z.Status) {
		return fail(Conflict, "zone_status", "The connection is %s and its zone %s is %s. This is for zones that are %s, of a connection that is %s.",
			l.Connection.Status, z.ZoneID, z.Status, listed(each(states, func(s ZoneStatus) string { return string(s) })), Connected)
	}
	return nil
}

// AcceptZone lets a zone carry again that was rejected by itself.
//
// Errors: NotFound; Conflict if the connection is not Connected or the zone not
// Disconnected, or it changed since version.
func (s *Scope) AcceptZone(ctx context.Context, endpointID, zoneID string, version int64) (*Connection, error) {
	return s.onZone(ctx, "AcceptZone", endpointID, zoneID, version, func(t *tx, l *link, z *EndpointZone) error {
		if err := l.zoneIs(z, ZoneDisconnected); err != nil {
			return err
		}
		return t.moveZones(l, ZoneAllow, nil, z.ZoneID)
	})
}

// RejectZone takes a zone out of a connection whose other zones go on. Its live flows
// are reset at once, or at the end of in.Drain.
//
// Errors: NotFound; Invalid; Conflict if the connection is not Connected or the zone
// neither Connected nor Migrated, or it changed since in.Version.
func (s *Scope) RejectZone(ctx context.Context, endpointID, zoneID string, in RejectZoneInput) (*Connection, error) {
	return s.onZone(ctx, "RejectZone", endpointID, zoneID, in.Version, func(t *tx, l *link, z *EndpointZone) error {
		if err := validDrain("drain", in.Drain); err != nil {
			return err
		}
		if err := l.zoneIs(z, ZoneConnected, ZoneMigrated); err != nil {
			return err
		}
		if err := t.updateZone(l, z, map[string]any{"rejected": true}); err != nil {
			return err
		}
		return t.moveZones(l, ZoneRevoke, t.after(in.Drain), z.ZoneID)
	})
}

// ReplaceResource leads new flows of a zone to another load balancer of the service.
// Live ones stay with the former, until [Scope.CloseReplaced], or are cut.
//
// Errors: NotFound, also for the field load_balancer_id; Conflict if the connection
// or the zone is not Connected, the former load balancer is still given to new
// endpoints, or the connection changed since in.Version.
func (s *Scope) ReplaceResource(ctx context.Context, endpointID, zoneID string, in ReplaceInput) (*Connection, error) {
	return s.onZone(ctx, "ReplaceResource", endpointID, zoneID, in.Version, func(t *tx, l *link, z *EndpointZone) error {
		if err := l.zoneIs(z, ZoneConnected); err != nil {
			return err
		}
		here, err := t.resourcesIn(l.ServiceID, zoneID)
		if err != nil {
			return err
		}
		if !has(here, in.LoadBalancerID) || in.LoadBalancerID == z.LoadBalancerID {
			return at("load_balancer_id", fail(NotFound, "resource_not_found", "The service has no other such load balancer in zone %s.", zoneID))
		}
		if i := slices.IndexFunc(here, func(r ServiceResource) bool { return r.LoadBalancerID == z.LoadBalancerID }); i >= 0 && here[i].AutoAllocate {
			return fail(Conflict, "resource_auto_allocated", "The zone's present load balancer is still given to new endpoints. Take that away from it first.")
		}
		return t.replace(l, z, in.LoadBalancerID, in.Force)
	})
}

// replace leads a zone that is Connected to another load balancer.
func (t *tx) replace(l *link, z *EndpointZone, to string, force bool) error {
	set := map[string]any{"load_balancer_id": to, "replaced_id": z.LoadBalancerID}
	if force {
		set["replaced_id"], set["era"] = "", z.Era+1
	}
	if err := t.updateZone(l, z, set); err != nil {
		return err
	}
	return t.moveZones(l, ZoneMigrate, nil, z.ZoneID)
}

// CloseReplaced cuts the flows that a zone's former load balancer still has. Those of
// the present one go on.
//
// Errors: NotFound; Conflict if the connection is not Connected or the zone not
// Migrated, or it changed since version.
func (s *Scope) CloseReplaced(ctx context.Context, endpointID, zoneID string, version int64) (*Connection, error) {
	return s.onZone(ctx, "CloseReplaced", endpointID, zoneID, version, func(t *tx, l *link, z *EndpointZone) error {
		if err := l.zoneIs(z, ZoneMigrated); err != nil {
			return err
		}
		if err := t.updateZone(l, z, map[string]any{"replaced_id": ""}); err != nil {
			return err
		}
		return t.moveZones(l, ZoneMigrate, nil, z.ZoneID)
	})
}

// AllocateResource chooses which load balancer a zone leads to once its connection is
// accepted.
//
// Errors: NotFound, also for the field load_balancer_id; Conflict if the connection is
// not Disconnected, or changed since in.Version.
func (s *Scope) AllocateResource(ctx context.Context, endpointID, zoneID string, in AllocateInput) (*Connection, error) {
	return s.onZone(ctx, "AllocateResource", endpointID, zoneID, in.Version, func(t *tx, l *link, z *EndpointZone) error {
		if l.Connection.Status != Disconnected {
			return fail(Conflict, "connection_status", "This connection is %s. Its load balancers can be chosen while it is %s.", l.Connection.Status, Disconnected)
		}
		here, err := t.resourcesIn(l.ServiceID, zoneID)
		if err != nil {
			return err
		}
		to := in.LoadBalancerID
		switch {
		case to == "":
			if to, err = allocate(zoneID, here); err != nil {
				return err
			}
		case !has(here, to):
			return at("load_balancer_id", fail(NotFound, "resource_not_found", "The service has no such load balancer in zone %s.", zoneID))
		}
		return t.updateZone(l, z, map[string]any{"load_balancer_id": to, "manual": in.LoadBalancerID != ""})
	})
}

// CutConnection cuts the flows of a revocation that still drain: of the connection, or
// of zones of it.
//
// Errors: NotFound; Conflict if nothing drains, or it changed since version.
func (s *Scope) CutConnection(ctx context.Context, endpointID string, version int64) (*Connection, error) {
	return s.onConnection(ctx, endpointID, version, func(t *tx, l *link) error { return t.cut(l) })
}

// CutEndpoint is [Scope.CutConnection] for the endpoint's owner.
func (s *Scope) CutEndpoint(ctx context.Context, id string, version int64) error {
	return s.write(ctx, WriteConsume, func(t *tx) error {
		l, err := t.lockLink(KindEndpoint, "endpoint_id = ? AND consumer_id = ?", id, s.account.ID)
		if err != nil {
			return err
		}
		if version != 0 && version != l.Version {
			return changedMeanwhile(KindEndpoint)
		}
		return t.cut(l)
	})
}

// cut ends every drain of a link.
func (t *tx) cut(l *link) error {
	before := l.facts()
	if before.Draining == nil {
		return fail(Conflict, "not_draining", "No flow of this connection is draining any more.")
	}
	for i := range l.Zones {
		if z := &l.Zones[i]; z.DrainUntil != nil {
			if err := t.updateZone(l, z, map[string]any{"drain_until": nil}); err != nil {
				return err
			}
		}
	}
	if err := t.revise(l, nil); err != nil {
		return err
	}
	return t.auditLink(l, "CutConnection", before)
}

// ---- a service's load balancers in a zone

// resourcesIn reads the load balancers of a service in a zone.
func (t *tx) resourcesIn(serviceID, zoneID string) ([]ServiceResource, error) {
	var rows []ServiceResource
	if err := t.Where("service_id = ? AND zone_id = ?", serviceID, zoneID).Order("load_balancer_id").Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("read resources: %w", err)
	}
	return rows, nil
}

func has(resources []ServiceResource, balancer string) bool {
	return slices.ContainsFunc(resources, func(r ServiceResource) bool { return r.LoadBalancerID == balancer })
}

// allocate lets chance choose a load balancer of a service for a zone of an endpoint,
// of those that are given to new zones.
func allocate(zone string, resources []ServiceResource) (string, error) {
	var zones, here []string
	for _, r := range resources {
		if !slices.Contains(zones, r.ZoneID) {
			zones = append(zones, r.ZoneID)
		}
		if r.ZoneID == zone && r.AutoAllocate {
			here = append(here, r.LoadBalancerID)
		}
	}
	switch {
	case len(zones) == 0:
		return "", invalid("zone_id", "zone_without_resource", "The service has no load balancer in any zone yet.")
	case len(here) == 0:
		return "", invalid("zone_id", "zone_without_resource", "The service has no load balancer in zone %s. It has one in %s.", zone, listed(zones))
	}
	return here[rand.IntN(len(here))], nil //nolint:gosec // it spreads load, and keeps no secret
}

// ResourceUpdate says whether a load balancer of a service in a zone is given to new
// zones of endpoints.
type ResourceUpdate struct {
	LoadBalancerID string
	ZoneID         string
	AutoAllocate   bool
}

// UpdateResource changes a load balancer of a service in a zone.
//
// Errors: NotFound; Conflict if none that is given to new endpoints would be left in
// the zone.
func (s *Scope) UpdateResource(ctx context.Context, serviceID string, in ResourceUpdate) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		svc, err := t.service(serviceID)
		if err != nil {
			return err
		}
		here, err := t.resourcesIn(serviceID, in.ZoneID)
		if err != nil {
			return err
		}
		if !has(here, in.LoadBalancerID) {
			return missing(KindLoadBalancer)
		}
		left := slices.DeleteFunc(slices.Clone(here), func(r ServiceResource) bool { return r.LoadBalancerID == in.LoadBalancerID || !r.AutoAllocate })
		if !in.AutoAllocate && len(left) == 0 {
			return fail(Conflict, "resource_auto_allocate", "This is the only load balancer that new endpoints in zone %s get. Let them get another one first.", in.ZoneID)
		}
		if err := t.setAutoAllocate(serviceID, in.LoadBalancerID, in.ZoneID, in.AutoAllocate); err != nil {
			return err
		}
		if err := t.serviceChanged(svc, 0, nil); err != nil {
			return err
		}
		return t.audit("UpdateResource", KindService, svc.ID, svc.Name, nil, in)
	})
}

func (t *tx) setAutoAllocate(serviceID, balancerID, zoneID string, on bool) error {
	err := t.Model(&ServiceResource{}).Where("service_id = ? AND load_balancer_id = ? AND zone_id = ?", serviceID, balancerID, zoneID).Update("auto_allocate", on).Error
	if err != nil {
		return fmt.Errorf("update resource: %w", err)
	}
	return nil
}

// MoveInput leads every zone of endpoints that leads to one load balancer of a service
// to another one.
type MoveInput struct {
	ZoneID   string
	From, To string // load balancers of the service in the zone
	Force    bool   // cut live flows; else they stay with From
}

// MoveResult counts what a move did.
type MoveResult struct {
	Moved int
	Left  int // zones that were under way, or were too many for once: repeat it for them
}

// movedAtOnce bounds how many zones one move leads elsewhere.
const movedAtOnce = 500

// MoveResource replaces a load balancer of a service in a zone by another one: new
// endpoints get that one from now on, and those that led to the former are led there,
// as by [Scope.ReplaceResource].
//
// Errors: NotFound, also for the fields from and to.
func (s *Scope) MoveResource(ctx context.Context, serviceID string, in MoveInput) (MoveResult, error) {
	var done MoveResult
	err := s.write(ctx, WriteProvide, func(t *tx) error {
		done = MoveResult{}
		svc, err := t.service(serviceID)
		if err != nil {
			return err
		}
		here, err := t.resourcesIn(serviceID, in.ZoneID)
		if err != nil {
			return err
		}
		if !has(here, in.From) {
			return at("from", missing(KindLoadBalancer))
		}
		if !has(here, in.To) || in.To == in.From {
			return at("to", fail(NotFound, "resource_not_found", "The service has no other such load balancer in zone %s.", in.ZoneID))
		}
		for balancer, on := range map[string]bool{in.From: false, in.To: true} {
			if err := t.setAutoAllocate(serviceID, balancer, in.ZoneID, on); err != nil {
				return err
			}
		}
		if err := t.serviceChanged(svc, 0, nil); err != nil {
			return err
		}
		if err := t.audit("MoveResource", KindService, svc.ID, svc.Name, nil, in); err != nil {
			return err
		}
		bound := zonesOn(t.DB, serviceID, in.ZoneID, "load_balancer_id", in.From)
		var total int64
		if err := bound.Count(&total).Error; err != nil {
			return fmt.Errorf("count zones of endpoints: %w", err)
		}
		var ids []string
		if err := bound.Order("endpoint_id").Limit(movedAtOnce).Pluck("endpoint_id", &ids).Error; err != nil {
			return fmt.Errorf("find zones of endpoints: %w", err)
		}
		for _, id := range ids {
			moved, err := t.moveTo(id, in)
			if err != nil {
				return err
			}
			if moved {
				done.Moved++
			}
		}
		done.Left = int(total) - done.Moved
		return nil
	})
	return done, err
}

// zonesOn are the zones of endpoints to a service in a zone that have a load balancer
// in the column.
func zonesOn(db *gorm.DB, serviceID, zoneID, column, balancer string) *gorm.DB {
	return db.Model(&EndpointZone{}).Where(column+" = ? AND zone_id = ? AND endpoint_id IN (?)", balancer, zoneID,
		db.Model(&Endpoint{}).Select("id").Where("service_id = ?", serviceID)).Session(&gorm.Session{})
}

// moveTo leads the zone of one endpoint to in.To, if its state lets it.
func (t *tx) moveTo(endpointID string, in MoveInput) (bool, error) {
	l, err := t.lockLink(KindConnection, "endpoint_id = ?", endpointID)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(l.Zones, func(z EndpointZone) bool { return z.ZoneID == in.ZoneID && z.LoadBalancerID == in.From })
	if i < 0 {
		return false, nil
	}
	z := &l.Zones[i]
	change := func(t *tx, l *link, z *EndpointZone) error { return t.replace(l, z, in.To, in.Force) }
	switch {
	case l.zoneIs(z, ZoneConnected) == nil:
	case l.Connection.Status == Disconnected && z.Status != ZoneDeleting, l.Connection.Status == Connected && z.Status == ZoneDisconnected:
		change = func(t *tx, l *link, z *EndpointZone) error {
			return t.updateZone(l, z, map[string]any{"load_balancer_id": in.To})
		}
	default:
		return false, nil
	}
	return true, t.changeZone(l, z, "ReplaceResource", change)
}
