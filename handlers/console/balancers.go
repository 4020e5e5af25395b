package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/provide"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) balancerArea(r router) {
	r.get("/load-balancers", k.balancers)
	r.get("/load-balancers/new", k.newBalancer)
	r.post("/load-balancers/new", k.createBalancer)
	r.get("/load-balancers/:id", k.balancer)
	r.get("/load-balancers/:id/edit", k.editBalancer)
	r.post("/load-balancers/:id/edit", k.updateBalancer)
	r.get("/load-balancers/:id/delete", k.askDeleteBalancer)
	r.post("/load-balancers/:id/delete", k.deleteBalancer)
	r.get("/load-balancers/:id/add-listener", k.newListener)
	r.post("/load-balancers/:id/add-listener", k.addListener)
	r.get("/load-balancers/:id/listeners/:listener/edit", k.editListener)
	r.post("/load-balancers/:id/listeners/:listener/edit", k.updateListener)
	r.get("/load-balancers/:id/listeners/:listener/delete", k.askDeleteListener)
	r.post("/load-balancers/:id/listeners/:listener/delete", k.deleteListener)
	r.get("/load-balancers/:id/listeners/:listener/add-target", k.newTarget)
	r.post("/load-balancers/:id/listeners/:listener/add-target", k.addTarget)
	r.get("/load-balancers/:id/targets/:target/weight", k.editWeight)
	r.post("/load-balancers/:id/targets/:target/weight", k.setWeight)
	r.get("/load-balancers/:id/targets/:target/remove", k.askRemoveTarget)
	r.post("/load-balancers/:id/targets/:target/remove", k.removeTarget)
	r.resource("load-balancers", func(ctx context.Context, s *domain.Scope, id string) error {
		_, err := s.LoadBalancer(ctx, id)
		return err
	})
	r.live(domain.KindLoadBalancer, k.balancerChanged)
}

const (
	balancerPath = "/load-balancers"
	balancerList = "load-balancers" // id of the list
)

func (k *Console) balancers(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Load balancers", balancerPath)
	ctx := c.Request().Context()
	l := readList(c, s, balancerPath, "vpc")
	got, err := s.LoadBalancers(ctx, l.domain())
	if err != nil {
		return err
	}
	v := provide.BalancerList{}
	if s.Can(domain.WriteProvide) {
		v.New = p.URL(balancerPath + "/new")
	}
	for _, b := range got.Items {
		v.Rows = append(v.Rows, balancerRow(s, b))
	}
	if len(got.Items) == 0 && !l.filtered() && s.Can(domain.WriteNetwork) {
		vpcs, err := s.VPCs(ctx, domain.Query{Limit: 1})
		if err != nil {
			return err
		}
		if len(vpcs.Items) == 0 {
			v.NewVPC = p.URL("/vpcs/new")
		}
	}
	narrow, err := byVPC(c, s, l)
	if err != nil {
		return err
	}
	v.List = l.fill(ui.List{ID: balancerList, Filter: &ui.Filter{Selects: narrow}}, ids(got.Items, func(b domain.LoadBalancerSummary) string { return b.ID }), got.Prev, got.Next)
	return list(c, v.List, provide.Balancers(p, v), provide.BalancerResults(v))
}

func balancerRow(s *domain.Scope, b domain.LoadBalancerSummary) provide.BalancerRow {
	return provide.BalancerRow{
		ID: b.ID, Href: in(s, balancerPath, "/", b.ID), Name: b.Name, Type: strings.ToUpper(b.Type),
		VPC:   provide.Link{Label: b.VPCName, Href: in(s, "/vpcs/", b.VPCID)},
		Zones: plainZones(b.Zones), Listeners: b.Listeners, Targets: targetsState(b.Healthy, b.Total), Services: b.Services,
	}
}

// balancerChanged patches the row, and tells the page of the load balancer.
func (k *Console) balancerChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	b, err := one(ctx, s.LoadBalancers, id, func(b domain.LoadBalancerSummary) string { return b.ID })
	if err != nil {
		return nil, err
	}
	row := balancerRow(s, b)
	parts := templ.Join(patch(row.DOM(), provide.BalancerLine(row)), ui.Added(provide.Balancer{ID: id}.DOM()))
	return announced(parts, balancerList, b.CreatedAt), nil
}

