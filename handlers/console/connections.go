package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/layout"
	"github.com/openprivatelink/openprivatelink/web/overview"
	"github.com/openprivatelink/openprivatelink/web/provide"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) connectionArea(r router) {
	r.get("/connections", k.connections)
	r.get("/connections/:id", k.connection)
	r.post("/connections/:id/accept", k.accept)
	r.get("/connections/:id/reject", k.askReject)
	r.post("/connections/:id/reject", k.reject)
	r.post("/connections/:id/undo", k.undo)
	r.post("/connections/:id/cut", k.cut)
	r.get("/connections/:id/terms", k.editTerms)
	r.post("/connections/:id/terms", k.setTerms)
	r.post("/connections/:id/zones/:zone/accept", k.acceptZone)
	r.get("/connections/:id/zones/:zone/reject", k.askRejectZone)
	r.post("/connections/:id/zones/:zone/reject", k.rejectZone)
	r.get("/connections/:id/zones/:zone/replace", k.askReplace)
	r.post("/connections/:id/zones/:zone/replace", k.replace)
	r.get("/connections/:id/zones/:zone/close", k.askCloseReplaced)
	r.post("/connections/:id/zones/:zone/close", k.closeReplaced)
	r.get("/connections/:id/traffic", k.connectionTraffic)
	r.resource("connections", func(ctx context.Context, s *domain.Scope, id string) error {
		_, err := s.Connection(ctx, id)
		return err
	})
	r.live(domain.KindConnection, k.connectionChanged)
}

const (
	connectionPath = "/connections"
	connectionList = "connections" // id of the list
)

func (k *Console) connections(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Connections", connectionPath)
	l := readList(c, s, connectionPath, "decision", "service")
	got, err := s.Connections(ctx, domain.ConnQuery{Query: l.domain()})
	if err != nil {
		return err
	}
	v := provide.Inbox{Services: p.URL(servicePath), View: l.get("decision")}
	for _, x := range got.Items {
		v.Rows = append(v.Rows, connectionRow(s, x))
	}
	asked := l.get("decision")
	ul := ui.List{ID: connectionList, Filter: &ui.Filter{Keep: pairs("decision", asked)}, Filtered: l.filtered("decision")}
	ul.Views, err = inboxViews(ctx, s)
	if err != nil {
		return err
	}
	for i := range ul.Views {
		decision := ul.Views[i].Href
		ul.Views[i].Href, ul.Views[i].Current = l.with("decision", decision), asked == decision
	}
	if ul.Filter.Selects, err = byService(ctx, s, l.get("service")); err != nil {
		return err
	}
	v.List = l.fill(ul, ids(got.Items, func(x domain.ConnectionSummary) string { return x.EndpointID }), got.Prev, got.Next)
	v.List.Filtered = ul.Filtered
	return list(c, v.List, provide.Connections(p, v), provide.ConnectionResults(v))
}

// maxChoices is how many services can be chosen from; beyond, the text finds one
// by its id.
const maxChoices = 50

// byService is the filter of the inbox by service; it is left out where there is
// only one.
func byService(ctx context.Context, s *domain.Scope, chosen string) ([]ui.FilterSelect, error) {
	got, err := s.Services(ctx, domain.Query{Limit: maxChoices})
	if err != nil || (len(got.Items) < 2 && chosen == "") || (got.Next != "" && chosen == "") {
		return nil, err
	}
	f := ui.FilterSelect{Name: "service", Label: "Service", Value: chosen, Options: []ui.Option{{Label: "All services"}}}
	for _, svc := range got.Items {
		f.Options = append(f.Options, ui.Option{Value: svc.ID, Label: svc.Name})
	}
	if chosen != "" && !slices.ContainsFunc(f.Options, func(o ui.Option) bool { return o.Value == chosen }) {
		f.Options = append(f.Options, ui.Option{Value: chosen, Label: chosen})
	}
	return []ui.FilterSelect{f}, nil
}

