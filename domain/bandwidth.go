package domain

import (
	"cmp"
	"errors"
	"time"
)

// TrafficMode says whether the bandwidth of a connection is limited, in the words of
// the API.
type TrafficMode string

// The modes.
const (
	Scalability    TrafficMode = "Scalability"    // as much as there is
	BandwidthLimit TrafficMode = "BandwidthLimit" // [Connection.Bandwidth]
)

// Mode returns the mode that the connection's bandwidth stands for.
func (c Connection) Mode() TrafficMode {
	if c.Bandwidth == 0 {
		return Scalability
	}
	return BandwidthLimit
}

// BandwidthRule is what may be said of the bandwidth of connections to services of
// one kind of load balancer.
type BandwidthRule struct {
	Min, Max int  // Mbit/s
	Default  int  // Mbit/s of a limit of which nothing else is said
	Scales   bool // there need not be a limit, and there is none by default
}

const (
	anyBandwidth = 1_000_000 // Mbit/s: the highest limit of an installation whose ranges are not the API's
	maxDrain     = 900       // seconds
)

// bandwidthRule returns the API's rule for a type of load balancer; loose lets a limit
// be anything from 1 Mbit/s, which is what the engine can hold.
func bandwidthRule(kind string, loose bool) BandwidthRule {
	r := traits[kind].bandwidth
	if loose {
		r.Min, r.Max = 1, anyBandwidth
	}
	return r
}

// check refuses a limit that is out of range; 0 is none.
func (r BandwidthRule) check(field string, mbits int) (int, error) {
	return within(field, mbits, 0, r.Min, r.Max, "Mbit/s")
}

// capacity is how much may pass through a connection.
type capacity struct {
	Bandwidth      int `json:"bandwidth"`       // Mbit/s; 0: no limit
	MaxConnections int `json:"max_connections"` // live flows; 0: no limit
}

func (c Connection) capacity() capacity { return capacity{c.Bandwidth, c.MaxConnections} }

// capacity returns what a new connection to svc may use.
func (t *tx) capacity(svc Service, mode TrafficMode, mbits, flows int) (capacity, error) {
	var faults [2]error
	var l capacity
	l.Bandwidth, faults[0] = bandwidthRule(svc.ResourceType, t.loose).bandwidth(mode, mbits, svc.Bandwidth)
	l.MaxConnections, faults[1] = within("max_connections", flows, 0, 1, maxConnections, "flows")
	return l, errors.Join(faults[:]...)
}

// changedCapacity returns what a connection to svc that has l may use from now on.
func (t *tx) changedCapacity(svc Service, l capacity, in ModifyInput) (capacity, error) {
	var faults [2]error
	if in.Mode != nil || in.Bandwidth != nil {
		mode, mbits, rule := value(in.Mode), value(in.Bandwidth), bandwidthRule(svc.ResourceType, t.loose)
		if mode == "" && mbits == 0 && rule.Scales {
			mode = Scalability
		}
		l.Bandwidth, faults[0] = rule.bandwidth(mode, mbits, cmp.Or(l.Bandwidth, svc.Bandwidth))
	}
	if in.MaxConnections != nil {
		l.MaxConnections, faults[1] = within("max_connections", *in.MaxConnections, 0, 1, maxConnections, "flows")
	}
	return l, errors.Join(faults[:]...)
}

// bandwidth returns the limit that a mode and a number stand for; usual is that of
// which nothing is said.
func (r BandwidthRule) bandwidth(mode TrafficMode, mbits, usual int) (int, error) {
	switch mode {
	case Scalability:
		if !r.Scales {
			return 0, invalid("traffic_mode", "limit_only", "Connections to a service of this kind always have a limit: choose %s.", BandwidthLimit)
		}
		return 0, nil
	case BandwidthLimit:
		mbits = cmp.Or(mbits, usual, r.Default)
	case "":
		if mbits = cmp.Or(mbits, usual); mbits == 0 && !r.Scales {
			mbits = r.Default
		}
	default:
		return 0, invalid("traffic_mode", "invalid_traffic_mode", "The mode is %s or %s.", Scalability, BandwidthLimit)
	}
	return r.check("bandwidth", mbits)
}

// value returns what p points to, or zero.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// validDrain checks for how many seconds live flows may go on.
func validDrain(field string, seconds int) error {
	if seconds < 0 || seconds > maxDrain {
		return invalid(field, "out_of_range", "Live flows may go on for 0 to %d seconds.", maxDrain)
	}
	return nil
}

// after returns the moment until which live flows may go on; nil cuts them.
func (t *tx) after(seconds int) *time.Time {
	if seconds == 0 {
		return nil
	}
	return new(t.now.Add(time.Duration(seconds) * time.Second))
}

// drainUntil returns when the last zone that drains ends, nil if none does.
func drainUntil(zones []EndpointZone) *time.Time {
	var last *time.Time
	for _, z := range zones {
		if z.DrainUntil != nil && (last == nil || z.DrainUntil.After(*last)) {
			last = z.DrainUntil
		}
	}
	return last
}
