package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// LoadBalancer is an NLB of an account.
type LoadBalancer struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	RegionID  string
	VPCID     string
	Type      string // TypeNLB
	Name      string
	CrossZone bool // send to servers of every zone, not only of the one that a flow came in by
	Demo      bool
	Version   int64 // counts changes of it, its listeners and their targets
	CreatedAt time.Time
}

// TypeNLB is the type of load balancers that work at layer 4.
const TypeNLB = "nlb"

// LoadBalancerZone is its presence in a zone: one address of a vSwitch there,
// which clients of the VPC dial and which servers see as the source.
type LoadBalancerZone struct {
	LoadBalancerID string `gorm:"primaryKey"`
	ZoneID         string `gorm:"primaryKey"`
	AccountID      string
	VSwitchID      string
	Address        string
}

// Listener of a load balancer.
type Listener struct {
	ID             string `gorm:"primaryKey"`
	AccountID      string
	LoadBalancerID string
	Protocol       string // ProtocolTCP
	Port           int    // 1 to 65535, unique per load balancer and protocol
	ServerGroupID  string
	IdleTimeout    int // seconds, 10 to 900
}

// ServerGroup is a set of targets in one VPC, and how they are checked. It lives
// as long as a listener sends to it.
type ServerGroup struct {
	ID                 string `gorm:"primaryKey"`
	AccountID          string
	VPCID              string
	Name               string
	Scheduler          string // SchedulerWRR
	HealthEnabled      bool
	HealthPort         int // 0: the server's own
	HealthInterval     int // seconds
	HealthTimeout      int // seconds
	HealthyThreshold   int
	UnhealthyThreshold int
	Demo               bool
	Version            int64
	CreatedAt          time.Time
}

// SchedulerWRR is weighted round robin.
const SchedulerWRR = "wrr"

// Server is a target of a group.
type Server struct {
	ID            string `gorm:"primaryKey"`
	AccountID     string
	ServerGroupID string
	AttachmentID  string // a workload of the VPC or a host service; or
	Address       string // an address of the VPC
	Port          int
	Weight        int    // 0 to 100; 0 gets no new flows
	ZoneID        string // "" for a host service that serves every zone

	Health       string // HealthUnknown and its like: as last observed
	HealthReason string
	HealthSince  time.Time
}

// What is known of a server's health.
const (
	HealthUnknown   = "unknown"
	HealthHealthy   = "healthy"
	HealthUnhealthy = "unhealthy"
)

// LoadBalancerInput is what makes a load balancer. An empty name gets a generated
// one.
type LoadBalancerInput struct {
	Name      string
	VPCID     string
	Zones     []LBZoneInput // 1 to 10
	CrossZone bool
	Listeners []ListenerInput
}

// LBZoneInput places a load balancer into a zone.
type LBZoneInput struct {
	ZoneID    string // "" is the vSwitch's
	VSwitchID string
	Address   string // "" chooses a free one
}

// ListenerInput is a new listener, with new targets or those of a server group
// that another listener of the same VPC sends to.
type ListenerInput struct {
	Port          int
	ServerGroupID string
	Servers       []ServerInput
	IdleTimeout   int // seconds, 10 to 900; 0 is 900
	Health        HealthInput
}

// HealthInput is how targets are checked: by a TCP connection. The zero value is
// the usual check.
type HealthInput struct {
	Disabled           bool
	Port               int // 0: each target's own
	Interval           int // seconds, 1 to 50; 0 is 5
	Timeout            int // seconds, 1 to 300; 0 is 5
	HealthyThreshold   int // 2 to 10; 0 is 2
	UnhealthyThreshold int // 2 to 10; 0 is 2
}

// ServerInput is a new target: an attachment or an address of the VPC.
type ServerInput struct {
	AttachmentID string
	Address      string
	Port         int    // 0 is the host service's own
	Weight       int    // 1 to 100; 0 is 100: a target is drained by UpdateServer
	ZoneID       string // for a host service only; "" lets it serve every zone
}

// LoadBalancerUpdate changes what is not nil.
type LoadBalancerUpdate struct {
	Name      *string
	CrossZone *bool
	Version   int64 // that the form showed; 0 is not checked
}

