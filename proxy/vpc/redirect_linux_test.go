package vpc

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// lobby answers, in a network's lobby, with where the client wanted to go, then
// echoes.
func (l *lab) lobby(network string) {
	l.t.Helper()
	ln, err := l.Listen(l.t.Context(), network, Lobby)
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
			f, err := c.(*net.TCPConn).File()
			c.Close()
			if err != nil {
				l.t.Error(err)
				return
			}
			to := OriginalDestination(int(f.Fd()))
			c, err = net.FileConn(f)
			f.Close()
			if err != nil {
				l.t.Error(err)
				return
			}
			l.t.Cleanup(func() { c.Close() })
			go func() {
				fmt.Fprintf(c, "%s %v\n", network, to)
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
}

func (l *lab) redirect(network string, open, closed []Ports) {
	l.t.Helper()
	if err := l.Redirect(l.t.Context(), network, open, closed); err != nil {
		l.t.Fatal(err)
	}
}

// led wants a connection from the client to arrive in the lobby.
func (l *lab) led(network string, to netip.AddrPort) {
	l.t.Helper()
	c, err := l.DialFrom(l.t.Context(), network, client, to)
	talk(l.t, c, err, fmt.Sprint(network, " ", to))
}

func (l *lab) notLed(network string, to netip.AddrPort) {
	l.t.Helper()
	c, err := l.DialFrom(l.t.Context(), network, client, to)
	refused(l.t, c, err, syscall.ECONNREFUSED)
}

func portsOf(ip string, first, last uint16) []Ports {
	return []Ports{{netip.MustParseAddr(ip), first, last}}
}

func TestRedirect(t *testing.T) {
	l := newLab(t)
	for _, id := range []string{"vpc-a", "vpc-b"} { // the same ranges in both
		l.ensure(example(id))
		l.lobby(id)
	}
	l.notLed("vpc-a", addrPort(eniIP, 5000))
	l.redirect("vpc-a", slices.Concat(portsOf(eniIP, 5000, 6000), portsOf(eni2IP, 1, 65535)), nil)
	l.redirect("vpc-b", portsOf(eniIP, 5900, 5900), nil)

	t.Run("what was asked for", func(t *testing.T) {
		for _, port := range []uint16{5000, 5001, 5999, 6000} {
			l.led("vpc-a", addrPort(eniIP, port))
		}
		for _, port := range []uint16{1, 22, 5000, 65535} {
			l.led("vpc-a", addrPort(eni2IP, port))
		}
		l.led("vpc-b", addrPort(eniIP, 5900))
	})
	t.Run("outside", func(t *testing.T) {
		for _, port := range []uint16{1, 4999, 6001, 65535} {
			l.notLed("vpc-a", addrPort(eniIP, port))
		}
		l.notLed("vpc-a", addrPort(gatewayIP, 5000))
		l.notLed("vpc-a", addrPort(farIP, 5000))
		l.notLed("vpc-b", addrPort(eniIP, 5000))
		l.notLed("vpc-b", addrPort(eni2IP, 5900))
	})
	t.Run("from the router's own address", func(t *testing.T) {
		c, err := l.Dial(t.Context(), "vpc-a", netip.MustParseAddr(eni2IP), addrPort(eniIP, 5001))
		talk(t, c, err, "vpc-a "+eniIP+":5001")
		c, err = l.Dial(t.Context(), "vpc-a", netip.MustParseAddr(eni2IP), addrPort(eniIP, 4999))
		refused(t, c, err, syscall.ECONNREFUSED)
	})
	t.Run("one source port for two destinations", func(t *testing.T) {
		for _, port := range []uint16{5100, 5101, 5102} {
			c, err := l.dialBy(t, "vpc-a", client, 45678, addrPort(eniIP, port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			says(t, c, fmt.Sprint("vpc-a ", addrPort(eniIP, port), "\n"))
		}
	})
	t.Run("closed", func(t *testing.T) {
		c, err := l.DialFrom(t.Context(), "vpc-a", client, addrPort(eniIP, 5500))
		if err != nil {
			t.Fatal(err)
		}
		says(t, c, "vpc-a "+eniIP+":5500\n")
		l.redirect("vpc-a", portsOf(eniIP, 7000, 7000), portsOf(eniIP, 5000, 6000))
		l.notLed("vpc-a", addrPort(eniIP, 5500))
		l.led("vpc-a", addrPort(eniIP, 7000))
		l.led("vpc-a", addrPort(eni2IP, 5500))
		l.redirect("vpc-a", nil, slices.Concat(portsOf(eniIP, 7000, 7000), portsOf(eni2IP, 1, 65535)))
		l.notLed("vpc-a", addrPort(eni2IP, 5500))
		l.led("vpc-b", addrPort(eniIP, 5900))
		stillEchoes(t, c)
	})
}

// says reads want.
func says(tb testing.TB, c net.Conn, want string) {
	tb.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		tb.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// dialBy connects from a port of an attachment's.
func (l *lab) dialBy(tb testing.TB, network, attachment string, port uint16, to netip.AddrPort) (net.Conn, error) {
	tb.Helper()
	s, err := l.socket(tb.Context(), l.where(network, attachment), unix.SOCK_STREAM)
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close()
	err = control(s, func(fd int) error {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); err != nil {
			return err
		}
		if err := unix.Connect(fd, sockaddr(to)); err != unix.EINPROGRESS {
			return err
		}
		return nil
	})
	if err == nil {
		err = connected(s)
	}
	if err != nil {
		return nil, err
	}
	return net.FileConn(s)
}

// TestRedirectSparesWhatStands: a range that comes around the port of a connection
// does not catch it in the middle.
func TestRedirectSparesWhatStands(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	ln, err := l.Listen(t.Context(), "vpc-a", addrPort(eniIP, 5000))
	l.serve(ln, err, "direct")
	c, err := l.DialFrom(t.Context(), "vpc-a", client, addrPort(eniIP, 5000))
	if err != nil {
		t.Fatal(err)
	}
	says(t, c, "direct "+clientIP+"\n")
	l.lobby("vpc-a")
	l.redirect("vpc-a", portsOf(eniIP, 1, 65535), nil)
	l.led("vpc-a", addrPort(eniIP, 5000))
	stillEchoes(t, c)
}

// stillEchoes wants an echo of a connection that stands.
func stillEchoes(tb testing.TB, c net.Conn) {
	tb.Helper()
	const payload = "still here\n"
	if _, err := io.WriteString(c, payload); err != nil {
		tb.Fatal(err)
	}
	says(tb, c, payload)
	c.Close()
}

// TestLobbyIsOutOfReach: a workload that knows where the socket is does not get
// there, and makes it believe nothing.
func TestLobbyIsOutOfReach(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	ln, err := l.Listen(t.Context(), "vpc-a", Lobby)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	l.redirect("vpc-a", portsOf(eniIP, 5000, 6000), nil)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c, err := l.DialFrom(short, "vpc-a", mallory, Lobby)
	refused(t, c, err, context.DeadlineExceeded)
	c, err = l.DialFrom(t.Context(), "vpc-a", mallory, netip.AddrPortFrom(netip.MustParseAddr(gatewayIP), Lobby.Port()))
	refused(t, c, err, syscall.ECONNREFUSED)
	if c, err = l.DialFrom(t.Context(), "vpc-a", client, addrPort(eniIP, 5000)); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	first, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if got := first.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != netip.MustParseAddr(clientIP) {
		t.Errorf("the first in the lobby is %v, want %v", got, clientIP)
	}
}

func TestRepairRedirect(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	l.lobby("vpc-a")
	l.redirect("vpc-a", portsOf(eniIP, 5000, 6000), nil)
	table := &nftables.Table{Name: redirectTable, Family: nftables.TableFamilyIPv4}
	for what, harm := range map[string]func(c *nftables.Conn){
		"table deleted": func(c *nftables.Conn) { c.DelTable(table) },
		"rules flushed": func(c *nftables.Conn) { c.FlushTable(table) },
		"set flushed":   func(c *nftables.Conn) { c.FlushSet(portsSet(table)) },
	} {
		t.Run(what, func(t *testing.T) {
			c, err := l.nftables(t.Context(), l.where("vpc-a", ""))
			if err != nil {
				t.Fatal(err)
			}
			defer closeNftables(c)
			harm(c)
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			l.notLed("vpc-a", addrPort(eniIP, 5000))
			l.repair("vpc-a")
			l.led("vpc-a", addrPort(eniIP, 5000))
		})
	}
	t.Run("table deleted, next range", func(t *testing.T) {
		c, err := l.nftables(t.Context(), l.where("vpc-a", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer closeNftables(c)
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		l.redirect("vpc-a", portsOf(eni2IP, 80, 90), portsOf(eniIP, 5000, 6000))
		l.led("vpc-a", addrPort(eni2IP, 80))
		l.notLed("vpc-a", addrPort(eniIP, 5000))
	})
	t.Run("next engine", func(t *testing.T) {
		if !l.Capabilities().Survives {
			t.Skip("no network outlives its engine here")
		}
		next := l.crash()
		next.ensure(example("vpc-a"))
		next.notLed("vpc-a", addrPort(eni2IP, 80))
		next.redirect("vpc-a", portsOf(eniIP, 443, 444), nil)
		next.led("vpc-a", addrPort(eniIP, 443))
		next.notLed("vpc-a", addrPort(eniIP, 5000))
	})
}

func TestRedirectInNoNetwork(t *testing.T) {
	l := newLab(t)
	if err := l.Redirect(t.Context(), "vpc-x", portsOf(eniIP, 1, 2), nil); err == nil {
		t.Error("redirected in a network that is not there")
	}
}

// BenchmarkRedirect opens and closes one range beside a thousand.
func BenchmarkRedirect(b *testing.B) {
	l := newLab(b)
	n := example("vpc-a")
	n.Attachments = nil
	l.ensure(n)
	var many []Ports
	for i := range 1000 {
		many = append(many, Ports{netip.AddrFrom4([4]byte{10, 0, 3, byte(i)}), 1000 + uint16(i>>8)*100, 1099 + uint16(i>>8)*100})
	}
	l.redirect("vpc-a", many, nil)
	for b.Loop() {
		l.redirect("vpc-a", portsOf(eniIP, 1, 65535), nil)
		b.StopTimer()
		l.redirect("vpc-a", nil, portsOf(eniIP, 1, 65535))
		b.StartTimer()
	}
}
