package domain

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Listener of a load balancer: one port, or every port of a range.
type Listener struct {
	ID             string `gorm:"primaryKey"`
	AccountID      string
	LoadBalancerID string
	Protocol       string // ProtocolTCP or ProtocolUDP
	Port           int    // 1 to 65535; 0: PortFrom to PortTo
	PortFrom       int
	PortTo         int
	ServerGroupID  string
	IdleTimeout    int           // seconds
	CPS            int           // new flows a second in each zone; 0: no limit
	MaxConnections int           // live flows in each zone; 0: no limit
	MSS            int           // largest TCP segment, bytes; 0: unchanged
	Proxy          ProxyProtocol `gorm:"embedded;embeddedPrefix:proxy_"`
}

// ProxyProtocol says whether targets get a PROXY protocol v2 header in front of a
// flow, and what is in it beside the addresses.
type ProxyProtocol struct {
	Enabled  bool
	Dialect  string // "" is ProxyAlibaba
	VPC      bool   // name the consumer's VPC
	Endpoint bool   // name the endpoint
	Service  bool   // name the endpoint service
}

// The dialects of a PROXY header. All but the first know one id, the endpoint's.
const (
	ProxyAlibaba = "alibaba"
	ProxyAWS     = "aws"
	ProxyAzure   = "azure"
	ProxyGCP     = "gcp"
)

// protocolTCPSSL is a protocol of the API that listeners cannot have here: it ends
// TLS, and is not reachable through endpoints in the cloud either.
const protocolTCPSSL = "tcpssl"

// Limits of listeners, as the NLB's API has them.
const (
	maxPort        = 65535
	maxCPS         = 1_000_000
	maxConnections = 1_000_000
	maxMSS         = 1500
)

// ListenerInput is a new listener, with new targets or those of a server group of
// the same VPC.
type ListenerInput struct {
	Protocol       string // ProtocolTCP or ProtocolUDP; "" is ProtocolTCP
	Port           int    // or
	PortFrom       int    // every port from here
	PortTo         int    // to here
	IdleTimeout    int    // seconds: 10 to 900 for TCP, 10 to 20 for UDP; 0 is the most
	CPS            int    // new flows a second in each zone, up to 1,000,000; 0: no limit
	MaxConnections int    // live flows in each zone, up to 1,000,000; 0: no limit
	MSS            int    // largest TCP segment, up to 1500 bytes; 0: unchanged
	Proxy          ProxyProtocol

	ServerGroupID string // "" makes a group, which goes with its last listener, of
	Scheduler     string // as ServerGroupInput has it
	Servers       []ServerInput
	Health        HealthInput
}

// ListenerUpdate changes what is not nil.
type ListenerUpdate struct {
	Port           *int
	PortFrom       *int
	PortTo         *int
	IdleTimeout    *int
	CPS            *int
	MaxConnections *int
	MSS            *int
	Proxy          *ProxyProtocol
	ServerGroupID  *string
	Version        int64 // of the load balancer, that the form showed; 0 is not checked
}

// ListenerDetail is a listener with where it sends to.
type ListenerDetail struct {
	Listener
	Group   ServerGroup
	Servers []ServerDetail // by zone and address
}

// Opening is what a client can reach: ports of a protocol.
type Opening struct {
	Protocol string
	From, To int
}

// Opening returns what the listener listens at.
func (l Listener) Opening() Opening {
	if l.Port != 0 {
		return Opening{l.Protocol, l.Port, l.Port}
	}
	return Opening{l.Protocol, l.PortFrom, l.PortTo}
}

// Ports are "443", "1000-2000" or "any port".
func (o Opening) Ports() string {
	if o.From <= 1 && o.To == maxPort {
		return "any port"
	}
	return formatPorts(o.From, o.To)
}

// String is the opening in a few characters: "TCP 443".
func (o Opening) String() string { return strings.ToUpper(o.Protocol) + " " + o.Ports() }

func (o Opening) has(protocol string, port int) bool {
	return o.Protocol == protocol && o.From <= port && port <= o.To
}

