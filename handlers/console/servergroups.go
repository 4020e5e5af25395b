package console

import (
	"context"
	"fmt"
	"strings"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/provide"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) serverGroupArea(r router) {
	r.get("/server-groups", k.serverGroups)
	r.get("/server-groups/new", k.newServerGroup)
	r.post("/server-groups/new", k.createServerGroup)
	r.get("/server-groups/:id", k.serverGroup)
	r.get("/server-groups/:id/edit", k.editServerGroup)
	r.post("/server-groups/:id/edit", k.updateServerGroup)
	r.get("/server-groups/:id/delete", k.askDeleteServerGroup)
	r.post("/server-groups/:id/delete", k.deleteServerGroup)
	r.get("/server-groups/:id/add-target", k.newTarget)
	r.post("/server-groups/:id/add-target", k.addTarget)
	k.targetRoutes(r)
	r.resource("server-groups", func(ctx context.Context, s *domain.Scope, id string) error {
		_, err := s.ServerGroup(ctx, id)
		return err
	})
	r.live(domain.KindServerGroup, k.serverGroupChanged)
}

const (
	groupPath = "/server-groups"
	groupList = "server-groups" // id of the list
)

// ---- words

var (
	protocolWords = map[string]string{domain.ProtocolTCP: "TCP", domain.ProtocolUDP: "UDP", domain.ProtocolBoth: "TCP and UDP"}
	checkNames    = map[string]string{domain.HealthTCP: "TCP check", domain.HealthHTTP: "HTTP check", domain.HealthUDP: "UDP check"}
)

// checkWords says how a group's targets are checked.
func checkWords(g domain.ServerGroup) string {
	if !g.HealthEnabled {
		return "health check off"
	}
	where := ""
	if g.HealthPort != 0 {
		where = fmt.Sprintf(" to port %d", g.HealthPort)
	}
	return fmt.Sprintf("%s%s every %d s", checkNames[g.HealthType], where, g.HealthInterval)
}

// checkFacts are how a group's targets are checked, line by line.
func checkFacts(g domain.ServerGroup) []ui.Fact {
	if !g.HealthEnabled {
		return []ui.Fact{{Key: "Check", Value: "Off: every target gets connections", Wide: true}}
	}
	facts := []ui.Fact{
		{Key: "Check", Value: checkWords(g), Wide: true},
		{Key: "Time-out", Value: fmt.Sprintf("%d s", g.HealthTimeout)},
		{Key: "Healthy after", Value: ui.Plural(g.HealthyThreshold, "pass", "passes")},
		{Key: "Unhealthy after", Value: ui.Plural(g.UnhealthyThreshold, "failure", "")},
	}
	switch g.HealthType {
	case domain.HealthHTTP:
		facts = append(facts,
			ui.Fact{Key: "Request", Value: g.HealthMethod + " " + g.HealthPath + " HTTP/" + g.HealthVersion, Mono: true, Wide: true},
			ui.Fact{Key: "Host", Value: g.HealthHost, Mono: true}, ui.Fact{Key: "Expects", Value: strings.ReplaceAll(g.HealthCodes, ",", ", "), Mono: true})
	case domain.HealthUDP:
		if g.HealthRequest != "" {
			facts = append(facts, ui.Fact{Key: "Sends", Value: g.HealthRequest, Mono: true})
		}
		if g.HealthExpect != "" {
			facts = append(facts, ui.Fact{Key: "Expects", Value: g.HealthExpect, Mono: true})
		}
	}
	if g.HealthProxy {
		facts = append(facts, ui.Fact{Key: "PROXY header", Value: "LOCAL, before the check"})
	}
	return facts
}

// ---- the list

func (k *Console) serverGroups(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Server groups", balancerPath)
	l := readList(c, s, groupPath, "vpc")
	got, err := s.ServerGroups(c.Request().Context(), l.domain())
	if err != nil {
		return err
	}
	v := provide.GroupList{Tabs: balancerTabs(s, groupPath)}
	if s.Can(domain.WriteProvide) {
		v.New = p.URL(groupPath + "/new")
	}
	for _, g := range got.Items {
		v.Rows = append(v.Rows, serverGroupRow(s, g))
	}
	narrow, err := byVPC(c, s, l)
	if err != nil {
		return err
	}
	v.List = l.fill(ui.List{ID: groupList, Filter: &ui.Filter{Selects: narrow}}, ids(got.Items, func(g domain.ServerGroupSummary) string { return g.ID }), got.Prev, got.Next)
	return list(c, v.List, provide.Groups(p, v), provide.GroupResults(v))
}

func serverGroupRow(s *domain.Scope, g domain.ServerGroupSummary) provide.GroupRow {
	return provide.GroupRow{
		ID: g.ID, Href: in(s, groupPath, "/", g.ID), Name: g.Name, Protocol: protocolWords[g.Protocol], Type: strings.ToUpper(g.Type),
		VPC: provide.Link{Label: g.VPCName, Href: in(s, "/vpcs/", g.VPCID)}, Scheduler: provide.SchedulerLabel(g.Scheduler),
		Check: checkWords(g.ServerGroup), Targets: targetsState(g.Healthy, g.Total), Listeners: g.Listeners,
	}
}

