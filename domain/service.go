package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// ServiceStatus is a state of an endpoint service.
type ServiceStatus string

// The states of an endpoint service.
const (
	ServiceCreating ServiceStatus = "Creating"
	ServiceActive   ServiceStatus = "Active"
	ServicePending  ServiceStatus = "Pending"
	ServiceDeleting ServiceStatus = "Deleting"
)

// Service is an endpoint service: load balancers that accounts on its whitelist
// may ask to reach.
type Service struct {
	ID            string `gorm:"primaryKey"`
	AccountID     string
	RegionID      string
	Name          string // for people; consumers use ServiceName
	Description   string
	Status        ServiceStatus
	ResourceType  string // TypeNLB or TypeCLB: of all its load balancers
	AutoAccept    bool   // accept every whitelisted account without asking
	Bandwidth     int    // Mbit/s a connection gets by default; 0: as [BandwidthRule] says for the kind
	ZoneAffinity  bool
	Payer         string // PayerConsumer, PayerProvider
	PendingExpiry int    // hours after which a waiting request is rejected; 0: never
	Protected     bool   // cannot be deleted
	Demo          bool
	Version       int64
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Who pays for a connection, in the words of the API.
const (
	PayerConsumer = "Endpoint"
	PayerProvider = "EndpointService"
)

// serviceNamePrefix begins every service name.
const serviceNamePrefix = "com.aliyuncs.privatelink."

// ServiceName is what consumers paste: unique, and it tells the region.
func (s Service) ServiceName() string { return serviceNamePrefix + s.RegionID + "." + s.ID }

// ServiceResource attaches a load balancer to a service for one zone.
type ServiceResource struct {
	ServiceID      string `gorm:"primaryKey"`
	LoadBalancerID string `gorm:"primaryKey"`
	ZoneID         string `gorm:"primaryKey"`
	AccountID      string
	AutoAllocate   bool // given to new endpoint zones
}

// ServiceInput is what makes a service. An empty name is its first load balancer's.
type ServiceInput struct {
	Name            string
	Description     string
	LoadBalancerIDs []string // each in all its zones; up to 10
	RegionID        string   // needed only without load balancers
	ResourceType    string   // likewise; "" is TypeNLB
	Accounts        string   // to whitelist, as [Scope.AddToWhitelist] takes them
	AutoAccept      bool
	Bandwidth       int // Mbit/s a connection gets by default; 0: as for the kind of load balancers
	ZoneAffinity    bool
	Payer           string // "" is PayerConsumer
	PendingExpiry   int    // hours, up to a year; 0: never
}

// ServiceUpdate changes what is not nil.
type ServiceUpdate struct {
	Name          *string
	Description   *string
	AutoAccept    *bool // concerns later requests only
	Bandwidth     *int
	ZoneAffinity  *bool
	PendingExpiry *int
	Protected     *bool
	Version       int64 // that the form showed; 0 is not checked
}

// ResourceInput attaches a load balancer to a service.
type ResourceInput struct {
	LoadBalancerID string
	ZoneID         string // "" is all its zones that are not attached yet
	Manual         bool   // not given to new endpoint zones by itself
}

// ServiceSummary is a service in a list.
type ServiceSummary struct {
	Service
	Zones       []ZoneHealth
	Connected   int
	Waiting     int
	Whitelisted int
}

// ServiceDetail is a service with what is behind it.
type ServiceDetail struct {
	ServiceSummary
	Resources []ResourceDetail
	Listeners []string // of its load balancers, e.g. "TCP 443"
	Rule      BandwidthRule
}

// ResourceDetail is one load balancer of a service in one zone.
type ResourceDetail struct {
	ServiceResource
	LoadBalancerName string
	Address          string // of the load balancer in the zone: what its servers see
	Endpoints        int    // zones of endpoints that lead to it, of this service or others
	Replaced         int    // zones that led to it, and whose older flows it still has
	Health           ZoneHealth
}

const (
	maxPendingExpiry = 366 * 24 // hours
	maxNewResources  = 10       // load balancers in one call
)

// Services lists the services of the account by name. Filter: decision=waiting
// keeps those that somebody waits for.
func (s *Scope) Services(ctx context.Context, q Query) (Page[ServiceSummary], error) {
	db, err := s.read(ctx, ReadProvide)
	if err != nil {
		return Page[ServiceSummary]{}, err
	}
	list := matching(db.Where("account_id = ?", s.account.ID), q.Text)
	if slices.Contains(q.Filter["decision"], string(Waiting)) {
		list = list.Where("EXISTS (SELECT 1 FROM connections WHERE service_id = services.id AND decision = ?)", Waiting)
	}
	page, err := paginate(list, q, order{columns: []string{"name", "id"}}, func(svc Service) []any { return []any{svc.Name, svc.ID} })
	if err != nil || len(page.Items) == 0 {
		return Page[ServiceSummary]{}, err
	}
	sums, _, err := summarize(db, page.Items)
	if err != nil {
		return Page[ServiceSummary]{}, err
	}
	return mapPage(page, func(svc Service) ServiceSummary { return sums[svc.ID] }), nil
}

// fronts are the resources of some services with what is behind them.
type fronts struct {
	*backends
	resources []ServiceResource // by service, zone and load balancer
}

// readFronts reads the resources of services and what is behind them.
func readFronts(db *gorm.DB, services []string) (*fronts, error) {
	var f fronts
	if err := db.Where("service_id IN ?", services).Order("service_id, zone_id, load_balancer_id").Find(&f.resources).Error; err != nil {
		return nil, fmt.Errorf("read resources: %w", err)
	}
	ids := each(f.resources, func(r ServiceResource) string { return r.LoadBalancerID })
	slices.Sort(ids)
	var err error
	f.backends, err = readBackends(db, slices.Compact(ids))
	return &f, err
}

// zones returns the zones of a service, in order, with the targets behind each.
func (f *fronts) zones(service string) []ZoneHealth {
	var out []ZoneHealth
	for _, r := range f.resources {
		if r.ServiceID != service {
			continue
		}
		h := f.health(r.LoadBalancerID, r.ZoneID)
		if n := len(out); n > 0 && out[n-1].ZoneID == r.ZoneID {
			out[n-1].Healthy, out[n-1].Down, out[n-1].Total = out[n-1].Healthy+h.Healthy, out[n-1].Down+h.Down, out[n-1].Total+h.Total
			continue
		}
		out = append(out, h)
	}
	return out
}

// openings are what a service can be reached at, in order.
func (f *fronts) openings(service string) []Opening {
	var out []Opening
	for _, r := range f.resources {
		if r.ServiceID == service {
			out = append(out, each(f.listeners[r.LoadBalancerID], Listener.Opening)...)
		}
	}
	slices.SortFunc(out, func(a, b Opening) int {
		return cmp.Or(strings.Compare(a.Protocol, b.Protocol), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return slices.Compact(out)
}

// summarize returns the summaries of services by id.
func summarize(db *gorm.DB, services []Service) (map[string]ServiceSummary, *fronts, error) {
	ids := each(services, func(svc Service) string { return svc.ID })
	f, err := readFronts(db, ids)
	if err != nil {
		return nil, nil, err
	}
	whitelisted, err := countBy(db.Model(&ServiceUser{}), "service_id", ids)
	if err != nil {
		return nil, nil, err
	}
	var states []struct {
		ServiceID string
		Status    ConnectionStatus
		Decision  Decision
		N         int
	}
	err = db.Model(&Connection{}).Select("service_id, status, decision, COUNT(*) AS n").Where("service_id IN ?", ids).
		Group("service_id, status, decision").Scan(&states).Error
	if err != nil {
		return nil, nil, fmt.Errorf("count connections: %w", err)
	}
	sums := make(map[string]ServiceSummary, len(services))
	for _, svc := range services {
		sum := ServiceSummary{Service: svc, Zones: f.zones(svc.ID), Whitelisted: whitelisted[svc.ID]}
		for _, st := range states {
			switch {
			case st.ServiceID != svc.ID:
			case st.Status == Connected:
				sum.Connected += st.N
			case st.Decision == Waiting:
				sum.Waiting += st.N
			}
		}
		sums[svc.ID] = sum
	}
	return sums, f, nil
}

// Service returns one service of the account.
func (s *Scope) Service(ctx context.Context, id string) (*ServiceDetail, error) {
	db, err := s.read(ctx, ReadProvide)
	if err != nil {
		return nil, err
	}
	var svc Service
	if err := first(db, KindService, &svc, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
		return nil, err
	}
	sums, f, err := summarize(db, []Service{svc})
	if err != nil {
		return nil, err
	}
	d := &ServiceDetail{ServiceSummary: sums[id], Rule: bandwidthRule(sums[id].ResourceType, s.store.loose)}
	balancers := slices.Collect(maps.Keys(f.balancers))
	slices.SortFunc(balancers, func(a, b string) int {
		return cmp.Or(strings.Compare(f.balancers[a].Name, f.balancers[b].Name), strings.Compare(a, b))
	})
	var zones []LoadBalancerZone
	if err := db.Where("load_balancer_id IN ?", balancers).Find(&zones).Error; err != nil {
		return nil, fmt.Errorf("read addresses of load balancers: %w", err)
	}
	used, err := zoneUses(db, "load_balancer_id", balancers)
	if err != nil {
		return nil, err
	}
	replaced, err := zoneUses(db, "replaced_id", balancers)
	if err != nil {
		return nil, err
	}
	for _, r := range f.resources {
		rd := ResourceDetail{
			ServiceResource: r, LoadBalancerName: f.balancers[r.LoadBalancerID].Name, Endpoints: used[place{r.LoadBalancerID, r.ZoneID}],
			Replaced: replaced[place{r.LoadBalancerID, r.ZoneID}], Health: f.health(r.LoadBalancerID, r.ZoneID),
		}
		if i := slices.IndexFunc(zones, func(z LoadBalancerZone) bool { return z.LoadBalancerID == r.LoadBalancerID && z.ZoneID == r.ZoneID }); i >= 0 {
			rd.Address = zones[i].Address
		}
		d.Resources = append(d.Resources, rd)
	}
	for _, id := range balancers {
		for _, l := range f.listeners[id] {
			if label := l.Opening().String(); !slices.Contains(d.Listeners, label) {
				d.Listeners = append(d.Listeners, label)
			}
		}
	}
	return d, nil
}

// place is a load balancer in a zone.
type place struct{ balancer, zone string }

// zoneUses counts the zones of endpoints that have each place of load balancers in a
// column.
func zoneUses(db *gorm.DB, column string, balancers []string) (map[place]int, error) {
	var rows []struct {
		Balancer, ZoneID string
		N                int
	}
	err := db.Model(&EndpointZone{}).Select(column+" AS balancer, zone_id, COUNT(*) AS n").Where(column+" IN ? AND "+column+" <> ''", balancers).
		Group(column + ", zone_id").Scan(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("count zones of endpoints: %w", err)
	}
	uses := map[place]int{}
	for _, r := range rows {
		uses[place{r.Balancer, r.ZoneID}] = r.N
	}
	return uses, nil
}

// CreateService publishes load balancers. The account itself is on the whitelist
// from the beginning.
//
// Errors: Invalid with the fields at fault; Limit.
func (s *Scope) CreateService(ctx context.Context, in ServiceInput) (*Service, error) {
	var svc *Service
	err := s.write(ctx, WriteProvide, func(t *tx) (err error) {
		svc, err = t.addService(in, s.account.Demo)
		return err
	})
	if err != nil {
		return nil, err
	}
	return svc, nil
}

// addService makes an endpoint service of the transaction's account.
func (t *tx) addService(in ServiceInput, demo bool) (*Service, error) {
	if err := t.quotaOf(&Service{}, "services", "account_id", t.account); err != nil {
		return nil, err
	}
	svc := &Service{
		ID: newID(KindService), AccountID: t.account, RegionID: in.RegionID, Status: ServiceCreating, ResourceType: cmp.Or(in.ResourceType, TypeNLB),
		AutoAccept: in.AutoAccept, ZoneAffinity: in.ZoneAffinity, Payer: cmp.Or(in.Payer, PayerConsumer),
		Demo: demo, Version: 1, CreatedAt: t.now, UpdatedAt: t.now,
	}
	var faults [7]error
	if _, ok := traits[svc.ResourceType]; !ok {
		faults[6] = invalid("resource_type", "invalid_type", "The load balancers of a service are of type %s or %s.", TypeNLB, TypeCLB)
	}
	name := in.Name
	var balancers []LoadBalancer
	balancers, faults[0] = t.chosenBalancers(in.LoadBalancerIDs)
	if len(balancers) > 0 {
		svc.RegionID, svc.ResourceType = balancers[0].RegionID, balancers[0].Type
		name = cmp.Or(strings.TrimSpace(name), balancers[0].Name)
	} else if faults[0] == nil {
		faults[0] = at("region_id", first(t.DB, KindRegion, &Region{}, "id = ?", in.RegionID))
	}
	svc.Name, faults[1] = validNameOr(name, svc.ID)
	svc.Description, faults[2] = validDescription("description", in.Description)
	svc.Bandwidth, faults[3] = bandwidthRule(svc.ResourceType, t.loose).check("bandwidth", in.Bandwidth)
	svc.PendingExpiry, faults[4] = within("pending_expiry", in.PendingExpiry, 0, 1, maxPendingExpiry, "hours")
	if svc.Payer != PayerConsumer && svc.Payer != PayerProvider {
		faults[5] = invalid("payer", "invalid_payer", "The payer is %s or %s.", PayerConsumer, PayerProvider)
	}
	accounts, accountsErr := parseAccounts(in.Accounts)
	if err := errors.Join(append(faults[:], accountsErr)...); err != nil {
		return nil, err
	}
	if err := t.Create(svc).Error; err != nil {
		return nil, fmt.Errorf("create service: %w", err)
	}
	for _, lb := range balancers {
		if err := t.addResource(svc, ResourceInput{LoadBalancerID: lb.ID}); err != nil {
			return nil, err
		}
	}
	if _, err := t.whitelist(svc, append([]string{t.account}, accounts...), false); err != nil {
		return nil, err
	}
	if err := t.moveService(svc, ServiceReady); err != nil {
		return nil, err
	}
	return svc, t.audit("CreateService", KindService, svc.ID, svc.Name, nil, map[string]any{
		"load_balancers": in.LoadBalancerIDs, "accounts": accounts, "auto_accept": svc.AutoAccept, "region": svc.RegionID,
	})
}

// chosenBalancers reads the load balancers that a form names, all of one region.
func (t *tx) chosenBalancers(ids []string) ([]LoadBalancer, error) {
	if len(ids) > maxNewResources {
		return nil, invalid("load_balancer_ids", "too_many_load_balancers", "A service begins with at most %d load balancers. More can be added to it.", maxNewResources)
	}
	var out []LoadBalancer
	for _, id := range ids {
		lb, err := t.loadBalancer(id)
		if err != nil {
			return nil, at("load_balancer_ids", err)
		}
		if len(out) > 0 && lb.Type != out[0].Type {
			return nil, invalid("load_balancer_ids", "types_differ", "Load balancers %s and %s are of different types.", out[0].Name, lb.Name)
		}
		if len(out) > 0 && lb.RegionID != out[0].RegionID {
			return nil, invalid("load_balancer_ids", "regions_differ", "Load balancers %s and %s are in different regions.", out[0].Name, lb.Name)
		}
		if !slices.ContainsFunc(out, func(o LoadBalancer) bool { return o.ID == lb.ID }) {
			out = append(out, *lb)
		}
	}
	return out, nil
}

// service reads a service of the account and keeps consumers from binding to it
// until the commit.
func (t *tx) service(id string) (*Service, error) {
	var svc Service
	return &svc, first(t.Clauses(clause.Locking{Strength: "UPDATE"}), KindService, &svc, "id = ? AND account_id = ?", id, t.account)
}

// serviceChanged counts a change of a service and tells who shows it.
func (t *tx) serviceChanged(svc *Service, version int64, values map[string]any) error {
	if values == nil {
		values = map[string]any{}
	}
	values["updated_at"] = t.now
	if err := t.edit(KindService, svc.ID, version, values); err != nil {
		return err
	}
	t.touched(t.account, KindService, svc.ID)
	return nil
}

// UpdateService changes a service of the account.
//
// Errors: NotFound; Invalid with the fields at fault; Conflict if it changed since
// the form's version.
func (s *Scope) UpdateService(ctx context.Context, id string, in ServiceUpdate) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		svc, err := t.service(id)
		if err != nil {
			return err
		}
		before, after := map[string]any{}, map[string]any{}
		var faults []error
		set := func(column string, was, is any, err error) {
			faults = append(faults, err)
			before[column], after[column] = was, is
		}
		if in.Name != nil {
			name, err := validNameOr(*in.Name, id)
			set("name", svc.Name, name, err)
		}
		if in.Description != nil {
			description, err := validDescription("description", *in.Description)
			set("description", svc.Description, description, err)
		}
		if in.AutoAccept != nil {
			set("auto_accept", svc.AutoAccept, *in.AutoAccept, nil)
		}
		if in.Bandwidth != nil {
			mbits, err := bandwidthRule(svc.ResourceType, t.loose).check("bandwidth", *in.Bandwidth)
			set("bandwidth", svc.Bandwidth, mbits, err)
		}
		if in.ZoneAffinity != nil {
			set("zone_affinity", svc.ZoneAffinity, *in.ZoneAffinity, nil)
		}
		if in.PendingExpiry != nil {
			hours, err := within("pending_expiry", *in.PendingExpiry, 0, 1, maxPendingExpiry, "hours")
			set("pending_expiry", svc.PendingExpiry, hours, err)
		}
		if in.Protected != nil {
			set("protected", svc.Protected, *in.Protected, nil)
		}
		if err := errors.Join(faults...); err != nil {
			return err
		}
		if err := t.serviceChanged(svc, in.Version, maps.Clone(after)); err != nil {
			return err
		}
		if name, ok := after["name"]; ok {
			if err := t.Model(&ServiceUser{}).Where("service_id = ?", id).Update("service_label", name).Error; err != nil {
				return fmt.Errorf("rename service on whitelists: %w", err)
			}
		}
		return t.audit("UpdateService", KindService, id, svc.Name, before, after)
	})
}

// DeleteService withdraws a service. Its endpoints stay with their owners, as
// [ServiceDeleted].
//
// Errors: NotFound; Conflict if it is protected, or naming endpoints whose
// connections are not Disconnected.
func (s *Scope) DeleteService(ctx context.Context, id string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		svc, err := t.service(id)
		if err != nil {
			return err
		}
		if svc.Protected {
			return fail(Conflict, "service_protected", "%s is protected from deletion. Switch the protection off first.", svc.Name)
		}
		if err := t.moveService(svc, ServiceRemove); err != nil {
			return err
		}
		var connections []Connection
		if err := t.Where("service_id = ?", id).Order("endpoint_id").Find(&connections).Error; err != nil {
			return fmt.Errorf("list connections: %w", err)
		}
		if err := refuseConnected(svc, connections); err != nil {
			return err
		}
		for _, c := range connections {
			l, err := t.lockLink(KindConnection, "endpoint_id = ?", c.EndpointID)
			if err != nil {
				return err
			}
			if err := t.move(l, ServiceGone, nil, nil); err != nil {
				return err
			}
			if l.AccountID == t.account {
				continue
			}
			err = t.auditIn(l.AccountID, "ServiceDeleted", KindEndpoint, l.ID, l.Name, map[string]any{"status": c.Status}, map[string]any{"status": l.Connection.Status})
			if err != nil {
				return err
			}
		}
		err = errors.Join(
			t.remove(&ServiceResource{}, "service_id = ?", id),
			t.remove(&ServiceUser{}, "service_id = ?", id),
			t.remove(&Service{}, "id = ?", id))
		if err != nil {
			return err
		}
		return t.audit("DeleteService", KindService, id, svc.Name, map[string]any{"region": svc.RegionID, "connections": len(connections)}, nil)
	})
}