// addListener adds a listener to a load balancer.
func (t *tx) addListener(lb *LoadBalancer, in ListenerInput) (*Listener, error) {
	if err := t.quotaOf(&Listener{}, "listeners_per_balancer", "load_balancer_id", lb.ID); err != nil {
		return nil, err
	}
	l := &Listener{
		ID: newID(KindListener), AccountID: lb.AccountID, LoadBalancerID: lb.ID, Protocol: strings.ToLower(in.Protocol),
		Port: in.Port, PortFrom: in.PortFrom, PortTo: in.PortTo, ServerGroupID: in.ServerGroupID,
		IdleTimeout: in.IdleTimeout, CPS: in.CPS, MaxConnections: in.MaxConnections, MSS: in.MSS, Proxy: in.Proxy,
	}
	if l.Protocol == "" {
		l.Protocol = ProtocolTCP
	}
	if err := t.checkListener(lb, l); err != nil {
		return nil, err
	}
	switch {
	case l.ServerGroupID == "":
		g, err := t.addServerGroup(ServerGroupInput{
			Name: cut(lb.Name+":"+strings.TrimPrefix(l.Opening().String(), "TCP "), 128), VPCID: lb.VPCID, Type: lb.Type, Protocol: l.Protocol,
			Scheduler: in.Scheduler, AnyPort: l.Port == 0, Health: in.Health, Servers: in.Servers,
		}, false)
		if err != nil {
			return nil, err
		}
		l.ServerGroupID = g.ID
	case len(in.Servers) > 0:
		return nil, invalid("server_group_id", "group_and_servers", "Choose a server group or name targets, not both.")
	default:
		if err := t.sendsTo(lb, l); err != nil {
			return nil, err
		}
	}
	if err := t.Create(l).Error; err != nil {
		return nil, fmt.Errorf("create listener: %w", err)
	}
	t.touched(t.account, KindServerGroup, l.ServerGroupID)
	return l, nil
}

// sendsTo checks that the server group of a listener can be one.
func (t *tx) sendsTo(lb *LoadBalancer, l *Listener) error {
	g, err := t.serverGroup(l.ServerGroupID)
	if err == nil && g.VPCID != lb.VPCID {
		err = missing(KindServerGroup)
	}
	switch {
	case err != nil:
		return at("server_group_id", err)
	case g.Type != lb.Type:
		return invalid("server_group_id", "group_type", "%s is a server group of a %s, this is a %s.", g.Name, traits[g.Type].label, traits[lb.Type].label)
	case g.Protocol != ProtocolBoth && g.Protocol != l.Protocol:
		return invalid("server_group_id", "group_protocol", "%s is a server group for %s, the listener is %s.", g.Name, strings.ToUpper(g.Protocol), strings.ToUpper(l.Protocol))
	}
	return nil
}

// checkListener completes a listener of a load balancer and refuses one that cannot
// be, with the fields at fault.
func (t *tx) checkListener(lb *LoadBalancer, l *Listener) error {
	kind := traits[lb.Type]
	idle := 900
	switch l.Protocol {
	case ProtocolTCP:
	case ProtocolUDP:
		idle = 20
	case protocolTCPSSL:
		return invalid("protocol", "tcpssl", "TLS is not ended here, and a TCPSSL listener is not reachable through endpoints. A TCP listener passes TLS through.")
	default:
		return invalid("protocol", "invalid_protocol", "A listener is TCP or UDP.")
	}
	var faults [6]error
	if faults[0] = validSpan(l); faults[0] == nil {
		faults[0] = t.freeSpan(lb, l)
	}
	l.IdleTimeout, faults[1] = within("idle_timeout", l.IdleTimeout, idle, 10, idle, "seconds")
	_, faults[2] = within("cps", l.CPS, 0, 1, maxCPS, "")
	_, faults[3] = within("max_connections", l.MaxConnections, 0, 1, maxConnections, "")
	if _, faults[4] = within("mss", l.MSS, 0, 1, maxMSS, "bytes"); faults[4] == nil && l.MSS != 0 && l.Protocol != ProtocolTCP {
		faults[4] = invalid("mss", "tcp_only", "Only TCP has segments.")
	}
	faults[5] = l.Proxy.check()
	return errors.Join(errors.Join(faults[:]...),
		kind.lacks("port_from", "port ranges", l.Port == 0), kind.lacks("cps", "limits of a listener", l.CPS != 0),
		kind.lacks("mss", "a segment size", l.MSS != 0), kind.lacks("proxy.enabled", "the PROXY protocol", l.Proxy.Enabled))
}

