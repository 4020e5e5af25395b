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

// EndpointStatus is a state of an endpoint.
type EndpointStatus string

// The states of an endpoint.
const (
	EndpointCreating EndpointStatus = "Creating"
	EndpointActive   EndpointStatus = "Active"
	EndpointPending  EndpointStatus = "Pending"
	EndpointDeleting EndpointStatus = "Deleting"
)

// ZoneStatus is a state of one zone of an endpoint.
type ZoneStatus string

// The states of an endpoint's zone.
const (
	ZoneCreating      ZoneStatus = "Creating"
	ZoneWait          ZoneStatus = "Wait"
	ZoneConnecting    ZoneStatus = "Connecting"
	ZoneConnected     ZoneStatus = "Connected"
	ZoneDisconnecting ZoneStatus = "Disconnecting"
	ZoneDisconnected  ZoneStatus = "Disconnected"
	ZoneMigrating     ZoneStatus = "Migrating"
	ZoneMigrated      ZoneStatus = "Migrated"
	ZoneDeleting      ZoneStatus = "Deleting"
)

// Endpoint is a consumer's way to one service, for life.
type Endpoint struct {
	ID          string `gorm:"primaryKey"`
	AccountID   string
	RegionID    string
	VPCID       string
	ServiceID   string
	ProviderID  string // account of the service
	ServiceName string
	Name        string
	Description string
	Type        string // Interface
	Status      EndpointStatus
	Protected   bool
	Recheck     bool // a change of the rules resets live flows that they refuse; else those go on
	Demo        bool
	Version     int64
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// EndpointGroup puts an endpoint's network interfaces into a security group.
type EndpointGroup struct {
	EndpointID string `gorm:"primaryKey"`
	GroupID    string `gorm:"primaryKey"`
	AccountID  string
}

// EndpointZone is one network interface of an endpoint.
type EndpointZone struct {
	EndpointID     string `gorm:"primaryKey"`
	ZoneID         string `gorm:"primaryKey"`
	AccountID      string
	VSwitchID      string
	ENIID          string
	Address        string
	LoadBalancerID string // the resource of the same zone it leads to
	Manual         bool   // the service's owner chose it
	ReplacedID     string // the resource it led to before, which keeps its older flows; "" if there are none
	Era            int64  // of its flows: the engine cuts those of another one
	Status         ZoneStatus
	Rejected       bool       // the service's owner rejected this zone alone
	DrainUntil     *time.Time // it is revoked, and its live flows may go on until then
	EngineError    string     // why it does not come up, as last observed
}

// EndpointInput is what makes an endpoint. An empty name gets a generated one.
type EndpointInput struct {
	ServiceName string // service name or id
	VPCID       string // of the service's region
	Name        string
	Description string
	Message     string // to the service's owner
	Zones       []EndpointZoneInput
	GroupIDs    []string
	NewGroup    bool // make a group that lets the whole VPC reach the service's ports
}

// EndpointZoneInput places a network interface of an endpoint into a zone.
type EndpointZoneInput struct {
	ZoneID    string // "" is the vSwitch's
	VSwitchID string
	Address   string // "" chooses a free one
}

// EndpointUpdate changes what is not nil.
type EndpointUpdate struct {
	Name        *string
	Description *string
	GroupIDs    *[]string
	Recheck     *bool
	Protected   *bool
	Version     int64 // that the form showed; 0 is not checked
}

// EndpointConnection is a connection as the endpoint's owner sees it.
type EndpointConnection struct {
	Status          ConnectionStatus
	Decision        Decision
	Bandwidth       int        // Mbit/s in each direction; 0: no limit
	MaxConnections  int        // live flows; 0: no limit
	DrainUntil      *time.Time // as in [ConnectionSummary]
	RequestMessage  string
	RequestedBy     string
	DecisionMessage string
	DecidedAt       *time.Time
	ExpiresAt       *time.Time
	WaitingSince    time.Time
}

// EndpointSummary is an endpoint in a list.
type EndpointSummary struct {
	Endpoint
	Connection   EndpointConnection
	VPCName      string
	ProviderName string
	Zones        []EndpointZone // without the provider's load balancers
}

// EndpointDetail is an endpoint and what has to do with it.
type EndpointDetail struct {
	EndpointSummary
	VPC      VPC
	Groups   []SecurityGroup
	Openings []Opening         // of the service
	Health   map[string]string // by zone: the state of the service's targets there, see [ZoneHealth.State]
	Sources  []Attachment      // of the VPC, that a test can run in
	History  []AuditEvent      // newest first
	Counters Counters
	Offering *Offering // nil if the account is no longer on the whitelist
}

// TestInput says from where and how an endpoint is tried.
type TestInput struct {
	AttachmentID string // of the endpoint's VPC; "" is the first of [EndpointDetail.Sources]
	ZoneID       string // "" is the attachment's zone, or the first
	Port         int    // 0 is the service's first
	HTTP         bool   // ask for "/" once connected
}

// TestResult is what a workload saw of an endpoint.
type TestResult struct {
	ProbeResult
	Attachment Attachment
	ZoneID     string
	Address    netip.AddrPort
	Refused    *Flow // the engine's record, if it refused the test
}

// maxEndpointGroups bounds the security groups of an endpoint.
const maxEndpointGroups = 10

// CreateEndpoint asks for a connection to a service. If the service accepts the
// account by itself, the connection is [Connecting] when it returns; otherwise it
// waits for the provider.
//
// Errors: NotFound, for the field service_name, if the account may not use such a
// service; Invalid with the fields at fault; Limit.
func (s *Scope) CreateEndpoint(ctx context.Context, in EndpointInput) (*Endpoint, error) {
	var l *link
	err := s.write(ctx, WriteConsume, func(t *tx) error {
		svc, auto, err := usable(locked(t.DB), s.account.ID, in.ServiceName)
		if err != nil {
			return err
		}
		v, err := t.vpc(in.VPCID)
		if err != nil {
			return at("vpc_id", err)
		}
		if v.RegionID != svc.RegionID {
			return invalid("vpc_id", "region_differs", "The service is in region %s and VPC %s in %s. Choose a VPC of the service's region.", svc.RegionID, v.Name, v.RegionID)
		}
		if err := t.quotaOf(&Endpoint{}, "endpoints_per_vpc", "vpc_id", v.ID); err != nil {
			return err
		}
		l = &link{label: svc.Name, Endpoint: Endpoint{
			ID: newID(KindEndpoint), AccountID: s.account.ID, RegionID: svc.RegionID, VPCID: v.ID, ServiceID: svc.ID, ProviderID: svc.AccountID,
			ServiceName: svc.ServiceName(), Type: "Interface", Status: EndpointCreating, Demo: s.account.Demo, Version: 1, CreatedAt: t.now, UpdatedAt: t.now,
		}}
		var faults [4]error
		var message string
		var groups []string
		l.Name, faults[0] = validNameOr(in.Name, l.ID)
		l.Description, faults[1] = validDescription("description", in.Description)
		message, faults[2] = validMessage("message", in.Message)
		groups, faults[3] = t.endpointGroups(v, in.GroupIDs, in.NewGroup)
		if err := errors.Join(faults[:]...); err != nil {
			return err
		}
		usual, err := t.capacity(svc, "", 0, 0)
		if err != nil {
			return err
		}
		l.Connection = Connection{
			EndpointID: l.ID, ServiceID: svc.ID, ProviderID: svc.AccountID, ConsumerID: s.account.ID, Status: Disconnected, Decision: Waiting,
			Bandwidth: usual.Bandwidth, RequestMessage: message, RequestedBy: s.user.Name, WaitingSince: t.now, Rank: t.now.UnixMicro(),
			Version: 1, CreatedAt: t.now, UpdatedAt: t.now,
		}
		if err := errors.Join(t.Create(&l.Endpoint).Error, t.Create(&l.Connection).Error); err != nil {
			return fmt.Errorf("create endpoint: %w", err)
		}
		if err := t.addZones(l, v, in.Zones); err != nil {
			return err
		}
		if in.NewGroup {
			g, err := t.suggestedGroup(l, v)
			if err != nil {
				return err
			}
			groups = append(groups, g)
		}
		if err := t.setEndpointGroups(l, groups); err != nil {
			return err
		}
		t.stale(KindEndpoint, l.ID)
		t.linkTouched(l)
		facts := map[string]any{"service": l.ServiceName, "vpc": v.ID, "zones": l.facts().Zones, "groups": groups, "message": message}
		if err := t.audit("CreateEndpoint", KindEndpoint, l.ID, l.Name, nil, facts); err != nil {
			return err
		}
		if err := t.auditIn(l.ProviderID, "RequestConnection", KindConnection, l.ID, l.label, nil, map[string]any{"account": l.AccountID, "message": message}); err != nil {
			return err
		}
		if !auto {
			return nil
		}
		before := l.facts()
		if err := t.move(l, Accept, nil, map[string]any{"decision": Accepted, "decided_at": t.now, "rank": t.now.UnixMicro()}); err != nil {
			return err
		}
		return t.auditLink(l, "AutoAcceptConnection", before)
	})
	if err != nil {
		return nil, err
	}
	return &l.Endpoint, nil
}

// addZones gives an endpoint network interfaces, each led to a load balancer of the
// service in the same zone.
func (t *tx) addZones(l *link, v *VPC, in []EndpointZoneInput) error {
	if len(l.Zones)+len(in) > maxZones {
		return invalid("zones", "too_many_zones", "An endpoint is in at most %d zones.", maxZones)
	}
	var resources []ServiceResource
	if err := t.Where("service_id = ?", l.ServiceID).Order("zone_id, load_balancer_id").Find(&resources).Error; err != nil {
		return fmt.Errorf("read resources: %w", err)
	}
	var faults []error
	for i, z := range in {
		zone, err := t.addZone(l, v, z, resources)
		if err != nil {
			faults = append(faults, under(fmt.Sprintf("zones.%d", i), err))
			continue
		}
		l.Zones = append(l.Zones, zone)
	}
	return errors.Join(faults...)
}

func (t *tx) addZone(l *link, v *VPC, in EndpointZoneInput, resources []ServiceResource) (EndpointZone, error) {
	others := each(l.Zones, func(z EndpointZone) LoadBalancerZone { return LoadBalancerZone{ZoneID: z.ZoneID} })
	p, err := t.place(v, LBZoneInput{ZoneID: in.ZoneID, VSwitchID: in.VSwitchID, Address: in.Address}, others, KindEndpoint, l.ID)
	if err != nil {
		return EndpointZone{}, err
	}
	z := EndpointZone{EndpointID: l.ID, ZoneID: p.ZoneID, AccountID: l.AccountID, VSwitchID: p.VSwitchID, ENIID: newENI(), Address: p.Address, Status: ZoneCreating}
	if z.LoadBalancerID, err = allocate(z.ZoneID, resources); err != nil {
		return z, err
	}
	if err := t.Create(&z).Error; err != nil {
		return z, fmt.Errorf("create zone: %w", err)
	}
	return z, nil
}

// endpointGroups checks the security groups that an endpoint shall have: at least
// one, unless another one is made for it.
func (t *tx) endpointGroups(v *VPC, ids []string, another bool) ([]string, error) {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "" })
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 && !another {
		return nil, invalid("group_ids", "missing_group", "An endpoint has at least one security group. Without one nothing could reach it.")
	}
	if len(ids) > maxEndpointGroups {
		return nil, invalid("group_ids", "too_many_groups", "An endpoint has at most %d security groups.", maxEndpointGroups)
	}
	var groups []SecurityGroup
	if err := t.Where("id IN ? AND vpc_id = ? AND account_id = ?", ids, v.ID, t.account).Order("id").Find(&groups).Error; err != nil {
		return nil, fmt.Errorf("read security groups: %w", err)
	}
	if len(groups) < len(ids) {
		return nil, at("group_ids", missing(KindGroup))
	}
	for _, g := range groups {
		if g.Type != groups[0].Type {
			return nil, invalid("group_ids", "group_types", "Security groups %s and %s cannot be combined: one is %s, the other %s.", groups[0].Name, g.Name, groups[0].Type, g.Type)
		}
	}
	var rules int64
	if err := t.Model(&SecurityRule{}).Where("group_id IN ?", ids).Count(&rules).Error; err != nil {
		return nil, fmt.Errorf("count rules: %w", err)
	}
	if rules > maxInterfaceRules {
		return nil, invalid("group_ids", "too_many_rules", "The security groups of an endpoint have at most %d rules together. These have %d.", maxInterfaceRules, rules)
	}
	return ids, nil
}

