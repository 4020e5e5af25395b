package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/openprivatelink/openprivatelink/domain"
)

// The demo is a real network: two VPCs with the same addresses, two HTTP servers
// in one, a client in the other, and a request that waits for the provider.

const (
	demoProvider = "1000000000000001"
	demoConsumer = "1000000000000042"
	demoStranger = "1000000000000077"

	demoRegion = "cn-hangzhou"
	demoZoneH  = demoRegion + "-h"
	demoZoneI  = demoRegion + "-i"
)

// demoUser is who the printed link signs in: owner of every demo account, so that
// one person can play both sides.
const demoUser = "demo"

// demoMembers are people with one account each, for trying the two sides apart.
var demoMembers = []struct{ name, display, account string }{
	{"mara", "Mara Lindt", demoProvider},
	{"jorge", "Jorge Ortiz", demoConsumer},
	{"tess", "Tess Vermeer", demoStranger},
}

// seedDemo fills an empty store.
func seedDemo(ctx context.Context, store *domain.Store, password string) error {
	by := domain.Actor{Kind: domain.ActorSystem, Name: "demo", Channel: "system"}
	op := store.Local(by)
	if _, err := op.CreateRegion(ctx, domain.RegionInput{ID: demoRegion, Name: "Hangzhou", Mainland: true}); err != nil {
		return fmt.Errorf("region: %w", err)
	}
	for _, z := range []domain.ZoneInput{{ID: demoZoneH, RegionID: demoRegion, Name: "Zone h"}, {ID: demoZoneI, RegionID: demoRegion, Name: "Zone i"}} {
		if _, err := op.CreateZone(ctx, z); err != nil {
			return fmt.Errorf("zone: %w", err)
		}
	}
	for _, a := range []domain.AccountInput{
		{ID: demoProvider, Name: "acme-payments", Demo: true},
		{ID: demoConsumer, Name: "northwind-shop", Demo: true},
		{ID: demoStranger, Name: "contoso-travel", Demo: true},
	} {
		if _, err := op.CreateAccount(ctx, a); err != nil {
			return fmt.Errorf("account %s: %w", a.Name, err)
		}
	}
	if _, err := op.CreateUser(ctx, domain.UserInput{Name: demoUser, DisplayName: "Demo", Password: password, Operator: true, Demo: true}); err != nil {
		return fmt.Errorf("user %s: %w", demoUser, err)
	}
	for _, account := range []string{demoProvider, demoConsumer, demoStranger} {
		if err := op.AddMember(ctx, account, demoUser, domain.RoleOwner); err != nil {
			return err
		}
	}
	for _, m := range demoMembers {
		if _, err := op.CreateUser(ctx, domain.UserInput{Name: m.name, DisplayName: m.display, Password: password, Demo: true}); err != nil {
			return fmt.Errorf("user %s: %w", m.name, err)
		}
		if err := op.AddMember(ctx, m.account, m.name, domain.RoleOwner); err != nil {
			return err
		}
	}
	// The demo's own machine is offered to the provider, to connect a service of one's own.
	if _, err := op.CreateOffer(ctx, domain.OfferInput{AccountID: demoProvider, Label: "This machine", Kind: domain.AttachHost, HostIP: "127.0.0.1"}); err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	provider, err := store.LocalScope(ctx, demoProvider, by)
	if err != nil {
		return err
	}
	service, err := seedProvider(ctx, provider)
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	consumer, err := store.LocalScope(ctx, demoConsumer, by)
	if err != nil {
		return err
	}
	if err := seedConsumer(ctx, consumer, service); err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	return nil
}

func seedVPC(ctx context.Context, s *domain.Scope, name string) (*domain.VPCDetail, error) {
	v, err := s.CreateVPC(ctx, domain.VPCInput{Name: name, RegionID: demoRegion, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
		{Name: name + "-h", ZoneID: demoZoneH, CIDR: "10.0.1.0/24"},
		{Name: name + "-i", ZoneID: demoZoneI, CIDR: "10.0.2.0/24"},
	}})
	if err != nil {
		return nil, err
	}
	return s.VPC(ctx, v.ID)
}

// vswitchOf returns the id of the VPC's vSwitch in a zone.
func vswitchOf(v *domain.VPCDetail, zone string) string {
	for _, w := range v.VSwitches {
		if w.ZoneID == zone {
			return w.ID
		}
	}
	return ""
}

