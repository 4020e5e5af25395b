package domain

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gorm.io/gorm"
)

// FlowRecord is a row that the engine wrote down about a flow, with what the networks
// of both sides saw of it. It is nobody's to read: [Scope.EndpointFlows] and
// [Scope.ServiceFlows] show each side its half, a [Flow].
type FlowRecord struct {
	Seq, Flow  uint64 // numbers of the row and of the flow's first row; Flow is 0 in that one
	Window     bool   // the flow went on at End; times and counts are of this row alone
	Protocol   string // tcp or udp
	EndpointID string
	ServiceID  string
	ZoneID     string
	Start, End time.Time
	In, Out    int64 // bytes, consumer to service and back
	Packets    [2]int64
	Accepted   bool
	Reason     string

	// The consumer's half.
	Source, Address netip.AddrPort // of the client and of the endpoint
	Group, Rule     string         // that decided

	// The provider's half.
	LoadBalancerID, ServerID string
	Local, Target            netip.AddrPort // what the server saw as the source, and its own address
	Told                     bool           // a PROXY header told the server Source
}

// RecordQuery selects records of an endpoint, or of a service, or of both. See
// [FlowQuery].
type RecordQuery struct {
	EndpointID, ServiceID string
	After, Before         uint64 // numbers; 0: no bound
	Newest                bool   // newest first
	Limit                 int
	Action, Reason        string
	From, To              time.Time
}

// RecordPage is a part of the answer. It may be short, or empty, and yet More.
type RecordPage struct {
	Records []FlowRecord
	Next    uint64 // After of the next page or, newest first, Before
	More    bool
}

// Flow is one side's half of a row of a flow: one that was refused or has ended, or a
// window of one that goes on.
type Flow struct {
	Seq, Flow  uint64 // numbers of the row and of the flow's first row
	Window     bool   // the flow went on at End
	Protocol   string
	EndpointID string
	ServiceID  string
	ConsumerID string // account of the endpoint, where it is known
	Zone       string
	Start, End time.Time
	In, Out    int64    // bytes, consumer to service and back
	Packets    [2]int64 // in and out, of protocols that have them
	Accepted   bool
	Reason     string

	Source  netip.AddrPort // the client's; for the provider what its server saw
	Address netip.AddrPort // the endpoint's; for the provider the server's

	Group, Rule              string         // that decided, for the consumer
	LoadBalancerID, ServerID string         // for the provider
	Client                   netip.AddrPort // for the provider: the client's, if a PROXY header told its server
}

// FlowDenied is the reason of a flow that the endpoint's security groups refused.
const FlowDenied = "sg"

// FlowOther is the reason that the provider sees of a flow that ended for one which
// is the consumer's alone.
const FlowOther = "consumer"

// FlowReasons are the reasons that a query may ask for, with what they say.
var FlowReasons = []struct{ Reason, Words string }{
	{"open", "it goes on"},
	{"closed", "both sides ended it"},
	{"reset", "one side reset it"},
	{"idle", "nothing was sent for too long"},
	{"revoked", "the connection was revoked"},
	{"replaced", "its load balancer was replaced"},
	{"removed", "its target was removed"},
	{"unhealthy", "its target went down"},
	{"shutdown", "the engine ended"},
	{"descriptors", "the engine may open no more sockets"},
	{FlowDenied, "the endpoint's security groups refused it"},
	{"gate", "the connection was revoked while it arrived"},
	{"no_server", "the load balancer has no target that may take it"},
	{"connect", "no target of the load balancer could be reached"},
	{"cps", "too many new flows a second"},
	{"max_connections", "too many flows at the same time"},
	{"out_of_ports", "no port was free towards the target"},
	{FlowOther, "the consumer's side ended it"},
}

// Why says in words why the flow ended or was refused.
func (f Flow) Why() string {
	for _, r := range FlowReasons {
		if r.Reason == f.Reason {
			return r.Words
		}
	}
	return f.Reason
}

// consumerHalf is what the endpoint's account may know.
func consumerHalf(r FlowRecord) (Flow, bool) {
	f := half(r)
	f.Source, f.Address, f.Group, f.Rule = r.Source, r.Address, r.Group, r.Rule
	return f, true
}

