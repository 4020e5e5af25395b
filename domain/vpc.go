package domain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// VPC is an address space of an account. Any private range is fine, also one that
// others use.
type VPC struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	RegionID  string
	Name      string
	CIDR      string
	Number    int // 1 to 200 while there are free ones, else 0; loopback mode needs it
	Demo      bool
	Version   int64 // counts changes; a form of an older version is refused
	CreatedAt time.Time

	EngineUp    bool // as last observed
	EngineError string
}

// VPCInput is what makes a VPC. An empty name gets a generated one.
type VPCInput struct {
	Name      string
	RegionID  string
	CIDR      string // /8 to /28 in one of the private ranges
	VSwitches []VSwitchInput
}

// VPCSummary is a VPC in a list.
type VPCSummary struct {
	VPC
	VSwitches   int
	Attachments int
	Endpoints   int
	Zones       []string // that it has vSwitches in, sorted
	Overlaps    []string // names of other VPCs of the account with addresses in common; no harm in that
}

// VPCDetail is a VPC and what is in it.
type VPCDetail struct {
	VPC
	VSwitches     []VSwitchUse
	RouteTableID  string
	Routes        int // custom ones
	Attachments   int
	Endpoints     int
	LoadBalancers int
	ServerGroups  int
	Groups        int      // security groups
	Overlaps      []string // as in VPCSummary
}

// maxVPCNumber is the highest second byte of 127/8 that loopback mode gives to a
// VPC.
const maxVPCNumber = 200

// vpcPrefix and vswitchPrefix are the shortest and longest prefixes they can have.
var vpcPrefix, vswitchPrefix = [2]int{8, 28}, [2]int{16, 29}

// privateRanges is where VPCs live.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
}

