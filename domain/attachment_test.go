package domain_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// offers are one of each kind: those of the map's names.
func (c *campus) offers(t *testing.T) map[string]string {
	t.Helper()
	account := c.Provider.Account().ID
	ids := map[string]string{}
	for name, in := range map[string]domain.OfferInput{
		"namespace": {AccountID: account, Kind: domain.AttachAdopted, Path: "/run/netns/box", Inode: 7},
		"nic":       {Kind: domain.AttachInterface, Device: "eth7", DeviceNo: 7},
		"database":  {AccountID: account, Kind: domain.AttachHost, HostIP: "127.0.0.1", PortFrom: 5432, PortTo: 5432},
		"any":       {Kind: domain.AttachHost, HostIP: "127.0.0.1"},
		"publish":   {Kind: domain.AttachPort, HostIP: "192.0.2.7", PortFrom: 8000, PortTo: 8999},
		"everyone":  {Kind: domain.AttachPort, HostIP: "0.0.0.0"},
		"beside":    {Kind: domain.AttachPort, HostIP: "192.0.2.8", PortFrom: 8000, PortTo: 8999},
		"stranger":  {AccountID: c.Stranger.Account().ID, Kind: domain.AttachHost, HostIP: "127.0.0.1"},
	} {
		in.Label = "Offer " + name
		ids[name] = must(c.Operator.CreateOffer(t.Context(), in))(t).ID
	}
	return ids
}