// What of a flow is the provider's matter, too: refusals of its side, and the ends
// that it may know of.
var (
	providerRefusals = []string{"no_server", "connect", "cps", "max_connections", "out_of_ports"}
	providerEnds     = []string{"open", "closed", "reset", "idle", "revoked", "replaced", "removed", "unhealthy", "shutdown"}
)

// providerHalf is what the service's account may know. A flow that the consumer's
// side refused never came to it.
func providerHalf(r FlowRecord) (Flow, bool) {
	f := half(r)
	if !r.Accepted {
		if !slices.Contains(providerRefusals, r.Reason) {
			return Flow{}, false
		}
	} else if !slices.Contains(providerEnds, r.Reason) {
		f.Reason = FlowOther
	}
	f.Source, f.Address, f.LoadBalancerID, f.ServerID = r.Local, r.Target, r.LoadBalancerID, r.ServerID
	if r.Told {
		f.Client = r.Source
	}
	return f, true
}

// half is what both may know.
func half(r FlowRecord) Flow {
	f := Flow{
		Seq: r.Seq, Flow: r.Flow, Window: r.Window, Protocol: r.Protocol, EndpointID: r.EndpointID, ServiceID: r.ServiceID, Zone: r.ZoneID,
		Start: r.Start, End: r.End, In: r.In, Out: r.Out, Packets: r.Packets, Accepted: r.Accepted, Reason: r.Reason,
	}
	if f.Flow == 0 {
		f.Flow = r.Seq
	}
	return f
}

// FlowQuery selects flow records. The zero value is the newest page of all.
type FlowQuery struct {
	After  string // cursor of a Page: older ones
	Before string // cursor of a Page: newer ones; wins over After
	Limit  int    // rows a page; 0 means 25, at most 200

	Endpoint string    // of a service's: only through this one
	Action   string    // accept or reject
	Reason   string    // one of FlowReasons
	Source   string    // address or CIDR of [Flow.Source] or [Flow.Client]
	From, To time.Time // of the end; To is excluded
}

// flowView is one side's view of records.
type flowView struct {
	plane  DataPlane
	query  RecordQuery
	half   func(FlowRecord) (Flow, bool)
	reason string
	source netip.Prefix
}

func (q FlowQuery) view(of RecordQuery, half func(FlowRecord) (Flow, bool)) (flowView, error) {
	v := flowView{query: of, half: half, reason: q.Reason}
	v.query.From, v.query.To = q.From, q.To
	switch q.Action {
	case "":
	case "accept", "reject":
		v.query.Action = strings.ToUpper(q.Action)
	default:
		return v, invalid("action", "invalid_action", "%q is neither accept nor reject.", q.Action)
	}
	if q.Reason != "" && !slices.ContainsFunc(FlowReasons, func(r struct{ Reason, Words string }) bool { return r.Reason == q.Reason }) {
		return v, invalid("reason", "invalid_reason", "There is no reason %q.", q.Reason)
	}
	if q.Reason != FlowOther { // that stands for several
		v.query.Reason = q.Reason
	}
	if q.Source != "" {
		var err error
		if v.source, err = netip.ParsePrefix(q.Source); err != nil {
			a, err := netip.ParseAddr(q.Source)
			if err != nil {
				return v, invalid("source", "invalid_source", "%q is neither an address, such as 10.0.0.7, nor a range, such as 10.0.0.0/24.", q.Source)
			}
			v.source = netip.PrefixFrom(a, a.BitLen())
		}
	}
	return v, nil
}

// of returns the half of r that the view shows, if it does. What selects a row is
// looked for in that half only, so that no answer depends on what it hides.
func (v flowView) of(r FlowRecord) (Flow, bool) {
	f, ok := v.half(r)
	ok = ok && (v.query.EndpointID == "" || f.EndpointID == v.query.EndpointID) && (v.query.ServiceID == "" || f.ServiceID == v.query.ServiceID) &&
		(v.reason == "" || f.Reason == v.reason) &&
		(!v.source.IsValid() || v.source.Contains(f.Source.Addr()) || v.source.Contains(f.Client.Addr()))
	return f, ok
}

