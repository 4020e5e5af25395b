package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// Server is a target of a group.
type Server struct {
	ID            string `gorm:"primaryKey"`
	AccountID     string
	ServerGroupID string
	AttachmentID  string // a workload of the VPC or a host service; or
	Address       string // an address of the VPC; or
	DNSName       string // a name that the engine resolves, again and again
	Port          int    // 0 in a group with AnyPort
	Weight        int    // 0 to 100; 0 gets no new flows
	ZoneID        string // "" for a host service or a name that serves every zone

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

// ServerInput is a new target: an attachment, an address of the VPC or a DNS name.
type ServerInput struct {
	AttachmentID string
	Address      string
	DNSName      string
	Port         int    // 0 is the host service's own; it is 0 in a group with AnyPort
	Weight       *int   // 0 to 100; nil is 100
	ZoneID       string // for a host service or a name only; "" lets it serve every zone
}

// ServerDetail is a target as people know it.
type ServerDetail struct {
	Server
	Name   string // of the attachment; "" for an address or a DNS name
	Target string // address or DNS name, and port: in the VPC or, for a host service, on the host
	Host   bool   // a host service
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
	var targetErr, weightErr error
	if srv.Weight = 100; in.Weight != nil {
		srv.Weight = *in.Weight
		weightErr = validWeight(srv.Weight)
	}
	switch {
	case in.AttachmentID != "":
		srv.AttachmentID = in.AttachmentID
		targetErr = t.targetAttachment(g, &srv)
	case strings.TrimSpace(in.DNSName) != "":
		targetErr = t.targetName(g, &srv, in.DNSName)
	default:
		srv.Address = strings.TrimSpace(in.Address)
		targetErr = t.targetAddress(g, &srv)
	}
	if err := errors.Join(targetErr, g.validPort(srv.Port), weightErr); err != nil {
		return nil, err
	}
	var n int64
	err := t.Model(&Server{}).Where("server_group_id = ? AND attachment_id = ? AND address = ? AND dns_name = ? AND port = ?",
		g.ID, srv.AttachmentID, srv.Address, srv.DNSName, srv.Port).Count(&n).Error
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

func validWeight(weight int) error {
	if weight < 0 || weight > 100 {
		return invalid("weight", "out_of_range", "A weight is 0 to 100; 0 gets no new flows.")
	}
	return nil
}

// validPort checks the port of a target.
func (g *ServerGroup) validPort(port int) error {
	switch {
	case g.AnyPort && port != 0:
		return invalid("port", "any_port", "Targets of this server group get the port that the client used. Leave the port empty.")
	case !g.AnyPort && (port < 1 || port > 65535):
		return invalid("port", "invalid_port", "A port is a number from 1 to 65535.")
	}
	return nil
}

// targetAttachment checks a target that is an attachment, and completes its zone
// and port.
func (t *tx) targetAttachment(g *ServerGroup, srv *Server) error {
	var a Attachment
	if err := first(t.DB, KindAttachment, &a, "id = ? AND account_id = ? AND vpc_id = ?", srv.AttachmentID, g.AccountID, g.VPCID); err != nil {
		return at("attachment_id", err)
	}
	switch a.Kind {
	case AttachHost: // nothing of the host is reached but the port that was offered
		if g.AnyPort {
			return invalid("attachment_id", "host_any_port", "Host service %s is port %d of the host, and targets of this server group get every port.", a.Name, a.HostPort)
		}
		if srv.Port == 0 {
			srv.Port = a.HostPort
		}
		if srv.Port != a.HostPort {
			return invalid("port", "host_port", "Host service %s is port %d of the host.", a.Name, a.HostPort)
		}
		if g.HealthPort != 0 && g.HealthPort != a.HostPort {
			return invalid("attachment_id", "host_check_port", "Host service %s is port %d of the host, and targets of this server group are checked at port %d.", a.Name, a.HostPort, g.HealthPort)
		}
		return t.anyZone(g, srv)
	case AttachPort:
		return invalid("attachment_id", "target_published_port", "%s lets clients into the VPC. Nothing listens there for a load balancer.", a.Name)
	}
	var vs VSwitch
	if err := first(t.DB, KindVSwitch, &vs, "id = ?", a.VSwitchID); err != nil {
		return err
	}
	return srv.in(vs)
}

// anyZone checks the zone of a target that is outside of the VPC's zones, so that
// every one of them reaches it alike.
func (t *tx) anyZone(g *ServerGroup, srv *Server) error {
	if srv.ZoneID == "" {
		return nil
	}
	var n int64
	err := t.Model(&VSwitch{}).Where("vpc_id = ? AND zone_id = ?", g.VPCID, srv.ZoneID).Count(&n).Error
	if err == nil && n == 0 {
		err = invalid("zone_id", "zone_without_vswitch", "The VPC is not in zone %s.", srv.ZoneID)
	}
	return err
}

// dnsName is a name of labels of letters, digits and dashes, of which the last one
// is no number: 10.0.1.20 is an address.
var dnsName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// targetName checks a target that is a DNS name.
func (t *tx) targetName(g *ServerGroup, srv *Server, name string) error {
	srv.DNSName = strings.TrimSuffix(strings.ToLower(strings.TrimSpace(name)), ".")
	if len(srv.DNSName) > 253 || !dnsName.MatchString(srv.DNSName) {
		return invalid("dns_name", "invalid_dns_name", "This is not a DNS name such as db.example.internal.")
	}
	return t.anyZone(g, srv)
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

// is not known to be unhealthy.
//
// Errors: NotFound; Invalid with the field at fault if it can be no target; Limit.
func (s *Scope) AddServer(ctx context.Context, groupID string, in ServerInput) (*Server, error) {
	var srv *Server
	err := s.write(ctx, WriteProvide, func(t *tx) error {
		g, err := t.serverGroup(groupID)
		if err != nil {
			return err
		}
		if srv, err = t.addServer(g, in); err != nil {
			return err
		}
		if err := t.serversChanged(g, 0, nil); err != nil {
			return err
		}
		return t.audit("AddServer", KindServer, srv.ID, g.Name, nil, map[string]any{
			"server_group": g.ID, "attachment": srv.AttachmentID, "address": srv.Address, "name": srv.DNSName, "port": srv.Port, "weight": srv.Weight, "zone": srv.ZoneID,
		})
	})
	if err != nil {
		return nil, err
	}
	return srv, nil
}

// server reads a target of the account with its group.
func (t *tx) server(id string) (*Server, *ServerGroup, error) {
	var srv Server
	if err := first(t.DB, KindServer, &srv, "id = ? AND account_id = ?", id, t.account); err != nil {
		return nil, nil, err
	}
	g, err := t.serverGroup(srv.ServerGroupID)
	return &srv, g, err
}

// UpdateServer gives a target another weight, 0 to 100. With 0 it gets no new
// flows; those it has stay.
func (s *Scope) UpdateServer(ctx context.Context, id string, weight int) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		srv, g, err := t.server(id)
		if err != nil {
			return err
		}
		if err := validWeight(weight); err != nil {
			return err
		}
		if err := t.Model(&Server{}).Where("id = ?", id).Update("weight", weight).Error; err != nil {
			return fmt.Errorf("update target: %w", err)
		}
		if err := t.serversChanged(g, 0, nil); err != nil {
			return err
		}
		return t.audit("UpdateServer", KindServer, id, g.Name, map[string]any{"weight": srv.Weight}, map[string]any{"weight": weight})
	})
}

