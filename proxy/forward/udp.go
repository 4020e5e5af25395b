package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
)

// A flow of UDP is what passes between one client and the server that its first
// datagram got, until neither has said anything for [Flow.Idle].
const (
	flowsMost    = 1 << 16 // of one listener of packets
	flowsMostAll = 1 << 18 // of all listeners of a forwarder
	earlyMost    = 16      // datagrams that wait while a flow's socket is made
	packetBuffer = 1 << 20 // bytes that a listener's socket may hold
	packetRoom   = 64 << 10
)

const packetIdle = 20 * time.Second // of flows whose door says nothing

// Reasons that a forwarder itself ends a flow of UDP for.
const (
	Unreachable = "unreachable" // the server's machine says that nobody is there
	Full        = "full"        // there are as many flows as there may be
)

// bound counts what must not become too many.
type bound struct {
	used atomic.Int64
	most int64
}

func (b *bound) take() bool {
	if b.used.Add(1) > b.most {
		b.used.Add(-1)
		return false
	}
	return true
}

func (b *bound) release() { b.used.Add(-1) }

// clients finds the flows of a listener by their clients. One [bound] is its own,
// one it shares.
type clients[T comparable] struct {
	flows map[netip.AddrPort]T
	most  int
	all   *bound
}

// add is false if there are too many.
func (c *clients[T]) add(client netip.AddrPort, flow T) bool {
	if len(c.flows) >= c.most || !c.all.take() {
		return false
	}
	if c.flows == nil {
		c.flows = map[netip.AddrPort]T{}
	}
	c.flows[client] = flow
	return true
}

// remove forgets a flow that was added, and another of the same client's not.
func (c *clients[T]) remove(client netip.AddrPort, flow T) {
	if at, ok := c.flows[client]; ok && at == flow {
		delete(c.flows, client)
		c.all.release()
	}
}

// unfiltered is a listener of packets: a program would drop those of flows, too.
type unfiltered struct{}

// Filter implements [Listener].
func (unfiltered) Filter(program []bpf.RawInstruction) error {
	if len(program) > 0 {
		return fmt.Errorf("filter packets: %w", errors.ErrUnsupported)
	}
	return nil
}
