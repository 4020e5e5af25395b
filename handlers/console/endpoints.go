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
	"github.com/openprivatelink/openprivatelink/web/consume"
	"github.com/openprivatelink/openprivatelink/web/observe"
	"github.com/openprivatelink/openprivatelink/web/overview"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) endpointArea(r router) {
	r.get("/endpoints", k.endpoints)
	r.get("/endpoints/new", k.newEndpoint)
	r.post("/endpoints/new", k.createEndpoint)
	r.get("/endpoints/:id", k.endpoint)
	r.get("/endpoints/:id/traffic", k.endpointTraffic)
	r.post("/endpoints/:id/test", k.testEndpoint)
	r.get("/endpoints/:id/edit", k.editEndpoint)
	r.post("/endpoints/:id/edit", k.updateEndpoint)
	r.get("/endpoints/:id/groups", k.editEndpointGroups)
	r.post("/endpoints/:id/groups", k.setEndpointGroups)
	r.get("/endpoints/:id/add-zone", k.newEndpointZone)
	r.post("/endpoints/:id/add-zone", k.addEndpointZone)
	r.get("/endpoints/:id/zones/:zone/remove", k.askRemoveEndpointZone)
	r.post("/endpoints/:id/zones/:zone/remove", k.removeEndpointZone)
	r.post("/endpoints/:id/cut", k.cutEndpoint)
	r.get("/endpoints/:id/delete", k.askDeleteEndpoint)
	r.post("/endpoints/:id/delete", k.deleteEndpoint)
	r.resource("endpoints", func(ctx context.Context, s *domain.Scope, id string) error { _, err := s.Endpoint(ctx, id); return err })
	r.live(domain.KindEndpoint, k.endpointChanged)
}

const (
	endpointPath = "/endpoints"
	endpointList = "endpoints" // id of the list
)

func (k *Console) endpoints(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Endpoints", endpointPath)
	l := readList(c, s, endpointPath, "vpc")
	got, err := s.Endpoints(c.Request().Context(), l.domain())
	if err != nil {
		return err
	}
	v := consume.EndpointList{Catalogue: p.URL(cataloguePath)}
	if s.Can(domain.WriteConsume) {
		v.New = p.URL(endpointPath + "/new")
	}
	for _, e := range got.Items {
		v.Rows = append(v.Rows, endpointRow(s, e))
	}
	narrow, err := byVPC(c, s, l)
	if err != nil {
		return err
	}
	v.List = l.fill(ui.List{ID: endpointList, Filter: &ui.Filter{Selects: narrow}}, ids(got.Items, func(e domain.EndpointSummary) string { return e.ID }), got.Prev, got.Next)
	return list(c, v.List, consume.Endpoints(p, v), consume.EndpointResults(v))
}

func endpointRow(s *domain.Scope, e domain.EndpointSummary) consume.EndpointRow {
	r := consume.EndpointRow{
		ID: e.ID, Href: in(s, endpointPath, "/", e.ID), Name: e.Name, State: endpointState(e), Provider: e.ProviderName, ServiceID: e.ServiceID, Service: e.ServiceName,
		VPC: consume.Link{Label: e.VPCName, Href: in(s, "/vpcs/", e.VPCID)}, Zones: endpointZones(e.Zones),
	}
	for _, z := range e.Zones {
		r.Addresses = append(r.Addresses, z.Address)
	}
	return r
}

// endpointChanged patches the row, and tells the pages that show more of it.
func (k *Console) endpointChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	e, err := one(ctx, s.Endpoints, id, func(e domain.EndpointSummary) string { return e.ID })
	if err != nil {
		return nil, err
	}
	row := endpointRow(s, e)
	parts := templ.Join(patch(row.DOM(), consume.EndpointLine(row)), ui.Added(consume.Endpoint{ID: id}.DOM()), ui.Added(overview.DOM))
	return announced(parts, endpointList, e.CreatedAt), nil
}

// ---- create

func (k *Console) newEndpoint(c echo.Context, s *domain.Scope) error {
	return k.endpointForm(c, s, newForm(), strings.TrimSpace(c.QueryParam("service")), c.QueryParam("vpc"))
}