// inboxViews are the views of the inbox with their numbers; each Href is only the
// decision that the view is about.
func inboxViews(ctx context.Context, s *domain.Scope) ([]ui.Tab, error) {
	waiting, connected, rejected, expired, err := s.ConnectionCounts(ctx)
	if err != nil {
		return nil, err
	}
	views := []ui.Tab{
		{Label: "Waiting", Href: string(domain.Waiting), N: waiting, Kind: ui.Waiting},
		{Label: "Connected", Href: string(domain.Accepted), N: connected},
		{Label: "Rejected", Href: string(domain.Rejected), N: rejected},
		{Label: "Expired", Href: string(domain.Expired), N: expired},
		{Label: "All", N: waiting + connected + rejected + expired},
	}
	for i := range views {
		views[i].Counted, views[i].ID = true, "view-"+strings.ToLower(views[i].Label)
	}
	return views, nil
}

// connectionRow is a connection as its provider decides about it.
func connectionRow(s *domain.Scope, x domain.ConnectionSummary) provide.Connection {
	r := provide.Connection{
		EndpointID: x.EndpointID, URL: in(s, connectionPath, "/", x.EndpointID), Consumer: cmp.Or(x.ConsumerName, x.ConsumerID), ConsumerID: x.ConsumerID,
		Service: provide.Link{Label: x.ServiceName}, Zones: plainZones(x.Zones), Message: x.RequestMessage, State: drainingState(connectionState(x.Status, x.Decision), x.DrainUntil),
		Since: x.CreatedAt, Bandwidth: x.Bandwidth, Drains: moment(x.DrainUntil), Hidden: hidden(s, x.Version),
	}
	if x.Status != domain.ServiceDeleted {
		r.Service.Href = in(s, servicePath, "/", x.ServiceID)
	}
	if x.Rank > 0 {
		r.Since = time.UnixMicro(x.Rank)
	}
	if s.Can(domain.WriteProvide) {
		r.CanAccept = x.Status == domain.Disconnected
		r.CanReject = x.Decision != domain.Rejected && (x.Decision == domain.Waiting || carrying(x.Connection))
		r.Confirm = carrying(x.Connection)
		r.CanCut = x.DrainUntil != nil
	}
	return r
}

// moment is the time that t points to, or zero.
func moment(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// carrying reports whether a rejection would cut something.
func carrying(x domain.Connection) bool {
	return x.Status == domain.Connecting || x.Status == domain.Connected || x.Status == domain.Pending
}

// serviceConnections is the connections of one service, on its page.
func (k *Console) serviceConnections(c echo.Context, s *domain.Scope, v provide.Service) error {
	p := k.page(c, s, v.Name, servicePath)
	l := readList(c, s, servicePath+"/"+v.ID, "tab")
	q := l.domain()
	q.Filter["service"] = []string{v.ID}
	got, err := s.Connections(c.Request().Context(), domain.ConnQuery{Query: q})
	if err != nil {
		return err
	}
	var t provide.ConnectionTab
	for _, x := range got.Items {
		t.Rows = append(t.Rows, connectionRow(s, x))
	}
	t.List = l.fill(ui.List{ID: connectionList, Filter: &ui.Filter{Keep: pairs("tab", tabConnections)}}, ids(got.Items, func(x domain.ConnectionSummary) string { return x.EndpointID }), got.Prev, got.Next)
	t.List.Filtered = l.filtered("tab")
	v.Connections = &t
	if listPart(c, t.List) {
		return list(c, t.List, provide.ServicePage(p, v), provide.ServiceConnectionResults(t))
	}
	return show(c, provide.ServicePage(p, v), provide.ServiceParts(v))
}

// connectionChanged patches the row wherever it is, the numbers of waiting
// requests, and tells the pages that show more of it.
func (k *Console) connectionChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	parts, err := k.connectionParts(ctx, s, id)
	if err != nil {
		return nil, err
	}
	return templ.Join(parts...), nil
}

