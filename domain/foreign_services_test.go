package domain_test

import (
	"context"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// shows is refuses for a call whose answer is looked at, where there is one.
func shows(needs domain.Permission, call func(ctx context.Context, s *domain.Scope, f *fixture) (any, error)) trial {
	return trial{needs: needs, call: call}
}

func init() {
	first := domain.Query{Limit: 10}
	filter := func(key string, values ...string) domain.Query {
		return domain.Query{Limit: 10, Filter: map[string][]string{key: values}}
	}
	connections := func(q domain.Query) trial {
		return lists(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.Connections(ctx, domain.ConnQuery{Query: q})
		}, "endpoint")
	}
	endpoints := func(q domain.Query) trial {
		return lists(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Endpoints(ctx, q) }, "endpoint")
	}
	// endpoint asks for a connection to the stranger's own service, but for what change spoils.
	endpoint := func(change func(f *fixture, in *domain.EndpointInput)) trial {
		return refuses(domain.WriteConsume, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			v := ownVPC(ctx, s)
			in := domain.EndpointInput{ServiceName: f.strangers, VPCID: v.ID, NewGroup: true}
			change(f, &in)
			_, err := s.CreateEndpoint(ctx, in)
			return err
		})
	}
	register(func(t *testing.T, f *fixture) {
		t.Helper()
		ctx, p := t.Context(), f.Provider
		lb := must(p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
			Name: "provider-nlb", VPCID: f.id["VPC"], Zones: []domain.LBZoneInput{{VSwitchID: f.id["vSwitch"]}},
			Listeners: []domain.ListenerInput{{Port: 443, Servers: []domain.ServerInput{{AttachmentID: f.id["attachment"], Port: 443}}}},
		}))(t)
		d := must(p.LoadBalancer(ctx, lb.ID))(t)
		f.id["load balancer"], f.id["listener"], f.id["server group"] = lb.ID, d.Listeners[0].ID, d.Listeners[0].Group.ID
		f.id["server"] = d.Listeners[0].Servers[0].ID
		svc := must(p.CreateService(ctx, domain.ServiceInput{Name: "provider-api", LoadBalancerIDs: []string{lb.ID}}))(t)
		f.id["service"], f.id["service name"] = svc.ID, svc.ServiceName()
		ep := must(p.CreateEndpoint(ctx, domain.EndpointInput{
			ServiceName: svc.ID, VPCID: f.id["VPC"], Name: "provider-endpoint", Message: "Please.",
			Zones: []domain.EndpointZoneInput{{VSwitchID: f.id["vSwitch"]}}, GroupIDs: []string{f.id["group"]},
		}))(t)
		f.id["endpoint"] = ep.ID
		f.strangers = must(f.Stranger.CreateService(ctx, domain.ServiceInput{RegionID: domaintest.Region}))(t).ID
		v := ownVPC(ctx, f.Stranger)
		theirs := must(f.Stranger.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
			VPCID: v.ID, Zones: []domain.LBZoneInput{{VSwitchID: v.VSwitches[0].ID}}, Listeners: []domain.ListenerInput{{Port: 443}},
		}))(t)
		f.listener = must(f.Stranger.LoadBalancer(ctx, theirs.ID))(t).Listeners[0].ID
	}, map[string]trial{
		"LoadBalancers": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.LoadBalancers(ctx, first)
		}, "load balancer"),
		"LoadBalancers/vpc": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.LoadBalancers(ctx, filter("vpc", f.id["VPC"]))
		}, "load balancer"),
		"LoadBalancer": shows(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.LoadBalancer(ctx, f.id["load balancer"])
		}),
		"CreateLoadBalancer": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateLoadBalancer(ctx, domain.LoadBalancerInput{VPCID: f.id["VPC"]})
			return err
		}),
		"CreateLoadBalancer/vswitch": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateLoadBalancer(ctx, domain.LoadBalancerInput{VPCID: ownVPC(ctx, s).ID, Zones: []domain.LBZoneInput{{VSwitchID: f.id["vSwitch"]}}})
			return err
		}),
		"CreateLoadBalancer/group": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			v := ownVPC(ctx, s)
			_, err := s.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
				VPCID: v.ID, Zones: []domain.LBZoneInput{{VSwitchID: v.VSwitches[0].ID}}, Listeners: []domain.ListenerInput{{Port: 443, ServerGroupID: f.id["server group"]}},
			})
			return err
		}),
		"CreateLoadBalancer/target": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			v := ownVPC(ctx, s)
			_, err := s.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
				VPCID: v.ID, Zones: []domain.LBZoneInput{{VSwitchID: v.VSwitches[0].ID}},
				Listeners: []domain.ListenerInput{{Port: 443, Servers: []domain.ServerInput{{AttachmentID: f.id["attachment"], Port: 443}}}},
			})
			return err
		}),
		"UpdateLoadBalancer": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateLoadBalancer(ctx, f.id["load balancer"], domain.LoadBalancerUpdate{CrossZone: new(true)})
		}),
		"DeleteLoadBalancer": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteLoadBalancer(ctx, f.id["load balancer"])
		}),
		"AddListener": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.AddListener(ctx, f.id["load balancer"], domain.ListenerInput{Port: 80})
			return err
		}),
		"UpdateListener": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateListener(ctx, f.id["listener"], domain.ListenerUpdate{Port: new(80)})
		}),
		"UpdateListener/group": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateListener(ctx, f.listener, domain.ListenerUpdate{ServerGroupID: new(f.id["server group"])})
		}),
		"DeleteListener": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteListener(ctx, f.id["listener"])
		}),
		"AddServer": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.AddServer(ctx, f.id["server group"], domain.ServerInput{Address: "10.0.1.77", Port: 80})
			return err
		}),
		"AddLoadBalancerZone": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.AddLoadBalancerZone(ctx, f.id["load balancer"], domain.LBZoneInput{VSwitchID: ownVPC(ctx, s).VSwitches[0].ID}, 0)
		}),
		"UpdateLoadBalancerZone": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateLoadBalancerZone(ctx, f.id["load balancer"], domaintest.ZoneH, 2, 0)
		}),
		"RemoveLoadBalancerZone": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.RemoveLoadBalancerZone(ctx, f.id["load balancer"], domaintest.ZoneH, 0)
		}),
		"ServerGroups": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.ServerGroups(ctx, first)
		}, "server group"),
		"ServerGroups/filter": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.ServerGroups(ctx, domain.Query{Limit: 10, Filter: map[string][]string{"vpc": {f.id["VPC"]}, "type": {domain.TypeNLB}}})
		}, "server group"),
		"ServerGroup": shows(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.ServerGroup(ctx, f.id["server group"])
		}),
		"CreateServerGroup": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateServerGroup(ctx, domain.ServerGroupInput{VPCID: f.id["VPC"]})
			return err
		}),
		"CreateServerGroup/target": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateServerGroup(ctx, domain.ServerGroupInput{VPCID: ownVPC(ctx, s).ID, Servers: []domain.ServerInput{{AttachmentID: f.id["attachment"], Port: 443}}})
			return err
		}),
		"UpdateServerGroup": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateServerGroup(ctx, f.id["server group"], domain.ServerGroupUpdate{Drain: new(10)})
		}),
		"DeleteServerGroup": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteServerGroup(ctx, f.id["server group"])
		}),
		"UpdateServer": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateServer(ctx, f.id["server"], 0)
		}),
		"RemoveServer": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.RemoveServer(ctx, f.id["server"])
		}),
		"PublishHost": {needs: domain.WriteProvide, also: domain.WriteNetwork, own: true, call: func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.PublishHost(ctx, domain.PublishInput{Target: "127.0.0.1:5432"})
		}},

		"Services": lists(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Services(ctx, first) }, "service"),
		"Services/waiting": lists(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.Services(ctx, filter("decision", "waiting"))
		}, "service"),
		"Service": shows(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Service(ctx, f.id["service"])
		}),
		"CreateService": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateService(ctx, domain.ServiceInput{LoadBalancerIDs: []string{f.id["load balancer"]}})
			return err
		}),
		"UpdateService": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateService(ctx, f.id["service"], domain.ServiceUpdate{AutoAccept: new(true)})
		}),
		"DeleteService": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteService(ctx, f.id["service"])
		}),
		"AddResource": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.AddResource(ctx, f.id["service"], domain.ResourceInput{LoadBalancerID: f.id["load balancer"]})
		}),
		"AddResource/balancer": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.AddResource(ctx, f.strangers, domain.ResourceInput{LoadBalancerID: f.id["load balancer"]})
		}),
		"RemoveResource": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.RemoveResource(ctx, f.id["service"], f.id["load balancer"], domaintest.ZoneH)
		}),
		"Whitelist": shows(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Whitelist(ctx, f.id["service"], first)
		}),
		"AddToWhitelist": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, _, err := s.AddToWhitelist(ctx, f.id["service"], s.Account().ID, true)
			return err
		}),
		"SetWhitelistEntry": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.SetWhitelistEntry(ctx, f.id["service"], f.id["account"], domain.WhitelistUpdate{AutoAccept: new(true)})
		}),
		"RemoveFromWhitelist": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.RemoveFromWhitelist(ctx, f.id["service"], f.id["account"])
		}),

		"Connections":          connections(first),
		"Connections/decision": connections(filter("decision", "waiting")),
		"Connections/status":   connections(filter("status", "Disconnected")),
		"Connections/text":     connections(domain.Query{Limit: 10, Text: "provider"}),
		"Connections/service": lists(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Connections(ctx, domain.ConnQuery{Query: filter("service", f.id["service"])})
		}, "endpoint"),
		"ConnectionCounts": creates(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			waiting, _, _, _, err := s.ConnectionCounts(ctx)
			return waiting, err
		}),
		"Connection": shows(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Connection(ctx, f.id["endpoint"])
		}),
		"AcceptConnection": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.AcceptConnection(ctx, f.id["endpoint"], domain.AcceptInput{})
			return err
		}),
		"RejectConnection": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.RejectConnection(ctx, f.id["endpoint"], domain.RejectInput{})
			return err
		}),
		"ModifyConnection": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.ModifyConnection(ctx, f.id["endpoint"], domain.ModifyInput{Bandwidth: new(100)})
			return err
		}),
		"UndoDecision": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.UndoDecision(ctx, f.id["endpoint"], 0)
			return err
		}),

		"CutConnection": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CutConnection(ctx, f.id["endpoint"], 0)
			return err
		}),
		"AcceptZone": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.AcceptZone(ctx, f.id["endpoint"], domaintest.ZoneH, 0)
			return err
		}),
		"RejectZone": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.RejectZone(ctx, f.id["endpoint"], domaintest.ZoneH, domain.RejectZoneInput{})
			return err
		}),
		"ReplaceResource": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.ReplaceResource(ctx, f.id["endpoint"], domaintest.ZoneH, domain.ReplaceInput{LoadBalancerID: f.id["load balancer"]})
			return err
		}),
		"CloseReplaced": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CloseReplaced(ctx, f.id["endpoint"], domaintest.ZoneH, 0)
			return err
		}),
		"AllocateResource": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.AllocateResource(ctx, f.id["endpoint"], domaintest.ZoneH, domain.AllocateInput{LoadBalancerID: f.id["load balancer"]})
			return err
		}),
		"UpdateResource": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateResource(ctx, f.id["service"], domain.ResourceUpdate{LoadBalancerID: f.id["load balancer"], ZoneID: domaintest.ZoneH, AutoAllocate: true})
		}),
		"MoveResource": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.MoveResource(ctx, f.id["service"], domain.MoveInput{ZoneID: domaintest.ZoneH, From: f.id["load balancer"], To: f.id["load balancer"]})
			return err
		}),
		"MoveResource/balancers": refuses(domain.WriteProvide, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.MoveResource(ctx, f.strangers, domain.MoveInput{ZoneID: domaintest.ZoneH, From: f.id["load balancer"], To: f.id["load balancer"]})
			return err
		}),

		"Catalogue": lists(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Catalogue(ctx, first) }, "service", "service name"),
		"Catalogue/text": lists(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.Catalogue(ctx, domain.Query{Limit: 10, Text: "API"})
		}, "service"),
		"FindService": shows(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.FindService(ctx, f.id["service name"])
		}),
		"Endpoints":         endpoints(first),
		"Endpoints/text":    endpoints(domain.Query{Limit: 10, Text: "ENDPOINT"}),
		"Endpoints/waiting": endpoints(filter("decision", "waiting")),
		"Endpoints/filter": lists(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Endpoints(ctx, domain.Query{Limit: 10, Filter: map[string][]string{"vpc": {f.id["VPC"]}, "service": {f.id["service"]}}})
		}, "endpoint"),
		"Endpoint": shows(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Endpoint(ctx, f.id["endpoint"])
		}),
		"EndpointFlows": shows(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.EndpointFlows(ctx, f.id["endpoint"], domain.FlowQuery{})
		}),
		"ServiceFlows": shows(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.ServiceFlows(ctx, f.id["service"], domain.FlowQuery{})
		}),
		"EndpointSeries": shows(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.EndpointSeries(ctx, f.id["endpoint"], domain.SeriesSpan{})
		}),
		"ServiceSeries": shows(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.ServiceSeries(ctx, f.id["service"], domain.SeriesSpan{})
		}),
		"LoadBalancerSeries": shows(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.LoadBalancerSeries(ctx, f.id["load balancer"], domain.SeriesSpan{})
		}),
		"ExportEndpointFlows": shows(domain.ReadConsume, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			var lines []domain.FlowLine
			err := s.ExportEndpointFlows(ctx, f.id["endpoint"], domain.FlowQuery{}, func(l domain.FlowLine) error { lines = append(lines, l); return nil })
			return lines, err
		}),
		"ExportServiceFlows": shows(domain.ReadProvide, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			var lines []domain.FlowLine
			err := s.ExportServiceFlows(ctx, f.id["service"], domain.FlowQuery{}, func(l domain.FlowLine) error { lines = append(lines, l); return nil })
			return lines, err
		}),
		"CreateEndpoint/service": endpoint(func(f *fixture, in *domain.EndpointInput) { in.ServiceName = f.id["service name"] }),
		"CreateEndpoint/vpc":     endpoint(func(f *fixture, in *domain.EndpointInput) { in.VPCID = f.id["VPC"] }),
		"CreateEndpoint/vswitch": endpoint(func(f *fixture, in *domain.EndpointInput) {
			in.Zones = []domain.EndpointZoneInput{{VSwitchID: f.id["vSwitch"]}}
		}),
		"CreateEndpoint/groups": endpoint(func(f *fixture, in *domain.EndpointInput) { in.GroupIDs = []string{f.id["group"]} }),
		"UpdateEndpoint": refuses(domain.WriteConsume, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateEndpoint(ctx, f.id["endpoint"], domain.EndpointUpdate{Name: new("mine")})
		}),
		"AddEndpointZone": refuses(domain.WriteConsume, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.AddEndpointZone(ctx, f.id["endpoint"], domain.EndpointZoneInput{VSwitchID: ownVPC(ctx, s).VSwitches[0].ID}, 0)
		}),
		"RemoveEndpointZone": refuses(domain.WriteConsume, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.RemoveEndpointZone(ctx, f.id["endpoint"], domaintest.ZoneH, domain.RemoveInput{})
		}),
		"DeleteEndpoint": refuses(domain.WriteConsume, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteEndpoint(ctx, f.id["endpoint"], domain.RemoveInput{})
		}),
		"CutEndpoint": refuses(domain.WriteConsume, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.CutEndpoint(ctx, f.id["endpoint"], 0)
		}),
		"TestEndpoint": refuses(domain.WriteConsume, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.TestEndpoint(ctx, f.id["endpoint"], domain.TestInput{})
			return err
		}),
	})
}