// ---- one load balancer

// maxUsers is how many of the services that use a load balancer are named.
const maxUsers = 20

func (k *Console) balancer(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Load balancer", balancerPath)
	v, err := k.balancerView(c.Request().Context(), s, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = v.Name
	return show(c, provide.BalancerPage(p, v), provide.BalancerParts(v))
}

func (k *Console) balancerView(ctx context.Context, s *domain.Scope, id string) (provide.Balancer, error) {
	b, err := s.LoadBalancer(ctx, id)
	if err != nil {
		return provide.Balancer{}, err
	}
	v := provide.Balancer{
		ID: b.ID, URL: in(s, balancerPath, "/", b.ID), Name: b.Name, Type: strings.ToUpper(b.Type), CrossZone: b.CrossZone,
		VPC:     provide.Link{Label: b.VPCName, Href: in(s, "/vpcs/", b.VPCID)},
		Created: b.CreatedAt, Trail: trail(s, b.ID), CanWrite: s.Can(domain.WriteProvide),
	}
	for _, z := range b.Zones {
		v.Zones = append(v.Zones, provide.BalancerZone{
			Zone: z.ZoneID, VSwitch: provide.Link{Label: z.VSwitchName, Href: in(s, "/vpcs/", b.VPCID) + "?tab=vswitches"}, Address: z.Address,
			State: zoneState(z.Health),
		})
	}
	healthy, total := 0, 0
	seen := map[string]bool{} // groups that several listeners send to
	for _, l := range b.Listeners {
		lv := provide.Listener{
			ID: l.ID, URL: v.URL + "/listeners/" + l.ID, Label: listenerLabel(l.Listener), Idle: l.IdleTimeout, Check: checkWords(l.Group),
		}
		slices.SortStableFunc(l.Servers, func(a, b domain.ServerDetail) int {
			return cmp.Or(strings.Compare(a.ZoneID, b.ZoneID), strings.Compare(a.Name, b.Name))
		})
		for _, t := range l.Servers {
			tv := targetView(s, v.URL, t, l.Group.HealthEnabled)
			if !seen[l.ServerGroupID] {
				total++
				if tv.State.Kind == ui.OK && t.Weight > 0 {
					healthy++
				}
			}
			lv.Targets = append(lv.Targets, tv)
		}
		seen[l.ServerGroupID] = true
		v.Listeners = append(v.Listeners, lv)
	}
	v.Targets = targetsState(healthy, total)
	v.MoreServices = max(len(b.Services)-maxUsers, 0)
	for _, svc := range b.Services[:min(len(b.Services), maxUsers)] {
		v.Services = append(v.Services, provide.ServiceLink{
			Link: provide.Link{Label: svc.Name, Href: in(s, "/services/", svc.ID)}, State: serviceStatus(svc.Status),
		})
	}
	return v, nil
}

func targetView(s *domain.Scope, balancer string, t domain.ServerDetail, checked bool) provide.Target {
	v := provide.Target{
		ID: t.ID, URL: balancer + "/targets/" + t.ID, Address: t.Target, Zone: t.ZoneID, Weight: t.Weight, Host: t.Host,
		State: healthState(t.Server, checked), Reason: t.HealthReason, Since: t.HealthSince, Hidden: hidden(s, 0),
	}
	if t.AttachmentID != "" {
		v.Name = provide.Link{Label: t.Name, Href: in(s, "/attachments/", t.AttachmentID)}
	}
	return v
}

func listenerLabel(l domain.Listener) string {
	return fmt.Sprintf("%s %d", strings.ToUpper(l.Protocol), l.Port)
}

// checkWords says how a group's targets are checked.
func checkWords(g domain.ServerGroup) string {
	if !g.HealthEnabled {
		return "health check off"
	}
	where := ""
	if g.HealthPort != 0 {
		where = fmt.Sprintf(" to port %d", g.HealthPort)
	}
	return fmt.Sprintf("TCP check%s every %d s", where, g.HealthInterval)
}

// balancerPatched ends a change on a load balancer's page.
func (k *Console) balancerPatched(c echo.Context, s *domain.Scope, id string, n ui.Note) error {
	v, err := k.balancerView(c.Request().Context(), s, id)
	if err != nil {
		return err
	}
	return k.changed(c, s, balancerPath+"/"+id, n, patch(v.DOM(), provide.BalancerParts(v)))
}

// ---- create

func (k *Console) newBalancer(c echo.Context, s *domain.Scope) error {
	return k.balancerForm(c, s, newForm(), c.QueryParam("vpc"))
}

func (k *Console) balancerForm(c echo.Context, s *domain.Scope, f *form, vpc string) error {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return err
	}
	p := k.page(c, s, "Create load balancer", balancerPath)
	ctx := c.Request().Context()
	v := provide.NewBalancer{Picker: p.URL(balancerPath + "/new"), Cancel: p.URL(balancerPath)}
	var err error
	if v.VPCs, err = vpcOptions(ctx, s, ""); err != nil {
		return err
	}
	if v.VPC = chosenVPC(v.VPCs, vpc); v.VPC == "" {
		v.NewVPC = p.URL("/vpcs/new")
	} else {
		switches, err := s.VSwitches(ctx, v.VPC)
		if err != nil {
			return err
		}
		v.Zones = zoneChoices(switches)
		v.NewVSwitch = in(s, "/vpcs/", v.VPC) + "?tab=vswitches"
		if v.Attachments, err = targetOptions(ctx, s, v.VPC); err != nil {
			return err
		}
	}
	if v.Targets = []int{1}; f.values != nil {
		v.Targets = listenerRows(f)
	}
	v.Form = f.show(s, "load-balancer", v.Picker, 0)
	return showDraft(c, f, v.Form.ID, provide.NewBalancerPage(p, v), provide.NewBalancerForm(v))
}