// serverGroupChanged patches the row, and tells the page of the group.
func (k *Console) serverGroupChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	g, err := one(ctx, s.ServerGroups, id, func(g domain.ServerGroupSummary) string { return g.ID })
	if err != nil {
		return nil, err
	}
	row := serverGroupRow(s, g)
	parts := templ.Join(patch(row.DOM(), provide.GroupLine(row)), ui.Added(provide.Group{ID: id}.DOM()))
	return announced(parts, groupList, g.CreatedAt), nil
}

// ---- one server group

func (k *Console) serverGroup(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Server group", balancerPath)
	v, err := k.serverGroupView(c.Request().Context(), s, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = v.Name
	return show(c, provide.GroupPage(p, v), provide.GroupParts(v))
}

func (k *Console) serverGroupView(ctx context.Context, s *domain.Scope, id string) (provide.Group, error) {
	g, err := s.ServerGroup(ctx, id)
	if err != nil {
		return provide.Group{}, err
	}
	v := provide.Group{
		ID: g.ID, URL: in(s, groupPath, "/", g.ID), Name: g.Name, Type: strings.ToUpper(g.Type), Protocol: protocolWords[g.Protocol],
		Targets: targetsState(g.Healthy, len(g.Servers)), Checks: checkFacts(g.ServerGroup), Trail: trail(s, g.ID), CanWrite: s.Can(domain.WriteProvide),
	}
	v.Facts = []ui.Fact{
		{Key: "VPC", Body: ui.Link(in(s, "/vpcs/", g.VPCID), g.VPCName)},
		{Key: "Scheduler", Value: provide.SchedulerLabel(g.Scheduler)},
		{Key: "Port", Value: choose(g.AnyPort, "the one that the client used", "each target's own")},
		{Key: "Removed targets", Value: choose(g.Drain > 0, fmt.Sprintf("drain for %d s", g.Drain), "are cut at once")},
		{Key: "Slow start", Value: choose(g.SlowStart > 0, fmt.Sprintf("%d s", g.SlowStart), "off")},
		{Key: "All targets down", Value: choose(g.FailClosed, "refuse", "try them all")},
		{Key: "Target goes down", Value: choose(g.ResetOnUnhealthy, "cut its connections", "keep its connections")},
		{Key: "Created", Body: ui.Time(g.CreatedAt)},
		{Key: "History", Body: ui.Link(v.Trail, "Audit trail")},
	}
	if !g.Kept {
		v.Facts = append(v.Facts, ui.Fact{Key: "Lives", Value: "as long as a listener sends to it", Wide: true})
	}
	for _, t := range g.Servers {
		v.Servers = append(v.Servers, targetView(s, v.URL, t, g.ServerGroup))
	}
	for _, l := range g.Listeners {
		v.Listeners = append(v.Listeners, provide.Link{Label: l.BalancerName + " · " + l.Opening().String(), Href: in(s, balancerPath, "/", l.LoadBalancerID)})
	}
	return v, nil
}

func choose(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

// groupPatched ends a change on a server group's page.
func (k *Console) groupPatched(c echo.Context, s *domain.Scope, id string, n ui.Note) error {
	v, err := k.serverGroupView(c.Request().Context(), s, id)
	if err != nil {
		return err
	}
	return k.changed(c, s, groupPath+"/"+id, n, patch(v.DOM(), provide.GroupParts(v)))
}

// ---- create, edit, delete

func (k *Console) newServerGroup(c echo.Context, s *domain.Scope) error {
	return k.serverGroupForm(c, s, newForm())
}

func (k *Console) serverGroupForm(c echo.Context, s *domain.Scope, f *form) error {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return err
	}
	p := k.page(c, s, "Create server group", balancerPath)
	v := provide.NewGroup{VPC: c.QueryParam("vpc"), Back: p.URL(groupPath), NewVPC: p.URL("/vpcs/new")}
	var err error
	if v.VPCs, err = vpcOptions(c.Request().Context(), s, ""); err != nil {
		return err
	}
	v.Form = f.show(s, "server-group", p.URL(groupPath+"/new"), 0)
	return showForm(c, f, provide.NewGroupPage(p, v), provide.NewGroupForm(v))
}

func (k *Console) createServerGroup(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.ServerGroupInput{
		Name: f.text("name"), VPCID: f.text("vpc_id"), Type: f.text("type"), Protocol: f.text("protocol"), Scheduler: f.text("scheduler"), AnyPort: f.ticked("any_port"),
		Drain: f.number("drain"), SlowStart: f.number("slow_start"), FailClosed: f.ticked("fail_closed"), ResetOnUnhealthy: f.ticked("reset_on_unhealthy"), Health: readHealth(f),
	}
	var id string
	if f.ok() {
		id, err = f.once(c, s, "CreateServerGroup", func(ctx context.Context) (string, error) {
			g, err := s.CreateServerGroup(ctx, what)
			if err != nil {
				return "", err
			}
			return g.ID, nil
		})
	}
	if f.refused(err) {
		return k.serverGroupForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, groupPath+"/"+id, done(s, id, "The server group is there. Add its targets."))
}

func readHealth(f *form) domain.HealthInput {
	return domain.HealthInput{
		Disabled: !f.ticked("health.enabled"), Type: f.text("health.type"), Port: f.number("health.port"), Interval: f.number("health.interval"),
		Timeout: f.number("health.timeout"), HealthyThreshold: f.number("health.healthy_threshold"), UnhealthyThreshold: f.number("health.unhealthy_threshold"),
		Proxy: f.ticked("health.proxy"), Method: f.text("health.method"), Path: f.text("health.path"), Host: f.text("health.host"),
		HTTPVersion: f.text("health.version"), Codes: f.all("health.codes"), Request: f.text("health.request"), Expect: f.text("health.expect"),
	}
}

func (k *Console) editServerGroup(c echo.Context, s *domain.Scope) error {
	return k.serverGroupEdit(c, s, newForm())
}

func (k *Console) serverGroupEdit(c echo.Context, s *domain.Scope, f *form) error {
	g, err := k.writableGroup(c, s)
	if err != nil {
		return err
	}
	p := k.page(c, s, "Edit "+g.Name, balancerPath)
	v := provide.GroupEdit{
		Form: f.show(s, "edit-server-group", c.Request().URL.Path, g.Version), Name: g.Name, Back: in(s, groupPath, "/", g.ID),
		Scheduler: g.Scheduler, Drain: g.Drain, SlowStart: g.SlowStart, FailClosed: g.FailClosed, ResetOnUnhealthy: g.ResetOnUnhealthy,
		Health: provide.HealthCheck{
			On: g.HealthEnabled, Type: g.HealthType, Port: g.HealthPort, Interval: g.HealthInterval, Timeout: g.HealthTimeout,
			Passes: g.HealthyThreshold, Failures: g.UnhealthyThreshold, Proxy: g.HealthProxy,
			Method: g.HealthMethod, Path: g.HealthPath, Host: g.HealthHost, Version: g.HealthVersion, Codes: strings.Split(g.HealthCodes, ","),
			Request: g.HealthRequest, Expect: g.HealthExpect,
		},
	}
	return showForm(c, f, provide.GroupEditPage(p, v), provide.GroupEditForm(v))
}

// writableGroup reads the server group of the path for somebody who may change it.
func (k *Console) writableGroup(c echo.Context, s *domain.Scope) (*domain.ServerGroupDetail, error) {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return nil, err
	}
	return s.ServerGroup(c.Request().Context(), c.Param("id"))
}

