package reconcile

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// read turns what refs name into the part of the snapshot they are, and the ids of
// those that are gone by the snapshot's fields. Without refs it is the whole.
func read(ctx context.Context, src *domain.System, refs []domain.EngineRef) (set proxy.Snapshot, gone map[string][]string, err error) {
	want := map[string][]string{}
	for _, r := range refs {
		want[r.Kind] = append(want[r.Kind], r.ID)
	}
	gone = map[string][]string{}
	all := len(refs) == 0
	if set.Networks, err = part(ctx, src.EngineVPCs, all, want[domain.KindVPC], gone, "networks", network); err != nil {
		return set, nil, err
	}
	if set.LoadBalancers, err = part(ctx, src.EngineLoadBalancers, all, want[domain.KindLoadBalancer], gone, "loadBalancers", loadBalancer); err != nil {
		return set, nil, err
	}
	if set.ServerGroups, err = part(ctx, src.EngineServerGroups, all, want[domain.KindServerGroup], gone, "serverGroups", serverGroup); err != nil {
		return set, nil, err
	}
	if set.Groups, err = part(ctx, src.EngineGroups, all, want[domain.KindGroup], gone, "groups", securityGroup); err != nil {
		return set, nil, err
	}
	if set.Endpoints, err = part(ctx, src.EngineEndpoints, all, want[domain.KindEndpoint], gone, "endpoints", endpoint); err != nil {
		return set, nil, err
	}
	return set, gone, nil
}

// part reads one field of the snapshot. What was asked for and is not there is gone.
func part[D, P any](ctx context.Context, load func(context.Context, []string) ([]D, error), all bool, ids []string, gone map[string][]string, field string, turn func(D) (string, P, error)) (map[string]P, error) {
	if !all && len(ids) == 0 {
		return nil, nil
	}
	if all {
		ids = nil
	}
	rows, err := load(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]P, len(rows))
	for _, row := range rows {
		id, v, err := turn(row)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", field, id, err)
		}
		out[id] = v
	}
	for _, id := range ids {
		if _, ok := out[id]; !ok {
			gone[field] = append(gone[field], id)
		}
	}
	return out, nil
}

func network(v domain.EngineVPC) (string, vpc.Network, error) {
	r := reader{}
	n := vpc.Network{ID: v.ID, Number: v.Number, CIDRs: []netip.Prefix{r.prefix(v.CIDR)}, Attachments: map[string]vpc.Attachment{}}
	for _, w := range v.VSwitches {
		n.VSwitches = append(n.VSwitches, vpc.VSwitch{ID: w.ID, Zone: w.ZoneID, CIDR: r.prefix(w.CIDR)})
	}
	for _, a := range v.Addresses {
		n.Addresses = append(n.Addresses, r.addr(a))
	}
	for _, a := range v.Attachments {
		n.Attachments[a.ID] = r.attachment(a)
	}
	for _, to := range v.Routes {
		n.Routes = append(n.Routes, vpc.Route{To: r.prefix(to.Destination), Attachment: to.NextHopID})
	}
	return v.ID, n, r.err
}

// kinds of attachments in the domain and in the engine.
var kinds = map[string]vpc.Kind{
	domain.AttachManaged: vpc.Managed, domain.AttachAdopted: vpc.Adopted, domain.AttachInterface: vpc.Interface,
	domain.AttachHost: vpc.HostService, domain.AttachPort: vpc.PublishedPort,
}

func (r *reader) attachment(a domain.EngineAttachment) vpc.Attachment {
	out := vpc.Attachment{
		ID: a.ID, Kind: kinds[a.Kind], VSwitch: a.VSwitchID, Address: r.addr(a.Address),
		Path: a.Offer.Path, Inode: a.Offer.Inode, Name: a.Offer.Device, Index: a.Offer.DeviceNo,
	}
	switch out.Kind {
	case vpc.HostService, vpc.PublishedPort:
		out.Host = netip.AddrPortFrom(r.addr(a.Offer.HostIP), uint16(a.HostPort))
	}
	if out.Kind == vpc.PublishedPort {
		out.To = netip.AddrPortFrom(r.addr(a.TargetIP), uint16(a.Target))
	}
	if a.Command != "" {
		r.note(json.Unmarshal([]byte(a.Command), &out.Command))
	}
	return out
}

func loadBalancer(b domain.EngineLoadBalancer) (string, proxy.LoadBalancer, error) {
	r := reader{}
	out := proxy.LoadBalancer{ID: b.ID, Network: b.VPCID, CrossZone: b.CrossZone, CPS: b.CPS}
	for _, z := range b.Zones {
		lz := proxy.LBZone{Zone: z.ZoneID, Address: r.addr(z.Address)}
		for _, a := range z.Local {
			lz.Local = append(lz.Local, r.addr(a))
		}
		out.Zones = append(out.Zones, lz)
	}
	for _, l := range b.Listeners {
		out.Listeners = append(out.Listeners, proxy.Listener{
			ID: l.ID, Protocol: verdict.Protocol(l.Protocol), Port: uint16(l.Port), From: uint16(l.PortFrom), To: uint16(l.PortTo),
			ServerGroup: l.ServerGroupID, IdleTimeout: l.IdleTimeout, CPS: l.CPS, MaxConnections: l.MaxConnections, MSS: l.MSS,
			Proxy: proxy.ProxyProtocol{
				Enabled: l.Proxy.Enabled, Dialect: proxy.ProxyDialect(l.Proxy.Dialect), VPC: l.Proxy.VPC, Endpoint: l.Proxy.Endpoint, Service: l.Proxy.Service,
			},
		})
	}
	return b.ID, out, r.err
}

