package domain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// RouteTable of a VPC. The system table holds a local route per vSwitch, which
// cannot be changed, and custom routes.
type RouteTable struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	VPCID     string
	Name      string // of the system table: the VPC's
	Type      string // RouteTableSystem
	Version   int64
	CreatedAt time.Time
}

// RouteTableSystem is the type of the table that every VPC has.
const RouteTableSystem = "system"

// Route of a table. System routes are not stored: they follow from the vSwitches.
type Route struct {
	TableID     string `gorm:"primaryKey"`
	Destination string `gorm:"primaryKey"` // a CIDR in canonical form
	AccountID   string
	NextHopType string // NextHopAttachment
	NextHopID   string
	Description string
}

// Types of next hops.
const (
	NextHopLocal      = "local" // the vSwitch itself
	NextHopAttachment = "attachment"
)

// Origins of routes.
const (
	RouteSystem = "system"
	RouteCustom = "custom"
)

// States of routes.
const (
	RouteActive    = "active"
	RouteBlackhole = "blackhole" // the next hop is not there: what is sent this way is lost
	RouteNone      = "none"      // no route at all; see [Scope.LookupRoute]
)

// RouteInput is one custom route of a draft.
type RouteInput struct {
	Destination string // a range in canonical form
	NextHopID   string // an attachment of the same VPC that has an address
	Description string
}

// RouteView is a route as it is shown.
type RouteView struct {
	Destination string
	NextHopType string
	NextHopID   string // of the attachment, or of the vSwitch
	NextHopName string
	Origin      string
	Status      string
	Description string
}

// RouteTableSummary is a route table in a list.
type RouteTableSummary struct {
	RouteTable
	VPCName string
	System  int // routes
	Custom  int // routes
}

// RouteTableDetail is a route table with its routes, sorted by destination.
type RouteTableDetail struct {
	RouteTable
	VPC    VPC
	Routes []RouteView
}

// RouteDiff is what a draft changes. A route with another next hop is removed and
// added.
type RouteDiff struct {
	Added, Removed, Kept []RouteView // custom routes, sorted by destination
	Warnings             []string    // what the draft does that may not be meant
}

// RouteTables lists the route tables of the account by name. Filter: vpc.
func (s *Scope) RouteTables(ctx context.Context, q Query) (Page[RouteTableSummary], error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return Page[RouteTableSummary]{}, err
	}
	rows := oneOf(matching(db.Where("account_id = ?", s.account.ID), q.Text), "vpc_id", q.Filter["vpc"])
	page, err := paginate(rows, q, order{columns: []string{"name", "id"}}, func(r RouteTable) []any { return []any{r.Name, r.ID} })
	if err != nil || len(page.Items) == 0 {
		return Page[RouteTableSummary]{}, err
	}
	vpcIDs := each(page.Items, func(r RouteTable) string { return r.VPCID })
	vpcs, err1 := namesOf(db, KindVPC, vpcIDs)
	system, err2 := countBy(db.Model(&VSwitch{}), "vpc_id", vpcIDs)
	custom, err3 := countBy(db.Model(&Route{}), "table_id", each(page.Items, func(r RouteTable) string { return r.ID }))
	if err := errors.Join(err1, err2, err3); err != nil {
		return Page[RouteTableSummary]{}, err
	}
	return mapPage(page, func(r RouteTable) RouteTableSummary {
		return RouteTableSummary{RouteTable: r, VPCName: vpcs[r.VPCID], System: system[r.VPCID], Custom: custom[r.ID]}
	}), nil
}

// RouteTable returns one route table of the account.
func (s *Scope) RouteTable(ctx context.Context, id string) (*RouteTableDetail, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	r, err := loadRouting(db, s.account.ID, id)
	if err != nil {
		return nil, err
	}
	return &RouteTableDetail{RouteTable: r.table, VPC: r.vpc, Routes: r.views()}, nil
}

// PlanRoutes says what replacing the custom routes of a table by a draft would
// change. It changes nothing.
//
// Errors: NotFound, also for the fields routes.N.next_hop_id; Invalid with the
// fields at fault, e.g. routes.0.destination.
func (s *Scope) PlanRoutes(ctx context.Context, id string, draft []RouteInput) (*RouteDiff, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	r, err := loadRouting(db, s.account.ID, id)
	if err != nil {
		return nil, err
	}
	wanted, err := r.parse(draft)
	if err != nil {
		return nil, err
	}
	return r.diff(wanted), nil
}

