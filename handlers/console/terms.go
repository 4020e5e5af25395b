package console

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/provide"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// What is changed of a connection that stands: how much may pass, when it ends, and
// where its zones lead.

func termsOf(r domain.BandwidthRule, x domain.Connection) provide.Terms {
	return provide.Terms{
		Scales: r.Scales, Min: r.Min, Max: r.Max, Usual: r.Default, Bandwidth: x.Bandwidth, Flows: x.MaxConnections,
		Expires: moment(x.ExpiresAt), ExpiryDrain: x.ExpiryDrain,
	}
}

// readBandwidth reads the mode and the limit; without a limit, its field is not shown
// and does not matter.
func readBandwidth(f *form) (domain.TrafficMode, int) {
	mode := domain.TrafficMode(f.text("traffic_mode"))
	if mode == domain.Scalability {
		return mode, 0
	}
	return mode, f.number("bandwidth")
}

// readDrain reads for how many seconds open flows may go on; 0 cuts them.
func readDrain(f *form) int {
	if f.text("cut") != "drain" {
		return 0
	}
	seconds := f.number("drain")
	if seconds == 0 {
		f.wrong("drain", "For how many seconds? To cut them at once, choose so.")
	}
	return seconds
}

func drainWords(seconds int) string {
	return "Open flows may go on for " + ui.Number(seconds) + " s."
}

// cutOf is who loses what if a connection is rejected.
func cutOf(d *domain.ConnectionDetail) provide.Cut {
	v := provide.Cut{Consumer: cmp.Or(d.ConsumerName, d.ConsumerID), ConsumerID: d.ConsumerID, EndpointID: d.EndpointID, Service: d.ServiceName}
	if carrying(d.Connection) {
		v.Traffic = trafficOf(d.Counters)
	}
	return v
}

// decidable reads a connection for somebody who may decide about it.
func (k *Console) decidable(c echo.Context, s *domain.Scope) (*domain.ConnectionDetail, error) {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return nil, err
	}
	return s.Connection(c.Request().Context(), c.Param("id"))
}

func (k *Console) editTerms(c echo.Context, s *domain.Scope) error {
	return k.termsForm(c, s, newForm())
}

func (k *Console) termsForm(c echo.Context, s *domain.Scope, f *form) error {
	d, err := k.decidable(c, s)
	if err != nil {
		return err
	}
	back := in(s, connectionPath, "/", d.EndpointID)
	q := ui.Question{Form: f.show(s, "terms", back+"/terms", d.Version), Title: "Terms of " + cmp.Or(d.ConsumerName, d.ConsumerID), Verb: "Save", Cancel: back}
	return k.ask(c, s, f, connectionPath, q, provide.TermFields(q.Form, termsOf(d.Rule, d.Connection)))
}

func (k *Console) setTerms(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	mode, mbits := readBandwidth(f)
	what := domain.ModifyInput{
		Mode: &mode, Bandwidth: &mbits, MaxConnections: new(f.number("max_connections")), ExpiresAt: new(readMoment(f, "expires_at")),
		ExpiryDrain: new(f.number("expiry_drain")), Version: f.version(),
	}
	var x *domain.Connection
	if f.ok() {
		x, err = s.ModifyConnection(c.Request().Context(), c.Param("id"), what)
	}
	if f.refused(err) {
		return k.termsForm(c, s, f)
	}
	if err != nil {
		return err
	}
	n := ui.Note{Kind: ui.OK, Title: "The terms of " + k.consumer(c, s, x) + " are changed.", Text: "Nothing was cut."}
	return k.decided(c, s, x, n)
}

// cut ends what drains.
func (k *Console) cut(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	x, err := s.CutConnection(c.Request().Context(), c.Param("id"), f.version())
	if err != nil {
		return err
	}
	return k.decided(c, s, x, ui.Note{Kind: ui.OK, Title: "What was draining of " + k.consumer(c, s, x) + " is cut."})
}

