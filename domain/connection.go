package domain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// ConnectionStatus is a state of a connection, in the words of the API.
type ConnectionStatus string

// The states of a connection.
const (
	Disconnected   ConnectionStatus = "Disconnected"
	Connecting     ConnectionStatus = "Connecting"
	Connected      ConnectionStatus = "Connected"
	Pending        ConnectionStatus = "Pending" // being modified
	Disconnecting  ConnectionStatus = "Disconnecting"
	Deleting       ConnectionStatus = "Deleting"
	ServiceDeleted ConnectionStatus = "ServiceDeleted"
)

// Decision is what the provider thinks of a connection. The API knows only the
// status: waiting and rejected are both Disconnected to it.
type Decision string

// The decisions.
const (
	Waiting  Decision = "waiting"
	Accepted Decision = "accepted"
	Rejected Decision = "rejected"
	Expired  Decision = "expired"
)

// Connection joins an endpoint to its service.
type Connection struct {
	EndpointID      string `gorm:"primaryKey"`
	ServiceID       string
	ProviderID      string // account of the service
	ConsumerID      string // account of the endpoint
	Status          ConnectionStatus
	Decision        Decision
	Bandwidth       int        // Mbit/s in each direction; 0: no limit
	MaxConnections  int        // live flows; 0: no limit
	RequestMessage  string     // from the consumer
	RequestedBy     string     // name of the consumer's user
	DecisionMessage string     // from the provider
	DecidedBy       string     // name of the provider's user, for the provider only
	DecidedAt       *time.Time //
	ExpiresAt       *time.Time // an approval may carry an end
	ExpiryDrain     int        // seconds that live flows may go on after it
	WaitingSince    time.Time
	Undo            string `json:"-"` // JSON of the terms that the last decision replaced, for [Scope.UndoDecision]
	Rank            int64  // microseconds since 1970 of the last change of decision: what the inbox is sorted by
	Version         int64  // counts changes of what is wanted; the engine's reports name the one they are about
	CreatedAt       time.Time
	UpdatedAt       time.Time
}

// ConnQuery selects connections of the account's services. Filter: decision,
// status, service. Text is an account's id or a part of its name, an endpoint's id
// or a service's.
type ConnQuery struct{ Query }

// ConnectionSummary is a connection in its provider's list.
type ConnectionSummary struct {
	Connection
	ConsumerName string
	ServiceName  string     // for people; the service's id once it is deleted
	Zones        []string   // of the endpoint
	DrainUntil   *time.Time // all of it or a zone is revoked, and live flows may go on until then; nil: none may
}

// ConnectionDetail is a connection with what its provider decides by.
type ConnectionDetail struct {
	ConnectionSummary
	ZoneStates []ConnectionZone
	Checks     []Check
	History    []AuditEvent // newest first
	Counters   Counters
	SeenAs     []string   // addresses that the provider's servers see the consumer as
	UndoUntil  *time.Time // until when this user can undo the last decision; nil: not
	Rule       BandwidthRule
}

// ConnectionZone is a zone of the endpoint as the service's owner sees it.
type ConnectionZone struct {
	ZoneID           string
	Status           ZoneStatus
	LoadBalancerID   string // of the service, that the zone leads to
	LoadBalancerName string
	Manual           bool       // its owner chose it
	ReplacedID       string     // load balancer that it led to before, and that still has its older flows
	ReplacedName     string     //
	Others           int        // load balancers of the service in the zone that it could lead to instead
	DrainUntil       *time.Time // it is revoked, and its live flows may go on until then
	Health           ZoneHealth // of its targets
}

// Check is one thing to know before a decision.
type Check struct {
	ID     string // whitelist, zones, listeners, targets, network
	Title  string
	Detail string
	Value  string
	State  CheckState
}

// CheckState says whether a check speaks for a connection.
type CheckState string

// The outcomes of checks.
const (
	CheckOK   CheckState = "ok"
	CheckWarn CheckState = "warn" // works, but perhaps not as expected
	CheckBad  CheckState = "bad"  // nothing will pass until this is put right
)

