package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// VSwitch is a subnet of a VPC in one zone. Its first host address is the gateway.
type VSwitch struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	VPCID     string
	ZoneID    string
	Name      string
	CIDR      string
	CreatedAt time.Time
}

// VSwitchInput is what makes a vSwitch. An empty name gets a generated one.
type VSwitchInput struct {
	Name   string
	ZoneID string // in the VPC's region
	CIDR   string // /16 to /29 inside the VPC
}

// VSwitchUse is a vSwitch and how full it is.
type VSwitchUse struct {
	VSwitch
	Used int // addresses that something has
	Free int
}

// Gateway returns the address of the VPC's router in the vSwitch.
func (v VSwitch) Gateway() string { return gatewayOf(stored(v.CIDR)).String() }

// CreateVSwitch adds a vSwitch to a VPC of the account.
//
// Errors: NotFound; Invalid with the fields at fault; Limit.
func (s *Scope) CreateVSwitch(ctx context.Context, vpcID string, in VSwitchInput) (*VSwitch, error) {
	var vs *VSwitch
	err := s.write(ctx, WriteNetwork, func(t *tx) error {
		v, err := t.vpc(vpcID)
		if err != nil {
			return err
		}
		if vs, err = t.addVSwitch(v, in); err != nil {
			return err
		}
		t.stale(KindVPC, v.ID)
		t.touched(s.account.ID, KindVPC, v.ID)
		t.touched(s.account.ID, KindVSwitch, vs.ID)
		return t.audit("CreateVSwitch", KindVSwitch, vs.ID, vs.Name, nil, map[string]any{"vpc": v.ID, "zone": vs.ZoneID, "cidr": vs.CIDR})
	})
	if err != nil {
		return nil, err
	}
	return vs, nil
}

func (t *tx) addVSwitch(v *VPC, in VSwitchInput) (*VSwitch, error) {
	var others []VSwitch
	if err := t.Where("vpc_id = ?", v.ID).Order("id").Find(&others).Error; err != nil {
		return nil, fmt.Errorf("list vSwitches: %w", err)
	}
	if err := t.quota(v.AccountID, "vswitches_per_vpc", int64(len(others))); err != nil {
		return nil, err
	}
	vs := VSwitch{ID: newID(KindVSwitch), AccountID: v.AccountID, VPCID: v.ID, ZoneID: in.ZoneID, CreatedAt: t.now}
	var nameErr error
	vs.Name, nameErr = validNameOr(in.Name, vs.ID)
	zoneErr := at("zone_id", first(t.DB, KindZone, &Zone{}, "id = ? AND region_id = ?", in.ZoneID, v.RegionID))
	cidr, cidrErr := parseVSwitchRange(in.CIDR, v, others)
	if err := errors.Join(nameErr, zoneErr, cidrErr); err != nil {
		return nil, err
	}
	vs.CIDR = cidr.String()
	if err := t.Create(&vs).Error; err != nil {
		return nil, fmt.Errorf("create vSwitch: %w", err)
	}
	return &vs, nil
}

// parseVSwitchRange reads the range of a new vSwitch of v beside the others.
func parseVSwitchRange(s string, v *VPC, others []VSwitch) (netip.Prefix, error) {
	p, err := parseCIDR("cidr", s)
	if err != nil {
		return p, err
	}
	if p.Bits() < vswitchPrefix[0] || p.Bits() > vswitchPrefix[1] {
		return p, invalid("cidr", "cidr_size", "A vSwitch is a /%d to /%d, this is a /%d.", vswitchPrefix[0], vswitchPrefix[1], p.Bits())
	}
	if !inside(p, stored(v.CIDR)) {
		return p, invalid("cidr", "cidr_outside_vpc", "%s is not inside VPC %s, %s.", p, v.Name, v.CIDR)
	}
	for _, o := range others {
		if p.Overlaps(stored(o.CIDR)) {
			return p, invalid("cidr", "cidr_overlaps", "%s overlaps vSwitch %s (%s), %s.", p, o.Name, o.ID, o.CIDR)
		}
	}
	return p, nil
}

// VSwitches lists the vSwitches of a VPC of the account by address; "" lists those
// of all its VPCs.
func (s *Scope) VSwitches(ctx context.Context, vpcID string) ([]VSwitchUse, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	if vpcID == "" {
		return switchesOf(db.Where("account_id = ?", s.account.ID))
	}
	if err := first(db, KindVPC, &VPC{}, "id = ? AND account_id = ?", vpcID, s.account.ID); err != nil {
		return nil, err
	}
	return switchesOf(db.Where("vpc_id = ?", vpcID))
}

// switchesOf lists vSwitches with their use, by VPC and address.
func switchesOf(q *gorm.DB) ([]VSwitchUse, error) {
	var rows []VSwitch
	if err := q.Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("list vSwitches: %w", err)
	}
	slices.SortFunc(rows, func(a, b VSwitch) int {
		return cmp.Or(strings.Compare(a.VPCID, b.VPCID), stored(a.CIDR).Compare(stored(b.CIDR)))
	})
	used, err := countBy(q.Session(&gorm.Session{NewDB: true}).Model(&Address{}), "vswitch_id", each(rows, func(v VSwitch) string { return v.ID }))
	if err != nil {
		return nil, err
	}
	out := make([]VSwitchUse, len(rows))
	for i, v := range rows {
		out[i] = VSwitchUse{VSwitch: v, Used: used[v.ID], Free: hostsOf(stored(v.CIDR)) - used[v.ID]}
	}
	return out, nil
}

// DeleteVSwitch removes a vSwitch in which nothing is left.
//
// Errors: NotFound; Conflict that names what is in it.
func (s *Scope) DeleteVSwitch(ctx context.Context, id string) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		var vs VSwitch
		if err := first(t.DB, KindVSwitch, &vs, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
			return err
		}
		endpoints := t.Model(&EndpointZone{}).Select("endpoint_id").Where("vswitch_id = ?", id)
		balancers := t.Model(&LoadBalancerZone{}).Select("load_balancer_id").Where("vswitch_id = ?", id)
		targets := t.Model(&Address{}).Select("owner_id").Where("vswitch_id = ? AND owner_kind = ?", id, KindServerGroup)
		var u uses
		err := errors.Join(
			u.add(t.Model(&Endpoint{}).Where("id IN (?)", endpoints), KindEndpoint),
			u.add(t.Model(&LoadBalancer{}).Where("id IN (?)", balancers), KindLoadBalancer),
			u.add(t.Model(&ServerGroup{}).Where("id IN (?)", targets), KindServerGroup),
			u.add(t.Model(&Attachment{}).Where("vswitch_id = ?", id), KindAttachment))
		if err == nil {
			err = u.refusal(KindVSwitch, vs.Name)
		}
		if err == nil {
			err = t.remove(&VSwitch{}, "id = ?", id)
		}
		if err != nil {
			return err
		}
		t.stale(KindVPC, vs.VPCID)
		t.touched(s.account.ID, KindVPC, vs.VPCID)
		t.touched(s.account.ID, KindVSwitch, id)
		return t.audit("DeleteVSwitch", KindVSwitch, id, vs.Name, map[string]any{"vpc": vs.VPCID, "zone": vs.ZoneID, "cidr": vs.CIDR}, nil)
	})
}
