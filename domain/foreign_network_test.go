package domain_test

import (
	"context"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func init() {
	first := domain.Query{Limit: 10}
	register(func(t *testing.T, f *fixture) {
		t.Helper()
		ctx, p := t.Context(), f.Provider
		v := must(p.CreateVPC(ctx, domain.VPCInput{Name: "provider-core", RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
			{Name: "provider-h", ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"},
		}}))(t)
		d := must(p.VPC(ctx, v.ID))(t)
		f.id["VPC"], f.id["vSwitch"], f.id["route table"] = v.ID, d.VSwitches[0].ID, d.RouteTableID
		g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: v.ID, Name: "provider-web"}))(t)
		f.id["group"] = g.ID
		f.id["rule"] = must(p.AddRule(ctx, g.ID, domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolTCP, Ports: "443", Peer: "0.0.0.0/0"}))(t).ID
		a := must(p.CreateAttachment(ctx, domain.AttachmentInput{
			VPCID: v.ID, VSwitchID: f.id["vSwitch"], Name: "provider-web-1", Kind: domain.AttachManaged, GroupIDs: []string{g.ID},
		}))(t)
		f.id["attachment"] = a.ID
		must(p.ReplaceRoutes(ctx, f.id["route table"], []domain.RouteInput{{Destination: "192.0.2.0/24", NextHopID: a.ID}}, 0))(t)
		f.id["offer"] = must(f.Operator.CreateOffer(ctx, domain.OfferInput{
			AccountID: p.Account().ID, Label: "Database of the host", Kind: domain.AttachHost, HostIP: "127.0.0.1", PortFrom: 5432, PortTo: 5432,
		}))(t).ID
		must(f.Stranger.CreateVPC(ctx, domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
			{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"},
		}}))(t)
	}, map[string]trial{
		"VPCs": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.VPCs(ctx, first) }, "VPC"),
		"VPCs/text": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.VPCs(ctx, domain.Query{Limit: 10, Text: "CORE"})
		}, "VPC"),
		"VPC": refuses(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.VPC(ctx, f.id["VPC"])
			return err
		}),
		"CreateVPC": creates(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.CreateVPC(ctx, domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16"})
		}),
		"RenameVPC": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.RenameVPC(ctx, f.id["VPC"], "provider-core", 0)
		}),
		"DeleteVPC": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteVPC(ctx, f.id["VPC"])
		}),
		"VSwitches": refuses(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.VSwitches(ctx, f.id["VPC"])
			return err
		}),
		"VSwitches/all": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.VSwitches(ctx, "")
		}, "vSwitch"),
		"CreateVSwitch": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateVSwitch(ctx, f.id["VPC"], domain.VSwitchInput{ZoneID: domaintest.ZoneI, CIDR: "10.0.2.0/24"})
			return err
		}),
		"DeleteVSwitch": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteVSwitch(ctx, f.id["vSwitch"])
		}),
		"FreeAddress": refuses(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.FreeAddress(ctx, f.id["vSwitch"])
			return err
		}),
		"Groups": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Groups(ctx, first) }, "group"),
		"Groups/vpc": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Groups(ctx, domain.Query{Limit: 10, Filter: map[string][]string{"vpc": {f.id["VPC"]}}})
		}, "group"),
		"Group": refuses(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.Group(ctx, f.id["group"])
			return err
		}),
		"CreateGroup": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateGroup(ctx, domain.GroupInput{VPCID: f.id["VPC"]})
			return err
		}),
		"CreateGroup/peer": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateGroup(ctx, domain.GroupInput{VPCID: ownVPC(ctx, s).ID, Rules: []domain.RuleInput{
				{Direction: domain.Ingress, Protocol: domain.ProtocolAll, Peer: f.id["group"]},
			}})
			return err
		}),
		"UpdateGroup": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.UpdateGroup(ctx, f.id["group"], domain.GroupUpdate{Name: "provider-web"})
		}),
		"DeleteGroup": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteGroup(ctx, f.id["group"])
		}),
		"AddRule": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.AddRule(ctx, f.id["group"], domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolAll, Peer: "10.0.0.0/8"})
			return err
		}),
		"UpdateRule": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.UpdateRule(ctx, f.id["rule"], domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolAll, Peer: "10.0.0.0/8"})
			return err
		}),
		"DeleteRule": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteRule(ctx, f.id["rule"])
		}),
		"Attachments": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.Attachments(ctx, first)
		}, "attachment"),
		"Attachments/filter": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Attachments(ctx, domain.Query{Limit: 10, Text: "web", Filter: map[string][]string{"vpc": {f.id["VPC"]}, "kind": {domain.AttachManaged}}})
		}, "attachment"),
		"Attachment": refuses(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.Attachment(ctx, f.id["attachment"])
			return err
		}),
		"CreateAttachment": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateAttachment(ctx, domain.AttachmentInput{VPCID: f.id["VPC"], VSwitchID: f.id["vSwitch"], Kind: domain.AttachManaged})
			return err
		}),
		"CreateAttachment/vswitch": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateAttachment(ctx, domain.AttachmentInput{VPCID: ownVPC(ctx, s).ID, VSwitchID: f.id["vSwitch"], Kind: domain.AttachManaged})
			return err
		}),
		"CreateAttachment/groups": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			v := ownVPC(ctx, s)
			_, err := s.CreateAttachment(ctx, domain.AttachmentInput{
				VPCID: v.ID, VSwitchID: v.VSwitches[0].ID, Kind: domain.AttachManaged, GroupIDs: []string{f.id["group"]},
			})
			return err
		}),
		"CreateAttachment/offer": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.CreateAttachment(ctx, domain.AttachmentInput{VPCID: ownVPC(ctx, s).ID, Kind: domain.AttachHost, OfferID: f.id["offer"]})
			return err
		}),
		"SetAttachmentGroups": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.SetAttachmentGroups(ctx, f.id["attachment"], nil, 0)
		}),
		"DeleteAttachment": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DeleteAttachment(ctx, f.id["attachment"])
		}),
		"Offers": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Offers(ctx) }, "offer"),
		"RouteTables": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.RouteTables(ctx, first)
		}, "route table"),
		"RouteTables/vpc": lists(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.RouteTables(ctx, domain.Query{Limit: 10, Filter: map[string][]string{"vpc": {f.id["VPC"]}}})
		}, "route table"),
		"RouteTable": refuses(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.RouteTable(ctx, f.id["route table"])
			return err
		}),
		"PlanRoutes": refuses(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.PlanRoutes(ctx, f.id["route table"], nil)
			return err
		}),
		"ReplaceRoutes": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.ReplaceRoutes(ctx, f.id["route table"], nil, 0)
			return err
		}),
		"ReplaceRoutes/hop": refuses(domain.WriteNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.ReplaceRoutes(ctx, ownVPC(ctx, s).RouteTableID, []domain.RouteInput{{Destination: "192.0.2.0/24", NextHopID: f.id["attachment"]}}, 0)
			return err
		}),
		"LookupRoute": refuses(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, err := s.LookupRoute(ctx, f.id["route table"], "10.0.1.5")
			return err
		}),
	})
}

// ownVPC returns the first VPC of the scope's account.
func ownVPC(ctx context.Context, s *domain.Scope) *domain.VPCDetail {
	page, err := s.VPCs(ctx, domain.Query{Limit: 1})
	if err != nil {
		panic(err)
	}
	v, err := s.VPC(ctx, page.Items[0].ID)
	if err != nil {
		panic(err)
	}
	return v
}

// must returns the value of a call that has to succeed.
func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}
