package console

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/overview"
	"github.com/openprivatelink/openprivatelink/web/provide"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) overviewArea(r router) { r.get("", k.overview) }

// How much of everything the overview looks at, and shows.
const (
	overviewLooks = 50 // services, endpoints, entries of the trail
	overviewItems = 5
	overviewTrail = 8
)

func (k *Console) overview(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Overview", "")
	v := overview.View{
		URL: in(s), Inbox: in(s, connectionPath, "?decision=", string(domain.Waiting)),
		All: overview.Links{Services: in(s, servicePath), Endpoints: in(s, endpointPath), Trail: in(s, "/audit")},
	}
	services, err := s.Services(ctx, domain.Query{Limit: overviewLooks})
	if err != nil {
		return err
	}
	endpoints, err := s.Endpoints(ctx, domain.Query{Limit: overviewLooks})
	if err != nil {
		return err
	}
	if len(services.Items)+len(endpoints.Items) == 0 {
		if v.Start, err = guides(ctx, s); err != nil {
			return err
		}
	}
	if err := asks(ctx, s, &v); err != nil {
		return err
	}
	serviceItems(s, services.Items, &v)
	endpointItems(s, endpoints.Items, &v)
	v.Figures = append([]ui.Figure{
		{Label: "Endpoint services", Value: counted(len(services.Items), services.Next), Note: degraded(len(v.Degraded)), Href: v.All.Services},
		{Label: "Endpoints", Value: counted(len(endpoints.Items), endpoints.Next), Note: connectedNote(endpoints.Items), Href: v.All.Endpoints},
	}, v.Figures...)
	if v.Recent, err = recent(ctx, s); err != nil {
		return err
	}
	return show(c, overview.Page(p, v), overview.Parts(v))
}

// recent is what people and connections did lately.
func recent(ctx context.Context, s *domain.Scope) ([]ui.Event, error) {
	got, err := s.Audit(ctx, domain.AuditQuery{Query: domain.Query{Limit: overviewLooks}})
	if err != nil {
		return nil, err
	}
	var out []ui.Event
	for _, e := range got.Items {
		if passing[e.Action] || len(out) == overviewTrail {
			continue
		}
		ev := auditEvent(e)
		if w, ok := linkWords[e.Action]; ok {
			ev.Title, ev.Kind = w.title+":", w.kind
		}
		ev.Title += " " + cmp.Or(e.ResourceName, e.ResourceID)
		out = append(out, ev)
	}
	return out, nil
}

// counted writes n, or that there are more.
func counted(n int, next string) string {
	if next != "" {
		return strconv.Itoa(n) + "+"
	}
	return strconv.Itoa(n)
}

func degraded(n int) string {
	if n == 0 {
		return "all well"
	}
	return ui.Number(n) + " not well"
}

func connectedNote(endpoints []domain.EndpointSummary) string {
	n := 0
	for _, e := range endpoints {
		if e.Connection.Status == domain.Connected {
			n++
		}
	}
	return ui.Number(n) + " connected"
}

// asks are the requests that wait for the account.
func asks(ctx context.Context, s *domain.Scope, v *overview.View) error {
	waiting, connected, _, _, err := s.ConnectionCounts(ctx)
	if err != nil {
		return err
	}
	v.Figures = []ui.Figure{
		{Label: "Waiting for you", Value: ui.Number(waiting), Note: "requests", Href: v.Inbox},
		{Label: "Accepted connections", Value: ui.Number(connected), Note: "of other accounts and your own", Href: in(s, connectionPath, "?decision=", string(domain.Accepted))},
	}
	if waiting == 0 {
		return nil
	}
	got, err := s.Connections(ctx, domain.ConnQuery{Query: domain.Query{Limit: overviewItems, Filter: map[string][]string{"decision": {string(domain.Waiting)}}}})
	if err != nil {
		return err
	}
	for _, x := range got.Items {
		v.Asks = append(v.Asks, provide.Ask(connectionRow(s, x)))
	}
	v.More = waiting - len(got.Items)
	return nil
}

