package domain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gorm.io/gorm"
)

// SecurityGroup holds rules for what may reach the network interfaces of
// endpoints, and names a set of attachments as a peer of rules.
type SecurityGroup struct {
	ID          string `gorm:"primaryKey"`
	AccountID   string
	VPCID       string
	Name        string
	Description string
	Type        string // GroupNormal, GroupEnterprise
	IntraPolicy string // PolicyAccept, PolicyDrop: among members of a normal group
	Demo        bool
	Version     int64
	CreatedAt   time.Time
}

// Types of security groups. An enterprise group names no other groups and never
// lets its members reach each other without a rule.
const (
	GroupNormal     = "normal"
	GroupEnterprise = "enterprise"
)

// Policies of rules.
const (
	PolicyAccept = "accept"
	PolicyDrop   = "drop"
)

// Directions of rules, as seen from the network interface.
const (
	Ingress = "ingress"
	Egress  = "egress"
)

// Protocols of rules.
const (
	ProtocolAll  = "all"
	ProtocolTCP  = "tcp"
	ProtocolUDP  = "udp"
	ProtocolICMP = "icmp"
)

// SecurityRule is one line of a security group.
type SecurityRule struct {
	ID          string `gorm:"primaryKey"`
	AccountID   string
	GroupID     string
	Direction   string // Ingress, Egress
	Priority    int    // 1 to 100, smaller first; at equal priority drop wins
	Policy      string // PolicyAccept, PolicyDrop
	Protocol    string // ProtocolAll and its like
	PortFrom    int    // 1 to 65535, or 0 with PortTo 0 for every port
	PortTo      int
	PeerCIDR    string // source (ingress) or destination (egress); or
	PeerGroupID string // a group of the same VPC
	Description string
	CreatedAt   time.Time
}

// Ports returns the ports as [RuleInput] takes them: "" for every port.
func (r SecurityRule) Ports() string { return formatPorts(r.PortFrom, r.PortTo) }

// Peer returns the range or the id of the group.
func (r SecurityRule) Peer() string { return r.PeerCIDR + r.PeerGroupID }

// same reports whether two rules say the same.
func (r SecurityRule) same(o SecurityRule) bool {
	return r.GroupID == o.GroupID && r.Direction == o.Direction && r.Priority == o.Priority && r.Policy == o.Policy &&
		r.Protocol == o.Protocol && r.PortFrom == o.PortFrom && r.PortTo == o.PortTo && r.Peer() == o.Peer()
}

func (r SecurityRule) String() string {
	ports := r.Ports()
	if ports != "" {
		ports = " " + ports
	}
	return fmt.Sprintf("%s %d %s %s%s %s", r.Direction, r.Priority, r.Policy, r.Protocol, ports, r.Peer())
}

// maxPriority of a rule.
const maxPriority = 100

// maxInterfaceRules bounds the rules of all security groups of an endpoint together.
const maxInterfaceRules = 1000

// maxGroupPeers bounds how many rules of a group name another group.
const maxGroupPeers = 20

// GroupInput is what makes a security group. An empty name gets a generated one.
type GroupInput struct {
	VPCID       string
	Name        string
	Description string
	Type        string // "" is GroupNormal
	Rules       []RuleInput
}

// GroupUpdate is what can be changed of a security group.
type GroupUpdate struct {
	Name        string
	Description string
	IntraPolicy string // "" leaves it as it is
	Version     int64  // that the form showed; 0 is not checked
}

// RuleInput is one line of a security group as people write it.
type RuleInput struct {
	Direction   string
	Priority    int    // 0 is 1, the first
	Policy      string // "" is PolicyAccept
	Protocol    string
	Ports       string // "443", "1000-2000", "" for every port
	Peer        string // a range, an address, or the id of a group of the same VPC
	Description string
}

