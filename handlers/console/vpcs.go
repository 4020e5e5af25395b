package console

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/network"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) vpcsArea(r router) {
	r.get("/vpcs", k.vpcs)
	r.get("/vpcs/new", k.newVPC)
	r.post("/vpcs/new", k.createVPC)
	r.get("/vpcs/:id", k.vpc)
	r.get("/vpcs/:id/attachments", k.vpcAttachments)
	r.post("/vpcs/:id/rename", k.renameVPC)
	r.get("/vpcs/:id/delete", k.askDeleteVPC)
	r.post("/vpcs/:id/delete", k.deleteVPC)
	r.post("/vpcs/:id/vswitches", k.createVSwitch)
	r.get("/vpcs/:id/vswitches/:vswitch/delete", k.askDeleteVSwitch)
	r.post("/vpcs/:id/vswitches/:vswitch/delete", k.deleteVSwitch)
	r.resource("vpcs", func(ctx context.Context, s *domain.Scope, id string) error { _, err := s.VPC(ctx, id); return err })
	r.live(domain.KindVPC, k.vpcChanged)
}

// ---- the list

func (k *Console) vpcs(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "VPCs", "/vpcs")
	l := readList(c, s, "/vpcs")
	got, err := s.VPCs(c.Request().Context(), l.domain())
	if err != nil {
		return err
	}
	v := network.VPCs{May: s.Can(domain.WriteNetwork), URL: p.URL("/vpcs/new")}
	for _, x := range got.Items {
		v.Rows = append(v.Rows, vpcRow(s, x))
	}
	v.List = l.fill(v.Frame(), ids(v.Rows, func(r network.VPC) string { return r.ID }), got.Prev, got.Next)
	return list(c, v.List, network.VPCsPage(p, v), network.VPCsResults(v))
}

func vpcRow(s *domain.Scope, v domain.VPCSummary) network.VPC {
	return network.VPC{
		URL: in(s, "/vpcs/", v.ID), ID: v.ID, Name: v.Name, CIDR: v.CIDR, Region: v.RegionID, State: vpcState(v.VPC), Zones: plainZones(v.Zones),
		VSwitches: v.VSwitches, Attachments: v.Attachments, Endpoints: v.Endpoints, Overlaps: v.Overlaps,
	}
}

// vpcState is what the engine last said of a VPC.
func vpcState(v domain.VPC) ui.State {
	return engineState(v.EngineUp, v.EngineError, "Available", "Preparing")
}

func engineState(up bool, fault, there, coming string) ui.State {
	switch {
	case fault != "":
		return ui.State{Kind: ui.Bad, Word: "Failed", Title: fault}
	case up:
		return ui.State{Kind: ui.OK, Word: there}
	}
	return ui.State{Kind: ui.Busy, Word: coming, Title: "The engine has not reported it yet"}
}

// addedFor is how long after its creation an object is announced to open lists.
const addedFor = 5 * time.Second

// announced is t, and the news that list has an entry more if it is that new.
func announced(t templ.Component, list string, created time.Time) templ.Component {
	if time.Since(created) > addedFor {
		return t
	}
	return templ.Join(t, ui.Added(list))
}

func (k *Console) vpcChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	v, err := one(ctx, s.VPCs, id, func(v domain.VPCSummary) string { return v.ID })
	if err != nil {
		return nil, err
	}
	return announced(network.VPCPatch(vpcRow(s, v)), "vpcs", v.CreatedAt), nil
}

// ---- a new one

// defaultRange is what a form for a VPC begins with.
const defaultRange = "10.0.0.0/16"

var vswitchFields = []string{"zone_id", "cidr", "name"}

func (k *Console) newVPC(c echo.Context, s *domain.Scope) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	f := newForm()
	f.set("cidr", defaultRange)
	if err := suggestVSwitches(c.Request().Context(), s, f); err != nil {
		return err
	}
	return k.vpcForm(c, s, f)
}

