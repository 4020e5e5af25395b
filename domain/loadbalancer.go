package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"gorm.io/gorm"
)

// LoadBalancer is an NLB or a CLB of an account.
type LoadBalancer struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	RegionID  string
	VPCID     string
	Type      string // TypeNLB or TypeCLB
	Name      string
	CrossZone bool // send to servers of every zone, not only of the one that a flow came in by
	CPS       int  // new flows a second over all zones and listeners; 0: no limit
	Demo      bool
	Version   int64 // counts changes of it, its listeners and their targets
	CreatedAt time.Time
}

// The types of load balancers that work at layer 4. A CLB is an NLB with other
// defaults and less to choose.
const (
	TypeNLB = "nlb"
	TypeCLB = "clb"
)

// LoadBalancerZone is its presence in a zone: one address of a vSwitch there,
// which clients of the VPC dial. Targets see it as the source, or one of the load
// balancer's further addresses in that vSwitch.
type LoadBalancerZone struct {
	LoadBalancerID string `gorm:"primaryKey"`
	ZoneID         string `gorm:"primaryKey"`
	AccountID      string
	VSwitchID      string
	Address        string
}

// LoadBalancerInput is what makes a load balancer. An empty name gets a generated
// one.
type LoadBalancerInput struct {
	Name      string
	VPCID     string
	Type      string        // TypeNLB or TypeCLB; "" is TypeNLB
	Zones     []LBZoneInput // 1 to 10 of an NLB, 1 or 2 of a CLB
	CrossZone bool          // a CLB always does
	CPS       int           // up to 1,000,000; 0: no limit
	Listeners []ListenerInput
}

// LBZoneInput places a load balancer into a zone.
type LBZoneInput struct {
	ZoneID    string // "" is the vSwitch's
	VSwitchID string
	Address   string // "" chooses a free one
	Local     int    // further addresses that its flows to targets come from: 0, 2, 4, 6 or 8
}

// LoadBalancerUpdate changes what is not nil.
type LoadBalancerUpdate struct {
	Name      *string
	CrossZone *bool
	CPS       *int
	Version   int64 // that the form showed; 0 is not checked
}

// LoadBalancerSummary is a load balancer in a list.
type LoadBalancerSummary struct {
	LoadBalancer
	VPCName   string
	Zones     []string
	Listeners []string // e.g. "TCP 443"
	Healthy   int      // targets that new flows go to
	Total     int
	Services  int // that it is a resource of
}

// LoadBalancerDetail is a load balancer with what is in front of and behind it.
type LoadBalancerDetail struct {
	LoadBalancer
	VPCName   string
	Zones     []LBZoneDetail
	Listeners []ListenerDetail
	Services  []Service // that it is a resource of
}

// LBZoneDetail is one address of a load balancer.
type LBZoneDetail struct {
	LoadBalancerZone
	VSwitchName string
	Local       []string // further addresses
	Health      ZoneHealth
}

// maxZones of a load balancer and of an endpoint.
const maxZones = 10

// CreateLoadBalancer makes a load balancer with its listeners and their targets.
//
// Errors: Invalid with the fields at fault; Limit.
func (s *Scope) CreateLoadBalancer(ctx context.Context, in LoadBalancerInput) (*LoadBalancer, error) {
	var lb *LoadBalancer
	err := s.write(ctx, WriteProvide, func(t *tx) (err error) {
		lb, err = t.addLoadBalancer(in, s.account.Demo)
		return err
	})
	if err != nil {
		return nil, err
	}
	return lb, nil
}

