package load_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/bench/load"
)

var backendAt = netip.MustParseAddr("127.83.0.1")

// backend starts one for all tests, which ends with them.
var backend = sync.OnceValue(func() error {
	ready, failed := make(chan struct{}), make(chan error, 1)
	go func() { failed <- load.Backend(backendAt, 2, func() { close(ready) }) }()
	select {
	case <-ready:
		return nil
	case err := <-failed:
		return err
	}
})

// between forwards every port of the backend at another address, and lets touch
// see, and change, each piece of a direction.
func between(t *testing.T, touch func(port uint16, toBackend bool, b []byte) []byte) netip.Addr {
	t.Helper()
	if err := backend(); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr("127.83.0.2")
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, port := range []uint16{load.PortEcho, load.PortSink} {
		ln, err := net.Listen("tcp4", netip.AddrPortFrom(at, port).String())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer c.Close()
					s, err := net.Dial("tcp4", netip.AddrPortFrom(backendAt, port).String())
					if err != nil {
						return
					}
					defer s.Close()
					var halves sync.WaitGroup
					half := func(dst, src net.Conn, toBackend bool) {
						b := make([]byte, 32<<10)
						for {
							n, err := src.Read(b)
							if n > 0 {
								_, _ = dst.Write(touch(port, toBackend, b[:n]))
							}
							if err != nil {
								break
							}
						}
						_ = dst.(*net.TCPConn).CloseWrite()
					}
					halves.Go(func() { half(s, c, true) })
					half(c, s, false)
					halves.Wait()
				})
			}
		})
		t.Cleanup(func() { _ = ln.Close() })
	}
	return at
}

func faithful(_ uint16, _ bool, b []byte) []byte { return b }

const brief = 100 * time.Millisecond

var loads = map[string]func(at netip.Addr) (load.Result, error){
	"bulk": func(at netip.Addr) (load.Result, error) {
		return load.Bulk(netip.AddrPortFrom(at, load.PortSink), 3, brief)
	},
	"connections": func(at netip.Addr) (load.Result, error) {
		return load.Connections(netip.AddrPortFrom(at, load.PortEcho), 8, 64, brief)
	},
	"requests": func(at netip.Addr) (load.Result, error) {
		return load.Requests(netip.AddrPortFrom(at, load.PortEcho), 8, 1024, brief)
	},
	"idle": func(at netip.Addr) (load.Result, error) {
		return load.Idle(netip.AddrPortFrom(at, load.PortEcho), 8, func() {})
	},
}

func TestLoadThroughAFaithfulForwarder(t *testing.T) {
	at := between(t, faithful)
	for name, run := range loads {
		t.Run(name, func(t *testing.T) {
			r, err := run(at)
			if err != nil {
				t.Fatal(err)
			}
			if r.Work < 8 || r.Failed != 0 || r.Seconds <= 0 {
				t.Errorf("got %+v, want work without failures", r)
			}
			if name == "requests" && (r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.P999) {
				t.Errorf("latencies: got %+v, want them in order", r)
			}
		})
	}
}

// TestCorruption puts forwarders in between that are wrong in one way each. No load
// may take what they do for a result.
func TestCorruption(t *testing.T) {
	wrongs := map[string]func(toBackend bool, b []byte) []byte{
		"changes a byte": func(toBackend bool, b []byte) []byte {
			if toBackend {
				b[len(b)/2] ^= 1
			}
			return b
		},
		"changes an answer": func(toBackend bool, b []byte) []byte {
			if !toBackend {
				b[len(b)-1] ^= 0x80
			}
			return b
		},
		"doubles a piece": func(toBackend bool, b []byte) []byte {
			if toBackend {
				return append(b, b...)
			}
			return b
		},
		"swaps halves": func(toBackend bool, b []byte) []byte {
			if h := len(b) / 2; toBackend && h > 0 {
				return append(append([]byte(nil), b[h:]...), b[:h]...)
			}
			return b
		},
	}
	for wrong, touch := range wrongs {
		t.Run(wrong, func(t *testing.T) {
			at := between(t, func(_ uint16, toBackend bool, b []byte) []byte { return touch(toBackend, b) })
			for name, run := range loads {
				if wrong == "doubles a piece" && (name == "connections" || name == "idle") {
					continue // they end before the second one comes
				}
				if r, err := run(at); !errors.Is(err, load.ErrCorrupt) {
					t.Errorf("%s: got %+v, %v, want ErrCorrupt", name, r, err)
				}
			}
		})
	}
}

