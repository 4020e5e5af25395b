// Package forward moves bytes between sockets: it accepts flows, asks who may pass
// and where to, connects, copies both ways, and says how each flow ended.
//
// It knows no snapshot and no rule: those are behind [Door] and [Session]. There
// are two forwarders, event loops on Linux and goroutines everywhere, and the same
// tests run on both.
package forward

import (
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
)

// Forwarder carries the flows that come in by listening sockets.
type Forwarder interface {
	// Accept serves a socket that listens, which becomes the forwarder's own, and
	// asks door about each connection.
	Accept(fd int, door Door) (Listener, error)
	// AcceptRedirected is Accept for a socket that the kernel leads connections to
	// which were meant for others: [Flow.Address] says what each asked for.
	AcceptRedirected(fd int, door Door) (Listener, error)
	// Packets serves a socket of UDP, which becomes the forwarder's own, and asks
	// door about the first datagram of each client. Once the listener is closed its
	// flows live on until they are ended or idle, and pass nothing more.
	Packets(fd int, door Door) (Listener, error)
	// Close ends the forwarder. Listeners and flows have to be gone.
	Close()
}

// Listener is a listening socket that a [Forwarder] serves.
type Listener interface {
	// Filter makes the socket drop the connections of whose first packet program
	// keeps nothing, without an answer; without a program it drops none. Flows go on.
	Filter(program []bpf.RawInstruction) error
	// Close closes the socket. On return its address is free, and its door is asked
	// no more. Flows go on.
	Close()
}

// Door decides about new flows. It is called on the forwarder's threads, several
// at a time, and must not wait.
type Door interface {
	// Admit decides about a flow whose client has connected. It may set what the
	// flow's fields say that it may. nil refuses the flow: the client is reset. A
	// flow that has a Reason already cannot be carried and has to be refused.
	Admit(f *Flow) Session
}

// Session is what an admitted flow means to whoever admitted it. Its methods are
// called one after the other, on the forwarder's threads, and must not wait.
type Session interface {
	// Next names the server to try, first and after each that failed. If none is
	// left it ends the flow and returns false.
	Next(f *Flow) (Target, bool)
	// Failed says that the server of the last Next could not be reached.
	Failed(f *Flow, err error)
	// Stands says that both sides stand: bytes can pass.
	Stands(f *Flow)
	// Ended comes last: the flow holds no descriptor any more.
	Ended(f *Flow)
}

// Target is a server and the way to it.
type Target struct {
	Network string         // that the connection is made in; empty means the host's own
	From    netip.Addr     // source address in it; the zero one leaves the choice to the system
	To      netip.AddrPort //
	Preface []byte         // sent to the server before anything of the client; kept until then
}

// Reasons that a forwarder itself ends a flow for.
const (
	Closed      = "closed"      // both sides ended their half
	Reset       = "reset"       // one side reset, or vanished
	Idle        = "idle"        // no byte for Flow.Idle
	Descriptors = "descriptors" // the process must not open more
)

// Directions of a flow.
const (
	In  = 0 // from the client to the server
	Out = 1 // back
)

// Bytes counts both directions, by [In] and [Out].
type Bytes [2]atomic.Int64

// Limits are the rates of both directions, by [In] and [Out].
type Limits [2]Limit

// Flow is one connection through a door, from its accept to its end.
type Flow struct {
	Source netip.AddrPort // the client, as the socket knows it
	// Address is what the client asked for, where that is not the address of the
	// listening socket; the zero one otherwise, and if it could not be found out.
	Address netip.AddrPort
	Start   time.Time
	Moved   Bytes // passed on so far

	// Of UDP only.
	First     []byte       // datagram, while Admit and the calls of Next for it last
	Datagrams Bytes        // passed on so far, counted one by one
	Dropped   atomic.Int64 // datagrams, over a limit or because a socket was full

	// Admit may set these.
	Idle   time.Duration // without a byte, until both sides are reset; 0: never
	Sum    *Bytes        // counts what passes, too; may be shared by flows
	Limits *Limits       // that it shares with other flows; nil: none
	Reply  func([]byte)  // is shown each datagram of the server, and must not keep it

	reason atomic.Pointer[string]
	owner  interface{ look() } // the forwarder's own view of the flow, which has to look at the reason
}

// End ends the flow. The first reason stands; for every reason but [Closed] both
// sides are reset. It may be called from any goroutine and does not wait.
func (f *Flow) End(reason string) {
	if f.reason.CompareAndSwap(nil, &reason) && f.owner != nil {
		f.owner.look()
	}
}

// Reason is why the flow ended, and empty while it lives.
func (f *Flow) Reason() string {
	if r := f.reason.Load(); r != nil {
		return *r
	}
	return ""
}

// limit is that of a direction, or nil.
func (f *Flow) limit(direction int) *Limit {
	if f.Limits == nil {
		return nil
	}
	return &f.Limits[direction]
}

func (f *Flow) count(direction int, n int) {
	f.Moved[direction].Add(int64(n))
	if f.Sum != nil {
		f.Sum[direction].Add(int64(n))
	}
}

const (
	dialTimeout = 5 * time.Second       // for each server that is tried
	acceptPause = 50 * time.Millisecond // after an accept that failed, such as out of descriptors
)

// monotonic reads the clock of everything that is timed here, in ns.
func monotonic() int64 { return int64(time.Since(epoch)) }

var epoch = time.Now()
