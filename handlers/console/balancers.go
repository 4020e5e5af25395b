package console

import (
	"context"
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
	r.get("/load-balancers/:id/zones/new", k.newBalancerZone)
	r.post("/load-balancers/:id/zones/new", k.addBalancerZone)
	r.get("/load-balancers/:id/zones/:zone/edit", k.editBalancerZone)
	r.post("/load-balancers/:id/zones/:zone/edit", k.updateBalancerZone)
	r.get("/load-balancers/:id/zones/:zone/remove", k.askRemoveBalancerZone)
	r.post("/load-balancers/:id/zones/:zone/remove", k.removeBalancerZone)
	k.listenerRoutes(r)
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
	v := provide.BalancerList{Tabs: balancerTabs(s, balancerPath)}
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

// balancerTabs are the two lists of this area.
func balancerTabs(s *domain.Scope, current string) []ui.Tab {
	return []ui.Tab{
		{Label: "Load balancers", Href: in(s, balancerPath), Current: current == balancerPath},
		{Label: "Server groups", Href: in(s, groupPath), Current: current == groupPath},
	}
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
		ID: b.ID, URL: in(s, balancerPath, "/", b.ID), Name: b.Name, Type: strings.ToUpper(b.Type), CrossZone: b.CrossZone, CPS: b.CPS,
		VPC:     provide.Link{Label: b.VPCName, Href: in(s, "/vpcs/", b.VPCID)},
		Created: b.CreatedAt, Trail: trail(s, b.ID), CanWrite: s.Can(domain.WriteProvide),
	}
	for _, z := range b.Zones {
		zv := provide.BalancerZone{
			Zone: z.ZoneID, VSwitch: provide.Link{Label: z.VSwitchName, Href: in(s, "/vpcs/", b.VPCID) + "?tab=vswitches"}, Address: z.Address,
			Local: z.Local, State: zoneState(z.Health),
		}
		if v.CanWrite {
			zv.URL = v.URL + "/zones/" + z.ZoneID
		}
		v.Zones = append(v.Zones, zv)
	}
	healthy, total := 0, 0
	shown := map[string]string{} // groups that several listeners send to, by the first of them
	for _, l := range b.Listeners {
		lv := listenerView(s, v.URL, l)
		if lv.Same = shown[l.ServerGroupID]; lv.Same != "" {
			lv.Targets = nil
		} else {
			shown[l.ServerGroupID] = lv.Label
		}
		for _, t := range lv.Targets {
			total++
			if t.State.Kind == ui.OK && t.Weight > 0 {
				healthy++
			}
		}
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
		if v.Choices, err = targetChoices(ctx, s, v.VPC); err != nil {
			return err
		}
	}
	if v.Targets = []int{1}; f.values != nil {
		v.Targets = listenerRows(f)
	}
	v.Form = f.show(s, "load-balancer", v.Picker, 0)
	return showDraft(c, f, v.Form.ID, provide.NewBalancerPage(p, v), provide.NewBalancerForm(v))
}