// ListenerUpdate changes what is not nil.
type ListenerUpdate struct {
	Port        *int
	IdleTimeout *int
	Health      *HealthInput
	Version     int64 // of the load balancer, that the form showed; 0 is not checked
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
	Health      ZoneHealth
}

// ListenerDetail is a listener with where it sends to.
type ListenerDetail struct {
	Listener
	Group   ServerGroup
	Servers []ServerDetail // by zone and address
}

// ServerDetail is a target as people know it.
type ServerDetail struct {
	Server
	Name   string // of the attachment; "" for an address
	Target string // address and port, in the VPC or, for a host service, on the host
	Host   bool   // a host service
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
	lb := &LoadBalancer{
		ID: newID(KindLoadBalancer), AccountID: t.account, RegionID: v.RegionID, VPCID: v.ID, Type: TypeNLB,
		CrossZone: in.CrossZone, Demo: demo, Version: 1, CreatedAt: t.now,
	}
	var nameErr, zonesErr error
	lb.Name, nameErr = validNameOr(in.Name, lb.ID)
	if n := len(in.Zones); n < 1 || n > maxZones {
		zonesErr = invalid("zones", "invalid_zones", "A load balancer is in 1 to %d zones.", maxZones)
	}
	if err := errors.Join(nameErr, zonesErr); err != nil {
		return nil, err
	}
	if err := t.Create(lb).Error; err != nil {
		return nil, fmt.Errorf("create load balancer: %w", err)
	}
	var faults []error
	var zones []LoadBalancerZone
	for i, z := range in.Zones {
		p, err := t.place(v, z, zones, KindLoadBalancer, lb.ID)
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
		"vpc": v.ID, "zones": each(zones, func(z LoadBalancerZone) string { return z.ZoneID + " " + z.Address }), "cross_zone": lb.CrossZone, "listeners": len(in.Listeners),
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

// addListener adds a listener to a load balancer.
func (t *tx) addListener(lb *LoadBalancer, in ListenerInput) (*Listener, error) {
	if err := t.quotaOf(&Listener{}, "listeners_per_balancer", "load_balancer_id", lb.ID); err != nil {
		return nil, err
	}
	l := Listener{ID: newID(KindListener), AccountID: lb.AccountID, LoadBalancerID: lb.ID, Protocol: ProtocolTCP, Port: in.Port, ServerGroupID: in.ServerGroupID}
	var idleErr error
	l.IdleTimeout, idleErr = within("idle_timeout", in.IdleTimeout, 900, 10, 900, "seconds")
	health, healthErr := in.Health.checked()
	if err := errors.Join(t.freePort(lb, "", in.Port), idleErr, under("health", healthErr)); err != nil {
		return nil, err
	}
	switch {
	case l.ServerGroupID == "":
		g := health
		g.ID, g.AccountID, g.VPCID, g.Name = newID(KindServerGroup), lb.AccountID, lb.VPCID, fmt.Sprintf("%s:%d", lb.Name, l.Port)
		g.Scheduler, g.Demo, g.Version, g.CreatedAt = SchedulerWRR, lb.Demo, 1, t.now
		if err := t.Create(&g).Error; err != nil {
			return nil, fmt.Errorf("create server group: %w", err)
		}
		t.stale(KindServerGroup, g.ID)
		l.ServerGroupID = g.ID
		var faults []error
		for i, srv := range in.Servers {
			_, err := t.addServer(&g, srv)
			faults = append(faults, under(fmt.Sprintf("servers.%d", i), err))
		}
		if err := errors.Join(faults...); err != nil {
			return nil, err
		}
	case len(in.Servers) > 0:
		return nil, invalid("server_group_id", "group_and_servers", "Choose a server group or name targets, not both.")
	default:
		err := first(t.DB, KindServerGroup, &ServerGroup{}, "id = ? AND account_id = ? AND vpc_id = ?", l.ServerGroupID, lb.AccountID, lb.VPCID)
		if err != nil {
			return nil, at("server_group_id", err)
		}
	}
	if err := t.Create(&l).Error; err != nil {
		return nil, fmt.Errorf("create listener: %w", err)
	}
	return &l, nil
}

// freePort refuses a port that is none, or that another listener has than except.
func (t *tx) freePort(lb *LoadBalancer, except string, port int) error {
	if port < 1 || port > 65535 {
		return invalid("port", "invalid_port", "A port is a number from 1 to 65535.")
	}
	var n int64
	err := t.Model(&Listener{}).Where("load_balancer_id = ? AND protocol = ? AND port = ? AND id <> ?", lb.ID, ProtocolTCP, port, except).Count(&n).Error
	if err != nil {
		return fmt.Errorf("look for listener: %w", err)
	}
	if n > 0 {
		return invalid("port", "port_in_use", "The load balancer listens on TCP %d already.", port)
	}
	return nil
}

// within returns value, or usual if it is 0, and refuses what is not from low to high.
func within(field string, value, usual, low, high int, unit string) (int, error) {
	if value == 0 {
		return usual, nil
	}
	if value < low || value > high {
		return 0, invalid(field, "out_of_range", "This is %d to %d%s.", low, high, strings.TrimRight(" "+unit, " "))
	}
	return value, nil
}

// checked returns the columns of a server group that the input stands for.
func (h HealthInput) checked() (ServerGroup, error) {
	var g ServerGroup
	var faults [5]error
	g.HealthEnabled = !h.Disabled
	g.HealthPort, faults[0] = within("port", h.Port, 0, 1, 65535, "")
	g.HealthInterval, faults[1] = within("interval", h.Interval, 5, 1, 50, "seconds")
	g.HealthTimeout, faults[2] = within("timeout", h.Timeout, 5, 1, 300, "seconds")
	g.HealthyThreshold, faults[3] = within("healthy_threshold", h.HealthyThreshold, 2, 2, 10, "checks")
	g.UnhealthyThreshold, faults[4] = within("unhealthy_threshold", h.UnhealthyThreshold, 2, 2, 10, "checks")
	return g, errors.Join(faults[:]...)
}

// addServer adds a target to a server group.
func (t *tx) addServer(g *ServerGroup, in ServerInput) (*Server, error) {
	if err := t.quotaOf(&Server{}, "servers_per_group", "server_group_id", g.ID); err != nil {
		return nil, err
	}
	srv := Server{
		ID: newID(KindServer), AccountID: g.AccountID, ServerGroupID: g.ID, Port: in.Port, ZoneID: in.ZoneID,
		Health: HealthUnknown, HealthSince: t.now,
	}
	var targetErr, weightErr, portErr error
	srv.Weight, weightErr = within("weight", in.Weight, 100, 1, 100, "")
	if in.AttachmentID != "" {
		srv.AttachmentID = in.AttachmentID
		targetErr = t.targetAttachment(g, &srv)
	} else {
		srv.Address = strings.TrimSpace(in.Address)
		targetErr = t.targetAddress(g, &srv)
	}
	if srv.Port < 1 || srv.Port > 65535 {
		portErr = invalid("port", "invalid_port", "A port is a number from 1 to 65535.")
	}
	if err := errors.Join(targetErr, portErr, weightErr); err != nil {
		return nil, err
	}
	var n int64
	err := t.Model(&Server{}).Where("server_group_id = ? AND attachment_id = ? AND address = ? AND port = ?", g.ID, srv.AttachmentID, srv.Address, srv.Port).Count(&n).Error
	if err != nil {
		return nil, fmt.Errorf("look for target: %w", err)
	}
	if n > 0 {
		return nil, invalid("port", "target_twice", "This target and port is in the server group already.")
	}
	if err := t.Create(&srv).Error; err != nil {
		return nil, fmt.Errorf("create target: %w", err)
	}
	t.stale(KindServerGroup, g.ID)
	return &srv, nil
}

// targetAttachment checks a target that is an attachment, and completes its zone
// and port.
func (t *tx) targetAttachment(g *ServerGroup, srv *Server) error {
	var a Attachment
	if err := first(t.DB, KindAttachment, &a, "id = ? AND account_id = ? AND vpc_id = ?", srv.AttachmentID, g.AccountID, g.VPCID); err != nil {
		return at("attachment_id", err)
	}
	switch a.Kind {
	case AttachHost:
		if srv.Port == 0 {
			srv.Port = a.HostPort
		}
		if srv.Port != a.HostPort {
			return invalid("port", "host_port", "Host service %s is port %d of the host.", a.Name, a.HostPort)
		}
		if srv.ZoneID == "" {
			return nil // it is outside the VPC's zones, so every one of them reaches it alike
		}
		var n int64
		err := t.Model(&VSwitch{}).Where("vpc_id = ? AND zone_id = ?", g.VPCID, srv.ZoneID).Count(&n).Error
		if err == nil && n == 0 {
			err = invalid("zone_id", "zone_without_vswitch", "The VPC is not in zone %s.", srv.ZoneID)
		}
		return err
	case AttachPort:
		return invalid("attachment_id", "target_published_port", "%s lets clients into the VPC. Nothing listens there for a load balancer.", a.Name)
	}
	var vs VSwitch
	if err := first(t.DB, KindVSwitch, &vs, "id = ?", a.VSwitchID); err != nil {
		return err
	}
	return srv.in(vs)
}

// in puts a target into the zone of a vSwitch.
func (srv *Server) in(vs VSwitch) error {
	if srv.ZoneID != "" && srv.ZoneID != vs.ZoneID {
		return invalid("zone_id", "target_zone", "This target is in zone %s, as its vSwitch %s.", vs.ZoneID, vs.Name)
	}
	srv.ZoneID = vs.ZoneID
	return nil
}

// targetAddress checks a target that is an address of the VPC, completes its zone,
// and keeps the address from being given to an endpoint or a load balancer later.
func (t *tx) targetAddress(g *ServerGroup, srv *Server) error {
	a, err := parseAddress("address", srv.Address)
	if err != nil {
		return err
	}
	srv.Address = a.String()
	for _, r := range reservedRanges {
		if r.Contains(a) {
			return invalid("address", "target_reserved", "%s is in %s, %s. A target is an address of the VPC.", a, r.Prefix, r.what)
		}
	}
	var switches []VSwitch
	if err := t.Where("vpc_id = ?", g.VPCID).Order("id").Find(&switches).Error; err != nil {
		return fmt.Errorf("list vSwitches: %w", err)
	}
	i := slices.IndexFunc(switches, func(v VSwitch) bool { return stored(v.CIDR).Contains(a) })
	if i < 0 {
		return invalid("address", "target_outside", "%s is in no vSwitch of the VPC. A host service or an attachment of this VPC can be chosen by name.", a)
	}
	vs := switches[i]
	switch p := stored(vs.CIDR); a {
	case gatewayOf(p):
		return invalid("address", "target_gateway", "%s is the gateway of vSwitch %s.", a, vs.Name)
	case p.Addr(), broadcastOf(p):
		return invalid("address", "target_reserved", "%s is the network's or the broadcast address of vSwitch %s.", a, vs.Name)
	}
	if err := t.reserve(g, vs, a); err != nil {
		return err
	}
	return srv.in(vs)
}

// reserve gives a target's address to its server group, unless an attachment or
// another group has it.
func (t *tx) reserve(g *ServerGroup, vs VSwitch, a netip.Addr) error {
	var used []Address
	if err := t.Where("vpc_id = ? AND address = ?", g.VPCID, a.String()).Find(&used).Error; err != nil {
		return fmt.Errorf("look up address: %w", err)
	}
	if len(used) == 0 {
		row := Address{VPCID: g.VPCID, Address: a.String(), VSwitchID: vs.ID, OwnerKind: KindServerGroup, OwnerID: g.ID}
		if err := t.Create(&row).Error; err != nil {
			return fmt.Errorf("reserve address: %w", err)
		}
		return nil
	}
	switch owner := used[0]; owner.OwnerKind {
	case KindServerGroup:
		return nil
	case KindAttachment:
		var at Attachment
		if err := first(t.DB, KindAttachment, &at, "id = ?", owner.OwnerID); err != nil {
			return err
		}
		if at.Kind == AttachPort {
			return invalid("address", "target_published_port", "%s is the published port %s, which lets clients into the VPC. Nothing listens there for a load balancer.", a, at.Name)
		}
		return nil
	default:
		names, err := namesOf(t.DB, owner.OwnerKind, []string{owner.OwnerID})
		if err != nil {
			return err
		}
		return invalid("address", "target_interface", "%s is the %s %s (%s) of the same VPC. A target is what serves: an attachment or an address behind one.",
			a, nouns[owner.OwnerKind], names[owner.OwnerID], owner.OwnerID)
	}
}

// unreserve gives the address of a removed target back, or to another group that
// has a target there.
func (t *tx) unreserve(g *ServerGroup, address string) error {
	if address == "" {
		return nil
	}
	var others []Server
	err := t.Where("address = ? AND server_group_id IN (?)", address, t.Model(&ServerGroup{}).Select("id").Where("vpc_id = ?", g.VPCID)).
		Order("id").Limit(1).Find(&others).Error
	if err != nil {
		return fmt.Errorf("look for targets: %w", err)
	}
	if len(others) == 0 {
		return release(t, g.VPCID, g.ID, address)
	}
	res := t.Model(&Address{}).Where("vpc_id = ? AND address = ? AND owner_id = ?", g.VPCID, address, g.ID).Update("owner_id", others[0].ServerGroupID)
	if res.Error != nil {
		return fmt.Errorf("hand over address: %w", res.Error)
	}
	return nil
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
			sum.Listeners = append(sum.Listeners, l.label())
		}
		all := behind.health(lb.ID, everyZone)
		sum.Healthy, sum.Total = all.Healthy, all.Total
		return sum
	}), nil
}

