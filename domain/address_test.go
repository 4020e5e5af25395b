package domain_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestAddressRefusals(t *testing.T) {
	c := newCampus(t)
	c.managed(t, c.h, "first", "10.0.1.20")
	tests := []struct {
		name, address, want, says string
	}{
		{"free", "10.0.1.21", "", ""},
		{"last", " 10.0.1.254 ", "", ""},
		{"in use", "10.0.1.20", "address: address_in_use", "attachment first (att-"},
		{"network", "10.0.1.0", "address: address_reserved", "network"},
		{"gateway", "10.0.1.1", "address: address_reserved", "gateway of vSwitch vsw-h"},
		{"broadcast", "10.0.1.255", "address: address_reserved", "broadcast"},
		{"of the other vSwitch", "10.0.2.5", "address: address_outside", "not in vSwitch vsw-h, 10.0.1.0/24"},
		{"a name", "web-1", "address: invalid_address", ""},
		{"IPv6", "fd00::1", "address: invalid_address", ""},
		{"IPv4 in IPv6", "::ffff:10.0.1.30", "address: invalid_address", ""},
		{"leading zero", "10.0.1.030", "address: invalid_address", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Provider.CreateAttachment(t.Context(), domain.AttachmentInput{
				VPCID: c.vpc.ID, VSwitchID: c.h.ID, Kind: domain.AttachManaged, Address: tt.address,
			})
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q: %v", got, tt.want, err)
			}
			if err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q is missing in: %v", tt.says, err)
			}
		})
	}
}

// TestAddressesByThemselves fills a vSwitch by several callers at once: each gets
// its own address, the lowest ones first, and the next caller reads that it is full.
func TestAddressesByThemselves(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	vs := must(p.CreateVSwitch(ctx, c.vpc.ID, domain.VSwitchInput{Name: "small", ZoneID: domaintest.ZoneH, CIDR: "10.0.9.0/28"}))(t)
	c.managed(t, *vs, "middle", "10.0.9.4")
	attach := func() (string, error) {
		a, err := p.CreateAttachment(ctx, domain.AttachmentInput{VPCID: c.vpc.ID, VSwitchID: vs.ID, Kind: domain.AttachManaged})
		if err != nil {
			return "", err
		}
		return a.Address, nil
	}
	const first = 4
	got := make([]string, first)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = attach(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	slices.Sort(got)
	if want := []string{"10.0.9.2", "10.0.9.3", "10.0.9.5", "10.0.9.6"}; !slices.Equal(got, want) {
		t.Errorf("the first callers got %v, want %v", got, want)
	}
	if next := must(p.FreeAddress(ctx, vs.ID))(t); next != "10.0.9.7" {
		t.Errorf("next is %s, want 10.0.9.7", next)
	}
	results := make([]error, 12) // for 8 addresses
	for i := range results {
		wg.Go(func() { _, results[i] = attach() })
	}
	wg.Wait()
	full := 0
	for _, err := range results {
		if err != nil {
			full++
			if faults(err) != "vswitch_id: vswitch_full" {
				t.Errorf("got %v, want that it is full", err)
			}
		}
	}
	if full != 4 {
		t.Errorf("%d of 12 callers were refused, want 4", full)
	}
	if _, err := p.FreeAddress(ctx, vs.ID); faults(err) != "vswitch_id: vswitch_full" {
		t.Errorf("a full vSwitch: %v", err)
	}
	use := must(p.VSwitches(ctx, c.vpc.ID))(t)
	if i := slices.IndexFunc(use, func(u domain.VSwitchUse) bool { return u.ID == vs.ID }); use[i].Used != 13 || use[i].Free != 0 {
		t.Errorf("use of the full vSwitch: %+v", use[i])
	}
	// What is given back is given again.
	all := must(p.Attachments(ctx, domain.Query{Limit: 200}))(t).Items
	i := slices.IndexFunc(all, func(a domain.AttachmentSummary) bool { return a.Address == "10.0.9.9" })
	if err := p.DeleteAttachment(ctx, all[i].ID); err != nil {
		t.Fatal(err)
	}
	if a := must(attach())(t); a != "10.0.9.9" {
		t.Errorf("got %s, want 10.0.9.9", a)
	}
}

// TestSameAddressAtOnce lets callers ask for one address: one of them gets it.
func TestSameAddressAtOnce(t *testing.T) {
	c := newCampus(t)
	results := make([]error, 6)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			_, results[i] = c.Provider.CreateAttachment(t.Context(), domain.AttachmentInput{
				VPCID: c.vpc.ID, VSwitchID: c.h.ID, Kind: domain.AttachManaged, Address: "10.0.1.77",
			})
		})
	}
	wg.Wait()
	got := 0
	for _, err := range results {
		switch {
		case err == nil:
			got++
		case faults(err) != "address: address_in_use":
			t.Errorf("got %v, want that it is in use", err)
		}
	}
	if got != 1 {
		t.Errorf("%d callers got the address", got)
	}
}

// TestManyAddresses checks the choice in a vSwitch of which most is in use.
func TestManyAddresses(t *testing.T) {
	c := newCampus(t)
	vs := must(c.Provider.CreateVSwitch(t.Context(), c.vpc.ID, domain.VSwitchInput{ZoneID: domaintest.ZoneH, CIDR: "10.0.16.0/20"}))(t)
	var rows []domain.Address
	hole := netip.MustParseAddr("10.0.30.200")
	for a := netip.MustParseAddr("10.0.16.2"); a != netip.MustParseAddr("10.0.31.0"); a = a.Next() {
		if a != hole {
			rows = append(rows, domain.Address{VPCID: c.vpc.ID, Address: a.String(), VSwitchID: vs.ID, OwnerKind: domain.KindEndpoint, OwnerID: fmt.Sprintf("ep-%d", len(rows))})
		}
	}
	if err := c.Store.DB().CreateInBatches(rows, 500).Error; err != nil {
		t.Fatal(err)
	}
	if a := c.managed(t, *vs, "web", ""); a.Address != hole.String() {
		t.Errorf("got %s, want %s", a.Address, hole)
	}
	if a := c.managed(t, *vs, "web", ""); a.Address != "10.0.31.0" {
		t.Errorf("got %s, want 10.0.31.0", a.Address)
	}
}
