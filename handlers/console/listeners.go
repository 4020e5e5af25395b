package console

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/provide"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) listenerRoutes(r router) {
	r.get("/load-balancers/:id/add-listener", k.newListener)
	r.post("/load-balancers/:id/add-listener", k.addListener)
	r.get("/load-balancers/:id/listeners/:listener/edit", k.editListener)
	r.post("/load-balancers/:id/listeners/:listener/edit", k.updateListener)
	r.get("/load-balancers/:id/listeners/:listener/delete", k.askDeleteListener)
	r.post("/load-balancers/:id/listeners/:listener/delete", k.deleteListener)
	r.get("/load-balancers/:id/listeners/:listener/add-target", k.newTarget)
	r.post("/load-balancers/:id/listeners/:listener/add-target", k.addTarget)
}

func listenerView(s *domain.Scope, balancer string, l domain.ListenerDetail) provide.Listener {
	v := provide.Listener{
		ID: l.ID, URL: balancer + "/listeners/" + l.ID, Label: l.Opening().String(),
		Group: provide.Link{Label: l.Group.Name, Href: in(s, groupPath, "/", l.Group.ID)},
		Facts: append([]string{provide.SchedulerLabel(l.Group.Scheduler), checkWords(l.Group)}, listenerFacts(l.Listener)...),
	}
	slices.SortStableFunc(l.Servers, func(a, b domain.ServerDetail) int {
		return cmp.Or(strings.Compare(a.ZoneID, b.ZoneID), strings.Compare(a.Name, b.Name))
	})
	for _, t := range l.Servers {
		v.Targets = append(v.Targets, targetView(s, balancer, t, l.Group))
	}
	return v
}

// listenerFacts say what is set of a listener, in a few words each.
func listenerFacts(l domain.Listener) []string {
	facts := []string{fmt.Sprintf("idle limit %d s", l.IdleTimeout)}
	if l.CPS > 0 {
		facts = append(facts, ui.Number(l.CPS)+" new connections/s")
	}
	if l.MaxConnections > 0 {
		facts = append(facts, "at most "+ui.Number(l.MaxConnections)+" connections")
	}
	if l.MSS > 0 {
		facts = append(facts, fmt.Sprintf("MSS %d", l.MSS))
	}
	if l.Proxy.Enabled {
		facts = append(facts, "PROXY v2 ("+l.Proxy.Dialect+")")
	}
	return facts
}

// ---- forms

// The lists of the forms for load balancers and listeners.
var (
	listenerControls = []string{"port", "protocol", "server_group_id"}
	targetControls   = []string{"attachment_id", "address", "port", "weight"}
)

func serversOf(listener int) string { return fmt.Sprintf("listeners.%d.servers", listener) }

// listenerRows counts the target rows of each listener that a form has.
func listenerRows(f *form) []int {
	var rows []int
	for i := range f.rows("listeners", listenerControls...) {
		rows = append(rows, len(f.rows(serversOf(i), targetControls...)))
	}
	return rows
}

// drafted answers the buttons that add or remove a listener or a target, and