// refuseConnected names the connections that keep a service from being deleted.
func refuseConnected(svc *Service, connections []Connection) error {
	var named []string
	n := 0
	for _, c := range connections {
		if c.Status == Disconnected {
			continue
		}
		if n++; n <= maxNamedUses {
			named = append(named, fmt.Sprintf("%s of account %s (%s)", c.EndpointID, c.ConsumerID, c.Status))
		}
	}
	if n == 0 {
		return nil
	}
	if n > maxNamedUses {
		named = append(named, fmt.Sprintf("%d more", n-maxNamedUses))
	}
	return fail(Conflict, "service_connected", "%s still has connections: %s. Reject them first; it can be deleted once they are disconnected.", svc.Name, strings.Join(named, ", "))
}

// AddResource attaches a load balancer of the account to a service, in one zone or
// all that it is in and the service does not have it in yet.
//
// Errors: NotFound, also for the field load_balancer_id; Invalid; Limit.
func (s *Scope) AddResource(ctx context.Context, serviceID string, in ResourceInput) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		svc, err := t.service(serviceID)
		if err != nil {
			return err
		}
		if err := t.addResource(svc, in); err != nil {
			return err
		}
		if err := t.serviceChanged(svc, 0, nil); err != nil {
			return err
		}
		t.touched(t.account, KindLoadBalancer, in.LoadBalancerID)
		return t.audit("AddResource", KindService, svc.ID, svc.Name, nil, in)
	})
}

