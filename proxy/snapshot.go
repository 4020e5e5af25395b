// Package proxy is the engine: the process that owns the VPCs, forwards the bytes
// of endpoints to the load balancers behind them, checks targets and counts.
//
// It is told what shall be by [Change]s of one whole [Snapshot] and tells what is
// by [Observation]s. It knows no database, no account and no console, keeps its
// last snapshot on disk, and goes on forwarding while whoever told it is away.
package proxy

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/flowlog"
	"github.com/openprivatelink/openprivatelink/proxy/forward"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// Engine is what the control plane sees of the data plane. The engine's own type
// and the client of its control socket both implement it; the same tests run
// against both.
type Engine interface {
	// Status says who the engine is and what it can do.
	Status(ctx context.Context) (Status, error)
	// Apply patches the engine's snapshot and makes the machine follow. It returns
	// once every listener and gate of the change is in force and the change is on
	// disk; what could not be made is an Observation, not an error. A Change whose
	// Base is not the engine's generation is refused with ErrGeneration: send the
	// whole snapshot, with Base 0.
	Apply(ctx context.Context, c Change) error
	// Observe waits until there is something newer than since, or ctx ends, and
	// returns what changed. since 0 asks for everything at once.
	Observe(ctx context.Context, since uint64) (Observations, error)
	// Probe tries to reach a target from inside an attachment.
	Probe(ctx context.Context, r ProbeRequest) (ProbeResult, error)
	// Records returns a page of the flow records that are kept.
	Records(ctx context.Context, q RecordQuery) (Records, error)
	// Series returns what was counted of an object over time.
	Series(ctx context.Context, q SeriesQuery) (Points, error)
	// Vitals says how the engine itself does.
	Vitals(ctx context.Context) (Vitals, error)
}

// Errors that an Engine answers with, also across its socket.
var (
	// ErrGeneration refuses a Change whose Base is not the engine's generation.
	ErrGeneration = errors.New("the change does not follow the engine's generation")
	// ErrAway says that no engine answers.
	ErrAway = errors.New("the engine is away")
	// ErrNotFound says that the snapshot holds no such attachment.
	ErrNotFound = errors.New("no such attachment")
)

// Status of the engine process.
type Status struct {
	Version      string    `json:"version"` // that the engine was built as; it may be another one than the caller's
	PID          int       `json:"pid"`
	Mode         string    `json:"mode"`   // netns, userns or loopback
	Reason       string    `json:"reason"` // why a stronger mode was not taken; empty for netns
	Installation string    `json:"installation"`
	Generation   uint64    `json:"generation"`
	Started      time.Time `json:"started"`
	Flows        int64     `json:"flows"`
	Listeners    int       `json:"listeners"`
}

// Snapshot is everything that shall be, as plain data keyed by id.
type Snapshot struct {
	Networks      map[string]vpc.Network   `json:"networks,omitempty"`
	LoadBalancers map[string]LoadBalancer  `json:"loadBalancers,omitempty"`
	ServerGroups  map[string]ServerGroup   `json:"serverGroups,omitempty"`
	Groups        map[string]verdict.Group `json:"groups,omitempty"`
	Endpoints     map[string]Endpoint      `json:"endpoints,omitempty"`
}

// Change turns the snapshot of generation Base into that of Generation.
type Change struct {
	Base       uint64              `json:"base"` // 0: Set is the whole snapshot
	Generation uint64              `json:"generation"`
	Set        Snapshot            `json:"set"`
	Delete     map[string][]string `json:"delete,omitempty"` // ids by the name of the snapshot's field in JSON, e.g. "endpoints"
}

// LoadBalancer is an NLB, or a CLB, which is one with other defaults.
type LoadBalancer struct {
	ID        string     `json:"id"`
	Network   string     `json:"network"`
	CrossZone bool       `json:"crossZone"`     // servers of every zone, not only of the zone that the flow came in by
	CPS       int        `json:"cps,omitempty"` // new flows a second over all zones and listeners; 0: no limit
	Zones     []LBZone   `json:"zones"`
	Listeners []Listener `json:"listeners"`
}

// LBZone is a load balancer's presence in a zone. Address is where clients of the
// same VPC reach it. Local are further addresses that its flows to servers may come
// from; without any, they come from Address.
type LBZone struct {
	Zone    string       `json:"zone"`
	Address netip.Addr   `json:"address"`
	Local   []netip.Addr `json:"local,omitempty"`
}

