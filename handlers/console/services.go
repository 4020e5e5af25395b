package console

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/observe"
	"github.com/openprivatelink/openprivatelink/web/overview"
	"github.com/openprivatelink/openprivatelink/web/provide"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) serviceArea(r router) {
	r.get("/services", k.services)
	r.get("/services/new", k.newService)
	r.post("/services/new", k.createService)
	r.get("/services/:id", k.service)
	r.get("/services/:id/edit", k.editService)
	r.post("/services/:id/edit", k.updateService)
	r.post("/services/:id/acceptance", k.setAcceptance)
	r.get("/services/:id/delete", k.askDeleteService)
	r.post("/services/:id/delete", k.deleteService)
	r.get("/services/:id/add-resource", k.newResource)
	r.post("/services/:id/add-resource", k.addResource)
	r.post("/services/:id/give-resource", k.giveResource)
	r.get("/services/:id/replace-resource", k.askMoveResource)
	r.post("/services/:id/replace-resource", k.moveResource)
	r.get("/services/:id/remove-resource", k.askRemoveResource)
	r.post("/services/:id/remove-resource", k.removeResource)
	r.get("/services/:id/add-accounts", k.newAccounts)
	r.post("/services/:id/add-accounts", k.addAccounts)
	r.get("/services/:id/whitelist/:entry/edit", k.editEntry)
	r.post("/services/:id/whitelist/:entry/edit", k.updateEntry)
	r.get("/services/:id/whitelist/:entry/remove", k.askRemoveEntry)
	r.post("/services/:id/whitelist/:entry/remove", k.removeEntry)
	r.resource("services", func(ctx context.Context, s *domain.Scope, id string) error { _, err := s.Service(ctx, id); return err })
	r.live(domain.KindService, k.serviceChanged)
}

const (
	servicePath = "/services"
	serviceList = "services" // id of the list
)

func (k *Console) services(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Endpoint services", servicePath)
	l := readList(c, s, servicePath, "decision")
	got, err := s.Services(ctx, l.domain())
	if err != nil {
		return err
	}
	var v provide.ServiceList
	for _, svc := range got.Items {
		v.Rows = append(v.Rows, serviceRow(s, svc))
	}
	if s.Can(domain.WriteProvide) {
		v.New = p.URL(servicePath + "/new")
		if len(got.Items) == 0 && !l.filtered() {
			balancers, err := s.LoadBalancers(ctx, domain.Query{Limit: 1})
			if err != nil {
				return err
			}
			if len(balancers.Items) == 0 {
				v.NewBalancer = p.URL(balancerPath + "/new")
			}
		}
	}
	asked := l.get("decision")
	v.List = l.fill(ui.List{ID: serviceList, Filter: &ui.Filter{Keep: pairs("decision", asked)}, Views: []ui.Tab{
		{Label: "All", Href: l.with("decision", ""), Current: asked == ""},
		{Label: "Needs approval", Href: l.with("decision", string(domain.Waiting)), Current: asked == string(domain.Waiting)},
	}}, ids(got.Items, func(svc domain.ServiceSummary) string { return svc.ID }), got.Prev, got.Next)
	return list(c, v.List, provide.Services(p, v), provide.ServiceResults(v))
}

// pairs is a filter's value that a search keeps, if it is set.
func pairs(name, value string) []ui.Pair {
	if value == "" {
		return nil
	}
	return []ui.Pair{{Name: name, Value: value}}
}

func serviceRow(s *domain.Scope, svc domain.ServiceSummary) provide.ServiceRow {
	return provide.ServiceRow{
		ID: svc.ID, Href: in(s, servicePath, "/", svc.ID), Name: svc.Name, State: serviceState(svc.Status, svc.Zones),
		Type: strings.ToUpper(svc.ResourceType), Zones: healthZones(svc.Zones), Connected: svc.Connected, Waiting: svc.Waiting,
		Inbox: in(s, servicePath, "/", svc.ID, "?tab=connections"), Whitelisted: svc.Whitelisted, Updated: svc.UpdatedAt,
	}
}