// addLoadBalancer makes a load balancer of the transaction's account.
func (t *tx) addLoadBalancer(in LoadBalancerInput, demo bool) (*LoadBalancer, error) {
	v, err := t.vpc(in.VPCID)
	if err != nil {
		return nil, at("vpc_id", err)
	}
	if err := t.quotaOf(&LoadBalancer{}, "load_balancers", "account_id", t.account); err != nil {
		return nil, err
	}
	kind, ok := traits[cmp.Or(in.Type, TypeNLB)]
	if !ok {
		return nil, invalid("type", "invalid_type", "A load balancer is of type %s or %s.", TypeNLB, TypeCLB)
	}
	lb := &LoadBalancer{
		ID: kind.prefix + "-" + token(20), AccountID: t.account, RegionID: v.RegionID, VPCID: v.ID, Type: cmp.Or(in.Type, TypeNLB),
		CrossZone: in.CrossZone || !kind.full, CPS: in.CPS, Demo: demo, Version: 1, CreatedAt: t.now,
	}
	var nameErr, zonesErr error
	lb.Name, nameErr = validNameOr(in.Name, lb.ID)
	if n := len(in.Zones); n < 1 || n > kind.zones {
		zonesErr = invalid("zones", "invalid_zones", "A %s is in 1 to %d zones.", kind.label, kind.zones)
	}
	if err := errors.Join(nameErr, zonesErr, lb.checkCPS()); err != nil {
		return nil, err
	}
	if err := t.Create(lb).Error; err != nil {
		return nil, fmt.Errorf("create load balancer: %w", err)
	}
	var faults []error
	var zones []LoadBalancerZone
	for i, z := range in.Zones {
		p, err := t.placeBalancer(lb, v, z, zones)
		if err != nil {
			faults = append(faults, under(fmt.Sprintf("zones.%d", i), err))
			continue
		}
		zones = append(zones, p)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if err := t.Create(&zones).Error; err != nil {
		return nil, fmt.Errorf("create zones: %w", err)
	}
	for i, l := range in.Listeners {
		_, err := t.addListener(lb, l)
		faults = append(faults, under(fmt.Sprintf("listeners.%d", i), err))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	t.stale(KindLoadBalancer, lb.ID)
	t.touched(t.account, KindLoadBalancer, lb.ID)
	return lb, t.audit("CreateLoadBalancer", KindLoadBalancer, lb.ID, lb.Name, nil, map[string]any{
		"vpc": v.ID, "type": lb.Type, "cps": lb.CPS, "zones": each(zones, func(z LoadBalancerZone) string { return z.ZoneID + " " + z.Address }), "cross_zone": lb.CrossZone, "listeners": len(in.Listeners),
	})
}

// quotaOf checks a quota against how many rows of a model there are of a parent.
func (t *tx) quotaOf(model any, name, parent, id string) error {
	var have int64
	if err := t.Model(model).Where(parent+" = ?", id).Count(&have).Error; err != nil {
		return fmt.Errorf("count for quota: %w", err)
	}
	return t.quota(t.account, name, have)
}

// place checks a zone and a vSwitch of a VPC and takes an address there. others
// are the zones that the owner has already.
func (t *tx) place(v *VPC, in LBZoneInput, others []LoadBalancerZone, ownerKind, ownerID string) (LoadBalancerZone, error) {
	var z LoadBalancerZone
	var vs VSwitch
	if err := first(t.DB, KindVSwitch, &vs, "id = ? AND vpc_id = ? AND account_id = ?", in.VSwitchID, v.ID, t.account); err != nil {
		return z, at("vswitch_id", err)
	}
	zone := cmp.Or(in.ZoneID, vs.ZoneID)
	if zone != vs.ZoneID {
		return z, invalid("vswitch_id", "vswitch_zone", "vSwitch %s is in zone %s. Choose one in %s.", vs.Name, vs.ZoneID, zone)
	}
	if slices.ContainsFunc(others, func(o LoadBalancerZone) bool { return o.ZoneID == zone }) {
		return z, invalid("zone_id", "zone_twice", "Zone %s is there twice.", zone)
	}
	address, err := take(t, v.ID, vs.ID, in.Address, ownerKind, ownerID)
	return LoadBalancerZone{LoadBalancerID: ownerID, ZoneID: zone, AccountID: t.account, VSwitchID: vs.ID, Address: address}, err
}

// maxLocal is how many further addresses a load balancer has in a zone at most.
const maxLocal = 8

// placeBalancer takes the addresses of a load balancer in a zone.
func (t *tx) placeBalancer(lb *LoadBalancer, v *VPC, in LBZoneInput, others []LoadBalancerZone) (LoadBalancerZone, error) {
	if err := validLocal(in.Local); err != nil {
		return LoadBalancerZone{}, err
	}
	z, err := t.place(v, in, others, KindLoadBalancer, lb.ID)
	if err != nil {
		return z, err
	}
	return z, t.takeLocal(lb, z, in.Local)
}

func validLocal(n int) error {
	if n < 0 || n > maxLocal || n%2 != 0 {
		return invalid("local", "invalid_local", "Further addresses come in pairs: 0, 2, 4, 6 or %d.", maxLocal)
	}
	return nil
}

// takeLocal takes n further addresses of a load balancer in a zone.
func (t *tx) takeLocal(lb *LoadBalancer, z LoadBalancerZone, n int) error {
	for range n {
		if _, err := take(t, lb.VPCID, z.VSwitchID, "", KindLoadBalancer, lb.ID); err != nil {
			return err
		}
	}
	return nil
}

// localAddresses returns the further addresses of load balancers, in order, that are
// in zones: what they have in a vSwitch beside the one of the zone.
func localAddresses(db *gorm.DB, zones []LoadBalancerZone) (map[place][]string, error) {
	byVSwitch := make(map[place]LoadBalancerZone, len(zones))
	for _, z := range zones {
		byVSwitch[place{z.LoadBalancerID, z.VSwitchID}] = z
	}
	owned, err := rowsOf[Address](db, "owner_id", slices.Compact(each(zones, func(z LoadBalancerZone) string { return z.LoadBalancerID })), "owner_id, address")
	if err != nil {
		return nil, fmt.Errorf("read addresses of load balancers: %w", err)
	}
	out := map[place][]string{}
	for _, a := range owned {
		if z, ok := byVSwitch[place{a.OwnerID, a.VSwitchID}]; ok && z.Address != a.Address {
			at := place{z.LoadBalancerID, z.ZoneID}
			out[at] = append(out[at], a.Address)
		}
	}
	for _, addresses := range out {
		slices.SortFunc(addresses, func(a, b string) int { return netip.MustParseAddr(a).Compare(netip.MustParseAddr(b)) })
	}
	return out, nil
}

func (lb *LoadBalancer) checkCPS() error {
	_, err := within("cps", lb.CPS, 0, 1, maxCPS, "")
	return err
}

// loadBalancer reads a load balancer of the account.
func (t *tx) loadBalancer(id string) (*LoadBalancer, error) {
	var lb LoadBalancer
	return &lb, first(t.DB, KindLoadBalancer, &lb, "id = ? AND account_id = ?", id, t.account)
}

// balancerChanged counts a change of a load balancer or of what is behind it, and
// tells who shows it.
func (t *tx) balancerChanged(lb *LoadBalancer, version int64, values map[string]any) error {
	if values == nil {
		values = map[string]any{}
	}
	if err := t.edit(KindLoadBalancer, lb.ID, version, values); err != nil {
		return err
	}
	t.stale(KindLoadBalancer, lb.ID)
	t.touched(t.account, KindLoadBalancer, lb.ID)
	_, err := t.servicesTouched(lb.ID)
	return err
}

// servicesTouched returns the services that load balancers are resources of, and
// tells who shows them.
func (t *tx) servicesTouched(balancers ...string) ([]string, error) {
	var services []Service
	err := t.Select("id", "account_id").Where("id IN (?)", t.Model(&ServiceResource{}).Select("service_id").Where("load_balancer_id IN ?", balancers)).
		Order("id").Find(&services).Error
	if err != nil {
		return nil, fmt.Errorf("find services: %w", err)
	}
	for _, svc := range services {
		t.touched(svc.AccountID, KindService, svc.ID)
	}
	return each(services, func(svc Service) string { return svc.ID }), nil
}

// LoadBalancers lists the load balancers of the account by name. Filter vpc.
func (s *Scope) LoadBalancers(ctx context.Context, q Query) (Page[LoadBalancerSummary], error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return Page[LoadBalancerSummary]{}, err
	}
	list := oneOf(matching(db.Where("account_id = ?", s.account.ID), q.Text), "vpc_id", q.Filter["vpc"])
	page, err := paginate(list, q, order{columns: []string{"name", "id"}}, func(lb LoadBalancer) []any { return []any{lb.Name, lb.ID} })
	if err != nil || len(page.Items) == 0 {
		return Page[LoadBalancerSummary]{}, err
	}
	ids := each(page.Items, func(lb LoadBalancer) string { return lb.ID })
	behind, err := readBackends(db, ids)
	if err != nil {
		return Page[LoadBalancerSummary]{}, err
	}
	vpcs, err := namesOf(db, KindVPC, each(page.Items, func(lb LoadBalancer) string { return lb.VPCID }))
	if err != nil {
		return Page[LoadBalancerSummary]{}, err
	}
	var zones []LoadBalancerZone
	if err := db.Where("load_balancer_id IN ?", ids).Order("zone_id").Find(&zones).Error; err != nil {
		return Page[LoadBalancerSummary]{}, fmt.Errorf("list zones: %w", err)
	}
	var used []ServiceResource
	if err := db.Distinct("load_balancer_id", "service_id").Where("load_balancer_id IN ?", ids).Find(&used).Error; err != nil {
		return Page[LoadBalancerSummary]{}, fmt.Errorf("list services: %w", err)
	}
	services := groupRows(used, func(r ServiceResource) string { return r.LoadBalancerID })
	return mapPage(page, func(lb LoadBalancer) LoadBalancerSummary {
		sum := LoadBalancerSummary{LoadBalancer: lb, VPCName: vpcs[lb.VPCID], Services: len(services[lb.ID])}
		for _, z := range zones {
			if z.LoadBalancerID == lb.ID {
				sum.Zones = append(sum.Zones, z.ZoneID)
			}
		}
		for _, l := range behind.listeners[lb.ID] {
			sum.Listeners = append(sum.Listeners, l.Opening().String())
		}
		all := behind.health(lb.ID, everyZone)
		sum.Healthy, sum.Total = all.Healthy, all.Total
		return sum
	}), nil
}

// LoadBalancer returns one load balancer of the account.
func (s *Scope) LoadBalancer(ctx context.Context, id string) (*LoadBalancerDetail, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	var d LoadBalancerDetail
	if err := first(db, KindLoadBalancer, &d.LoadBalancer, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
		return nil, err
	}
	behind, err := readBackends(db, []string{id})
	if err != nil {
		return nil, err
	}
	vpcs, err := namesOf(db, KindVPC, []string{d.VPCID})
	if err != nil {
		return nil, err
	}
	d.VPCName = vpcs[d.VPCID]
	var zones []LoadBalancerZone
	if err := db.Where("load_balancer_id = ?", id).Order("zone_id").Find(&zones).Error; err != nil {
		return nil, fmt.Errorf("list zones: %w", err)
	}
	switches, err := namesOf(db, KindVSwitch, each(zones, func(z LoadBalancerZone) string { return z.VSwitchID }))
	if err != nil {
		return nil, err
	}
	local, err := localAddresses(db, zones)
	if err != nil {
		return nil, err
	}
	for _, z := range zones {
		d.Zones = append(d.Zones, LBZoneDetail{
			LoadBalancerZone: z, VSwitchName: switches[z.VSwitchID], Local: local[place{id, z.ZoneID}], Health: behind.health(id, z.ZoneID),
		})
	}
	targets, err := readTargets(db, slices.Concat(slices.Collect(maps.Values(behind.servers))...))
	if err != nil {
		return nil, err
	}
	for _, l := range behind.listeners[id] {
		d.Listeners = append(d.Listeners, ListenerDetail{
			Listener: l, Group: behind.groups[l.ServerGroupID], Servers: targets.details(behind.servers[l.ServerGroupID]),
		})
	}
	err = db.Where("id IN (?)", db.Model(&ServiceResource{}).Select("service_id").Where("load_balancer_id = ?", id)).Order("name").Order("id").Find(&d.Services).Error
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	return &d, nil
}

// UpdateLoadBalancer renames a load balancer, switches cross-zone balancing or limits
// its new flows. Flows stay.
//
// Errors: NotFound; Invalid; Conflict if it changed since the form's version.
func (s *Scope) UpdateLoadBalancer(ctx context.Context, id string, in LoadBalancerUpdate) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		lb, err := t.loadBalancer(id)
		if err != nil {
			return err
		}
		before, after := map[string]any{}, map[string]any{}
		values := map[string]any{}
		if in.Name != nil {
			name, err := validNameOr(*in.Name, id)
			if err != nil {
				return err
			}
			before["name"], after["name"], values["name"] = lb.Name, name, name
		}
		if in.CrossZone != nil {
			if err := traits[lb.Type].lacks("cross_zone", "zones that are kept apart", !*in.CrossZone); err != nil {
				return err
			}
			before["cross_zone"], after["cross_zone"], values["cross_zone"] = lb.CrossZone, *in.CrossZone, *in.CrossZone
		}
		if in.CPS != nil {
			before["cps"], after["cps"], values["cps"] = lb.CPS, *in.CPS, *in.CPS
			lb.CPS = *in.CPS
			if err := lb.checkCPS(); err != nil {
				return err
			}
		}
		if err := t.balancerChanged(lb, in.Version, values); err != nil {
			return err
		}
		return t.audit("UpdateLoadBalancer", KindLoadBalancer, id, lb.Name, before, after)
	})
}

