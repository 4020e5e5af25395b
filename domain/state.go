package domain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"gorm.io/gorm/clause"
)

// machine is a whole state machine: what each event does. A pair of a state and an
// event that is absent is refused. docs/connection-states.md is drawn from it.
type machine[E, S ~string] map[E]move[S]

// move takes an object from one of the states From to the state To.
type move[S ~string] struct {
	From []S
	To   S
	By   party
}

// party is who causes an event.
type party string

const (
	byProvider party = "the service's owner"
	byConsumer party = "the endpoint's owner"
	byEngine   party = "the engine"
)

// after returns the state that an event leads to, false if it is refused.
func (m machine[E, S]) after(from S, event E) (to S, ok bool) {
	mv, ok := m[event]
	return mv.To, ok && slices.Contains(mv.From, from)
}

// ConnectionEvent moves a connection.
type ConnectionEvent string

// The events of a connection.
const (
	Accept      ConnectionEvent = "accept"       // also auto-accept
	Reject      ConnectionEvent = "reject"       // also an expiry
	Restore     ConnectionEvent = "restore"      // an undone rejection of what was accepted
	Modify      ConnectionEvent = "modify"       //
	Up          ConnectionEvent = "up"           // everything that shall carry carries
	Down        ConnectionEvent = "down"         // nothing carries and no flow is left
	Remove      ConnectionEvent = "remove"       // the endpoint is being deleted
	ServiceGone ConnectionEvent = "service_gone" // the service is deleted
)

var connectionMoves = machine[ConnectionEvent, ConnectionStatus]{
	Accept:      {From: []ConnectionStatus{Disconnected}, To: Connecting, By: byProvider},
	Reject:      {From: []ConnectionStatus{Disconnected, Connecting, Connected, Pending}, To: Disconnecting, By: byProvider},
	Restore:     {From: []ConnectionStatus{Disconnecting, Disconnected}, To: Connecting, By: byProvider},
	Modify:      {From: []ConnectionStatus{Connected}, To: Pending, By: byProvider},
	Up:          {From: []ConnectionStatus{Connecting, Pending}, To: Connected, By: byEngine},
	Down:        {From: []ConnectionStatus{Disconnecting}, To: Disconnected, By: byEngine},
	Remove:      {From: []ConnectionStatus{Disconnected, Connecting, Connected, Pending, Disconnecting, ServiceDeleted}, To: Deleting, By: byConsumer},
	ServiceGone: {From: []ConnectionStatus{Disconnected}, To: ServiceDeleted, By: byProvider},
}

// ZoneEvent moves a zone of an endpoint.
type ZoneEvent string

// The events of an endpoint's zone.
const (
	ZoneReady   ZoneEvent = "ready"   // its network interface is there
	ZoneAllow   ZoneEvent = "allow"   // it shall carry, alone or with its connection
	ZoneUp      ZoneEvent = "up"      // its listeners accept
	ZoneLost    ZoneEvent = "lost"    // its listeners accept no more, though they should
	ZoneMigrate ZoneEvent = "migrate" // it leads to another load balancer from now on, or lets go of the former one
	ZoneMoved   ZoneEvent = "moved"   // its listeners accept, and the former load balancer keeps what it has
	ZoneRevoke  ZoneEvent = "revoke"  // it shall no longer carry, alone or with its connection
	ZoneDown    ZoneEvent = "down"    // it does not carry and no flow is left
	ZoneRemove  ZoneEvent = "remove"  // it is being deleted, alone or with its endpoint
)

var zoneMoves = machine[ZoneEvent, ZoneStatus]{
	ZoneReady:   {From: []ZoneStatus{ZoneCreating}, To: ZoneWait, By: byEngine},
	ZoneAllow:   {From: []ZoneStatus{ZoneCreating, ZoneWait, ZoneDisconnecting, ZoneDisconnected}, To: ZoneConnecting, By: byProvider},
	ZoneUp:      {From: []ZoneStatus{ZoneConnecting, ZoneMigrating}, To: ZoneConnected, By: byEngine},
	ZoneLost:    {From: []ZoneStatus{ZoneConnected, ZoneMigrated}, To: ZoneConnecting, By: byEngine},
	ZoneMigrate: {From: []ZoneStatus{ZoneConnected, ZoneMigrated}, To: ZoneMigrating, By: byProvider},
	ZoneMoved:   {From: []ZoneStatus{ZoneConnecting, ZoneMigrating}, To: ZoneMigrated, By: byEngine},
	ZoneRevoke:  {From: []ZoneStatus{ZoneCreating, ZoneWait, ZoneConnecting, ZoneConnected, ZoneMigrating, ZoneMigrated}, To: ZoneDisconnecting, By: byProvider},
	ZoneDown:    {From: []ZoneStatus{ZoneDisconnecting}, To: ZoneDisconnected, By: byEngine},
	ZoneRemove: {
		From: []ZoneStatus{ZoneCreating, ZoneWait, ZoneConnecting, ZoneConnected, ZoneDisconnecting, ZoneDisconnected, ZoneMigrating, ZoneMigrated},
		To:   ZoneDeleting, By: byConsumer,
	},
}