// serviceChanged patches the rows and tells the pages: the owner's, and those of
// the accounts that may use it.
func (k *Console) serviceChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	svc, err := one(ctx, s.Services, id, func(svc domain.ServiceSummary) string { return svc.ID })
	if domain.KindOf(err) == domain.NotFound {
		return templ.Join(ui.Remove(liveID(domain.KindService, id)), ui.Added(catalogueList)), nil
	}
	if err != nil {
		return nil, err
	}
	row := serviceRow(s, svc)
	parts := templ.Join(patch(row.DOM(), provide.ServiceLine(row)), ui.Added(provide.Service{ID: id}.DOM()), ui.Added(overview.DOM))
	return announced(parts, serviceList, svc.CreatedAt), nil
}

// ---- create

func (k *Console) newService(c echo.Context, s *domain.Scope) error {
	return k.serviceForm(c, s, newForm())
}

func (k *Console) serviceForm(c echo.Context, s *domain.Scope, f *form) error {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return err
	}
	p := k.page(c, s, "Create endpoint service", servicePath)
	balancers, err := every(c.Request().Context(), s.LoadBalancers, domain.Query{})
	if err != nil {
		return err
	}
	v := provide.NewService{NewBalancer: p.URL(balancerPath + "/new"), Cancel: p.URL(servicePath)}
	for _, b := range balancers {
		v.Balancers = append(v.Balancers, balancerOption(b))
	}
	v.Form = f.show(s, "service", p.URL(servicePath+"/new"), 0)
	return showForm(c, f, provide.NewServicePage(p, v), provide.NewServiceForm(v))
}

// balancerOption is a load balancer as a card: whoever cannot serve says why.
func balancerOption(b domain.LoadBalancerSummary) ui.Option {
	o := ui.Option{Value: b.ID, Label: b.Name, Text: strings.ToUpper(b.Type) + " · " + zoneWords(b.Zones), Note: fmt.Sprintf("%d of %d healthy", b.Healthy, b.Total)}
	switch {
	case len(b.Listeners) == 0:
		o.Text += " · no listener yet"
	case b.Total == 0:
		o.Text += " · " + strings.Join(b.Listeners, ", ") + " · no target yet"
	default:
		o.Text += " · " + strings.Join(b.Listeners, ", ")
	}
	return o
}

func zoneWords(zones []string) string {
	names := make([]string, len(zones))
	for i, z := range zones {
		names[i] = zoneName(z)
	}
	word := "zones "
	if len(zones) == 1 {
		word = "zone "
	}
	return word + strings.Join(names, ", ")
}

func (k *Console) createService(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.ServiceInput{
		Name: f.text("name"), Description: f.text("description"), LoadBalancerIDs: f.all("load_balancer_ids"), Accounts: f.values.Get("accounts"),
		AutoAccept: f.text("auto_accept") == "on", Bandwidth: f.number("bandwidth"), PendingExpiry: f.number("pending_expiry"),
	}
	if len(what.LoadBalancerIDs) == 0 {
		f.wrong("load_balancer_ids", "Choose what to publish.")
	}
	confirmEveryone(f)
	var id string
	if f.ok() {
		id, err = f.once(c, s, "CreateService", func(ctx context.Context) (string, error) {
			svc, err := s.CreateService(ctx, what)
			if err != nil {
				return "", err
			}
			return svc.ID, nil
		})
	}
	if f.refused(err) {
		return k.serviceForm(c, s, f)
	}
	if err != nil {
		return err
	}
	n := done(s, id, "The service is published.")
	n.Text = "Send its name to those who shall use it."
	return k.seeOther(c, s, servicePath+"/"+id, n)
}

// ---- one service

// The tabs of a service's page.
const (
	tabResources   = "resources"
	tabWhitelist   = "whitelist"
	tabConnections = "connections"
	tabAudit       = "audit"
)

// maxGrid is how many load balancers of a service the grid of targets looks into.
const maxGrid = 10