// AcceptInput are the terms of an approval.
type AcceptInput struct {
	Message           string      // to the consumer
	Mode              TrafficMode // "" follows Bandwidth and the service
	Bandwidth         int         // Mbit/s; 0 is the service's default
	MaxConnections    int         // live flows at a time; 0: no limit
	ExpiresAt         *time.Time  // nil: it has no end
	ExpiryDrain       int         // seconds that live flows may go on after the end, to 900
	AutoAcceptAccount bool        // accept later requests of the same account without asking
	Version           int64       // that the form showed; 0 is not checked
}

// RejectInput says why, and what becomes of live flows.
type RejectInput struct {
	Message string // to the consumer
	Drain   int    // seconds that live flows may go on, to 900; 0: they are cut at once
	Version int64  // that the form showed; 0 is not checked
}

// ModifyInput changes the terms of a connection that stands, where not nil.
type ModifyInput struct {
	Mode           *TrafficMode // nil follows Bandwidth
	Bandwidth      *int         // Mbit/s; 0: no limit, where there need not be one
	MaxConnections *int         // live flows at a time; 0: no limit
	ExpiresAt      **time.Time  // to nil: it has no end
	ExpiryDrain    *int         // seconds, to 900
	Version        int64        // that the form showed; 0 is not checked
}

// terms are what a decision sets.
type terms struct {
	Decision  Decision   `json:"decision"`
	Message   string     `json:"message"`
	DecidedBy string     `json:"decided_by"`
	DecidedAt *time.Time `json:"decided_at"`
	ExpiresAt *time.Time `json:"expires_at"`
	Drain     int        `json:"expiry_drain"`
	Rank      int64      `json:"rank"`
	capacity
}

func (c Connection) terms() terms {
	return terms{c.Decision, c.DecisionMessage, c.DecidedBy, c.DecidedAt, c.ExpiresAt, c.ExpiryDrain, c.Rank, c.capacity()}
}

// values are the columns that the terms are kept in.
func (d terms) values() map[string]any {
	return map[string]any{
		"decision": d.Decision, "decision_message": d.Message, "decided_by": d.DecidedBy, "decided_at": d.DecidedAt,
		"expires_at": d.ExpiresAt, "expiry_drain": d.Drain, "bandwidth": d.Bandwidth, "max_connections": d.MaxConnections,
		"rank": d.Rank, "undo": "",
	}
}

// undo is what a decision replaced, and who may take it back.
type undo struct {
	User       string `json:"user"`
	Terms      terms  `json:"terms"`
	AutoAccept bool   `json:"auto_accept,omitempty"` // the decision put the account on auto-accept, too
}

// undoTime is how long a decision can be undone. Consoles offer it for 10 s.
const undoTime = 30 * time.Second

// undoable returns what a user can still take back of the last decision.
func (c Connection) undoable(user string, now time.Time) (u undo, until time.Time, ok bool) {
	if c.Undo == "" || c.DecidedAt == nil {
		return u, until, false
	}
	if err := json.Unmarshal([]byte(c.Undo), &u); err != nil {
		return u, until, false
	}
	until = c.DecidedAt.Add(undoTime)
	return u, until, u.User == user && now.Before(until)
}

// onConnection runs f on a connection to a service of the account.
func (s *Scope) onConnection(ctx context.Context, endpointID string, version int64, f func(*tx, *link) error) (*Connection, error) {
	var l *link
	err := s.write(ctx, WriteProvide, func(t *tx) (err error) {
		if l, err = t.lockLink(KindConnection, "endpoint_id = ? AND provider_id = ?", endpointID, s.account.ID); err != nil {
			return err
		}
		if version != 0 && version != l.Connection.Version {
			return changedMeanwhile(KindConnection)
		}
		return f(t, l)
	})
	if err != nil {
		return nil, err
	}
	return &l.Connection, nil
}

// decide moves a connection by a decision of a person, who can undo it. until is as
// for move.
func (t *tx) decide(l *link, event ConnectionEvent, until *time.Time, d terms, user string, autoAccept bool) error {
	replaced, err := json.Marshal(undo{User: user, Terms: l.Connection.terms(), AutoAccept: autoAccept})
	if err != nil {
		return fmt.Errorf("encode undo: %w", err)
	}
	d.DecidedBy, d.DecidedAt, d.Rank = t.by.Name, &t.now, t.now.UnixMicro()
	values := d.values()
	values["undo"] = string(replaced)
	return t.move(l, event, until, values)
}

