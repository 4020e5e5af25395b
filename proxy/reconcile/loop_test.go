package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// stage is a world with its engine in this process.
type stage struct {
	*domaintest.World
	tb       testing.TB
	patience time.Duration
	driver   vpc.Driver
	engine   proxy.Engine
	stop     func()

	service  *domain.Service
	endpoint *domain.Endpoint
	client   *domain.Attachment
	address  netip.AddrPort // of the endpoint
}

// play makes two VPCs with the same addresses, an echo server behind a load balancer
// in one and an endpoint that waits in the other. As root they are namespaces, else
// parts of 127/8.
func play(tb testing.TB, before ...func(*domaintest.World)) *stage {
	tb.Helper()
	s := &stage{World: domaintest.New(tb), tb: tb, patience: patience}
	for _, f := range before {
		f(s.World)
	}
	mode := "loopback"
	if os.Getuid() == 0 {
		mode = "netns"
	}
	var err error
	s.driver, err = vpc.New(vpc.Config{Installation: fmt.Sprintf("t%d", os.Getpid()%1000000), Mode: mode})
	s.ok(err)
	engine, err := proxy.New(proxy.Config{Driver: s.driver, Dir: tb.TempDir(), Log: slog.New(slog.DiscardHandler)})
	s.ok(err)
	s.engine = engine
	s.start()
	tb.Cleanup(func() {
		s.stop()
		engine.Close()
		s.driver.Sweep(context.Background(), nil)
		s.driver.Close()
	})
	s.build()
	return s
}

// start runs a control plane's loop, stop ends it.
func (s *stage) start() {
	loop := &Loop{Source: s.Store.System(), Engine: s.engine, Log: slog.New(slog.NewTextHandler(s.tb.Output(), nil))}
	s.Store.UseDataPlane(loop)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()
	s.stop = func() {
		cancel()
		<-ended
		s.stop = func() {}
	}
}

func (s *stage) ok(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}

func (s *stage) network(owner *domain.Scope) (id, vswitch string) {
	s.tb.Helper()
	v, err := owner.CreateVPC(s.tb.Context(), domain.VPCInput{Name: "net", RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
		{Name: "net-h", ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"},
	}})
	s.ok(err)
	d, err := owner.VPC(s.tb.Context(), v.ID)
	s.ok(err)
	return v.ID, d.VSwitches[0].ID
}

func (s *stage) build() {
	s.tb.Helper()
	ctx := s.tb.Context()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	s.ok(err)
	proxytest.Serve(s.tb, ln, proxytest.Echo)
	port := int(ln.Addr().(*net.TCPAddr).AddrPort().Port())
	offer, err := s.Operator.CreateOffer(ctx, domain.OfferInput{Label: "this machine", Kind: domain.AttachHost, HostIP: "127.0.0.1"})
	s.ok(err)
	pv, pw := s.network(s.Provider)
	server, err := s.Provider.CreateAttachment(ctx, domain.AttachmentInput{VPCID: pv, Name: "echo", Kind: domain.AttachHost, OfferID: offer.ID, HostPort: port})
	s.ok(err)
	lb, err := s.Provider.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
		Name: "nlb", VPCID: pv, Zones: []domain.LBZoneInput{{VSwitchID: pw, Address: "10.0.1.100"}},
		Listeners: []domain.ListenerInput{{Port: 7000, Servers: []domain.ServerInput{{AttachmentID: server.ID, Port: port}}}},
	})
	s.ok(err)
	s.service, err = s.Provider.CreateService(ctx, domain.ServiceInput{Name: "echo", LoadBalancerIDs: []string{lb.ID}, Accounts: s.Consumer.Account().ID})
	s.ok(err)
	cv, cw := s.network(s.Consumer)
	s.client, err = s.Consumer.CreateAttachment(ctx, domain.AttachmentInput{VPCID: cv, VSwitchID: cw, Name: "client", Kind: domain.AttachManaged, Address: "10.0.1.10"})
	s.ok(err)
	s.endpoint, err = s.Consumer.CreateEndpoint(ctx, domain.EndpointInput{
		ServiceName: s.service.ServiceName(), VPCID: cv, Name: "to-echo", NewGroup: true, Zones: []domain.EndpointZoneInput{{VSwitchID: cw, Address: "10.0.1.17"}},
	})
	s.ok(err)
	s.address = netip.MustParseAddrPort("10.0.1.17:7000")
}

func (s *stage) status() (domain.ConnectionStatus, domain.EndpointStatus) {
	s.tb.Helper()
	d, err := s.Consumer.Endpoint(s.tb.Context(), s.endpoint.ID)
	if domain.KindOf(err) == domain.NotFound {
		return "", ""
	}
	s.ok(err)
	return d.Connection.Status, d.Status
}

func (s *stage) waits(want domain.ConnectionStatus) {
	s.tb.Helper()
	deadline := time.Now().Add(s.patience)
	for time.Now().Before(deadline) {
		if got, _ := s.status(); got == want {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	got, e := s.status()
	s.tb.Fatalf("connection is %q (endpoint %q), want %q", got, e, want)
}

// dial opens a connection to the endpoint from inside the consumer's attachment.
func (s *stage) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.tb.Context(), 2*time.Second)
	defer cancel()
	c, err := s.driver.DialFrom(ctx, s.client.VPCID, s.client.ID, s.address)
	if err != nil {
		return nil, err
	}
	s.tb.Cleanup(func() { c.Close() })
	return c, c.SetDeadline(time.Now().Add(patience))
}