func (k *Console) service(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Endpoint service", servicePath)
	svc, err := s.Service(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = svc.Name
	v := serviceView(s, svc)
	v.Tab = c.QueryParam("tab")
	switch v.Tab {
	case tabResources:
		v.Resources = resourceViews(s, svc)
	case tabWhitelist:
		return k.whitelist(c, s, v)
	case tabConnections:
		return k.serviceConnections(c, s, v)
	case tabFlows:
		var flows observe.FlowList
		if flows, err = k.serviceFlows(c, s, svc.ID); err != nil {
			return err
		}
		v.Flows, v.Here = observe.Flows(flows), flows.List.URL+flows.List.Query
		if listPart(c, flows.List) {
			return list(c, flows.List, provide.ServicePage(p, v), observe.FlowResults(flows))
		}
	case tabAudit:
		v.Events, err = history(ctx, s, svc.ID)
	default:
		v.Tab = ""
		v.Grid, err = serviceGrid(ctx, s, svc)
	}
	if err != nil {
		return err
	}
	return show(c, provide.ServicePage(p, v), provide.ServiceParts(v))
}

func serviceView(s *domain.Scope, svc *domain.ServiceDetail) provide.Service {
	return provide.Service{
		ID: svc.ID, URL: in(s, servicePath, "/", svc.ID), Name: svc.Name, Description: svc.Description, State: serviceState(svc.Status, svc.Zones),
		Type: strings.ToUpper(svc.ResourceType), ServiceName: svc.ServiceName(), AutoAccept: svc.AutoAccept, Expiry: svc.PendingExpiry,
		Bandwidth: svc.Bandwidth, Protected: svc.Protected, Created: svc.CreatedAt, Connected: svc.Connected, Waiting: svc.Waiting,
		Whitelisted: svc.Whitelisted, CanWrite: s.Can(domain.WriteProvide), Hidden: hidden(s, svc.Version), Trail: trail(s, svc.ID),
		Terms: termsOf(svc.Rule, domain.Connection{Bandwidth: svc.Bandwidth}),
	}
}

func resourceViews(s *domain.Scope, svc *domain.ServiceDetail) []provide.Resource {
	out := make([]provide.Resource, len(svc.Resources))
	for i, r := range svc.Resources {
		out[i] = provide.Resource{
			Balancer: provide.Link{Label: r.LoadBalancerName, Href: in(s, balancerPath, "/", r.LoadBalancerID)}, Zone: r.ZoneID, Address: r.Address,
			Manual: !r.AutoAllocate, Targets: zoneState(r.Health), Endpoints: r.Endpoints, Older: r.Replaced,
		}
		if s.Can(domain.WriteProvide) {
			q := url.Values{"load_balancer": {r.LoadBalancerID}, "zone": {r.ZoneID}}
			at := in(s, servicePath, "/", svc.ID)
			out[i].Remove = at + "/remove-resource?" + q.Encode()
			if len(otherBalancers(svc, r.ZoneID, r.LoadBalancerID)) > 0 {
				give := ui.Btn{Label: "Not for new", Of: "endpoints in " + r.ZoneID + ": " + r.LoadBalancerName, Small: true, Name: "give", Value: "off"}
				if !r.AutoAllocate {
					give.Label, give.Value = "Use for new", "on"
				}
				out[i].Replace, out[i].Give = at+"/replace-resource?"+q.Encode(), ui.Post{Action: at + "/give-resource?" + q.Encode(), Hidden: hidden(s, 0), Button: give}
			}
		}
	}
	return out
}

// serviceGrid is every zone of a service with the targets that serve it. Of a
// service with very many load balancers it says only how many are well.
func serviceGrid(ctx context.Context, s *domain.Scope, svc *domain.ServiceDetail) ([]provide.GridRow, error) {
	balancers := map[string]*domain.LoadBalancerDetail{}
	for _, r := range svc.Resources {
		balancers[r.LoadBalancerID] = nil
	}
	for id := range balancers {
		if len(balancers) > maxGrid {
			break
		}
		b, err := s.LoadBalancer(ctx, id)
		if err != nil {
			return nil, err
		}
		balancers[id] = b
	}
	var grid []provide.GridRow
	for _, r := range svc.Resources {
		if n := len(grid); n == 0 || grid[n-1].Zone != r.ZoneID {
			grid = append(grid, provide.GridRow{Zone: r.ZoneID})
		}
		row := &grid[len(grid)-1]
		b := balancers[r.LoadBalancerID]
		if b == nil {
			row.Targets = append(row.Targets, provide.GridTarget{Name: r.LoadBalancerName, State: zoneState(r.Health)})
			continue
		}
		for _, l := range b.Listeners {
			for _, t := range l.Servers {
				if b.CrossZone || t.ZoneID == "" || t.ZoneID == r.ZoneID {
					row.Targets = append(row.Targets, provide.GridTarget{
						Name: cmp.Or(t.Name, t.Target), Of: l.Opening().String(), State: healthState(t.Server, l.Group.HealthEnabled), Drained: t.Weight == 0,
					})
				}
			}
		}
	}
	return grid, nil
}

// servicePatched ends a change on a tab of a service's page.
func (k *Console) servicePatched(c echo.Context, s *domain.Scope, id, tab string, n ui.Note) error {
	to := servicePath + "/" + id
	if tab != "" {
		to += "?tab=" + tab
	}
	return k.changed(c, s, to, n, ui.Added(provide.Service{ID: id}.DOM()))
}

// editable reads a service for somebody who may change it.
func (k *Console) editable(c echo.Context, s *domain.Scope) (*domain.ServiceDetail, error) {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return nil, err
	}
	return s.Service(c.Request().Context(), c.Param("id"))
}

