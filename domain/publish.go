package domain

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// PublishInput names a service of the host that becomes an endpoint service.
type PublishInput struct {
	Target   string // host:port; the host is one that an operator offers to the account
	Name     string // "" makes one from the target
	Accounts string // to put on the whitelist, with any separator
}

// PublishHost makes a host service into an endpoint service in one step: an
// attachment, a load balancer in every zone of the account's first VPC, and the
// service, or none of them.
//
// Errors: Invalid for the field target if it is not host:port or no offer of a host
// service has it; Conflict, reason "no_vpc", if the account has no VPC with vSwitches.
func (s *Scope) PublishHost(ctx context.Context, in PublishInput) (*Service, error) {
	if err := s.may(WriteNetwork); err != nil {
		return nil, err
	}
	target, err := parseTarget(in.Target)
	if err != nil {
		return nil, err
	}
	name := strings.TrimSpace(in.Name)
	if name == "" {
		name = "host-" + strings.ReplaceAll(target.Addr().String(), ".", "-") + "-" + strconv.Itoa(int(target.Port()))
	}
	var svc *Service
	err = s.write(ctx, WriteProvide, func(t *tx) error {
		vpcID, zones, err := t.firstVPC()
		if err != nil {
			return err
		}
		offer, err := t.offerOf(target)
		if err != nil {
			return err
		}
		a, err := t.attach(AttachmentInput{VPCID: vpcID, Name: name, Kind: AttachHost, OfferID: offer, HostPort: int(target.Port())})
		if err != nil {
			return at("target", err)
		}
		lb, err := t.addLoadBalancer(LoadBalancerInput{Name: name, VPCID: vpcID, Zones: zones, Listeners: []ListenerInput{
			{Port: int(target.Port()), Servers: []ServerInput{{AttachmentID: a.ID, Port: int(target.Port())}}},
		}}, s.account.Demo)
		if err != nil {
			return err
		}
		svc, err = t.addService(ServiceInput{Name: name, LoadBalancerIDs: []string{lb.ID}, Accounts: in.Accounts}, s.account.Demo)
		return err
	})
	if err != nil {
		return nil, err
	}
	return svc, nil
}

func parseTarget(s string) (netip.AddrPort, error) {
	p, err := netip.ParseAddrPort(strings.TrimSpace(s))
	if err != nil || !p.Addr().Is4() || p.Port() == 0 {
		return netip.AddrPort{}, invalid("target", "invalid_target", "Write an IPv4 address and a port, such as 127.0.0.1:5432.")
	}
	return p, nil
}

// firstVPC returns the account's first VPC that has vSwitches, and one of them for
// each zone.
func (t *tx) firstVPC() (string, []LBZoneInput, error) {
	var vswitches []VSwitch
	err := t.Where("vpc_id = (?)", t.Model(&VPC{}).Select("vpcs.id").Joins("JOIN vswitches ON vswitches.vpc_id = vpcs.id").
		Where("vpcs.account_id = ?", t.account).Order("vpcs.name, vpcs.id").Limit(1)).Order("zone_id, id").Find(&vswitches).Error
	if err != nil {
		return "", nil, fmt.Errorf("read vSwitches: %w", err)
	}
	if len(vswitches) == 0 {
		return "", nil, fail(Conflict, "no_vpc", "This account has no VPC with a vSwitch yet. Make one first.")
	}
	var zones []LBZoneInput
	for _, v := range vswitches {
		if n := len(zones); n == 0 || zones[n-1].ZoneID != v.ZoneID {
			zones = append(zones, LBZoneInput{ZoneID: v.ZoneID, VSwitchID: v.ID})
		}
	}
	return vswitches[0].VPCID, zones[:min(len(zones), maxZones)], nil
}

// offerOf returns the offer of a host service that has the address and the port.
func (t *tx) offerOf(target netip.AddrPort) (string, error) {
	var offers []Offer
	err := t.Where("kind = ? AND account_id IN ?", AttachHost, []string{"", t.account}).Order("id").Find(&offers).Error
	if err != nil {
		return "", fmt.Errorf("read offers: %w", err)
	}
	var hosts []string
	for _, o := range offers {
		port := int(target.Port())
		if o.HostIP == target.Addr().String() && (o.PortTo == 0 || (o.PortFrom <= port && port <= o.PortTo)) {
			return o.ID, nil
		}
		hosts = append(hosts, o.HostIP)
	}
	if len(hosts) == 0 {
		return "", invalid("target", "no_offer", "No host service is offered to this account. An operator can offer one.")
	}
	return "", invalid("target", "not_offered", "%s is not offered to this account. Offered: %s.", target, strings.Join(hosts, ", "))
}