func (t *tx) addResource(svc *Service, in ResourceInput) error {
	lb, err := t.loadBalancer(in.LoadBalancerID)
	if err != nil {
		return at("load_balancer_id", err)
	}
	if lb.Type != svc.ResourceType {
		return invalid("load_balancer_id", "types_differ", "Load balancer %s is a %s, those of the service are of type %s.", lb.Name, traits[lb.Type].label, traits[svc.ResourceType].label)
	}
	if lb.RegionID != svc.RegionID {
		return invalid("load_balancer_id", "regions_differ", "Load balancer %s is in region %s, the service is in %s.", lb.Name, lb.RegionID, svc.RegionID)
	}
	var zones []string
	if err := t.Model(&LoadBalancerZone{}).Where("load_balancer_id = ?", lb.ID).Order("zone_id").Pluck("zone_id", &zones).Error; err != nil {
		return fmt.Errorf("list zones: %w", err)
	}
	if in.ZoneID != "" {
		if !slices.Contains(zones, in.ZoneID) {
			return invalid("zone_id", "balancer_not_in_zone", "Load balancer %s is not in zone %s, but in %s.", lb.Name, in.ZoneID, strings.Join(zones, ", "))
		}
		zones = []string{in.ZoneID}
	}
	var have []ServiceResource
	if err := t.Where("service_id = ?", svc.ID).Find(&have).Error; err != nil {
		return fmt.Errorf("list resources: %w", err)
	}
	var rows []ServiceResource
	for _, zone := range zones {
		if slices.ContainsFunc(have, func(r ServiceResource) bool { return r.LoadBalancerID == lb.ID && r.ZoneID == zone }) {
			continue
		}
		auto := !in.Manual
		if !auto && !slices.ContainsFunc(have, func(r ServiceResource) bool { return r.ZoneID == zone && r.AutoAllocate }) {
			return invalid("manual", "resource_auto_allocate", "The first load balancer in zone %s is the one that new endpoints get.", zone)
		}
		rows = append(rows, ServiceResource{ServiceID: svc.ID, LoadBalancerID: lb.ID, ZoneID: zone, AccountID: t.account, AutoAllocate: auto})
	}
	if len(rows) == 0 {
		return invalid("load_balancer_id", "resource_exists", "Load balancer %s is attached to the service in these zones already.", lb.Name)
	}
	if err := t.quota(t.account, "resources_per_service", int64(len(have)+len(rows)-1)); err != nil {
		return err
	}
	if err := t.Create(&rows).Error; err != nil {
		return fmt.Errorf("create resources: %w", err)
	}
	return nil
}