// drafted answers the buttons that add or remove a listener or a target, and
// reports whether one was pressed: then the form is not sent yet.
func drafted(f *form, attachments []ui.Option) bool {
	more, less := f.text(provide.MoreRows), f.text(provide.LessRows)
	switch {
	case more == provide.ListenerRow:
		n := len(f.rows("listeners", listenerControls...))
		f.set(fmt.Sprintf("listeners.%d.port", n), "")
		f.setRows(serversOf(n), []formRow{newTargetRow(attachments, 0)})
	case more != "":
		if i, err := strconv.Atoi(more); err == nil {
			rows := f.rows(serversOf(i), targetControls...)
			f.setRows(serversOf(i), append(rows, newTargetRow(attachments, len(rows))))
		}
	case less != "":
		listener, target, _ := strings.Cut(less, ".")
		i, err1 := strconv.Atoi(listener)
		j, err2 := strconv.Atoi(target)
		if rows := f.rows(serversOf(i), targetControls...); err1 == nil && err2 == nil && j >= 0 && j < len(rows) {
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
	at := fmt.Sprintf("listeners.%d.", i)
	l := domain.ListenerInput{
		Protocol: f.text(at + "protocol"), ServerGroupID: f.text(at + "server_group_id"), Scheduler: f.text("scheduler"),
		IdleTimeout: f.number("idle_timeout"), CPS: f.number("cps"), MaxConnections: f.number("max_connections"), MSS: f.number("mss"), Proxy: readProxy(f),
		Health: readHealth(f),
	}
	l.Port, l.PortFrom, l.PortTo = f.span(at + "port")
	if l.ServerGroupID != "" {
		return l
	}
	rows := slices.DeleteFunc(f.rows(serversOf(i), targetControls...), func(r formRow) bool { return r["attachment_id"] == "" && r["address"] == "" })
	f.setRows(serversOf(i), rows)
	for j := range rows {
		l.Servers = append(l.Servers, readTarget(f, fmt.Sprintf("%s.%d.", serversOf(i), j), l.Port))
	}
	return l
}

// span is a field that holds a port, a range or "any".
func (f *form) span(name string) (port, from, to int) {
	text := f.text(name)
	if strings.EqualFold(text, "any") {
		return 0, 1, 65535
	}
	number := func(s string) int {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil {
			f.wrong(name, "This is a port, a range such as 1000-2000, or any.")
		}
		return n
	}
	if first, last, ranged := strings.Cut(text, "-"); ranged {
		return 0, number(first), number(last)
	}
	return number(text), 0, 0
}

// listenerField names the control that a fault of a listener is about; under is what
// the names of its own controls begin with.
func listenerField(under, field string) string {
	switch first, _, _ := strings.Cut(field, "."); first {
	case "port", "port_from", "port_to":
		return under + "port"
	case "protocol", "server_group_id":
		return under + field
	case "servers":
		return under + targetField(field)
	}
	return field
}

func readProxy(f *form) domain.ProxyProtocol {
	ids := f.all("proxy.ids")
	return domain.ProxyProtocol{
		Enabled: f.ticked("proxy.enabled"), Dialect: f.text("proxy.dialect"),
		VPC: slices.Contains(ids, provide.ProxyVPC), Endpoint: slices.Contains(ids, provide.ProxyEndpoint), Service: slices.Contains(ids, provide.ProxyService),
	}
}

func (k *Console) newListener(c echo.Context, s *domain.Scope) error {
	return k.listenerForm(c, s, newForm())
}

func (k *Console) listenerForm(c echo.Context, s *domain.Scope, f *form) error {
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return err
	}
	back := in(s, balancerPath, "/", b.ID)
	v := provide.NewListener{Balancer: b.Name, Back: back, Targets: []int{1}, Full: b.Type != domain.TypeCLB}
	if v.Choices, err = targetChoices(c.Request().Context(), s, b.VPCID, b.Type); err != nil {
		return err
	}
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
	choices, err := targetChoices(c.Request().Context(), s, b.VPCID, b.Type)
	if err != nil {
		return err
	}
	if drafted(f, choices.Attachments) {
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
	faultsAt(err, func(field string) string { return listenerField("listeners.0.", field) })
	if f.refused(err) {
		return k.listenerForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, balancerPath+"/"+b.ID, done(s, b.ID, "The listener is added. New targets are being checked."))
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
		Form: f.show(s, "edit-listener", c.Request().URL.Path, b.Version), Title: "Edit listener " + l.Opening().String(), Verb: "Save",
		Cancel: in(s, balancerPath, "/", b.ID),
	}
	v := provide.ListenerEdit{
		Port: strings.ToLower(strings.TrimPrefix(l.Opening().Ports(), "any ")), Protocol: l.Protocol, Group: l.ServerGroupID, Idle: l.IdleTimeout,
		CPS: l.CPS, MaxConnections: l.MaxConnections, MSS: l.MSS, Proxy: l.Proxy.Enabled, Dialect: l.Proxy.Dialect, Full: b.Type != domain.TypeCLB,
	}
	for id, on := range map[string]bool{provide.ProxyVPC: l.Proxy.VPC, provide.ProxyEndpoint: l.Proxy.Endpoint, provide.ProxyService: l.Proxy.Service} {
		if on {
			v.IDs = append(v.IDs, id)
		}
	}
	choices, err := targetChoices(c.Request().Context(), s, b.VPCID, b.Type)
	if err != nil {
		return err
	}
	v.Groups = choices.Groups
	return k.ask(c, s, f, balancerPath, q, provide.ListenerFields(q.Form, v))
}

func (k *Console) updateListener(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	if _, _, err := k.listenerOf(c, s); err != nil {
		return err
	}
	port, from, to := f.span("port")
	what := domain.ListenerUpdate{
		Port: &port, PortFrom: &from, PortTo: &to, IdleTimeout: new(f.number("idle_timeout")), ServerGroupID: new(f.text("server_group_id")),
		CPS: new(f.number("cps")), MaxConnections: new(f.number("max_connections")), MSS: new(f.number("mss")), Proxy: new(readProxy(f)), Version: f.version(),
	}
	if f.ok() {
		err = s.UpdateListener(c.Request().Context(), c.Param("listener"), what)
	}
	faultsAt(err, func(field string) string { return listenerField("", field) })
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
		Form: f.show(s, "delete-listener", c.Request().URL.Path, b.Version), Title: "Delete listener " + l.Opening().String() + "?", Verb: "Delete", Danger: true,
		Cancel: in(s, balancerPath, "/", b.ID),
	}
	return k.ask(c, s, f, balancerPath, q, provide.Text(deletes(l.Group)))
}

func (k *Console) deleteListener(c echo.Context, s *domain.Scope) error {
	_, l, err := k.listenerOf(c, s)
	if err != nil {
		return err
	}
	if err := s.DeleteListener(c.Request().Context(), l.ID); err != nil {
		return err
	}
	return k.balancerPatched(c, s, c.Param("id"), done(s, c.Param("id"), "Listener "+l.Opening().String()+" is deleted."))
}

// deletes says what a listener's deletion takes along.
func deletes(g domain.ServerGroup) string {
	if g.Kept {
		return "Connections through it end. The server group " + g.Name + " stays."
	}
	return "Connections through it end. Its targets go with it, if no other listener sends to them."
}