// DeleteLoadBalancer removes a load balancer that no service uses, its listeners,
// and the server groups that were made with them and no other listener sends to.
//
// Errors: NotFound; Conflict that names the services.
func (s *Scope) DeleteLoadBalancer(ctx context.Context, id string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		lb, err := t.loadBalancer(id)
		if err != nil {
			return err
		}
		var u uses
		err = u.add(t.Table("services").Where("id IN (?)", t.Model(&ServiceResource{}).Select("service_id").Where("load_balancer_id = ?", id)), KindService)
		if err == nil {
			err = u.refusal(KindLoadBalancer, lb.Name)
		}
		if err != nil {
			return err
		}
		var listeners []Listener
		if err := t.Where("load_balancer_id = ?", id).Find(&listeners).Error; err != nil {
			return fmt.Errorf("list listeners: %w", err)
		}
		for i := range listeners {
			if err := t.removeListener(&listeners[i]); err != nil {
				return err
			}
		}
		err = errors.Join(
			t.remove(&LoadBalancerZone{}, "load_balancer_id = ?", id),
			t.remove(&LoadBalancer{}, "id = ?", id),
			release(t, lb.VPCID, id))
		if err != nil {
			return err
		}
		t.stale(KindLoadBalancer, id)
		t.touched(s.account.ID, KindLoadBalancer, id)
		return t.audit("DeleteLoadBalancer", KindLoadBalancer, id, lb.Name, map[string]any{"vpc": lb.VPCID}, nil)
	})
}