// RemoveServer takes a target out of its group. Flows to it end, or go on for as long
// as the group drains.
func (s *Scope) RemoveServer(ctx context.Context, id string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		srv, g, err := t.server(id)
		if err != nil {
			return err
		}
		if err := errors.Join(t.remove(&Server{}, "id = ?", id), t.unreserve(g, srv.Address), t.serversChanged(g, 0, nil)); err != nil {
			return err
		}
		return t.audit("RemoveServer", KindServer, id, g.Name, map[string]any{
			"server_group": g.ID, "attachment": srv.AttachmentID, "address": srv.Address, "name": srv.DNSName, "port": srv.Port,
		}, nil)
	})
}

// targets tells where servers are.
type targets struct {
	attachments map[string]Attachment
	offers      map[string]Offer
}

// readTargets reads the attachments of servers and, for host services, their offers.
func readTargets(db *gorm.DB, servers []Server) (*targets, error) {
	ids := []string{} // not nil, which would be all
	for _, srv := range servers {
		if srv.AttachmentID != "" {
			ids = append(ids, srv.AttachmentID)
		}
	}
	as, err := rowsOf[Attachment](db, "id", ids, "id")
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
	case !ok: // "" for a DNS name
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
	if d.Target = cmp.Or(address, srv.DNSName); srv.Port != 0 {
		d.Target = fmt.Sprintf("%s:%d", d.Target, srv.Port)
	}
	return d
}

// details are servers as people know them, by zone and address.
func (t *targets) details(servers []Server) []ServerDetail {
	out := each(servers, t.detail)
	slices.SortFunc(out, func(a, b ServerDetail) int {
		return cmp.Or(strings.Compare(a.ZoneID, b.ZoneID), strings.Compare(a.Target, b.Target), strings.Compare(a.ID, b.ID))
	})
	return out
}
