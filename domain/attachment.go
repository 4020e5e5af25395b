package domain

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// Attachment is a workload of a VPC.
type Attachment struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	VPCID     string
	VSwitchID string // "" for a host service
	Name      string
	Kind      string // AttachManaged and its like
	Address   string // in the vSwitch; "" for a host service
	OfferID   string // for all but managed ones
	HostPort  int    // port of the offer's host address: host service, published port
	TargetIP  string // published port: where it leads inside the VPC
	Target    int
	Command   string // JSON; only the demo's own servers have one
	Demo      bool
	Version   int64
	CreatedAt time.Time

	EngineUp    bool // as last observed
	EngineError string
}

// Kinds of attachments.
const (
	AttachManaged   = "managed"
	AttachAdopted   = "adopted"
	AttachInterface = "interface"
	AttachHost      = "host_service"
	AttachPort      = "published_port"
)

// AttachmentGroup puts an attachment into a security group; at most five each.
type AttachmentGroup struct {
	AttachmentID string `gorm:"primaryKey"`
	GroupID      string `gorm:"primaryKey"`
	AccountID    string
}

// Offer lets an account use an object of the host. Only operators make them, so
// that no tenant ever names a path, a device or an address of the host.
type Offer struct {
	ID        string `gorm:"primaryKey"`
	AccountID string // who may use it; "" for every account
	Label     string // what tenants see
	Kind      string // AttachAdopted, AttachInterface, AttachHost, AttachPort
	Path      string // adopted: file of the namespace
	Inode     uint64
	Device    string // interface
	DeviceNo  int
	HostIP    string // host service, published port
	PortFrom  int    // and which ports; both 0 for any
	PortTo    int
	Demo      bool
	CreatedAt time.Time
}

// exclusive reports whether only one attachment can have an offer of the kind.
func exclusive(kind string) bool { return kind == AttachAdopted || kind == AttachInterface }

// AttachmentInput is what makes an attachment. Which fields a kind needs:
//
//	managed                  VSwitchID
//	adopted, interface       VSwitchID, OfferID
//	host_service             OfferID, HostPort
//	published_port           VSwitchID, OfferID, HostPort, TargetIP, TargetPort
//
// An empty name gets a generated one, an empty address is the lowest free one, and
// a HostPort of 0 is the offer's, if that is a single port.
type AttachmentInput struct {
	VPCID      string
	VSwitchID  string
	Name       string
	Kind       string
	Address    string
	OfferID    string
	HostPort   int
	TargetIP   string
	TargetPort int
	GroupIDs   []string // at most five, of the same VPC

	// Command is run inside a managed attachment. Only the program itself may set it.
	Command []string
}

// AttachmentSummary is an attachment in a list.
type AttachmentSummary struct {
	Attachment
	VPCName     string
	VSwitchName string
	ZoneID      string
	OfferLabel  string
	Groups      int
}

// AttachmentDetail is an attachment and what has to do with it.
type AttachmentDetail struct {
	Attachment
	VPC        VPC
	VSwitch    *VSwitch // nil for a host service
	Groups     []SecurityGroup
	Servers    []AttachmentTarget
	Routes     []Route // whose next hop it is
	OfferLabel string
}

// AttachmentTarget is a target that leads to an attachment.
type AttachmentTarget struct {
	Server
	GroupName string
}

// OfferView is an offer as tenants see it.
type OfferView struct {
	ID    string
	Label string
	Kind  string
	Host  string // address, for host services and published ports
	Ports string // as [RuleInput] has them: "" for every port
	InUse bool   // it is one of which only one attachment can be made, and is made
}

