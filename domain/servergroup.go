package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// ServerGroup is a set of targets in one VPC, and how flows and checks come to them.
type ServerGroup struct {
	ID               string `gorm:"primaryKey"`
	AccountID        string
	VPCID            string
	Type             string // TypeNLB or TypeCLB: of the load balancers that may send to it
	Kept             bool   // it stays when no listener sends to it; else it goes with the last one
	Name             string
	Protocol         string // ProtocolTCP, ProtocolUDP or ProtocolBoth
	Scheduler        string // SchedulerWRR and its like
	AnyPort          bool   // targets get the port that the client used
	Drain            int    // seconds that flows of a removed target live on; 0: they are reset
	SlowStart        int    // seconds in which a target that became healthy comes to its full weight
	FailClosed       bool   // refuse when every target is down, instead of trying them all
	ResetOnUnhealthy bool   // cut the flows of a target that goes down; else they are kept

	HealthEnabled      bool
	HealthType         string // HealthTCP and its like
	HealthPort         int    // 0: the target's own
	HealthInterval     int    // seconds
	HealthTimeout      int    // seconds
	HealthyThreshold   int
	UnhealthyThreshold int
	HealthProxy        bool   // begin with a PROXY v2 LOCAL header
	HealthMethod       string // of HTTP: GET or HEAD
	HealthPath         string
	HealthHost         string // ServerIP is the target's address
	HealthVersion      string // 1.0 or 1.1
	HealthCodes        string // http_2xx to http_5xx, joined by commas
	HealthRequest      string // datagram of a UDP check
	HealthExpect       string // and the answer to it

	Demo      bool
	Version   int64
	CreatedAt time.Time
}

// usual fills in what a row of an older backup does not have.
func (g *ServerGroup) usual() {
	g.Type, g.Protocol, g.HealthType = TypeNLB, ProtocolTCP, HealthTCP
}

// ProtocolBoth is the protocol of server groups for TCP and UDP.
const ProtocolBoth = "tcp_udp"

// The schedulers, by the names of the NLB's API.
const (
	SchedulerWRR = "wrr" // weighted round robin
	SchedulerWLC = "wlc" // weighted least connections
	SchedulerRR  = "rr"  // round robin
	SchedulerSCH = "sch" // hash of the source
	SchedulerTCH = "tch" // hash of addresses and ports
	SchedulerQCH = "qch" // hash of the QUIC connection id
)

// The types of health checks.
const (
	HealthTCP  = "tcp"
	HealthHTTP = "http"
	HealthUDP  = "udp"
)

// ServerIP as the host of an HTTP check is the target's address.
const ServerIP = "$SERVER_IP"

// trait is what load balancers of a type, and server groups for them, are held to.
type trait struct {
	label      string // "NLB"
	prefix     string // of ids
	zones      int    // at most
	schedulers []string
	full       bool // port ranges, PROXY protocol, limits of listeners, one zone apart from the others
	check      HealthInput
	udpCheck   HealthInput // where it is another one
	drainFrom  int         // seconds, the shortest
	bandwidth  BandwidthRule
}

var traits = map[string]trait{
	TypeNLB: {
		label: "NLB", prefix: "nlb", zones: maxZones, full: true,
		schedulers: []string{SchedulerWRR, SchedulerWLC, SchedulerRR, SchedulerSCH, SchedulerTCH, SchedulerQCH},
		check:      HealthInput{Interval: 5, Timeout: 5, HealthyThreshold: 2, UnhealthyThreshold: 2},
		udpCheck:   HealthInput{Interval: 5, Timeout: 5}, drainFrom: 1,
		bandwidth: BandwidthRule{Min: 100, Max: 50_000, Default: 3072, Scales: true},
	},
	TypeCLB: {
		label: "CLB", prefix: "lb", zones: 2,
		schedulers: []string{SchedulerWRR, SchedulerWLC, SchedulerRR, SchedulerSCH, SchedulerTCH},
		check:      HealthInput{Interval: 2, Timeout: 5, HealthyThreshold: 3, UnhealthyThreshold: 3},
		udpCheck:   HealthInput{Interval: 5, Timeout: 10}, drainFrom: 10,
		bandwidth: BandwidthRule{Min: 100, Max: 10_240, Default: 3072},
	},
}

