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
	// Records returns a page of flow records, with both sides' halves in them.
	Records(ctx context.Context, q RecordQuery) (RecordPage, error)
	// Series returns what was counted of an object over time.
	Series(ctx context.Context, q SeriesQuery) (Series, error)
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
