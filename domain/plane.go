package domain

import (
	"context"
	"net/netip"
	"time"
)

// DataPlane is what the domain asks the engine. proxy/reconcile implements it;
// the methods of [Scope] that use it check ownership first and redact after.
type DataPlane interface {
	// Counters returns the live counters of an endpoint, summed over its zones; zero
	// for one the engine does not know.
	Counters(endpointID string) Counters
	// Probe connects from inside an attachment.
	Probe(ctx context.Context, attachmentID string, target netip.AddrPort, http bool) (ProbeResult, error)
	// Flows returns finished and refused flows of an endpoint, newest first.
	Flows(ctx context.Context, endpointID string, limit int) ([]Flow, error)
	// Status of the engine.
	Status(ctx context.Context) (EngineStatus, error)
}

// Counters of an endpoint, counted by the engine since it knows the endpoint.
type Counters struct {
	Active  int64 // live flows
	Flows   int64 // accepted so far
	Refused int64
	In      int64 // bytes, consumer to service
	Out     int64 // bytes, service to consumer
}

// ProbeResult is what a workload saw.
type ProbeResult struct {
	OK      bool
	Error   string
	Source  netip.Addr    // what the endpoint saw as the source
	Connect time.Duration // until the connection stood
	Total   time.Duration
	Status  int    // of HTTP
	Command string // to repeat it by hand
	Output  string
}

// Flow is one flow through an endpoint that ended or was refused.
type Flow struct {
	Start, End time.Time
	Source     netip.AddrPort
	Address    netip.AddrPort
	Zone       string
	In, Out    int64
	Accepted   bool
	Reason     string
	Rule       string // security-group rule that decided, if one did
	Group      string // and its group
}

// FlowDenied is the reason of a flow that the endpoint's security groups refused.
const FlowDenied = "sg"

// reasons are the engine's in words for people.
var reasons = map[string]string{
	"closed": "both sides ended it", "reset": "one side reset it", "idle": "nothing was sent for too long", "revoked": "the connection was revoked",
	"removed": "its target was removed", "shutdown": "the engine ended",
	FlowDenied: "the endpoint's security groups refused it", "gate": "the connection was revoked while it arrived",
	"no_server": "the load balancer has no target that may take it", "connect": "no target of the load balancer could be reached",
}

// Why says in words why the flow ended or was refused.
func (f Flow) Why() string {
	if why, ok := reasons[f.Reason]; ok {
		return why
	}
	return f.Reason
}

// EngineStatus tells about the data plane.
type EngineStatus struct {
	Version string
	Mode    string // netns, userns, loopback
	Reason  string // why no stronger mode was taken
	PID     int
	Flows   int64
	Started time.Time
}

// UseDataPlane tells the store whom to ask; without one the questions fail.
func (s *Store) UseDataPlane(p DataPlane) { s.plane = p }