// label is the listener in a few characters, e.g. "TCP 443".
func (l Listener) label() string { return fmt.Sprintf("%s %d", strings.ToUpper(l.Protocol), l.Port) }

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
	for _, z := range zones {
		d.Zones = append(d.Zones, LBZoneDetail{LoadBalancerZone: z, VSwitchName: switches[z.VSwitchID], Health: behind.health(id, z.ZoneID)})
	}
	targets, err := readTargets(db, behind)
	if err != nil {
		return nil, err
	}
	for _, l := range behind.listeners[id] {
		ld := ListenerDetail{Listener: l, Group: behind.groups[l.ServerGroupID]}
		for _, srv := range behind.servers[l.ServerGroupID] {
			ld.Servers = append(ld.Servers, targets.detail(srv))
		}
		slices.SortFunc(ld.Servers, func(a, b ServerDetail) int {
			return cmp.Or(strings.Compare(a.ZoneID, b.ZoneID), strings.Compare(a.Target, b.Target), strings.Compare(a.ID, b.ID))
		})
		d.Listeners = append(d.Listeners, ld)
	}
	err = db.Where("id IN (?)", db.Model(&ServiceResource{}).Select("service_id").Where("load_balancer_id = ?", id)).Order("name").Order("id").Find(&d.Services).Error
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	return &d, nil
}