// AcceptConnection lets an endpoint reach the service of this account that it asks
// for. It returns once the decision is stored; traffic flows when the connection is
// [Connected].
//
// Errors: NotFound if no service of this account has such a connection; Invalid;
// Conflict if it is accepted already, its status does not allow it, or it changed
// since the form's version.
func (s *Scope) AcceptConnection(ctx context.Context, endpointID string, in AcceptInput) (*Connection, error) {
	return s.onConnection(ctx, endpointID, in.Version, func(t *tx, l *link) error {
		var svc Service
		if err := first(t.DB, KindService, &svc, "id = ?", l.ServiceID); err != nil && KindOf(err) != NotFound {
			return err
		}
		d := terms{Decision: Accepted, ExpiresAt: in.ExpiresAt, Drain: in.ExpiryDrain}
		var faults [4]error
		d.Message, faults[0] = validMessage("message", in.Message)
		d.capacity, faults[1] = t.capacity(svc, in.Mode, in.Bandwidth, in.MaxConnections)
		faults[2] = t.future("expires_at", in.ExpiresAt)
		faults[3] = validDrain("expiry_drain", in.ExpiryDrain)
		if err := errors.Join(faults[:]...); err != nil {
			return err
		}
		before := l.facts()
		var automatic bool
		if _, ok := connectionMoves.after(l.Connection.Status, Accept); ok && in.AutoAcceptAccount {
			var err error
			if automatic, err = t.autoAccepts(&svc, l.Connection.ConsumerID); err != nil {
				return err
			}
		}
		if err := t.decide(l, Accept, nil, d, s.user.ID, automatic); err != nil {
			return err
		}
		if automatic {
			err := t.audit("SetWhitelistEntry", KindService, svc.ID, svc.Name, nil, map[string]any{"account": l.Connection.ConsumerID, "auto_accept": true})
			if err != nil {
				return err
			}
		}
		return t.auditLink(l, "AcceptConnection", before)
	})
}

// RejectConnection refuses an endpoint, or revokes what was accepted: new flows are
// refused from now on, and live ones are reset at once, or at the end of in.Drain.
// It works in every state but those in which it is under way or done.
//
// Errors: NotFound if no service of this account has such a connection; Invalid;
// Conflict if it is rejected already, its status does not allow it, or it changed
// since the form's version.
func (s *Scope) RejectConnection(ctx context.Context, endpointID string, in RejectInput) (*Connection, error) {
	return s.onConnection(ctx, endpointID, in.Version, func(t *tx, l *link) error {
		message, err := validMessage("message", in.Message)
		if err := errors.Join(err, validDrain("drain", in.Drain)); err != nil {
			return err
		}
		if l.Connection.Decision == Rejected {
			return fail(Conflict, "connection_status", "This connection is rejected already.")
		}
		before := l.facts()
		d := terms{Decision: Rejected, Message: message, capacity: l.Connection.capacity()}
		if err := t.decide(l, Reject, t.after(in.Drain), d, s.user.ID, false); err != nil {
			return err
		}
		return t.auditLink(l, "RejectConnection", before)
	})
}

// ModifyConnection changes the terms of a connection that stands. No flow is
// interrupted.
//
// Errors: NotFound if no service of this account has such a connection; Invalid;
// Conflict if it is not Connected, or changed since the form's version.
func (s *Scope) ModifyConnection(ctx context.Context, endpointID string, in ModifyInput) (*Connection, error) {
	return s.onConnection(ctx, endpointID, in.Version, func(t *tx, l *link) error {
		var svc Service
		if err := first(t.DB, KindService, &svc, "id = ?", l.ServiceID); err != nil && KindOf(err) != NotFound {
			return err
		}
		is, capacityErr := t.changedCapacity(svc, l.Connection.capacity(), in)
		values := map[string]any{"bandwidth": is.Bandwidth, "max_connections": is.MaxConnections}
		faults := []error{capacityErr}
		if in.ExpiresAt != nil {
			faults, values["expires_at"] = append(faults, t.future("expires_at", *in.ExpiresAt)), *in.ExpiresAt
		}
		if in.ExpiryDrain != nil {
			faults, values["expiry_drain"] = append(faults, validDrain("expiry_drain", *in.ExpiryDrain)), *in.ExpiryDrain
		}
		if err := errors.Join(faults...); err != nil {
			return err
		}
		before := l.facts()
		if err := t.move(l, Modify, nil, values); err != nil {
			return err
		}
		return t.auditLink(l, "ModifyConnection", before)
	})
}