// lacks refuses what load balancers of the type do not have, where it is wanted.
func (k trait) lacks(field, what string, wanted bool) error {
	if k.full || !wanted {
		return nil
	}
	return invalid(field, "nlb_only", "A %s does not have %s; an NLB does.", k.label, what)
}

// ServerGroupInput is a new server group.
type ServerGroupInput struct {
	Name             string // "" gets a generated one
	VPCID            string
	Type             string // TypeNLB or TypeCLB; "" is TypeNLB
	Protocol         string // ProtocolTCP, ProtocolUDP or ProtocolBoth; "" is ProtocolTCP
	Scheduler        string // "" is SchedulerWRR
	AnyPort          bool
	Drain            int // seconds, up to 900; 0: flows of a removed target are reset
	SlowStart        int // seconds, up to 900
	FailClosed       bool
	ResetOnUnhealthy bool
	Health           HealthInput
	Servers          []ServerInput
}

// ServerGroupUpdate changes what is not nil.
type ServerGroupUpdate struct {
	Name             *string
	Scheduler        *string
	Drain            *int
	SlowStart        *int
	FailClosed       *bool
	ResetOnUnhealthy *bool
	Health           *HealthInput
	Version          int64 // that the form showed; 0 is not checked
}

// HealthInput is how targets are checked. The zero value is the usual check of
// the group's protocol and type; 0 and "" stand for what that has.
type HealthInput struct {
	Disabled           bool
	Type               string   // HealthTCP and its like; "" is HealthUDP for UDP, HealthTCP else
	Port               int      // 0: each target's own
	Interval           int      // seconds, 1 to 50; 1 to 300 for UDP, and no less than Timeout
	Timeout            int      // seconds, 1 to 300
	HealthyThreshold   int      // 2 to 10
	UnhealthyThreshold int      // 2 to 10
	Proxy              bool     // begin with a PROXY v2 LOCAL header
	Method             string   // GET or HEAD; "" is GET
	Path               string   // up to 80 characters; "" is /
	Host               string   // up to 80 characters; "" is ServerIP
	HTTPVersion        string   // 1.0 or 1.1; "" is 1.0
	Codes              []string // http_2xx to http_5xx; none is http_2xx
	Request            string   // of UDP, up to 512 letters and digits
	Expect             string   // the answer to it, likewise
}

// ServerGroupSummary is a server group in a list.
type ServerGroupSummary struct {
	ServerGroup
	VPCName   string
	Healthy   int // targets that new flows go to
	Total     int
	Listeners int // that send to it
}

// ServerGroupDetail is a server group with what is in front of and behind it.
type ServerGroupDetail struct {
	ServerGroup
	VPCName   string
	Healthy   int
	Servers   []ServerDetail // by zone and address
	Listeners []GroupListener
}

// GroupListener is a listener that sends to a group.
type GroupListener struct {
	Listener
	BalancerName string
}