func (k *Console) editService(c echo.Context, s *domain.Scope) error {
	return k.serviceEdit(c, s, newForm())
}

func (k *Console) serviceEdit(c echo.Context, s *domain.Scope, f *form) error {
	svc, err := k.editable(c, s)
	if err != nil {
		return err
	}
	back := in(s, servicePath, "/", svc.ID)
	q := ui.Question{Form: f.show(s, "edit-service", back+"/edit", svc.Version), Title: "Edit " + svc.Name, Verb: "Save", Cancel: back}
	return k.ask(c, s, f, servicePath, q, provide.ServiceFields(q.Form, serviceView(s, svc)))
}

func (k *Console) updateService(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.ServiceUpdate{
		Name: new(f.text("name")), Description: new(f.text("description")), AutoAccept: new(f.ticked("auto_accept")),
		Bandwidth: new(f.number("bandwidth")), PendingExpiry: new(f.number("pending_expiry")), Protected: new(f.ticked("protected")), Version: f.version(),
	}
	if f.ok() {
		err = s.UpdateService(c.Request().Context(), c.Param("id"), what)
	}
	if f.refused(err) {
		return k.serviceEdit(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, servicePath+"/"+c.Param("id"), done(s, c.Param("id"), "Saved."))
}

// setAcceptance is the switch on the page.
func (k *Console) setAcceptance(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id, auto := c.Param("id"), f.text("auto_accept") == "on"
	if err := s.UpdateService(c.Request().Context(), id, domain.ServiceUpdate{AutoAccept: &auto, Version: f.version()}); err != nil {
		return err
	}
	title := "You are asked about each request from now on."
	if auto {
		title = "Whitelisted accounts connect at once from now on."
	}
	return k.servicePatched(c, s, id, "", done(s, id, title))
}

func (k *Console) askDeleteService(c echo.Context, s *domain.Scope) error {
	return k.serviceDelete(c, s, newForm())
}

// serviceDelete asks before a service is withdrawn: by typing its name, if
// somebody has an endpoint to it. While one of them is connected, it cannot be.
func (k *Console) serviceDelete(c echo.Context, s *domain.Scope, f *form) error {
	svc, err := k.editable(c, s)
	if err != nil {
		return err
	}
	back := in(s, servicePath, "/", svc.ID)
	if svc.Protected {
		v := provide.Blocked{
			Title: svc.Name + " is protected", Text: "Switch the protection off first:", Back: back,
			Users: []provide.Link{{Label: "Edit the service", Href: back + "/edit"}},
		}
		return show(c, provide.BlockedPage(k.page(c, s, v.Title, servicePath), v), provide.BlockedNote(v))
	}
	dependents, err := s.Connections(c.Request().Context(), domain.ConnQuery{Query: domain.Query{Limit: maxDependents, Filter: map[string][]string{"service": {svc.ID}}}})
	if err != nil {
		return err
	}
	var live, idle []provide.Link
	for _, x := range dependents.Items {
		u := provide.Link{Label: x.ConsumerName + " · " + x.EndpointID + " · " + connectionState(x.Status, x.Decision).Word, Href: in(s, connectionPath, "/", x.EndpointID)}
		if x.Status == domain.Disconnected || x.Status == domain.ServiceDeleted {
			idle = append(idle, u)
		} else {
			live = append(live, u)
		}
	}
	if len(live) > 0 {
		v := provide.Blocked{Title: svc.Name + " is in use", Text: "Reject these connections first; it can be deleted once they are disconnected:", Users: live, Back: back}
		return show(c, provide.BlockedPage(k.page(c, s, v.Title, servicePath), v), provide.BlockedNote(v))
	}
	q := ui.Question{Form: f.show(s, "delete-service", back+"/delete", svc.Version), Title: "Delete service " + svc.Name + "?", Verb: "Delete", Danger: true, Cancel: back}
	if len(idle) > 0 {
		q.Type = svc.Name
	}
	return k.ask(c, s, f, servicePath, q, provide.ServiceGone(idle))
}

// maxDependents is how many endpoints the question names.
const maxDependents = 50

func (k *Console) deleteService(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	f, err := readForm(c)
	if err != nil {
		return err
	}
	svc, err := s.Service(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	dependents, err := s.Connections(ctx, domain.ConnQuery{Query: domain.Query{Limit: 1, Filter: map[string][]string{"service": {svc.ID}}}})
	if err != nil {
		return err
	}
	if len(dependents.Items) > 0 && f.text("confirm") != svc.Name {
		f.wrong("confirm", "Type the name of the service exactly: %s.", svc.Name)
	}
	if !f.ok() {
		return k.serviceDelete(c, s, f)
	}
	if err := s.DeleteService(ctx, svc.ID); err != nil {
		return err
	}
	return k.seeOther(c, s, servicePath, done(s, svc.ID, svc.Name+" is deleted."))
}

// ---- resources

func (k *Console) newResource(c echo.Context, s *domain.Scope) error {
	return k.resourceForm(c, s, newForm())
}

func (k *Console) resourceForm(c echo.Context, s *domain.Scope, f *form) error {
	svc, err := k.editable(c, s)
	if err != nil {
		return err
	}
	balancers, err := every(c.Request().Context(), s.LoadBalancers, domain.Query{})
	if err != nil {
		return err
	}
	var options []ui.Option
	for _, b := range balancers {
		for _, zone := range b.Zones {
			has := slices.ContainsFunc(svc.Resources, func(r domain.ResourceDetail) bool { return r.LoadBalancerID == b.ID && r.ZoneID == zone })
			if !has && b.RegionID == svc.RegionID && b.Type == svc.ResourceType {
				options = append(options, ui.Option{Value: b.ID + " " + zone, Label: b.Name, Text: zone, Note: strings.Join(b.Listeners, ", ")})
			}
		}
	}
	back := in(s, servicePath, "/", svc.ID)
	q := ui.Question{Form: f.show(s, "add-resource", back+"/add-resource", 0), Title: "Add a load balancer to " + svc.Name, Verb: "Add", Cancel: back + "?tab=" + tabResources}
	return k.ask(c, s, f, servicePath, q, provide.ResourceFields(q.Form, options))
}

func (k *Console) addResource(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	var what domain.ResourceInput
	what.LoadBalancerID, what.ZoneID, _ = strings.Cut(f.required("resource", "Choose a load balancer and its zone."), " ")
	what.Manual = f.ticked("manual")
	if f.ok() {
		err = s.AddResource(c.Request().Context(), c.Param("id"), what)
	}
	faultsAt(err, func(string) string { return "resource" })
	if f.refused(err) {
		return k.resourceForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.servicePatched(c, s, c.Param("id"), tabResources, done(s, c.Param("id"), "The load balancer is added in "+what.ZoneID+"."))
}

func (k *Console) askRemoveResource(c echo.Context, s *domain.Scope) error {
	svc, err := k.editable(c, s)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(svc.Resources, func(r domain.ResourceDetail) bool {
		return r.LoadBalancerID == c.QueryParam("load_balancer") && r.ZoneID == c.QueryParam("zone")
	})
	if i < 0 {
		return echo.ErrNotFound
	}
	r, f := svc.Resources[i], newForm()
	back := in(s, servicePath, "/", svc.ID)
	q := ui.Question{
		Form:  f.show(s, "remove-resource", back+"/remove-resource", 0),
		Title: "Remove " + r.LoadBalancerName + " in " + r.ZoneID + "?", Verb: "Remove", Danger: true, Cancel: back + "?tab=" + tabResources,
	}
	return k.ask(c, s, f, servicePath, q, provide.ResourceGone(r.LoadBalancerID, r.ZoneID, r.Endpoints))
}

func (k *Console) removeResource(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	if err := s.RemoveResource(c.Request().Context(), c.Param("id"), f.text("load_balancer"), f.text("zone")); err != nil {
		return err
	}
	return k.servicePatched(c, s, c.Param("id"), tabResources, done(s, c.Param("id"), "The load balancer is removed in "+f.text("zone")+"."))
}

// ---- whitelist

func (k *Console) whitelist(c echo.Context, s *domain.Scope, v provide.Service) error {
	p := k.page(c, s, v.Name, servicePath)
	l := readList(c, s, servicePath+"/"+v.ID, "tab")
	got, err := s.Whitelist(c.Request().Context(), v.ID, l.domain())
	if err != nil {
		return err
	}
	var w provide.Whitelist
	if v.CanWrite {
		w.Add = v.URL + "/add-accounts"
	}
	for _, e := range got.Items {
		w.Rows = append(w.Rows, entryView(s, v, e))
	}
	w.List = l.fill(ui.List{ID: "whitelist", Filter: &ui.Filter{Keep: pairs("tab", tabWhitelist)}}, ids(got.Items, func(e domain.WhitelistEntry) string { return e.UserAccountID }), got.Prev, got.Next)
	w.List.Filtered = l.filtered("tab")
	v.Whitelist = &w
	if listPart(c, w.List) {
		return list(c, w.List, provide.ServicePage(p, v), provide.WhitelistResults(w))
	}
	return show(c, provide.ServicePage(p, v), provide.ServiceParts(v))
}

// listPart reports whether htmx asks for the list on a tab, not for the tab: its
// target tells.
func listPart(c echo.Context, l ui.List) bool {
	target := c.Request().Header.Get("HX-Target")
	return wantsPart(c) && strings.HasPrefix(target[strings.IndexByte(target, '#')+1:], l.ID+"-")
}

func entryView(s *domain.Scope, v provide.Service, e domain.WhitelistEntry) provide.WhitelistRow {
	r := provide.WhitelistRow{
		AccountID: e.UserAccountID, Name: e.AccountName, Everyone: e.UserAccountID == domain.Everyone, Own: e.UserAccountID == s.Account().ID,
		AutoAccept: e.AutoAccept, Note: e.Note, AddedBy: e.AddedBy, Added: e.CreatedAt, Connections: e.Connections,
	}
	if v.CanWrite {
		at := v.URL + "/whitelist/" + url.PathEscape(e.UserAccountID)
		r.Edit, r.Remove = at+"/edit", at+"/remove"
	}
	return r
}

func (k *Console) newAccounts(c echo.Context, s *domain.Scope) error {
	return k.accountsForm(c, s, newForm())
}

func (k *Console) accountsForm(c echo.Context, s *domain.Scope, f *form) error {
	svc, err := k.editable(c, s)
	if err != nil {
		return err
	}
	back := in(s, servicePath, "/", svc.ID)
	q := ui.Question{Form: f.show(s, "add-accounts", back+"/add-accounts", 0), Title: "Add accounts to " + svc.Name, Verb: "Add", Cancel: back + "?tab=" + tabWhitelist}
	return k.ask(c, s, f, servicePath, q, provide.AccountFields(q.Form))
}

func (k *Console) addAccounts(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id := c.Param("id")
	var added, warnings []string
	if confirmEveryone(f); f.ok() {
		added, warnings, err = s.AddToWhitelist(c.Request().Context(), id, f.values.Get("accounts"), f.ticked("auto_accept"))
	}
	if f.refused(err) {
		return k.accountsForm(c, s, f)
	}
	if err != nil {
		return err
	}
	n := done(s, id, ui.Plural(len(added), "account", "")+" added.")
	if len(added) == 0 {
		n.Kind, n.Title = ui.Info, "They are on the whitelist already."
	}
	if n.Text = strings.Join(warnings, " "); n.Text != "" {
		n.Kind = ui.Warn
	}
	return k.servicePatched(c, s, id, tabWhitelist, n)
}

// confirmEveryone lets "*" onto a whitelist only if that was typed in words, too.
func confirmEveryone(f *form) {
	if provide.NamesEveryone(f.values.Get("accounts")) && !strings.EqualFold(f.text("everyone"), "everyone") {
		f.wrong("everyone", "* is every account, also those to come. Type everyone if you mean that.")
	}
}

// entry finds the account on the whitelist that the path names.
func (k *Console) entry(c echo.Context, s *domain.Scope) (*domain.ServiceDetail, domain.WhitelistEntry, error) {
	svc, err := k.editable(c, s)
	if err != nil {
		return nil, domain.WhitelistEntry{}, err
	}
	read := func(ctx context.Context, q domain.Query) (domain.Page[domain.WhitelistEntry], error) {
		return s.Whitelist(ctx, svc.ID, q)
	}
	e, err := one(c.Request().Context(), read, c.Param("entry"), func(e domain.WhitelistEntry) string { return e.UserAccountID })
	return svc, e, err
}

func (k *Console) editEntry(c echo.Context, s *domain.Scope) error {
	return k.entryForm(c, s, newForm())
}

func (k *Console) entryForm(c echo.Context, s *domain.Scope, f *form) error {
	svc, e, err := k.entry(c, s)
	if err != nil {
		return err
	}
	v := serviceView(s, svc)
	r := entryView(s, v, e)
	q := ui.Question{Form: f.show(s, "edit-entry", r.Edit, 0), Title: entryName(e) + " on the whitelist", Verb: "Save", Cancel: v.URL + "?tab=" + tabWhitelist}
	return k.ask(c, s, f, servicePath, q, provide.EntryFields(q.Form, r))
}

func entryName(e domain.WhitelistEntry) string {
	if e.UserAccountID == domain.Everyone {
		return "Every account"
	}
	return cmp.Or(e.AccountName, e.UserAccountID)
}

func (k *Console) updateEntry(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	note, auto := f.text("note"), f.ticked("auto_accept")
	if f.ok() {
		err = s.SetWhitelistEntry(c.Request().Context(), c.Param("id"), c.Param("entry"), domain.WhitelistUpdate{AutoAccept: &auto, Note: &note})
	}
	if f.refused(err) {
		return k.entryForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.servicePatched(c, s, c.Param("id"), tabWhitelist, done(s, c.Param("id"), "Saved."))
}

func (k *Console) askRemoveEntry(c echo.Context, s *domain.Scope) error {
	svc, e, err := k.entry(c, s)
	if err != nil {
		return err
	}
	v, f := serviceView(s, svc), newForm()
	q := ui.Question{
		Form:  f.show(s, "remove-entry", entryView(s, v, e).Remove, 0),
		Title: "Remove " + entryName(e) + " from the whitelist?", Verb: "Remove", Danger: true, Cancel: v.URL + "?tab=" + tabWhitelist,
	}
	return k.ask(c, s, f, servicePath, q, provide.EntryGone(e.Connections, v.URL+"?tab="+tabConnections))
}

func (k *Console) removeEntry(c echo.Context, s *domain.Scope) error {
	id, account := c.Param("id"), c.Param("entry")
	if err := s.RemoveFromWhitelist(c.Request().Context(), id, account); err != nil {
		return err
	}
	return k.servicePatched(c, s, id, tabWhitelist, done(s, id, "The account is off the whitelist."))
}