func TestCreateAttachmentRefusals(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	offer := c.offers(t)
	normal := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "normal"}))(t)
	enterprise := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "strict", Type: domain.GroupEnterprise}))(t)
	elsewhere := must(p.CreateVPC(ctx, domain.VPCInput{Name: "elsewhere", RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
		{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"},
	}}))(t)
	there := must(p.VSwitches(ctx, elsewhere.ID))(t)[0]
	foreign := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: elsewhere.ID}))(t)
	six := make([]string, 6)
	for i := range six {
		six[i] = must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID}))(t).ID
	}
	h := c.h.ID
	tests := []struct {
		name string
		in   domain.AttachmentInput
		want string
	}{
		{"managed", domain.AttachmentInput{Kind: domain.AttachManaged, VSwitchID: h, GroupIDs: []string{normal.ID, "", normal.ID}}, ""},
		{"five groups", domain.AttachmentInput{Kind: domain.AttachManaged, VSwitchID: h, GroupIDs: six[:5]}, ""},
		{"adopted", domain.AttachmentInput{Kind: domain.AttachAdopted, VSwitchID: h, OfferID: offer["namespace"]}, ""},
		{"interface", domain.AttachmentInput{Kind: domain.AttachInterface, VSwitchID: h, OfferID: offer["nic"]}, ""},
		{"host service", domain.AttachmentInput{Kind: domain.AttachHost, OfferID: offer["database"], HostPort: 5432}, ""},
		{"host service's only port", domain.AttachmentInput{Kind: domain.AttachHost, OfferID: offer["database"]}, ""},
		{"host service again", domain.AttachmentInput{Kind: domain.AttachHost, OfferID: offer["any"], HostPort: 5432}, ""},
		{"published port", domain.AttachmentInput{Kind: domain.AttachPort, VSwitchID: h, OfferID: offer["publish"], HostPort: 8080, TargetIP: "10.0.2.9", TargetPort: 80}, ""},
		{"published beside", domain.AttachmentInput{Kind: domain.AttachPort, VSwitchID: h, OfferID: offer["beside"], HostPort: 8080, TargetIP: "10.0.2.9", TargetPort: 80}, ""},

		{"no kind", domain.AttachmentInput{VSwitchID: h}, "kind: invalid_kind"},
		{"no VPC", domain.AttachmentInput{VPCID: "vpc-none", Kind: domain.AttachManaged, VSwitchID: h}, "vpc_id: vpc_not_found"},
		{"no vSwitch", domain.AttachmentInput{Kind: domain.AttachManaged}, "vswitch_id: vswitch_not_found"},
		{"vSwitch elsewhere", domain.AttachmentInput{Kind: domain.AttachManaged, VSwitchID: there.ID}, "vswitch_id: vswitch_not_found"},
		{
			"several",
			domain.AttachmentInput{Name: "7", Kind: domain.AttachManaged, VSwitchID: h, Address: "10.0.2.1", OfferID: "off-1", HostPort: -1, TargetPort: 1, GroupIDs: []string{"sg-1"}},
			"name: invalid_name, offer_id: offer_not_wanted, target_ip: target_not_wanted, address: address_outside, group_ids: security_group_not_found",
		},
		{"port of a managed one", domain.AttachmentInput{Kind: domain.AttachManaged, VSwitchID: h, HostPort: 80}, "host_port: port_not_wanted"},
		{"six groups", domain.AttachmentInput{Kind: domain.AttachManaged, VSwitchID: h, GroupIDs: six}, "group_ids: quota_groups_per_attachment"},
		{"group elsewhere", domain.AttachmentInput{Kind: domain.AttachManaged, VSwitchID: h, GroupIDs: []string{foreign.ID}}, "group_ids: security_group_not_found"},
		{"two types of groups", domain.AttachmentInput{Kind: domain.AttachManaged, VSwitchID: h, GroupIDs: []string{normal.ID, enterprise.ID}}, "group_ids: group_types"},
		{"no offer", domain.AttachmentInput{Kind: domain.AttachAdopted, VSwitchID: h}, "offer_id: missing_offer"},
		{"offer of another kind", domain.AttachmentInput{Kind: domain.AttachInterface, VSwitchID: h, OfferID: offer["namespace"]}, "offer_id: offer_kind"},
		{"offer of another account", domain.AttachmentInput{Kind: domain.AttachHost, OfferID: offer["stranger"], HostPort: 80}, "offer_id: offer_not_found"},
		{"offer in use", domain.AttachmentInput{Kind: domain.AttachInterface, VSwitchID: h, OfferID: offer["nic"]}, "offer_id: offer_in_use"},
		{"port that is not offered", domain.AttachmentInput{Kind: domain.AttachHost, OfferID: offer["database"], HostPort: 5433}, "host_port: port_not_offered"},
		{"no port", domain.AttachmentInput{Kind: domain.AttachHost, OfferID: offer["any"]}, "host_port: invalid_port"},
		{"port 65536", domain.AttachmentInput{Kind: domain.AttachHost, OfferID: offer["any"], HostPort: 65536}, "host_port: invalid_port"},
		{
			"host service in a vSwitch",
			domain.AttachmentInput{Kind: domain.AttachHost, VSwitchID: h, Address: "10.0.1.9", OfferID: offer["database"], GroupIDs: []string{normal.ID}},
			"vswitch_id: vswitch_not_wanted, address: address_not_wanted, group_ids: groups_not_wanted",
		},
		{"target outside", domain.AttachmentInput{Kind: domain.AttachPort, VSwitchID: h, OfferID: offer["publish"], HostPort: 8081, TargetIP: "10.1.0.1", TargetPort: 80}, "target_ip: address_outside"},
		{"no target", domain.AttachmentInput{Kind: domain.AttachPort, VSwitchID: h, OfferID: offer["publish"], HostPort: 8081}, "target_ip: invalid_address, target_port: invalid_port"},
		{"port in use", domain.AttachmentInput{Kind: domain.AttachPort, VSwitchID: h, OfferID: offer["publish"], HostPort: 8080, TargetIP: "10.0.2.9", TargetPort: 80}, "host_port: port_in_use"},
		{"port in use by every address", domain.AttachmentInput{Kind: domain.AttachPort, VSwitchID: h, OfferID: offer["everyone"], HostPort: 8080, TargetIP: "10.0.2.9", TargetPort: 80}, "host_port: port_in_use"},
		{"command", domain.AttachmentInput{Kind: domain.AttachManaged, VSwitchID: h, Command: []string{"sh"}}, "command_not_allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.VPCID == "" {
				tt.in.VPCID = c.vpc.ID
			}
			var err error
			var a *domain.Attachment
			stale := c.staleSince(t, func() { a, err = p.CreateAttachment(ctx, tt.in) })
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q: %v", got, tt.want, err)
			}
			if err != nil {
				return
			}
			if !slices.Contains(stale, "vpc "+c.vpc.ID) {
				t.Errorf("stale: %v", stale)
			}
			if (a.Address == "") != (a.Kind == domain.AttachHost) || a.Kind == domain.AttachHost && a.HostPort != 5432 {
				t.Errorf("got %+v", a)
			}
		})
	}
}