// AddListener adds a listener to a load balancer of the account.

// AddLoadBalancerZone puts a load balancer of the account into another zone. A
// service that it is a resource of is not in the zone before AddResource.
//
// Errors: NotFound; Invalid with the field at fault; Conflict if it changed since
// version, which may be 0.
func (s *Scope) AddLoadBalancerZone(ctx context.Context, id string, in LBZoneInput, version int64) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		lb, zones, err := t.zonesOf(id)
		if err != nil {
			return err
		}
		if kind := traits[lb.Type]; len(zones) >= kind.zones {
			return fail(Limit, "zones_of_load_balancer", "A %s is in at most %d zones.", kind.label, kind.zones)
		}
		v, err := t.vpc(lb.VPCID)
		if err != nil {
			return err
		}
		z, err := t.placeBalancer(lb, v, in, zones)
		if err != nil {
			return err
		}
		if err := t.Create(&z).Error; err != nil {
			return fmt.Errorf("create zone: %w", err)
		}
		if err := t.balancerChanged(lb, version, nil); err != nil {
			return err
		}
		return t.audit("AddLoadBalancerZone", KindLoadBalancer, id, lb.Name, nil, map[string]any{"zone": z.ZoneID, "address": z.Address, "local": in.Local})
	})
}

// UpdateLoadBalancerZone gives a load balancer of the account n further addresses in
// a zone. Flows that come from one that it loses end.
//
// Errors: NotFound; Invalid with the field at fault; Conflict if it changed since
// version, which may be 0.
func (s *Scope) UpdateLoadBalancerZone(ctx context.Context, id, zoneID string, n int, version int64) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		lb, zones, err := t.zonesOf(id)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(zones, func(z LoadBalancerZone) bool { return z.ZoneID == zoneID })
		if i < 0 {
			return missing(KindZone)
		}
		if err := validLocal(n); err != nil {
			return err
		}
		all, err := localAddresses(t.DB, zones[i:i+1])
		if err != nil {
			return err
		}
		have := all[place{id, zoneID}]
		if err := t.takeLocal(lb, zones[i], max(n-len(have), 0)); err != nil {
			return err
		}
		if len(have) > n {
			if err := release(t, lb.VPCID, id, have[n:]...); err != nil {
				return err
			}
		}
		if err := t.balancerChanged(lb, version, nil); err != nil {
			return err
		}
		return t.audit("UpdateLoadBalancerZone", KindLoadBalancer, id, lb.Name,
			map[string]any{"zone": zoneID, "local": len(have)}, map[string]any{"zone": zoneID, "local": n})
	})
}