// say sends a line over c and reads the answer.
func say(c net.Conn, text string) (string, error) {
	if _, err := fmt.Fprintln(c, text); err != nil {
		return "", err
	}
	got := make([]byte, len(text)+1)
	_, err := io.ReadFull(c, got)
	return strings.TrimSpace(string(got)), err
}

// TestAcceptAndReject is the product's promise in one test: nothing passes before the
// provider accepts, bytes pass afterwards, and rejecting resets what is open.
func TestAcceptAndReject(t *testing.T) {
	s := play(t)
	if c, err := s.dial(); err == nil {
		t.Fatalf("before approval %v was connected to %v", c.LocalAddr(), c.RemoteAddr())
	}
	s.accept()
	c, err := s.dial()
	s.ok(err)
	if got, err := say(c, "hello"); got != "hello" {
		t.Fatalf("through the endpoint: %q, %v", got, err)
	}
	begun := time.Now()
	_, err = s.Provider.RejectConnection(t.Context(), s.endpoint.ID, domain.RejectInput{Message: "no"})
	s.ok(err)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("after the rejection the live flow ended with %v, want a reset", err)
	}
	if d := time.Since(begun); d > time.Second {
		t.Errorf("reset %v after the rejection, want at most 1 s", d)
	}
	s.waits(domain.Disconnected)
	if _, err := s.dial(); err == nil {
		t.Fatal("a rejected endpoint still connects")
	}
	s.accept() // once more
	if c, err = s.dial(); err != nil {
		t.Fatal(err)
	}
	if got, err := say(c, "again"); got != "again" {
		t.Fatalf("accepted once more: %q, %v", got, err)
	}
	s.ok(s.Consumer.DeleteEndpoint(t.Context(), s.endpoint.ID, domain.RemoveInput{}))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the flow of a deleted endpoint ended with %v, want a reset", err)
	}
	s.waits("")
}

func (s *stage) accept() {
	s.tb.Helper()
	_, err := s.Provider.AcceptConnection(s.tb.Context(), s.endpoint.ID, domain.AcceptInput{})
	s.ok(err)
	s.waits(domain.Connected)
}

// TestQuestions asks the engine through the domain: a test from inside the VPC, the
// counters, and why a client was refused.
func TestQuestions(t *testing.T) {
	s := play(t)
	s.accept()
	r, err := s.Consumer.TestEndpoint(t.Context(), s.endpoint.ID, domain.TestInput{})
	s.ok(err)
	if !r.OK || r.Source.String() != "10.0.1.10" {
		t.Fatalf("test: %+v, want a connection from 10.0.1.10", r.ProbeResult)
	}
	c, err := s.dial()
	s.ok(err)
	if _, err := say(c, "count me"); err != nil {
		t.Fatal(err)
	}
	s.until("counters", func() bool {
		d, err := s.Consumer.Endpoint(t.Context(), s.endpoint.ID)
		s.ok(err)
		return d.Counters.Active >= 1 && d.Counters.In >= 9 && d.Counters.Out >= 9
	})

	d, err := s.Consumer.Endpoint(t.Context(), s.endpoint.ID)
	s.ok(err)
	g, err := s.Consumer.Group(t.Context(), d.Groups[0].ID)
	s.ok(err)
	_, err = s.Consumer.UpdateRule(t.Context(), g.Rules[0].ID, domain.RuleInput{Direction: "ingress", Priority: 1, Policy: "drop", Protocol: "tcp", Ports: "7000", Peer: "10.0.0.0/16"})
	s.ok(err)
	s.until("a refusal", func() bool {
		r, err := s.Consumer.TestEndpoint(t.Context(), s.endpoint.ID, domain.TestInput{})
		s.ok(err)
		return r.Refused != nil && r.Refused.Rule == g.Rules[0].ID
	})
	if got, err := say(c, "still here"); got != "still here" {
		t.Fatalf("a rule's change cut a live flow: %q, %v", got, err)
	}
}

// TestControlPlaneGone lets the loop end and another begin: flows notice nothing, and
// what was decided meanwhile is carried out.
func TestControlPlaneGone(t *testing.T) {
	s := play(t)
	s.accept()
	c, err := s.dial()
	s.ok(err)
	s.stop()
	if got, err := say(c, "alone"); got != "alone" {
		t.Fatalf("without a control plane: %q, %v", got, err)
	}
	_, err = s.Provider.RejectConnection(t.Context(), s.endpoint.ID, domain.RejectInput{})
	s.ok(err)
	s.start()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the new control plane did not cut: %v", err)
	}
	s.waits(domain.Disconnected)
}

// until waits for a condition.
func (s *stage) until(what string, f func() bool) {
	s.tb.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if f() {
			return
		}
	}
	s.tb.Fatalf("no %s in %v", what, patience)
}