// UndoDecision takes back the last decision about a connection, for half a minute
// and for who took it. A request is waiting again, and flows that were opened
// meanwhile are reset; what stood before it was rejected is accepted again, on the
// terms it had. version is the one that the decision made, or 0.
//
// Errors: NotFound if no service of this account has such a connection; Conflict if
// there is nothing to undo, or it changed since.
func (s *Scope) UndoDecision(ctx context.Context, endpointID string, version int64) (*Connection, error) {
	return s.onConnection(ctx, endpointID, version, func(t *tx, l *link) error {
		u, _, ok := l.Connection.undoable(s.user.ID, t.now)
		if !ok {
			return fail(Conflict, "undo_expired", "A decision can be undone for %.0f seconds, by who took it. Accept or reject instead.", undoTime.Seconds())
		}
		before := l.facts()
		values := u.Terms.values()
		var err error
		switch {
		case l.Connection.Decision == Accepted:
			err = t.move(l, Reject, nil, values)
		case u.Terms.Decision == Accepted:
			err = t.move(l, Restore, nil, values)
		default: // nothing carried before or does now
			err = t.revise(l, values)
		}
		if err != nil {
			return err
		}
		if u.AutoAccept {
			err := t.Model(&ServiceUser{}).Where("service_id = ? AND user_account_id = ?", l.ServiceID, l.Connection.ConsumerID).Update("auto_accept", false).Error
			if err != nil {
				return fmt.Errorf("take back auto-accept: %w", err)
			}
		}
		return t.auditLink(l, "UndoDecision", before)
	})
}

// future refuses an end that is not ahead.
func (t *tx) future(field string, end *time.Time) error {
	if end != nil && !end.After(t.now) {
		return invalid(field, "not_in_future", "This moment is past.")
	}
	return nil
}

// linkFacts are what the trails of both sides hold of a connection.
type linkFacts struct {
	Status    ConnectionStatus      `json:"status"`
	Decision  Decision              `json:"decision"`
	Message   string                `json:"message,omitempty"`
	Bandwidth int                   `json:"bandwidth,omitempty"`
	Flows     int                   `json:"max_connections,omitempty"`
	ExpiresAt *time.Time            `json:"expires_at,omitempty"`
	Draining  *time.Time            `json:"draining_until,omitempty"`
	Zones     map[string]ZoneStatus `json:"zones,omitempty"`
}

func (l *link) facts() linkFacts {
	c := l.Connection
	f := linkFacts{c.Status, c.Decision, c.DecisionMessage, c.Bandwidth, c.MaxConnections, c.ExpiresAt, drainUntil(l.Zones), map[string]ZoneStatus{}}
	for _, z := range l.Zones {
		f.Zones[z.ZoneID] = z.Status
	}
	return f
}

// auditLink enters what happened to a connection into the trails of both sides.
// Each knows it by its own object.
func (t *tx) auditLink(l *link, action string, before linkFacts) error {
	after := l.facts()
	return errors.Join(
		t.auditIn(l.ProviderID, action, KindConnection, l.ID, l.label, before, after),
		t.auditIn(l.AccountID, action, KindEndpoint, l.ID, l.Name, before, after))
}

