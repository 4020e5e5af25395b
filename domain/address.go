package domain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gorm.io/gorm"
)

// Address is an address of a VPC that is in use, and by what: no two can have one.
type Address struct {
	VPCID     string `gorm:"primaryKey"`
	Address   string `gorm:"primaryKey"`
	VSwitchID string
	OwnerKind string // KindAttachment, KindEndpoint, KindLoadBalancer, KindServerGroup (of a target)
	OwnerID   string
}

// reservedRange is a range that no tenant gives to anything.
type reservedRange struct {
	netip.Prefix
	what string
}

// reservedRanges are in no VPC, and no route leads into them.
var reservedRanges = []reservedRange{
	{netip.MustParsePrefix("0.0.0.0/8"), "which names no host"},
	{netip.MustParsePrefix("100.64.0.0/10"), "which is reserved for services of the platform"},
	{netip.MustParsePrefix("127.0.0.0/8"), "which is loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "which is link-local and holds the metadata service"},
	{netip.MustParsePrefix("224.0.0.0/4"), "which is multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "which is reserved"},
}

// parseAddress reads an IPv4 address that field holds.
func parseAddress(field, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil || !a.Is4() {
		return netip.Addr{}, invalid(field, "invalid_address", "This is not an IPv4 address such as 10.0.1.20.")
	}
	return a, nil
}

// parseCIDR reads an IPv4 range that field holds, in canonical form: no bit is set
// behind the prefix.
func parseCIDR(field, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(s))
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, invalid(field, "invalid_cidr", "This is not an IPv4 range such as 10.0.0.0/16.")
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, invalid(field, "invalid_cidr", "%s has bits set behind its prefix. Is %s meant?", p, m)
	}
	return p, nil
}

// stored reads a range that was checked before it was stored.
func stored(cidr string) netip.Prefix { return netip.MustParsePrefix(cidr) }

// inside reports whether all of p is in outer.
func inside(p, outer netip.Prefix) bool {
	return p.Bits() >= outer.Bits() && outer.Contains(p.Addr())
}

// gatewayOf returns the address of the router in a vSwitch: the first of a host.
func gatewayOf(p netip.Prefix) netip.Addr { return p.Addr().Next() }

// broadcastOf returns the last address of a range.
func broadcastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// hostsOf returns how many addresses of a vSwitch can be given away: all but the
// network's, the gateway's and the broadcast one.
func hostsOf(p netip.Prefix) int { return 1<<(32-p.Bits()) - 3 }

// take gives an address of a vSwitch of the account's VPC to an owner and returns
// it: the one that is wanted, or the lowest free one if wanted is "".
//
// Errors: NotFound for the field vswitch_id; Invalid for the field address if it is
// not in the vSwitch, reserved or in use, and for vswitch_id if none is free.
func take(t *tx, vpcID, vswitchID, wanted, ownerKind, ownerID string) (string, error) {
	var vs VSwitch
	if err := first(t.DB, KindVSwitch, &vs, "id = ? AND vpc_id = ? AND account_id = ?", vswitchID, vpcID, t.account); err != nil {
		return "", at("vswitch_id", err)
	}
	var a netip.Addr
	var err error
	if wanted = strings.TrimSpace(wanted); wanted != "" {
		a, err = parseAddress("address", wanted)
		if err == nil {
			err = takeable(t.DB, vs, a)
		}
	} else {
		a, err = lowestFree(t.DB, vs)
	}
	if err != nil {
		return "", err
	}
	row := Address{VPCID: vpcID, Address: a.String(), VSwitchID: vs.ID, OwnerKind: ownerKind, OwnerID: ownerID}
	if err := t.Create(&row).Error; err != nil {
		return "", fmt.Errorf("take address: %w", err)
	}
	t.stale(KindVPC, vpcID)
	t.touched(t.account, KindVPC, vpcID)
	return row.Address, nil
}

// release gives back addresses of an owner in a VPC; without a list, all of them.
func release(t *tx, vpcID, ownerID string, addresses ...string) error {
	if err := oneOf(t.Where("vpc_id = ? AND owner_id = ?", vpcID, ownerID), "address", addresses).Delete(&Address{}).Error; err != nil {
		return fmt.Errorf("release addresses: %w", err)
	}
	t.stale(KindVPC, vpcID)
	t.touched(t.account, KindVPC, vpcID)
	return nil
}

// takeable refuses an address that cannot be given away, with the reason.
func takeable(db *gorm.DB, vs VSwitch, a netip.Addr) error {
	p := stored(vs.CIDR)
	switch {
	case !p.Contains(a):
		return invalid("address", "address_outside", "%s is not in vSwitch %s, %s.", a, vs.Name, p)
	case a == p.Addr():
		return invalid("address", "address_reserved", "%s is the network's own address. The first free one is chosen if you leave this empty.", a)
	case a == gatewayOf(p):
		return invalid("address", "address_reserved", "%s is the gateway of vSwitch %s. The first free one is chosen if you leave this empty.", a, vs.Name)
	case a == broadcastOf(p):
		return invalid("address", "address_reserved", "%s is the broadcast address of vSwitch %s. The first free one is chosen if you leave this empty.", a, vs.Name)
	}
	var used Address
	err := db.Where("vpc_id = ? AND address = ?", vs.VPCID, a.String()).Take(&used).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up address: %w", err)
	}
	names, err := namesOf(db, used.OwnerKind, []string{used.OwnerID})
	if err != nil {
		return err
	}
	return invalid("address", "address_in_use", "%s is in use by %s %s (%s).", a, nouns[used.OwnerKind], names[used.OwnerID], used.OwnerID)
}

// lowestFree returns the lowest address of a vSwitch that nothing has.
func lowestFree(db *gorm.DB, vs VSwitch) (netip.Addr, error) {
	var used []string
	if err := db.Model(&Address{}).Where("vswitch_id = ?", vs.ID).Pluck("address", &used).Error; err != nil {
		return netip.Addr{}, fmt.Errorf("read addresses: %w", err)
	}
	p := stored(vs.CIDR)
	taken := make([]netip.Addr, len(used))
	for i, s := range used {
		taken[i] = netip.MustParseAddr(s)
	}
	slices.SortFunc(taken, netip.Addr.Compare)
	a := gatewayOf(p).Next()
	for _, t := range taken {
		if t != a {
			break
		}
		a = a.Next()
	}
	if a == broadcastOf(p) {
		return a, invalid("vswitch_id", "vswitch_full", "vSwitch %s, %s, has no free address left.", vs.Name, p)
	}
	return a, nil
}

// FreeAddress returns the address that is given next in a vSwitch of the account.
//
// Errors: NotFound; Invalid for the field vswitch_id if none is free.
func (s *Scope) FreeAddress(ctx context.Context, vswitchID string) (string, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return "", err
	}
	var vs VSwitch
	if err := first(db, KindVSwitch, &vs, "id = ? AND account_id = ?", vswitchID, s.account.ID); err != nil {
		return "", err
	}
	a, err := lowestFree(db, vs)
	if err != nil {
		return "", err
	}
	return a.String(), nil
}