// UpdateLoadBalancer renames a load balancer or switches cross-zone balancing.
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
			before["cross_zone"], after["cross_zone"], values["cross_zone"] = lb.CrossZone, *in.CrossZone, *in.CrossZone
		}
		if err := t.balancerChanged(lb, in.Version, values); err != nil {
			return err
		}
		return t.audit("UpdateLoadBalancer", KindLoadBalancer, id, lb.Name, before, after)
	})
}

// DeleteLoadBalancer removes a load balancer that no service uses, its listeners,
// and the server groups that no other listener sends to.
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
		for _, l := range listeners {
			if err := t.removeListener(&l); err != nil {
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
//
// Errors: NotFound; Invalid with the fields at fault; Limit.
func (s *Scope) AddListener(ctx context.Context, balancerID string, in ListenerInput) (*Listener, error) {
	var l *Listener
	err := s.write(ctx, WriteProvide, func(t *tx) error {
		lb, err := t.loadBalancer(balancerID)
		if err != nil {
			return err
		}
		if l, err = t.addListener(lb, in); err != nil {
			return err
		}
		if err := t.balancerChanged(lb, 0, nil); err != nil {
			return err
		}
		return t.audit("AddListener", KindListener, l.ID, lb.Name, nil, map[string]any{"load_balancer": lb.ID, "port": l.Port, "servers": len(in.Servers)})
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// listener reads a listener of the account with its load balancer.
func (t *tx) listener(id string) (*Listener, *LoadBalancer, error) {
	var l Listener
	if err := first(t.DB, KindListener, &l, "id = ? AND account_id = ?", id, t.account); err != nil {
		return nil, nil, err
	}
	lb, err := t.loadBalancer(l.LoadBalancerID)
	return &l, lb, err
}

// UpdateListener changes a listener of the account, and how its targets are
// checked. Flows that it let in stay.
//
// Errors: NotFound; Invalid with the fields at fault; Conflict if the load balancer
// changed since the form's version.
func (s *Scope) UpdateListener(ctx context.Context, id string, in ListenerUpdate) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		l, lb, err := t.listener(id)
		if err != nil {
			return err
		}
		before, after := map[string]any{}, map[string]any{}
		if in.Port != nil {
			if err := t.freePort(lb, id, *in.Port); err != nil {
				return err
			}
			before["port"], after["port"] = l.Port, *in.Port
		}
		if in.IdleTimeout != nil {
			idle, err := within("idle_timeout", *in.IdleTimeout, 900, 10, 900, "seconds")
			if err != nil {
				return err
			}
			before["idle_timeout"], after["idle_timeout"] = l.IdleTimeout, idle
		}
		if len(after) > 0 {
			if err := t.Model(&Listener{}).Where("id = ?", id).Updates(after).Error; err != nil {
				return fmt.Errorf("update listener: %w", err)
			}
		}
		if in.Health != nil {
			g, err := in.Health.checked()
			if err != nil {
				return under("health", err)
			}
			err = t.edit(KindServerGroup, l.ServerGroupID, 0, map[string]any{
				"health_enabled": g.HealthEnabled, "health_port": g.HealthPort, "health_interval": g.HealthInterval, "health_timeout": g.HealthTimeout,
				"healthy_threshold": g.HealthyThreshold, "unhealthy_threshold": g.UnhealthyThreshold,
			})
			if err != nil {
				return err
			}
			t.stale(KindServerGroup, l.ServerGroupID)
			after["health"] = *in.Health
		}
		if err := t.balancerChanged(lb, in.Version, nil); err != nil {
			return err
		}
		return t.audit("UpdateListener", KindListener, id, lb.Name, before, after)
	})
}

// DeleteListener removes a listener of the account, and its server group if no
// other listener sends to it. Flows through it end.
func (s *Scope) DeleteListener(ctx context.Context, id string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		l, lb, err := t.listener(id)
		if err != nil {
			return err
		}
		if err := t.removeListener(l); err != nil {
			return err
		}
		if err := t.balancerChanged(lb, 0, nil); err != nil {
			return err
		}
		return t.audit("DeleteListener", KindListener, id, lb.Name, map[string]any{"load_balancer": lb.ID, "port": l.Port}, nil)
	})
}