// endpointForm asks for a service first, and then for the rest with everything
// chosen that can be.
func (k *Console) endpointForm(c echo.Context, s *domain.Scope, f *form, service, vpc string) error {
	if err := k.mayWrite(s, domain.WriteConsume); err != nil {
		return err
	}
	ctx := c.Request().Context()
	p := k.page(c, s, "Create endpoint", endpointPath)
	v := consume.NewEndpoint{Find: ui.Form{ID: "find-service", Action: p.URL(endpointPath + "/new")}, Catalogue: p.URL(cataloguePath), Cancel: p.URL(endpointPath)}
	if service == "" {
		return show(c, consume.NewEndpointPage(p, v), consume.FindService(v))
	}
	o, err := s.FindService(ctx, service)
	if domain.KindOf(err) == domain.NotFound {
		v.Find.Values = url.Values{"service": {service}}
		v.Find.Errors = []ui.FieldError{{Field: "service", Message: failureOf(err).Text}}
		return showStatus(c, http.StatusUnprocessableEntity, consume.NewEndpointPage(p, v), consume.FindService(v))
	}
	if err != nil {
		return err
	}
	offering := offeringView(s, *o)
	v.Service, v.Asks = &offering, !o.AutoAccept
	v.Picker, v.Keep = p.URL(endpointPath+"/new"), pairs("service", service)
	if v.VPCs, err = vpcOptions(ctx, s, o.RegionID); err != nil {
		return err
	}
	if v.VPC = chosenVPC(v.VPCs, vpc); v.VPC == "" {
		v.NewVPC = p.URL("/vpcs/new")
	} else if err := k.endpointPlace(ctx, s, &v, o); err != nil {
		return err
	}
	v.Form = f.show(s, "endpoint", p.URL(endpointPath+"/new"), 0)
	return showForm(c, f, consume.NewEndpointPage(p, v), consume.NewEndpointForm(v))
}

// endpointPlace fills in what the chosen VPC has for an endpoint.
func (k *Console) endpointPlace(ctx context.Context, s *domain.Scope, v *consume.NewEndpoint, o *domain.Offering) error {
	vpc, err := s.VPC(ctx, v.VPC)
	if err != nil {
		return err
	}
	v.NewVSwitch = in(s, "/vpcs/", vpc.ID, "?tab=vswitches")
	own := zoneChoices(vpc.VSwitches)
	for _, zone := range o.Zones {
		i := slices.IndexFunc(own, func(z ui.ZoneChoice) bool { return z.ID == zone })
		if i < 0 {
			v.Zones = append(v.Zones, ui.ZoneChoice{ID: zone, Note: "the VPC has no vSwitch here"})
			continue
		}
		v.Zones = append(v.Zones, own[i])
		own = slices.Delete(own, i, i+1)
	}
	for _, z := range own {
		v.Zones = append(v.Zones, ui.ZoneChoice{ID: z.ID, Note: "the service is not here"})
	}
	groups, err := every(ctx, s.Groups, domain.Query{Filter: map[string][]string{"vpc": {vpc.ID}}})
	if err != nil {
		return err
	}
	v.Groups = []ui.Option{{Value: newGroup, Label: "A new one for this service", Text: "allow " + openingWords(o.Openings) + " from " + vpc.CIDR}}
	for _, g := range groups {
		v.Groups = append(v.Groups, ui.Option{Value: g.ID, Label: g.Name, Text: ui.Plural(g.Rules, "rule", "")})
	}
	return nil
}

// newGroup is the choice of a security group that is made for the endpoint.
const newGroup = "new"

// openingWords are "TCP 80, UDP 53".
func openingWords(openings []domain.Opening) string {
	words := make([]string, len(openings))
	for i, o := range openings {
		words[i] = o.String()
	}
	return strings.Join(words, ", ")
}

// firstTCP is the first port that can be tried, 0 if there is none.
func firstTCP(openings []domain.Opening) int {
	for _, o := range openings {
		if o.Protocol == domain.ProtocolTCP {
			return o.From
		}
	}
	return 0
}

