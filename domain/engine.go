package domain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// What the engine shall do, as the reconciler reads it. Each object is whole; one
// that is asked for by id and is not there any more is left out of the answer.

// EngineRef names an object of the engine's snapshot that changed.
type EngineRef struct{ Kind, ID string }

// EngineVPC is a VPC with everything the engine makes of it.
type EngineVPC struct {
	VPC
	VSwitches   []VSwitch
	Attachments []EngineAttachment
	Addresses   []string // that the VPC's router answers for: endpoints, load balancers, published ports
	Routes      []Route  // custom ones
}

// EngineAttachment is an attachment with the offer it uses, if it uses one.
type EngineAttachment struct {
	Attachment
	Offer Offer
}

// EngineLoadBalancer is a load balancer with its zones and listeners.
type EngineLoadBalancer struct {
	LoadBalancer
	Zones     []EngineLBZone
	Listeners []Listener
}

// EngineLBZone is a load balancer's presence in a zone, with its further addresses.
type EngineLBZone struct {
	LoadBalancerZone
	Local []string
}

// EngineServerGroup is a server group with its targets.
type EngineServerGroup struct {
	ServerGroup
	Servers []EngineServer
}

// EngineServer is a target and where it is.
type EngineServer struct {
	Server
	Target string // address, "" for a DNS name
	Host   bool   // of the host, not of the VPC
}

// EngineGroup is a security group with its rules for what comes in and the addresses
// of its members.
type EngineGroup struct {
	SecurityGroup
	Rules   []SecurityRule
	Members []string
}

// EngineEndpoint is what decides about an endpoint's traffic.
type EngineEndpoint struct {
	ID        string
	ServiceID string
	VPCID     string
	Carry     bool           // the connection lets traffic pass
	Version   int64          // of the connection; the engine's reports name it
	Groups    []string       // security groups, sorted
	Recheck   bool           // as in [Endpoint]
	Zones     []EndpointZone // by zone, as far as the engine needs them

	Bandwidth      int // Mbit/s in each direction; 0: no limit
	MaxConnections int // live flows; 0: no limit
}

// DrainUntil returns until when live flows may go on in some zone, though the
// connection does not carry; zero if they may not.
func (e EngineEndpoint) DrainUntil() time.Time { return value(drainUntil(e.Zones)) }

// Carries reports whether the zone's state lets traffic pass.
func (z EndpointZone) Carries() bool { return z.Status.carries() }

// Wake is filled after each change of this process that concerns the engine.
func (y *System) Wake() <-chan struct{} { return y.store.wake }

// Revision returns the number of the newest change that concerns the engine.
func (y *System) Revision(ctx context.Context) (int64, error) {
	var n int64
	if err := y.store.handle(ctx).Raw("SELECT revision FROM revisions WHERE id = 1").Scan(&n).Error; err != nil {
		return 0, fmt.Errorf("read revision: %w", err)
	}
	return n, nil
}

// ChangedSince returns what changed after revision since, each object once, and the
// revision to ask from the next time. complete is false if there is more than limit,
// or if some of it is no longer known: then everything has to be read.
func (y *System) ChangedSince(ctx context.Context, since int64, limit int) (refs []EngineRef, next int64, complete bool, err error) {
	db := y.store.handle(ctx)
	newest, err := y.Revision(ctx) // before the rows: more may come meanwhile, not less
	if err != nil {
		return nil, 0, false, err
	}
	var rows []engineChange
	if err := db.Where("revision > ?", since).Order("revision").Limit(limit + 1).Find(&rows).Error; err != nil {
		return nil, 0, false, fmt.Errorf("read changes for the engine: %w", err)
	}
	if len(rows) == 0 {
		return nil, since, newest == since, nil
	}
	if len(rows) > limit || rows[0].Revision != since+1 {
		return nil, since, false, nil
	}
	seen := make(map[EngineRef]bool, len(rows))
	for _, r := range rows {
		if ref := (EngineRef{r.Kind, r.ID}); !seen[ref] {
			seen[ref] = true
			refs = append(refs, ref)
		}
	}
	return refs, rows[len(rows)-1].Revision, true, nil
}

// engineBatch is how many objects are asked for by id in one query.
const engineBatch = 500