// suggestVSwitches makes the rows of the form one vSwitch for each zone of its
// region, in its range.
func suggestVSwitches(ctx context.Context, s *domain.Scope, f *form) error {
	regions, err := s.Regions(ctx)
	if err != nil {
		return err
	}
	var zones []domain.Zone
	for i, r := range regions {
		if r.Region.ID == f.text("region_id") || (i == 0 && f.text("region_id") == "") {
			zones = r.Zones
			f.set("region_id", r.Region.ID)
		}
	}
	var rows []formRow
	free := freeRanges(f.text("cidr"), nil, len(zones))
	for i, z := range zones {
		row := formRow{"zone_id": z.ID, "cidr": "", "name": ""}
		if i < len(free) {
			row["cidr"] = free[i]
		}
		rows = append(rows, row)
	}
	f.setRows("vswitches", rows)
	return nil
}

// subnetBits is the size of the vSwitches that are suggested in a large VPC.
const subnetBits = 24

// freeRanges suggests up to n ranges for vSwitches of a VPC, none of which
// overlaps with those taken. It is none where the VPC's range is not one.
func freeRanges(vpc string, taken []string, n int) []string {
	whole, err := netip.ParsePrefix(vpc)
	if err != nil || !whole.Addr().Is4() || whole.Bits() < 8 || whole.Bits() > 28 {
		return nil
	}
	whole = whole.Masked()
	var used []netip.Prefix
	for _, t := range taken {
		if p, err := netip.ParsePrefix(t); err == nil {
			used = append(used, p)
		}
	}
	bits := min(max(subnetBits, whole.Bits()+2), 29)
	var out []string
	next := func(p netip.Prefix) netip.Prefix { // the following range of the same size
		b := p.Addr().As4()
		v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		v += 1 << (32 - bits)
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), bits)
	}
	first := netip.PrefixFrom(whole.Addr(), bits)
	// x.y.1.0 reads better than x.y.0.0: the first one comes last. Every taken range is
	// larger than none of these, so the search ends soon.
	for p := next(first); whole.Contains(p.Addr()) && len(out) < n; p = next(p) {
		if !slices.ContainsFunc(used, p.Overlaps) {
			out = append(out, p.String())
		}
	}
	if len(out) < n && !slices.ContainsFunc(used, first.Overlaps) {
		out = append(out, first.String())
	}
	return out
}

func (k *Console) createVPC(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	rows := f.rows("vswitches", vswitchFields...)
	switch {
	case f.ticked(network.SuggestRow):
		if err := suggestVSwitches(ctx, s, f); err != nil {
			return err
		}
		return k.vpcForm(c, s, f)
	case f.ticked(network.AddRow):
		row := formRow{"zone_id": "", "cidr": "", "name": ""}
		if len(rows) > 0 {
			row["zone_id"] = rows[len(rows)-1]["zone_id"]
		}
		var taken []string
		for _, r := range rows {
			taken = append(taken, r["cidr"])
		}
		for _, free := range freeRanges(f.text("cidr"), taken, 1) {
			row["cidr"] = free
		}
		f.setRows("vswitches", append(rows, row))
		return k.vpcForm(c, s, f)
	case f.ticked(network.RemoveRow):
		f.setRows("vswitches", f.without(rows))
		return k.vpcForm(c, s, f)
	}
	f.setRows("vswitches", rows)
	what := domain.VPCInput{Name: f.text("name"), RegionID: f.text("region_id"), CIDR: f.text("cidr")}
	for _, r := range rows {
		what.VSwitches = append(what.VSwitches, domain.VSwitchInput{Name: r["name"], ZoneID: r["zone_id"], CIDR: r["cidr"]})
	}
	var id string
	if f.ok() {
		id, err = f.once(c, s, "CreateVPC", func(ctx context.Context) (string, error) {
			v, err := s.CreateVPC(ctx, what)
			if err != nil {
				return "", err
			}
			return v.ID, nil
		})
	}
	if f.refused(err) {
		return k.vpcForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, "/vpcs/"+id, done(s, id, "VPC created."))
}