// Connections lists the connections to the account's services, the last change of a
// decision first.
func (s *Scope) Connections(ctx context.Context, q ConnQuery) (Page[ConnectionSummary], error) {
	db, err := s.read(ctx, ReadProvide)
	if err != nil {
		return Page[ConnectionSummary]{}, err
	}
	list := db.Where("provider_id = ?", s.account.ID)
	for _, column := range []string{"decision", "status"} {
		list = oneOf(list, column, q.Filter[column])
	}
	list = oneOf(list, "service_id", q.Filter["service"])
	switch text := strings.TrimSpace(q.Text); {
	case text == "":
	case serviceID.MatchString(text):
		list = list.Where("service_id = ?", serviceID.FindString(text))
	case strings.HasPrefix(text, prefixes[KindEndpoint]+"-"):
		list = list.Where("endpoint_id = ?", text)
	case accountID.MatchString(text):
		list = list.Where("consumer_id = ?", text)
	default:
		list = list.Where(`EXISTS (SELECT 1 FROM accounts WHERE id = consumer_id AND LOWER(name) LIKE LOWER(?) ESCAPE '\')`, "%"+like(text))
	}
	page, err := paginate(list, q.Query, order{columns: []string{"rank", "endpoint_id"}, desc: true}, func(c Connection) []any { return []any{c.Rank, c.EndpointID} })
	if err != nil || len(page.Items) == 0 {
		return Page[ConnectionSummary]{}, err
	}
	sums, err := summarizeConnections(db, page.Items)
	if err != nil {
		return Page[ConnectionSummary]{}, err
	}
	return mapPage(page, func(c Connection) ConnectionSummary { return sums[c.EndpointID] }), nil
}

// summarizeConnections returns the summaries of connections by endpoint.
func summarizeConnections(db *gorm.DB, connections []Connection) (map[string]ConnectionSummary, error) {
	consumers, err := accountNames(db, each(connections, func(c Connection) string { return c.ConsumerID }))
	if err != nil {
		return nil, err
	}
	services, err := namesOf(db, KindService, each(connections, func(c Connection) string { return c.ServiceID }))
	if err != nil {
		return nil, err
	}
	var zones []EndpointZone
	err = db.Select("endpoint_id", "zone_id", "drain_until").Where("endpoint_id IN ?", each(connections, func(c Connection) string { return c.EndpointID })).
		Order("zone_id").Find(&zones).Error
	if err != nil {
		return nil, fmt.Errorf("list zones: %w", err)
	}
	zonesOf := groupRows(zones, func(z EndpointZone) string { return z.EndpointID })
	sums := make(map[string]ConnectionSummary, len(connections))
	for _, c := range connections {
		sum := ConnectionSummary{Connection: c, ConsumerName: consumers[c.ConsumerID], ServiceName: services[c.ServiceID]}
		if sum.ServiceName == "" {
			sum.ServiceName = c.ServiceID
		}
		for _, z := range zonesOf[c.EndpointID] {
			sum.Zones = append(sum.Zones, z.ZoneID)
		}
		sum.DrainUntil = drainUntil(zonesOf[c.EndpointID])
		sums[c.EndpointID] = sum
	}
	return sums, nil
}

// maxCounted is where [Scope.ConnectionCounts] stops.
const maxCounted = 1000

// ConnectionCounts counts the connections to the account's services by decision,
// each up to 1000.
func (s *Scope) ConnectionCounts(ctx context.Context) (waiting, connected, rejected, expired int, err error) {
	db, err := s.read(ctx, ReadProvide)
	if err != nil {
		return 0, 0, 0, 0, err
	}
	const of = "(SELECT COUNT(*) FROM (SELECT 1 FROM connections WHERE provider_id = @provider AND decision = '%s' LIMIT @max) AS counted)"
	var query []string
	for _, d := range []Decision{Waiting, Accepted, Rejected, Expired} {
		query = append(query, fmt.Sprintf(of, d))
	}
	err = db.Raw("SELECT "+strings.Join(query, ", "), map[string]any{"provider": s.account.ID, "max": maxCounted}).
		Row().Scan(&waiting, &connected, &rejected, &expired)
	if err != nil {
		return 0, 0, 0, 0, fmt.Errorf("count connections: %w", err)
	}
	return waiting, connected, rejected, expired, nil
}

// maxHistory is how many entries of the trail a connection is shown with.
const maxHistory = 50