// The lists of the form for a load balancer.
var (
	listenerFields = []string{"port"}
	targetFields   = []string{"attachment_id", "address", "port", "weight"}
)

func serversOf(listener int) string { return fmt.Sprintf("listeners.%d.servers", listener) }

// listenerRows counts the target rows of each listener that a form has.
func listenerRows(f *form) []int {
	var rows []int
	for i := range f.rows("listeners", listenerFields...) {
		rows = append(rows, len(f.rows(serversOf(i), targetFields...)))
	}
	return rows
}

// drafted answers the buttons that add or remove a listener or a target, and
// reports whether one was pressed: then the form is not sent yet.
func drafted(f *form, attachments []ui.Option) bool {
	more, less := f.text(provide.MoreRows), f.text(provide.LessRows)
	switch {
	case more == provide.ListenerRow:
		n := len(f.rows("listeners", listenerFields...))
		f.set(fmt.Sprintf("listeners.%d.port", n), "")
		f.setRows(serversOf(n), []formRow{newTargetRow(attachments, 0)})
	case more != "":
		if i, err := strconv.Atoi(more); err == nil {
			rows := f.rows(serversOf(i), targetFields...)
			f.setRows(serversOf(i), append(rows, newTargetRow(attachments, len(rows))))
		}
	case less != "":
		listener, target, _ := strings.Cut(less, ".")
		i, err1 := strconv.Atoi(listener)
		j, err2 := strconv.Atoi(target)
		if rows := f.rows(serversOf(i), targetFields...); err1 == nil && err2 == nil && j >= 0 && j < len(rows) {
			f.setRows(serversOf(i), slices.Delete(rows, j, j+1))
		}
	default:
		return false
	}
	return true
}

// newTargetRow is a target that nobody has filled in: the next attachment.
func newTargetRow(attachments []ui.Option, n int) formRow {
	row := formRow{"attachment_id": "", "address": "", "port": "", "weight": "100"}
	if n < len(attachments) {
		row["attachment_id"] = attachments[n].Value
	}
	return row
}