// validSpan refuses ports that are none.
func validSpan(l *Listener) error {
	switch ranged := l.PortFrom != 0 || l.PortTo != 0; {
	case l.Port != 0 && ranged:
		return invalid("port", "port_and_range", "A listener has one port or a range, not both.")
	case !ranged && (l.Port < 1 || l.Port > maxPort):
		return invalid("port", "invalid_port", "A port is a number from 1 to %d.", maxPort)
	case ranged && (l.PortFrom < 1 || l.PortFrom > maxPort):
		return invalid("port_from", "invalid_port", "A range begins at a port from 1 to %d.", maxPort)
	case ranged && (l.PortTo < l.PortFrom || l.PortTo > maxPort):
		return invalid("port_to", "invalid_port", "A range ends at a port from %d to %d.", l.PortFrom, maxPort)
	}
	return nil
}

// freeSpan refuses ports that another listener of the load balancer and protocol has.
func (t *tx) freeSpan(lb *LoadBalancer, l *Listener) error {
	var others []Listener
	err := t.Where("load_balancer_id = ? AND protocol = ? AND id <> ?", lb.ID, l.Protocol, l.ID).Order("port").Order("id").Find(&others).Error
	if err != nil {
		return fmt.Errorf("look for listeners: %w", err)
	}
	field := "port"
	if l.Port == 0 {
		field = "port_from"
	}
	mine := l.Opening()
	for _, other := range others {
		if o := other.Opening(); mine.From <= o.To && o.From <= mine.To {
			return invalid(field, "port_in_use", "The load balancer listens on %s already.", o)
		}
	}
	return nil
}

// check completes a PROXY configuration, or says what is wrong with it.
func (p *ProxyProtocol) check() error {
	switch p.Dialect {
	case "":
		p.Dialect = ProxyAlibaba
	case ProxyAlibaba:
	case ProxyAWS, ProxyAzure, ProxyGCP:
		if p.VPC || p.Service {
			return invalid("proxy.dialect", "proxy_ids", "This dialect names the endpoint only, not the VPC or the service.")
		}
	default:
		return invalid("proxy.dialect", "invalid_dialect", "A dialect is %s, %s, %s or %s.", ProxyAlibaba, ProxyAWS, ProxyAzure, ProxyGCP)
	}
	return nil
}

// within returns value, or usual if it is 0, and refuses what is not from low to high.
func within(field string, value, usual, low, high int, unit string) (int, error) {
	if value == 0 {
		return usual, nil
	}
	if value < low || value > high {
		return 0, invalid(field, "out_of_range", "This is %d to %d%s.", low, high, strings.TrimRight(" "+unit, " "))
	}
	return value, nil
}

