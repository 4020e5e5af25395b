package domain_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// web is a rule that every test may add.
var web = domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolTCP, Ports: "443", Peer: "0.0.0.0/0"}

func TestCreateGroup(t *testing.T) {
	c := newCampus(t)
	tests := []struct {
		name string
		in   domain.GroupInput
		want string
	}{
		{"normal", domain.GroupInput{Name: "web", Rules: []domain.RuleInput{web}}, ""},
		{"enterprise", domain.GroupInput{Type: domain.GroupEnterprise}, ""},
		{"type", domain.GroupInput{Type: "huge"}, "type: invalid_type"},
		{"name and description", domain.GroupInput{Name: "_", Description: "https://example.com"}, "name: invalid_name, description: invalid_description"},
		{
			"rules",
			domain.GroupInput{Rules: []domain.RuleInput{web, {Direction: "up", Protocol: "tcp", Ports: "0", Peer: "x"}}},
			"rules.1.direction: invalid_direction, rules.1.ports: invalid_ports, rules.1.peer: invalid_address",
		},
		{"no VPC", domain.GroupInput{VPCID: "vpc-none"}, "vpc_id: vpc_not_found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.VPCID == "" {
				tt.in.VPCID = c.vpc.ID
			}
			g, err := c.Provider.CreateGroup(t.Context(), tt.in)
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q: %v", got, tt.want, err)
			}
			if err != nil {
				return
			}
			policy := map[string]string{domain.GroupNormal: domain.PolicyAccept, domain.GroupEnterprise: domain.PolicyDrop}[g.Type]
			if d := must(c.Provider.Group(t.Context(), g.ID))(t); len(d.Rules) != len(tt.in.Rules) || d.IntraPolicy != policy || d.VPCName != "core" {
				t.Errorf("got %+v", d)
			}
		})
	}
}

func TestRules(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	normal := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "normal"}))(t)
	peer := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "peer"}))(t)
	enterprise := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "strict", Type: domain.GroupEnterprise}))(t)
	elsewhere := must(p.CreateVPC(ctx, domain.VPCInput{Name: "elsewhere", RegionID: domaintest.Region, CIDR: "10.0.0.0/16"}))(t)
	foreign := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: elsewhere.ID, Name: "foreign"}))(t)

	with := func(change func(*domain.RuleInput)) domain.RuleInput {
		r := web
		change(&r)
		return r
	}
	tests := []struct {
		name  string
		group string
		in    domain.RuleInput
		want  string // the rule, or the fault
	}{
		{"plain", normal.ID, web, "ingress 1 accept tcp 443 0.0.0.0/0"},
		{"range of ports", normal.ID, with(func(r *domain.RuleInput) { r.Ports = " 1000 - 2000 " }), "ingress 1 accept tcp 1000-2000 0.0.0.0/0"},
		{"every port", normal.ID, with(func(r *domain.RuleInput) { r.Ports = "" }), "ingress 1 accept tcp 0.0.0.0/0"},
		{"one address", normal.ID, with(func(r *domain.RuleInput) { r.Peer = "10.0.1.7" }), "ingress 1 accept tcp 443 10.0.1.7/32"},
		{"group", normal.ID, with(func(r *domain.RuleInput) { r.Peer = peer.ID }), "ingress 1 accept tcp 443 " + peer.ID},
		{"itself", normal.ID, with(func(r *domain.RuleInput) { r.Peer = normal.ID }), "ingress 1 accept tcp 443 " + normal.ID},
		{"last priority", normal.ID, with(func(r *domain.RuleInput) { r.Priority, r.Policy = 100, domain.PolicyDrop }), "ingress 100 drop tcp 443 0.0.0.0/0"},
		{"outbound", enterprise.ID, with(func(r *domain.RuleInput) { r.Direction = domain.Egress }), "egress 1 accept tcp 443 0.0.0.0/0"},
		{"ping", normal.ID, domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolICMP, Peer: "10.0.0.0/8"}, "ingress 1 accept icmp 10.0.0.0/8"},

		{"priority", normal.ID, with(func(r *domain.RuleInput) { r.Priority = 101 }), "priority: invalid_priority"},
		{"negative priority", normal.ID, with(func(r *domain.RuleInput) { r.Priority = -1 }), "priority: invalid_priority"},
		{"direction", normal.ID, with(func(r *domain.RuleInput) { r.Direction = "" }), "direction: invalid_direction"},
		{"policy", normal.ID, with(func(r *domain.RuleInput) { r.Policy = "maybe" }), "policy: invalid_policy"},
		{"protocol", normal.ID, with(func(r *domain.RuleInput) { r.Protocol = "gre" }), "protocol: invalid_protocol"},
		{"ports of all", normal.ID, with(func(r *domain.RuleInput) { r.Protocol = domain.ProtocolAll }), "ports: ports_without_protocol"},
		{"port 0", normal.ID, with(func(r *domain.RuleInput) { r.Ports = "0" }), "ports: invalid_ports"},
		{"port 65536", normal.ID, with(func(r *domain.RuleInput) { r.Ports = "65536" }), "ports: invalid_ports"},
		{"ports backwards", normal.ID, with(func(r *domain.RuleInput) { r.Ports = "2000-1000" }), "ports: invalid_ports"},
		{"open range", normal.ID, with(func(r *domain.RuleInput) { r.Ports = "1000-" }), "ports: invalid_ports"},
		{"no peer", normal.ID, with(func(r *domain.RuleInput) { r.Peer = " " }), "peer: missing_peer"},
		{"host bits", normal.ID, with(func(r *domain.RuleInput) { r.Peer = "10.0.1.7/24" }), "peer: invalid_cidr"},
		{"group of another VPC", normal.ID, with(func(r *domain.RuleInput) { r.Peer = foreign.ID }), "peer: security_group_not_found"},
		{"group of an enterprise group", enterprise.ID, with(func(r *domain.RuleInput) { r.Peer = peer.ID }), "peer: enterprise_group"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r *domain.SecurityRule
			var err error
			stale := c.staleSince(t, func() { r, err = p.AddRule(ctx, tt.group, tt.in) })
			got := faults(err)
			if err == nil {
				got = r.String()
				if want := []string{"security_group " + tt.group}; !slices.Equal(stale, want) {
					t.Errorf("stale: %v, want %v", stale, want)
				}
			}
			if got != tt.want {
				t.Fatalf("got %q, want %q: %v", got, tt.want, err)
			}
		})
	}
}