// TestHostObjectsBetweenAccounts lets several accounts take the same object of the
// host at once: one of them gets it, and nobody learns who.
func TestHostObjectsBetweenAccounts(t *testing.T) {
	c := newCampus(t)
	offer := c.offers(t)
	ctx := t.Context()
	switches := map[*domain.Scope]domain.VSwitch{c.Provider: c.h}
	for _, s := range []*domain.Scope{c.Consumer, c.Stranger} {
		v := must(s.CreateVPC(ctx, domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
			{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"},
		}}))(t)
		switches[s] = must(s.VSwitches(ctx, v.ID))(t)[0].VSwitch
	}
	tests := []struct {
		name   string
		offers []string // one an account
		in     domain.AttachmentInput
		want   string // for all but one
	}{
		{"interface", []string{"nic", "nic", "nic"}, domain.AttachmentInput{Kind: domain.AttachInterface}, "offer_id: offer_in_use"},
		{"port", []string{"publish", "everyone", "publish"}, domain.AttachmentInput{Kind: domain.AttachPort, HostPort: 8443, TargetIP: "10.0.1.5", TargetPort: 443}, "host_port: port_in_use"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var wg sync.WaitGroup
			results := make([]error, 3)
			for i, s := range []*domain.Scope{c.Provider, c.Consumer, c.Stranger} {
				in := tt.in
				in.VPCID, in.VSwitchID, in.OfferID = switches[s].VPCID, switches[s].ID, offer[tt.offers[i]]
				wg.Go(func() { _, results[i] = s.CreateAttachment(ctx, in) })
			}
			wg.Wait()
			got := 0
			for _, err := range results {
				switch {
				case err == nil:
					got++
				case faults(err) != tt.want || domain.KindOf(err) != domain.Conflict:
					t.Errorf("got %v, want %s", err, tt.want)
				case !strings.Contains(err.Error(), "by another account"):
					t.Errorf("it says who has it: %v", err)
				}
			}
			if got != 1 {
				t.Errorf("%d accounts got it, want 1: %v", got, results)
			}
		})
	}
}

func TestCommandOfTheProgram(t *testing.T) {
	c := newCampus(t)
	local := must(c.Store.LocalScope(t.Context(), c.Provider.Account().ID, domain.Actor{}))(t)
	a := must(local.CreateAttachment(t.Context(), domain.AttachmentInput{
		VPCID: c.vpc.ID, VSwitchID: c.h.ID, Kind: domain.AttachManaged, Command: []string{"serve", "--port", "80"},
	}))(t)
	if a.Command != `["serve","--port","80"]` {
		t.Errorf("got %s", a.Command)
	}
}

func TestOffersOfAnAccount(t *testing.T) {
	c := newCampus(t)
	ids := c.offers(t)
	must(c.Provider.CreateAttachment(t.Context(), domain.AttachmentInput{VPCID: c.vpc.ID, VSwitchID: c.h.ID, Kind: domain.AttachInterface, OfferID: ids["nic"]}))(t)
	must(c.Provider.CreateAttachment(t.Context(), domain.AttachmentInput{VPCID: c.vpc.ID, Kind: domain.AttachHost, OfferID: ids["database"]}))(t)
	want := []domain.OfferView{
		{ID: ids["any"], Label: "Offer any", Kind: domain.AttachHost, Host: "127.0.0.1"},
		{ID: ids["beside"], Label: "Offer beside", Kind: domain.AttachPort, Host: "192.0.2.8", Ports: "8000-8999"},
		{ID: ids["database"], Label: "Offer database", Kind: domain.AttachHost, Host: "127.0.0.1", Ports: "5432"},
		{ID: ids["everyone"], Label: "Offer everyone", Kind: domain.AttachPort, Host: "0.0.0.0"},
		{ID: ids["namespace"], Label: "Offer namespace", Kind: domain.AttachAdopted},
		{ID: ids["nic"], Label: "Offer nic", Kind: domain.AttachInterface, InUse: true},
		{ID: ids["publish"], Label: "Offer publish", Kind: domain.AttachPort, Host: "192.0.2.7", Ports: "8000-8999"},
	}
	if diff := gocmp.Diff(want, must(c.Provider.Offers(t.Context()))(t)); diff != "" {
		t.Error(diff)
	}
}

func TestAttachmentGroups(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	one := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "one"}))(t)
	two := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "two"}))(t)
	a := c.managed(t, c.h, "web", "", one.ID)
	stale := c.staleSince(t, func() {
		if err := p.SetAttachmentGroups(ctx, a.ID, []string{two.ID}, a.Version); err != nil {
			t.Fatal(err)
		}
	})
	want := []string{"security_group " + one.ID, "security_group " + two.ID}
	slices.Sort(want)
	if !slices.Equal(stale, want) {
		t.Errorf("stale: %v, want the group it left and the one it joined: %v", stale, want)
	}
	if err := p.SetAttachmentGroups(ctx, a.ID, nil, a.Version); reason(err) != "attachment_changed" {
		t.Errorf("with the old version: %v", err)
	}
	if d := must(p.Attachment(ctx, a.ID))(t); len(d.Groups) != 1 || d.Groups[0].ID != two.ID || d.Version != 2 {
		t.Errorf("got %+v", d)
	}
	offer := c.offers(t)
	host := must(p.CreateAttachment(ctx, domain.AttachmentInput{VPCID: c.vpc.ID, Kind: domain.AttachHost, OfferID: offer["database"]}))(t)
	if err := p.SetAttachmentGroups(ctx, host.ID, []string{one.ID}, 0); faults(err) != "group_ids: groups_not_wanted" {
		t.Errorf("groups of a host service: %v", err)
	}
}

