package domain

import "time"

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
	Bandwidth       int        // Mbit/s; 0: no limit
	RequestMessage  string     // from the consumer
	RequestedBy     string     // name of the consumer's user
	DecisionMessage string     // from the provider
	DecidedBy       string     // name of the provider's user, for the provider only
	DecidedAt       *time.Time //
	ExpiresAt       *time.Time // an approval may carry an end
	WaitingSince    time.Time
	Rank            int64 // microseconds since 1970 of the last change of decision: what the inbox is sorted by
	Version         int64 // counts changes; the engine's reports name the one they are about
	CreatedAt       time.Time
	UpdatedAt       time.Time
}

// CutMode is what revocation does to live flows.
type CutMode string

// CutNow resets live flows at once; it is the default.
const CutNow CutMode = "now"

// ConnectionEvent moves a connection.
type ConnectionEvent string

// The events of a connection, and who causes them.
const (
	Accept      ConnectionEvent = "accept"       // the service's owner, or auto-accept
	Reject      ConnectionEvent = "reject"       // the service's owner, or an expiry
	Modify      ConnectionEvent = "modify"       // the service's owner
	Up          ConnectionEvent = "up"           // the engine: everything that shall carry carries
	Down        ConnectionEvent = "down"         // the engine: nothing carries and no flow is left
	Remove      ConnectionEvent = "remove"       // the endpoint's owner deletes it
	ServiceGone ConnectionEvent = "service_gone" // the service's owner deletes the service
)

// connectionMoves is the whole state machine; a pair that is absent is refused.
var connectionMoves = map[ConnectionEvent]struct {
	From []ConnectionStatus
	To   ConnectionStatus
}{
	Accept:      {From: []ConnectionStatus{Disconnected}, To: Connecting},
	Reject:      {From: []ConnectionStatus{Disconnected, Connecting, Connected, Pending}, To: Disconnecting},
	Modify:      {From: []ConnectionStatus{Connected}, To: Pending},
	Up:          {From: []ConnectionStatus{Connecting, Pending}, To: Connected},
	Down:        {From: []ConnectionStatus{Disconnecting}, To: Disconnected},
	Remove:      {From: []ConnectionStatus{Disconnected, Connecting, Connected, Pending, ServiceDeleted, Disconnecting}, To: Deleting},
	ServiceGone: {From: []ConnectionStatus{Disconnected}, To: ServiceDeleted},
}

// carries reports whether the connection lets traffic pass.
func (c Connection) carries() bool {
	return c.Decision == Accepted && (c.Status == Connecting || c.Status == Connected || c.Status == Pending)
}

// carries reports whether the zone's state lets traffic pass.
func (s ZoneStatus) carries() bool {
	return s == ZoneConnecting || s == ZoneConnected || s == ZoneMigrating || s == ZoneMigrated
}