// GroupSummary is a security group in a list.
type GroupSummary struct {
	SecurityGroup
	VPCName   string
	Rules     int
	Members   int // attachments
	Endpoints int
}

// GroupDetail is a security group with its rules and who has it.
type GroupDetail struct {
	SecurityGroup
	VPCName   string
	Rules     []SecurityRule // inbound first, in the order they are evaluated
	PeerNames map[string]string
	Members   []Attachment // the first 200 by id
	Endpoints []Endpoint   // the first 200 by id
}

// CreateGroup makes a security group in a VPC of the account.
//
// Errors: NotFound for the field vpc_id; Invalid with the fields at fault; Limit.
func (s *Scope) CreateGroup(ctx context.Context, in GroupInput) (*SecurityGroup, error) {
	var g *SecurityGroup
	err := s.write(ctx, WriteNetwork, func(t *tx) (err error) {
		g, err = t.addGroup(in)
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (t *tx) addGroup(in GroupInput) (*SecurityGroup, error) {
	v, err := t.vpc(in.VPCID)
	if err != nil {
		return nil, at("vpc_id", err)
	}
	var have int64
	if err := t.Model(&SecurityGroup{}).Where("account_id = ?", t.account).Count(&have).Error; err != nil {
		return nil, fmt.Errorf("count security groups: %w", err)
	}
	if err := t.quota(t.account, "security_groups", have); err != nil {
		return nil, err
	}
	g := SecurityGroup{
		ID: newID(KindGroup), AccountID: t.account, VPCID: v.ID, Type: in.Type, IntraPolicy: PolicyAccept,
		Demo: v.Demo, Version: 1, CreatedAt: t.now,
	}
	var nameErr, descriptionErr, typeErr error
	g.Name, nameErr = validNameOr(in.Name, g.ID)
	g.Description, descriptionErr = validDescription("description", in.Description)
	switch in.Type {
	case "", GroupNormal:
		g.Type = GroupNormal
	case GroupEnterprise:
		g.IntraPolicy = PolicyDrop
	default:
		typeErr = invalid("type", "invalid_type", "A security group is normal or enterprise.")
	}
	if err := errors.Join(nameErr, descriptionErr, typeErr); err != nil {
		return nil, err
	}
	if err := t.Create(&g).Error; err != nil {
		return nil, fmt.Errorf("create security group: %w", err)
	}
	var faults []error
	var rules []SecurityRule
	for i, line := range in.Rules {
		r, _, err := t.addRule(&g, line)
		if err != nil {
			faults = append(faults, under(fmt.Sprintf("rules.%d", i), err))
			continue
		}
		rules = append(rules, *r)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	t.stale(KindGroup, g.ID)
	t.touched(t.account, KindGroup, g.ID)
	t.touched(t.account, KindVPC, v.ID)
	after := map[string]any{"vpc": v.ID, "type": g.Type, "rules": each(rules, SecurityRule.String)}
	return &g, t.audit("CreateSecurityGroup", KindGroup, g.ID, g.Name, nil, after)
}

// Groups lists the security groups of the account by name. Filter: vpc.
func (s *Scope) Groups(ctx context.Context, q Query) (Page[GroupSummary], error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return Page[GroupSummary]{}, err
	}
	rows := oneOf(matching(db.Where("account_id = ?", s.account.ID), q.Text), "vpc_id", q.Filter["vpc"])
	page, err := paginate(rows, q, order{columns: []string{"name", "id"}}, func(g SecurityGroup) []any { return []any{g.Name, g.ID} })
	if err != nil || len(page.Items) == 0 {
		return Page[GroupSummary]{}, err
	}
	ids := each(page.Items, func(g SecurityGroup) string { return g.ID })
	vpcs, err1 := namesOf(db, KindVPC, each(page.Items, func(g SecurityGroup) string { return g.VPCID }))
	rules, err2 := countBy(db.Model(&SecurityRule{}), "group_id", ids)
	members, err3 := countBy(db.Model(&AttachmentGroup{}), "group_id", ids)
	endpoints, err4 := countBy(db.Model(&EndpointGroup{}), "group_id", ids)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return Page[GroupSummary]{}, err
	}
	return mapPage(page, func(g SecurityGroup) GroupSummary {
		return GroupSummary{SecurityGroup: g, VPCName: vpcs[g.VPCID], Rules: rules[g.ID], Members: members[g.ID], Endpoints: endpoints[g.ID]}
	}), nil
}

// Group returns one security group of the account.
func (s *Scope) Group(ctx context.Context, id string) (*GroupDetail, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	var d GroupDetail
	if err := first(db, KindGroup, &d.SecurityGroup, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
		return nil, err
	}
	if d.Rules, err = rulesOf(db, id); err != nil {
		return nil, err
	}
	vpcs, err1 := namesOf(db, KindVPC, []string{d.VPCID})
	d.VPCName = vpcs[d.VPCID]
	var peers []string
	for _, r := range d.Rules {
		if r.PeerGroupID != "" {
			peers = append(peers, r.PeerGroupID)
		}
	}
	var err2 error
	d.PeerNames, err2 = namesOf(db, KindGroup, peers)
	members := db.Model(&AttachmentGroup{}).Select("attachment_id").Where("group_id = ?", id)
	err3 := db.Where("id IN (?)", members).Order("id").Limit(maxPage).Find(&d.Members).Error
	endpoints := db.Model(&EndpointGroup{}).Select("endpoint_id").Where("group_id = ?", id)
	err4 := db.Where("id IN (?)", endpoints).Order("id").Limit(maxPage).Find(&d.Endpoints).Error
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("read what has the group: %w", err)
	}
	return &d, nil
}

// rulesOf returns the rules of a group, inbound first, in the order they are
// evaluated.
func rulesOf(db *gorm.DB, groupID string) ([]SecurityRule, error) {
	var rules []SecurityRule
	// "drop" follows "accept", "ingress" follows "egress".
	if err := db.Where("group_id = ?", groupID).Order("direction DESC, priority, policy DESC, id").Find(&rules).Error; err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	return rules, nil
}

// UpdateGroup changes a security group of the account.
//
// Errors: NotFound; Invalid with the fields at fault; Conflict if it changed since
// the form was shown.
func (s *Scope) UpdateGroup(ctx context.Context, id string, in GroupUpdate) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		g, err := t.group(id)
		if err != nil {
			return err
		}
		name, nameErr := validNameOr(in.Name, id)
		description, descriptionErr := validDescription("description", in.Description)
		policy := in.IntraPolicy
		if policy == "" {
			policy = g.IntraPolicy
		}
		var policyErr error
		switch {
		case policy != PolicyAccept && policy != PolicyDrop:
			policyErr = invalid("intra_policy", "invalid_policy", "Members of a group accept or drop each other.")
		case g.Type == GroupEnterprise && policy == PolicyAccept:
			policyErr = invalid("intra_policy", "enterprise_group", "Members of an enterprise group are always kept apart. Add a rule for what they may do.")
		}
		if err := errors.Join(nameErr, descriptionErr, policyErr); err != nil {
			return err
		}
		if err := t.edit(KindGroup, id, in.Version, map[string]any{"name": name, "description": description, "intra_policy": policy}); err != nil {
			return err
		}
		t.groupChanged(g)
		return t.audit("UpdateSecurityGroup", KindGroup, id, name,
			map[string]any{"name": g.Name, "description": g.Description, "intra_policy": g.IntraPolicy},
			map[string]any{"name": name, "description": description, "intra_policy": policy})
	})
}