func (k *Console) vpcForm(c echo.Context, s *domain.Scope, f *form) error {
	p := k.page(c, s, "Create VPC", "/vpcs")
	regions, err := s.Regions(c.Request().Context())
	if err != nil {
		return err
	}
	v := network.VPCForm{Rows: len(f.rows("vswitches", vswitchFields...)), Back: p.URL("/vpcs")}
	for _, r := range regions {
		v.Regions = append(v.Regions, ui.Option{Value: r.Region.ID, Label: r.Region.ID})
		for _, z := range r.Zones {
			v.Zones = append(v.Zones, ui.Option{Value: z.ID, Label: z.ID})
		}
	}
	v.Form = f.show(s, "vpc", p.URL("/vpcs/new"), 0)
	return showDraft(c, f, v.Form.ID, network.VPCFormPage(p, v), network.NewVPC(v))
}

// showDraft is showForm for a form whose buttons also change it without sending
// it: htmx then gets it as a patch.
func showDraft(c echo.Context, f *form, id string, page, part templ.Component) error {
	if f.ok() && c.Request().Method == http.MethodPost {
		part = patch(id, part)
	}
	return showForm(c, f, page, part)
}

// ---- one of them

// vpcView is the head and the tabs of a VPC.
func vpcView(s *domain.Scope, d *domain.VPCDetail, tab string) network.VPCView {
	v := network.VPCView{
		VPC: network.VPC{
			URL: in(s, "/vpcs/", d.ID), ID: d.ID, Name: d.Name, CIDR: d.CIDR, Region: d.RegionID, State: vpcState(d.VPC),
			VSwitches: len(d.VSwitches), Attachments: d.Attachments, Endpoints: d.Endpoints, Overlaps: d.Overlaps,
		},
		Tab: tab, Services: d.Endpoints + d.LoadBalancers, Groups: d.Groups, Routes: d.Routes, RouteTable: in(s, "/route-tables/", d.RouteTableID),
		May: s.Can(domain.WriteNetwork), List: in(s, "/vpcs"), Error: d.EngineError,
	}
	var zones []string
	for _, x := range d.VSwitches {
		zones = append(zones, x.ZoneID)
	}
	slices.Sort(zones)
	v.Zones = plainZones(slices.Compact(zones))
	return v
}

func (k *Console) vpc(c echo.Context, s *domain.Scope) error {
	return k.showVPC(c, s, c.QueryParam("tab"), newForm())
}

// showVPC is a VPC's page with the tab; f is the form on it, as it was typed.
func (k *Console) showVPC(c echo.Context, s *domain.Scope, tab string, f *form) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "VPC", "/vpcs")
	d, err := s.VPC(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = d.Name
	v := vpcView(s, d, tab)
	switch tab {
	case network.TabVSwitches:
		return k.vswitchesTab(c, s, d, f)
	case network.TabServices:
		return k.vpcServices(c, s, v)
	case network.TabAudit:
		entries, err := k.history(c, s, d.ID)
		if err != nil {
			return err
		}
		return show(c, network.VPCTab(p, v, entries), entries)
	}
	v.Tab = network.TabOverview
	o := network.VPCOverview{VPCView: v, Created: d.CreatedAt, Subnets: vswitchRows(s, d, false)}
	if v.May && (c.QueryParam("edit") == "name" || !f.ok()) {
		if f.values == nil {
			f.set("name", d.Name)
		}
		rename := f.show(s, "rename", v.URL+"/rename", d.Version)
		o.Rename = &rename
		return showForm(c, f, network.VPCOverviewTab(p, o), network.RenameForm(rename, v.URL))
	}
	page := network.VPCOverviewTab(p, o)
	return show(c, page, page)
}