// TestLoss has forwarders that lose what they took.
func TestLoss(t *testing.T) {
	at := between(t, func(port uint16, toBackend bool, b []byte) []byte {
		if port == load.PortSink && toBackend {
			return b[:len(b)-1]
		}
		return b
	})
	if r, err := load.Bulk(netip.AddrPortFrom(at, load.PortSink), 1, brief); !errors.Is(err, load.ErrCorrupt) {
		t.Errorf("got %+v, %v, want ErrCorrupt", r, err)
	}
}

// TestHeader sends PROXY v2 headers in pieces, and none.
func TestHeader(t *testing.T) {
	if err := backend(); err != nil {
		t.Fatal(err)
	}
	const header = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02"
	tests := map[string]struct {
		pieces []string
		want   string
	}{
		"whole":     {[]string{header + "hello"}, "hello"},
		"alone":     {[]string{header, "hello"}, "hello"},
		"in pieces": {[]string{header[:5], header[5:14], header[14:20], header[20:] + "hel", "lo"}, "hello"},
		"missing":   {[]string{"hello, no header"}, ""},
		"torn":      {[]string{header[:13]}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp4", netip.AddrPortFrom(backendAt, load.PortEchoProxy).String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.(*net.TCPConn).SetNoDelay(true); err != nil {
				t.Fatal(err)
			}
			for _, p := range tt.pieces {
				if _, err := io.WriteString(c, p); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.(*net.TCPConn).CloseWrite()
			if got, _ := io.ReadAll(c); string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestDatagrams sends through a forwarder that is right, and through some that are
// wrong in one way each.
func TestDatagrams(t *testing.T) {
	var last []byte
	tests := map[string]struct {
		touch func(b []byte) []byte
		want  error
	}{
		"faithful":        {func(b []byte) []byte { return b }, nil},
		"changes a byte":  {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, load.ErrCorrupt},
		"other flow":      {func(b []byte) []byte { b[0] ^= 1; return b }, load.ErrCorrupt},
		"from the future": {func(b []byte) []byte { b[7] ^= 1; return b }, load.ErrCorrupt},
		"cuts":            {func(b []byte) []byte { return b[:len(b)-1] }, load.ErrCorrupt},
		"mixes": {func(b []byte) []byte {
			was := last
			last = append([]byte(nil), b...)
			if was == nil {
				return b
			}
			return append(b[:8:8], was[8:]...)
		}, load.ErrCorrupt},
	}
	for name, tt := range tests {
		for _, gso := range []bool{false, true} {
			t.Run(fmt.Sprint(name, gso), func(t *testing.T) {
				last = nil
				at := datagramsBetween(t, tt.touch)
				l := load.Datagrams{Flows: 10, From: netip.MustParseAddr("127.83.1.250"), Size: 100, Window: 32, GSO: gso}
				r, err := l.Run(netip.AddrPortFrom(at, load.PortDatagram), brief)
				if !errors.Is(err, tt.want) {
					t.Fatalf("got %+v, %v, want %v", r, err, tt.want)
				}
				if err == nil && (r.Work < 32 || r.Failed > 0) {
					t.Errorf("got %+v, want work without loss", r)
				}
			})
		}
	}
}

// datagramsBetween forwards datagrams to the backend, for one peer, until the test
// ends, and lets touch change those that come back.
func datagramsBetween(t *testing.T, touch func([]byte) []byte) netip.Addr {
	t.Helper()
	if err := backend(); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr("127.83.0.3")
	front, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, load.PortDatagram)))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { front.Close() })
	wg.Go(func() {
		flows := map[netip.AddrPort]*net.UDPConn{}
		defer func() {
			for _, c := range flows {
				c.Close()
			}
		}()
		b := make([]byte, 4096)
		for {
			n, from, err := front.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c := flows[from]
			if c == nil {
				if c, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(backendAt, load.PortDatagram))); err != nil {
					t.Error(err)
					return
				}
				flows[from] = c
			}
			answer := make([]byte, 4096)
			_, _ = c.Write(b[:n])
			if n, err = c.Read(answer); err != nil {
				t.Error(err)
				return
			}
			_, _ = front.WriteToUDPAddrPort(touch(answer[:n]), from)
		}
	})
	return at
}