// TestSameRule adds a rule several times at once: it is there once, and everybody
// is told that it is.
func TestSameRule(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID}))(t)
	ids := make([]string, 5)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			in := web
			in.Description = fmt.Sprint("by caller ", i)
			r, err := p.AddRule(ctx, g.ID, in)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.ID
		})
	}
	wg.Wait()
	rules := must(p.Group(ctx, g.ID))(t).Rules
	if len(rules) != 1 || slices.ContainsFunc(ids, func(id string) bool { return id != rules[0].ID }) {
		t.Errorf("callers got %v, the rules are %v", ids, rules)
	}
	var twice *domain.SecurityRule
	if stale := c.staleSince(t, func() { twice = must(p.AddRule(ctx, g.ID, web))(t) }); len(stale) != 0 {
		t.Errorf("nothing was added, and the engine has to look at %v", stale)
	}
	if twice.ID != rules[0].ID {
		t.Errorf("got %s, want %s", twice.ID, rules[0].ID)
	}
}

func TestUpdateAndDeleteRule(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID}))(t)
	first := must(p.AddRule(ctx, g.ID, web))(t)
	ssh := domain.RuleInput{Direction: domain.Ingress, Priority: 2, Policy: domain.PolicyDrop, Protocol: domain.ProtocolTCP, Ports: "22", Peer: "0.0.0.0/0"}
	second := must(p.AddRule(ctx, g.ID, ssh))(t)

	if _, err := p.UpdateRule(ctx, second.ID, web); reason(err) != "rule_exists" || domain.KindOf(err) != domain.Conflict {
		t.Errorf("made the same as the other: %v", err)
	}
	ssh.Peer, ssh.Description = "10.0.0.0/8", "from inside"
	got := must(p.UpdateRule(ctx, second.ID, ssh))(t)
	if got.ID != second.ID || got.Peer() != "10.0.0.0/8" {
		t.Errorf("got %+v", got)
	}
	same := must(p.UpdateRule(ctx, second.ID, ssh))(t) // as it is already
	rules := must(p.Group(ctx, g.ID))(t).Rules
	if diff := gocmp.Diff(*same, rules[1]); diff != "" {
		t.Errorf("the rule returned is not the one stored:\n%s", diff)
	}
	stale := c.staleSince(t, func() {
		if err := p.DeleteRule(ctx, first.ID); err != nil {
			t.Fatal(err)
		}
	})
	if want := []string{"security_group " + g.ID}; !slices.Equal(stale, want) {
		t.Errorf("stale: %v, want %v", stale, want)
	}
	if err := p.DeleteRule(ctx, first.ID); domain.KindOf(err) != domain.NotFound {
		t.Errorf("deleted twice: %v", err)
	}
	if rules := must(p.Group(ctx, g.ID))(t).Rules; len(rules) != 1 || rules[0].ID != second.ID {
		t.Errorf("left: %v", rules)
	}
}