// RemoveResource detaches a load balancer from a service in one zone.
//
// Errors: NotFound; Conflict while zones of endpoints lead to it, or if only ones
// that are not given to new endpoints would be left in the zone.
func (s *Scope) RemoveResource(ctx context.Context, serviceID, balancerID, zoneID string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		svc, err := t.service(serviceID)
		if err != nil {
			return err
		}
		var r ServiceResource
		if err := first(t.DB, KindLoadBalancer, &r, "service_id = ? AND load_balancer_id = ? AND zone_id = ?", serviceID, balancerID, zoneID); err != nil {
			return err
		}
		for _, use := range []struct{ column, refusal string }{
			{"load_balancer_id", "Endpoints lead to this load balancer in zone %s: %s. Lead them to another one first."},
			{"replaced_id", "This load balancer still has older flows in zone %s, of %s. Close them first."},
		} {
			var bound []string
			err := zonesOn(t.DB, serviceID, zoneID, use.column, balancerID).Order("endpoint_id").Limit(maxNamedUses).Pluck("endpoint_id", &bound).Error
			if err != nil {
				return fmt.Errorf("find endpoints of resource: %w", err)
			}
			if len(bound) > 0 {
				return fail(Conflict, "resource_in_use", use.refusal, zoneID, strings.Join(bound, ", "))
			}
		}
		var rest []ServiceResource
		if err := t.Where("service_id = ? AND zone_id = ? AND load_balancer_id <> ?", serviceID, zoneID, balancerID).Find(&rest).Error; err != nil {
			return fmt.Errorf("list resources: %w", err)
		}
		if len(rest) > 0 && !slices.ContainsFunc(rest, func(r ServiceResource) bool { return r.AutoAllocate }) {
			return fail(Conflict, "resource_auto_allocate", "This is the load balancer that new endpoints in zone %s get. Detach the others first.", zoneID)
		}
		if err := t.remove(&ServiceResource{}, "service_id = ? AND load_balancer_id = ? AND zone_id = ?", serviceID, balancerID, zoneID); err != nil {
			return err
		}
		if err := t.serviceChanged(svc, 0, nil); err != nil {
			return err
		}
		t.touched(t.account, KindLoadBalancer, balancerID)
		return t.audit("RemoveResource", KindService, svc.ID, svc.Name, map[string]any{"load_balancer": balancerID, "zone": zoneID}, nil)
	})
}
