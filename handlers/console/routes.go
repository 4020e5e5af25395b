package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/layout"
	"github.com/openprivatelink/openprivatelink/web/network"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) routesArea(r router) {
	r.get("/route-tables", k.routeTables)
	r.get("/route-tables/:id", k.routeTable)
	r.get("/route-tables/:id/edit", k.editRoutes)
	r.post("/route-tables/:id/edit", k.draftRoutes)
	r.post("/route-tables/:id/routes", k.applyRoutes)
	r.resource("route-tables", func(ctx context.Context, s *domain.Scope, id string) error {
		_, err := s.RouteTable(ctx, id)
		return err
	})
	r.live(domain.KindRouteTable, k.routeTableChanged)
}

func (k *Console) routeTables(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Route tables", "/route-tables")
	l := readList(c, s, "/route-tables", "vpc")
	got, err := s.RouteTables(c.Request().Context(), l.domain())
	if err != nil {
		return err
	}
	var v network.Tables
	if v.Selects, err = byVPC(c, s, l); err != nil {
		return err
	}
	if s.Can(domain.WriteNetwork) {
		v.CreateVPC = p.URL("/vpcs/new")
	}
	for _, x := range got.Items {
		v.Rows = append(v.Rows, tableRow(s, x))
	}
	v.List = l.fill(v.Frame(), ids(v.Rows, func(r network.Table) string { return r.ID }), got.Prev, got.Next)
	return list(c, v.List, network.TablesPage(p, v), network.TablesResults(v))
}

func tableRow(s *domain.Scope, t domain.RouteTableSummary) network.Table {
	return network.Table{
		URL: in(s, "/route-tables/", t.ID), ID: t.ID, Name: t.Name, VPC: ui.Crumb{Label: t.VPCName, Href: in(s, "/vpcs/", t.VPCID)},
		System: t.System, Custom: t.Custom,
	}
}

func (k *Console) routeTableChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	t, err := one(ctx, s.RouteTables, id, func(t domain.RouteTableSummary) string { return t.ID })
	if err != nil {
		return nil, err
	}
	return patch(liveID(domain.KindRouteTable, id), network.TableRow(tableRow(s, t))), nil
}

func (k *Console) routeTable(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Route table", "/route-tables")
	d, err := s.RouteTable(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = "Routes of " + d.Name
	v := tableView(s, d)
	code := http.StatusOK
	switch address := strings.TrimSpace(c.QueryParam("address")); {
	case c.QueryParam("tab") == network.TabAudit:
		if v.Audit, err = k.history(c, s, d.ID); err != nil {
			return err
		}
	case address != "":
		v.Lookup.Address = address
		found, err := s.LookupRoute(ctx, d.ID, address)
		switch {
		case domain.KindOf(err) == domain.Invalid:
			v.Lookup.Error, code = failureOf(err).Text, http.StatusUnprocessableEntity
		case err != nil:
			return err
		case found.Status == domain.RouteNone:
			v.Lookup.None = true
		default:
			r := routeView(s, *found)
			v.Lookup.Found = &r
		}
	}
	page := network.TablePage(p, v)
	return showStatus(c, code, page, network.LookupCard(v.Lookup))
}

func tableView(s *domain.Scope, d *domain.RouteTableDetail) network.TableView {
	v := network.TableView{
		Table: tableRow(s, domain.RouteTableSummary{RouteTable: d.RouteTable, VPCName: d.VPC.Name}),
		May:   s.Can(domain.WriteNetwork),
	}
	v.Lookup.URL = v.URL
	for _, r := range d.Routes {
		if r.Origin == domain.RouteCustom {
			v.Custom++
		} else {
			v.System++
		}
		v.Routes = append(v.Routes, routeView(s, r))
	}
	return v
}

func routeView(s *domain.Scope, r domain.RouteView) network.Route {
	v := network.Route{Destination: r.Destination, Hop: ui.Crumb{Label: r.NextHopName}, Description: r.Description, Origin: "custom"}
	if r.Origin == domain.RouteSystem {
		v.Origin = "system"
	}
	switch r.NextHopType {
	case domain.NextHopLocal:
		v.HopKind = "the vSwitch itself"
	case domain.NextHopAttachment:
		v.Hop.Href, v.HopKind = in(s, "/attachments/", r.NextHopID), "attachment"
	}
	v.Status = ui.State{Kind: ui.OK, Word: "Active"}
	if r.Status == domain.RouteBlackhole {
		v.Status = ui.State{Kind: ui.Warn, Word: "Black hole", Title: "The next hop is not there: what is sent this way is lost"}
	}
	return v
}

// ---- the draft
//
// Editing is three steps that take turns on one page: the draft, its review, and,
// if somebody else was faster, a merge. All they know travels in the form.

// blankRows are offered below the routes there are.
const blankRows = 3

var routeFields = []string{network.Destination, network.NextHop, network.Description}

// customRoutes are the routes of the table that can be edited.
func customRoutes(d *domain.RouteTableDetail) []domain.RouteView {
	var out []domain.RouteView
	for _, r := range d.Routes {
		if r.Origin == domain.RouteCustom {
			out = append(out, r)
		}
	}
	return out
}

func routeRow(destination, hop, description string) formRow {
	return formRow{network.Destination: destination, network.NextHop: hop, network.Description: description}
}

// baseOf writes down the routes that a draft begins with: a line each, destination
// and next hop.
func baseOf(d *domain.RouteTableDetail) string {
	var b strings.Builder
	for _, r := range customRoutes(d) {
		b.WriteString(r.Destination + " " + r.NextHopID + "\n")
	}
	return b.String()
}

// parseBase is the inverse of baseOf: next hops by destination.
func parseBase(base string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(base) {
		if destination, hop, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			out[destination] = hop
		}
	}
	return out
}