func (k *Console) createEndpoint(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.EndpointInput{
		ServiceName: f.text("service"), VPCID: f.text("vpc_id"), Name: f.text("name"), Description: f.text("description"), Message: f.text("message"),
	}
	zones := chosenZones(f)
	for _, z := range zones {
		what.Zones = append(what.Zones, domain.EndpointZoneInput{ZoneID: z.zone, VSwitchID: z.vswitch, Address: z.address})
	}
	if len(zones) == 0 {
		f.wrong("zones", "Choose a zone at least.")
	}
	for _, g := range f.all("group") {
		if g == newGroup {
			what.NewGroup = true
		} else {
			what.GroupIDs = append(what.GroupIDs, g)
		}
	}
	var id string
	if f.ok() {
		id, err = f.once(c, s, "CreateEndpoint", func(ctx context.Context) (string, error) {
			e, err := s.CreateEndpoint(ctx, what)
			if err != nil {
				return "", err
			}
			return e.ID, nil
		})
	}
	faultsAt(err, func(field string) string {
		if strings.HasPrefix(field, "group_ids") {
			return "group"
		}
		if field == "service_name" {
			return "" // nothing on this form can mend it
		}
		return zoneField(field, zones)
	})
	if f.refused(err) {
		return k.endpointForm(c, s, f, what.ServiceName, what.VPCID)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, endpointPath+"/"+id, done(s, id, "The endpoint is there."))
}

// ---- one endpoint

// The tabs of an endpoint's page, beside those that services have.
const (
	tabZones  = "zones"
	tabGroups = "groups"
)

func (k *Console) endpoint(c echo.Context, s *domain.Scope) error {
	return k.showEndpoint(c, s, newForm(), nil)
}

// showEndpoint is the page of an endpoint; f is the form of its test as it was
// sent, and result what the test saw.
func (k *Console) showEndpoint(c echo.Context, s *domain.Scope, f *form, result *consume.TestShown) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Endpoint", endpointPath)
	d, err := s.Endpoint(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = d.Name
	v := endpointView(s, d)
	v.Tab = c.QueryParam("tab")
	switch v.Tab {
	case tabZones, tabGroups:
	case tabFlows:
		flows, err := k.endpointFlows(c, s, d)
		if err != nil {
			return err
		}
		v.Flows, v.Here = observe.Flows(flows), flows.List.URL+flows.List.Query
		if listPart(c, flows.List) {
			return list(c, flows.List, consume.EndpointPage(p, v), observe.FlowResults(flows))
		}
	case tabAudit:
		v.Events = linkEvents(d.History, d.Connection.RequestedBy, d.Connection.RequestMessage)
	default:
		v.Tab = ""
		if v.CanWrite && len(d.Zones) > 0 && firstTCP(d.Openings) != 0 {
			v.Tester = tester(s, d, v, f)
			v.Tester.Result = result
		}
	}
	part := consume.EndpointParts(v)
	if f.values != nil { // a test
		part = consume.TestForm(*v.Tester)
	}
	return showForm(c, f, consume.EndpointPage(p, v), part)
}

func endpointView(s *domain.Scope, d *domain.EndpointDetail) consume.Endpoint {
	v := consume.Endpoint{
		ID: d.ID, URL: in(s, endpointPath, "/", d.ID), Name: d.Name, Description: d.Description, State: endpointState(d.EndpointSummary),
		Service: d.ServiceID, ServiceName: d.ServiceName, Provider: cmp.Or(d.ProviderName, d.ProviderID), ProviderID: d.ProviderID,
		VPC: consume.Link{Label: d.VPC.Name, Href: in(s, "/vpcs/", d.VPCID)}, CIDR: d.VPC.CIDR, Steps: endpointSteps(d.EndpointSummary),
		Request: d.Connection.RequestMessage, Answer: d.Connection.DecisionMessage, Bandwidth: d.Connection.Bandwidth, MaxFlows: d.Connection.MaxConnections, Openings: openingWords(d.Openings), Port: firstTCP(d.Openings),
		Protected: d.Protected, Recheck: d.Recheck, Created: d.CreatedAt, Trail: trail(s, d.ID), CanWrite: s.Can(domain.WriteConsume) && d.Status != domain.EndpointDeleting,
	}
	if d.Offering != nil {
		v.Service, v.Known = d.Offering.Name, true
		v.Adding = slices.ContainsFunc(d.Offering.Zones, func(zone string) bool {
			return !slices.ContainsFunc(d.Zones, func(z domain.EndpointZone) bool { return z.ZoneID == zone })
		})
	}
	v.Expires, v.Drains = moment(d.Connection.ExpiresAt), moment(d.Connection.DrainUntil)
	v.CanCut = d.Connection.DrainUntil != nil && s.Can(domain.WriteConsume)
	v.Hidden = hidden(s, d.Version)
	if d.Connection.Decision == domain.Accepted || d.Connection.DrainUntil != nil {
		v.Traffic = &consume.Traffic{Active: d.Counters.Active, Flows: d.Counters.Flows, Refused: d.Counters.Refused, In: d.Counters.In, Out: d.Counters.Out}
	}
	for _, z := range d.Zones {
		zv := consume.EndpointZone{Zone: z.ZoneID, ENI: z.ENIID, Address: z.Address, State: zoneStatus(z), Service: serviceHealth(d.Health[z.ZoneID]), Drains: moment(z.DrainUntil)}
		if v.CanWrite && z.Status != domain.ZoneDeleting {
			zv.Remove = v.URL + "/zones/" + url.PathEscape(z.ZoneID) + "/remove"
		}
		v.Zones = append(v.Zones, zv)
	}
	for _, g := range d.Groups {
		v.Groups = append(v.Groups, consume.Group{ID: g.ID, Link: consume.Link{Label: g.Name, Href: in(s, "/security-groups/", g.ID)}, Description: g.Description})
	}
	return v
}