func (k *Console) createBalancer(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	vpc := f.text("vpc_id")
	choices, err := targetChoices(c.Request().Context(), s, vpc)
	if err != nil {
		return err
	}
	if drafted(f, choices.Attachments) {
		return k.balancerForm(c, s, f, vpc)
	}
	what := domain.LoadBalancerInput{Name: f.text("name"), VPCID: vpc, Type: f.text("type"), CrossZone: f.ticked("cross_zone"), CPS: f.number("balancer_cps")}
	local := f.number("local")
	zones := chosenZones(f)
	for _, z := range zones {
		what.Zones = append(what.Zones, domain.LBZoneInput{ZoneID: z.zone, VSwitchID: z.vswitch, Address: z.address, Local: local})
	}
	for i := range f.rows("listeners", listenerControls...) {
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

// balancerField names the control that a fault is about: all zones and all listeners
// that a form makes have the same settings.
func balancerField(field string) string {
	part := strings.Split(field, ".")
	switch {
	case field == "cps":
		return "balancer_cps"
	case len(part) == 3 && part[0] == "zones" && part[2] == "local":
		return "local"
	case len(part) > 2 && part[0] == "listeners":
		return listenerField(part[0]+"."+part[1]+".", strings.Join(part[2:], "."))
	}
	return field
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
	return k.ask(c, s, f, balancerPath, q, provide.BalancerFields(q.Form, provide.BalancerEdit{Name: b.Name, CrossZone: b.CrossZone, CPS: b.CPS, Apart: b.Type != domain.TypeCLB}))
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
	name, cps := f.text("name"), f.number("cps")
	what := domain.LoadBalancerUpdate{Name: &name, CPS: &cps, Version: f.version()}
	if f.ticked("apart") { // there is the choice
		what.CrossZone = new(f.ticked("cross_zone"))
	}
	if f.ok() {
		err = s.UpdateLoadBalancer(c.Request().Context(), c.Param("id"), what)
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

// ---- zones

func (k *Console) newBalancerZone(c echo.Context, s *domain.Scope) error {
	return k.balancerZoneForm(c, s, newForm())
}

func (k *Console) balancerZoneForm(c echo.Context, s *domain.Scope, f *form) error {
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return err
	}
	switches, err := s.VSwitches(c.Request().Context(), b.VPCID)
	if err != nil {
		return err
	}
	var options []ui.Option
	for _, v := range switches {
		if !slices.ContainsFunc(b.Zones, func(z domain.LBZoneDetail) bool { return z.ZoneID == v.ZoneID }) {
			options = append(options, ui.Option{Value: v.ID, Label: v.ZoneID + " · " + v.Name + " · " + v.CIDR})
		}
	}
	q := ui.Question{
		Form: f.show(s, "add-zone", c.Request().URL.Path, b.Version), Title: "Add a zone to " + b.Name, Verb: "Add zone", Cancel: in(s, balancerPath, "/", b.ID),
	}
	return k.ask(c, s, f, balancerPath, q, provide.BalancerZoneFields(q.Form, options))
}

func (k *Console) addBalancerZone(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.LBZoneInput{VSwitchID: f.required("vswitch_id", "Choose a zone."), Address: f.text("address"), Local: f.number("local")}
	if f.ok() {
		err = s.AddLoadBalancerZone(c.Request().Context(), c.Param("id"), what, f.version())
	}
	if f.refused(err) {
		return k.balancerZoneForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.balancerPatched(c, s, c.Param("id"), done(s, c.Param("id"), "The zone is added. Add it to a service, too, for endpoints to use it."))
}

// balancerZone finds the zone of the load balancer that the path names.
func (k *Console) balancerZone(c echo.Context, s *domain.Scope) (*domain.LoadBalancerDetail, *domain.LBZoneDetail, error) {
	b, err := k.writable(c, s, c.Param("id"))
	if err != nil {
		return nil, nil, err
	}
	for i := range b.Zones {
		if b.Zones[i].ZoneID == c.Param("zone") {
			return b, &b.Zones[i], nil
		}
	}
	return nil, nil, echo.ErrNotFound
}

func (k *Console) editBalancerZone(c echo.Context, s *domain.Scope) error {
	return k.balancerZoneEdit(c, s, newForm())
}

func (k *Console) balancerZoneEdit(c echo.Context, s *domain.Scope, f *form) error {
	b, z, err := k.balancerZone(c, s)
	if err != nil {
		return err
	}
	q := ui.Question{
		Form: f.show(s, "edit-zone", c.Request().URL.Path, b.Version), Title: "Addresses in " + z.ZoneID, Verb: "Save", Cancel: in(s, balancerPath, "/", b.ID),
	}
	return k.ask(c, s, f, balancerPath, q, provide.LocalField(q.Form, len(z.Local)))
}

func (k *Console) updateBalancerZone(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	local := f.number("local")
	if f.ok() {
		err = s.UpdateLoadBalancerZone(c.Request().Context(), c.Param("id"), c.Param("zone"), local, f.version())
	}
	if f.refused(err) {
		return k.balancerZoneEdit(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.balancerPatched(c, s, c.Param("id"), done(s, c.Param("id"), "Saved."))
}

func (k *Console) askRemoveBalancerZone(c echo.Context, s *domain.Scope) error {
	b, z, err := k.balancerZone(c, s)
	if err != nil {
		return err
	}
	f := newForm()
	q := ui.Question{
		Form: f.show(s, "remove-zone", c.Request().URL.Path, b.Version), Title: "Take " + b.Name + " out of " + z.ZoneID + "?", Verb: "Remove", Danger: true,
		Cancel: in(s, balancerPath, "/", b.ID),
	}
	return k.ask(c, s, f, balancerPath, q, provide.Text("Its addresses there are free again. This is refused while a service publishes it in the zone or endpoints lead to it there."))
}

func (k *Console) removeBalancerZone(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	if err := s.RemoveLoadBalancerZone(c.Request().Context(), c.Param("id"), c.Param("zone"), f.version()); err != nil {
		return err
	}
	return k.balancerPatched(c, s, c.Param("id"), done(s, c.Param("id"), "It has left zone "+c.Param("zone")+"."))
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
