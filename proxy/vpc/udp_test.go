//go:build unix

package vpc

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// speaksUDP wants a datagram from local to reach at and its echo to come back, and
// the next one to be refused once nobody is there.
func speaksUDP(t *testing.T, d Driver, network string, local netip.Addr, at netip.AddrPort) {
	t.Helper()
	fd, err := d.Bind(t.Context(), network, at, SocketOptions{Packet: true})
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "udp")
	server, err := net.FilePacketConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c, err := d.DialUDP(t.Context(), network, local, at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	end := time.Now().Add(20 * time.Second)
	_ = c.SetDeadline(end)
	_ = server.SetDeadline(end)
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	n, peer, err := server.ReadFrom(b)
	if err != nil || string(b[:n]) != "ping" {
		t.Fatalf("the server heard %q, %v", b[:n], err)
	}
	if got := d.Translate(network, peer.(*net.UDPAddr).AddrPort()).Addr(); got != local {
		t.Errorf("the server saw %v, want %v", got, local)
	}
	if _, err := server.WriteTo([]byte("pong"), peer); err != nil {
		t.Fatal(err)
	}
	if n, err = c.Read(b); err != nil || string(b[:n]) != "pong" {
		t.Fatalf("heard %q, %v", b[:n], err)
	}
	server.Close()
	if _, err = c.Write([]byte("x")); err == nil {
		_, err = c.Read(b)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody is there: %v, want refused", err)
	}
	if c, err := d.DialUDP(t.Context(), "vpc-x", local, at); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("no network: %v, %v", c, err)
	}
}