// Listener of a load balancer: one port, or every port of a range.
type Listener struct {
	ID             string           `json:"id"`
	Protocol       verdict.Protocol `json:"protocol"`                 // tcp or udp
	Port           uint16           `json:"port"`                     // 0: From to To
	From           uint16           `json:"from,omitempty"`           // first port of a range
	To             uint16           `json:"to,omitempty"`             // last port of a range
	ServerGroup    string           `json:"serverGroup"`              //
	IdleTimeout    int              `json:"idleTimeout,omitempty"`    // seconds; 0 means 900 for TCP, 20 for UDP
	CPS            int              `json:"cps,omitempty"`            // new flows a second in each zone; 0: no limit
	MaxConnections int              `json:"maxConnections,omitempty"` // live flows in each zone; 0: no limit
	MSS            int              `json:"mss,omitempty"`            // largest TCP segment, bytes; 0: unchanged, as it is with a range
	Proxy          ProxyProtocol    `json:"proxy,omitzero"`
}

// ProxyProtocol says whether servers get a PROXY protocol v2 header in front of a
// flow, and what is in it beside the addresses.
type ProxyProtocol struct {
	Enabled  bool         `json:"enabled"`
	Dialect  ProxyDialect `json:"dialect,omitempty"`  // empty means alibaba
	VPC      bool         `json:"vpc,omitempty"`      // name the consumer's VPC
	Endpoint bool         `json:"endpoint,omitempty"` // name the endpoint
	Service  bool         `json:"service,omitempty"`  // name the endpoint service
}

// ProxyDialect is the cloud whose TLVs a PROXY header speaks.
type ProxyDialect string

// The dialects. AWS, Azure and GCP know one id only, that of the endpoint.
const (
	ProxyAlibaba ProxyDialect = "alibaba"
	ProxyAWS     ProxyDialect = "aws"
	ProxyAzure   ProxyDialect = "azure"
	ProxyGCP     ProxyDialect = "gcp"
)

// ServerGroup is where a listener sends to.
type ServerGroup struct {
	ID               string      `json:"id"`
	Scheduler        Scheduler   `json:"scheduler,omitempty"`        // empty means wrr
	AnyPort          bool        `json:"anyPort,omitempty"`          // servers get the port that the client used
	Drain            int         `json:"drain,omitempty"`            // seconds that flows of a removed server live on; 0: they are reset
	SlowStart        int         `json:"slowStart,omitempty"`        // seconds in which a server that became healthy comes to its full weight
	FailClosed       bool        `json:"failClosed,omitempty"`       // refuse when every server is down, instead of trying them all
	ResetOnUnhealthy bool        `json:"resetOnUnhealthy,omitempty"` // cut the flows of a server that goes down; else they are kept
	Health           HealthCheck `json:"health"`
	Servers          []Server    `json:"servers,omitempty"`
}

// Scheduler chooses the server of a new flow.
type Scheduler string

// The schedulers, by the names of the NLB's API.
const (
	WeightedRoundRobin Scheduler = "wrr"
	WeightedLeastConns Scheduler = "wlc" // live flows per weight
	RoundRobin         Scheduler = "rr"  // weights do not count, but 0
	SourceHash         Scheduler = "sch" // the consumer's address and endpoint
	TupleHash          Scheduler = "tch" // addresses and ports of both ends
	QUICConnectionHash Scheduler = "qch" // UDP: the QUIC connection id
)

// Server is one target. Address is inside the load balancer's VPC; for a host
// service it is an address of the host, dialled from the host's namespace. With a
// Name instead of an address the engine resolves it, again and again, and each of
// its addresses is a server with the same weight.
type Server struct {
	ID      string         `json:"id"`
	Zone    string         `json:"zone"` // empty: it serves every zone alike, as a host service does
	Address netip.AddrPort `json:"address"`
	Name    string         `json:"name,omitempty"` // DNS name; Address is 0.0.0.0 with the port
	Host    bool           `json:"host,omitempty"`
	Weight  int            `json:"weight"` // 0: no new flows
}

// HealthCheck of a server group, made from the load balancer's address.
type HealthCheck struct {
	Enabled            bool       `json:"enabled"`
	Type               HealthType `json:"type,omitempty"` // empty means tcp
	Port               uint16     `json:"port"`           // 0: the server's own
	Interval           int        `json:"interval"`       // seconds; 0 means 5
	Timeout            int        `json:"timeout"`        // seconds; 0 means 5
	HealthyThreshold   int        `json:"healthyThreshold"`
	UnhealthyThreshold int        `json:"unhealthyThreshold"`
	Proxy              bool       `json:"proxy,omitempty"` // begin with a PROXY v2 LOCAL header
	HTTP               HTTPCheck  `json:"http,omitzero"`
	UDP                UDPCheck   `json:"udp,omitzero"`
}