// Connection returns a connection to a service of the account, with checks of what
// it would meet.
//
// Errors: NotFound.
func (s *Scope) Connection(ctx context.Context, endpointID string) (*ConnectionDetail, error) {
	db, err := s.read(ctx, ReadProvide)
	if err != nil {
		return nil, err
	}
	var c Connection
	if err := first(db, KindConnection, &c, "endpoint_id = ? AND provider_id = ?", endpointID, s.account.ID); err != nil {
		return nil, err
	}
	sums, err := summarizeConnections(db, []Connection{c})
	if err != nil {
		return nil, err
	}
	d := &ConnectionDetail{ConnectionSummary: sums[endpointID]}
	if _, until, ok := c.undoable(s.user.ID, s.store.now()); ok {
		d.UndoUntil = &until
	}
	if s.store.plane != nil {
		d.Counters = s.store.plane.Counters(endpointID)
	}
	err = db.Where("account_id = ? AND resource_id = ? AND resource_kind = ?", s.account.ID, endpointID, KindConnection).
		Order("seq DESC").Limit(maxHistory).Find(&d.History).Error
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return d, s.examine(db, d)
}

// examine fills in where a connection leads to, and the checks.
func (s *Scope) examine(db *gorm.DB, d *ConnectionDetail) error {
	var zones []EndpointZone
	if err := db.Where("endpoint_id = ?", d.EndpointID).Order("zone_id").Find(&zones).Error; err != nil {
		return fmt.Errorf("list zones: %w", err)
	}
	f, err := readFronts(db, []string{d.ServiceID})
	if err != nil {
		return err
	}
	var kind string
	if err := db.Model(&Service{}).Where("id = ?", d.ServiceID).Limit(1).Pluck("resource_type", &kind).Error; err != nil {
		return fmt.Errorf("read service: %w", err)
	}
	d.Rule = bandwidthRule(kind, s.store.loose)
	ids := slices.Collect(maps.Keys(f.balancers))
	var addresses []LoadBalancerZone
	if err := db.Where("load_balancer_id IN ?", ids).Order("load_balancer_id, zone_id").Find(&addresses).Error; err != nil {
		return fmt.Errorf("read addresses of load balancers: %w", err)
	}
	local, err := localAddresses(db, addresses)
	if err != nil {
		return err
	}
	var networks []VPC
	if err := db.Where("id IN (?)", db.Model(&LoadBalancer{}).Select("vpc_id").Where("id IN ?", ids)).Find(&networks).Error; err != nil {
		return fmt.Errorf("read VPCs: %w", err)
	}
	for _, z := range zones {
		cz := ConnectionZone{
			ZoneID: z.ZoneID, Status: z.Status, LoadBalancerID: z.LoadBalancerID, LoadBalancerName: f.balancers[z.LoadBalancerID].Name,
			Manual: z.Manual, ReplacedID: z.ReplacedID, ReplacedName: f.balancers[z.ReplacedID].Name, DrainUntil: z.DrainUntil,
			Health: f.health(z.LoadBalancerID, z.ZoneID),
		}
		for _, r := range f.resources {
			if r.ZoneID == z.ZoneID && r.LoadBalancerID != z.LoadBalancerID {
				cz.Others++
			}
		}
		d.ZoneStates = append(d.ZoneStates, cz)
		for _, a := range addresses {
			if a.LoadBalancerID != z.LoadBalancerID || a.ZoneID != z.ZoneID {
				continue
			}
			if further := local[place{a.LoadBalancerID, a.ZoneID}]; len(further) > 0 {
				d.SeenAs = append(d.SeenAs, further...)
			} else {
				d.SeenAs = append(d.SeenAs, a.Address)
			}
		}
	}
	whitelisted, err := s.checkWhitelist(db, d)
	if err != nil {
		return err
	}
	d.Checks = []Check{whitelisted, checkZones(d, f), checkListeners(d, f), checkTargets(d), checkNetworks(networks)}
	return nil
}