// ---- zones

// connectionZone is a zone of a connection with what can be done about it now.
func connectionZone(s *domain.Scope, d *domain.ConnectionDetail, z domain.ConnectionZone) provide.ConnectionZone {
	link := func(id, name string) provide.Link {
		if id == "" {
			return provide.Link{}
		}
		return provide.Link{Label: cmp.Or(name, id), Href: in(s, balancerPath, "/", id)}
	}
	v := provide.ConnectionZone{
		Zone: z.ZoneID, State: zoneStatus(domain.EndpointZone{Status: z.Status, DrainUntil: z.DrainUntil}), Targets: zoneState(z.Health),
		Balancer: link(z.LoadBalancerID, z.LoadBalancerName), Manual: z.Manual, Replaced: link(z.ReplacedID, z.ReplacedName), Drains: moment(z.DrainUntil),
	}
	if !s.Can(domain.WriteProvide) {
		return v
	}
	v.Hidden = hidden(s, d.Version)
	at := in(s, connectionPath, "/", d.EndpointID, "/zones/", url.PathEscape(z.ZoneID))
	switch {
	case d.Status == domain.Disconnected && z.Others > 0:
		v.Replace, v.ReplaceVerb = at+"/replace", "Choose"
	case d.Status != domain.Connected:
	case z.Status == domain.ZoneConnected:
		v.Reject = at + "/reject"
		if z.Others > 0 {
			v.Replace, v.ReplaceVerb = at+"/replace", "Replace"
		}
	case z.Status == domain.ZoneMigrated:
		v.Reject, v.Close = at+"/reject", at+"/close"
	case z.Status == domain.ZoneDisconnected:
		v.Accept = at + "/accept"
	}
	return v
}

// zoneOf finds the zone that the path names, for somebody who may decide about it.
func (k *Console) zoneOf(c echo.Context, s *domain.Scope) (*domain.ConnectionDetail, domain.ConnectionZone, error) {
	d, err := k.decidable(c, s)
	if err != nil {
		return nil, domain.ConnectionZone{}, err
	}
	i := slices.IndexFunc(d.ZoneStates, func(z domain.ConnectionZone) bool { return z.ZoneID == c.Param("zone") })
	if i < 0 {
		return nil, domain.ConnectionZone{}, echo.ErrNotFound
	}
	return d, d.ZoneStates[i], nil
}

// askZone asks a question about a zone.
func (k *Console) askZone(c echo.Context, s *domain.Scope, f *form, d *domain.ConnectionDetail, id string, q ui.Question, body func(ui.Form) templ.Component) error {
	q.Form, q.Cancel = f.show(s, id, c.Request().URL.Path, d.Version), in(s, connectionPath, "/", d.EndpointID)
	return k.ask(c, s, f, connectionPath, q, body(q.Form))
}

func (k *Console) acceptZone(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	x, err := s.AcceptZone(c.Request().Context(), c.Param("id"), c.Param("zone"), f.version())
	if err != nil {
		return err
	}
	return k.decided(c, s, x, ui.Note{Kind: ui.OK, Title: k.consumer(c, s, x) + " is being connected in " + c.Param("zone") + "."})
}

func (k *Console) askRejectZone(c echo.Context, s *domain.Scope) error {
	return k.rejectZoneForm(c, s, newForm())
}

func (k *Console) rejectZoneForm(c echo.Context, s *domain.Scope, f *form) error {
	d, z, err := k.zoneOf(c, s)
	if err != nil {
		return err
	}
	v := cutOf(d)
	v.Zone = z.ZoneID
	q := ui.Question{Title: "Reject " + v.Consumer + " in " + z.ZoneID + "?", Verb: "Reject", Danger: true}
	return k.askZone(c, s, f, d, "reject-zone", q, func(form ui.Form) templ.Component { return provide.CutFields(form, v) })
}