// suggestedGroup makes a group that lets the whole VPC reach what the service
// listens at.
func (t *tx) suggestedGroup(l *link, v *VPC) (string, error) {
	f, err := readFronts(t.DB, []string{l.ServiceID})
	if err != nil {
		return "", err
	}
	in := GroupInput{VPCID: v.ID, Name: cut("to-"+l.label, 128), Description: "Who may reach endpoint " + l.Name}
	for _, o := range f.openings(l.ServiceID) {
		in.Rules = append(in.Rules, RuleInput{Direction: Ingress, Priority: 1, Policy: PolicyAccept, Protocol: o.Protocol, Ports: formatPorts(o.From, o.To), Peer: v.CIDR})
	}
	g, err := t.addGroup(in)
	if err != nil {
		return "", at("group_ids", err)
	}
	return g.ID, nil
}

// setEndpointGroups replaces the groups of an endpoint.
func (t *tx) setEndpointGroups(l *link, groups []string) error {
	var had []string
	if err := t.Model(&EndpointGroup{}).Where("endpoint_id = ?", l.ID).Pluck("group_id", &had).Error; err != nil {
		return fmt.Errorf("read groups of endpoint: %w", err)
	}
	if err := t.remove(&EndpointGroup{}, "endpoint_id = ?", l.ID); err != nil {
		return err
	}
	if rows := each(groups, func(id string) EndpointGroup {
		return EndpointGroup{EndpointID: l.ID, GroupID: id, AccountID: l.AccountID}
	}); len(rows) > 0 {
		if err := t.Create(&rows).Error; err != nil {
			return fmt.Errorf("set groups of endpoint: %w", err)
		}
	}
	for _, id := range append(had, groups...) {
		t.touched(l.AccountID, KindGroup, id)
	}
	return nil
}