// Records that a view asks the engine for at once, and how often for one page: then
// it is left short, and goes on at the next.
const (
	flowBatch = 1000
	flowLooks = 10
)

// page reads one page, newest first.
func (v flowView) page(ctx context.Context, q FlowQuery) (Page[Flow], error) {
	var p Page[Flow]
	limit := Query{Limit: q.Limit}.limit()
	at, back, err := flowCursor(q)
	if err != nil {
		return p, err
	}
	rq := v.query
	rq.Newest, rq.Limit = !back, flowBatch
	if v.reason == "" && !v.source.IsValid() {
		rq.Limit = limit + 1
	}
	if back {
		rq.After = at
	} else {
		rq.Before = at
	}
	more, last := true, at
	for look := 0; more && len(p.Items) <= limit && look < flowLooks; look++ {
		got, err := v.plane.Records(ctx, rq)
		if err != nil {
			return Page[Flow]{}, fmt.Errorf("read flow records: %w", err)
		}
		for _, r := range got.Records {
			if f, ok := v.of(r); ok {
				p.Items = append(p.Items, f)
			}
		}
		more, last = got.More, got.Next
		if back {
			rq.After = got.Next
		} else {
			rq.Before = got.Next
		}
	}
	if len(p.Items) > limit {
		p.Items, more = p.Items[:limit], true
		last = p.Items[limit-1].Seq
	}
	if back {
		slices.Reverse(p.Items)
	}
	mark := func(ok bool, seq uint64) string {
		if !ok || seq == 0 {
			return ""
		}
		return strconv.FormatUint(seq, 36)
	}
	if n := len(p.Items); back {
		p.Prev = mark(more, last)
		p.Next = mark(true, at+1) // those from at on
		if n > 0 {
			p.Next = mark(true, p.Items[n-1].Seq)
		}
	} else {
		p.Next = mark(more, last)
		if n > 0 {
			p.Prev = mark(at != 0, p.Items[0].Seq)
		} else {
			p.Prev = mark(at != 0, at-1)
		}
	}
	return p, nil
}

func flowCursor(q FlowQuery) (at uint64, back bool, err error) {
	cursor := q.After
	if q.Before != "" {
		cursor, back = q.Before, true
	}
	if cursor == "" {
		return 0, false, nil
	}
	if at, err = strconv.ParseUint(cursor, 36, 64); err != nil || at == 0 {
		return 0, false, invalid("after", "invalid_cursor", "This page marker is not one of ours. Begin at the first page.")
	}
	return at, back, nil
}

// each calls yield for every flow, oldest first, until the newest there is when it
// begins.
func (v flowView) each(ctx context.Context, yield func(Flow) error) error {
	rq := v.query
	rq.Limit = flowBatch
	newest := v.query
	newest.Newest, newest.Limit = true, 1
	got, err := v.plane.Records(ctx, newest)
	if err != nil {
		return fmt.Errorf("read flow records: %w", err)
	}
	if len(got.Records) > 0 {
		rq.Before = got.Records[0].Seq + 1
	} else if !got.More {
		return nil
	}
	for {
		if got, err = v.plane.Records(ctx, rq); err != nil {
			return fmt.Errorf("read flow records: %w", err)
		}
		for _, r := range got.Records {
			if f, ok := v.of(r); ok {
				if err := yield(f); err != nil {
					return err
				}
			}
		}
		if !got.More {
			return nil
		}
		rq.After = got.Next
	}
}

// endpointView is the consumer's view of an endpoint's flows.
func (s *Scope) endpointView(ctx context.Context, id string, q FlowQuery) (flowView, *gorm.DB, Endpoint, error) {
	var e Endpoint
	db, err := s.read(ctx, ReadConsume)
	if err == nil {
		err = first(db, KindEndpoint, &e, "id = ? AND account_id = ?", id, s.account.ID)
	}
	if err != nil {
		return flowView{}, nil, e, err
	}
	v, err := q.view(RecordQuery{EndpointID: id}, consumerHalf)
	v.plane = s.store.plane
	return v, db, e, err
}