// DeleteGroup removes a security group that nothing has and no other group names.
//
// Errors: NotFound; Conflict that names what uses it.
func (s *Scope) DeleteGroup(ctx context.Context, id string) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		g, err := t.group(id)
		if err != nil {
			return err
		}
		endpoints := t.Model(&EndpointGroup{}).Select("endpoint_id").Where("group_id = ?", id)
		members := t.Model(&AttachmentGroup{}).Select("attachment_id").Where("group_id = ?", id)
		named := t.Model(&SecurityRule{}).Select("group_id").Where("peer_group_id = ? AND group_id <> ?", id, id)
		var u uses
		err = errors.Join(
			u.add(t.Model(&Endpoint{}).Where("id IN (?)", endpoints), KindEndpoint),
			u.add(t.Model(&Attachment{}).Where("id IN (?)", members), KindAttachment),
			u.add(t.Model(&SecurityGroup{}).Where("id IN (?)", named), KindGroup))
		if err == nil {
			err = u.refusal(KindGroup, g.Name)
		}
		if err == nil {
			err = errors.Join(t.remove(&SecurityRule{}, "group_id = ?", id), t.remove(&SecurityGroup{}, "id = ?", id))
		}
		if err != nil {
			return err
		}
		t.groupChanged(g)
		t.touched(s.account.ID, KindVPC, g.VPCID)
		return t.audit("DeleteSecurityGroup", KindGroup, id, g.Name, map[string]any{"vpc": g.VPCID, "type": g.Type}, nil)
	})
}