// endpointState is the state of an endpoint's connection, and of the endpoint
// itself where that is what matters.
func endpointState(e domain.EndpointSummary) ui.State {
	if e.Status == domain.EndpointDeleting {
		return ui.State{Kind: ui.Leaving, Word: "Deleting", Title: "EndpointStatus: Deleting"}
	}
	return drainingState(connectionState(e.Connection.Status, e.Connection.Decision), e.Connection.DrainUntil)
}

// serviceHealth is what a consumer may know of a zone of a service.
func serviceHealth(state string) ui.State {
	words := map[string]string{
		domain.ZoneHealthy: "Service healthy", domain.ZoneDegraded: "Service degraded", domain.ZoneFailed: "Service down", domain.ZoneUnknown: "Service not checked yet",
	}
	if words[state] == "" {
		return ui.State{Kind: ui.Bad, Word: "No service here"}
	}
	return ui.State{Kind: zoneKinds[state], Word: words[state]}
}

// endpointSteps is how far an endpoint is on its way.
func endpointSteps(e domain.EndpointSummary) []ui.Step {
	steps := []ui.Step{{Label: "Requested", Kind: ui.OK}, {Label: "Accepted", Kind: ui.Off}, {Label: "Connecting", Kind: ui.Off}, {Label: "Connected", Kind: ui.Off}}
	switch st := endpointState(e); {
	case st.Word == "Deleting" || st.Word == "Service deleted":
		return []ui.Step{steps[0], {Label: st.Word, Kind: st.Kind}}
	case e.Connection.Decision == domain.Waiting:
		steps[1] = ui.Step{Label: "Waiting for approval", Kind: ui.Waiting}
	case e.Connection.Decision != domain.Accepted:
		steps[1] = ui.Step{Label: connectionState(domain.Disconnected, e.Connection.Decision).Word, Kind: ui.Bad}
	default:
		steps[1].Kind, steps[2].Kind, steps[3].Kind = ui.OK, ui.OK, ui.OK
		switch e.Connection.Status {
		case domain.Connected:
		case domain.Pending:
			steps[3] = ui.Step{Label: "Updating", Kind: ui.Busy}
		default:
			steps[2], steps[3].Kind = ui.Step{Label: st.Word, Kind: st.Kind}, ui.Off
		}
	}
	return steps
}

// endpointTraffic is the counters alone; the page asks for them again and again.
func (k *Console) endpointTraffic(c echo.Context, s *domain.Scope) error {
	d, err := s.Endpoint(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	v := endpointView(s, d)
	if !wantsPart(c) || v.Traffic == nil {
		return redirect(c, v.URL)
	}
	return render(c, http.StatusOK, consume.TrafficCard(v))
}

// duration writes d with the unit that suits it.
func duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return strconv.FormatInt(d.Microseconds(), 10) + " µs"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 1, 64) + " ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	}
	return d.Round(time.Second).String()
}

// ruleLink leads to the rule that decided on a flow, where it is edited.
func ruleLink(s *domain.Scope, f domain.Flow, groups []domain.SecurityGroup) consume.Link {
	if f.Group == "" {
		return consume.Link{}
	}
	name := f.Group
	for _, g := range groups {
		if g.ID == f.Group {
			name = g.Name
		}
	}
	if f.Rule == "" {
		return consume.Link{Label: "group " + name, Href: in(s, "/security-groups/", f.Group)}
	}
	return consume.Link{Label: "rule " + f.Rule + " of group " + name, Href: in(s, "/security-groups/", f.Group, "?edit=", url.QueryEscape(f.Rule))}
}