func (k *Console) rejectZone(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.RejectZoneInput{Drain: readDrain(f), Version: f.version()}
	var x *domain.Connection
	if f.ok() {
		x, err = s.RejectZone(c.Request().Context(), c.Param("id"), c.Param("zone"), what)
	}
	if f.refused(err) {
		return k.rejectZoneForm(c, s, f)
	}
	if err != nil {
		return err
	}
	n := ui.Note{Kind: ui.OK, Title: k.consumer(c, s, x) + " is rejected in " + c.Param("zone") + "."}
	if what.Drain > 0 {
		n.Text = drainWords(what.Drain)
	}
	return k.decided(c, s, x, n)
}

func (k *Console) askReplace(c echo.Context, s *domain.Scope) error {
	return k.replaceForm(c, s, newForm())
}

// byChance is the choice of a load balancer that is left to chance.
const byChance = "auto"

// replaceForm asks which load balancer a zone shall lead to: from now on, or once its
// connection is accepted.
func (k *Console) replaceForm(c echo.Context, s *domain.Scope, f *form) error {
	d, z, err := k.zoneOf(c, s)
	if err != nil {
		return err
	}
	svc, err := s.Service(c.Request().Context(), d.ServiceID)
	if err != nil {
		return err
	}
	given := slices.ContainsFunc(svc.Resources, func(r domain.ResourceDetail) bool {
		return r.ZoneID == z.ZoneID && r.LoadBalancerID == z.LoadBalancerID && r.AutoAllocate
	})
	if carrying(d.Connection) && given {
		v := provide.Blocked{
			Title: z.LoadBalancerName + " is given to new endpoints", Text: "Let them get another load balancer first, or replace it for all endpoints at once:",
			Users: []provide.Link{{Label: "Load balancers of the service", Href: in(s, servicePath, "/", d.ServiceID, "?tab=", tabResources)}}, Back: in(s, connectionPath, "/", d.EndpointID),
		}
		return show(c, provide.BlockedPage(k.page(c, s, v.Title, connectionPath), v), provide.BlockedNote(v))
	}
	options := otherBalancers(svc, z.ZoneID, z.LoadBalancerID)
	if len(options) == 0 {
		return echo.ErrNotFound
	}
	chance := !carrying(d.Connection)
	if chance {
		options = append(options, ui.Option{Value: byChance, Label: "Any of them", Text: "Chance chooses, among those that new endpoints get."})
	}
	q := ui.Question{Title: "Lead " + z.ZoneID + " to another load balancer", Verb: "Replace"}
	if chance {
		q.Title, q.Verb = "Choose the load balancer in "+z.ZoneID, "Choose"
	}
	return k.askZone(c, s, f, d, "replace", q, func(form ui.Form) templ.Component {
		return provide.ReplaceFields(form, options, !chance, chance)
	})
}

// otherBalancers are the load balancers of a service in a zone, but for one.
func otherBalancers(svc *domain.ServiceDetail, zone, but string) []ui.Option {
	var out []ui.Option
	for _, r := range svc.Resources {
		if r.ZoneID == zone && r.LoadBalancerID != but {
			out = append(out, ui.Option{Value: r.LoadBalancerID, Label: r.LoadBalancerName, Text: zoneState(r.Health).Word, Note: ui.Plural(r.Endpoints, "endpoint", "")})
		}
	}
	return out
}

