//go:build unix

package vpc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newLoop(t *testing.T) *loopback {
	t.Helper()
	d, err := New(Config{Installation: "looptest", Mode: ModeLoopback, Reason: "because"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d.(*loopback)
}

func small(id string, number int, cidr string) Network {
	p := netip.MustParsePrefix(cidr)
	a := p.Addr().As4()
	at := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{a[0], a[1], 1, last}) }
	return Network{
		ID: id, Number: number, CIDRs: []netip.Prefix{p}, Addresses: []netip.Addr{at(5)},
		Attachments: map[string]Attachment{
			"att-m": {ID: "att-m", Kind: Managed, Address: at(10), Command: []string{"sh", "-c", "echo $OPENPRIVATELINK_ADDRESS; exec sleep 1000"}},
			"att-a": {ID: "att-a", Kind: Adopted, Address: at(11)},
			"att-h": {ID: "att-h", Kind: HostService},
			"att-p": {ID: "att-p", Kind: PublishedPort, Address: at(5)},
		},
	}
}

func TestLoopbackSockets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("127/8 is not all this machine's")
	}
	d := newLoop(t)
	ctx := t.Context()
	for i, id := range []string{"vpc-a", "vpc-b"} {
		bad, err := d.Ensure(ctx, small(id, 40+i, "10.0.0.0/16"))
		if err != nil || len(bad) != 1 || bad["att-a"] == nil {
			t.Fatalf("%v %v", bad, err)
		}
	}
	at := netip.MustParseAddrPort("10.0.1.5:7443")
	if err := d.Redirect(ctx, "vpc-a", []Ports{{at.Addr(), 1, 65535}}, nil); !errors.Is(err, ErrNoRanges) {
		t.Errorf("redirect: got %v, want %v", err, ErrNoRanges)
	}
	for i, id := range []string{"vpc-a", "vpc-b"} {
		ln, err := d.Listen(ctx, id, at)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		want := fmt.Sprintf("127.%d.1.5:7443", 40+i)
		if got := ln.Addr().String(); got != want {
			t.Errorf("listens on %s, want %s", got, want)
		}
		if got, ok := d.Outside(id, at); !ok || got.String() != want {
			t.Errorf("outside it is %v %v, want %s", got, ok, want)
		}
		for from, dial := range map[string]func() (net.Conn, error){
			"10.0.1.10": func() (net.Conn, error) { return d.DialFrom(ctx, id, "att-m", at) },
			"10.0.1.5":  func() (net.Conn, error) { return d.DialFrom(ctx, id, "att-p", at) },
			"10.0.1.77": func() (net.Conn, error) { return d.Dial(ctx, id, netip.MustParseAddr("10.0.1.77"), at) },
		} {
			c, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			peer, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if got := d.Translate(id, peer.RemoteAddr().(*net.TCPAddr).AddrPort()).Addr().String(); got != from {
				t.Errorf("the peer is %s, want %s", got, from)
			}
			c.Close()
			peer.Close()
		}
	}
	for name, err := range map[string]error{
		"att-a": ErrNoInside, "att-h": ErrNoInside, "att-x": ErrNoAttachment,
	} {
		if _, got := d.DialFrom(ctx, "vpc-a", name, at); !errors.Is(got, err) {
			t.Errorf("%s: %v, want %v", name, got, err)
		}
	}
	if _, err := d.Dial(ctx, "vpc-a", at.Addr(), netip.MustParseAddrPort("192.0.2.1:80")); err == nil {
		t.Error("dialled out of the network")
	}
	if _, err := d.Listen(ctx, "vpc-x", at); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("no network: %v", err)
	}
	if err := d.Sweep(ctx, map[string]Network{"vpc-a": {}}); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Outside("vpc-b", at); ok {
		t.Error("swept, and yet there")
	}
}

func TestLoopbackUDP(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("127/8 is not all this machine's")
	}
	d := newLoop(t)
	if _, err := d.Ensure(t.Context(), small("vpc-a", 42, "10.0.0.0/16")); err != nil {
		t.Fatal(err)
	}
	speaksUDP(t, d, "vpc-a", netip.MustParseAddr("10.0.1.77"), netip.MustParseAddrPort("10.0.1.5:7053"))
	if c, err := d.DialUDP(t.Context(), "vpc-a", netip.MustParseAddr("10.0.1.77"), netip.MustParseAddrPort("192.0.2.1:53")); err == nil {
		t.Errorf("spoke out of the network: %v", c)
	}
}