// rowsOf reads the rows of a table whose column is among ids, or all if ids is nil.
func rowsOf[T any](db *gorm.DB, column string, ids []string, order string) ([]T, error) {
	db = db.Session(&gorm.Session{}) // conditions of one batch are not those of the next
	var out []T
	if ids == nil {
		err := db.Order(order).Find(&out).Error
		return out, err
	}
	for batch := range slices.Chunk(ids, engineBatch) {
		var rows []T
		if err := db.Where(column+" IN ?", batch).Order(order).Find(&rows).Error; err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	return out, nil
}

// groupRows sorts rows by what key says of them.
func groupRows[T any](rows []T, key func(T) string) map[string][]T {
	out := make(map[string][]T, len(rows))
	for _, r := range rows {
		out[key(r)] = append(out[key(r)], r)
	}
	return out
}

// EngineVPCs reads VPCs by id, or all if ids is nil.
func (y *System) EngineVPCs(ctx context.Context, ids []string) ([]EngineVPC, error) {
	db := y.store.handle(ctx)
	vpcs, err := rowsOf[VPC](db, "id", ids, "id")
	if err != nil {
		return nil, fmt.Errorf("read VPCs: %w", err)
	}
	vswitches, err := rowsOf[VSwitch](db, "vpc_id", ids, "id")
	if err != nil {
		return nil, fmt.Errorf("read vSwitches: %w", err)
	}
	attachments, err := rowsOf[Attachment](db, "vpc_id", ids, "id")
	if err != nil {
		return nil, fmt.Errorf("read attachments: %w", err)
	}
	offers, err := attachmentOffers(db, attachments)
	if err != nil {
		return nil, err
	}
	addressesOf := map[string][]string{}
	err = scanRows(db, "SELECT vpc_id, address FROM addresses WHERE owner_kind IN ('endpoint', 'load_balancer')", "vpc_id", ids, func(scan func(...any) error) error {
		var a Address
		err := scan(&a.VPCID, &a.Address)
		addressesOf[a.VPCID] = append(addressesOf[a.VPCID], a.Address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	tables, err := rowsOf[RouteTable](db, "vpc_id", ids, "id")
	if err != nil {
		return nil, fmt.Errorf("read route tables: %w", err)
	}
	var tableIDs []string
	if ids != nil {
		tableIDs = append([]string{}, each(tables, func(t RouteTable) string { return t.ID })...)
	}
	routes, err := rowsOf[Route](db, "table_id", tableIDs, "table_id, destination")
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	vswitchesOf := groupRows(vswitches, func(v VSwitch) string { return v.VPCID })
	attachmentsOf := groupRows(attachments, func(a Attachment) string { return a.VPCID })
	tablesOf := groupRows(tables, func(t RouteTable) string { return t.VPCID })
	routesOf := groupRows(routes, func(r Route) string { return r.TableID })
	return each(vpcs, func(v VPC) EngineVPC {
		out := EngineVPC{VPC: v, VSwitches: vswitchesOf[v.ID], Addresses: addressesOf[v.ID]}
		for _, a := range attachmentsOf[v.ID] {
			out.Attachments = append(out.Attachments, EngineAttachment{Attachment: a, Offer: offers[a.OfferID]})
			if a.Kind == AttachPort {
				out.Addresses = append(out.Addresses, a.Address)
			}
		}
		slices.Sort(out.Addresses)
		for _, t := range tablesOf[v.ID] {
			out.Routes = append(out.Routes, routesOf[t.ID]...)
		}
		return out
	}), nil
}

// attachmentOffers reads the offers that attachments use, by id.
func attachmentOffers(db *gorm.DB, attachments []Attachment) (map[string]Offer, error) {
	ids := []string{}
	for _, a := range attachments {
		if a.OfferID != "" {
			ids = append(ids, a.OfferID)
		}
	}
	slices.Sort(ids)
	offers, err := rowsOf[Offer](db, "id", slices.Compact(ids), "id")
	if err != nil {
		return nil, fmt.Errorf("read offers: %w", err)
	}
	out := make(map[string]Offer, len(offers))
	for _, o := range offers {
		out[o.ID] = o
	}
	return out, nil
}

// EngineLoadBalancers reads load balancers by id, or all if ids is nil.
func (y *System) EngineLoadBalancers(ctx context.Context, ids []string) ([]EngineLoadBalancer, error) {
	db := y.store.handle(ctx)
	balancers, err := rowsOf[LoadBalancer](db, "id", ids, "id")
	if err != nil {
		return nil, fmt.Errorf("read load balancers: %w", err)
	}
	zones, err := rowsOf[LoadBalancerZone](db, "load_balancer_id", ids, "load_balancer_id, zone_id")
	if err != nil {
		return nil, fmt.Errorf("read zones of load balancers: %w", err)
	}
	listeners, err := rowsOf[Listener](db, "load_balancer_id", ids, "load_balancer_id, id")
	if err != nil {
		return nil, fmt.Errorf("read listeners: %w", err)
	}
	local, err := localAddresses(db, zones)
	if err != nil {
		return nil, err
	}
	zonesOf := groupRows(each(zones, func(z LoadBalancerZone) EngineLBZone {
		return EngineLBZone{LoadBalancerZone: z, Local: local[place{z.LoadBalancerID, z.ZoneID}]}
	}), func(z EngineLBZone) string { return z.LoadBalancerID })
	listenersOf := groupRows(listeners, func(l Listener) string { return l.LoadBalancerID })
	return each(balancers, func(b LoadBalancer) EngineLoadBalancer {
		return EngineLoadBalancer{LoadBalancer: b, Zones: zonesOf[b.ID], Listeners: listenersOf[b.ID]}
	}), nil
}

// EngineServerGroups reads server groups by id, or all if ids is nil.
func (y *System) EngineServerGroups(ctx context.Context, ids []string) ([]EngineServerGroup, error) {
	db := y.store.handle(ctx)
	groups, err := rowsOf[ServerGroup](db, "id", ids, "id")
	if err != nil {
		return nil, fmt.Errorf("read server groups: %w", err)
	}
	servers, err := rowsOf[Server](db, "server_group_id", ids, "server_group_id, id")
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	where, err := readTargets(db, servers)
	if err != nil {
		return nil, err
	}
	serversOf := groupRows(servers, func(srv Server) string { return srv.ServerGroupID })
	return each(groups, func(g ServerGroup) EngineServerGroup {
		out := EngineServerGroup{ServerGroup: g}
		for _, srv := range serversOf[g.ID] {
			address, host := where.of(srv)
			out.Servers = append(out.Servers, EngineServer{Server: srv, Target: address, Host: host})
		}
		return out
	}), nil
}

// EngineGroups reads security groups by id, or all if ids is nil.
func (y *System) EngineGroups(ctx context.Context, ids []string) ([]EngineGroup, error) {
	db := y.store.handle(ctx)
	groups, err := rowsOf[SecurityGroup](db, "id", ids, "id")
	if err != nil {
		return nil, fmt.Errorf("read security groups: %w", err)
	}
	rules, err := rowsOf[SecurityRule](db.Where("direction = ?", "ingress"), "group_id", ids, "group_id, priority, id")
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	type member struct{ GroupID, Address string }
	members, err := rowsOf[member](db.Table("attachment_groups").Select("attachment_groups.group_id, attachments.address").
		Joins("JOIN attachments ON attachments.id = attachment_groups.attachment_id").Where("attachments.address <> ''"),
		"attachment_groups.group_id", ids, "attachment_groups.group_id, attachments.address")
	if err != nil {
		return nil, fmt.Errorf("read members of security groups: %w", err)
	}
	rulesOf := groupRows(rules, func(r SecurityRule) string { return r.GroupID })
	membersOf := groupRows(members, func(m member) string { return m.GroupID })
	return each(groups, func(g SecurityGroup) EngineGroup {
		return EngineGroup{SecurityGroup: g, Rules: rulesOf[g.ID], Members: each(membersOf[g.ID], func(m member) string { return m.Address })}
	}), nil
}

// EngineEndpoints reads endpoints by id, or all if ids is nil. There may be very
// many, so it reads no more columns than the engine needs.
func (y *System) EngineEndpoints(ctx context.Context, ids []string) ([]EngineEndpoint, error) {
	db := y.store.handle(ctx)
	var out []EngineEndpoint
	at := map[string]int{}
	// The connection is read before the zones: what changes in between belongs to a
	// newer version, and will be read again.
	err := scanRows(db, "SELECT e.id, e.service_id, e.vpc_id, e.recheck, c.status, c.decision, c.version, c.bandwidth, c.max_connections FROM endpoints e JOIN connections c ON c.endpoint_id = e.id", "e.id", ids,
		func(scan func(...any) error) error {
			var e EngineEndpoint
			var c Connection
			err := scan(&e.ID, &e.ServiceID, &e.VPCID, &e.Recheck, &c.Status, &c.Decision, &e.Version, &e.Bandwidth, &e.MaxConnections)
			e.Carry = c.carries()
			at[e.ID], out = len(out), append(out, e)
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	err = scanRows(db, "SELECT endpoint_id, zone_id, address, load_balancer_id, replaced_id, era, status, drain_until FROM endpoint_zones", "endpoint_id", ids,
		func(scan func(...any) error) error {
			var z EndpointZone
			err := scan(&z.EndpointID, &z.ZoneID, &z.Address, &z.LoadBalancerID, &z.ReplacedID, &z.Era, &z.Status, &z.DrainUntil)
			if i, ok := at[z.EndpointID]; ok {
				out[i].Zones = append(out[i].Zones, z)
			}
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("read zones of endpoints: %w", err)
	}
	err = scanRows(db, "SELECT endpoint_id, group_id FROM endpoint_groups", "endpoint_id", ids,
		func(scan func(...any) error) error {
			var g EndpointGroup
			err := scan(&g.EndpointID, &g.GroupID)
			if i, ok := at[g.EndpointID]; ok {
				out[i].Groups = append(out[i].Groups, g.GroupID)
			}
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("read groups of endpoints: %w", err)
	}
	slices.SortFunc(out, func(a, b EngineEndpoint) int { return strings.Compare(a.ID, b.ID) })
	for _, e := range out {
		slices.SortFunc(e.Zones, func(a, b EndpointZone) int { return strings.Compare(a.ZoneID, b.ZoneID) })
		slices.Sort(e.Groups)
	}
	return out, nil
}

// scanRows runs a query for the rows whose column is among ids, or for all if ids is
// nil, and gives each row to f.
func scanRows(db *gorm.DB, query, column string, ids []string, f func(scan func(...any) error) error) error {
	run := func(query string, args ...any) (err error) {
		rows, err := db.Raw(query, args...).Rows()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			if err := f(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	}
	if ids == nil {
		return run(query)
	}
	where := " WHERE "
	if strings.Contains(query, where) {
		where = " AND "
	}
	for batch := range slices.Chunk(ids, engineBatch) {
		if err := run(query+where+column+" IN ?", batch); err != nil {
			return err
		}
	}
	return nil
}