func TestRuleOrder(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	var in []domain.RuleInput
	for _, direction := range []string{domain.Egress, domain.Ingress} {
		for _, priority := range []int{2, 1} {
			for _, policy := range []string{domain.PolicyAccept, domain.PolicyDrop} {
				in = append(in, domain.RuleInput{Direction: direction, Priority: priority, Policy: policy, Protocol: domain.ProtocolAll, Peer: "0.0.0.0/0"})
			}
		}
	}
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Rules: in}))(t)
	var got []string
	for _, r := range must(p.Group(ctx, g.ID))(t).Rules {
		got = append(got, fmt.Sprint(r.Direction, " ", r.Priority, " ", r.Policy))
	}
	want := []string{
		"ingress 1 drop", "ingress 1 accept", "ingress 2 drop", "ingress 2 accept",
		"egress 1 drop", "egress 1 accept", "egress 2 drop", "egress 2 accept",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestGroupLimits(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "many"}))(t)
	rule := func(peer string) error {
		_, err := p.AddRule(ctx, g.ID, domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolAll, Peer: peer})
		return err
	}
	for i := range 20 {
		other := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: fmt.Sprint("peer-", i)}))(t)
		if err := rule(other.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := rule(g.ID); faults(err) != "peer: too_many_groups" {
		t.Errorf("a 21st group: %v", err)
	}
	if err := c.Operator.SetQuota(ctx, p.Account().ID, "rules_per_group", 21); err != nil {
		t.Fatal(err)
	}
	if err := rule("10.0.0.0/8"); err != nil {
		t.Error(err)
	}
	if err := rule("10.1.0.0/16"); domain.KindOf(err) != domain.Limit {
		t.Errorf("over the quota: %v", err)
	}
	if err := rule("10.0.0.0/8"); err != nil {
		t.Errorf("a rule that is there already needs no room: %v", err)
	}
}

// All security groups of an endpoint have 1,000 rules together at most.
func TestRulesOfAnEndpoint(t *testing.T) {
	m := newMarket(t)
	ctx, c := t.Context(), m.Consumer
	full := func(name string) string {
		in := domain.GroupInput{VPCID: m.shop.ID, Name: name}
		for i := range 200 {
			in.Rules = append(in.Rules, domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolAll, Peer: fmt.Sprintf("10.0.0.%d", i)})
		}
		return must(c.CreateGroup(ctx, in))(t).ID
	}
	var five []string
	for i := range 5 {
		five = append(five, full(fmt.Sprint("full-", i)))
	}
	one := must(c.CreateGroup(ctx, domain.GroupInput{VPCID: m.shop.ID, Name: "one", Rules: []domain.RuleInput{web}}))(t).ID
	empty := must(c.CreateGroup(ctx, domain.GroupInput{VPCID: m.shop.ID, Name: "empty"}))(t).ID
	ep := m.ask(t, "to-orders", m.sh)
	set := func(groups ...string) error {
		return c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{GroupIDs: &groups})
	}
	check(t, set(append(slices.Clone(five), empty)...))
	if got := faults(set(append(slices.Clone(five), one)...)); got != "group_ids: too_many_rules" {
		t.Errorf("1,001 rules: %s", got)
	}
	_, err := c.AddRule(ctx, empty, web)
	fails(t, err, domain.Limit, "too_many_rules")
	if !strings.Contains(err.Error(), "to-orders") {
		t.Errorf("it is not said which endpoint is full: %v", err)
	}
	check(t, set(append(slices.Clone(five[1:]), empty)...))
	must(c.AddRule(ctx, empty, web))(t)
}