func (t *tx) removeListener(l *Listener) error {
	if err := t.remove(&Listener{}, "id = ?", l.ID); err != nil {
		return err
	}
	var left int64
	if err := t.Model(&Listener{}).Where("server_group_id = ?", l.ServerGroupID).Count(&left).Error; err != nil || left > 0 {
		return err
	}
	var g ServerGroup
	if err := first(t.DB, KindServerGroup, &g, "id = ?", l.ServerGroupID); err != nil {
		return err
	}
	var servers []Server
	if err := t.Where("server_group_id = ?", g.ID).Find(&servers).Error; err != nil {
		return fmt.Errorf("list targets: %w", err)
	}
	if err := t.remove(&Server{}, "server_group_id = ?", g.ID); err != nil {
		return err
	}
	for _, srv := range servers {
		if err := t.unreserve(&g, srv.Address); err != nil {
			return err
		}
	}
	t.stale(KindServerGroup, g.ID)
	return t.remove(&ServerGroup{}, "id = ?", g.ID)
}

// AddServer adds a target to a server group of the account. It gets flows once it
// is not known to be unhealthy.
//
// Errors: NotFound; Invalid with the field at fault if it can be no target; Limit.
func (s *Scope) AddServer(ctx context.Context, groupID string, in ServerInput) (*Server, error) {
	var srv *Server
	err := s.write(ctx, WriteProvide, func(t *tx) error {
		var g ServerGroup
		if err := first(t.DB, KindServerGroup, &g, "id = ? AND account_id = ?", groupID, s.account.ID); err != nil {
			return err
		}
		var err error
		if srv, err = t.addServer(&g, in); err != nil {
			return err
		}
		if err := t.serversChanged(&g); err != nil {
			return err
		}
		return t.audit("AddServer", KindServer, srv.ID, g.Name, nil, map[string]any{
			"server_group": g.ID, "attachment": srv.AttachmentID, "address": srv.Address, "port": srv.Port, "weight": srv.Weight, "zone": srv.ZoneID,
		})
	})
	if err != nil {
		return nil, err
	}
	return srv, nil
}