func (k *Console) editRoutes(c echo.Context, s *domain.Scope) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	d, err := s.RouteTable(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	f := newForm()
	var rows []formRow
	for _, r := range customRoutes(d) {
		rows = append(rows, routeRow(r.Destination, r.NextHopID, r.Description))
	}
	f.setRows("routes", withBlanks(rows))
	f.set(network.BaseField, baseOf(d))
	f.set("version", strconv.FormatInt(d.Version, 10))
	return k.routeDraft(c, s, d, f)
}

func withBlanks(rows []formRow) []formRow {
	for range blankRows {
		rows = append(rows, routeRow("", "", ""))
	}
	return rows
}

// routeDraft shows the draft that f holds.
func (k *Console) routeDraft(c echo.Context, s *domain.Scope, d *domain.RouteTableDetail, f *form) error {
	p := k.page(c, s, "Edit routes", "/route-tables")
	hops, err := nextHops(c.Request().Context(), s, d)
	if err != nil {
		return err
	}
	v := network.Draft{Table: tableView(s, d), Rows: len(f.rows("routes", routeFields...)), Hops: []ui.Option{{Label: "Choose an attachment"}}}
	for _, a := range hops {
		v.Hops = append(v.Hops, ui.Option{Value: a.ID, Label: fmt.Sprintf("%s · %s · zone %s", a.Name, a.Address, zoneName(a.ZoneID))})
	}
	v.Form = f.show(s, "routes", v.Table.URL+"/edit", f.version())
	code := http.StatusOK
	if !f.ok() {
		code = http.StatusUnprocessableEntity
	}
	return draftStep(c, code, p, v.Table.Table, "Edit routes", network.EditDraft(v))
}

// draftStep answers with one of the steps.
func draftStep(c echo.Context, code int, p layout.Page, t network.Table, step string, content templ.Component) error {
	return showStatus(c, code, network.DraftPage(p, t, step, content), network.DraftStep(content))
}

// nextHops are the attachments that can forward packets of the table's VPC.
func nextHops(ctx context.Context, s *domain.Scope, d *domain.RouteTableDetail) ([]domain.AttachmentSummary, error) {
	return every(ctx, s.Attachments, domain.Query{Filter: map[string][]string{
		"vpc": {d.VPCID}, "kind": {domain.AttachManaged, domain.AttachAdopted, domain.AttachInterface},
	}})
}

