package vpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// lab is a driver with an installation of its own.
type lab struct {
	*namespaces
	t testing.TB
}

// newLab takes everything away at the end, whatever the test did.
func newLab(tb testing.TB) *lab {
	tb.Helper()
	return openLab(tb, fmt.Sprintf("t%06x", time.Now().UnixNano()&0xffffff))
}

func openLab(tb testing.TB, installation string) *lab {
	tb.Helper()
	mode := os.Getenv(envMode)
	if mode == "" {
		mode = ModeNetns
	}
	if mode == ModeNetns && os.Getuid() != 0 {
		_, _, err := Probe(ModeUserns)
		tb.Skipf("not root, and %v", err)
	}
	d, err := New(Config{Installation: installation, Mode: mode, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	l := &lab{d.(*namespaces), tb}
	tb.Cleanup(func() {
		if l.ended() {
			return // the test closed it, and another lab has its networks
		}
		if err := l.Sweep(context.Background(), nil); err != nil {
			tb.Errorf("sweep: %v", err)
		}
		if l.pins != nil {
			if left, err := l.pins.names(""); len(left) > 0 || err != nil {
				tb.Errorf("left behind: %v %v", left, err)
			}
		}
		if left := processes(func(pid string) bool { return marked(pid, envInstallation+"="+installation) }); len(left) > 0 {
			tb.Errorf("left running: %v", left)
		}
		l.Close()
	})
	return l
}

func (l *lab) ended() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.closed
}

// ensure wants the network and all its attachments.
func (l *lab) ensure(n Network) {
	l.t.Helper()
	bad, err := l.Ensure(l.t.Context(), n)
	if err != nil || len(bad) > 0 {
		l.t.Fatalf("ensure %s: %v %v", n.ID, err, bad)
	}
}

func (l *lab) repair(id string) {
	l.t.Helper()
	bad, err := l.Repair(l.t.Context(), id)
	if err != nil || len(bad) > 0 {
		l.t.Fatalf("repair %s: %v %v", id, err, bad)
	}
}

// where returns the namespace of the router ("") or of an attachment.
func (l *lab) where(network, attachment string) *namespace {
	l.t.Helper()
	if attachment == "" {
		ns, err := l.routerOf(network)
		if err != nil {
			l.t.Fatal(err)
		}
		return ns
	}
	ns, done, err := l.inside(network, attachment)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(done)
	return ns
}

// nl returns a netlink handle in there.
func (l *lab) nl(ns *namespace) *netlink.Handle {
	l.t.Helper()
	h, err := l.netlink(l.t.Context(), ns, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(h.Close)
	return h
}

// serve answers each connection on ln with name and the peer's address, then
// echoes.
func (l *lab) serve(ln net.Listener, err error, name string) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	l.t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			peer := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
			fmt.Fprintf(c, "%s %v\n", name, peer)
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
}

// listenIn listens inside an attachment.
func (l *lab) listenIn(network, attachment, at string) (net.Listener, error) {
	return l.listen(l.t.Context(), l.where(network, attachment), netip.MustParseAddrPort(at))
}

// talk wants an answer from the other side and then its echo.
func talk(tb testing.TB, c net.Conn, err error, want string) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	const payload = "ping\n"
	if _, err := io.WriteString(c, payload); err != nil {
		tb.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		tb.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		tb.Fatal(err)
	}
	if string(got) != want+"\n"+payload {
		tb.Fatalf("got %q, want %q and the echo", got, want)
	}
}

// refused wants a dial to fail with one of errors.
func refused(tb testing.TB, c net.Conn, err error, want ...error) {
	tb.Helper()
	if err == nil {
		c.Close()
		tb.Fatal("connected")
	}
	if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
		tb.Fatalf("got %v, want one of %v", err, want)
	}
}

// run runs a command in an attachment to its end.
func (l *lab) run(network, attachment string, c Command) (output string, code int) {
	l.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	defer r.Close()
	exited := make(chan int, 1)
	c.Exited = func(code int) { exited <- code }
	c.Stdio = [3]*os.File{nil, w, w}
	err = l.Start(l.t.Context(), network, attachment, c)
	w.Close()
	if err != nil {
		l.t.Fatal(err)
	}
	var out bytes.Buffer
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := out.ReadFrom(r); err != nil {
		l.t.Fatalf("output of %v: %v", c.Args, err)
	}
	select {
	case code = <-exited:
	case <-time.After(20 * time.Second):
		l.t.Fatalf("%v does not end", c.Args)
	}
	return out.String(), code
}

// The networks of the tests are all like this one: two vSwitches, two attachments
// in the first and one in the second, and an address in each.
const (
	client  = "att-client"
	mallory = "att-mallory"
	far     = "att-far"

	clientIP  = "10.0.1.10"
	malloryIP = "10.0.1.66"
	farIP     = "10.0.2.10"
	gatewayIP = "10.0.1.1"
	eniIP     = "10.0.1.5"
	eni2IP    = "10.0.2.5"
)

func example(id string) Network {
	return Network{
		ID: id, Number: 1, CIDRs: prefixes("10.0.0.0/16"),
		VSwitches: []VSwitch{
			{ID: "vsw-h", Zone: "h", CIDR: netip.MustParsePrefix("10.0.1.0/24")},
			{ID: "vsw-i", Zone: "i", CIDR: netip.MustParsePrefix("10.0.2.0/24")},
		},
		Addresses: []netip.Addr{netip.MustParseAddr(eniIP), netip.MustParseAddr(eni2IP)},
		Attachments: map[string]Attachment{
			client:  managed(client, "vsw-h", clientIP),
			mallory: managed(mallory, "vsw-h", malloryIP),
			far:     managed(far, "vsw-i", farIP),
		},
	}
}

func managed(id, vswitch, address string) Attachment {
	return Attachment{ID: id, Kind: Managed, VSwitch: vswitch, Address: netip.MustParseAddr(address)}
}

func with(n Network, attachments ...Attachment) Network {
	n.Attachments = maps.Clone(n.Attachments)
	for _, a := range attachments {
		n.Attachments[a.ID] = a
	}
	return n
}

func without1(n Network, attachment string) Network {
	n.Attachments = maps.Clone(n.Attachments)
	delete(n.Attachments, attachment)
	return n
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrPort(ip string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), port)
}

// TestAsOrdinaryUser runs these tests as one, in a user namespace.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("is run by root's run")
	}
	if testing.Short() {
		t.Skip("runs everything a second time")
	}
	const uid = 1234
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	args := []string{"-test.v", "-test.count=1", "-test.timeout=5m"}
	cmd := exec.CommandContext(ctx, self(), args...)
	cmd.Env = append(os.Environ(), "HOME=/", "GOCOVERDIR="+os.Getenv("GOCOVERDIR"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "--- ") {
			t.Log("as an ordinary user: ", strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP: TestSameRangesTwice") {
		t.Skip("this machine gives ordinary users no namespaces")
	}
}
