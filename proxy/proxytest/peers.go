// Package proxytest holds the peers that tests and benchmarks put on both sides of
// the engine: servers that echo, half-close, talk first or do not read.
package proxytest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// Handler is one side of a connection; the connection is closed when it returns.
type Handler func(*net.TCPConn)

// Serve answers each connection to ln with handle, in a goroutine of its own and
// closed after it, until the test ends.
func Serve(tb testing.TB, ln net.Listener, handle Handler) {
	tb.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = struct{}{}
			mu.Unlock()
			wg.Go(func() {
				handle(c.(*net.TCPConn))
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// Echo sends back what it gets and ends its half when the peer has ended its own.
func Echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// Sum reads to the end and answers with the SHA-256 of what it read, in hex.
func Sum(c *net.TCPConn) {
	h := sha256.New()
	if _, err := io.Copy(h, c); err == nil {
		_, _ = fmt.Fprintf(c, "%x", h.Sum(nil))
	}
}

// Say returns a server that says text at once, ends its half, and then waits for
// the peer's end.
func Say(text string) Handler {
	return func(c *net.TCPConn) {
		_, _ = io.WriteString(c, text)
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
}

// EchoPackets sends every datagram back to where it came from, until the test ends
// or c is closed.
func EchoPackets(tb testing.TB, c *net.UDPConn) {
	tb.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(b[:n], from)
			}
		}
	})
	tb.Cleanup(func() {
		_ = c.Close()
		wg.Wait()
	})
}

// Pattern is an endless, seeded stream of bytes that no shift of itself equals.
type Pattern struct{ state uint64 }

// NewPattern starts the stream that belongs to seed.
func NewPattern(seed uint64) *Pattern { return &Pattern{seed*2862933555777941757 + 3037000493} }

// Read fills b; it never ends and never fails.
func (p *Pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.state = p.state*6364136223846793005 + 1442695040888963407
		b[i] = byte(p.state >> 56)
	}
	return len(b), nil
}

// SumOf is what [Sum] answers for all of r, or the error of reading it.
func SumOf(r io.Reader) string {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