// CreateVPC makes a VPC, its system route table and the vSwitches that are given.
//
// Errors: Invalid with the fields at fault; Limit.
func (s *Scope) CreateVPC(ctx context.Context, in VPCInput) (*VPC, error) {
	var v VPC
	err := s.write(ctx, WriteNetwork, func(t *tx) error {
		var have int64
		if err := t.Model(&VPC{}).Where("account_id = ?", s.account.ID).Count(&have).Error; err != nil {
			return fmt.Errorf("count VPCs: %w", err)
		}
		if err := t.quota(s.account.ID, "vpcs", have); err != nil {
			return err
		}
		v = VPC{ID: newID(KindVPC), AccountID: s.account.ID, RegionID: in.RegionID, Demo: s.account.Demo, Version: 1, CreatedAt: t.now}
		var nameErr error
		v.Name, nameErr = validNameOr(in.Name, v.ID)
		cidr, cidrErr := parseVPCRange(in.CIDR)
		v.CIDR = cidr.String()
		regionErr := at("region_id", first(t.DB, KindRegion, &Region{}, "id = ?", in.RegionID))
		if err := errors.Join(nameErr, regionErr, cidrErr); err != nil {
			return err
		}
		if err := t.numberVPC(&v); err != nil {
			return err
		}
		table := RouteTable{
			ID: newID(KindRouteTable), AccountID: v.AccountID, VPCID: v.ID, Name: v.Name, Type: RouteTableSystem, Version: 1, CreatedAt: t.now,
		}
		if err := t.Create(&table).Error; err != nil {
			return fmt.Errorf("create route table: %w", err)
		}
		var faults []error
		for i, vs := range in.VSwitches {
			_, err := t.addVSwitch(&v, vs)
			faults = append(faults, under(fmt.Sprintf("vswitches.%d", i), err))
		}
		if err := errors.Join(faults...); err != nil {
			return err
		}
		t.stale(KindVPC, v.ID)
		t.touched(v.AccountID, KindVPC, v.ID)
		return t.audit("CreateVPC", KindVPC, v.ID, v.Name, nil, map[string]any{"region": v.RegionID, "cidr": v.CIDR, "vswitches": len(in.VSwitches)})
	})
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// numberVPC inserts v with the lowest free number. Somebody else's insert of the
// same number is waited for, and the next one tried.
func (t *tx) numberVPC(v *VPC) error {
	for {
		var taken []int
		if err := t.Model(&VPC{}).Where("number > 0").Order("number").Pluck("number", &taken).Error; err != nil {
			return fmt.Errorf("read VPC numbers: %w", err)
		}
		v.Number = 1
		for v.Number <= len(taken) && taken[v.Number-1] == v.Number {
			v.Number++
		}
		if v.Number > maxVPCNumber {
			v.Number = 0
		}
		res := t.Clauses(clause.OnConflict{DoNothing: true}).Create(v)
		if res.Error != nil {
			return fmt.Errorf("create VPC: %w", res.Error)
		}
		if res.RowsAffected > 0 {
			return nil
		}
	}
}

// parseVPCRange reads the range of a VPC.
func parseVPCRange(s string) (netip.Prefix, error) {
	p, err := parseCIDR("cidr", s)
	if err != nil {
		return p, err
	}
	for _, r := range reservedRanges {
		if r.Overlaps(p) {
			return p, invalid("cidr", "cidr_reserved", "%s has addresses of %s, %s. Take a range in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16.", p, r.Prefix, r.what)
		}
	}
	if !slices.ContainsFunc(privateRanges, func(r netip.Prefix) bool { return inside(p, r) }) {
		return p, invalid("cidr", "cidr_not_private", "%s is not a private range. Take one in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16.", p)
	}
	if p.Bits() < vpcPrefix[0] || p.Bits() > vpcPrefix[1] {
		return p, invalid("cidr", "cidr_size", "A VPC is a /%d to /%d, this is a /%d.", vpcPrefix[0], vpcPrefix[1], p.Bits())
	}
	return p, nil
}

// vpc reads a VPC of the transaction's account.
func (t *tx) vpc(id string) (*VPC, error) {
	var v VPC
	return &v, first(t.DB, KindVPC, &v, "id = ? AND account_id = ?", id, t.account)
}

// VPCs lists the VPCs of the account by name.
func (s *Scope) VPCs(ctx context.Context, q Query) (Page[VPCSummary], error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return Page[VPCSummary]{}, err
	}
	page, err := paginate(matching(db.Where("account_id = ?", s.account.ID), q.Text), q, order{columns: []string{"name", "id"}},
		func(v VPC) []any { return []any{v.Name, v.ID} })
	if err != nil || len(page.Items) == 0 {
		return Page[VPCSummary]{}, err
	}
	ids := each(page.Items, func(v VPC) string { return v.ID })
	var switches []VSwitch
	if err := db.Select("vpc_id", "zone_id").Where("vpc_id IN ?", ids).Find(&switches).Error; err != nil {
		return Page[VPCSummary]{}, fmt.Errorf("list vSwitches: %w", err)
	}
	attachments, err := countBy(db.Model(&Attachment{}), "vpc_id", ids)
	if err != nil {
		return Page[VPCSummary]{}, err
	}
	endpoints, err := countBy(db.Model(&Endpoint{}), "vpc_id", ids)
	if err != nil {
		return Page[VPCSummary]{}, err
	}
	overlaps, err := s.overlaps(db, page.Items...)
	if err != nil {
		return Page[VPCSummary]{}, err
	}
	return mapPage(page, func(v VPC) VPCSummary {
		sum := VPCSummary{VPC: v, Attachments: attachments[v.ID], Endpoints: endpoints[v.ID], Overlaps: overlaps[v.ID]}
		for _, vs := range switches {
			if vs.VPCID == v.ID {
				sum.VSwitches++
				sum.Zones = append(sum.Zones, vs.ZoneID)
			}
		}
		slices.Sort(sum.Zones)
		sum.Zones = slices.Compact(sum.Zones)
		return sum
	}), nil
}

