package domain_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// faults returns what is wrong with each field: "field: reason", or the reason
// alone where it is about no field.
func faults(err error) string {
	var out []string
	for _, f := range domain.Fields(err) {
		out = append(out, f.Field+": "+f.Reason)
	}
	if len(out) == 0 && err != nil {
		return cmp.Or(reason(err), err.Error())
	}
	return strings.Join(out, ", ")
}

// campus is a world in which the provider has a VPC 10.0.0.0/16 with the vSwitches
// vsw-h, 10.0.1.0/24, and vsw-i, 10.0.2.0/24.
type campus struct {
	*domaintest.World
	vpc  *domain.VPC
	h, i domain.VSwitch
}

func newCampus(t *testing.T) *campus {
	t.Helper()
	c := &campus{World: domaintest.New(t)}
	c.vpc = must(c.Provider.CreateVPC(t.Context(), domain.VPCInput{
		Name: "core", RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
			{Name: "vsw-h", ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"}, {Name: "vsw-i", ZoneID: domaintest.ZoneI, CIDR: "10.0.2.0/24"},
		},
	}))(t)
	switches := must(c.Provider.VSwitches(t.Context(), c.vpc.ID))(t)
	c.h, c.i = switches[0].VSwitch, switches[1].VSwitch
	return c
}

// managed makes a managed attachment in a vSwitch; "" chooses the address.
func (c *campus) managed(t *testing.T, vs domain.VSwitch, name, address string, groups ...string) *domain.Attachment {
	t.Helper()
	return must(c.Provider.CreateAttachment(t.Context(), domain.AttachmentInput{
		VPCID: vs.VPCID, VSwitchID: vs.ID, Name: name, Kind: domain.AttachManaged, Address: address, GroupIDs: groups,
	}))(t)
}

// insert puts rows into the store that other parts of the domain write.
func (c *campus) insert(t *testing.T, rows ...any) {
	t.Helper()
	for _, r := range rows {
		if err := c.Store.DB().WithContext(t.Context()).Create(r).Error; err != nil {
			t.Fatal(err)
		}
	}
}

// staleSince returns what the engine has to look at since f began, as "kind id".
func (c *campus) staleSince(t *testing.T, f func()) []string {
	t.Helper()
	read := func() []string {
		var rows []struct{ Kind, ID string }
		if err := c.Store.DB().Table("engine_changes").Order("revision").Find(&rows).Error; err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range rows {
			out = append(out, r.Kind+" "+r.ID)
		}
		return out
	}
	before := len(read())
	f()
	return slices.Sorted(slices.Values(read()[before:]))
}

func TestCreateVPCRefusals(t *testing.T) {
	w := domaintest.New(t)
	tests := []struct {
		name string
		in   domain.VPCInput
		want string
	}{
		{"shortest", domain.VPCInput{CIDR: "10.0.0.0/8"}, ""},
		{"longest", domain.VPCInput{CIDR: "192.168.255.240/28"}, ""},
		{"spaces", domain.VPCInput{CIDR: " 172.16.0.0/12 ", Name: "  a b  "}, ""},
		{"taken by others", domain.VPCInput{CIDR: "10.0.0.0/8"}, ""},
		{"no range", domain.VPCInput{}, "cidr: invalid_cidr"},
		{"no prefix", domain.VPCInput{CIDR: "10.0.0.0"}, "cidr: invalid_cidr"},
		{"host bits", domain.VPCInput{CIDR: "10.0.0.1/16"}, "cidr: invalid_cidr"},
		{"IPv6", domain.VPCInput{CIDR: "fd00::/8"}, "cidr: invalid_cidr"},
		{"IPv4 in IPv6", domain.VPCInput{CIDR: "::ffff:10.0.0.0/112"}, "cidr: invalid_cidr"},
		{"too long", domain.VPCInput{CIDR: "10.0.0.0/29"}, "cidr: cidr_size"},
		{"too short", domain.VPCInput{CIDR: "10.0.0.0/7"}, "cidr: cidr_not_private"},
		{"public", domain.VPCInput{CIDR: "203.0.113.0/24"}, "cidr: cidr_not_private"},
		{"beside private", domain.VPCInput{CIDR: "172.32.0.0/16"}, "cidr: cidr_not_private"},
		{"platform", domain.VPCInput{CIDR: "100.100.0.0/16"}, "cidr: cidr_reserved"},
		{"loopback", domain.VPCInput{CIDR: "127.0.0.0/16"}, "cidr: cidr_reserved"},
		{"link-local", domain.VPCInput{CIDR: "169.254.0.0/16"}, "cidr: cidr_reserved"},
		{"everything", domain.VPCInput{CIDR: "0.0.0.0/0"}, "cidr: cidr_reserved"},
		{"multicast", domain.VPCInput{CIDR: "224.0.0.0/8"}, "cidr: cidr_reserved"},
		{"several faults", domain.VPCInput{Name: "1", RegionID: "mars", CIDR: "x"}, "name: invalid_name, region_id: region_not_found, cidr: invalid_cidr"},
		{"NUL", domain.VPCInput{Name: "ab\x00c", CIDR: "10.0.0.0/8"}, "name: invalid_name"},
		{"vSwitches", domain.VPCInput{CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
			{ZoneID: domaintest.ZoneH, CIDR: "10.0.0.0/16"},
			{ZoneID: domaintest.ZoneI, CIDR: "10.0.5.0/24"},
			{ZoneID: "cn-hangzhou-z", CIDR: "10.1.0.0/24"},
		}}, "vswitches.1.cidr: cidr_overlaps, vswitches.2.zone_id: zone_not_found, vswitches.2.cidr: cidr_outside_vpc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.RegionID = cmp.Or(tt.in.RegionID, domaintest.Region)
			before := len(must(w.Provider.VPCs(t.Context(), domain.Query{Limit: 200}))(t).Items)
			v, err := w.Provider.CreateVPC(t.Context(), tt.in)
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q: %v", got, tt.want, err)
			}
			grown := len(must(w.Provider.VPCs(t.Context(), domain.Query{Limit: 200}))(t).Items) - before
			if (err == nil) != (grown == 1) || (err == nil) != (v != nil) {
				t.Errorf("after %v there are %d more VPCs", err, grown)
			}
		})
	}
}

