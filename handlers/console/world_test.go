package console

import (
	"context"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// place is an account's VPC in both zones with one workload.
type place struct {
	vpc        *domain.VPC
	switches   []domain.VSwitchUse
	attachment *domain.Attachment
}

// linkWorld is a provider with a service in both zones and a consumer whose
// endpoint waits for it. Their ranges differ, so that either can be looked for in
// what the other one reads.
type linkWorld struct {
	*testApp
	plane              *fakePlane
	provide, consume   place
	balancer           *domain.LoadBalancer
	service            *domain.Service
	endpoint           *domain.Endpoint
	provider, consumer *http.Client // of owners
}

func newLinkWorld(t *testing.T) *linkWorld {
	t.Helper()
	w := &linkWorld{testApp: newTestApp(t), plane: &fakePlane{}}
	w.Store.UseDataPlane(w.plane)
	w.provide = w.place(t, w.Provider, "vpc-provider", "172.20.0.0/16", "172.20.1.0/24", "172.20.2.0/24", "backend-one")
	w.consume = w.place(t, w.Consumer, "vpc-consumer", "192.168.0.0/16", "192.168.1.0/24", "192.168.2.0/24", "client-one")
	var err error
	w.balancer, err = w.Provider.CreateLoadBalancer(t.Context(), domain.LoadBalancerInput{
		Name: "nlb-secret", VPCID: w.provide.vpc.ID,
		Zones:     []domain.LBZoneInput{{VSwitchID: w.provide.switches[0].ID}, {VSwitchID: w.provide.switches[1].ID}},
		Listeners: []domain.ListenerInput{{Port: 80, Servers: []domain.ServerInput{{AttachmentID: w.provide.attachment.ID, Port: 8080}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.service, err = w.Provider.CreateService(t.Context(), domain.ServiceInput{
		Name: "payments", LoadBalancerIDs: []string{w.balancer.ID}, Accounts: w.Consumer.Account().ID,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.endpoint, err = w.Consumer.CreateEndpoint(t.Context(), domain.EndpointInput{
		ServiceName: w.service.ID, VPCID: w.consume.vpc.ID, Name: "to-payments", Message: "Checkout goes live Monday.", NewGroup: true,
		Zones: []domain.EndpointZoneInput{{VSwitchID: w.consume.switches[0].ID}, {VSwitchID: w.consume.switches[1].ID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.provider, w.consumer = w.as(t, w.Provider, domain.RoleOwner), w.as(t, w.Consumer, domain.RoleOwner)
	return w
}

func (w *linkWorld) place(t *testing.T, s *domain.Scope, name, cidr, h, i, workload string) place {
	t.Helper()
	v, err := s.CreateVPC(t.Context(), domain.VPCInput{Name: name, RegionID: domaintest.Region, CIDR: cidr, VSwitches: []domain.VSwitchInput{
		{Name: name + "-h", ZoneID: domaintest.ZoneH, CIDR: h}, {Name: name + "-i", ZoneID: domaintest.ZoneI, CIDR: i},
	}})
	if err != nil {
		t.Fatal(err)
	}
	switches, err := s.VSwitches(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.CreateAttachment(t.Context(), domain.AttachmentInput{VPCID: v.ID, VSwitchID: switches[0].ID, Name: workload, Kind: domain.AttachManaged})
	if err != nil {
		t.Fatal(err)
	}
	return place{v, switches, a}
}

// follow reports what an engine would that does at once what is wanted.
func (w *linkWorld) follow(t *testing.T) {
	t.Helper()
	y := w.Store.System()
	all, err := y.EngineEndpoints(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var r domain.Report
	for _, e := range all {
		zones := map[string]domain.ZoneReport{}
		for _, z := range e.Zones {
			zones[z.ZoneID] = domain.ZoneReport{Carrying: e.Carry && z.Carries()}
		}
		r.Endpoints = append(r.Endpoints, domain.EndpointReport{ID: e.ID, Version: e.Version, Zones: zones})
	}
	groups, err := y.EngineServerGroups(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		for _, srv := range g.Servers {
			r.Servers = append(r.Servers, domain.ServerReport{ID: srv.ID, Health: domain.HealthHealthy, Since: w.Clock.Now()})
		}
	}
	if err := y.Report(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// as is a browser of a new user with a role in an account.
func (w *linkWorld) as(t *testing.T, s *domain.Scope, r domain.Role) *http.Client {
	t.Helper()
	b := w.browser(t)
	u, err := w.Operator.CreateUser(t.Context(), domain.UserInput{Name: string(r) + "-of-" + s.Account().Name})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Operator.AddMember(t.Context(), s.Account().ID, u.ID, r); err != nil {
		t.Fatal(err)
	}
	link, err := w.Operator.SignInLink(t.Context(), u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if res := w.get(t, b, "/welcome?t="+link); res.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign in by link: %d", res.StatusCode)
	}
	return b
}

// page is a page that must be there.
func (w *linkWorld) page(t *testing.T, b *http.Client, path string) *goquery.Document {
	t.Helper()
	res := w.get(t, b, path)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: got %d: %s", path, res.StatusCode, res.doc(t).Find("#main").Text())
	}
	return res.doc(t)
}

// filled is what the form would send as it stands, and where to: the values that a
// person sees, pressing the button that it ends with.
func filled(t *testing.T, d *goquery.Document, form string) (action string, values url.Values) {
	t.Helper()
	f := d.Find(form)
	if f.Length() != 1 {
		t.Fatalf("%d forms match %s", f.Length(), form)
	}
	values = url.Values{}
	for _, in := range f.Find("input[name], textarea[name], select[name]").EachIter() {
		name := in.AttrOr("name", "")
		_, checked := in.Attr("checked")
		_, disabled := in.Attr("disabled")
		switch kind := in.AttrOr("type", ""); {
		case disabled || ((kind == "checkbox" || kind == "radio") && !checked):
		case goquery.NodeName(in) == "textarea":
			values.Add(name, in.Text())
		case goquery.NodeName(in) == "select":
			o := in.Find("option[selected]")
			if o.Length() == 0 {
				o = in.Find("option").First()
			}
			values.Add(name, o.AttrOr("value", ""))
		default:
			values.Add(name, in.AttrOr("value", ""))
		}
	}
	return f.AttrOr("action", ""), values
}

// press sends the form as it stands, with some values changed.
func (w *linkWorld) press(t *testing.T, b *http.Client, path, form string, change url.Values, header ...string) answer {
	t.Helper()
	action, values := filled(t, w.page(t, b, path), form)
	maps.Copy(values, change)
	return w.post(t, b, action, values, append([]string{"Referer", w.URL + path}, header...)...)
}

// moved is the page that a 303 leads to.
func (w *linkWorld) moved(t *testing.T, b *http.Client, res answer) *goquery.Document {
	t.Helper()
	if res.StatusCode != http.StatusSeeOther {
		t.Fatalf("got %d, want 303: %s", res.StatusCode, res.doc(t).Find(".summary, .empty, .toast").Text())
	}
	return w.page(t, b, res.Header.Get("Location"))
}

var partial = []string{"HX-Request", "true", "HX-Request-Type", "partial"}

// account is the path of s.
func account(s *domain.Scope) string { return "/a/" + s.Account().ID }

// words is what one reads, with single spaces.
func words(s *goquery.Selection) string { return strings.Join(strings.Fields(s.Text()), " ") }

// fakePlane answers as an engine would.
type fakePlane struct {
	counters domain.Counters
	probe    domain.ProbeResult
	domaintest.Recorded
	asked struct {
		attachment string
		target     netip.AddrPort
		http       bool
	}
}

func (p *fakePlane) Counters(string) domain.Counters { return p.counters }

func (p *fakePlane) Probe(_ context.Context, attachment string, target netip.AddrPort, http bool) (domain.ProbeResult, error) {
	p.asked.attachment, p.asked.target, p.asked.http = attachment, target, http
	return p.probe, nil
}

func (p *fakePlane) Series(_ context.Context, q domain.SeriesQuery) (domain.Series, error) {
	return domaintest.SeriesOf(q), nil
}

func (p *fakePlane) Status(context.Context) (domain.EngineStatus, error) {
	return domain.EngineStatus{Mode: "netns", Started: time.Unix(0, 0)}, nil
}