func (k *Console) connectionParts(ctx context.Context, s *domain.Scope, id string) ([]templ.Component, error) {
	views, err := inboxViews(ctx, s)
	if err != nil {
		return nil, err
	}
	parts := []templ.Component{layout.Pending(views[0].N), ui.Added(overview.DOM)}
	for _, v := range views {
		parts = append(parts, patch(v.ID, ui.TabCount(v)))
	}
	read := func(ctx context.Context, q domain.Query) (domain.Page[domain.ConnectionSummary], error) {
		return s.Connections(ctx, domain.ConnQuery{Query: q})
	}
	x, err := one(ctx, read, id, func(x domain.ConnectionSummary) string { return x.EndpointID })
	switch {
	case domain.KindOf(err) == domain.NotFound:
		return append(parts, ui.Remove(liveID(domain.KindConnection, id))), nil
	case err != nil:
		return nil, err
	}
	row := connectionRow(s, x)
	parts = append(parts, patch(row.DOM(), provide.ConnectionLine(row)), ui.Added(provide.Decision{Connection: row}.PageDOM()))
	if time.Since(x.CreatedAt) < addedFor {
		parts = append(parts, ui.Added(connectionList))
	}
	return parts, nil
}

// ---- one connection

func (k *Console) connection(c echo.Context, s *domain.Scope) error {
	return k.showConnection(c, s, newForm())
}

func (k *Console) showConnection(c echo.Context, s *domain.Scope, f *form) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Connection", connectionPath)
	d, err := s.Connection(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	v := decisionView(s, d, f)
	if err := k.neighbours(ctx, s, &v, d); err != nil {
		return err
	}
	p.Title = v.Title()
	part := provide.DecisionParts(v)
	if !f.ok() {
		part = provide.DecisionForm(v)
	}
	return showForm(c, f, provide.DecisionPage(p, v), part)
}

func decisionView(s *domain.Scope, d *domain.ConnectionDetail, f *form) provide.Decision {
	v := provide.Decision{
		Connection: connectionRow(s, d.ConnectionSummary), SeenAs: d.SeenAs, Decided: d.DecidedBy, Answer: d.DecisionMessage, Trail: trail(s, d.EndpointID),
		Hops: connectionHops(d), Events: connectionEvents(d),
	}
	v.Form = f.show(s, "decision", v.URL+"/accept", d.Version)
	v.Terms = termsOf(d.Rule, d.Connection)
	v.CanChange = s.Can(domain.WriteProvide) && d.Status == domain.Connected
	if d.UndoUntil != nil {
		v.Undo = undoPost(s, d.Connection)
	}
	if d.Decision == domain.Accepted || d.DrainUntil != nil {
		v.Traffic = trafficOf(d.Counters)
	}
	for _, z := range d.ZoneStates {
		v.ZoneStates = append(v.ZoneStates, connectionZone(s, d, z))
	}
	for _, check := range d.Checks {
		line := ui.CheckLine{Kind: checkKinds[check.State], Title: check.Title, Text: check.Detail, Value: check.Value}
		if check.State != domain.CheckOK {
			line.Href = checkHref(s, check.ID, d.ServiceID)
		}
		v.Checks = append(v.Checks, line)
	}
	return v
}

var checkKinds = map[domain.CheckState]ui.Kind{domain.CheckOK: ui.OK, domain.CheckWarn: ui.Warn, domain.CheckBad: ui.Bad}

// checkHref is where a check that failed can be put right.
func checkHref(s *domain.Scope, check, service string) string {
	switch check {
	case "whitelist":
		return in(s, servicePath, "/", service, "?tab="+tabWhitelist)
	case "zones", "listeners", "targets":
		return in(s, servicePath, "/", service, "?tab="+tabResources)
	}
	return ""
}