func seedProvider(ctx context.Context, s *domain.Scope) (*domain.Service, error) {
	v, err := seedVPC(ctx, s, "vpc-core")
	if err != nil {
		return nil, err
	}
	var servers []domain.ServerInput
	for _, b := range []struct{ name, zone, address string }{
		{"pay-1", demoZoneI, "10.0.2.17"},
		{"pay-2", demoZoneH, "10.0.1.17"}, // the address that the endpoint has in the other VPC
	} {
		a, err := s.CreateAttachment(ctx, domain.AttachmentInput{
			VPCID: v.ID, VSwitchID: vswitchOf(v, b.zone), Name: b.name, Kind: domain.AttachManaged, Address: b.address,
			Command: []string{"/proc/self/exe", "demo-backend", "-name", b.name, "-address", b.address}, // the shim's own program: this one
		})
		if err != nil {
			return nil, err
		}
		servers = append(servers, domain.ServerInput{AttachmentID: a.ID, Port: 80})
	}
	lb, err := s.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
		Name: "nlb-pay", VPCID: v.ID,
		Zones: []domain.LBZoneInput{
			{ZoneID: demoZoneH, VSwitchID: vswitchOf(v, demoZoneH), Address: "10.0.1.100"},
			{ZoneID: demoZoneI, VSwitchID: vswitchOf(v, demoZoneI), Address: "10.0.2.100"},
		},
		Listeners: []domain.ListenerInput{{Port: 80, Servers: servers}},
	})
	if err != nil {
		return nil, err
	}
	return s.CreateService(ctx, domain.ServiceInput{
		Name: "payments-api", Description: "The demo's service: two HTTP servers", LoadBalancerIDs: []string{lb.ID}, Accounts: demoConsumer,
	})
}

func seedConsumer(ctx context.Context, s *domain.Scope, service *domain.Service) error {
	v, err := seedVPC(ctx, s, "vpc-shop")
	if err != nil {
		return err
	}
	if _, err := s.CreateAttachment(ctx, domain.AttachmentInput{
		VPCID: v.ID, VSwitchID: vswitchOf(v, demoZoneH), Name: "shop-client", Kind: domain.AttachManaged, Address: "10.0.1.10",
	}); err != nil {
		return err
	}
	g, err := s.CreateGroup(ctx, domain.GroupInput{VPCID: v.ID, Name: "to-payments", Description: "Who may reach the payments endpoint", Rules: []domain.RuleInput{
		{Direction: "ingress", Priority: 1, Policy: "accept", Protocol: "tcp", Ports: "80", Peer: "10.0.0.0/16"},
	}})
	if err != nil {
		return err
	}
	_, err = s.CreateEndpoint(ctx, domain.EndpointInput{
		ServiceName: service.ServiceName(), VPCID: v.ID, Name: "to-payments", Message: "Checkout goes live on Monday, we need production access.",
		Zones: []domain.EndpointZoneInput{
			{ZoneID: demoZoneH, VSwitchID: vswitchOf(v, demoZoneH), Address: "10.0.1.17"},
			{ZoneID: demoZoneI, VSwitchID: vswitchOf(v, demoZoneI), Address: "10.0.2.17"},
		},
		GroupIDs: []string{g.ID},
	})
	return err
}

// demoBackend is the HTTP server of the demo, run inside an attachment.
func demoBackend(args []string) int {
	fs := flag.NewFlagSet("demo-backend", flag.ContinueOnError)
	name := fs.String("name", "", "name it answers with")
	address := fs.String("address", "", "address of its attachment")
	if fs.Parse(args) != nil {
		return 2
	}
	host := os.Getenv("OPENPRIVATELINK_ADDRESS") // in loopback mode another than its own
	if host == "" {
		host = *address
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "80")) //nolint:noctx // it ends with the server
	if errors.Is(err, syscall.EACCES) {
		ln, err = net.Listen("tcp", net.JoinHostPort(host, "20080")) //nolint:noctx // what stands for 80 in loopback mode without privilege
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo-backend:", err)
		return 1
	}
	srv := &http.Server{ReadHeaderTimeout: readHeaderTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello from acme back end %s (%s in its own VPC)\n", *name, *address)
	})}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, func() { srv.Close() })() //nolint:errcheck // it ends anyway
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "demo-backend:", err)
		return 1
	}
	return 0
}