func (k *Console) renameVPC(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id, name := c.Param("id"), f.text("name")
	if f.ok() {
		err = s.RenameVPC(c.Request().Context(), id, name, f.version())
	}
	if f.refused(err) {
		return k.showVPC(c, s, network.TabOverview, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, "/vpcs/"+id, done(s, id, "VPC renamed."))
}

func (k *Console) vpcAttachments(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "VPC", "/vpcs")
	d, err := s.VPC(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = d.Name
	v, err := attachmentList(c, s, readList(c, s, "/vpcs/"+d.ID+"/attachments", "kind"), d.ID)
	if err != nil {
		return err
	}
	page := network.VPCTab(p, vpcView(s, d, network.TabAttachments), network.AttachmentsList(v))
	return list(c, v.List, page, network.AttachmentsResults(v))
}

// vpcServices is the tab of what leads out of a VPC and into it.
func (k *Console) vpcServices(c echo.Context, s *domain.Scope, view network.VPCView) error {
	ctx := c.Request().Context()
	p := k.page(c, s, view.Name, "/vpcs")
	only := domain.Query{Filter: map[string][]string{"vpc": {view.ID}}}
	endpoints, err := s.Endpoints(ctx, only)
	if err != nil {
		return err
	}
	balancers, err := s.LoadBalancers(ctx, only)
	if err != nil {
		return err
	}
	v := network.VPCServices{VPCView: view, MayConnect: s.Can(domain.WriteConsume), MayBalance: s.Can(domain.WriteProvide)}
	for _, e := range endpoints.Items {
		u := network.Use{Link: ui.Crumb{Label: e.Name, Href: in(s, "/endpoints/", e.ID)}, ID: e.ID, State: endpointState(e), Text: e.ServiceName}
		u.Zones = endpointZones(e.Zones)
		v.Endpoints = append(v.Endpoints, u)
	}
	for _, b := range balancers.Items {
		v.Balancers = append(v.Balancers, network.Use{
			Link: ui.Crumb{Label: b.Name, Href: in(s, "/load-balancers/", b.ID)}, ID: b.ID, State: targetsState(b.Healthy, b.Total),
			Zones: plainZones(b.Zones), Text: strings.Join(b.Listeners, ", "),
		})
	}
	if endpoints.Next != "" {
		v.MoreEndpoints = p.URL("/endpoints?vpc=" + view.ID)
	}
	if balancers.Next != "" {
		v.MoreBalancers = p.URL("/load-balancers?vpc=" + view.ID)
	}
	page := network.VPCServicesTab(p, v)
	return show(c, page, page)
}

// ---- its vSwitches

func vswitchRows(s *domain.Scope, d *domain.VPCDetail, may bool) []network.VSwitch {
	rows := make([]network.VSwitch, len(d.VSwitches))
	for i, x := range d.VSwitches {
		rows[i] = network.VSwitch{ID: x.ID, Name: x.Name, Zone: x.ZoneID, CIDR: x.CIDR, Gateway: x.Gateway(), Used: x.Used, Free: x.Free}
		if may {
			rows[i].Delete = in(s, "/vpcs/", d.ID, "/vswitches/", x.ID, "/delete")
		}
	}
	return rows
}

func (k *Console) vswitchesTab(c echo.Context, s *domain.Scope, d *domain.VPCDetail, f *form) error {
	p := k.page(c, s, d.Name, "/vpcs")
	v := network.VSwitches{VPCView: vpcView(s, d, network.TabVSwitches)}
	v.Rows = vswitchRows(s, d, v.May)
	regions, err := s.Regions(c.Request().Context())
	if err != nil {
		return err
	}
	for _, r := range regions {
		if r.Region.ID == d.RegionID {
			for _, z := range r.Zones {
				v.Zones = append(v.Zones, ui.Option{Value: z.ID, Label: z.ID})
			}
		}
	}
	if f.values == nil {
		var taken []string
		for _, x := range d.VSwitches {
			taken = append(taken, x.CIDR)
		}
		for _, free := range freeRanges(d.CIDR, taken, 1) {
			f.set("cidr", free)
		}
	}
	v.New = f.show(s, "vswitch", v.URL+"/vswitches", 0)
	page := network.VSwitchesTab(p, v)
	if !f.ok() {
		return showForm(c, f, page, network.NewVSwitch(v.New, v.Zones))
	}
	return show(c, page, page)
}

func (k *Console) createVSwitch(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	vpc := c.Param("id")
	what := domain.VSwitchInput{Name: f.text("name"), ZoneID: f.text("zone_id"), CIDR: f.text("cidr")}
	var id string
	if f.ok() {
		id, err = f.once(c, s, "CreateVSwitch "+vpc, func(ctx context.Context) (string, error) {
			x, err := s.CreateVSwitch(ctx, vpc, what)
			if err != nil {
				return "", err
			}
			return x.ID, nil
		})
	}
	if f.refused(err) {
		return k.showVPC(c, s, network.TabVSwitches, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, "/vpcs/"+vpc+"?tab="+network.TabVSwitches, done(s, id, "vSwitch added."))
}

// ---- the end

func (k *Console) askDeleteVPC(c echo.Context, s *domain.Scope) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	p := k.page(c, s, "Delete VPC", "/vpcs")
	d, err := s.VPC(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	at := in(s, "/vpcs/", d.ID)
	r := network.Removal{
		Question: ui.Question{
			Form:  ui.Form{ID: "delete", Action: at + "/delete", Hidden: hidden(s, d.Version)},
			Title: "Delete VPC " + d.Name + "?", Verb: "Delete VPC", Danger: true, Cancel: at,
		},
		Effect: "Its route table goes with it. This cannot be undone.",
	}
	for _, u := range []struct {
		n    int
		what string
		href string
	}{
		{d.Endpoints, "endpoint", at + "?tab=" + network.TabServices},
		{d.LoadBalancers, "load balancer", at + "?tab=" + network.TabServices},
		{d.ServerGroups, "server group", in(s, groupPath+"?vpc=", d.ID)},
		{d.Attachments, "attachment", at + "/attachments"},
		{d.Groups, "security group", in(s, "/security-groups?vpc=", d.ID)},
		{len(d.VSwitches), "vSwitch", at + "?tab=" + network.TabVSwitches},
	} {
		if u.n > 0 {
			r.Uses = append(r.Uses, ui.Crumb{Label: ui.Plural(u.n, u.what, map[string]string{"vSwitch": "vSwitches"}[u.what]), Href: u.href})
		}
	}
	return show(c, network.RemovalPage(p, r), network.Remove(r))
}

func (k *Console) deleteVPC(c echo.Context, s *domain.Scope) error {
	id := c.Param("id")
	if err := s.DeleteVPC(c.Request().Context(), id); err != nil {
		return err
	}
	return k.seeOther(c, s, "/vpcs", done(s, id, "VPC deleted."))
}

func (k *Console) askDeleteVSwitch(c echo.Context, s *domain.Scope) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	p := k.page(c, s, "Delete vSwitch", "/vpcs")
	d, x, err := vswitchOf(c, s)
	if err != nil {
		return err
	}
	at := in(s, "/vpcs/", d.ID)
	r := network.Removal{
		Question: ui.Question{
			Form:  ui.Form{ID: "delete", Action: at + "/vswitches/" + x.ID + "/delete", Hidden: hidden(s, 0)},
			Title: "Delete vSwitch " + x.Name + "?", Verb: "Delete vSwitch", Danger: true, Cancel: at + "?tab=" + network.TabVSwitches,
		},
		Effect: "Its range, " + x.CIDR + ", is free again.",
	}
	if x.Used > 0 {
		r.Uses = []ui.Crumb{
			{Label: ui.Plural(x.Used, "address", "addresses") + " in use by attachments", Href: at + "/attachments"},
			{Label: "or by endpoints and load balancers", Href: at + "?tab=" + network.TabServices},
		}
	}
	return show(c, network.RemovalPage(p, r), network.Remove(r))
}

// vswitchOf finds the VPC and the vSwitch that the path names.
func vswitchOf(c echo.Context, s *domain.Scope) (*domain.VPCDetail, domain.VSwitchUse, error) {
	d, err := s.VPC(c.Request().Context(), c.Param("id"))
	if err != nil {
		return nil, domain.VSwitchUse{}, err
	}
	i := slices.IndexFunc(d.VSwitches, func(x domain.VSwitchUse) bool { return x.ID == c.Param("vswitch") })
	if i < 0 {
		return nil, domain.VSwitchUse{}, echo.ErrNotFound
	}
	return d, d.VSwitches[i], nil
}

func (k *Console) deleteVSwitch(c echo.Context, s *domain.Scope) error {
	d, x, err := vswitchOf(c, s)
	if err != nil {
		return err
	}
	if err := s.DeleteVSwitch(c.Request().Context(), x.ID); err != nil {
		return err
	}
	return k.changed(c, s, "/vpcs/"+d.ID+"?tab="+network.TabVSwitches, done(s, x.ID, "vSwitch "+x.Name+" deleted."), ui.Remove(liveID(domain.KindVSwitch, x.ID)))
}