// ---- test

// Ways to try an endpoint.
const (
	testHTTP = "http"
	testTCP  = "tcp"
)

func tester(s *domain.Scope, d *domain.EndpointDetail, v consume.Endpoint, f *form) *consume.Tester {
	t := &consume.Tester{Form: f.show(s, "test", v.URL+"/test", 0), NewAttachment: in(s, "/attachments/new?vpc=", d.VPCID)}
	for _, a := range d.Sources {
		t.Attachments = append(t.Attachments, ui.Option{Value: a.ID, Label: a.Name + " · " + a.Address})
	}
	for _, z := range d.Zones {
		for _, o := range d.Openings {
			if o.Protocol == domain.ProtocolTCP { // of a range, its first port
				t.Addresses = append(t.Addresses, ui.Option{Value: z.ZoneID + " " + strconv.Itoa(o.From), Label: fmt.Sprintf("%s:%d · %s", z.Address, o.From, zoneName(z.ZoneID))})
			}
		}
	}
	t.Ways = []ui.Option{{Value: testHTTP, Label: "HTTP request for /"}, {Value: testTCP, Label: "Connection only"}}
	if v.State.Kind != ui.OK {
		t.Waiting = "It is not connected, so nothing can pass yet."
	}
	return t
}

// testEndpoint runs a request inside a workload. Nothing is changed by it, so the
// answer is the page itself, and a reload runs it again.
func (k *Console) testEndpoint(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	zone, port, _ := strings.Cut(f.text("address"), " ")
	what := domain.TestInput{AttachmentID: f.text("attachment_id"), ZoneID: zone, HTTP: f.text("way") != testTCP}
	what.Port, _ = strconv.Atoi(port) // nonsense is the service's first
	r, err := s.TestEndpoint(c.Request().Context(), c.Param("id"), what)
	faultsAt(err, func(field string) string {
		if field == "port" || field == "zone_id" {
			return "address"
		}
		return field
	})
	if f.refused(err) {
		return k.showEndpoint(c, s, f, nil)
	}
	if err != nil {
		return err
	}
	d, err := s.Endpoint(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	shown := testShown(s, d, r)
	if wantsPart(c) {
		return render(c, http.StatusOK, patch(consume.TestDOM, consume.TestResult(shown)))
	}
	return k.showEndpoint(c, s, f, shown)
}

// testShown is what a test saw, in words.
func testShown(s *domain.Scope, d *domain.EndpointDetail, r *domain.TestResult) *consume.TestShown {
	v := &consume.TestShown{Command: r.Command, Output: r.Output}
	if r.OK {
		v.State = ui.State{Kind: ui.OK, Word: "It answers"}
		if r.Status != 0 {
			v.State.Word = fmt.Sprintf("HTTP %d", r.Status)
		}
		v.Text = fmt.Sprintf("From %s to %s: connected in %s, done in %s.", r.Attachment.Name, r.Address, duration(r.Connect), duration(r.Total))
		if r.Source.IsValid() {
			v.Text += fmt.Sprintf(" The endpoint saw %s as the source.", r.Source)
		}
		return v
	}
	v.State = ui.State{Kind: ui.Bad, Word: "It does not answer"}
	v.Text = fmt.Sprintf("From %s to %s: %s.", r.Attachment.Name, r.Address, cmp.Or(strings.TrimSuffix(r.Error, "."), "no connection"))
	if f := r.Refused; f != nil {
		v.State.Word = "Refused (" + refusal(r) + ")"
		v.Text = fmt.Sprintf("From %s to %s: %s.", r.Attachment.Name, r.Address, cmp.Or(f.Reason, "refused"))
		if v.Rule = ruleLink(s, *f, d.Groups); v.Rule.Href == "" && len(d.Groups) > 0 && f.Source.IsValid() {
			v.Rule = consume.Link{Label: "group " + d.Groups[0].Name, Href: in(s, "/security-groups/", d.Groups[0].ID)}
		}
	}
	return v
}

// refusal is how a workload notices that it is refused.
func refusal(r *domain.TestResult) string {
	if r.Error == "reset" {
		return "reset"
	}
	return "no answer"
}

// ---- change

// changeable reads an endpoint for somebody who may change it.
func (k *Console) changeable(c echo.Context, s *domain.Scope) (*domain.EndpointDetail, error) {
	if err := k.mayWrite(s, domain.WriteConsume); err != nil {
		return nil, err
	}
	return s.Endpoint(c.Request().Context(), c.Param("id"))
}

// endpointPatched ends a change on a tab of an endpoint's page.
func (k *Console) endpointPatched(c echo.Context, s *domain.Scope, tab, title string) error {
	id := c.Param("id")
	to := endpointPath + "/" + id
	if tab != "" {
		to += "?tab=" + tab
	}
	return k.changed(c, s, to, done(s, id, title), ui.Added(consume.Endpoint{ID: id}.DOM()))
}

func (k *Console) editEndpoint(c echo.Context, s *domain.Scope) error {
	return k.endpointEdit(c, s, newForm())
}

func (k *Console) endpointEdit(c echo.Context, s *domain.Scope, f *form) error {
	d, err := k.changeable(c, s)
	if err != nil {
		return err
	}
	back := in(s, endpointPath, "/", d.ID)
	q := ui.Question{Form: f.show(s, "edit-endpoint", back+"/edit", d.Version), Title: "Edit " + d.Name, Verb: "Save", Cancel: back}
	return k.ask(c, s, f, endpointPath, q, consume.EditFields(q.Form, d.Name, d.Description, d.Protected))
}

func (k *Console) updateEndpoint(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.EndpointUpdate{Name: new(f.text("name")), Description: new(f.text("description")), Protected: new(f.ticked("protected")), Version: f.version()}
	if f.ok() {
		err = s.UpdateEndpoint(c.Request().Context(), c.Param("id"), what)
	}
	if f.refused(err) {
		return k.endpointEdit(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.endpointPatched(c, s, "", "Saved.")
}

func (k *Console) editEndpointGroups(c echo.Context, s *domain.Scope) error {
	return k.endpointGroupsForm(c, s, newForm())
}

func (k *Console) endpointGroupsForm(c echo.Context, s *domain.Scope, f *form) error {
	d, err := k.changeable(c, s)
	if err != nil {
		return err
	}
	groups, err := every(c.Request().Context(), s.Groups, domain.Query{Filter: map[string][]string{"vpc": {d.VPCID}}})
	if err != nil {
		return err
	}
	var options []ui.Option
	for _, g := range groups {
		options = append(options, ui.Option{Value: g.ID, Label: g.Name, Text: ui.Plural(g.Rules, "rule", "")})
	}
	chosen := make([]string, len(d.Groups))
	for i, g := range d.Groups {
		chosen[i] = g.ID
	}
	back := in(s, endpointPath, "/", d.ID)
	q := ui.Question{Form: f.show(s, "endpoint-groups", back+"/groups", d.Version), Title: "Security groups of " + d.Name, Verb: "Save", Cancel: back + "?tab=" + tabGroups}
	return k.ask(c, s, f, endpointPath, q, consume.GroupFields(q.Form, options, chosen, d.Recheck))
}

func (k *Console) setEndpointGroups(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	recheck := f.text("change") == consume.ChangeRechecks
	err = s.UpdateEndpoint(c.Request().Context(), c.Param("id"), domain.EndpointUpdate{GroupIDs: new(f.all("group_ids")), Recheck: &recheck, Version: f.version()})
	if f.refused(err) {
		return k.endpointGroupsForm(c, s, f)
	}
	if err != nil {
		return err
	}
	what := "The security groups are changed. Open flows go on."
	if recheck {
		what = "The security groups are changed. Open flows that they refuse are reset."
	}
	return k.endpointPatched(c, s, tabGroups, what)
}

func (k *Console) newEndpointZone(c echo.Context, s *domain.Scope) error {
	return k.endpointZoneForm(c, s, newForm())
}

func (k *Console) endpointZoneForm(c echo.Context, s *domain.Scope, f *form) error {
	d, err := k.changeable(c, s)
	if err != nil {
		return err
	}
	switches, err := s.VSwitches(c.Request().Context(), d.VPCID)
	if err != nil {
		return err
	}
	var options []ui.Option
	for _, x := range switches {
		has := slices.ContainsFunc(d.Zones, func(z domain.EndpointZone) bool { return z.ZoneID == x.ZoneID })
		if !has && d.Offering != nil && slices.Contains(d.Offering.Zones, x.ZoneID) {
			options = append(options, ui.Option{Value: x.ID, Label: fmt.Sprintf("%s · %s · %s free", x.ZoneID, x.Name, ui.Number(x.Free))})
		}
	}
	back := in(s, endpointPath, "/", d.ID)
	q := ui.Question{Form: f.show(s, "add-zone", back+"/add-zone", d.Version), Title: "Add a zone to " + d.Name, Verb: "Add zone", Cancel: back + "?tab=" + tabZones}
	return k.ask(c, s, f, endpointPath, q, consume.ZoneFields(q.Form, options))
}

func (k *Console) addEndpointZone(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.EndpointZoneInput{VSwitchID: f.required("vswitch_id", "Choose a zone."), Address: f.text("address")}
	if f.ok() {
		err = s.AddEndpointZone(c.Request().Context(), c.Param("id"), what, f.version())
	}
	faultsAt(err, func(field string) string {
		if field == "address" {
			return field
		}
		return "vswitch_id"
	})
	if f.refused(err) {
		return k.endpointZoneForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.endpointPatched(c, s, tabZones, "The zone is added.")
}

func (k *Console) askRemoveEndpointZone(c echo.Context, s *domain.Scope) error {
	return k.removeZoneForm(c, s, newForm())
}

func (k *Console) removeZoneForm(c echo.Context, s *domain.Scope, f *form) error {
	d, err := k.changeable(c, s)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(d.Zones, func(z domain.EndpointZone) bool { return z.ZoneID == c.Param("zone") })
	if i < 0 {
		return echo.ErrNotFound
	}
	z := d.Zones[i]
	q := ui.Question{
		Form:  f.show(s, "remove-zone", c.Request().URL.Path, d.Version),
		Title: "Remove " + d.Name + " from " + z.ZoneID + "?", Verb: "Remove", Danger: true, Cancel: in(s, endpointPath, "/", d.ID, "?tab=", tabZones),
	}
	return k.ask(c, s, f, endpointPath, q, leaving(q.Form, d, "Nobody reaches the service by "+z.Address+" any more, and the address is free again."))
}

// leaving says what goes, and asks what becomes of open flows where there may be some.
func leaving(f ui.Form, d *domain.EndpointDetail, text string) templ.Component {
	if d.Connection.Decision != domain.Accepted {
		return consume.Text(text)
	}
	return consume.Leaving(f, text, d.Counters.Active)
}

func (k *Console) removeEndpointZone(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.RemoveInput{Drain: readDrain(f), Version: f.version()}
	if f.ok() {
		err = s.RemoveEndpointZone(c.Request().Context(), c.Param("id"), c.Param("zone"), what)
	}
	if f.refused(err) {
		return k.removeZoneForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.endpointPatched(c, s, tabZones, "The zone is removed.")
}

func (k *Console) askDeleteEndpoint(c echo.Context, s *domain.Scope) error {
	return k.deleteForm(c, s, newForm())
}

func (k *Console) deleteForm(c echo.Context, s *domain.Scope, f *form) error {
	d, err := k.changeable(c, s)
	if err != nil {
		return err
	}
	back := in(s, endpointPath, "/", d.ID)
	q := ui.Question{Form: f.show(s, "delete-endpoint", back+"/delete", d.Version), Title: "Delete endpoint " + d.Name + "?", Verb: "Delete", Danger: true, Cancel: back}
	return k.ask(c, s, f, endpointPath, q, leaving(q.Form, d, "Its addresses are free again, and the provider is told."))
}

func (k *Console) deleteEndpoint(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	d, err := s.Endpoint(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	what := domain.RemoveInput{Drain: readDrain(f), Version: f.version()}
	if f.ok() {
		err = s.DeleteEndpoint(c.Request().Context(), d.ID, what)
	}
	if f.refused(err) {
		return k.deleteForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, endpointPath, done(s, d.ID, d.Name+" is being deleted."))
}

// cutEndpoint ends what drains.
func (k *Console) cutEndpoint(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	if err := s.CutEndpoint(c.Request().Context(), c.Param("id"), f.version()); err != nil {
		return err
	}
	return k.endpointPatched(c, s, "", "What was draining is cut.")
}