// zonesFollow is what an event of a connection means to the endpoint's zones.
var zonesFollow = map[ConnectionEvent]ZoneEvent{Accept: ZoneAllow, Restore: ZoneAllow, Reject: ZoneRevoke, Remove: ZoneRemove}

// EndpointEvent moves an endpoint.
type EndpointEvent string

// The events of an endpoint.
const (
	EndpointReady  EndpointEvent = "ready"  // the engine has it as it shall be
	EndpointModify EndpointEvent = "modify" // its zones or groups change
	EndpointRemove EndpointEvent = "remove"
)

var endpointMoves = machine[EndpointEvent, EndpointStatus]{
	EndpointReady:  {From: []EndpointStatus{EndpointCreating, EndpointPending}, To: EndpointActive, By: byEngine},
	EndpointModify: {From: []EndpointStatus{EndpointCreating, EndpointActive, EndpointPending}, To: EndpointPending, By: byConsumer},
	EndpointRemove: {From: []EndpointStatus{EndpointCreating, EndpointActive, EndpointPending}, To: EndpointDeleting, By: byConsumer},
}

// ServiceEvent moves an endpoint service.
type ServiceEvent string

// The events of a service. A change of one is complete when its transaction is, so
// none is ever seen in [ServicePending].
const (
	ServiceReady  ServiceEvent = "ready"
	ServiceRemove ServiceEvent = "remove"
)

var serviceMoves = machine[ServiceEvent, ServiceStatus]{
	ServiceReady:  {From: []ServiceStatus{ServiceCreating}, To: ServiceActive, By: byProvider},
	ServiceRemove: {From: []ServiceStatus{ServiceCreating, ServiceActive, ServicePending}, To: ServiceDeleting, By: byProvider},
}

// carries reports whether the connection lets traffic pass.
func (c Connection) carries() bool {
	return c.Decision == Accepted && (c.Status == Connecting || c.Status == Connected || c.Status == Pending)
}

// carries reports whether the zone's state lets traffic pass.
func (s ZoneStatus) carries() bool {
	return s == ZoneConnecting || s == ZoneConnected || s == ZoneMigrating || s == ZoneMigrated
}

// link is an endpoint with its connection and zones. Whoever writes one of the
// three holds the lock of the connection's row, so they always fit together.
type link struct {
	Endpoint
	Connection Connection
	Zones      []EndpointZone
	label      string // the service's name for people; its id once it is deleted
}

// lockLink reads the link of one connection and keeps other writers away from it.
// kind is what the caller calls it, if there is none.
func (t *tx) lockLink(kind, where string, args ...any) (*link, error) {
	var l link
	if err := first(t.Clauses(clause.Locking{Strength: "UPDATE"}), kind, &l.Connection, where, args...); err != nil {
		return nil, err
	}
	if err := first(t.DB, kind, &l.Endpoint, "id = ?", l.Connection.EndpointID); err != nil {
		return nil, err
	}
	names, err := namesOf(t.DB, KindService, []string{l.ServiceID})
	if err != nil {
		return nil, err
	}
	l.label = cmp.Or(names[l.ServiceID], l.ServiceID)
	if err := t.Where("endpoint_id = ?", l.ID).Order("zone_id").Find(&l.Zones).Error; err != nil {
		return nil, fmt.Errorf("read zones: %w", err)
	}
	return &l, nil
}

// move is the only writer of a connection's status. It lets the zones follow and
// tells whom it concerns; set are other columns to write. What people decide makes
// a new version, which the engine then reports about. What the engine reports does
// not, so a form stays good while a connection comes up. Where the event revokes,
// live flows may go on until then; nil cuts them.
func (t *tx) move(l *link, event ConnectionEvent, until *time.Time, set map[string]any) error {
	to, ok := connectionMoves.after(l.Connection.Status, event)
	if !ok {
		return fail(Conflict, "connection_status", "This connection is %s. It cannot be %s now.", l.Connection.Status, participles[event])
	}
	wanted := connectionMoves[event].By != byEngine
	values := map[string]any{}
	if (event == Remove || event == ServiceGone) && l.Connection.Decision == Waiting {
		values["decision"] = Rejected // nobody can answer it any more
	}
	maps.Copy(values, set)
	values["status"] = to
	if err := t.updateConnection(l, wanted, values); err != nil {
		return err
	}
	zone, ok := zonesFollow[event]
	if !ok {
		return nil
	}
	var follow []string
	for _, z := range l.Zones {
		if event != Restore || !z.Rejected { // what was rejected by itself stays so
			follow = append(follow, z.ZoneID)
		}
	}
	return t.moveZones(l, zone, until, follow...)
}

