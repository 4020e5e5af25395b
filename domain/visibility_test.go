package domain_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

// TestTheOtherSide calls every reading method as either side of a connection that
// has been through everything: no answer, error, trail or change holds what belongs
// to the other side alone.
func TestTheOtherSide(t *testing.T) {
	m := newMarketAt(t, "192.168")
	ctx, p, c := t.Context(), m.Provider, m.Consumer
	ours, stop := m.Store.Changes()
	defer stop()

	// What each side has.
	db := m.hostService(t, "host-database", 5432)
	lb := must(p.LoadBalancer(ctx, m.balancer.ID))(t)
	must(p.AddServer(ctx, lb.Listeners[0].Group.ID, domain.ServerInput{AttachmentID: db.ID}))(t)
	_, _, err := p.AddToWhitelist(ctx, m.service.ID, m.Stranger.Account().ID+" 1000000000000099", false)
	check(t, err)
	check(t, p.SetWhitelistEntry(ctx, m.service.ID, c.Account().ID, domain.WhitelistUpdate{Note: new("a-note-about-them")}))
	client := must(c.CreateAttachment(ctx, domain.AttachmentInput{VPCID: m.shop.ID, VSwitchID: m.sh.ID, Name: "shop-till", Kind: domain.AttachManaged, GroupIDs: []string{m.group.ID}}))(t)
	rule := must(c.AddRule(ctx, m.group.ID, web))(t)
	secret := must(c.CreateEndpoint(ctx, domain.EndpointInput{
		ServiceName: m.service.ID, VPCID: m.shop.ID, Name: "endpoint-of-the-shop", Description: "what-the-shop-says", Message: "We need it.",
		Zones: []domain.EndpointZoneInput{{VSwitchID: m.sh.ID}}, GroupIDs: []string{m.group.ID},
	}))(t)
	ep := secret.ID

	// And everything that happens between them.
	second := m.second(t, true)
	steps := []func() error{
		func() error { return accept(t, m, ep) },
		func() error { m.Follow(); return nil },
		func() error { return modify(t, m, ep) },
		func() error { return c.AddEndpointZone(ctx, ep, domain.EndpointZoneInput{VSwitchID: m.si.ID}, 0) },
		func() error {
			e := m.wants(t, ep)
			return m.Store.System().Report(ctx, domain.Report{Endpoints: []domain.EndpointReport{{ID: ep, Version: e.Version, Zones: map[string]domain.ZoneReport{
				m.sh.ZoneID: {Carrying: true}, m.si.ZoneID: {Error: "listen on 192.168.2.2:443: address in use"},
			}}}})
		},
		func() error { m.Follow(); return nil },
		func() error {
			return c.UpdateEndpoint(ctx, ep, domain.EndpointUpdate{Name: new("endpoint-of-the-shop-2")})
		},
		func() error { return c.RemoveEndpointZone(ctx, ep, m.si.ZoneID, domain.RemoveInput{}) },
		func() error { return reject(t, m, ep) },
		func() error { return undo(t, m, ep) },
		func() error { m.Follow(); return nil },
		func() error { return rejectZone(60)(t, m, ep) },
		func() error { m.Follow(); return nil },
		func() error { _, err := p.AcceptZone(ctx, ep, m.sh.ZoneID, 0); return err },
		func() error { m.Follow(); return nil },
		func() error {
			m.handOver(t, second)
			_, err := p.ReplaceResource(ctx, ep, m.sh.ZoneID, domain.ReplaceInput{LoadBalancerID: second})
			return err
		},
		func() error { m.Follow(); return nil },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i+1, err)
		}
	}

	m.Store.UseDataPlane(&plane{Recorded: m.records(ep)[:5]}) // no PROXY header told the provider anything

	d := must(c.Endpoint(ctx, ep))(t)
	sides := []struct {
		name    string
		of      *domain.Scope
		ids     map[string]string // as in fixture
		secrets []string          // of the other side
		knows   []string          // and what it is told
	}{
		{
			"consumer", c,
			map[string]string{
				"VPC": m.shop.ID, "vSwitch": m.sh.ID, "group": m.group.ID, "rule": rule.ID, "attachment": client.ID, "endpoint": ep,
				"service": m.service.ID, "service name": m.service.ServiceName(), "account": c.Account().ID,
			},
			[]string{
				m.vpc.ID, m.h.ID, m.i.ID, `"vsw-h"`, "10.0.0.0/16", "10.0.1.", "10.0.2.", "127.0.0.1", m.balancer.ID, m.balancer.Name, second, lb.Listeners[0].ID, lb.Listeners[0].Group.ID,
				lb.Listeners[0].Servers[0].ID, lb.Listeners[0].Servers[0].AttachmentID, "orders-1", db.ID, db.OfferID, "host-database",
				m.Stranger.Account().ID, "1000000000000099", "a-note-about-them", p.User().ID, p.User().Name,
				"172.16.", "of-the-provider",
			},
			[]string{m.service.ServiceName(), "Welcome.", "endpoint-of-the-shop-2", "192.168.1.2", "healthy", "192.168.1.77:40001"},
		},
		{
			"provider", p,
			map[string]string{
				"VPC": m.vpc.ID, "vSwitch": m.h.ID, "load balancer": m.balancer.ID, "listener": lb.Listeners[0].ID, "server group": lb.Listeners[0].Group.ID,
				"server": lb.Listeners[0].Servers[0].ID, "attachment": db.ID, "endpoint": ep, "service": m.service.ID, "service name": m.service.ServiceName(), "account": p.Account().ID,
			},
			[]string{
				m.shop.ID, "shop-h", m.sh.ID, m.si.ID, "192.168.", m.group.ID, "shop-clients", rule.ID, client.ID, "shop-till",
				"endpoint-of-the-shop", "what-the-shop-says", d.Zones[0].ENIID, c.User().ID,
				"sg-of-the-shop", "sgr-of-the-shop",
			},
			[]string{ep, "We need it.", c.Account().ID, c.User().Name, "10.0.1.100", "a-note-about-them", m.shop.RegionID, "172.16.1.100:50001"},
		},
	}
	for _, side := range sides {
		f := &fixture{World: m.World, id: side.ids, strangers: m.service.ID}
		f.Provider = side.of // whose ids they are
		var all strings.Builder
		for name, tr := range everyTrial {
			if strings.HasSuffix(string(tr.needs), ":write") {
				continue
			}
			answer, err := tr.call(ctx, side.of, f)
			if domain.KindOf(err) == domain.Internal && err != nil {
				t.Errorf("%s: %s: %v", side.name, name, err)
			}
			b, jsonErr := json.Marshal(answer)
			check(t, jsonErr)
			text := string(b) + fmt.Sprintf("%+v %v", answer, err)
			hides(t, side.name+" by "+name, text, side.secrets)
			all.WriteString(text)
		}
		for q := (domain.AuditQuery{}); ; {
			page := must(side.of.Audit(ctx, q))(t)
			hides(t, side.name+" by the trail", fmt.Sprintf("%+v", page.Items), side.secrets)
			if q.After = page.Next; page.Next == "" {
				break
			}
		}
		for _, known := range side.knows { // the test looked at something
			if !strings.Contains(all.String(), known) {
				t.Errorf("the %s was never shown %q", side.name, known)
			}
		}
	}

	// The live feed names no more than ids of what an account knows.
	for {
		select {
		case batch := <-ours:
			for _, ch := range batch {
				for _, side := range sides {
					if ch.Account == side.of.Account().ID {
						hides(t, side.name+" by the feed", ch.Kind+" "+ch.ID, side.secrets)
					}
				}
			}
			continue
		default:
		}
		break
	}
}

// hides checks that text holds no secret.
func hides(t *testing.T, where, text string, secrets []string) {
	t.Helper()
	for _, s := range secrets {
		if i := strings.Index(text, s); i >= 0 {
			t.Errorf("the %s was shown %q: …%s…", where, s, text[max(0, i-80):min(len(text), i+80)])
		}
	}
}