func trafficOf(n domain.Counters) *provide.Traffic {
	return &provide.Traffic{Active: n.Active, Flows: n.Flows, Refused: n.Refused, In: n.In, Out: n.Out}
}

// connectionHops draws the way as its provider may see it: of the consumer's
// network nothing but the zones.
func connectionHops(d *domain.ConnectionDetail) []ui.Hop {
	zones := make([]string, len(d.Zones))
	for i, z := range d.Zones {
		zones[i] = "zone " + zoneName(z)
	}
	service := ui.Hop{Side: ui.Provider, Icon: "server", Kind: "Your service", Title: d.ServiceName}
	for _, check := range d.Checks {
		switch check.ID {
		case "listeners":
			service.Lines = append(service.Lines, check.Value)
		case "targets":
			service.Lines = append(service.Lines, check.Value+" healthy")
		}
	}
	return []ui.Hop{
		{Side: ui.Consumer, Icon: "building-2", Kind: "Consumer VPC", Title: cmp.Or(d.ConsumerName, d.ConsumerID), Lines: []string{"addresses stay", "private to them"}},
		{Side: ui.Consumer, Icon: "plug", Kind: "Endpoint", Title: ui.Plural(len(zones), "interface", ""), Lines: []string{strings.Join(zones, ", ")}},
		{Icon: "shuffle", Kind: "Gateway", Title: "Zone by zone", Lines: []string{"new addresses", "on your side"}},
		service,
	}
}

// connectionEvents are what happened to a connection, newest first.
func connectionEvents(d *domain.ConnectionDetail) []ui.Event {
	var out []ui.Event
	if d.Decision == domain.Waiting && d.Status == domain.Disconnected {
		out = append(out, ui.Event{Kind: ui.Waiting, Title: "Waits for your decision", At: d.WaitingSince})
	}
	return append(out, linkEvents(d.History, d.RequestedBy, d.RequestMessage)...)
}

// linkEvents are what both sides' trails say of a connection, in few words: who
// asked, who decided, and what came of it.
func linkEvents(trail []domain.AuditEvent, requestedBy, message string) []ui.Event {
	var out []ui.Event
	for _, e := range trail {
		if passing[e.Action] {
			continue
		}
		ev := auditEvent(e)
		if w, ok := linkWords[e.Action]; ok {
			ev.Title, ev.Kind = w.title, w.kind
		}
		switch e.Action {
		case "RequestConnection", "CreateEndpoint":
			ev.Who, ev.Quote = requestedBy, message
		case "AutoAcceptConnection":
			ev.Who = ""
		}
		out = append(out, ev)
	}
	return out
}

var linkWords = map[string]struct {
	title string
	kind  ui.Kind
}{
	"RequestConnection": {"Requested", ""}, "CreateEndpoint": {"Requested", ""}, "AcceptConnection": {"Accepted", ui.OK},
	"AutoAcceptConnection": {"Accepted without asking", ui.OK}, "RejectConnection": {"Rejected", ui.Bad}, "UndoDecision": {"Decision undone", ui.Waiting},
	"ModifyConnection": {"Terms changed", ""}, "ExpireConnection": {"Expired", ui.Off}, "ConnectionConnected": {"Connected", ui.OK},
	"ConnectionDisconnected": {"Disconnected", ui.Off}, "ServiceDeleted": {"Service deleted", ui.Bad}, "CutConnection": {"Cut what was draining", ui.Bad},
	"AcceptZone": {"Zone accepted", ui.OK}, "RejectZone": {"Zone rejected", ui.Bad}, "ReplaceResource": {"Load balancer replaced", ""},
	"CloseReplaced": {"Older flows closed", ""}, "AllocateResource": {"Load balancer chosen", ""},
}

// passing are entries that a history in few words leaves out: steps of the data
// plane on the way to what people asked for. The audit trail has them.
var passing = map[string]bool{"ZonesChanged": true, "EndpointReady": true, "VPCUp": true, "AttachmentUp": true, "ServiceZoneUp": true}