// readListener reads listener i of a form. Target rows that are empty are left
// out, also of the form, so that the store's numbers are the form's.
func readListener(f *form, i int) domain.ListenerInput {
	l := domain.ListenerInput{Port: f.number(fmt.Sprintf("listeners.%d.port", i)), IdleTimeout: f.number("idle_timeout"), Health: readHealth(f)}
	rows := slices.DeleteFunc(f.rows(serversOf(i), targetFields...), func(r formRow) bool { return r["attachment_id"] == "" && r["address"] == "" })
	f.setRows(serversOf(i), rows)
	for j := range rows {
		l.Servers = append(l.Servers, readTarget(f, fmt.Sprintf("%s.%d.", serversOf(i), j), l.Port))
	}
	return l
}

func (k *Console) createBalancer(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	vpc := f.text("vpc_id")
	options, err := targetOptions(c.Request().Context(), s, vpc)
	if err != nil {
		return err
	}
	if drafted(f, options) {
		return k.balancerForm(c, s, f, vpc)
	}
	what := domain.LoadBalancerInput{Name: f.text("name"), VPCID: vpc, CrossZone: f.ticked("cross_zone")}
	zones := chosenZones(f)
	for _, z := range zones {
		what.Zones = append(what.Zones, domain.LBZoneInput{ZoneID: z.zone, VSwitchID: z.vswitch, Address: z.address})
	}
	for i := range f.rows("listeners", listenerFields...) {
		what.Listeners = append(what.Listeners, readListener(f, i))
	}
	var id string
	if f.ok() {
		id, err = f.once(c, s, "CreateLoadBalancer", func(ctx context.Context) (string, error) {
			b, err := s.CreateLoadBalancer(ctx, what)
			if err != nil {
				return "", err
			}
			return b.ID, nil
		})
	}
	faultsAt(err, func(field string) string { return balancerField(zoneField(field, zones)) })
	if f.refused(err) {
		return k.balancerForm(c, s, f, vpc)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, balancerPath+"/"+id, done(s, id, "The load balancer is there. Its targets are being checked."))
}

// balancerField names the control that a fault of a listener is about: all that a
// form makes have the same settings.
func balancerField(field string) string {
	if part := strings.Split(field, "."); len(part) > 2 && part[0] == "listeners" && part[2] != "servers" && part[2] != "port" {
		return strings.Join(part[2:], ".")
	}
	return field
}

func readHealth(f *form) domain.HealthInput {
	return domain.HealthInput{
		Disabled: !f.ticked("health.enabled"), Port: f.number("health.port"), Interval: f.number("health.interval"), Timeout: f.number("health.timeout"),
		HealthyThreshold: f.number("health.healthy_threshold"), UnhealthyThreshold: f.number("health.unhealthy_threshold"),
	}
}

// readTarget reads a target from fields whose names begin with under. A port that
// is left empty is the listener's; a host service's own takes no port.
func readTarget(f *form, under string, port int) domain.ServerInput {
	srv := domain.ServerInput{Port: f.number(under + "port")}
	if f.text(under+"weight") != "" {
		srv.Weight = new(f.number(under + "weight"))
	}
	var host bool
	if srv.AttachmentID, host = strings.CutPrefix(f.text(under+"attachment_id"), hostPrefix); srv.AttachmentID == "" {
		srv.Address = f.text(under + "address")
	}
	if srv.Port == 0 && !host {
		srv.Port = port
	}
	return srv
}

// hostPrefix marks an option that is a host service.
const hostPrefix = "host:"

// targetOptions are the attachments of a VPC that can be targets.
func targetOptions(ctx context.Context, s *domain.Scope, vpc string) ([]ui.Option, error) {
	got, err := s.Attachments(ctx, domain.Query{Limit: 200, Filter: map[string][]string{"vpc": {vpc}}})
	if err != nil {
		return nil, err
	}
	var options []ui.Option
	for _, a := range got.Items {
		switch a.Kind {
		case domain.AttachPort:
		case domain.AttachHost:
			options = append(options, ui.Option{Value: hostPrefix + a.ID, Label: a.Name + " · host service"})
		default:
			options = append(options, ui.Option{Value: a.ID, Label: a.Name + " · " + a.Address + " · " + zoneName(a.ZoneID)})
		}
	}
	return options, nil
}