func (s *Scope) checkWhitelist(db *gorm.DB, d *ConnectionDetail) (Check, error) {
	c := Check{ID: "whitelist", Title: "Account is whitelisted", Value: d.ConsumerID, State: CheckOK}
	var entries []ServiceUser
	err := db.Where("service_id = ? AND user_account_id IN ?", d.ServiceID, []string{d.ConsumerID, Everyone}).Order("user_account_id DESC").Find(&entries).Error
	switch {
	case err != nil:
		return c, fmt.Errorf("read whitelist: %w", err)
	case len(entries) == 0:
		c.State, c.Detail = CheckWarn, "It has been taken off the whitelist since it asked. It can ask for no more connections."
	case entries[0].UserAccountID == Everyone:
		c.State, c.Detail = CheckWarn, "Every account is."
	default:
		c.Detail = "Added by " + entries[0].AddedBy + " on " + entries[0].CreatedAt.Format("2 Jan 2006") + "."
	}
	return c, nil
}

func checkZones(d *ConnectionDetail, f *fronts) Check {
	has := each(f.zones(d.ServiceID), func(h ZoneHealth) string { return h.ZoneID })
	common := 0
	for _, z := range d.Zones {
		if slices.Contains(has, z) {
			common++
		}
	}
	c := Check{ID: "zones", Title: "Zones in common", Value: fmt.Sprintf("%d of %d", common, len(d.Zones)), State: CheckOK}
	c.Detail = fmt.Sprintf("The endpoint is in %s; the service is in %s.", listed(d.Zones), listed(has))
	switch {
	case len(d.Zones) == 0:
		c.State, c.Detail = CheckWarn, "The endpoint is in no zone yet. Nothing passes until it is."
	case common == 0:
		c.State = CheckBad
	case common < len(d.Zones):
		c.State = CheckWarn
	}
	return c
}

// listed joins words for a sentence.
func listed(words []string) string {
	switch n := len(words); n {
	case 0:
		return "none"
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
}

func checkListeners(d *ConnectionDetail, f *fronts) Check {
	c := Check{ID: "listeners", Title: "Your load balancers listen", State: CheckOK}
	openings := each(f.openings(d.ServiceID), Opening.String)
	if len(openings) == 0 {
		c.State, c.Detail = CheckBad, "None of them has a listener."
		return c
	}
	c.Value = strings.Join(openings, ", ")
	var deaf []string
	for _, z := range d.ZoneStates {
		if len(f.listeners[z.LoadBalancerID]) == 0 {
			deaf = append(deaf, z.LoadBalancerName)
		}
	}
	if len(deaf) > 0 {
		c.State, c.Detail = CheckBad, "No listener at "+listed(slices.Compact(deaf))+"."
	}
	return c
}

func checkTargets(d *ConnectionDetail) Check {
	c := Check{ID: "targets", Title: "Healthy targets in every requested zone", State: CheckOK}
	var sum ZoneHealth
	var degraded, down []string
	for _, z := range d.ZoneStates {
		sum.Healthy, sum.Total = sum.Healthy+z.Health.Healthy, sum.Total+z.Health.Total
		switch z.Health.State() {
		case ZoneFailed:
			down = append(down, z.ZoneID)
		case ZoneDegraded, ZoneUnknown:
			degraded = append(degraded, z.ZoneID)
		}
	}
	c.Value = fmt.Sprintf("%d of %d", sum.Healthy, sum.Total)
	switch {
	case len(d.ZoneStates) == 0:
		c.State, c.Detail = CheckWarn, "The endpoint is in no zone yet."
	case len(down) == len(d.ZoneStates):
		c.State, c.Detail = CheckBad, "No target answers in "+listed(down)+"."
	case len(down) > 0:
		c.State, c.Detail = CheckWarn, "No target answers in "+listed(down)+"."
	case len(degraded) > 0:
		c.State, c.Detail = CheckWarn, "Not every target is known to answer in "+listed(degraded)+"."
	}
	return c
}

func checkNetworks(networks []VPC) Check {
	c := Check{ID: "network", Title: "Your VPC is in the data plane", State: CheckOK}
	var names []string
	for _, v := range networks {
		names = append(names, v.Name)
		if !v.EngineUp {
			c.State, c.Detail = CheckBad, "The engine does not have "+v.Name+" yet."
			if v.EngineError != "" {
				c.Detail = v.Name + ": " + v.EngineError
			}
		}
	}
	if len(names) == 0 {
		c.State, c.Detail = CheckBad, "The service has no load balancer."
	}
	c.Value = strings.Join(names, ", ")
	return c
}