// AddRule adds a rule to a security group of the account and returns it. One that
// says the same is left as it is and returned instead.
//
// Errors: NotFound; Invalid with the fields at fault; Limit.
func (s *Scope) AddRule(ctx context.Context, groupID string, in RuleInput) (*SecurityRule, error) {
	var r *SecurityRule
	err := s.write(ctx, WriteNetwork, func(t *tx) error {
		g, err := t.group(groupID)
		if err != nil {
			return err
		}
		var added bool
		if r, added, err = t.addRule(g, in); err != nil || !added {
			return err
		}
		t.groupChanged(g)
		return t.audit("AddSecurityGroupRule", KindGroup, g.ID, g.Name, nil, map[string]any{"rule": r.String(), "rule_id": r.ID})
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// UpdateRule replaces what a rule of the account says.
//
// Errors: NotFound; Invalid with the fields at fault; Conflict if another rule of
// the group says the same already.
func (s *Scope) UpdateRule(ctx context.Context, ruleID string, in RuleInput) (*SecurityRule, error) {
	var r SecurityRule
	err := s.write(ctx, WriteNetwork, func(t *tx) error {
		var old SecurityRule
		if err := first(t.DB, KindRule, &old, "id = ? AND account_id = ?", ruleID, s.account.ID); err != nil {
			return err
		}
		g, err := t.group(old.GroupID)
		if err != nil {
			return err
		}
		rules, err := rulesOf(t.DB, g.ID)
		if err != nil {
			return err
		}
		rules = slices.DeleteFunc(rules, func(o SecurityRule) bool { return o.ID == ruleID })
		if r, err = t.parseRule(g, rules, in); err != nil {
			return err
		}
		r.ID, r.CreatedAt = old.ID, old.CreatedAt
		if i := slices.IndexFunc(rules, r.same); i >= 0 {
			return fail(Conflict, "rule_exists", "Rule %s of this group says the same already.", rules[i].ID)
		}
		err = guarded(t.Model(&SecurityRule{}).Where("id = ?", ruleID).Updates(map[string]any{
			"direction": r.Direction, "priority": r.Priority, "policy": r.Policy, "protocol": r.Protocol, "port_from": r.PortFrom,
			"port_to": r.PortTo, "peer_cidr": r.PeerCIDR, "peer_group_id": r.PeerGroupID, "description": r.Description,
		}), KindRule)
		if err != nil {
			return err
		}
		t.groupChanged(g)
		return t.audit("UpdateSecurityGroupRule", KindGroup, g.ID, g.Name,
			map[string]any{"rule": old.String(), "description": old.Description}, map[string]any{"rule": r.String(), "description": r.Description, "rule_id": r.ID})
	})
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// DeleteRule removes a rule of the account. Flows that it let in go on.
func (s *Scope) DeleteRule(ctx context.Context, ruleID string) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		var r SecurityRule
		if err := first(t.DB, KindRule, &r, "id = ? AND account_id = ?", ruleID, s.account.ID); err != nil {
			return err
		}
		g, err := t.group(r.GroupID)
		if err != nil {
			return err
		}
		if err := t.remove(&SecurityRule{}, "id = ?", ruleID); err != nil {
			return err
		}
		t.groupChanged(g)
		return t.audit("DeleteSecurityGroupRule", KindGroup, g.ID, g.Name, map[string]any{"rule": r.String(), "rule_id": r.ID}, nil)
	})
}

// group reads a security group of the transaction's account.
func (t *tx) group(id string) (*SecurityGroup, error) {
	var g SecurityGroup
	return &g, first(t.DB, KindGroup, &g, "id = ? AND account_id = ?", id, t.account)
}

func (t *tx) groupChanged(g *SecurityGroup) {
	t.stale(KindGroup, g.ID)
	t.touched(g.AccountID, KindGroup, g.ID)
}

// addRule adds a rule unless there is one that says the same, which it returns.
func (t *tx) addRule(g *SecurityGroup, in RuleInput) (r *SecurityRule, added bool, err error) {
	rules, err := rulesOf(t.DB, g.ID)
	if err != nil {
		return nil, false, err
	}
	wanted, err := t.parseRule(g, rules, in)
	if err != nil {
		return nil, false, err
	}
	if i := slices.IndexFunc(rules, wanted.same); i >= 0 {
		return &rules[i], false, nil
	}
	if err := t.quota(g.AccountID, "rules_per_group", int64(len(rules))); err != nil {
		return nil, false, err
	}
	if err := t.roomAtEndpoints(g); err != nil {
		return nil, false, err
	}
	wanted.ID, wanted.CreatedAt = newID(KindRule), t.now
	if err := t.Create(&wanted).Error; err != nil {
		return nil, false, fmt.Errorf("create rule: %w", err)
	}
	return &wanted, true, nil
}

// roomAtEndpoints refuses another rule of g if an endpoint that has g has no room
// for it.
func (t *tx) roomAtEndpoints(g *SecurityGroup) error {
	var full []string
	err := t.Raw(`SELECT e.name FROM endpoints e WHERE e.id IN (
			SELECT eg.endpoint_id FROM endpoint_groups eg
			JOIN (SELECT group_id, count(*) AS n FROM security_rules WHERE account_id = ? GROUP BY group_id) r ON r.group_id = eg.group_id
			WHERE eg.endpoint_id IN (SELECT endpoint_id FROM endpoint_groups WHERE group_id = ?)
			GROUP BY eg.endpoint_id HAVING SUM(r.n) >= ?)
		ORDER BY e.name, e.id LIMIT 1`, g.AccountID, g.ID, maxInterfaceRules).Scan(&full).Error
	if err != nil {
		return fmt.Errorf("count rules of endpoints: %w", err)
	}
	if len(full) > 0 {
		return fail(Limit, "too_many_rules", "Endpoint %s has %d rules in its security groups already, which is all it can have.", full[0], maxInterfaceRules)
	}
	return nil
}

// parseRule reads a rule of g; others are the rules it will stand beside.
func (t *tx) parseRule(g *SecurityGroup, others []SecurityRule, in RuleInput) (SecurityRule, error) {
	r := SecurityRule{
		AccountID: g.AccountID, GroupID: g.ID, Direction: in.Direction, Priority: in.Priority, Policy: in.Policy, Protocol: in.Protocol,
	}
	if r.Priority == 0 {
		r.Priority = 1
	}
	if r.Policy == "" {
		r.Policy = PolicyAccept
	}
	var faults []error
	if r.Direction != Ingress && r.Direction != Egress {
		faults = append(faults, invalid("direction", "invalid_direction", "A rule is for ingress or egress."))
	}
	if r.Priority < 1 || r.Priority > maxPriority {
		faults = append(faults, invalid("priority", "invalid_priority", "A priority is 1 to %d; 1 is looked at first.", maxPriority))
	}
	if r.Policy != PolicyAccept && r.Policy != PolicyDrop {
		faults = append(faults, invalid("policy", "invalid_policy", "A rule accepts or drops."))
	}
	var err error
	switch r.Protocol {
	case ProtocolTCP, ProtocolUDP:
		r.PortFrom, r.PortTo, err = parsePorts("ports", in.Ports)
		faults = append(faults, err)
	case ProtocolAll, ProtocolICMP:
		if strings.TrimSpace(in.Ports) != "" {
			faults = append(faults, invalid("ports", "ports_without_protocol", "Only rules for tcp and udp have ports. Leave this empty."))
		}
	default:
		faults = append(faults, invalid("protocol", "invalid_protocol", "A protocol is all, tcp, udp or icmp."))
	}
	faults = append(faults, t.parsePeer(g, others, in.Peer, &r))
	r.Description, err = validDescription("description", in.Description)
	return r, errors.Join(append(faults, err)...)
}

// parsePeer reads the other side of a rule of g into r.
func (t *tx) parsePeer(g *SecurityGroup, others []SecurityRule, peer string, r *SecurityRule) error {
	peer = strings.TrimSpace(peer)
	switch {
	case peer == "":
		return invalid("peer", "missing_peer", "Name a range, 0.0.0.0/0 for everybody, or a security group of the same VPC.")
	case !strings.HasPrefix(peer, prefixes[KindGroup]+"-"):
		if !strings.Contains(peer, "/") {
			a, err := parseAddress("peer", peer)
			r.PeerCIDR = a.String() + "/32"
			return err
		}
		p, err := parseCIDR("peer", peer)
		r.PeerCIDR = p.String()
		return err
	case g.Type == GroupEnterprise:
		return invalid("peer", "enterprise_group", "An enterprise group cannot name other groups. Name a range instead.")
	}
	if err := first(t.DB, KindGroup, &SecurityGroup{}, "id = ? AND account_id = ? AND vpc_id = ?", peer, g.AccountID, g.VPCID); err != nil {
		return at("peer", err)
	}
	r.PeerGroupID = peer
	named := map[string]bool{peer: true}
	for _, o := range others {
		if o.PeerGroupID != "" {
			named[o.PeerGroupID] = true
		}
	}
	if len(named) > maxGroupPeers {
		return invalid("peer", "too_many_groups", "The rules of a group can name %d other groups, and do already.", maxGroupPeers)
	}
	return nil
}

// parsePorts reads "443", "1000-2000" or "", which is every port and 0, 0.
func parsePorts(field, s string) (from, to int, err error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, 0, nil
	}
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	from, ok1 := parsePort(low)
	to, ok2 := parsePort(high)
	if !ok1 || !ok2 {
		return 0, 0, invalid(field, "invalid_ports", "Ports are one from 1 to 65535, a range such as 1000-2000, or nothing for every port.")
	}
	if from > to {
		return 0, 0, invalid(field, "invalid_ports", "The range of ports ends before it begins.")
	}
	return from, to, nil
}

// parsePort reads a number from 1 to 65535 in decimal digits.
func parsePort(s string) (int, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	return int(n), err == nil && n > 0
}

// formatPorts is the inverse of parsePorts.
func formatPorts(from, to int) string {
	switch {
	case from == 0 && to == 0:
		return ""
	case from == to:
		return strconv.Itoa(from)
	default:
		return fmt.Sprintf("%d-%d", from, to)
	}
}