// ---- edit, delete

func (k *Console) editBalancer(c echo.Context, s *domain.Scope) error {
	return k.balancerEdit(c, s, newForm())
}

func (k *Console) balancerEdit(c echo.Context, s *domain.Scope, f *form) error {
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return err
	}
	q := ui.Question{Form: f.show(s, "edit-load-balancer", c.Request().URL.Path, b.Version), Title: "Edit " + b.Name, Verb: "Save", Cancel: in(s, balancerPath, "/", b.ID)}
	return k.ask(c, s, f, balancerPath, q, provide.BalancerFields(q.Form, b.Name, b.CrossZone))
}

// writable reads a load balancer for somebody who may change it.
func (k *Console) writable(c echo.Context, s *domain.Scope, id string) (*domain.LoadBalancerDetail, error) {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return nil, err
	}
	return s.LoadBalancer(c.Request().Context(), id)
}

func (k *Console) updateBalancer(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	name, cross := f.text("name"), f.ticked("cross_zone")
	if f.ok() {
		err = s.UpdateLoadBalancer(c.Request().Context(), c.Param("id"), domain.LoadBalancerUpdate{Name: &name, CrossZone: &cross, Version: f.version()})
	}
	if f.refused(err) {
		return k.balancerEdit(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, balancerPath+"/"+c.Param("id"), done(s, c.Param("id"), "Saved."))
}

func (k *Console) askDeleteBalancer(c echo.Context, s *domain.Scope) error {
	return k.balancerDelete(c, s, newForm())
}

func (k *Console) balancerDelete(c echo.Context, s *domain.Scope, f *form) error {
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return err
	}
	back := in(s, balancerPath, "/", b.ID)
	if len(b.Services) > 0 {
		var users []provide.Link
		for _, svc := range b.Services[:min(len(b.Services), maxUsers)] {
			users = append(users, provide.Link{Label: svc.Name, Href: in(s, "/services/", svc.ID) + "?tab=resources"})
		}
		v := provide.Blocked{Title: b.Name + " is in use", Text: "It can be deleted when no service publishes it any more:", Users: users, Back: back}
		if more := len(b.Services) - len(users); more > 0 {
			v.Text = fmt.Sprintf("It can be deleted when no service publishes it any more. These do, and %s more:", ui.Number(more))
		}
		return show(c, provide.BlockedPage(k.page(c, s, v.Title, balancerPath), v), provide.BlockedNote(v))
	}
	q := ui.Question{Form: f.show(s, "delete-load-balancer", back+"/delete", b.Version), Title: "Delete load balancer " + b.Name + "?", Verb: "Delete", Danger: true, Cancel: back}
	return k.ask(c, s, f, balancerPath, q, provide.BalancerGone(len(b.Listeners)))
}

func (k *Console) deleteBalancer(c echo.Context, s *domain.Scope) error {
	b, err := s.LoadBalancer(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	if err := s.DeleteLoadBalancer(c.Request().Context(), b.ID); err != nil {
		return err
	}
	return k.seeOther(c, s, balancerPath, done(s, b.ID, b.Name+" is deleted."))
}

// ---- listeners

func (k *Console) newListener(c echo.Context, s *domain.Scope) error {
	return k.listenerForm(c, s, newForm())
}

func (k *Console) listenerForm(c echo.Context, s *domain.Scope, f *form) error {
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return err
	}
	options, err := targetOptions(c.Request().Context(), s, b.VPCID)
	if err != nil {
		return err
	}
	back := in(s, balancerPath, "/", b.ID)
	v := provide.NewListener{Balancer: b.Name, Back: back, Attachments: options, Targets: []int{1}}
	if f.values != nil {
		v.Targets = listenerRows(f)
	}
	v.Form = f.show(s, "listener", back+"/add-listener", 0)
	return showDraft(c, f, v.Form.ID, provide.NewListenerPage(k.page(c, s, "Add listener", balancerPath), v), provide.NewListenerForm(v))
}