// CreateServerGroup makes a server group of its own with its targets. It stays when
// no listener sends to it.
//
// Errors: Invalid with the fields at fault; Limit.
func (s *Scope) CreateServerGroup(ctx context.Context, in ServerGroupInput) (*ServerGroup, error) {
	var g *ServerGroup
	err := s.write(ctx, WriteProvide, func(t *tx) (err error) {
		if g, err = t.addServerGroup(in, true); err != nil {
			return err
		}
		return t.audit("CreateServerGroup", KindServerGroup, g.ID, g.Name, nil, g.facts())
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// addServerGroup makes a server group of the transaction's account.
func (t *tx) addServerGroup(in ServerGroupInput, kept bool) (*ServerGroup, error) {
	v, err := t.vpc(in.VPCID)
	if err != nil {
		return nil, at("vpc_id", err)
	}
	if err := t.quotaOf(&ServerGroup{}, "server_groups", "account_id", t.account); err != nil {
		return nil, err
	}
	g := &ServerGroup{
		ID: newID(KindServerGroup), AccountID: t.account, VPCID: v.ID, Kept: kept,
		Type: cmp.Or(in.Type, TypeNLB), Protocol: cmp.Or(strings.ToLower(in.Protocol), ProtocolTCP), AnyPort: in.AnyPort,
		Demo: v.Demo, Version: 1, CreatedAt: t.now,
	}
	kind, ok := traits[g.Type]
	if !ok {
		return nil, invalid("type", "invalid_type", "A server group is for load balancers of type %s or %s.", TypeNLB, TypeCLB)
	}
	if !slices.Contains([]string{ProtocolTCP, ProtocolUDP, ProtocolBoth}, g.Protocol) {
		return nil, invalid("protocol", "invalid_protocol", "A server group is for TCP, UDP or both.")
	}
	var nameErr error
	g.Name, nameErr = validNameOr(in.Name, g.ID)
	err = errors.Join(nameErr, kind.lacks("any_port", "targets with any port", in.AnyPort), g.change(ServerGroupUpdate{
		Scheduler: new(cmp.Or(in.Scheduler, SchedulerWRR)), Drain: &in.Drain, SlowStart: &in.SlowStart,
		FailClosed: &in.FailClosed, ResetOnUnhealthy: &in.ResetOnUnhealthy, Health: &in.Health,
	}))
	if err != nil {
		return nil, err
	}
	if err := t.Create(g).Error; err != nil {
		return nil, fmt.Errorf("create server group: %w", err)
	}
	var faults []error
	for i, srv := range in.Servers {
		_, err := t.addServer(g, srv)
		faults = append(faults, under(fmt.Sprintf("servers.%d", i), err))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	t.stale(KindServerGroup, g.ID)
	t.touched(t.account, KindServerGroup, g.ID)
	return g, nil
}

// change gives a group what is wanted, or says which fields cannot be.
func (g *ServerGroup) change(in ServerGroupUpdate) error {
	var faults [5]error
	if in.Name != nil {
		g.Name, faults[0] = validName("name", *in.Name)
	}
	kind := traits[g.Type]
	if in.Scheduler != nil {
		g.Scheduler = strings.ToLower(*in.Scheduler)
		switch {
		case !slices.Contains(kind.schedulers, g.Scheduler):
			faults[1] = invalid("scheduler", "invalid_scheduler", "A scheduler of a %s is one of %s.", kind.label, strings.Join(kind.schedulers, ", "))
		case g.Scheduler == SchedulerQCH && g.Protocol != ProtocolUDP:
			faults[1] = invalid("scheduler", "udp_only", "QUIC connection ids are in UDP only: choose this scheduler for a UDP server group.")
		}
	}
	if in.Drain != nil {
		g.Drain, faults[2] = within("drain", *in.Drain, 0, kind.drainFrom, 900, "seconds")
	}
	if in.SlowStart != nil {
		g.SlowStart, faults[3] = within("slow_start", *in.SlowStart, 0, 1, 900, "seconds")
	}
	set(&g.FailClosed, in.FailClosed)
	set(&g.ResetOnUnhealthy, in.ResetOnUnhealthy)
	if in.Health != nil {
		faults[4] = under("health", g.checkBy(*in.Health))
	}
	return errors.Join(faults[:]...)
}

// Forms of what a check sends and expects.
var (
	checkCodes = []string{"http_2xx", "http_3xx", "http_4xx", "http_5xx"}
	checkPath  = regexp.MustCompile(`^/[!-~]{0,79}$`)
	checkHost  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:-]{0,79}$`)
	checkWord  = regexp.MustCompile(`^[A-Za-z0-9]{0,512}$`)
)

// checkBy sets how targets are checked.
func (g *ServerGroup) checkBy(in HealthInput) error {
	kind := traits[g.Type]
	usual, longest := kind.check, 50
	g.HealthEnabled, g.HealthProxy, g.HealthType = !in.Disabled, in.Proxy, strings.ToLower(in.Type)
	if g.HealthType == "" {
		if g.HealthType = HealthTCP; g.Protocol == ProtocolUDP {
			g.HealthType = HealthUDP
		}
	}
	g.HealthMethod, g.HealthPath, g.HealthHost, g.HealthVersion, g.HealthCodes, g.HealthRequest, g.HealthExpect = "", "", "", "", "", "", ""
	var faults []error
	refuse := func(wrong bool, field, reason, message string, args ...any) {
		if wrong {
			faults = append(faults, invalid(field, reason, message, args...))
		}
	}
	switch g.HealthType {
	case HealthTCP:
	case HealthHTTP:
		g.HealthMethod, g.HealthPath, g.HealthHost = cmp.Or(strings.ToUpper(in.Method), "GET"), cmp.Or(in.Path, "/"), cmp.Or(in.Host, ServerIP)
		g.HealthVersion = cmp.Or(in.HTTPVersion, "1.0")
		codes := in.Codes
		if len(codes) == 0 {
			codes = checkCodes[:1]
		}
		g.HealthCodes = strings.Join(codes, ",")
		refuse(g.HealthMethod != "GET" && g.HealthMethod != "HEAD", "method", "invalid_method", "A check asks with GET or HEAD.")
		refuse(!checkPath.MatchString(g.HealthPath), "path", "invalid_path", "A path begins with / and has at most 80 characters, none of them a space.")
		refuse(g.HealthHost != ServerIP && !checkHost.MatchString(g.HealthHost), "host", "invalid_host", "A host is a name or an address of at most 80 characters, or %s.", ServerIP)
		refuse(g.HealthVersion != "1.0" && g.HealthVersion != "1.1", "version", "invalid_version", "A check speaks HTTP 1.0 or 1.1.")
		refuse(slices.ContainsFunc(codes, func(c string) bool { return !slices.Contains(checkCodes, c) }), "codes", "invalid_codes", "Codes are among %s.", strings.Join(checkCodes, ", "))
	case HealthUDP:
		longest, usual.Interval, usual.Timeout = 300, kind.udpCheck.Interval, kind.udpCheck.Timeout
		g.HealthRequest, g.HealthExpect = in.Request, in.Expect
		refuse(g.Protocol == ProtocolTCP, "type", "udp_check", "Targets of a TCP server group are checked by TCP or HTTP.")
		refuse(!checkWord.MatchString(in.Request), "request", "invalid_datagram", "The datagram has at most 512 letters and digits.")
		refuse(!checkWord.MatchString(in.Expect), "expect", "invalid_datagram", "The answer has at most 512 letters and digits.")
		refuse(in.Expect != "" && in.Request == "", "request", "missing_datagram", "An answer is expected to a datagram: say which.")
	default:
		refuse(true, "type", "invalid_check", "A check is by TCP, HTTP or UDP.")
	}
	number := func(to *int, field string, value, usual, low, high int, unit string) {
		n, err := within(field, value, usual, low, high, unit)
		*to, faults = n, append(faults, err)
	}
	number(&g.HealthPort, "port", in.Port, 0, 1, maxPort, "")
	number(&g.HealthTimeout, "timeout", in.Timeout, usual.Timeout, 1, 300, "seconds")
	early := kind.full && g.HealthType == HealthUDP // refused
	if early {
		usual.Interval = max(usual.Interval, g.HealthTimeout)
	}
	number(&g.HealthInterval, "interval", in.Interval, usual.Interval, 1, longest, "seconds")
	number(&g.HealthyThreshold, "healthy_threshold", in.HealthyThreshold, usual.HealthyThreshold, 2, 10, "checks")
	number(&g.UnhealthyThreshold, "unhealthy_threshold", in.UnhealthyThreshold, usual.UnhealthyThreshold, 2, 10, "checks")
	refuse(early && g.HealthInterval != 0 && g.HealthInterval < g.HealthTimeout, "interval", "interval_below_timeout", "A UDP check is repeated after its timeout at the earliest, %d s.", g.HealthTimeout)
	refuse(g.HealthEnabled && g.AnyPort && in.Port == 0, "port", "check_port", "Targets of this server group have no port of their own: say which one is checked.")
	return errors.Join(faults...)
}

// facts are the group in the trail.
func (g *ServerGroup) facts() map[string]any {
	f := map[string]any{
		"name": g.Name, "vpc": g.VPCID, "type": g.Type, "protocol": g.Protocol, "scheduler": g.Scheduler, "any_port": g.AnyPort, "drain": g.Drain,
		"slow_start": g.SlowStart, "fail_closed": g.FailClosed, "reset_on_unhealthy": g.ResetOnUnhealthy, "health_check": "off",
	}
	if g.HealthEnabled {
		f["health_check"], f["health_port"], f["health_proxy"] = g.HealthType, g.HealthPort, g.HealthProxy
		f["health_interval"], f["health_timeout"] = g.HealthInterval, g.HealthTimeout
		f["healthy_threshold"], f["unhealthy_threshold"] = g.HealthyThreshold, g.UnhealthyThreshold
	}
	switch {
	case !g.HealthEnabled:
	case g.HealthType == HealthHTTP:
		f["health_request"] = strings.Join([]string{g.HealthMethod, g.HealthHost + g.HealthPath, "HTTP/" + g.HealthVersion}, " ")
		f["health_expect"] = g.HealthCodes
	case g.HealthType == HealthUDP:
		f["health_request"], f["health_expect"] = g.HealthRequest, g.HealthExpect
	}
	return f
}

// serverGroup reads a server group of the account.
func (t *tx) serverGroup(id string) (*ServerGroup, error) {
	var g ServerGroup
	return &g, first(t.DB, KindServerGroup, &g, "id = ? AND account_id = ?", id, t.account)
}

// serversChanged counts a change of a group or of its targets, also with every load
// balancer that sends to it, and tells who shows them.
func (t *tx) serversChanged(g *ServerGroup, version int64, values map[string]any) error {
	if values == nil {
		values = map[string]any{}
	}
	if err := t.edit(KindServerGroup, g.ID, version, values); err != nil {
		return err
	}
	t.stale(KindServerGroup, g.ID)
	t.touched(t.account, KindServerGroup, g.ID)
	var balancers []LoadBalancer
	err := t.Where("id IN (?)", t.Model(&Listener{}).Select("load_balancer_id").Where("server_group_id = ?", g.ID)).Find(&balancers).Error
	if err != nil {
		return fmt.Errorf("find load balancers: %w", err)
	}
	for i := range balancers {
		if err := t.balancerChanged(&balancers[i], 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// UpdateServerGroup changes a server group of the account. Flows stay.
//
// Errors: NotFound; Invalid with the fields at fault; Conflict if it changed since
// the form's version.
func (s *Scope) UpdateServerGroup(ctx context.Context, id string, in ServerGroupUpdate) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		g, err := t.serverGroup(id)
		if err != nil {
			return err
		}
		was := *g
		if err := g.change(in); err != nil {
			return err
		}
		if g.HealthPort != was.HealthPort {
			if err := t.checkHosts(g); err != nil {
				return err
			}
		}
		err = t.serversChanged(g, in.Version, map[string]any{
			"name": g.Name, "scheduler": g.Scheduler, "drain": g.Drain, "slow_start": g.SlowStart,
			"fail_closed": g.FailClosed, "reset_on_unhealthy": g.ResetOnUnhealthy,
			"health_enabled": g.HealthEnabled, "health_type": g.HealthType, "health_port": g.HealthPort,
			"health_interval": g.HealthInterval, "health_timeout": g.HealthTimeout,
			"healthy_threshold": g.HealthyThreshold, "unhealthy_threshold": g.UnhealthyThreshold, "health_proxy": g.HealthProxy,
			"health_method": g.HealthMethod, "health_path": g.HealthPath, "health_host": g.HealthHost, "health_version": g.HealthVersion,
			"health_codes": g.HealthCodes, "health_request": g.HealthRequest, "health_expect": g.HealthExpect,
		})
		if err != nil {
			return err
		}
		before, after := differences(was.facts(), g.facts())
		return t.audit("UpdateServerGroup", KindServerGroup, id, g.Name, before, after)
	})
}

// checkHosts refuses a port of checks that is not the one of a host service in the
// group: nothing else of the host may be reached.
func (t *tx) checkHosts(g *ServerGroup) error {
	if g.HealthPort == 0 {
		return nil
	}
	var a Attachment
	err := t.Where("kind = ? AND host_port <> ? AND id IN (?)", AttachHost, g.HealthPort, t.Model(&Server{}).Select("attachment_id").Where("server_group_id = ?", g.ID)).
		Order("id").Take(&a).Error
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("look for host services: %w", err)
	}
	return invalid("health.port", "host_check_port", "Host service %s is a target, and is checked at its own port, %d.", a.Name, a.HostPort)
}

// DeleteServerGroup removes a server group that no listener sends to, with its
// targets.
//
// Errors: NotFound; Conflict that names the load balancers.
func (s *Scope) DeleteServerGroup(ctx context.Context, id string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		g, err := t.serverGroup(id)
		if err != nil {
			return err
		}
		var u uses
		err = u.add(t.Table("load_balancers").Where("id IN (?)", t.Model(&Listener{}).Select("load_balancer_id").Where("server_group_id = ?", id)), KindLoadBalancer)
		if err == nil {
			err = u.refusal(KindServerGroup, g.Name)
		}
		if err == nil {
			err = t.removeGroup(g)
		}
		if err != nil {
			return err
		}
		return t.audit("DeleteServerGroup", KindServerGroup, id, g.Name, g.facts(), nil)
	})
}

// leaveGroup removes a group that was made with a listener when no one is left.
func (t *tx) leaveGroup(id string) error {
	g, err := t.serverGroup(id)
	if err != nil {
		return err
	}
	t.touched(t.account, KindServerGroup, id)
	if g.Kept {
		return nil
	}
	var left int64
	if err := t.Model(&Listener{}).Where("server_group_id = ?", id).Count(&left).Error; err != nil || left > 0 {
		return err
	}
	return t.removeGroup(g)
}

func (t *tx) removeGroup(g *ServerGroup) error {
	var servers []Server
	if err := t.Where("server_group_id = ?", g.ID).Find(&servers).Error; err != nil {
		return fmt.Errorf("list targets: %w", err)
	}
	if err := t.remove(&Server{}, "server_group_id = ?", g.ID); err != nil {
		return err
	}
	for _, srv := range servers {
		if err := t.unreserve(g, srv.Address); err != nil {
			return err
		}
	}
	t.stale(KindServerGroup, g.ID)
	t.touched(t.account, KindServerGroup, g.ID)
	return t.remove(&ServerGroup{}, "id = ?", g.ID)
}

// ServerGroups lists the server groups of the account by name. Filters vpc, type and
// protocol.
func (s *Scope) ServerGroups(ctx context.Context, q Query) (Page[ServerGroupSummary], error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return Page[ServerGroupSummary]{}, err
	}
	list := matching(db.Where("account_id = ?", s.account.ID), q.Text)
	for column, key := range map[string]string{"vpc_id": "vpc", "type": "type", "protocol": "protocol"} {
		list = oneOf(list, column, q.Filter[key])
	}
	page, err := paginate(list, q, order{columns: []string{"name", "id"}}, func(g ServerGroup) []any { return []any{g.Name, g.ID} })
	if err != nil || len(page.Items) == 0 {
		return Page[ServerGroupSummary]{}, err
	}
	ids := each(page.Items, func(g ServerGroup) string { return g.ID })
	servers, err := rowsOf[Server](db, "server_group_id", ids, "id")
	if err != nil {
		return Page[ServerGroupSummary]{}, fmt.Errorf("read targets: %w", err)
	}
	listeners, err := countBy(db.Model(&Listener{}), "server_group_id", ids)
	if err != nil {
		return Page[ServerGroupSummary]{}, err
	}
	vpcs, err := namesOf(db, KindVPC, each(page.Items, func(g ServerGroup) string { return g.VPCID }))
	if err != nil {
		return Page[ServerGroupSummary]{}, err
	}
	serversOf := groupRows(servers, func(srv Server) string { return srv.ServerGroupID })
	return mapPage(page, func(g ServerGroup) ServerGroupSummary {
		h := ZoneHealth{ZoneID: everyZone}
		h.count(g, serversOf[g.ID], true)
		return ServerGroupSummary{ServerGroup: g, VPCName: vpcs[g.VPCID], Healthy: h.Healthy, Total: h.Total, Listeners: listeners[g.ID]}
	}), nil
}

// ServerGroup returns one server group of the account.
func (s *Scope) ServerGroup(ctx context.Context, id string) (*ServerGroupDetail, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	var d ServerGroupDetail
	if err := first(db, KindServerGroup, &d.ServerGroup, "id = ? AND account_id = ?", id, s.account.ID); err != nil {
		return nil, err
	}
	vpcs, err := namesOf(db, KindVPC, []string{d.VPCID})
	if err != nil {
		return nil, err
	}
	d.VPCName = vpcs[d.VPCID]
	servers, err := rowsOf[Server](db, "server_group_id", []string{id}, "id")
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	h := ZoneHealth{ZoneID: everyZone}
	h.count(d.ServerGroup, servers, true)
	d.Healthy = h.Healthy
	where, err := readTargets(db, servers)
	if err != nil {
		return nil, err
	}
	d.Servers = where.details(servers)
	err = db.Model(&Listener{}).Select("listeners.*, load_balancers.name AS balancer_name").Joins("JOIN load_balancers ON load_balancers.id = listeners.load_balancer_id").
		Where("listeners.server_group_id = ?", id).Order("load_balancers.name, listeners.load_balancer_id, listeners.port, listeners.id").Scan(&d.Listeners).Error
	if err != nil {
		return nil, fmt.Errorf("list listeners: %w", err)
	}
	return &d, nil
}