// Endpoints lists the account's endpoints by name. Filter: vpc, service, status and
// decision of the connection. Text is a part of the name, an id, or a service's id or name.
func (s *Scope) Endpoints(ctx context.Context, q Query) (Page[EndpointSummary], error) {
	db, err := s.read(ctx, ReadConsume)
	if err != nil {
		return Page[EndpointSummary]{}, err
	}
	list := db.Where("account_id = ?", s.account.ID)
	if id := serviceID.FindString(q.Text); id != "" {
		list = list.Where("service_id = ?", id)
	} else {
		list = matching(list, q.Text)
	}
	list = oneOf(oneOf(list, "vpc_id", q.Filter["vpc"]), "service_id", q.Filter["service"])
	for column, values := range map[string][]string{"status": q.Filter["status"], "decision": q.Filter["decision"]} {
		if len(values) > 0 {
			list = list.Where("EXISTS (SELECT 1 FROM connections WHERE connections.endpoint_id = endpoints.id AND connections."+column+" IN ?)", values)
		}
	}
	page, err := paginate(list, q, order{columns: []string{"name", "id"}}, func(e Endpoint) []any { return []any{e.Name, e.ID} })
	if err != nil {
		return Page[EndpointSummary]{}, err
	}
	all, err := summarizeEndpoints(db, page.Items)
	if err != nil {
		return Page[EndpointSummary]{}, err
	}
	return mapPage(page, func(e Endpoint) EndpointSummary { return all[e.ID] }), nil
}