// draftRoutes is every button of the draft and of the merge: it changes the rows,
// or leads to the review.
func (k *Console) draftRoutes(c echo.Context, s *domain.Scope) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	d, err := s.RouteTable(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	rows := f.rows("routes", routeFields...)
	switch {
	case f.ticked(network.AddRow):
		f.setRows("routes", withBlanks(rows))
		return k.routeDraft(c, s, d, f)
	case f.ticked(network.RemoveRow):
		f.setRows("routes", f.without(rows))
		return k.routeDraft(c, s, d, f)
	case f.ticked("merge"):
		rows = merged(f)
	}
	if rows, err = k.pasted(ctx, s, d, f, rows); err != nil {
		return err
	}
	draft := setDraft(f, rows)
	var diff *domain.RouteDiff
	if f.ok() {
		diff, err = s.PlanRoutes(ctx, d.ID, draft)
	}
	if f.refused(err) {
		return k.routeDraft(c, s, d, f)
	}
	if err != nil {
		return err
	}
	return k.routeReview(c, s, d, f, diff)
}

// setDraft makes the rows that are not blank the form's, and returns them for the
// store: their numbers are the same.
func setDraft(f *form, rows []formRow) []domain.RouteInput {
	var kept []formRow
	var draft []domain.RouteInput
	for _, r := range rows {
		if r.blank() {
			continue
		}
		kept = append(kept, r)
		draft = append(draft, domain.RouteInput{Destination: r[network.Destination], NextHopID: r[network.NextHop], Description: r[network.Description]})
	}
	f.setRows("routes", kept)
	return draft
}

// pasted adds the lines that were pasted to the rows.
func (k *Console) pasted(ctx context.Context, s *domain.Scope, d *domain.RouteTableDetail, f *form, rows []formRow) ([]formRow, error) {
	text := f.values.Get(network.PasteField)
	if strings.TrimSpace(text) == "" {
		return rows, nil
	}
	hops, err := nextHops(ctx, s, d)
	if err != nil {
		return nil, err
	}
	rows = append([]formRow(nil), rows...)
	for i := len(rows) - 1; i >= 0 && rows[i].blank(); i-- {
		rows = rows[:i]
	}
	var left []string // what is not understood stays where it was typed
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		hop := ""
		for _, a := range hops {
			if len(words) > 1 && (a.ID == words[1] || a.Name == words[1]) {
				hop = a.ID
			}
		}
		switch {
		case len(rows) >= maxFormRows:
			f.wrong(network.PasteField, "A draft has at most %d routes.", maxFormRows)
		case hop == "":
			f.wrong(network.PasteField, "No attachment of %s that forwards packets is meant by this line: %s", d.VPC.Name, strings.TrimSpace(line))
		default:
			rows = append(rows, routeRow(words[0], hop, strings.Join(words[2:], " ")))
			continue
		}
		left = append(left, strings.TrimSpace(line))
	}
	f.set(network.PasteField, strings.Join(left, "\n"))
	return rows, nil
}

// routeReview shows what the draft in f would change.
func (k *Console) routeReview(c echo.Context, s *domain.Scope, d *domain.RouteTableDetail, f *form, diff *domain.RouteDiff) error {
	p := k.page(c, s, "Review routes", "/route-tables")
	v := network.Review{Table: tableView(s, d), Kept: len(diff.Kept), Warnings: diff.Warnings}
	for _, r := range diff.Added {
		v.Added = append(v.Added, routeView(s, r))
	}
	for _, r := range diff.Removed {
		v.Removed = append(v.Removed, routeView(s, r))
	}
	for i, r := range f.rows("routes", routeFields...) {
		for _, name := range routeFields {
			v.Draft = append(v.Draft, ui.Pair{Name: "routes." + strconv.Itoa(i) + "." + name, Value: r[name]})
		}
	}
	v.Draft = append(v.Draft, ui.Pair{Name: network.BaseField, Value: f.values.Get(network.BaseField)})
	v.Form = f.show(s, "apply", v.Table.URL+"/routes", f.version())
	return draftStep(c, http.StatusOK, p, v.Table.Table, "Review", network.ReviewDraft(v))
}