// CreateAttachment attaches a workload to a VPC of the account.
//
// Errors: NotFound for the fields vpc_id, vswitch_id, offer_id, group_ids; Invalid
// with the fields at fault; Conflict for an offer or a host port that is in use;
// Limit.
func (s *Scope) CreateAttachment(ctx context.Context, in AttachmentInput) (*Attachment, error) {
	var a *Attachment
	err := s.write(ctx, WriteNetwork, func(t *tx) (err error) {
		a, err = t.attach(in)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (t *tx) attach(in AttachmentInput) (*Attachment, error) {
	v, err := t.vpc(in.VPCID)
	if err != nil {
		return nil, at("vpc_id", err)
	}
	var have int64
	if err := t.Model(&Attachment{}).Where("vpc_id = ?", v.ID).Count(&have).Error; err != nil {
		return nil, fmt.Errorf("count attachments: %w", err)
	}
	if err := t.quota(t.account, "attachments_per_vpc", have); err != nil {
		return nil, err
	}
	a := Attachment{
		ID: newID(KindAttachment), AccountID: t.account, VPCID: v.ID, VSwitchID: in.VSwitchID, Kind: in.Kind, OfferID: in.OfferID,
		HostPort: in.HostPort, Demo: v.Demo, Version: 1, CreatedAt: t.now,
	}
	if !slices.Contains([]string{AttachManaged, AttachAdopted, AttachInterface, AttachHost, AttachPort}, in.Kind) {
		return nil, invalid("kind", "invalid_kind", "An attachment is managed, adopted, an interface, a host service or a published port.")
	}
	a.Name, err = validNameOr(in.Name, a.ID)
	faults := []error{err, t.chooseOffer(&a), chooseTarget(&a, v, in), t.setCommand(&a, in.Command)}
	if a.Kind == AttachHost {
		faults = append(faults, hostServiceHas(in))
	} else {
		a.Address, err = take(t, v.ID, in.VSwitchID, in.Address, KindAttachment, a.ID)
		faults = append(faults, err)
	}
	groups, err := t.groupsOf(v.ID, in.GroupIDs)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	if err := t.Create(&a).Error; err != nil {
		return nil, fmt.Errorf("create attachment: %w", err)
	}
	if err := t.joinGroups(&a, groups); err != nil {
		return nil, err
	}
	t.stale(KindVPC, v.ID)
	t.touched(t.account, KindAttachment, a.ID)
	t.touched(t.account, KindVPC, v.ID)
	return &a, t.audit("CreateAttachment", KindAttachment, a.ID, a.Name, nil, map[string]any{
		"vpc": v.ID, "vswitch": a.VSwitchID, "kind": a.Kind, "address": a.Address, "offer": a.OfferID, "host_port": a.HostPort, "groups": groups,
	})
}

// chooseOffer checks the offer of an attachment and its port of the host.
func (t *tx) chooseOffer(a *Attachment) error {
	if a.Kind == AttachManaged {
		if a.OfferID != "" {
			return invalid("offer_id", "offer_not_wanted", "A managed attachment is made by us: it needs no offer.")
		}
		return portOfHost(a, nil)
	}
	if a.OfferID == "" {
		return invalid("offer_id", "missing_offer", "Choose one of the offers of this installation's operators.")
	}
	var o Offer
	if err := first(t.DB, KindOffer, &o, "id = ? AND account_id IN ('', ?)", a.OfferID, t.account); err != nil {
		return at("offer_id", err)
	}
	if o.Kind != a.Kind {
		return invalid("offer_id", "offer_kind", "The offer %s is not for this kind of attachment.", o.Label)
	}
	if err := portOfHost(a, &o); err != nil {
		return err
	}
	// Locked, because other accounts have the same host: who wants the same object or
	// port at the same time waits and sees.
	var offers []Offer
	if err := locked(t.DB).Where("kind = ?", o.Kind).Order("id").Find(&offers).Error; err != nil {
		return fmt.Errorf("list offers: %w", err)
	}
	if !slices.ContainsFunc(offers, func(other Offer) bool { return other.ID == o.ID }) { // withdrawn meanwhile
		return at("offer_id", missing(KindOffer))
	}
	switch {
	case exclusive(o.Kind):
		return t.unused("offer_id", "offer_in_use", "The offer "+o.Label, "offer_id = ?", o.ID)
	case o.Kind == AttachPort:
		var same []string // offers with an address in common
		for _, other := range offers {
			if other.HostIP == o.HostIP || anyAddress(other.HostIP) || anyAddress(o.HostIP) {
				same = append(same, other.ID)
			}
		}
		what := fmt.Sprintf("Port %d of %s", a.HostPort, o.Label)
		return t.unused("host_port", "port_in_use", what, "kind = ? AND host_port = ? AND offer_id IN ?", AttachPort, a.HostPort, same)
	}
	return nil
}

func anyAddress(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && a.IsUnspecified()
}

// unused refuses what an attachment has already. One of another account is not
// named.
func (t *tx) unused(field, reason, what, where string, args ...any) error {
	var by Attachment
	err := t.Where(where, args...).Order("id").Take(&by).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up attachment: %w", err)
	}
	who := "another account"
	if by.AccountID == t.account {
		who = fmt.Sprintf("attachment %s (%s)", by.Name, by.ID)
	}
	return &Error{Kind: Conflict, Reason: reason, Field: field, Message: fmt.Sprintf("%s is in use by %s.", what, who)}
}

// portOfHost checks the port of the host that an attachment of an offer uses.
func portOfHost(a *Attachment, o *Offer) error {
	if a.Kind != AttachHost && a.Kind != AttachPort {
		if a.HostPort != 0 {
			return invalid("host_port", "port_not_wanted", "Only host services and published ports have a port of the host.")
		}
		return nil
	}
	anyPort := o.PortFrom == 0 && o.PortTo == 0
	if a.HostPort == 0 && !anyPort && o.PortFrom == o.PortTo {
		a.HostPort = o.PortFrom
	}
	if a.HostPort < 1 || a.HostPort > 65535 {
		return invalid("host_port", "invalid_port", "A port is 1 to 65535.")
	}
	if !anyPort && (a.HostPort < o.PortFrom || a.HostPort > o.PortTo) {
		return invalid("host_port", "port_not_offered", "%s is offered with port %s.", o.Label, formatPorts(o.PortFrom, o.PortTo))
	}
	return nil
}

// chooseTarget checks where a published port leads.
func chooseTarget(a *Attachment, v *VPC, in AttachmentInput) error {
	if a.Kind != AttachPort {
		if in.TargetIP != "" || in.TargetPort != 0 {
			return invalid("target_ip", "target_not_wanted", "Only a published port leads to a target.")
		}
		return nil
	}
	ip, err := parseAddress("target_ip", in.TargetIP)
	if err == nil && !stored(v.CIDR).Contains(ip) {
		err = invalid("target_ip", "address_outside", "%s is not in VPC %s, %s.", ip, v.Name, v.CIDR)
	}
	var portErr error
	if in.TargetPort < 1 || in.TargetPort > 65535 {
		portErr = invalid("target_port", "invalid_port", "A port is 1 to 65535.")
	}
	a.TargetIP, a.Target = ip.String(), in.TargetPort
	return errors.Join(err, portErr)
}

// hostServiceHas refuses what a service of the host has no place for.
func hostServiceHas(in AttachmentInput) error {
	const message = "A host service stays outside the VPC: it has no vSwitch, address or security group there."
	var faults []error
	if in.VSwitchID != "" {
		faults = append(faults, invalid("vswitch_id", "vswitch_not_wanted", message))
	}
	if in.Address != "" {
		faults = append(faults, invalid("address", "address_not_wanted", message))
	}
	if strings.Join(in.GroupIDs, "") != "" {
		faults = append(faults, invalid("group_ids", "groups_not_wanted", message))
	}
	return errors.Join(faults...)
}

func (t *tx) setCommand(a *Attachment, command []string) error {
	if len(command) == 0 {
		return nil
	}
	if t.by.Kind != ActorSystem || a.Kind != AttachManaged {
		return fail(Denied, "command_not_allowed", "Only the program itself gives commands to managed attachments.")
	}
	b, err := json.Marshal(command)
	a.Command = string(b)
	return err
}

// groupsOf checks that ids are security groups of a VPC of the account that one
// network interface can have together, and returns them sorted, each once.
func (t *tx) groupsOf(vpcID string, ids []string) ([]string, error) {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "" })
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 {
		return nil, nil
	}
	if err := t.quota(t.account, "groups_per_attachment", int64(len(ids))-1); err != nil {
		return nil, at("group_ids", err)
	}
	var groups []SecurityGroup
	if err := oneOf(t.Where("vpc_id = ? AND account_id = ?", vpcID, t.account), "id", ids).Find(&groups).Error; err != nil {
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
	return ids, nil
}

// joinGroups puts an attachment into groups.
func (t *tx) joinGroups(a *Attachment, groups []string) error {
	if len(groups) == 0 {
		return nil
	}
	rows := each(groups, func(id string) AttachmentGroup {
		return AttachmentGroup{AttachmentID: a.ID, GroupID: id, AccountID: a.AccountID}
	})
	if err := t.Create(&rows).Error; err != nil {
		return fmt.Errorf("join security groups: %w", err)
	}
	t.membersChanged(groups)
	return nil
}

// membersChanged notes that other attachments than before are in the groups.
func (t *tx) membersChanged(groups []string) {
	t.stale(KindGroup, groups...)
	for _, id := range groups {
		t.touched(t.account, KindGroup, id)
	}
}

// attachment reads an attachment of the transaction's account and its groups.
func (t *tx) attachment(id string) (*Attachment, []string, error) {
	var a Attachment
	if err := first(t.DB, KindAttachment, &a, "id = ? AND account_id = ?", id, t.account); err != nil {
		return nil, nil, err
	}
	var groups []string
	if err := t.Model(&AttachmentGroup{}).Where("attachment_id = ?", id).Order("group_id").Pluck("group_id", &groups).Error; err != nil {
		return nil, nil, fmt.Errorf("read groups of attachment: %w", err)
	}
	return &a, groups, nil
}

// Attachments lists the attachments of the account by name. Filter: vpc, kind.
func (s *Scope) Attachments(ctx context.Context, q Query) (Page[AttachmentSummary], error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return Page[AttachmentSummary]{}, err
	}
	rows := oneOf(matching(db.Where("account_id = ?", s.account.ID), q.Text), "vpc_id", q.Filter["vpc"])
	page, err := paginate(oneOf(rows, "kind", q.Filter["kind"]), q, order{columns: []string{"name", "id"}},
		func(a Attachment) []any { return []any{a.Name, a.ID} })
	if err != nil || len(page.Items) == 0 {
		return Page[AttachmentSummary]{}, err
	}
	vpcs, err1 := namesOf(db, KindVPC, each(page.Items, func(a Attachment) string { return a.VPCID }))
	groups, err2 := countBy(db.Model(&AttachmentGroup{}), "attachment_id", each(page.Items, func(a Attachment) string { return a.ID }))
	var switches []VSwitch
	err3 := db.Where("id IN ?", each(page.Items, func(a Attachment) string { return a.VSwitchID })).Find(&switches).Error
	var offers []Offer
	err4 := db.Select("id", "label").Where("id IN ?", each(page.Items, func(a Attachment) string { return a.OfferID })).Find(&offers).Error
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return Page[AttachmentSummary]{}, fmt.Errorf("list attachments: %w", err)
	}
	return mapPage(page, func(a Attachment) AttachmentSummary {
		sum := AttachmentSummary{Attachment: a, VPCName: vpcs[a.VPCID], Groups: groups[a.ID]}
		if i := slices.IndexFunc(switches, func(v VSwitch) bool { return v.ID == a.VSwitchID }); i >= 0 {
			sum.VSwitchName, sum.ZoneID = switches[i].Name, switches[i].ZoneID
		}
		if i := slices.IndexFunc(offers, func(o Offer) bool { return o.ID == a.OfferID }); i >= 0 {
			sum.OfferLabel = offers[i].Label
		}
		return sum
	}), nil
}