// overlaps returns, for each of the VPCs, the names of the account's other VPCs
// with addresses in common.
func (s *Scope) overlaps(db *gorm.DB, of ...VPC) (map[string][]string, error) {
	var all []VPC
	if err := db.Select("id", "name", "cidr").Where("account_id = ?", s.account.ID).Order("name").Order("id").Find(&all).Error; err != nil {
		return nil, fmt.Errorf("list VPCs: %w", err)
	}
	out := map[string][]string{}
	for _, v := range of {
		p := stored(v.CIDR)
		for _, other := range all {
			if other.ID != v.ID && p.Overlaps(stored(other.CIDR)) {
				out[v.ID] = append(out[v.ID], other.Name)
			}
		}
	}
	return out, nil
}

// VPC returns one VPC of the account.
func (s *Scope) VPC(ctx context.Context, id string) (*VPCDetail, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	var d VPCDetail
	if err := first(db, KindVPC, &d.VPC, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
		return nil, err
	}
	if d.VSwitches, err = switchesOf(db.Where("vpc_id = ?", id)); err != nil {
		return nil, err
	}
	overlaps, err := s.overlaps(db, d.VPC)
	if err != nil {
		return nil, err
	}
	d.Overlaps = overlaps[id]
	err = db.Raw(`SELECT
		COALESCE((SELECT id FROM route_tables WHERE vpc_id = @vpc), ''),
		(SELECT COUNT(*) FROM routes WHERE table_id IN (SELECT id FROM route_tables WHERE vpc_id = @vpc)),
		(SELECT COUNT(*) FROM attachments WHERE vpc_id = @vpc),
		(SELECT COUNT(*) FROM endpoints WHERE vpc_id = @vpc),
		(SELECT COUNT(*) FROM load_balancers WHERE vpc_id = @vpc),
		(SELECT COUNT(*) FROM server_groups WHERE vpc_id = @vpc),
		(SELECT COUNT(*) FROM security_groups WHERE vpc_id = @vpc)`, map[string]any{"vpc": id}).
		Row().Scan(&d.RouteTableID, &d.Routes, &d.Attachments, &d.Endpoints, &d.LoadBalancers, &d.ServerGroups, &d.Groups)
	if err != nil {
		return nil, fmt.Errorf("count what is in the VPC: %w", err)
	}
	return &d, nil
}

// RenameVPC gives a VPC, and the system route table with it, another name. version
// is what the form showed, or 0.
func (s *Scope) RenameVPC(ctx context.Context, id, name string, version int64) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		v, err := t.vpc(id)
		if err != nil {
			return err
		}
		if name, err = validNameOr(name, v.ID); err != nil {
			return err
		}
		if err := t.edit(KindVPC, id, version, map[string]any{"name": name}); err != nil {
			return err
		}
		if err := t.Model(&RouteTable{}).Where("vpc_id = ? AND type = ?", id, RouteTableSystem).Update("name", name).Error; err != nil {
			return fmt.Errorf("rename route table: %w", err)
		}
		t.touched(s.account.ID, KindVPC, id)
		return t.audit("RenameVPC", KindVPC, id, name, map[string]any{"name": v.Name}, map[string]any{"name": name})
	})
}

// DeleteVPC removes a VPC in which nothing is left.
//
// Errors: NotFound; Conflict that names what is in it.
func (s *Scope) DeleteVPC(ctx context.Context, id string) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		v, err := t.vpc(id)
		if err != nil {
			return err
		}
		var u uses
		for _, kind := range []string{KindEndpoint, KindLoadBalancer, KindServerGroup, KindAttachment, KindGroup, KindVSwitch} {
			if err := u.add(t.Table(tableOf[kind]).Where("vpc_id = ?", id), kind); err != nil {
				return err
			}
		}
		if err := u.refusal(KindVPC, v.Name); err != nil {
			return err
		}
		err = errors.Join(
			t.remove(&Route{}, "table_id IN (?)", t.Model(&RouteTable{}).Select("id").Where("vpc_id = ?", id)),
			t.remove(&RouteTable{}, "vpc_id = ?", id),
			t.remove(&VPC{}, "id = ?", id))
		if err != nil {
			return err
		}
		t.stale(KindVPC, id)
		t.touched(s.account.ID, KindVPC, id)
		return t.audit("DeleteVPC", KindVPC, id, v.Name, map[string]any{"region": v.RegionID, "cidr": v.CIDR}, nil)
	})
}