// maxNeighbours is how far the inbox is looked through for the requests around one.
const maxNeighbours = 50

// neighbours finds the requests before and after one that waits.
func (k *Console) neighbours(ctx context.Context, s *domain.Scope, v *provide.Decision, d *domain.ConnectionDetail) error {
	if d.Decision != domain.Waiting {
		return nil
	}
	got, err := s.Connections(ctx, domain.ConnQuery{Query: domain.Query{Limit: maxNeighbours, Filter: map[string][]string{"decision": {string(domain.Waiting)}}}})
	if err != nil {
		return err
	}
	for i, x := range got.Items {
		if x.EndpointID != d.EndpointID || len(got.Items) < 2 {
			continue
		}
		v.Position = fmt.Sprintf("%d of %d", i+1, len(got.Items))
		if got.Next != "" {
			v.Position += "+"
		}
		if i > 0 {
			v.Prev = in(s, connectionPath, "/", got.Items[i-1].EndpointID)
		}
		if i+1 < len(got.Items) {
			v.Next = in(s, connectionPath, "/", got.Items[i+1].EndpointID)
		}
	}
	return nil
}

// connectionTraffic is the counters alone; the page asks for them again and again.
func (k *Console) connectionTraffic(c echo.Context, s *domain.Scope) error {
	d, err := s.Connection(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	v := decisionView(s, d, newForm())
	if !wantsPart(c) || v.Traffic == nil {
		return redirect(c, v.URL)
	}
	return render(c, http.StatusOK, provide.TrafficCard(v))
}

// ---- decide

func (k *Console) accept(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.AcceptInput{
		Message: f.text("message"), MaxConnections: f.number("max_connections"), ExpiresAt: readMoment(f, "expires_at"),
		ExpiryDrain: f.number("expiry_drain"), AutoAcceptAccount: f.ticked("auto_accept_account"), Version: f.version(),
	}
	what.Mode, what.Bandwidth = readBandwidth(f)
	var x *domain.Connection
	if f.ok() {
		x, err = s.AcceptConnection(c.Request().Context(), c.Param("id"), what)
	}
	if f.refused(err) {
		return k.showConnection(c, s, f)
	}
	if err != nil {
		return err
	}
	word := " is being connected."
	if x.Status == domain.Connected {
		word = " is connected."
	}
	return k.decided(c, s, x, ui.Note{Kind: ui.OK, Title: k.consumer(c, s, x) + word, Undo: undoPost(s, *x)})
}

// readMoment reads a date and time of a form in UTC; an empty field is nil.
func readMoment(f *form, name string) *time.Time {
	v := f.text(name)
	if v == "" {
		return nil
	}
	for _, form := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(form, v); err == nil {
			return &t
		}
	}
	f.wrong(name, "This is a date and time in UTC, such as 2026-12-31 18:00.")
	return nil
}

func undoPost(s *domain.Scope, x domain.Connection) *ui.Post {
	return &ui.Post{Action: in(s, connectionPath, "/", x.EndpointID, "/undo"), Hidden: hidden(s, x.Version), Button: ui.Btn{Label: "Undo", Icon: "undo-2", Small: true}}
}

func (k *Console) consumer(c echo.Context, s *domain.Scope, x *domain.Connection) string {
	return cmp.Or(s.AccountName(c.Request().Context(), x.ConsumerID), x.ConsumerID)
}

// decided ends a decision: every place that shows the connection follows, and a
// browser goes back to where it came from.
func (k *Console) decided(c echo.Context, s *domain.Scope, x *domain.Connection, n ui.Note) error {
	n.Link = ui.Crumb{Label: "Audit entry", Href: trail(s, x.EndpointID)}
	parts, err := k.connectionParts(c.Request().Context(), s, x.EndpointID)
	if err != nil {
		return err
	}
	return k.changed(c, s, cameFrom(c, s, connectionPath+"/"+x.EndpointID), n, parts...)
}