// participles are the events of people in sentences.
var participles = map[ConnectionEvent]string{
	Accept: "accepted", Reject: "rejected", Restore: "restored", Modify: "changed", Remove: "deleted", ServiceGone: "ended",
}

// revise makes a new version of a connection of which something else changes than
// the status: terms, or its endpoint's zones or groups.
func (t *tx) revise(l *link, set map[string]any) error {
	values := map[string]any{}
	maps.Copy(values, set)
	return t.updateConnection(l, true, values)
}

// updateConnection writes columns of the connection as it was read, and reads it
// again.
func (t *tx) updateConnection(l *link, newVersion bool, values map[string]any) error {
	c := &l.Connection
	values["updated_at"] = t.now
	if newVersion {
		values["version"] = c.Version + 1
		t.stale(KindEndpoint, l.ID)
	}
	res := t.Model(&Connection{}).Where("endpoint_id = ? AND status = ? AND version = ?", l.ID, c.Status, c.Version).Updates(values)
	if err := guarded(res, KindConnection); err != nil {
		return err
	}
	var written Connection // a fresh one: reading over c would leave what is NULL now
	if err := t.Take(&written, "endpoint_id = ?", l.ID).Error; err != nil {
		return fmt.Errorf("read connection: %w", err)
	}
	*c = written
	t.linkTouched(l)
	return nil
}

// linkTouched tells both sides' consoles that something of a link changed.
func (t *tx) linkTouched(l *link) {
	t.touched(l.AccountID, KindEndpoint, l.ID)
	t.touched(l.ProviderID, KindConnection, l.ID)
	t.touched(l.ProviderID, KindService, l.ServiceID)
}

// moveZones is the only writer of a zone's status. It moves the zones that are
// named, as far as the event concerns them in their state. Where it revokes, their
// live flows may go on until then, nil cuts them, and what was to end sooner still
// does.
func (t *tx) moveZones(l *link, event ZoneEvent, until *time.Time, named ...string) error {
	revokes := event == ZoneRevoke || event == ZoneRemove
	for i := range l.Zones {
		z := &l.Zones[i]
		if !slices.Contains(named, z.ZoneID) {
			continue
		}
		to, ok := zoneMoves.after(z.Status, event)
		if !ok && revokes {
			to, ok = z.Status, z.DrainUntil != nil // it is leaving already
		}
		if !ok {
			continue
		}
		set := map[string]any{"status": to, "drain_until": nil}
		switch {
		case revokes && z.Status.carries():
			set["drain_until"] = until
		case revokes:
			set["drain_until"] = sooner(z.DrainUntil, until)
		case event == ZoneAllow:
			set["rejected"] = false
		case event == ZoneDown:
			set["replaced_id"] = ""
		}
		if err := t.updateZone(l, z, set); err != nil {
			return err
		}
	}
	t.linkTouched(l)
	return nil
}

// sooner returns the first of two moments; nil is now.
func sooner(a, b *time.Time) *time.Time {
	if a == nil || b == nil {
		return nil
	}
	if b.Before(*a) {
		return b
	}
	return a
}

// updateZone writes columns of a zone as it was read, and reads it again.
func (t *tx) updateZone(l *link, z *EndpointZone, set map[string]any) error {
	one := t.Model(&EndpointZone{}).Where("endpoint_id = ? AND zone_id = ? AND status = ?", l.ID, z.ZoneID, z.Status)
	if err := guarded(one.Updates(set), KindEndpoint); err != nil {
		return err
	}
	var written EndpointZone
	if err := t.Take(&written, "endpoint_id = ? AND zone_id = ?", l.ID, z.ZoneID).Error; err != nil {
		return fmt.Errorf("read zone: %w", err)
	}
	*z = written
	return nil
}

// moveEndpoint is the only writer of an endpoint's status.
func (t *tx) moveEndpoint(l *link, event EndpointEvent) error {
	to, ok := endpointMoves.after(l.Status, event)
	if !ok {
		return fail(Conflict, "endpoint_status", "The endpoint is %s: nothing of it can be changed now.", l.Status)
	}
	res := t.Model(&Endpoint{}).Where("id = ? AND status = ?", l.ID, l.Status).Updates(map[string]any{"status": to, "updated_at": t.now})
	if err := guarded(res, KindEndpoint); err != nil {
		return err
	}
	l.Status = to
	t.touched(l.AccountID, KindEndpoint, l.ID)
	return nil
}

// moveService is the only writer of a service's status.
func (t *tx) moveService(s *Service, event ServiceEvent) error {
	to, ok := serviceMoves.after(s.Status, event)
	if !ok {
		return fail(Conflict, "service_status", "The endpoint service is %s: nothing of it can be changed now.", s.Status)
	}
	res := t.Model(&Service{}).Where("id = ? AND status = ?", s.ID, s.Status).Updates(map[string]any{"status": to, "updated_at": t.now})
	if err := guarded(res, KindService); err != nil {
		return err
	}
	s.Status = to
	t.touched(s.AccountID, KindService, s.ID)
	return nil
}