// serversChanged counts a change of a group's targets with every load balancer
// that sends to it.
func (t *tx) serversChanged(g *ServerGroup) error {
	t.stale(KindServerGroup, g.ID)
	if err := t.edit(KindServerGroup, g.ID, 0, map[string]any{}); err != nil {
		return err
	}
	var balancers []LoadBalancer
	err := t.Where("id IN (?)", t.Model(&Listener{}).Select("load_balancer_id").Where("server_group_id = ?", g.ID)).Find(&balancers).Error
	if err != nil {
		return fmt.Errorf("find load balancers: %w", err)
	}
	for i := range balancers {
		if err := t.balancerChanged(&balancers[i], 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// server reads a target of the account with its group.
func (t *tx) server(id string) (*Server, *ServerGroup, error) {
	var srv Server
	if err := first(t.DB, KindServer, &srv, "id = ? AND account_id = ?", id, t.account); err != nil {
		return nil, nil, err
	}
	var g ServerGroup
	return &srv, &g, first(t.DB, KindServerGroup, &g, "id = ?", srv.ServerGroupID)
}

// UpdateServer gives a target another weight, 0 to 100. With 0 it gets no new
// flows; those it has stay.
func (s *Scope) UpdateServer(ctx context.Context, id string, weight int) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		srv, g, err := t.server(id)
		if err != nil {
			return err
		}
		if weight < 0 || weight > 100 {
			return invalid("weight", "out_of_range", "A weight is 0 to 100; 0 gets no new flows.")
		}
		if err := t.Model(&Server{}).Where("id = ?", id).Update("weight", weight).Error; err != nil {
			return fmt.Errorf("update target: %w", err)
		}
		if err := t.serversChanged(g); err != nil {
			return err
		}
		return t.audit("UpdateServer", KindServer, id, g.Name, map[string]any{"weight": srv.Weight}, map[string]any{"weight": weight})
	})
}