// serviceView is the provider's view of a service's flows.
func (s *Scope) serviceView(ctx context.Context, id string, q FlowQuery) (flowView, *gorm.DB, error) {
	db, err := s.read(ctx, ReadProvide)
	if err == nil {
		err = first(db, KindService, &Service{}, "id = ? AND account_id = ?", id, s.account.ID)
	}
	if err != nil {
		return flowView{}, nil, err
	}
	v, err := q.view(RecordQuery{ServiceID: id, EndpointID: q.Endpoint}, providerHalf)
	v.plane = s.store.plane
	return v, db, err
}

// EndpointFlows returns a page of the flows through an endpoint that ended or were
// refused, and of the windows of those that go on, newest first, as the consumer
// sees them.
//
// Errors: NotFound; Invalid for a filter that is none.
func (s *Scope) EndpointFlows(ctx context.Context, id string, q FlowQuery) (Page[Flow], error) {
	v, _, _, err := s.endpointView(ctx, id, q)
	if err != nil || v.plane == nil {
		return Page[Flow]{}, err
	}
	p, err := v.page(ctx, q)
	for i := range p.Items {
		p.Items[i].ConsumerID = s.account.ID
	}
	return p, err
}

// ServiceFlows returns a page of the flows that came to a service, newest first, as
// the provider sees them.
//
// Errors: NotFound; Invalid for a filter that is none.
func (s *Scope) ServiceFlows(ctx context.Context, id string, q FlowQuery) (Page[Flow], error) {
	v, db, err := s.serviceView(ctx, id, q)
	if err != nil || v.plane == nil {
		return Page[Flow]{}, err
	}
	p, err := v.page(ctx, q)
	if err != nil {
		return p, err
	}
	var endpoints []string
	for _, f := range p.Items {
		endpoints = append(endpoints, f.EndpointID)
	}
	consumers, err := s.consumers(db.Where("endpoint_id IN ?", endpoints), id)
	for i := range p.Items {
		p.Items[i].ConsumerID = consumers[p.Items[i].EndpointID]
	}
	return p, err
}

// consumers finds the accounts of the endpoints that are connected to a service.
func (s *Scope) consumers(db *gorm.DB, service string) (map[string]string, error) {
	var all []Connection
	err := db.Select("endpoint_id", "consumer_id").Where("service_id = ? AND provider_id = ?", service, s.account.ID).Find(&all).Error
	if err != nil {
		return nil, fmt.Errorf("read connections: %w", err)
	}
	out := make(map[string]string, len(all))
	for _, c := range all {
		out[c.EndpointID] = c.ConsumerID
	}
	return out, nil
}

// FlowLine is a flow in one direction, as flow logs of VPCs have it; there are two
// for a flow that passed. What is not known is "-".
type FlowLine struct {
	Version      int    `json:"version"`
	Account      string `json:"account-id"` // whose network this was seen in
	VPC          string `json:"vpc-id"`
	VSwitch      string `json:"vswitch-id"`
	ENI          string `json:"eni-id"`
	Consumer     string `json:"consumer-account-id"`
	Endpoint     string `json:"endpoint-id"`
	Service      string `json:"service-id"`
	Zone         string `json:"zone-id"`
	LoadBalancer string `json:"load-balancer-id"`
	Server       string `json:"server-id"`
	Source       string `json:"srcaddr"`
	SourcePort   int    `json:"srcport"`
	Dest         string `json:"dstaddr"`
	DestPort     int    `json:"dstport"`
	Protocol     int    `json:"protocol"`  // number at IANA
	Direction    string `json:"direction"` // in is from consumer to service
	Packets      int64  `json:"packets,omitempty"`
	Bytes        int64  `json:"bytes"`
	Start        int64  `json:"start"` // Unix seconds
	End          int64  `json:"end"`
	Status       string `json:"log-status"`
	Action       string `json:"action"`        // ACCEPT or REJECT
	RejectReason string `json:"reject-reason"` // why it was refused
	EndReason    string `json:"end-reason"`    // why it ended; open: it goes on
	Group        string `json:"security-group-id"`
	Rule         string `json:"security-group-rule-id"`
	Client       string `json:"client-addr"` // that a PROXY header told the server
	Flow         string `json:"flow-id"`     // the same in every line of a flow
	Record       string `json:"record-id"`
}

