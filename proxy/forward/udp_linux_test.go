package forward

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// guests is a door that sends everybody to one server.
type guests struct {
	to      netip.AddrPort
	refused chan string
	inside  chan *Flow
	ended   chan struct{}
}

func (g *guests) Admit(f *Flow) Session {
	if r := f.Reason(); r != "" {
		g.refused <- r
		return nil
	}
	g.inside <- f
	return g
}

func (g *guests) Next(*Flow) (Target, bool) { return Target{To: g.to}, true }
func (g *guests) Failed(f *Flow, err error) { f.End(err.Error()) }
func (g *guests) Stands(*Flow)              {}
func (g *guests) Ended(*Flow)               { g.ended <- struct{}{} }

// Beyond the bound a client is refused, and has its turn once another has left.
func TestPacketsFull(t *testing.T) {
	d, err := vpc.New(vpc.Config{Installation: "full", Mode: vpc.ModeLoopback})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	loops, err := New(d, 2, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	loops.(*Loops).exchanges.most = 1
	portable := NewGoroutines(d, slog.New(slog.DiscardHandler))
	portable.talks.most = 1
	for name, f := range map[string]Forwarder{"loops": loops, "goroutines": portable} {
		t.Run(name, func(t *testing.T) {
			server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			g := &guests{server.LocalAddr().(*net.UDPAddr).AddrPort(), make(chan string, 1), make(chan *Flow, 1), make(chan struct{}, 1)}
			at := netip.MustParseAddrPort("127.0.0.1:0")
			fd, err := d.Bind(t.Context(), "", at, vpc.SocketOptions{Packet: true})
			if err != nil {
				t.Fatal(err)
			}
			name, err := unix.Getsockname(fd)
			if err != nil {
				t.Fatal(err)
			}
			at = netip.AddrPortFrom(at.Addr(), uint16(name.(*unix.SockaddrInet4).Port))
			l, err := f.Packets(fd, g)
			if err != nil {
				t.Fatal(err)
			}
			say := func(text string) {
				t.Helper()
				c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := c.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			heard := func(want string) {
				t.Helper()
				b := make([]byte, 100)
				_ = server.SetReadDeadline(time.Now().Add(time.Minute))
				if n, err := server.Read(b); err != nil || string(b[:n]) != want {
					t.Fatalf("the server got %q, %v, want %q", b[:n], err, want)
				}
			}
			say("first")
			heard("first")
			first := <-g.inside
			say("second")
			if got := <-g.refused; got != Full {
				t.Errorf("refused for %q, want %q", got, Full)
			}
			first.End("enough")
			<-g.ended
			say("third")
			heard("third")
			(<-g.inside).End("enough")
			<-g.ended
			l.Close()
			f.Close()
		})
	}
}
