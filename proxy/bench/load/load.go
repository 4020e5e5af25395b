// Package load is the two ends of a benchmark: the backend behind a forwarder, and
// the clients in front of it. Both are loops over epoll that allocate nothing, so
// that they leave the machine to what is measured.
//
// Everything that is sent is cut from one pattern, and whoever receives compares
// every byte with it. A load that was lost, doubled, swapped between connections or
// changed is an error and never a figure.
package load

import (
	"errors"
	"math/rand/v2"
	"time"
)

// Ports of the [Backend], and of whatever stands in front of it.
const (
	PortEcho      = 7001 // sends back what comes
	PortSink      = 7002 // reads to the end, then answers with the number of bytes that were right
	PortEchoProxy = 7003 // as PortEcho, for connections that begin with a PROXY v2 header
	PortSinkProxy = 7004 // as PortSink, the same way
	PortDatagram  = 7005 // sends back datagrams
)

// Result of a load.
type Result struct {
	Work    float64 `json:"work"`    // bytes, connections, requests or datagrams that came through
	Seconds float64 `json:"seconds"` // in which they did
	Failed  int     `json:"failed"`  // connections that could not be made or broke, datagrams that were lost
	P50     float64 `json:"p50"`     // latencies in microseconds
	P99     float64 `json:"p99"`
	P999    float64 `json:"p999"`
}

func (r *Result) latencies(h *histogram) {
	r.P50, r.P99, r.P999 = h.quantile(0.5), h.quantile(0.99), h.quantile(0.999)
}

// ErrCorrupt says that other bytes came back than were sent.
var ErrCorrupt = errors.New("the payload was corrupted on its way")

const (
	period  = 65521            // of the pattern: a prime, so that a lost or doubled piece of any buffer's size shows
	longest = 256 << 10        // piece that is sent or compared at once
	quiet   = 10 * time.Second // after which a load is lost
)

// pattern holds a piece of length longest from every place of the period.
var pattern = func() []byte {
	b := make([]byte, period+longest)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b[:period])
	for n := period; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
	return b
}()

// message is the place in the pattern of the nth message of a connection. Messages
// of one connection, and those of others at the same time, are different ones.
func message(conn, n int) int { return (conn*257 + n*31) % period }
