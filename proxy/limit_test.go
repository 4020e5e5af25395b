package proxy_test

import (
	"io"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
)

// A connection's bandwidth holds in both directions, over both zones, is shared by
// its flows, and follows a change without cutting anything.
func TestBandwidth(t *testing.T) {
	each(t, func(w *world) {
		var received atomic.Int64 // by the server
		w.connected(func(c *net.TCPConn) {
			var both sync.WaitGroup
			both.Go(func() {
				b := make([]byte, 64<<10)
				for {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			})
			_, _ = io.Copy(counter{&received}, c)
			both.Wait()
		})
		limit := func(mbit int) {
			w.change(func(ep *proxy.Endpoint) { ep.Bandwidth = mbit })
		}
		limit(16)
		counts := make([]atomic.Int64, 4) // by the clients
		var running sync.WaitGroup
		var conns []*net.TCPConn
		for i := range counts {
			c := w.mustDial([]netip.Addr{epH, epI}[i%2])
			conns = append(conns, c)
			running.Go(func() {
				b := make([]byte, 64<<10)
				for {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			})
			running.Go(func() { _, _ = io.Copy(counter{&counts[i]}, c) })
		}
		measure := func(mbit float64) {
			w.Helper()
			time.Sleep(time.Second) // in which the change takes effect
			in, began := received.Load(), time.Now()
			var out [4]int64
			for i := range counts {
				out[i] = counts[i].Load()
			}
			time.Sleep(2 * time.Second)
			in = received.Load() - in
			seconds := time.Since(began).Seconds()
			sum := int64(0)
			for i := range counts {
				out[i] = counts[i].Load() - out[i]
				sum += out[i]
			}
			for direction, got := range map[string]int64{"in": in, "out": sum} {
				if rate := float64(got) * 8 / 1e6 / seconds; math.Abs(rate-mbit) > mbit/10 {
					w.Errorf("%s: %.2f Mbit/s at the receiver, want %v", direction, rate, mbit)
				}
			}
			for i, got := range out {
				if share := float64(sum) / 4; math.Abs(float64(got)-share) > share/2 {
					w.Errorf("flow %d got %d bytes, want about %.0f", i, got, share)
				}
			}
		}
		measure(16)
		limit(80)
		measure(80)
		for _, c := range conns {
			_ = c.Close()
		}
		running.Wait()
	})
}

// counter counts what is written to it.
type counter struct{ *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.Add(int64(len(b)))
	return len(b), nil
}