func TestUpdateGroup(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "web", Description: "old"}))(t)
	strict := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "strict", Type: domain.GroupEnterprise}))(t)
	stale := c.staleSince(t, func() {
		if err := p.UpdateGroup(ctx, g.ID, domain.GroupUpdate{Name: "front", IntraPolicy: domain.PolicyDrop, Version: 1}); err != nil {
			t.Fatal(err)
		}
	})
	if want := []string{"security_group " + g.ID}; !slices.Equal(stale, want) {
		t.Errorf("stale: %v, want %v", stale, want)
	}
	if d := must(p.Group(ctx, g.ID))(t); d.Name != "front" || d.Description != "" || d.IntraPolicy != domain.PolicyDrop || d.Version != 2 {
		t.Errorf("got %+v", d.SecurityGroup)
	}
	if err := p.UpdateGroup(ctx, g.ID, domain.GroupUpdate{Name: "late", Version: 1}); reason(err) != "security_group_changed" {
		t.Errorf("with the old version: %v", err)
	}
	if err := p.UpdateGroup(ctx, g.ID, domain.GroupUpdate{Name: "x", IntraPolicy: "maybe"}); faults(err) != "name: invalid_name, intra_policy: invalid_policy" {
		t.Errorf("bad fields: %v", err)
	}
	if err := p.UpdateGroup(ctx, strict.ID, domain.GroupUpdate{Name: "strict", IntraPolicy: domain.PolicyAccept}); faults(err) != "intra_policy: enterprise_group" {
		t.Errorf("members of an enterprise group: %v", err)
	}
	if err := p.UpdateGroup(ctx, strict.ID, domain.GroupUpdate{Name: "stricter"}); err != nil {
		t.Errorf("the policy left as it is: %v", err)
	}
}

func TestDeleteGroup(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	account := p.Account().ID
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "web"}))(t)
	must(p.AddRule(ctx, g.ID, domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolAll, Peer: g.ID}))(t)
	a := c.managed(t, c.h, "client", "", g.ID)
	other := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID, Name: "other"}))(t)
	r := must(p.AddRule(ctx, other.ID, domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolAll, Peer: g.ID}))(t)
	c.insert(t, &domain.Endpoint{ID: "ep-1", AccountID: account, VPCID: c.vpc.ID, Name: "to-orders"},
		&domain.EndpointGroup{EndpointID: "ep-1", GroupID: g.ID, AccountID: account})

	sum := must(p.Groups(ctx, domain.Query{Text: "web", Filter: map[string][]string{"vpc": {c.vpc.ID, "vpc-none"}}}))(t).Items
	if len(sum) != 1 || sum[0].Rules != 1 || sum[0].Members != 1 || sum[0].Endpoints != 1 || sum[0].VPCName != "core" {
		t.Errorf("list: %+v", sum)
	}
	d := must(p.Group(ctx, g.ID))(t)
	if len(d.Members) != 1 || d.Members[0].ID != a.ID || len(d.Endpoints) != 1 || d.PeerNames[g.ID] != "web" {
		t.Errorf("detail: %+v", d)
	}
	err := p.DeleteGroup(ctx, g.ID)
	if domain.KindOf(err) != domain.Conflict || reason(err) != "security_group_in_use" {
		t.Fatalf("got %v, want a Conflict", err)
	}
	for _, want := range []string{"endpoint to-orders (ep-1)", "attachment client (" + a.ID + ")", "security group other (" + other.ID + ")"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if err := c.Store.DB().Where("endpoint_id = ?", "ep-1").Delete(&domain.EndpointGroup{}).Error; err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{p.DeleteRule(ctx, r.ID), p.SetAttachmentGroups(ctx, a.ID, nil, 0), p.DeleteGroup(ctx, g.ID)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Group(ctx, g.ID); domain.KindOf(err) != domain.NotFound {
		t.Errorf("it is still there: %v", err)
	}
}