// ReplaceRoutes replaces the custom routes of a table by a draft. version is what
// the draft was made from, or 0.
//
// Errors: as of [Scope.PlanRoutes]; Limit; Conflict if the table changed since the
// draft was begun.
func (s *Scope) ReplaceRoutes(ctx context.Context, id string, draft []RouteInput, version int64) (*RouteDiff, error) {
	var diff *RouteDiff
	err := s.write(ctx, WriteNetwork, func(t *tx) error {
		r, err := loadRouting(t.DB, s.account.ID, id)
		if err != nil {
			return err
		}
		if version != 0 && version != r.table.Version {
			return changedMeanwhile(KindRouteTable)
		}
		wanted, err := r.parse(draft)
		if err != nil {
			return err
		}
		if err := t.quota(s.account.ID, "routes_per_table", int64(len(wanted))-1); err != nil {
			return err
		}
		diff = r.diff(wanted)
		if err := t.edit(KindRouteTable, id, version, map[string]any{}); err != nil {
			return err
		}
		if err := t.remove(&Route{}, "table_id = ?", id); err != nil {
			return err
		}
		if len(wanted) > 0 {
			if err := t.Create(&wanted).Error; err != nil {
				return fmt.Errorf("write routes: %w", err)
			}
		}
		t.stale(KindVPC, r.vpc.ID)
		t.touched(s.account.ID, KindRouteTable, id)
		t.touched(s.account.ID, KindVPC, r.vpc.ID)
		return t.audit("ReplaceRoutes", KindRouteTable, id, r.table.Name,
			map[string]any{"removed": each(diff.Removed, RouteView.String)}, map[string]any{"added": each(diff.Added, RouteView.String)})
	})
	if err != nil {
		return nil, err
	}
	return diff, nil
}

// LookupRoute returns the route that wins for an address: the longest prefix, and
// the custom one of two equal ones. Its status is RouteNone if there is none.
func (s *Scope) LookupRoute(ctx context.Context, id, address string) (*RouteView, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	r, err := loadRouting(db, s.account.ID, id)
	if err != nil {
		return nil, err
	}
	a, err := parseAddress("address", address)
	if err != nil {
		return nil, err
	}
	best := RouteView{Status: RouteNone}
	for _, v := range r.views() {
		p := stored(v.Destination)
		longer := best.Status == RouteNone || p.Bits() > stored(best.Destination).Bits()
		if p.Contains(a) && (longer || (v.Destination == best.Destination && v.Origin == RouteCustom)) {
			best = v
		}
	}
	return &best, nil
}

func (v RouteView) String() string { return v.Destination + " -> " + v.NextHopID }

// routing is a route table and what its routes depend on.
type routing struct {
	table    RouteTable
	vpc      VPC
	switches []VSwitch // by address
	custom   []Route
	hops     map[string]Attachment // of the VPC, by id
}

func loadRouting(db *gorm.DB, account, tableID string) (*routing, error) {
	var r routing
	if err := first(db, KindRouteTable, &r.table, "id = ? AND account_id = ?", tableID, account); err != nil {
		return nil, err
	}
	if err := first(db, KindVPC, &r.vpc, "id = ?", r.table.VPCID); err != nil {
		return nil, err
	}
	var attachments []Attachment
	err := errors.Join(
		db.Where("vpc_id = ?", r.vpc.ID).Find(&r.switches).Error,
		db.Where("table_id = ?", tableID).Find(&r.custom).Error,
		db.Where("vpc_id = ?", r.vpc.ID).Find(&attachments).Error)
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	slices.SortFunc(r.switches, func(a, b VSwitch) int { return stored(a.CIDR).Compare(stored(b.CIDR)) })
	r.hops = make(map[string]Attachment, len(attachments))
	for _, a := range attachments {
		r.hops[a.ID] = a
	}
	return &r, nil
}