func summarizeEndpoints(db *gorm.DB, endpoints []Endpoint) (map[string]EndpointSummary, error) {
	ids := each(endpoints, func(e Endpoint) string { return e.ID })
	var connections []Connection
	if err := db.Where("endpoint_id IN ?", ids).Find(&connections).Error; err != nil {
		return nil, fmt.Errorf("read connections: %w", err)
	}
	var zones []EndpointZone
	if err := db.Where("endpoint_id IN ?", ids).Order("endpoint_id, zone_id").Find(&zones).Error; err != nil {
		return nil, fmt.Errorf("read zones of endpoints: %w", err)
	}
	vpcs, err := namesOf(db, KindVPC, each(endpoints, func(e Endpoint) string { return e.VPCID }))
	if err != nil {
		return nil, err
	}
	providers, err := accountNames(db, each(endpoints, func(e Endpoint) string { return e.ProviderID }))
	if err != nil {
		return nil, err
	}
	out := make(map[string]EndpointSummary, len(endpoints))
	for _, e := range endpoints {
		out[e.ID] = EndpointSummary{Endpoint: e, VPCName: vpcs[e.VPCID], ProviderName: providers[e.ProviderID]}
	}
	for _, c := range connections {
		sum := out[c.EndpointID]
		sum.Connection = EndpointConnection{
			Status: c.Status, Decision: c.Decision, Bandwidth: c.Bandwidth, MaxConnections: c.MaxConnections, RequestMessage: c.RequestMessage, RequestedBy: c.RequestedBy,
			DecisionMessage: c.DecisionMessage, DecidedAt: c.DecidedAt, ExpiresAt: c.ExpiresAt, WaitingSince: c.WaitingSince,
		}
		out[c.EndpointID] = sum
	}
	for _, z := range zones {
		z.LoadBalancerID, z.ReplacedID, z.Manual, z.Era = "", "", false, 0 // the provider's
		sum := out[z.EndpointID]
		sum.Zones = append(sum.Zones, z)
		sum.Connection.DrainUntil = drainUntil(sum.Zones)
		out[z.EndpointID] = sum
	}
	return out, nil
}