// AddListener adds a listener to a load balancer of the account.
//
// Errors: NotFound; Invalid with the fields at fault; Limit.
func (s *Scope) AddListener(ctx context.Context, balancerID string, in ListenerInput) (*Listener, error) {
	var l *Listener
	err := s.write(ctx, WriteProvide, func(t *tx) error {
		lb, err := t.loadBalancer(balancerID)
		if err != nil {
			return err
		}
		if l, err = t.addListener(lb, in); err != nil {
			return err
		}
		if err := t.balancerChanged(lb, 0, nil); err != nil {
			return err
		}
		return t.audit("AddListener", KindListener, l.ID, lb.Name, nil, l.facts())
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// facts are the listener in the trail.
func (l *Listener) facts() map[string]any {
	return map[string]any{
		"load_balancer": l.LoadBalancerID, "protocol": l.Protocol, "port": l.Opening().Ports(), "server_group": l.ServerGroupID,
		"idle_timeout": l.IdleTimeout, "cps": l.CPS, "max_connections": l.MaxConnections, "mss": l.MSS, "proxy": l.Proxy.words(),
	}
}

// words say what is in a PROXY header: "alibaba vpc endpoint", "" for none.
func (p ProxyProtocol) words() string {
	if !p.Enabled {
		return ""
	}
	words := []string{p.Dialect}
	for _, id := range []struct {
		on   bool
		name string
	}{{p.VPC, "vpc"}, {p.Endpoint, "endpoint"}, {p.Service, "service"}} {
		if id.on {
			words = append(words, id.name)
		}
	}
	return strings.Join(words, " ")
}

// listener reads a listener of the account with its load balancer.
func (t *tx) listener(id string) (*Listener, *LoadBalancer, error) {
	var l Listener
	if err := first(t.DB, KindListener, &l, "id = ? AND account_id = ?", id, t.account); err != nil {
		return nil, nil, err
	}
	lb, err := t.loadBalancer(l.LoadBalancerID)
	return &l, lb, err
}

// UpdateListener changes a listener of the account. Flows that it let in stay,
// except where their port is no longer one of it.
//
// Errors: NotFound; Invalid with the fields at fault; Conflict if the load balancer
// changed since the form's version.
func (s *Scope) UpdateListener(ctx context.Context, id string, in ListenerUpdate) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		l, lb, err := t.listener(id)
		if err != nil {
			return err
		}
		was := *l
		set(&l.Port, in.Port)
		set(&l.PortFrom, in.PortFrom)
		set(&l.PortTo, in.PortTo)
		set(&l.IdleTimeout, in.IdleTimeout)
		set(&l.CPS, in.CPS)
		set(&l.MaxConnections, in.MaxConnections)
		set(&l.MSS, in.MSS)
		set(&l.Proxy, in.Proxy)
		set(&l.ServerGroupID, in.ServerGroupID)
		if err := errors.Join(t.checkListener(lb, l), t.sendsTo(lb, l)); err != nil {
			return err
		}
		err = t.Model(&Listener{}).Where("id = ?", id).Updates(map[string]any{
			"port": l.Port, "port_from": l.PortFrom, "port_to": l.PortTo, "server_group_id": l.ServerGroupID, "idle_timeout": l.IdleTimeout,
			"cps": l.CPS, "max_connections": l.MaxConnections, "mss": l.MSS, "proxy_enabled": l.Proxy.Enabled, "proxy_dialect": l.Proxy.Dialect,
			"proxy_vpc": l.Proxy.VPC, "proxy_endpoint": l.Proxy.Endpoint, "proxy_service": l.Proxy.Service,
		}).Error
		if err != nil {
			return fmt.Errorf("update listener: %w", err)
		}
		if l.ServerGroupID != was.ServerGroupID {
			t.touched(t.account, KindServerGroup, l.ServerGroupID)
			if err := t.leaveGroup(was.ServerGroupID); err != nil {
				return err
			}
		}
		if err := t.balancerChanged(lb, in.Version, nil); err != nil {
			return err
		}
		before, after := differences(was.facts(), l.facts())
		return t.audit("UpdateListener", KindListener, id, lb.Name, before, after)
	})
}

// set gives to what is wanted, if anything is.
func set[T any](to, wanted *T) {
	if wanted != nil {
		*to = *wanted
	}
}

// differences returns what of before and after is not the same.
func differences(before, after map[string]any) (was, is map[string]any) {
	was, is = map[string]any{}, map[string]any{}
	for k, v := range after {
		if before[k] != v {
			was[k], is[k] = before[k], v
		}
	}
	return was, is
}

// DeleteListener removes a listener of the account, and its server group if that was
// made with a listener and no other one sends to it. Flows through it end.
func (s *Scope) DeleteListener(ctx context.Context, id string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		l, lb, err := t.listener(id)
		if err != nil {
			return err
		}
		if err := t.removeListener(l); err != nil {
			return err
		}
		if err := t.balancerChanged(lb, 0, nil); err != nil {
			return err
		}
		return t.audit("DeleteListener", KindListener, id, lb.Name, l.facts(), nil)
	})
}

func (t *tx) removeListener(l *Listener) error {
	if err := t.remove(&Listener{}, "id = ?", l.ID); err != nil {
		return err
	}
	return t.leaveGroup(l.ServerGroupID)
}