// RemoveServer takes a target out of its group. Flows to it end.
func (s *Scope) RemoveServer(ctx context.Context, id string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		srv, g, err := t.server(id)
		if err != nil {
			return err
		}
		if err := errors.Join(t.remove(&Server{}, "id = ?", id), t.unreserve(g, srv.Address), t.serversChanged(g)); err != nil {
			return err
		}
		return t.audit("RemoveServer", KindServer, id, g.Name, map[string]any{
			"server_group": g.ID, "attachment": srv.AttachmentID, "address": srv.Address, "port": srv.Port,
		}, nil)
	})
}

// ZoneHealth counts the targets that flows of one zone can go to.
type ZoneHealth struct {
	ZoneID  string
	Healthy int // get new flows
	Down    int // are known to be unhealthy
	Total   int
}

// What a zone is to those who use it.
const (
	ZoneHealthy  = "healthy"
	ZoneDegraded = "degraded"
	ZoneFailed   = "down"
	ZoneUnknown  = "unknown"
)

// State is the zone in one word, which may be told to the other side.
func (h ZoneHealth) State() string {
	switch {
	case h.Total == h.Down:
		return ZoneFailed
	case h.Healthy == h.Total:
		return ZoneHealthy
	case h.Healthy > 0:
		return ZoneDegraded
	default:
		return ZoneUnknown
	}
}

// backends is what is behind some load balancers.
type backends struct {
	balancers map[string]LoadBalancer
	listeners map[string][]Listener // by load balancer, by port
	groups    map[string]ServerGroup
	servers   map[string][]Server // by group, by id
}