// Endpoint returns one endpoint of the account.
func (s *Scope) Endpoint(ctx context.Context, id string) (*EndpointDetail, error) {
	db, err := s.read(ctx, ReadConsume)
	if err != nil {
		return nil, err
	}
	var e Endpoint
	if err := first(db, KindEndpoint, &e, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
		return nil, err
	}
	all, err := summarizeEndpoints(db, []Endpoint{e})
	if err != nil {
		return nil, err
	}
	d := &EndpointDetail{EndpointSummary: all[id], Health: map[string]string{}, Counters: s.store.counters(id)}
	err1 := first(db, KindVPC, &d.VPC, "id = ?", e.VPCID)
	err2 := db.Where("id IN (?)", db.Model(&EndpointGroup{}).Select("group_id").Where("endpoint_id = ?", id)).Order("name, id").Find(&d.Groups).Error
	err3 := db.Where("vpc_id = ? AND kind IN ?", e.VPCID, []string{AttachManaged, AttachAdopted, AttachPort}).Order("name, id").Find(&d.Sources).Error
	err4 := db.Where("account_id = ? AND resource_id = ?", s.account.ID, id).Order("seq DESC").Limit(maxHistory).Find(&d.History).Error
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	f, err := readFronts(db, []string{e.ServiceID})
	if err != nil {
		return nil, err
	}
	d.Openings = f.openings(e.ServiceID)
	for _, h := range f.zones(e.ServiceID) {
		d.Health[h.ZoneID] = h.State()
	}
	d.Offering, err = s.FindService(ctx, e.ServiceID)
	if err != nil && KindOf(err) != NotFound {
		return nil, err
	}
	return d, nil
}

// counters returns what the engine counted, zero where there is none.
func (s *Store) counters(endpointID string) Counters {
	if s.plane == nil {
		return Counters{}
	}
	return s.plane.Counters(endpointID)
}

// onEndpoint runs a change of an endpoint with its link locked.
func (s *Scope) onEndpoint(ctx context.Context, id string, version int64, f func(*tx, *link) error) error {
	return s.write(ctx, WriteConsume, func(t *tx) error {
		l, err := t.lockLink(KindEndpoint, "endpoint_id = ? AND consumer_id = ?", id, s.account.ID)
		if err != nil {
			return err
		}
		if l.Status == EndpointDeleting {
			return fail(Conflict, "endpoint_status", "Endpoint %s is being deleted.", l.Name)
		}
		if err := t.edit(KindEndpoint, id, version, map[string]any{"updated_at": t.now}); err != nil {
			return err
		}
		return f(t, l)
	})
}

// refit tells the engine and everybody concerned that what an endpoint is made of
// has changed; it is [EndpointPending] until the engine has followed.
func (t *tx) refit(l *link) error {
	if err := t.moveEndpoint(l, EndpointModify); err != nil {
		return err
	}
	return t.revise(l, nil)
}