func serverGroup(g domain.EngineServerGroup) (string, proxy.ServerGroup, error) {
	r := reader{}
	out := proxy.ServerGroup{
		ID: g.ID, Scheduler: proxy.Scheduler(g.Scheduler), AnyPort: g.AnyPort, Drain: g.Drain, SlowStart: g.SlowStart,
		FailClosed: g.FailClosed, ResetOnUnhealthy: g.ResetOnUnhealthy,
		Health: proxy.HealthCheck{
			Enabled: g.HealthEnabled, Type: proxy.HealthType(g.HealthType), Port: uint16(g.HealthPort), Interval: g.HealthInterval, Timeout: g.HealthTimeout,
			HealthyThreshold: g.HealthyThreshold, UnhealthyThreshold: g.UnhealthyThreshold, Proxy: g.HealthProxy,
			HTTP: proxy.HTTPCheck{Method: g.HealthMethod, Path: g.HealthPath, Host: g.HealthHost, Version: g.HealthVersion},
			UDP:  proxy.UDPCheck{Request: g.HealthRequest, Expect: g.HealthExpect},
		},
	}
	if g.HealthCodes != "" {
		out.Health.HTTP.Codes = strings.Split(g.HealthCodes, ",")
	}
	for _, s := range g.Servers {
		at := netip.IPv4Unspecified() // of a DNS name
		if s.DNSName == "" {
			at = r.addr(s.Target)
		}
		out.Servers = append(out.Servers, proxy.Server{
			ID: s.ID, Zone: s.ZoneID, Address: netip.AddrPortFrom(at, uint16(s.Port)), Name: s.DNSName, Host: s.Host, Weight: s.Weight,
		})
	}
	return g.ID, out, r.err
}

func securityGroup(g domain.EngineGroup) (string, verdict.Group, error) {
	r := reader{}
	out := verdict.Group{ID: g.ID, IntraAllow: g.Type == "normal" && g.IntraPolicy == "accept"}
	for _, m := range g.Members {
		out.Members = append(out.Members, r.addr(m))
	}
	for _, rule := range g.Rules {
		out.Rules = append(out.Rules, verdict.Rule{
			ID: rule.ID, Priority: rule.Priority, Policy: verdict.Policy(rule.Policy), Protocol: verdict.Protocol(rule.Protocol),
			From: uint16(rule.PortFrom), To: uint16(rule.PortTo), Peer: r.prefix(rule.PeerCIDR), Group: rule.PeerGroupID,
		})
	}
	return g.ID, out, r.err
}

func endpoint(e domain.EngineEndpoint) (string, proxy.Endpoint, error) {
	r := reader{}
	out := proxy.Endpoint{
		ID: e.ID, Service: e.ServiceID, Network: e.VPCID, Carry: e.Carry, Groups: e.Groups, Recheck: e.Recheck, Version: e.Version,
		Bandwidth: e.Bandwidth, MaxConnections: e.MaxConnections,
	}
	if !e.Carry {
		out.DrainUntil = e.DrainUntil()
	}
	for _, z := range e.Zones {
		zone := proxy.EndpointZone{Zone: z.ZoneID, Address: r.addr(z.Address), Carry: z.Carries(), LoadBalancer: z.LoadBalancerID, Replaced: z.ReplacedID, Era: z.Era}
		if z.DrainUntil != nil {
			zone.DrainUntil = *z.DrainUntil
		}
		out.Zones = append(out.Zones, zone)
	}
	return e.ID, out, r.err
}

// reader parses what the domain has checked, and keeps the first fault.
type reader struct{ err error }

func (r *reader) note(err error) { r.err = cmp.Or(r.err, err) }

func (r *reader) addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	r.note(err)
	return a
}

func (r *reader) prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(s)
	r.note(err)
	return p
}

// report turns observations into what the domain writes down.
func report(o proxy.Observations) domain.Report {
	var out domain.Report
	for _, e := range o.Endpoints {
		zones := make(map[string]domain.ZoneReport, len(e.Zones))
		for _, z := range e.Zones {
			zones[z.Zone] = domain.ZoneReport{Carrying: z.Carrying, Error: z.Error}
		}
		out.Endpoints = append(out.Endpoints, domain.EndpointReport{ID: e.ID, Version: e.Version, Zones: zones})
	}
	for _, s := range o.Servers {
		out.Servers = append(out.Servers, domain.ServerReport{ID: s.ID, Health: string(s.Health), Reason: s.Reason, Since: s.Since})
	}
	for _, a := range o.Attachment {
		out.Attachments = append(out.Attachments, domain.ObjectReport{ID: a.ID, Up: a.Up, Error: a.Error})
	}
	for _, n := range o.Networks {
		out.VPCs = append(out.VPCs, domain.ObjectReport{ID: n.ID, Up: n.Up, Error: n.Error})
	}
	return out
}