func TestAttachments(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	offer := c.offers(t)
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID}))(t)
	c.managed(t, c.i, "web", "", g.ID)
	must(p.CreateAttachment(ctx, domain.AttachmentInput{VPCID: c.vpc.ID, Name: "database", Kind: domain.AttachHost, OfferID: offer["database"]}))(t)
	type row struct{ Name, VPC, VSwitch, Zone, Offer, Groups string }
	list := func(q domain.Query) (rows []row) {
		for _, a := range must(p.Attachments(ctx, q))(t).Items {
			rows = append(rows, row{a.Name, a.VPCName, a.VSwitchName, a.ZoneID, a.OfferLabel, strings.Repeat("x", a.Groups)})
		}
		return rows
	}
	want := []row{{"database", "core", "", "", "Offer database", ""}, {"web", "core", "vsw-i", domaintest.ZoneI, "", "x"}}
	if diff := gocmp.Diff(want, list(domain.Query{})); diff != "" {
		t.Errorf("list:\n%s", diff)
	}
	if diff := gocmp.Diff(want[1:], list(domain.Query{Filter: map[string][]string{"vpc": {c.vpc.ID}, "kind": {domain.AttachManaged, domain.AttachAdopted}}})); diff != "" {
		t.Errorf("filtered:\n%s", diff)
	}
	if got := list(domain.Query{Filter: map[string][]string{"vpc": {"vpc-none"}}}); got != nil {
		t.Errorf("of no VPC: %v", got)
	}
}

func TestDeleteAttachment(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	account := p.Account().ID
	offer := c.offers(t)
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID}))(t)
	a := c.managed(t, c.h, "web", "", g.ID)
	host := must(p.CreateAttachment(ctx, domain.AttachmentInput{VPCID: c.vpc.ID, Kind: domain.AttachHost, Name: "database", OfferID: offer["database"]}))(t)
	table := must(p.VPC(ctx, c.vpc.ID))(t).RouteTableID
	must(p.ReplaceRoutes(ctx, table, []domain.RouteInput{{Destination: "192.0.2.0/24", NextHopID: a.ID}}, 0))(t)
	c.insert(t,
		&domain.ServerGroup{ID: "sgp-1", AccountID: account, VPCID: c.vpc.ID, Name: "backends"},
		&domain.Server{ID: "srv-1", AccountID: account, ServerGroupID: "sgp-1", AttachmentID: a.ID, Port: 80},
		&domain.Server{ID: "srv-2", AccountID: account, ServerGroupID: "sgp-1", Address: a.Address, Port: 81},
		&domain.Server{ID: "srv-3", AccountID: account, ServerGroupID: "sgp-1", AttachmentID: host.ID, Port: 5432},
	)
	publish := must(p.CreateAttachment(ctx, domain.AttachmentInput{
		VPCID: c.vpc.ID, VSwitchID: c.h.ID, Name: "outside", Kind: domain.AttachPort, OfferID: offer["publish"], HostPort: 8080, TargetIP: a.Address, TargetPort: 80,
	}))(t)
	d := must(p.Attachment(ctx, a.ID))(t)
	if len(d.Servers) != 2 || d.Servers[1].GroupName != "backends" || d.Servers[1].Port != 81 || len(d.Routes) != 1 || d.VSwitch.ID != c.h.ID || d.VPC.ID != c.vpc.ID {
		t.Errorf("detail: %+v", d)
	}
	if hd := must(p.Attachment(ctx, host.ID))(t); len(hd.Servers) != 1 || hd.Servers[0].ID != "srv-3" || hd.VSwitch != nil || hd.OfferLabel != "Offer database" {
		t.Errorf("detail of the host service: %+v", hd)
	}
	err := p.DeleteAttachment(ctx, a.ID)
	if domain.KindOf(err) != domain.Conflict || reason(err) != "attachment_in_use" {
		t.Fatalf("got %v, want a Conflict", err)
	}
	for _, want := range []string{"target backends (srv-1)", "target backends (srv-2)", "route table core (" + table + ")", "attachment outside (" + publish.ID + ")"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if err := c.Store.DB().Where("server_group_id = ?", "sgp-1").Delete(&domain.Server{}).Error; err != nil {
		t.Fatal(err)
	}
	must(p.ReplaceRoutes(ctx, table, nil, 0))(t)
	if err := p.DeleteAttachment(ctx, publish.ID); err != nil {
		t.Fatal(err)
	}
	stale := c.staleSince(t, func() {
		if err := p.DeleteAttachment(ctx, a.ID); err != nil {
			t.Fatal(err)
		}
	})
	if want := []string{"security_group " + g.ID, "vpc " + c.vpc.ID}; !slices.Equal(stale, want) {
		t.Errorf("stale: %v, want %v", stale, want)
	}
	if free := must(p.FreeAddress(ctx, c.h.ID))(t); free != a.Address {
		t.Errorf("next free is %s, want %s", free, a.Address)
	}
}