func TestLoopbackLimits(t *testing.T) {
	d := newLoop(t)
	two := small("vpc-b", 2, "10.0.0.0/16")
	two.CIDRs = append(two.CIDRs, netip.MustParsePrefix("10.1.0.0/16"))
	for want, n := range map[string]Network{
		"none is left":                      small("vpc-a", 0, "10.0.0.0/16"),
		"room for 200 networks":             small("vpc-a", 201, "10.0.0.0/16"),
		"one range of at most /16, not for": small("vpc-a", 1, "10.0.0.0/8"),
		"not for [10.0.0.0/16 10.1.0.0/16]": two,
	} {
		if _, err := d.Ensure(t.Context(), n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := d.Ensure(t.Context(), small("vpc-a", 7, "10.0.0.0/16")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Ensure(t.Context(), small("vpc-b", 7, "10.0.0.0/16")); err == nil {
		t.Error("two networks have one number")
	}
	if c := d.Capabilities(); c.Mode != ModeLoopback || c.Reason != "because" || c.Isolated || c.Exec || c.Adopt || c.Survives {
		t.Errorf("%+v", c)
	}
}

func TestLoopbackPorts(t *testing.T) {
	d := newLoop(t)
	if _, err := d.Ensure(t.Context(), small("vpc-a", 7, "10.9.0.0/16")); err != nil {
		t.Fatal(err)
	}
	for _, high := range []bool{false, true} {
		d.highPort = high
		for _, port := range []uint16{0, 1, 80, 1023, 1024, 5432, 65535} {
			at := netip.AddrPortFrom(netip.MustParseAddr("10.9.1.5"), port)
			got, ok := d.Outside("vpc-a", at)
			want := port
			if high && port > 0 && port < 1024 {
				want = 20000 + port
			}
			if !ok || got.Addr().String() != "127.7.1.5" || got.Port() != want {
				t.Errorf("%v is %v %v outside, want port %d", at, got, ok, want)
			}
			if back := d.Translate("vpc-a", got); back != at {
				t.Errorf("%v translates to %v, want %v", got, back, at)
			}
		}
	}
	for _, seen := range []string{"127.0.0.1:80", "127.8.1.5:80", "10.0.0.1:80", "[::1]:80"} {
		if got := d.Translate("vpc-a", netip.MustParseAddrPort(seen)); got.String() != seen {
			t.Errorf("%s translates to %v", seen, got)
		}
	}
}

func TestLoopbackCommands(t *testing.T) {
	d := newLoop(t)
	n := small("vpc-a", 7, "10.0.0.0/16")
	if _, err := d.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Command{
		"another command": {Args: []string{"true"}},
		"a client's":      {Args: n.Attachments["att-m"].Command, Control: os.Stdin},
	} {
		if err := d.Start(t.Context(), "vpc-a", "att-m", c); !errors.Is(err, ErrNoExec) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	exited := make(chan int, 1)
	err = d.Start(t.Context(), "vpc-a", "att-m", Command{
		Args: n.Attachments["att-m"].Command, Stdio: [3]*os.File{nil, w, w}, Exited: func(code int) { exited <- code },
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
	line := make([]byte, len("127.7.1.10\n"))
	if _, err := r.Read(line); err != nil || string(line) != "127.7.1.10\n" {
		t.Errorf("its address is %q %v", line, err)
	}
	delete(n.Attachments, "att-m")
	if _, err := d.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if code := <-exited; code != 128+int(syscall.SIGTERM) {
		t.Errorf("ended with %d when its attachment went", code)
	}
	if err := d.Start(t.Context(), "vpc-a", "att-m", Command{Args: []string{"true"}}); !errors.Is(err, ErrNoAttachment) {
		t.Errorf("without its attachment: %v", err)
	}
}

func TestLoopbackEnds(t *testing.T) {
	d := newLoop(t)
	n := small("vpc-a", 7, "10.0.0.0/16")
	if _, err := d.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	exited := make(chan int, 1)
	c := Command{Args: n.Attachments["att-m"].Command, Exited: func(code int) { exited <- code }}
	if err := d.Start(t.Context(), "vpc-a", "att-m", c); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if code := <-exited; code != 128+int(syscall.SIGTERM) {
		t.Errorf("ended with %d at the engine's end", code)
	}
	if _, err := d.Ensure(t.Context(), n); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