// serviceItems shows services in short, those that are not well first.
func serviceItems(s *domain.Scope, services []domain.ServiceSummary, v *overview.View) {
	for _, svc := range services {
		it := overview.Item{
			Name: svc.Name, Href: in(s, servicePath, "/", svc.ID), State: serviceState(svc.Status, svc.Zones),
			Note: zoneWords(ids(svc.Zones, func(z domain.ZoneHealth) string { return z.ZoneID })) + " · " + ui.Plural(svc.Connected, "connection", ""),
		}
		if it.State.Kind == ui.Warn || it.State.Kind == ui.Bad {
			it.Note = unwell(svc.Zones)
			v.Degraded = append(v.Degraded, it)
		}
		v.Services = append(v.Services, it)
	}
	slices.SortStableFunc(v.Services, func(a, b overview.Item) int { return rank(a.State.Kind) - rank(b.State.Kind) })
	v.Services = v.Services[:min(len(v.Services), overviewItems)]
	v.Degraded = v.Degraded[:min(len(v.Degraded), overviewItems)]
}

// unwell says which zones of a service are not well.
func unwell(zones []domain.ZoneHealth) string {
	if len(zones) == 0 {
		return "It has no load balancer, so nobody can connect."
	}
	var notes []string
	for _, z := range zones {
		if st := zoneState(z); st.Kind != ui.OK {
			notes = append(notes, z.ZoneID+": "+st.Word)
		}
	}
	return strings.Join(notes, "; ")
}

// rank puts what needs somebody first.
func rank(k ui.Kind) int {
	return slices.Index([]ui.Kind{ui.Bad, ui.Warn, ui.Waiting, ui.Busy, ui.Leaving, ui.OK, ui.Off, ui.Info}, k)
}

func endpointItems(s *domain.Scope, endpoints []domain.EndpointSummary, v *overview.View) {
	for _, e := range endpoints {
		it := overview.Item{Name: e.Name, Href: in(s, endpointPath, "/", e.ID), State: endpointState(e), Note: "to " + e.ProviderName}
		for _, z := range e.Zones {
			it.Note += " · " + z.Address
		}
		v.Endpoints = append(v.Endpoints, it)
	}
	slices.SortStableFunc(v.Endpoints, func(a, b overview.Item) int { return rank(a.State.Kind) - rank(b.State.Kind) })
	v.Endpoints = v.Endpoints[:min(len(v.Endpoints), overviewItems)]
}

// guides are the two ways to begin, each with what is done already.
func guides(ctx context.Context, s *domain.Scope) ([]overview.Guide, error) {
	vpcs, err := s.VPCs(ctx, domain.Query{Limit: 1})
	if err != nil {
		return nil, err
	}
	balancers, err := s.LoadBalancers(ctx, domain.Query{Limit: 1})
	if err != nil {
		return nil, err
	}
	vpc := overview.Step{
		Title: "Make a VPC", Text: "Your address space, with a vSwitch in each zone. Any range is fine, even one that others use.", Done: len(vpcs.Items) > 0,
	}
	balancer := overview.Step{
		Title: "Put a load balancer in front", Text: "It checks your targets and spreads connections over them.", Done: len(balancers.Items) > 0,
	}
	publish := overview.Step{Title: "Publish it", Text: "Name the accounts that may ask to connect, and send them the service name."}
	choose := overview.Step{Title: "Choose a service", Text: "From the catalogue, or by the name that its provider sent you."}
	call := overview.Step{Title: "Call it", Text: "Once the provider accepts, it answers at an address of your own VPC."}
	if s.Can(domain.WriteNetwork) && !vpc.Done {
		vpc.Verb, vpc.Href = "Create VPC", in(s, "/vpcs/new")
	}
	if s.Can(domain.WriteProvide) {
		if !balancer.Done {
			balancer.Verb, balancer.Href = "Create load balancer", in(s, balancerPath, "/new")
		}
		publish.Verb, publish.Href = "Create service", in(s, servicePath, "/new")
	}
	choose.Verb, choose.Href = "Service catalogue", in(s, cataloguePath)
	return []overview.Guide{
		{Icon: "server", Side: ui.Provider, Title: "Offer a service", Text: "to other accounts", Steps: []overview.Step{vpc, balancer, publish}},
		{Icon: "plug", Side: ui.Consumer, Title: "Use a service", Text: "of another account", Steps: []overview.Step{vpc, choose, call}},
	}, nil
}