// cameFrom is the page of the account that the form stood on, as a path in the
// account; elsewhere is for a browser that does not tell, and for questions, which
// are pages of their own there.
func cameFrom(c echo.Context, s *domain.Scope, elsewhere string) string {
	u, err := url.Parse(c.Request().Referer())
	if err != nil || u.Host != c.Request().Host {
		return elsewhere
	}
	path, ok := strings.CutPrefix(u.Path, in(s))
	if !ok || path != "" && path[0] != '/' || strings.HasPrefix(path, connectionPath+"/") && strings.Count(path, "/") > 2 {
		return elsewhere
	}
	q := u.Query()
	q.Del("flash")
	return path + encoded(q)
}

func (k *Console) askReject(c echo.Context, s *domain.Scope) error {
	return k.rejectForm(c, s, newForm())
}

func (k *Console) rejectForm(c echo.Context, s *domain.Scope, f *form) error {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return err
	}
	d, err := s.Connection(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	back := in(s, connectionPath, "/", d.EndpointID)
	v := cutOf(d)
	q := ui.Question{Form: f.show(s, "reject", back+"/reject", d.Version), Title: "Reject " + v.Consumer + "?", Verb: "Reject", Danger: true, Cancel: back}
	return k.ask(c, s, f, connectionPath, q, provide.RejectFields(q.Form, v))
}

func (k *Console) reject(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.RejectInput{Message: f.text("message"), Drain: readDrain(f), Version: f.version()}
	var x *domain.Connection
	if f.ok() {
		x, err = s.RejectConnection(c.Request().Context(), c.Param("id"), what)
	}
	if f.refused(err) {
		if f.values.Has("expires_at") { // it came by the form with the terms
			return k.showConnection(c, s, f)
		}
		return k.rejectForm(c, s, f)
	}
	if err != nil {
		return err
	}
	n := ui.Note{Kind: ui.OK, Title: k.consumer(c, s, x) + " is rejected.", Undo: undoPost(s, *x)}
	if what.Drain > 0 {
		n.Text = drainWords(what.Drain)
	}
	return k.decided(c, s, x, n)
}

func (k *Console) undo(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	x, err := s.UndoDecision(c.Request().Context(), c.Param("id"), f.version())
	if err != nil {
		return err
	}
	n := ui.Note{Kind: ui.Info, Title: "Undone. " + k.consumer(c, s, x) + " is waiting again."}
	if x.Decision == domain.Accepted {
		n.Title = "Undone. " + k.consumer(c, s, x) + " is accepted again."
	}
	return k.decided(c, s, x, n)
}

// ---- history

// history is what the audit trail says of a resource lately.
func history(ctx context.Context, s *domain.Scope, id string) ([]ui.Event, error) {
	got, err := s.Audit(ctx, domain.AuditQuery{ResourceID: id})
	if err != nil {
		return nil, err
	}
	var out []ui.Event
	for _, e := range got.Items {
		out = append(out, auditEvent(e))
	}
	return out, nil
}

// auditEvent is an entry of the trail in a few words.
func auditEvent(e domain.AuditEvent) ui.Event {
	out := ui.Event{Title: actionWords(e.Action), Who: actorName(e), At: e.Time, Note: "entry " + strconv.FormatInt(e.Seq, 10)}
	if e.Channel != "" && e.Channel != "system" {
		out.Note = e.Channel + " · " + out.Note
	}
	return out
}

// actorName is who did it, as far as this account may know.
func actorName(e domain.AuditEvent) string {
	switch e.ActorKind {
	case domain.ActorEngine:
		return "the data plane"
	case domain.ActorSystem:
		return "OpenPrivateLink"
	case domain.ActorPeer:
		return "account " + e.ActorID
	}
	return cmp.Or(e.ActorName, e.ActorID)
}