// Attachment returns one attachment of the account.
func (s *Scope) Attachment(ctx context.Context, id string) (*AttachmentDetail, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	var d AttachmentDetail
	if err := first(db, KindAttachment, &d.Attachment, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
		return nil, err
	}
	if err := first(db, KindVPC, &d.VPC, "id = ?", d.VPCID); err != nil {
		return nil, err
	}
	if d.VSwitchID != "" {
		d.VSwitch = new(VSwitch)
		if err := first(db, KindVSwitch, d.VSwitch, "id = ?", d.VSwitchID); err != nil {
			return nil, err
		}
	}
	groups := db.Model(&AttachmentGroup{}).Select("group_id").Where("attachment_id = ?", id)
	err = errors.Join(
		db.Where("id IN (?)", groups).Order("name").Order("id").Find(&d.Groups).Error,
		targetsOf(db, &d.Attachment).Select("servers.*, server_groups.name AS group_name").Order("servers.id").Scan(&d.Servers).Error,
		db.Where("next_hop_id = ?", id).Order("destination").Find(&d.Routes).Error,
		db.Model(&Offer{}).Select("label").Where("id = ?", d.OfferID).Limit(1).Scan(&d.OfferLabel).Error)
	if err != nil {
		return nil, fmt.Errorf("read what has to do with the attachment: %w", err)
	}
	return &d, nil
}