// UpdateEndpoint changes an endpoint. Live flows go on, also those that another
// choice of security groups would refuse, unless it shall recheck them.
//
// Errors: NotFound; Invalid with the fields at fault; Conflict if it changed since
// the form's version or is being deleted.
func (s *Scope) UpdateEndpoint(ctx context.Context, id string, in EndpointUpdate) error {
	return s.onEndpoint(ctx, id, in.Version, func(t *tx, l *link) error {
		values, before := map[string]any{}, map[string]any{}
		var faults [2]error
		if in.Name != nil {
			before["name"] = l.Name
			values["name"], faults[0] = validName("name", *in.Name)
		}
		if in.Description != nil {
			before["description"] = l.Description
			values["description"], faults[1] = validDescription("description", *in.Description)
		}
		if in.Protected != nil {
			before["protected"], values["protected"] = l.Protected, *in.Protected
		}
		if in.Recheck != nil {
			before["recheck"], values["recheck"] = l.Recheck, *in.Recheck
		}
		if err := errors.Join(faults[:]...); err != nil {
			return err
		}
		if len(values) > 0 {
			if err := t.Model(&Endpoint{}).Where("id = ?", id).Updates(values).Error; err != nil {
				return fmt.Errorf("update endpoint: %w", err)
			}
		}
		if in.GroupIDs != nil {
			v, err := t.vpc(l.VPCID)
			if err != nil {
				return err
			}
			groups, err := t.endpointGroups(v, *in.GroupIDs, false)
			if err != nil {
				return err
			}
			if err := t.setEndpointGroups(l, groups); err != nil {
				return err
			}
			values["groups"] = groups
		}
		if in.GroupIDs != nil || in.Recheck != nil {
			if err := t.refit(l); err != nil {
				return err
			}
		}
		t.linkTouched(l)
		return t.audit("UpdateEndpoint", KindEndpoint, id, l.Name, before, values)
	})
}

// AddEndpointZone gives an endpoint a network interface in one more zone. If its
// connection carries, the zone comes up by itself.
//
// Errors: NotFound; Invalid with the fields at fault; Conflict as for UpdateEndpoint.
func (s *Scope) AddEndpointZone(ctx context.Context, id string, in EndpointZoneInput, version int64) error {
	return s.onEndpoint(ctx, id, version, func(t *tx, l *link) error {
		v, err := t.vpc(l.VPCID)
		if err != nil {
			return err
		}
		if l.Connection.Status == ServiceDeleted {
			return fail(Conflict, "service_deleted", "The service of this endpoint has been deleted.")
		}
		// What the service has in the zone stays until the commit.
		if err := first(locked(t.DB), KindService, &Service{}, "id = ?", l.ServiceID); err != nil {
			return err
		}
		before := l.facts()
		if err := t.addZones(l, v, []EndpointZoneInput{in}); err != nil {
			return unwrapZone(err)
		}
		if err := t.refit(l); err != nil {
			return err
		}
		if l.Connection.carries() {
			if err := t.moveZones(l, ZoneAllow, nil, l.Zones[len(l.Zones)-1].ZoneID); err != nil {
				return err
			}
		}
		return t.auditLink(l, "AddEndpointZone", before)
	})
}

// unwrapZone takes the number of the only zone out of the names of fields.
func unwrapZone(err error) error {
	for _, f := range Fields(err) {
		f.Field = strings.TrimPrefix(f.Field, "zones.0.")
	}
	return err
}

// RemoveInput says what becomes of live flows.
type RemoveInput struct {
	Drain   int   // seconds that they may go on, to 900; 0: they are cut at once
	Version int64 // that the form showed; 0 is not checked
}

// RemoveEndpointZone takes an endpoint out of a zone. New flows are refused from now
// on, and live ones are reset at once, or at the end of in.Drain; its address is
// free once the engine has let go.
//
// Errors: NotFound; Invalid; Conflict as for UpdateEndpoint.
func (s *Scope) RemoveEndpointZone(ctx context.Context, id, zoneID string, in RemoveInput) error {
	if err := validDrain("drain", in.Drain); err != nil {
		return err
	}
	return s.onEndpoint(ctx, id, in.Version, func(t *tx, l *link) error {
		if !slices.ContainsFunc(l.Zones, func(z EndpointZone) bool { return z.ZoneID == zoneID && z.Status != ZoneDeleting }) {
			return fail(NotFound, "endpoint_zone_not_found", "The endpoint is not in zone %s.", zoneID)
		}
		before := l.facts()
		if err := t.moveZones(l, ZoneRemove, t.after(in.Drain), zoneID); err != nil {
			return err
		}
		if err := t.refit(l); err != nil {
			return err
		}
		return t.auditLink(l, "RemoveEndpointZone", before)
	})
}

// DeleteEndpoint deletes an endpoint with its zones. Live flows are reset at once,
// or at the end of in.Drain; it is [EndpointDeleting] until the engine has let go of
// it, and then gone.
//
// Errors: NotFound; Invalid; Conflict if it is protected, changed since in.Version
// or is being deleted already.
func (s *Scope) DeleteEndpoint(ctx context.Context, id string, in RemoveInput) error {
	if err := validDrain("drain", in.Drain); err != nil {
		return err
	}
	return s.onEndpoint(ctx, id, in.Version, func(t *tx, l *link) error {
		if l.Protected {
			return fail(Conflict, "endpoint_protected", "Endpoint %s is protected. Take its protection away first.", l.Name)
		}
		before := l.facts()
		if err := t.moveEndpoint(l, EndpointRemove); err != nil {
			return err
		}
		if err := t.move(l, Remove, t.after(in.Drain), nil); err != nil {
			return err
		}
		return t.auditLink(l, "DeleteEndpoint", before)
	})
}