// views returns all routes, sorted by destination, a custom one before the system
// route of the same destination.
func (r *routing) views() []RouteView {
	all := each(r.custom, r.view)
	for _, vs := range r.switches {
		all = append(all, RouteView{Destination: vs.CIDR, NextHopType: NextHopLocal, NextHopID: vs.ID, NextHopName: vs.Name, Origin: RouteSystem, Status: RouteActive})
	}
	sortRoutes(all)
	return all
}

func (r *routing) view(c Route) RouteView {
	hop := r.hops[c.NextHopID]
	v := RouteView{
		Destination: c.Destination, NextHopType: c.NextHopType, NextHopID: c.NextHopID, NextHopName: hop.Name,
		Origin: RouteCustom, Status: RouteBlackhole, Description: c.Description,
	}
	if hop.EngineUp {
		v.Status = RouteActive
	}
	return v
}

func sortRoutes(views []RouteView) {
	slices.SortStableFunc(views, func(a, b RouteView) int { return stored(a.Destination).Compare(stored(b.Destination)) })
}

// parse reads a draft.
func (r *routing) parse(draft []RouteInput) ([]Route, error) {
	var faults []error
	routes := make([]Route, 0, len(draft))
	at := map[netip.Prefix]int{}
	for i, in := range draft {
		p, destinationErr := r.destination(in.Destination)
		if destinationErr == nil {
			if j, twice := at[p]; twice {
				destinationErr = invalid("destination", "route_twice", "%s is the destination of route %d already.", p, j+1)
			}
			at[p] = i
		}
		hopErr := r.checkHop(in.NextHopID)
		description, descriptionErr := validDescription("description", in.Description)
		err := errors.Join(destinationErr, hopErr, descriptionErr)
		faults = append(faults, under(fmt.Sprintf("routes.%d", i), err))
		routes = append(routes, Route{
			TableID: r.table.ID, Destination: p.String(), AccountID: r.table.AccountID, NextHopType: NextHopAttachment,
			NextHopID: in.NextHopID, Description: description,
		})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return routes, r.checkLoops(routes)
}

// destination reads where a custom route leads.
func (r *routing) destination(s string) (netip.Prefix, error) {
	p, err := parseCIDR("destination", s)
	if err != nil {
		return p, err
	}
	for _, reserved := range reservedRanges {
		if inside(p, reserved.Prefix) && p != netip.PrefixFrom(netip.IPv4Unspecified(), 0) {
			return p, invalid("destination", "destination_reserved", "%s is in %s, %s.", p, reserved.Prefix, reserved.what)
		}
	}
	if p == stored(r.vpc.CIDR) {
		return p, invalid("destination", "destination_vpc", "%s is the whole VPC %s. Take a vSwitch's range or another part of it.", p, r.vpc.Name)
	}
	for _, vs := range r.switches {
		if gw := gatewayOf(stored(vs.CIDR)); p.IsSingleIP() && p.Addr() == gw {
			return p, invalid("destination", "destination_gateway", "%s is the gateway of vSwitch %s: the router answers there itself.", gw, vs.Name)
		}
	}
	return p, nil
}

// checkHop refuses what cannot forward packets of the VPC.
func (r *routing) checkHop(id string) error {
	if id == "" {
		return invalid("next_hop_id", "missing_next_hop", "Choose an attachment of VPC %s.", r.vpc.Name)
	}
	hop, ok := r.hops[id]
	if !ok {
		return at("next_hop_id", missing(KindAttachment))
	}
	if hop.Kind == AttachHost || hop.Kind == AttachPort {
		return invalid("next_hop_id", "next_hop_kind", "%s is only a port of the host: it cannot forward packets. Choose an attachment with a network interface.", hop.Name)
	}
	return nil
}

// checkLoops refuses routes by which a next hop is reached through itself: its own
// address, or that of the hop before it, would be sent to it.
func (r *routing) checkLoops(routes []Route) error {
	// via is the hop that packets to the address of a hop go through, if they do not
	// go straight to its vSwitch.
	via := map[string]*Route{}
	for _, route := range routes {
		hop := r.hops[route.NextHopID]
		via[hop.ID] = r.captures(routes, hop)
	}
	var faults []error
	for i, route := range routes {
		seen := map[string]bool{}
		for id := route.NextHopID; ; {
			next := via[id]
			if next == nil {
				break
			}
			seen[id] = true
			if id = next.NextHopID; id == route.NextHopID {
				hop := r.hops[id]
				faults = append(faults, invalid(fmt.Sprintf("routes.%d.next_hop_id", i), "route_loop",
					"This is a loop: packets to %s, %s, follow %s and come back to it.", hop.Name, hop.Address, next.Destination))
				break
			}
			if seen[id] {
				break // a loop of others
			}
		}
	}
	return errors.Join(faults...)
}

// captures returns the route that takes packets to an attachment away from its
// vSwitch: the longest one that is at least as long as the vSwitch's own.
func (r *routing) captures(routes []Route, a Attachment) *Route {
	address := netip.MustParseAddr(a.Address)
	bits := 33
	for _, vs := range r.switches {
		if vs.ID == a.VSwitchID {
			bits = stored(vs.CIDR).Bits()
		}
	}
	var best *Route
	for i := range routes {
		if p := stored(routes[i].Destination); p.Contains(address) && p.Bits() >= bits {
			best, bits = &routes[i], p.Bits()
		}
	}
	return best
}

// diff compares the table with a draft that was parsed.
func (r *routing) diff(wanted []Route) *RouteDiff {
	var d RouteDiff
	same := func(a Route) func(Route) bool {
		return func(b Route) bool { return a.Destination == b.Destination && a.NextHopID == b.NextHopID }
	}
	for _, w := range wanted {
		if slices.ContainsFunc(r.custom, same(w)) {
			d.Kept = append(d.Kept, r.view(w))
		} else {
			d.Added = append(d.Added, r.view(w))
		}
	}
	for _, c := range r.custom {
		if !slices.ContainsFunc(wanted, same(c)) {
			d.Removed = append(d.Removed, r.view(c))
		}
	}
	sortRoutes(d.Added)
	sortRoutes(d.Removed)
	sortRoutes(d.Kept)
	for _, v := range append(slices.Clone(d.Added), d.Kept...) {
		d.Warnings = append(d.Warnings, r.warnings(v, wanted)...)
	}
	return &d
}

// warnings says what a custom route does that may not be meant.
func (r *routing) warnings(v RouteView, wanted []Route) []string {
	var out []string
	p, hop := stored(v.Destination), r.hops[v.NextHopID]
	if v.Status == RouteBlackhole {
		out = append(out, fmt.Sprintf("%s: %s is not up. What is sent this way is lost until it is.", p, hop.Name))
	}
	var shadowing []string
	zone := ""
	for _, vs := range r.switches {
		if vs.ID == hop.VSwitchID {
			zone = vs.ZoneID
		}
	}
	for _, vs := range r.switches {
		subnet := stored(vs.CIDR)
		switch {
		case inside(p, subnet):
			if vs.ZoneID != zone {
				out = append(out, fmt.Sprintf("%s: vSwitch %s is in zone %s, %s in zone %s: traffic crosses zones.", p, vs.Name, vs.ZoneID, hop.Name, zone))
			}
			if back := r.direct(vs, hop, wanted); len(back) > 0 {
				out = append(out, fmt.Sprintf("%s: replies from vSwitch %s to %s do not pass %s.", p, vs.Name, strings.Join(back, ", "), hop.Name))
			}
		case inside(subnet, p) && inside(p, stored(r.vpc.CIDR)):
			shadowing = append(shadowing, vs.Name)
		}
	}
	if len(shadowing) > 0 {
		out = append(out, fmt.Sprintf("%s: the longer system routes win for the vSwitches in it: %s.", p, strings.Join(shadowing, ", ")))
	}
	return out
}

// direct returns the names of vSwitches other than vs that no route sends through
// the hop.
func (r *routing) direct(vs VSwitch, hop Attachment, wanted []Route) []string {
	var names []string
	for _, other := range r.switches {
		through := slices.ContainsFunc(wanted, func(w Route) bool { return w.Destination == other.CIDR && w.NextHopID == hop.ID })
		if other.ID != vs.ID && other.ID != hop.VSwitchID && !through {
			names = append(names, other.Name)
		}
	}
	return names
}