// RemoveLoadBalancerZone takes a load balancer of the account out of a zone, and
// gives its addresses there back.
//
// Errors: NotFound; Conflict if it is the last zone, while services publish the load
// balancer in it or endpoints lead to it there, and if it changed since version,
// which may be 0.
func (s *Scope) RemoveLoadBalancerZone(ctx context.Context, id, zoneID string, version int64) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		lb, zones, err := t.zonesOf(id)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(zones, func(z LoadBalancerZone) bool { return z.ZoneID == zoneID })
		switch {
		case i < 0:
			return missing(KindZone)
		case len(zones) == 1:
			return fail(Conflict, "last_zone", "%s is in this zone only. Add another zone first, or delete the load balancer.", lb.Name)
		}
		var u uses
		err = u.add(t.Table("services").Where("id IN (?)", t.Model(&ServiceResource{}).Select("service_id").Where("load_balancer_id = ? AND zone_id = ?", id, zoneID)), KindService)
		if err == nil {
			err = u.refusal(KindLoadBalancer, lb.Name+" in zone "+zoneID)
		}
		if err != nil {
			return err
		}
		// A provider sees whose endpoints they are in its list of connections.
		for _, column := range []string{"load_balancer_id", "replaced_id"} {
			bound, err := zoneUses(t.DB, column, []string{id})
			if err != nil {
				return err
			}
			if n := bound[place{id, zoneID}]; n > 0 {
				return fail(Conflict, "load_balancer_in_use", "%s still leads %d endpoints to targets in zone %s. They have to leave the zone first.", lb.Name, n, zoneID)
			}
		}
		local, err := localAddresses(t.DB, zones[i:i+1])
		if err != nil {
			return err
		}
		err = errors.Join(
			t.remove(&LoadBalancerZone{}, "load_balancer_id = ? AND zone_id = ?", id, zoneID),
			release(t, lb.VPCID, id, append(local[place{id, zoneID}], zones[i].Address)...),
			t.balancerChanged(lb, version, nil))
		if err != nil {
			return err
		}
		return t.audit("RemoveLoadBalancerZone", KindLoadBalancer, id, lb.Name, map[string]any{"zone": zoneID, "address": zones[i].Address}, nil)
	})
}

// zonesOf reads a load balancer of the account with its zones.
func (t *tx) zonesOf(id string) (*LoadBalancer, []LoadBalancerZone, error) {
	lb, err := t.loadBalancer(id)
	if err != nil {
		return nil, nil, err
	}
	var zones []LoadBalancerZone
	if err := t.Where("load_balancer_id = ?", id).Order("zone_id").Find(&zones).Error; err != nil {
		return nil, nil, fmt.Errorf("list zones: %w", err)
	}
	return lb, zones, nil
}