func (k *Console) addListener(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return err
	}
	options, err := targetOptions(c.Request().Context(), s, b.VPCID)
	if err != nil {
		return err
	}
	if drafted(f, options) {
		return k.listenerForm(c, s, f)
	}
	what := readListener(f, 0)
	if f.ok() {
		_, err = f.once(c, s, "AddListener", func(ctx context.Context) (string, error) {
			l, err := s.AddListener(ctx, b.ID, what)
			if err != nil {
				return "", err
			}
			return l.ID, nil
		})
	}
	faultsAt(err, func(field string) string { return balancerField("listeners.0." + field) })
	if f.refused(err) {
		return k.listenerForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, balancerPath+"/"+b.ID, done(s, b.ID, fmt.Sprintf("It listens on TCP %d.", what.Port)))
}

// listenerOf finds a listener of the load balancer that the path names.
func (k *Console) listenerOf(c echo.Context, s *domain.Scope) (*domain.LoadBalancerDetail, *domain.ListenerDetail, error) {
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return nil, nil, err
	}
	for i := range b.Listeners {
		if b.Listeners[i].ID == c.Param("listener") {
			return b, &b.Listeners[i], nil
		}
	}
	return nil, nil, echo.ErrNotFound
}

func (k *Console) editListener(c echo.Context, s *domain.Scope) error {
	return k.listenerEdit(c, s, newForm())
}

func (k *Console) listenerEdit(c echo.Context, s *domain.Scope, f *form) error {
	b, l, err := k.listenerOf(c, s)
	if err != nil {
		return err
	}
	q := ui.Question{
		Form: f.show(s, "edit-listener", c.Request().URL.Path, b.Version), Title: "Edit listener " + listenerLabel(l.Listener), Verb: "Save",
		Cancel: in(s, balancerPath, "/", b.ID),
	}
	return k.ask(c, s, f, balancerPath, q, provide.ListenerFields(q.Form, l.Port, provide.HealthCheck{
		On: l.Group.HealthEnabled, Interval: l.Group.HealthInterval, Timeout: l.Group.HealthTimeout, Passes: l.Group.HealthyThreshold,
		Failures: l.Group.UnhealthyThreshold, Port: l.Group.HealthPort, Idle: l.IdleTimeout,
	}))
}