func TestVPC(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	other := must(p.CreateVPC(ctx, domain.VPCInput{Name: "other", RegionID: domaintest.Region, CIDR: "10.0.128.0/17"}))(t)
	must(p.CreateVPC(ctx, domain.VPCInput{Name: "apart", RegionID: domaintest.Region, CIDR: "172.16.0.0/16"}))(t)
	must(c.Stranger.CreateVPC(ctx, domain.VPCInput{Name: "same", RegionID: domaintest.Region, CIDR: "10.0.0.0/16"}))(t)
	c.managed(t, c.h, "web", "")

	page := must(p.VPCs(ctx, domain.Query{}))(t)
	var names []string
	for _, v := range page.Items {
		names = append(names, fmt.Sprintf("%s %d %d %d %v %v", v.Name, v.VSwitches, v.Attachments, v.Endpoints, v.Zones, v.Overlaps))
	}
	want := []string{"apart 0 0 0 [] []", "core 2 1 0 [cn-hangzhou-h cn-hangzhou-i] [other]", "other 0 0 0 [] [core]"}
	if diff := gocmp.Diff(want, names); diff != "" {
		t.Errorf("list:\n%s", diff)
	}
	if got := must(p.VPCs(ctx, domain.Query{Text: "THE"}))(t).Items; len(got) != 1 || got[0].ID != other.ID {
		t.Errorf("search by a part of the name: %v", got)
	}
	if got := must(p.VPCs(ctx, domain.Query{Text: c.vpc.ID}))(t).Items; len(got) != 1 || got[0].ID != c.vpc.ID {
		t.Errorf("search by the id: %v", got)
	}
	if got := must(p.VPCs(ctx, domain.Query{Text: "%"}))(t).Items; len(got) != 0 {
		t.Errorf("a percent sign is no pattern: %v", got)
	}

	d := must(p.VPC(ctx, c.vpc.ID))(t)
	if d.Attachments != 1 || d.Routes != 0 || d.Groups != 0 || d.RouteTableID == "" || !slices.Equal(d.Overlaps, []string{"other"}) {
		t.Errorf("detail: %+v", d)
	}
	if len(d.VSwitches) != 2 || d.VSwitches[0].Used != 1 || d.VSwitches[0].Free != 252 || d.VSwitches[1].Free != 253 {
		t.Errorf("use: %+v", d.VSwitches)
	}
	if gw := d.VSwitches[0].Gateway(); gw != "10.0.1.1" {
		t.Errorf("gateway %s, want 10.0.1.1", gw)
	}
}