// readBackends reads what is behind load balancers: four queries, however many.
func readBackends(db *gorm.DB, balancers []string) (*backends, error) {
	b := &backends{balancers: map[string]LoadBalancer{}, listeners: map[string][]Listener{}, groups: map[string]ServerGroup{}, servers: map[string][]Server{}}
	var lbs []LoadBalancer
	if err := db.Where("id IN ?", balancers).Find(&lbs).Error; err != nil {
		return nil, fmt.Errorf("read load balancers: %w", err)
	}
	var listeners []Listener
	if err := db.Where("load_balancer_id IN ?", balancers).Order("port").Order("id").Find(&listeners).Error; err != nil {
		return nil, fmt.Errorf("read listeners: %w", err)
	}
	ids := each(listeners, func(l Listener) string { return l.ServerGroupID })
	var groups []ServerGroup
	if err := db.Where("id IN ?", ids).Find(&groups).Error; err != nil {
		return nil, fmt.Errorf("read server groups: %w", err)
	}
	var servers []Server
	if err := db.Where("server_group_id IN ?", ids).Order("id").Find(&servers).Error; err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	for _, lb := range lbs {
		b.balancers[lb.ID] = lb
	}
	for _, l := range listeners {
		b.listeners[l.LoadBalancerID] = append(b.listeners[l.LoadBalancerID], l)
	}
	for _, g := range groups {
		b.groups[g.ID] = g
	}
	for _, srv := range servers {
		b.servers[srv.ServerGroupID] = append(b.servers[srv.ServerGroupID], srv)
	}
	return b, nil
}

// everyZone asks backends.health for the targets of all zones.
const everyZone = ""

// health counts the targets that flows which came in by a zone can go to.
func (b *backends) health(balancer, zone string) ZoneHealth {
	h := ZoneHealth{ZoneID: zone}
	for _, g := range b.groupsOf(balancer) {
		for _, srv := range b.servers[g.ID] {
			if !b.balancers[balancer].CrossZone && !srv.serves(zone) {
				continue
			}
			h.Total++
			switch {
			case g.HealthEnabled && srv.Health == HealthUnhealthy:
				h.Down++
			case srv.Weight > 0 && (!g.HealthEnabled || srv.Health == HealthHealthy):
				h.Healthy++
			}
		}
	}
	return h
}

// serves reports whether flows that came in by a zone may go to the server while
// its load balancer keeps zones apart.
func (srv Server) serves(zone string) bool {
	return zone == everyZone || srv.ZoneID == "" || srv.ZoneID == zone
}

// groupsOf returns the server groups of a load balancer, each once.
func (b *backends) groupsOf(balancer string) []ServerGroup {
	var out []ServerGroup
	seen := map[string]bool{}
	for _, l := range b.listeners[balancer] {
		if !seen[l.ServerGroupID] {
			seen[l.ServerGroupID] = true
			out = append(out, b.groups[l.ServerGroupID])
		}
	}
	return out
}

// targets tells where servers are.
type targets struct {
	attachments map[string]Attachment
	offers      map[string]Offer
}

// readTargets reads where the servers of backends are.
func readTargets(db *gorm.DB, b *backends) (*targets, error) {
	ids := []string{} // not nil, which would be all
	for _, servers := range b.servers {
		for _, srv := range servers {
			if srv.AttachmentID != "" {
				ids = append(ids, srv.AttachmentID)
			}
		}
	}
	return attachmentTargets(db, ids)
}

// attachmentTargets reads attachments and, for host services, their offers.
func attachmentTargets(db *gorm.DB, attachments []string) (*targets, error) {
	as, err := rowsOf[Attachment](db, "id", attachments, "id")
	if err != nil {
		return nil, fmt.Errorf("read attachments: %w", err)
	}
	t := &targets{attachments: make(map[string]Attachment, len(as))}
	if t.offers, err = attachmentOffers(db, as); err != nil {
		return nil, err
	}
	for _, a := range as {
		t.attachments[a.ID] = a
	}
	return t, nil
}

// of returns the address and port of a server, and whether they are the host's.
func (t *targets) of(srv Server) (address string, host bool) {
	a, ok := t.attachments[srv.AttachmentID]
	switch {
	case !ok:
		return srv.Address, false
	case a.Kind == AttachHost:
		return t.offers[a.OfferID].HostIP, true
	default:
		return a.Address, false
	}
}

func (t *targets) detail(srv Server) ServerDetail {
	address, host := t.of(srv)
	d := ServerDetail{Server: srv, Name: t.attachments[srv.AttachmentID].Name, Host: host}
	d.Target = fmt.Sprintf("%s:%d", address, srv.Port)
	return d
}