// HealthType is what a check does once it has reached the server.
type HealthType string

// The types of checks.
const (
	HealthTCP  HealthType = "tcp"
	HealthHTTP HealthType = "http"
	HealthUDP  HealthType = "udp"
)

// HTTPCheck is the request of a check of type http.
type HTTPCheck struct {
	Method  string   `json:"method,omitempty"`  // GET or HEAD; empty means GET
	Path    string   `json:"path,omitempty"`    // empty means /
	Host    string   `json:"host,omitempty"`    // empty or $SERVER_IP: the server's address
	Version string   `json:"version,omitempty"` // 1.0 or 1.1; empty means 1.0
	Codes   []string `json:"codes,omitempty"`   // http_2xx to http_5xx; none means http_2xx
}

// UDPCheck is the datagram of a check of type udp and the answer to it. Without
// either, a server is healthy unless its machine says that the port is closed.
type UDPCheck struct {
	Request string `json:"request,omitempty"`
	Expect  string `json:"expect,omitempty"`
}

// Endpoint is a consumer's endpoint with its connection to a service.
type Endpoint struct {
	ID             string         `json:"id"`
	Service        string         `json:"service"`
	Network        string         `json:"network"`                  // the consumer's VPC
	Carry          bool           `json:"carry"`                    // the provider accepted, and the connection's state lets traffic pass
	DrainUntil     time.Time      `json:"drainUntil,omitzero"`      // while Carry is false: live flows may go on until then; zero: they are cut
	Groups         []string       `json:"groups"`                   // security groups of its network interfaces
	Recheck        bool           `json:"recheck,omitempty"`        // a change of the rules resets live flows that they refuse; else those are kept
	Bandwidth      int            `json:"bandwidth,omitempty"`      // Mbit/s in each direction, shared by all zones and flows; 0: no limit
	MaxConnections int            `json:"maxConnections,omitempty"` // live flows over all zones; 0: no limit
	Zones          []EndpointZone `json:"zones"`
	Version        int64          `json:"version"` // of the row this was made from; comes back in the observation
}

// EndpointZone is an endpoint's network interface in one zone, and the load
// balancer of the same zone that it leads to.
type EndpointZone struct {
	Zone         string     `json:"zone"`
	Address      netip.Addr `json:"address"`
	Carry        bool       `json:"carry"`               // the zone's state lets traffic pass
	DrainUntil   time.Time  `json:"drainUntil,omitzero"` // as for the endpoint
	LoadBalancer string     `json:"loadBalancer,omitempty"`
	Replaced     string     `json:"replaced,omitempty"` // load balancer that it led to before: once it is no longer named, the flows that still go by it are cut
	Era          int64      `json:"era,omitempty"`      // a change of it cuts the zone's live flows; a change of LoadBalancer alone keeps them
}

// Observations are facts, newer than what was asked for.
type Observations struct {
	Next       uint64               `json:"next"`       // since of the next call
	Generation uint64               `json:"generation"` // that these facts are about
	Endpoints  []EndpointObserved   `json:"endpoints,omitempty"`
	Servers    []ServerObserved     `json:"servers,omitempty"`
	Attachment []AttachmentObserved `json:"attachments,omitempty"`
	Networks   []NetworkObserved    `json:"networks,omitempty"`
	Counters   []Counter            `json:"counters,omitempty"` // only those that moved
}

// EndpointObserved says how far an endpoint follows the snapshot.
type EndpointObserved struct {
	ID      string         `json:"id"`
	Version int64          `json:"version"` // Endpoint.Version that is in force
	Zones   []ZoneObserved `json:"zones"`
}

// ZoneObserved is one zone of it. Carrying means that its listeners accept, of
// which there may be none yet; a zone that does not carry has no live flow left.
// A zone where only some listeners could be opened carries and has an Error.
type ZoneObserved struct {
	Zone     string `json:"zone"`
	Carrying bool   `json:"carrying"`
	Error    string `json:"error,omitempty"` // why a listener that shall be is not
}

// Health of a server.
type Health string

// Health is Unknown until the first checks are done, and for groups without checks.
const (
	Unknown   Health = "unknown"
	Healthy   Health = "healthy"
	Unhealthy Health = "unhealthy"
)