// targetsOf selects the servers that lead to an attachment, with their groups.
func targetsOf(db *gorm.DB, a *Attachment) *gorm.DB {
	q := db.Model(&Server{}).Joins("JOIN server_groups ON server_groups.id = servers.server_group_id").Where("server_groups.vpc_id = ?", a.VPCID)
	if a.Address == "" {
		return q.Where("servers.attachment_id = ?", a.ID)
	}
	return q.Where("(servers.attachment_id = ? OR servers.address = ?)", a.ID, a.Address)
}

// SetAttachmentGroups replaces the security groups of an attachment. version is
// what the form showed, or 0.
//
// Errors: NotFound, also for the field group_ids; Invalid; Limit; Conflict if the
// attachment changed since the form was shown.
func (s *Scope) SetAttachmentGroups(ctx context.Context, id string, groups []string, version int64) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		a, before, err := t.attachment(id)
		if err != nil {
			return err
		}
		if a.Kind == AttachHost {
			return hostServiceHas(AttachmentInput{GroupIDs: groups})
		}
		groups, err := t.groupsOf(a.VPCID, groups)
		if err != nil {
			return err
		}
		if err := t.edit(KindAttachment, id, version, map[string]any{}); err != nil {
			return err
		}
		if err := t.remove(&AttachmentGroup{}, "attachment_id = ?", id); err != nil {
			return err
		}
		if err := t.joinGroups(a, groups); err != nil {
			return err
		}
		t.membersChanged(before)
		t.touched(s.account.ID, KindAttachment, id)
		return t.audit("SetAttachmentGroups", KindAttachment, id, a.Name, map[string]any{"groups": before}, map[string]any{"groups": groups})
	})
}