func (k *Console) updateServerGroup(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.ServerGroupUpdate{
		Name: new(f.text("name")), Scheduler: new(f.text("scheduler")), Drain: new(f.number("drain")), SlowStart: new(f.number("slow_start")),
		FailClosed: new(f.ticked("fail_closed")), ResetOnUnhealthy: new(f.ticked("reset_on_unhealthy")), Health: new(readHealth(f)), Version: f.version(),
	}
	if f.ok() {
		err = s.UpdateServerGroup(c.Request().Context(), c.Param("id"), what)
	}
	if f.refused(err) {
		return k.serverGroupEdit(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, groupPath+"/"+c.Param("id"), done(s, c.Param("id"), "Saved."))
}

func (k *Console) askDeleteServerGroup(c echo.Context, s *domain.Scope) error {
	g, err := k.writableGroup(c, s)
	if err != nil {
		return err
	}
	back := in(s, groupPath, "/", g.ID)
	if len(g.Listeners) > 0 {
		v := provide.Blocked{Title: g.Name + " is in use", Text: "It can be deleted when no listener sends to it any more:", Back: back}
		for _, l := range g.Listeners {
			v.Users = append(v.Users, provide.Link{Label: l.BalancerName + " · " + l.Opening().String(), Href: in(s, balancerPath, "/", l.LoadBalancerID)})
		}
		return show(c, provide.BlockedPage(k.page(c, s, v.Title, balancerPath), v), provide.BlockedNote(v))
	}
	f := newForm()
	q := ui.Question{Form: f.show(s, "delete-server-group", back+"/delete", g.Version), Title: "Delete server group " + g.Name + "?", Verb: "Delete", Danger: true, Cancel: back}
	return k.ask(c, s, f, balancerPath, q, provide.Text("Its "+ui.Plural(len(g.Servers), "target goes", "targets go")+" with it."))
}

func (k *Console) deleteServerGroup(c echo.Context, s *domain.Scope) error {
	g, err := s.ServerGroup(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	if err := s.DeleteServerGroup(c.Request().Context(), g.ID); err != nil {
		return err
	}
	return k.seeOther(c, s, groupPath, done(s, g.ID, g.Name+" is deleted."))
}