func (k *Console) applyRoutes(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	d, err := s.RouteTable(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	draft := setDraft(f, f.rows("routes", routeFields...))
	if f.ticked(network.BackField) {
		if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
			return err
		}
		f.setRows("routes", withBlanks(f.rows("routes", routeFields...)))
		return k.routeDraft(c, s, d, f)
	}
	diff, err := s.ReplaceRoutes(ctx, d.ID, draft, f.version())
	if de, ok := errors.AsType[*domain.Error](err); ok && de.Reason == domain.KindRouteTable+"_changed" {
		return k.routeMerge(c, s, f)
	}
	if f.refused(err) {
		return k.routeDraft(c, s, d, f)
	}
	if err != nil {
		return err
	}
	n := done(s, d.ID, "Routes applied.")
	n.Text = fmt.Sprintf("%d added, %d removed, %d kept.", len(diff.Added), len(diff.Removed), len(diff.Kept))
	return k.seeOther(c, s, "/route-tables/"+d.ID, n)
}

// ---- the merge

// routeMerge puts the draft in f beside what is in the table now.
func (k *Console) routeMerge(c echo.Context, s *domain.Scope, f *form) error {
	p := k.page(c, s, "Merge routes", "/route-tables")
	ctx := c.Request().Context()
	d, err := s.RouteTable(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	hops, err := nextHops(ctx, s, d)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, a := range hops {
		names[a.ID] = a.Name
	}
	theirs, yours := map[string]network.Side{}, map[string]network.Side{}
	var order []string
	add := func(sides map[string]network.Side, destination, hop, description string) {
		if theirs[destination].HopID == "" && yours[destination].HopID == "" {
			order = append(order, destination)
		}
		sides[destination] = network.Side{HopID: hop, Hop: nameOr(names, hop), Description: description}
	}
	for _, r := range customRoutes(d) {
		add(theirs, r.Destination, r.NextHopID, r.Description)
	}
	for _, r := range f.rows("routes", routeFields...) {
		add(yours, r[network.Destination], r[network.NextHop], r[network.Description])
	}
	base := parseBase(f.values.Get(network.BaseField))
	v := network.Merge{Table: tableView(s, d), Base: baseOf(d)}
	for _, destination := range order {
		t, y := theirs[destination], yours[destination]
		if t == y {
			v.Same = append(v.Same, network.MergeRow{Destination: destination, Yours: y})
			continue
		}
		began := base[destination]
		v.Rows = append(v.Rows, network.MergeRow{
			Destination: destination, Began: nameOr(names, began), Theirs: t, Yours: y,
			BothChanged: t.HopID != began && y.HopID != began, PreferTheirs: y.HopID == began && t.HopID != began,
		})
	}
	v.Form = ui.Form{ID: "merge", Action: v.Table.URL + "/edit", Hidden: hidden(s, d.Version)}
	return draftStep(c, http.StatusConflict, p, v.Table.Table, "Merge", network.MergeDraft(v))
}

func nameOr(names map[string]string, id string) string {
	if n := names[id]; n != "" {
		return n
	}
	return id
}

// merged are the rows that a merge chose.
func merged(f *form) []formRow {
	yours, theirs := f.rows(network.YoursList, routeFields...), f.rows(network.TheirsList, routeFields...)
	var out []formRow
	for i, y := range yours {
		r := routeRow(y[network.Destination], y[network.NextHop], y[network.Description])
		if f.text(network.KeepList+"."+strconv.Itoa(i)) == network.TheirsList && i < len(theirs) {
			r[network.NextHop], r[network.Description] = theirs[i][network.NextHop], theirs[i][network.Description]
		}
		if r[network.NextHop] != "" {
			out = append(out, r)
		}
	}
	return append(out, f.rows("routes", routeFields...)...)
}