// TestEndpoint connects to an endpoint from inside an attachment of its VPC.
//
// Errors: NotFound; Invalid, with the field, for an attachment, zone or port that
// the endpoint does not have. What the attachment saw, also a refusal, is no error.
func (s *Scope) TestEndpoint(ctx context.Context, id string, in TestInput) (*TestResult, error) {
	if err := s.may(WriteConsume); err != nil {
		return nil, err
	}
	d, err := s.Endpoint(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &TestResult{}
	if r.Attachment, err = d.source(in.AttachmentID); err != nil {
		return nil, err
	}
	zone, err := s.testZone(ctx, d, r.Attachment, in.ZoneID)
	if err != nil {
		return nil, err
	}
	port := in.Port
	if i := slices.IndexFunc(d.Openings, func(o Opening) bool { return o.Protocol == ProtocolTCP }); port == 0 && i >= 0 {
		port = d.Openings[i].From
	}
	if !slices.ContainsFunc(d.Openings, func(o Opening) bool { return o.has(ProtocolTCP, port) }) {
		return nil, invalid("port", "port_not_found", "The service does not listen at TCP port %d.", port)
	}
	r.ZoneID, r.Address = zone.ZoneID, netip.AddrPortFrom(netip.MustParseAddr(zone.Address), uint16(port))
	err = s.write(ctx, WriteConsume, func(t *tx) error {
		return t.audit("TestEndpoint", KindEndpoint, id, d.Name, nil, map[string]any{"attachment": r.Attachment.ID, "address": r.Address.String()})
	})
	if err != nil {
		return nil, err
	}
	if s.store.plane == nil {
		return nil, fail(Conflict, "no_data_plane", "The data plane is not there.")
	}
	begun := s.store.now()
	if r.ProbeResult, err = s.store.plane.Probe(ctx, r.Attachment.ID, r.Address, in.HTTP); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if !r.OK {
		flows, err := s.EndpointFlows(ctx, id, FlowQuery{Limit: maxHistory, Action: "reject"})
		if err != nil {
			return nil, err
		}
		from, _ := netip.ParseAddr(r.Attachment.Address)
		if i := slices.IndexFunc(flows.Items, func(f Flow) bool {
			return !f.Accepted && f.Source.Addr() == from && f.Address == r.Address && !f.Start.Before(begun.Add(-time.Second))
		}); i >= 0 {
			r.Refused = &flows.Items[i]
		}
	}
	return r, nil
}

func (d *EndpointDetail) source(id string) (Attachment, error) {
	if id == "" && len(d.Sources) > 0 {
		return d.Sources[0], nil
	}
	i := slices.IndexFunc(d.Sources, func(a Attachment) bool { return a.ID == id })
	if i < 0 {
		return Attachment{}, invalid("attachment_id", "attachment_not_found", "There is no such attachment to test from in VPC %s.", d.VPC.Name)
	}
	return d.Sources[i], nil
}

// testZone chooses the zone that is tried: the one that is named, that of the
// attachment, or the first.
func (s *Scope) testZone(ctx context.Context, d *EndpointDetail, from Attachment, named string) (EndpointZone, error) {
	if len(d.Zones) == 0 {
		return EndpointZone{}, fail(Conflict, "no_zones", "The endpoint is in no zone, so it has no address to try.")
	}
	want := named
	if want == "" {
		err := s.store.handle(ctx).Model(&VSwitch{}).Where("id = ?", from.VSwitchID).Limit(1).Pluck("zone_id", &want).Error
		if err != nil {
			return EndpointZone{}, fmt.Errorf("read zone of attachment: %w", err)
		}
	}
	if i := slices.IndexFunc(d.Zones, func(z EndpointZone) bool { return z.ZoneID == want }); i >= 0 {
		return d.Zones[i], nil
	}
	if named != "" {
		return EndpointZone{}, invalid("zone_id", "endpoint_zone_not_found", "The endpoint is not in zone %s.", named)
	}
	return d.Zones[0], nil
}