func (k *Console) updateListener(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	_, l, err := k.listenerOf(c, s)
	if err != nil {
		return err
	}
	port, idle, health := f.number("port"), f.number("idle_timeout"), readHealth(f)
	if f.ok() {
		err = errors.Join(
			s.UpdateListener(c.Request().Context(), c.Param("listener"), domain.ListenerUpdate{Port: &port, IdleTimeout: &idle, Version: f.version()}),
			s.UpdateServerGroup(c.Request().Context(), l.ServerGroupID, domain.ServerGroupUpdate{Health: &health}))
	}
	if f.refused(err) {
		return k.listenerEdit(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.balancerPatched(c, s, c.Param("id"), done(s, c.Param("id"), "Saved."))
}

func (k *Console) askDeleteListener(c echo.Context, s *domain.Scope) error {
	b, l, err := k.listenerOf(c, s)
	if err != nil {
		return err
	}
	f := newForm()
	q := ui.Question{
		Form: f.show(s, "delete-listener", c.Request().URL.Path, b.Version), Title: "Delete listener " + listenerLabel(l.Listener) + "?", Verb: "Delete", Danger: true,
		Cancel: in(s, balancerPath, "/", b.ID),
	}
	return k.ask(c, s, f, balancerPath, q, provide.Text("Connections through it end, and its targets go with it."))
}

func (k *Console) deleteListener(c echo.Context, s *domain.Scope) error {
	_, l, err := k.listenerOf(c, s)
	if err != nil {
		return err
	}
	if err := s.DeleteListener(c.Request().Context(), l.ID); err != nil {
		return err
	}
	return k.balancerPatched(c, s, c.Param("id"), done(s, c.Param("id"), "Listener "+listenerLabel(l.Listener)+" is deleted."))
}

// ---- targets

func (k *Console) newTarget(c echo.Context, s *domain.Scope) error {
	return k.targetForm(c, s, newForm())
}

func (k *Console) targetForm(c echo.Context, s *domain.Scope, f *form) error {
	b, l, err := k.listenerOf(c, s)
	if err != nil {
		return err
	}
	options, err := targetOptions(c.Request().Context(), s, b.VPCID)
	if err != nil {
		return err
	}
	q := ui.Question{
		Form: f.show(s, "add-target", c.Request().URL.Path, 0), Title: "Add a target to " + listenerLabel(l.Listener), Verb: "Add target",
		Cancel: in(s, balancerPath, "/", b.ID),
	}
	return k.ask(c, s, f, balancerPath, q, provide.TargetFields(q.Form, options))
}

func (k *Console) addTarget(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	_, l, err := k.listenerOf(c, s)
	if err != nil {
		return err
	}
	what := readTarget(f, "", l.Port)
	if f.ok() {
		_, err = f.once(c, s, "AddServer", func(ctx context.Context) (string, error) {
			srv, err := s.AddServer(ctx, l.ServerGroupID, what)
			if err != nil {
				return "", err
			}
			return srv.ID, nil
		})
	}
	if f.refused(err) {
		return k.targetForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.balancerPatched(c, s, c.Param("id"), done(s, c.Param("id"), "The target is added. It gets connections once it is healthy."))
}

// targetOf finds a target of the load balancer that the path names.
func (k *Console) targetOf(c echo.Context, s *domain.Scope) (*domain.ServerDetail, error) {
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return nil, err
	}
	for _, l := range b.Listeners {
		for i := range l.Servers {
			if l.Servers[i].ID == c.Param("target") {
				return &l.Servers[i], nil
			}
		}
	}
	return nil, echo.ErrNotFound
}

func (k *Console) editWeight(c echo.Context, s *domain.Scope) error {
	return k.weightForm(c, s, newForm())
}

func (k *Console) weightForm(c echo.Context, s *domain.Scope, f *form) error {
	t, err := k.targetOf(c, s)
	if err != nil {
		return err
	}
	q := ui.Question{Form: f.show(s, "weight", c.Request().URL.Path, 0), Title: "Weight of " + targetName(t), Verb: "Save", Cancel: in(s, balancerPath, "/", c.Param("id"))}
	weight := t.Weight
	if weight == 0 {
		weight = 100
	}
	return k.ask(c, s, f, balancerPath, q, provide.WeightField(q.Form, weight))
}

func (k *Console) setWeight(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	t, err := k.targetOf(c, s)
	if err != nil {
		return err
	}
	f.required("weight", "How much of the connections it gets: 0 to 100.")
	weight := f.number("weight")
	if f.ok() {
		err = s.UpdateServer(c.Request().Context(), t.ID, weight)
	}
	if f.refused(err) {
		return k.weightForm(c, s, f)
	}
	if err != nil {
		return err
	}
	n := done(s, t.ID, fmt.Sprintf("%s has weight %d.", targetName(t), weight))
	if weight == 0 {
		n.Title, n.Text = targetName(t)+" is draining.", "It gets no new connections; the open ones go on."
	}
	return k.balancerPatched(c, s, c.Param("id"), n)
}

func (k *Console) askRemoveTarget(c echo.Context, s *domain.Scope) error {
	t, err := k.targetOf(c, s)
	if err != nil {
		return err
	}
	f := newForm()
	q := ui.Question{
		Form: f.show(s, "remove-target", c.Request().URL.Path, 0), Title: "Remove target " + targetName(t) + "?", Verb: "Remove", Danger: true,
		Cancel: in(s, balancerPath, "/", c.Param("id")),
	}
	return k.ask(c, s, f, balancerPath, q, provide.Text("Connections to it end at once. Drain it first to let them finish."))
}

func (k *Console) removeTarget(c echo.Context, s *domain.Scope) error {
	t, err := k.targetOf(c, s)
	if err != nil {
		return err
	}
	if err := s.RemoveServer(c.Request().Context(), t.ID); err != nil {
		return err
	}
	return k.balancerPatched(c, s, c.Param("id"), done(s, t.ID, targetName(t)+" is removed."))
}

func targetName(t *domain.ServerDetail) string {
	if t.Name != "" {
		return t.Name
	}
	return t.Target
}

// ---- what these pages share

// trail is the history of a resource.
func trail(s *domain.Scope, id string) string { return in(s, "/audit?resource=", url.QueryEscape(id)) }

// mayWrite refuses a form to those who could not send it.
func (k *Console) mayWrite(s *domain.Scope, p domain.Permission) error {
	if s.Can(p) {
		return nil
	}
	return &domain.Error{
		Kind: domain.Denied, Reason: "no_permission",
		Message: fmt.Sprintf("Your role in %s, %s, does not have the permission %s. An owner of the account can grant it.", s.Account().Name, s.Role(), p),
	}
}

// ask shows a question: a page for a browser, the dialog's content for htmx.
func (k *Console) ask(c echo.Context, s *domain.Scope, f *form, nav string, q ui.Question, body templ.Component) error {
	return showForm(c, f, provide.QuestionPage(k.page(c, s, q.Title, nav), q, body), provide.QuestionForm(q, body))
}

// faultsAt renames the fields that err is about.
func faultsAt(err error, rename func(string) string) {
	for _, e := range domain.Fields(err) {
		e.Field = rename(e.Field)
	}
}

// vpcOptions are the account's VPCs of a region, "" for any.
func vpcOptions(ctx context.Context, s *domain.Scope, region string) ([]ui.Option, error) {
	got, err := s.VPCs(ctx, domain.Query{Limit: 200})
	if err != nil {
		return nil, err
	}
	var options []ui.Option
	for _, v := range got.Items {
		if region == "" || v.RegionID == region {
			options = append(options, ui.Option{Value: v.ID, Label: v.Name + " · " + v.CIDR})
		}
	}
	return options, nil
}

// chosenVPC is the one that was asked for, if it is there, else the first; "" if
// there is none.
func chosenVPC(options []ui.Option, id string) string {
	for _, o := range options {
		if o.Value == id {
			return id
		}
	}
	if len(options) == 0 {
		return ""
	}
	return options[0].Value
}

// zoneChoices are the zones that vSwitches are in, each with the one that has most
// free addresses.
func zoneChoices(switches []domain.VSwitchUse) []ui.ZoneChoice {
	byZone := map[string][]domain.VSwitchUse{}
	for _, v := range switches {
		byZone[v.ZoneID] = append(byZone[v.ZoneID], v)
	}
	var out []ui.ZoneChoice
	for zone, vs := range byZone {
		z := ui.ZoneChoice{ID: zone, Chosen: true}
		free := -1
		for _, v := range vs {
			z.VSwitches = append(z.VSwitches, ui.Option{Value: v.ID, Label: fmt.Sprintf("%s · %s · %s free", v.Name, v.CIDR, ui.Number(v.Free))})
			if v.Free > free {
				free, z.VSwitch = v.Free, v.ID
			}
		}
		out = append(out, z)
	}
	slices.SortFunc(out, func(a, b ui.ZoneChoice) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// zoneRow is a ticked zone of a form, and which row it is.
type zoneRow struct {
	row                    int
	zone, vswitch, address string
}

// chosenZones are the zones that were ticked in a [ui.ZonePicker] named zones.
func chosenZones(f *form) []zoneRow {
	var out []zoneRow
	for i := range maxFormRows {
		at := fmt.Sprintf("zones.%d.", i)
		if f.ticked(at + "zone_id") {
			out = append(out, zoneRow{i, f.text(at + "zone_id"), f.text(at + "vswitch_id"), f.text(at + "address")})
		}
	}
	return out
}

// zoneField names the control that a fault of a zone is about: the store counts
// only the ticked ones.
func zoneField(field string, zones []zoneRow) string {
	part := strings.Split(field, ".")
	if len(part) == 3 {
		if i, err := strconv.Atoi(part[1]); err == nil && i < len(zones) {
			part[1] = strconv.Itoa(zones[i].row)
		}
	}
	return strings.Join(part, ".")
}