func TestVPCPages(t *testing.T) {
	w := domaintest.New(t)
	for i := range 7 {
		must(w.Provider.CreateVPC(t.Context(), domain.VPCInput{Name: fmt.Sprintf("vpc-%d", i), RegionID: domaintest.Region, CIDR: "10.0.0.0/16"}))(t)
	}
	var got []string
	q := domain.Query{Limit: 3}
	for {
		page := must(w.Provider.VPCs(t.Context(), q))(t)
		for _, v := range page.Items {
			got = append(got, v.Name)
		}
		if page.Next == "" {
			break
		}
		q.After = page.Next
	}
	want := []string{"vpc-0", "vpc-1", "vpc-2", "vpc-3", "vpc-4", "vpc-5", "vpc-6"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRenameVPC(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	if err := p.RenameVPC(ctx, c.vpc.ID, "centre", c.vpc.Version); err != nil {
		t.Fatal(err)
	}
	if err := p.RenameVPC(ctx, c.vpc.ID, "late", c.vpc.Version); reason(err) != "vpc_changed" || domain.KindOf(err) != domain.Conflict {
		t.Errorf("with the old version: %v", err)
	}
	d := must(p.VPC(ctx, c.vpc.ID))(t)
	if table := must(p.RouteTable(ctx, d.RouteTableID))(t); d.Name != "centre" || table.Name != "centre" || d.Version != 2 {
		t.Errorf("the VPC is %s at %d, its table %s", d.Name, d.Version, table.Name)
	}
	if err := p.RenameVPC(ctx, c.vpc.ID, "9", 0); faults(err) != "name: invalid_name" {
		t.Errorf("a bad name: %v", err)
	}
}

func TestDeleteVPC(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	for i := range 5 {
		c.managed(t, c.h, fmt.Sprintf("web-%d", i), "")
	}
	err := p.DeleteVPC(ctx, c.vpc.ID)
	if reason(err) != "vpc_in_use" || domain.KindOf(err) != domain.Conflict {
		t.Fatalf("got %v, want a Conflict", err)
	}
	if s := err.Error(); strings.Count(s, "att-") != 5 || !strings.Contains(s, "attachment web-4 (att-") || !strings.Contains(s, " and 2 more.") {
		t.Errorf("the message names the wrong ones: %v", err)
	}
	for _, a := range must(p.Attachments(ctx, domain.Query{}))(t).Items {
		if err := p.DeleteAttachment(ctx, a.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, vs := range []domain.VSwitch{c.h, c.i} {
		if err := p.DeleteVSwitch(ctx, vs.ID); err != nil {
			t.Fatal(err)
		}
	}
	got := c.staleSince(t, func() {
		if err := p.DeleteVPC(ctx, c.vpc.ID); err != nil {
			t.Fatal(err)
		}
	})
	if want := []string{"vpc " + c.vpc.ID}; !slices.Equal(got, want) {
		t.Errorf("stale: %v, want %v", got, want)
	}
	if _, err := p.VPC(ctx, c.vpc.ID); domain.KindOf(err) != domain.NotFound {
		t.Errorf("it is still there: %v", err)
	}
	if n := len(must(p.RouteTables(ctx, domain.Query{}))(t).Items); n != 0 {
		t.Errorf("%d route tables are left", n)
	}
}

// TestVPCNumbers checks that accounts that make VPCs at the same time get the
// lowest numbers, each its own, and none above the last.
func TestVPCNumbers(t *testing.T) {
	w := domaintest.New(t)
	const each = 8
	var wg sync.WaitGroup
	for _, s := range []*domain.Scope{w.Provider, w.Consumer, w.Stranger} {
		wg.Go(func() {
			for range each {
				if _, err := s.CreateVPC(t.Context(), domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	numbers := func() (all []int) {
		if err := w.Store.DB().Model(&domain.VPC{}).Order("number").Pluck("number", &all).Error; err != nil {
			t.Fatal(err)
		}
		return all
	}
	for i, n := range numbers() {
		if n != i+1 {
			t.Fatalf("numbers are %v, want 1 to %d", numbers(), 3*each)
		}
	}
	first := must(w.Provider.VPCs(t.Context(), domain.Query{Limit: 1}))(t).Items[0]
	if err := w.Provider.DeleteVPC(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	again := must(w.Stranger.CreateVPC(t.Context(), domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16"}))(t)
	if again.Number != first.Number {
		t.Errorf("got number %d, want %d, which is free again", again.Number, first.Number)
	}
	var more []domain.VPC
	for n := 3*each + 1; n <= 200; n++ {
		more = append(more, domain.VPC{ID: fmt.Sprintf("vpc-%d", n), AccountID: w.Stranger.Account().ID, RegionID: domaintest.Region, CIDR: "10.0.0.0/16", Number: n})
	}
	if err := w.Store.DB().Create(&more).Error; err != nil {
		t.Fatal(err)
	}
	last := must(w.Consumer.CreateVPC(t.Context(), domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16"}))(t)
	if last.Number != 0 {
		t.Errorf("got number %d, want 0: there is none left", last.Number)
	}
}

func TestVPCQuota(t *testing.T) {
	w := domaintest.New(t)
	if err := w.Operator.SetQuota(t.Context(), w.Provider.Account().ID, "vpcs", 1); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make([]error, 4)
	for i := range results {
		wg.Go(func() {
			_, results[i] = w.Provider.CreateVPC(t.Context(), domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16"})
		})
	}
	wg.Wait()
	made := 0
	for _, err := range results {
		switch {
		case err == nil:
			made++
		case reason(err) != "quota_vpcs" || domain.KindOf(err) != domain.Limit:
			t.Errorf("got %v, want a Limit", err)
		}
	}
	if made != 1 {
		t.Errorf("%d VPCs were made, the quota is 1", made)
	}
}

// TestNetworkChanges checks what the console's live pages are told of each write.
func TestNetworkChanges(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	table := must(p.VPC(ctx, c.vpc.ID))(t).RouteTableID
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "web"}))(t)
	a := c.managed(t, c.h, "gate", "")
	var rule *domain.SecurityRule
	feed, stop := c.Store.Changes()
	defer stop()
	for _, tt := range []struct {
		name string
		do   func() error
		want []string // "kind id", sorted
	}{
		{"rename", func() error { return p.RenameVPC(ctx, c.vpc.ID, "centre", 0) }, []string{"vpc " + c.vpc.ID}},
		{"rule", func() (err error) {
			rule, err = p.AddRule(ctx, g.ID, web)
			return err
		}, []string{"security_group " + g.ID}},
		{"delete rule", func() error { return p.DeleteRule(ctx, rule.ID) }, []string{"security_group " + g.ID}},
		{"join", func() error { return p.SetAttachmentGroups(ctx, a.ID, []string{g.ID}, 0) }, []string{"attachment " + a.ID, "security_group " + g.ID}},
		{"routes", func() error {
			_, err := p.ReplaceRoutes(ctx, table, []domain.RouteInput{{Destination: "0.0.0.0/0", NextHopID: a.ID}}, 0)
			return err
		}, []string{"route_table " + table, "vpc " + c.vpc.ID}},
		{"no routes", func() error {
			_, err := p.ReplaceRoutes(ctx, table, nil, 0)
			return err
		}, []string{"route_table " + table, "vpc " + c.vpc.ID}},
		{"detach", func() error { return p.DeleteAttachment(ctx, a.ID) }, []string{"attachment " + a.ID, "security_group " + g.ID, "vpc " + c.vpc.ID}},
		{"delete vSwitch", func() error { return p.DeleteVSwitch(ctx, c.h.ID) }, []string{"vpc " + c.vpc.ID, "vswitch " + c.h.ID}},
	} {
		if err := tt.do(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		var got []string
		for _, change := range <-feed {
			if change.Account != p.Account().ID {
				t.Errorf("%s: account %s was told", tt.name, change.Account)
			}
			if change.Kind != domain.KindAudit {
				got = append(got, change.Kind+" "+change.ID)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: told of %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestNetworkAudit checks that a write leaves one entry, with who and what.
func TestNetworkAudit(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	if err := p.RenameVPC(ctx, c.vpc.ID, "centre", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := p.CreateVSwitch(ctx, c.vpc.ID, domain.VSwitchInput{CIDR: "10.0.1.0/24"}); err == nil {
		t.Fatal("a vSwitch that overlaps was made")
	}
	var got []string
	for _, e := range must(p.Audit(ctx, domain.AuditQuery{ResourceID: c.vpc.ID}))(t).Items {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", e.ActorName, e.Action, e.ResourceName, e.Before, e.After))
	}
	want := []string{
		p.User().Name + ` RenameVPC centre {"name":"core"} {"name":"centre"}`,
		p.User().Name + ` CreateVPC core  {"cidr":"10.0.0.0/16","region":"cn-hangzhou","vswitches":2}`,
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