func (k *Console) replace(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx, id, zone := c.Request().Context(), c.Param("id"), c.Param("zone")
	to := f.required("load_balancer_id", "Choose a load balancer.")
	n := ui.Note{Kind: ui.OK, Title: "New flows in " + zone + " go to the other load balancer."}
	var x *domain.Connection
	switch mode := f.text("mode"); {
	case !f.ok():
	case mode == "":
		n.Title = "The load balancer in " + zone + " is chosen."
		x, err = s.AllocateResource(ctx, id, zone, domain.AllocateInput{LoadBalancerID: strings.TrimPrefix(to, byChance), Version: f.version()})
	default:
		x, err = s.ReplaceResource(ctx, id, zone, domain.ReplaceInput{LoadBalancerID: to, Force: mode == "Force", Version: f.version()})
	}
	if f.refused(err) {
		return k.replaceForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.decided(c, s, x, n)
}

func (k *Console) askCloseReplaced(c echo.Context, s *domain.Scope) error {
	d, z, err := k.zoneOf(c, s)
	if err != nil {
		return err
	}
	q := ui.Question{Title: "Close the older flows in " + z.ZoneID + "?", Verb: "Close", Danger: true}
	text := "Flows that still go by " + cmp.Or(z.ReplacedName, "the former load balancer") + " are reset. Those by " + z.LoadBalancerName + " go on."
	return k.askZone(c, s, newForm(), d, "close", q, func(ui.Form) templ.Component { return provide.Text(text) })
}

func (k *Console) closeReplaced(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	x, err := s.CloseReplaced(c.Request().Context(), c.Param("id"), c.Param("zone"), f.version())
	if err != nil {
		return err
	}
	return k.decided(c, s, x, ui.Note{Kind: ui.OK, Title: "The older flows in " + c.Param("zone") + " are closed."})
}

// ---- a service's load balancers

// giveResource lets new endpoints get a load balancer of a service, or no longer.
func (k *Console) giveResource(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id, give := c.Param("id"), f.text("give") == "on"
	what := domain.ResourceUpdate{LoadBalancerID: f.text("load_balancer"), ZoneID: f.text("zone"), AutoAllocate: give}
	if err := s.UpdateResource(c.Request().Context(), id, what); err != nil {
		return err
	}
	title := "New endpoints in " + what.ZoneID + " no longer get it."
	if give {
		title = "New endpoints in " + what.ZoneID + " may get it."
	}
	return k.servicePatched(c, s, id, tabResources, done(s, id, title))
}

func (k *Console) askMoveResource(c echo.Context, s *domain.Scope) error {
	return k.moveForm(c, s, newForm(), c.QueryParam("load_balancer"), c.QueryParam("zone"))
}

// moveForm asks which load balancer takes the place of another one in a zone.
func (k *Console) moveForm(c echo.Context, s *domain.Scope, f *form, balancer, zone string) error {
	svc, err := k.editable(c, s)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(svc.Resources, func(r domain.ResourceDetail) bool { return r.LoadBalancerID == balancer && r.ZoneID == zone })
	options := otherBalancers(svc, zone, balancer)
	if i < 0 || len(options) == 0 {
		return echo.ErrNotFound
	}
	r := svc.Resources[i]
	back := in(s, servicePath, "/", svc.ID)
	q := ui.Question{Form: f.show(s, "replace-resource", back+"/replace-resource", 0), Title: "Replace " + r.LoadBalancerName + " in " + zone, Verb: "Replace", Cancel: back + "?tab=" + tabResources}
	return k.ask(c, s, f, servicePath, q, provide.MoveFields(q.Form, balancer, zone, r.Endpoints, options))
}

func (k *Console) moveResource(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id := c.Param("id")
	what := domain.MoveInput{ZoneID: f.text("zone"), From: f.text("load_balancer"), To: f.required("to", "Choose a load balancer."), Force: f.text("mode") == "Force"}
	var got domain.MoveResult
	if f.ok() {
		got, err = s.MoveResource(c.Request().Context(), id, what)
	}
	if f.refused(err) {
		return k.moveForm(c, s, f, what.From, what.ZoneID)
	}
	if err != nil {
		return err
	}
	n := done(s, id, ui.Plural(got.Moved, "endpoint zone is", "endpoint zones are")+" led to the other load balancer.")
	if got.Left > 0 {
		n.Kind, n.Text = ui.Warn, ui.Plural(got.Left, "is", "are")+" under way or too many for once. Repeat it for the rest."
	}
	return k.servicePatched(c, s, id, tabResources, n)
}