// ServerObserved is the health of one server of a group. A server by name is healthy
// if one of its addresses is, since flows go there.
type ServerObserved struct {
	ServerGroup string    `json:"serverGroup"`
	ID          string    `json:"id"`
	Health      Health    `json:"health"`
	Reason      string    `json:"reason,omitempty"` // CONNECT_TIMEOUT and the like, as the NLB's API names them; NAME_UNRESOLVED, NAME_REFUSED
	Since       time.Time `json:"since"`
}

// AttachmentObserved says whether an attachment is there.
type AttachmentObserved struct {
	ID    string `json:"id"`
	Up    bool   `json:"up"`
	Error string `json:"error,omitempty"`
}

// NetworkObserved says whether a VPC is as it shall be.
type NetworkObserved struct {
	ID    string `json:"id"`
	Up    bool   `json:"up"`
	Error string `json:"error,omitempty"`
}

// Counter counts an endpoint zone since the engine started to know it.
type Counter struct {
	Endpoint string `json:"endpoint"`
	Zone     string `json:"zone"`
	Service  string `json:"service"`
	Active   int64  `json:"active"` // live flows
	Flows    int64  `json:"flows"`  // accepted so far
	Refused  int64  `json:"refused"`
	In       int64  `json:"in"`  // bytes, consumer to service
	Out      int64  `json:"out"` // bytes, service to consumer
}

// ProbeRequest asks what a workload would see.
type ProbeRequest struct {
	Attachment string         `json:"attachment"`
	Target     netip.AddrPort `json:"target"`
	Kind       ProbeKind      `json:"kind"`
	Timeout    time.Duration  `json:"timeout"` // 0 means 5 s
}

// ProbeKind is what to do once connected.
type ProbeKind string

// A TCP probe connects and closes; an HTTP probe also asks for "/", by curl inside
// the attachment where the machine has it, and by the engine's own client otherwise.
const (
	ProbeTCP  ProbeKind = "tcp"
	ProbeHTTP ProbeKind = "http"
)

// ProbeResult is what was seen.
type ProbeResult struct {
	OK      bool          `json:"ok"`
	Error   string        `json:"error,omitempty"`   // "connection refused", "timed out", "reset"
	Source  netip.Addr    `json:"source,omitzero"`   // the address the endpoint saw
	Connect time.Duration `json:"connect"`           // until the connection stood
	Total   time.Duration `json:"total"`             //
	Status  int           `json:"status,omitempty"`  // HTTP status
	Command string        `json:"command,omitempty"` // what to type in the attachment to see the same; empty if the engine asked itself
	Output  string        `json:"output,omitempty"`  // what it printed, at most 8 KiB
}

// What flow records are made of.
type (
	RecordQuery = flowlog.Query
	Records     = flowlog.Page
	Record      = flowlog.Record
)

// Actions of a Record.
const (
	ActionAccept = flowlog.Accept
	ActionReject = flowlog.Reject
)

// Reasons of a Record: why the flow ended, or why it was refused.
const (
	ReasonOpen           = "open"              // it goes on: the row is a window of it
	ReasonClosed         = forward.Closed      // both sides ended their half
	ReasonReset          = forward.Reset       // one side reset, or vanished
	ReasonIdle           = forward.Idle        // no byte for the listener's idle time-out
	ReasonUnreachable    = forward.Unreachable // UDP: the server's machine says that nobody is there
	ReasonRevoked        = "revoked"           // its endpoint, zone or listener no longer carries
	ReasonReplaced       = "replaced"          // its load balancer was replaced, and nothing of the old is to live on
	ReasonRemoved        = "removed"           // its server was removed from the group
	ReasonUnhealthy      = "unhealthy"         // its server went down, and the group resets then
	ReasonShutdown       = "shutdown"          // the engine ended
	ReasonFull           = forward.Descriptors // refused: the engine has no descriptor to spare
	ReasonFlows          = forward.Full        // refused: UDP: the engine has as many flows as it may have
	ReasonGroup          = "sg"                // refused by the security groups
	ReasonGate           = "gate"              // refused: the gate closed while it arrived
	ReasonNoServer       = "no_server"         // refused: no server may take it
	ReasonConnect        = "connect"           // refused: no server could be reached
	ReasonCPS            = "cps"               // refused: too many new flows a second
	ReasonMaxConnections = "max_connections"   // refused: too many live flows
	ReasonPorts          = "out_of_ports"      // refused: no local port is free towards the server
)