// lines are f in each direction that it had.
func (f Flow) lines(base FlowLine) []FlowLine {
	text := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	addr := func(a netip.AddrPort) (string, int) {
		if !a.IsValid() {
			return "-", 0
		}
		return a.Addr().String(), int(a.Port())
	}
	l := base
	l.Version, l.Status, l.Action, l.Direction = 1, "OK", "ACCEPT", "in"
	l.Account, l.VPC, l.VSwitch, l.ENI = text(l.Account), text(l.VPC), text(l.VSwitch), text(l.ENI)
	l.Consumer, l.Endpoint, l.Service, l.Zone = text(f.ConsumerID), f.EndpointID, text(f.ServiceID), f.Zone
	l.LoadBalancer, l.Server, l.Group, l.Rule = text(f.LoadBalancerID), text(f.ServerID), text(f.Group), text(f.Rule)
	l.Source, l.SourcePort = addr(f.Source)
	l.Dest, l.DestPort = addr(f.Address)
	l.Client, _ = addr(f.Client)
	l.Protocol = map[string]int{"tcp": 6, "udp": 17}[f.Protocol]
	l.Bytes, l.Packets, l.Start, l.End = f.In, f.Packets[0], f.Start.Unix(), f.End.Unix()
	l.Flow, l.Record = strconv.FormatUint(f.Flow, 10), strconv.FormatUint(f.Seq, 10)
	if !f.Accepted {
		l.Action, l.RejectReason, l.EndReason = "REJECT", f.Reason, "-"
		return []FlowLine{l}
	}
	l.RejectReason, l.EndReason = "-", f.Reason
	out := l
	out.Direction, out.Bytes, out.Packets = "out", f.Out, f.Packets[1]
	out.Source, out.SourcePort, out.Dest, out.DestPort = l.Dest, l.DestPort, l.Source, l.SourcePort
	return []FlowLine{l, out}
}

// ExportEndpointFlows calls yield for every line of the flows that
// [Scope.EndpointFlows] would show, oldest first. It ends with yield's error.
func (s *Scope) ExportEndpointFlows(ctx context.Context, id string, q FlowQuery, yield func(FlowLine) error) error {
	v, db, e, err := s.endpointView(ctx, id, q)
	if err != nil || v.plane == nil {
		return err
	}
	var zones []EndpointZone
	if err := db.Where("endpoint_id = ?", id).Find(&zones).Error; err != nil {
		return fmt.Errorf("list zones: %w", err)
	}
	places := map[string]FlowLine{}
	for _, z := range zones {
		places[z.ZoneID] = FlowLine{VSwitch: z.VSwitchID, ENI: z.ENIID}
	}
	return v.each(ctx, func(f Flow) error {
		f.ConsumerID = s.account.ID
		base := places[f.Zone]
		base.Account, base.VPC = s.account.ID, e.VPCID
		return yieldAll(f.lines(base), yield)
	})
}

// ExportServiceFlows calls yield for every line of the flows that
// [Scope.ServiceFlows] would show, oldest first. It ends with yield's error.
func (s *Scope) ExportServiceFlows(ctx context.Context, id string, q FlowQuery, yield func(FlowLine) error) error {
	v, db, err := s.serviceView(ctx, id, q)
	if err != nil || v.plane == nil {
		return err
	}
	consumers, err := s.consumers(db, id)
	if err != nil {
		return err
	}
	var balancers []LoadBalancer
	if err := db.Select("id", "vpc_id").Where("account_id = ?", s.account.ID).Find(&balancers).Error; err != nil {
		return fmt.Errorf("read load balancers: %w", err)
	}
	networks := map[string]string{}
	for _, b := range balancers {
		networks[b.ID] = b.VPCID
	}
	return v.each(ctx, func(f Flow) error {
		f.ConsumerID = consumers[f.EndpointID]
		return yieldAll(f.lines(FlowLine{Account: s.account.ID, VPC: networks[f.LoadBalancerID]}), yield)
	})
}

func yieldAll(lines []FlowLine, yield func(FlowLine) error) error {
	for _, l := range lines {
		if err := yield(l); err != nil {
			return err
		}
	}
	return nil
}