// DeleteAttachment detaches a workload that no target and no route leads to.
//
// Errors: NotFound; Conflict that names what leads to it.
func (s *Scope) DeleteAttachment(ctx context.Context, id string) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		a, groups, err := t.attachment(id)
		if err != nil {
			return err
		}
		targets := targetsOf(t.DB, a).Select("servers.id AS id, server_groups.name AS name")
		tables := t.Model(&Route{}).Select("table_id").Where("next_hop_id = ?", id)
		var u uses
		err = errors.Join(
			u.add(t.Table("(?) AS targets", targets), KindServer),
			u.add(t.Model(&RouteTable{}).Where("id IN (?)", tables), KindRouteTable))
		if err == nil && a.Address != "" {
			err = u.add(t.Model(&Attachment{}).Where("vpc_id = ? AND target_ip = ?", a.VPCID, a.Address), KindAttachment)
		}
		if err == nil {
			err = u.refusal(KindAttachment, a.Name)
		}
		if err == nil {
			err = errors.Join(
				t.remove(&AttachmentGroup{}, "attachment_id = ?", id),
				release(t, a.VPCID, id),
				t.remove(&Attachment{}, "id = ?", id))
		}
		if err != nil {
			return err
		}
		t.membersChanged(groups)
		t.touched(s.account.ID, KindAttachment, id)
		t.touched(s.account.ID, KindVPC, a.VPCID)
		return t.audit("DeleteAttachment", KindAttachment, id, a.Name, map[string]any{
			"vpc": a.VPCID, "vswitch": a.VSwitchID, "kind": a.Kind, "address": a.Address, "offer": a.OfferID, "groups": groups,
		}, nil)
	})
}

// Offers returns the objects of the host that the account may attach, by label.
func (s *Scope) Offers(ctx context.Context) ([]OfferView, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	var offers []Offer
	if err := db.Where("account_id IN ('', ?)", s.account.ID).Find(&offers).Error; err != nil {
		return nil, fmt.Errorf("list offers: %w", err)
	}
	slices.SortFunc(offers, func(a, b Offer) int { return cmp.Or(strings.Compare(a.Label, b.Label), strings.Compare(a.ID, b.ID)) })
	used, err := countBy(db.Model(&Attachment{}).Where("offer_id <> ''"), "offer_id", each(offers, func(o Offer) string { return o.ID }))
	if err != nil {
		return nil, err
	}
	return each(offers, func(o Offer) OfferView {
		return OfferView{
			ID: o.ID, Label: o.Label, Kind: o.Kind, Host: o.HostIP, Ports: formatPorts(o.PortFrom, o.PortTo),
			InUse: exclusive(o.Kind) && used[o.ID] > 0,
		}
	}), nil
}
