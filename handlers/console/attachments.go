package console

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/network"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) attachmentsArea(r router) {
	r.get("/attachments", k.attachments)
	r.get("/attachments/new", k.newAttachment)
	r.post("/attachments/new", k.createAttachment)
	r.get("/attachments/:id", k.attachment)
	r.post("/attachments/:id/groups", k.setAttachmentGroups)
	r.get("/attachments/:id/delete", k.askDeleteAttachment)
	r.post("/attachments/:id/delete", k.deleteAttachment)
	r.resource("attachments", func(ctx context.Context, s *domain.Scope, id string) error {
		_, err := s.Attachment(ctx, id)
		return err
	})
	r.live(domain.KindAttachment, k.attachmentChanged)
}

// attachmentKinds are the kinds in the order a form offers them.
var attachmentKinds = []struct{ kind, label, text string }{
	{domain.AttachManaged, "Managed namespace", "Made for you: run commands in it with exec."},
	{domain.AttachAdopted, "Adopted namespace", "The network of a container or process."},
	{domain.AttachInterface, "Host interface", "A network card or VLAN of the host."},
	{domain.AttachHost, "Host service", "A service that listens on the host, as a target."},
	{domain.AttachPort, "Published port", "A port of the host that leads into the VPC."},
}

func kindLabel(kind string) string {
	for _, x := range attachmentKinds {
		if x.kind == kind {
			return x.label
		}
	}
	return kind
}

// ---- lists

func (k *Console) attachments(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Attachments", "/vpcs")
	v, err := attachmentList(c, s, readList(c, s, "/attachments", "vpc", "kind"), "")
	if err != nil {
		return err
	}
	return list(c, v.List, network.AttachmentsPage(p, v), network.AttachmentsResults(v))
}

// attachmentList is the attachments of a VPC, or of every one if vpc is "".
func attachmentList(c echo.Context, s *domain.Scope, l listing, vpc string) (network.Attachments, error) {
	v := network.Attachments{May: s.Can(domain.WriteNetwork), URL: in(s, "/attachments/new")}
	q := l.domain()
	if vpc != "" {
		q.Filter["vpc"] = []string{vpc}
		v.URL += "?vpc=" + vpc
	} else {
		var err error
		if v.Selects, err = byVPC(c, s, l); err != nil {
			return v, err
		}
	}
	kinds := ui.FilterSelect{Name: "kind", Label: "Kind", Value: l.get("kind"), Options: []ui.Option{{Label: "All kinds"}}}
	for _, x := range attachmentKinds {
		kinds.Options = append(kinds.Options, ui.Option{Value: x.kind, Label: x.label})
	}
	v.Selects = append(v.Selects, kinds)
	got, err := s.Attachments(c.Request().Context(), q)
	if err != nil {
		return v, err
	}
	for _, x := range got.Items {
		v.Rows = append(v.Rows, attachmentRow(s, x))
	}
	v.List = l.fill(v.Frame(), ids(v.Rows, func(r network.Attachment) string { return r.ID }), got.Prev, got.Next)
	return v, nil
}

func attachmentRow(s *domain.Scope, a domain.AttachmentSummary) network.Attachment {
	return network.Attachment{
		URL: in(s, "/attachments/", a.ID), ID: a.ID, Name: a.Name, Kind: kindLabel(a.Kind), State: attachmentState(a.Attachment), Address: a.Address,
		VPC: ui.Crumb{Label: a.VPCName, Href: in(s, "/vpcs/", a.VPCID)}, VSwitch: a.VSwitchName, Zone: a.ZoneID, Offer: a.OfferLabel, Groups: a.Groups,
	}
}

// attachmentState is what the engine last said of an attachment.
func attachmentState(a domain.Attachment) ui.State {
	return engineState(a.EngineUp, a.EngineError, "Attached", "Attaching")
}

func (k *Console) attachmentChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	a, err := one(ctx, s.Attachments, id, func(a domain.AttachmentSummary) string { return a.ID })
	if err != nil {
		return nil, err
	}
	return announced(network.AttachmentPatch(attachmentRow(s, a)), "attachments", a.CreatedAt), nil
}

// ---- a new one

func (k *Console) newAttachment(c echo.Context, s *domain.Scope) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	vpc := c.QueryParam("vpc")
	if vpc == "" {
		options, err := vpcOptions(c.Request().Context(), s, "")
		if err != nil {
			return err
		}
		if len(options) != 1 {
			return k.chooseVPC(c, s, options)
		}
		vpc = options[0].Value
	}
	f := newForm()
	f.set("vpc_id", vpc)
	f.set("source", domain.AttachManaged)
	return k.attachmentForm(c, s, f)
}

// chooseVPC asks for the VPC first: everything else in the form depends on it.
func (k *Console) chooseVPC(c echo.Context, s *domain.Scope, options []ui.Option) error {
	p := k.page(c, s, "Create attachment", "/vpcs")
	page := network.ChooseVPCPage(p, network.ChooseVPC{
		Title: "Create attachment", URL: p.URL("/attachments/new"), Back: ui.Crumb{Label: "Attachments", Href: p.URL("/attachments")},
		VPCs: options, New: p.URL("/vpcs/new"),
	})
	return show(c, page, page)
}

func (k *Console) attachmentForm(c echo.Context, s *domain.Scope, f *form) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Create attachment", "/vpcs")
	d, err := s.VPC(ctx, f.text("vpc_id"))
	if err != nil {
		return err
	}
	offers, err := s.Offers(ctx)
	if err != nil {
		return err
	}
	at := p.URL("/vpcs/" + d.ID)
	v := network.AttachmentForm{
		VPC: ui.Crumb{Label: d.Name, Href: at}, Sources: sources(offers), Back: at + "/" + network.TabAttachments,
		NewGroup: p.URL("/security-groups/new?vpc=" + d.ID), NewSub: at + "?tab=" + network.TabVSwitches,
	}
	most := -1
	for _, x := range d.VSwitches {
		v.Switches = append(v.Switches, ui.Option{Value: x.ID, Label: fmt.Sprintf("%s · zone %s · %s free", x.Name, zoneName(x.ZoneID), ui.Number(x.Free))})
		if x.Free > most && !f.values.Has("address") { // not sent yet
			most = x.Free
			f.set("vswitch_id", x.ID)
		}
	}
	if v.Groups, err = groupOptions(ctx, s, d.ID); err != nil {
		return err
	}
	v.Form = f.show(s, "attachment", p.URL("/attachments/new"), 0)
	return showForm(c, f, network.AttachmentFormPage(p, v), network.NewAttachment(v))
}

// sources are what an attachment can be made of: a namespace of ours, or one of
// the operators' offers. A kind without an offer is there to say so.
func sources(offers []domain.OfferView) []ui.Option {
	var out []ui.Option
	for _, x := range attachmentKinds {
		if x.kind == domain.AttachManaged {
			out = append(out, ui.Option{Value: x.kind, Label: x.label, Text: x.text})
			continue
		}
		offered := false
		for _, o := range offers {
			if o.Kind != x.kind {
				continue
			}
			offered = true
			option := ui.Option{Value: x.kind + ":" + o.ID, Label: o.Label, Text: x.label + offerPlace(o)}
			if o.InUse {
				option.Disabled, option.Note = true, "in use"
			}
			out = append(out, option)
		}
		if !offered {
			out = append(out, ui.Option{Value: x.kind, Label: x.label, Text: "No operator has offered you one.", Disabled: true})
		}
	}
	return out
}

// offerPlace says where on the host an offered address is.
func offerPlace(o domain.OfferView) string {
	switch {
	case o.Host == "":
		return ""
	case o.Ports == "":
		return " at " + o.Host + ", any port"
	}
	return " at " + o.Host + ", port " + o.Ports
}

func groupOptions(ctx context.Context, s *domain.Scope, vpc string) ([]ui.Option, error) {
	groups, err := every(ctx, s.Groups, domain.Query{Filter: map[string][]string{"vpc": {vpc}}})
	if err != nil {
		return nil, err
	}
	out := make([]ui.Option, len(groups))
	for i, g := range groups {
		out[i] = ui.Option{Value: g.ID, Label: g.Name, Text: g.Type + " · " + ui.Plural(g.Rules, "rule", "")}
	}
	return out, nil
}

func (k *Console) createAttachment(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	kind, offer, _ := strings.Cut(f.text("source"), ":")
	what := domain.AttachmentInput{VPCID: f.text("vpc_id"), Name: f.text("name"), Kind: kind, OfferID: offer}
	// What the kind has no field for is not looked at, though a browser sends it.
	if kind != domain.AttachHost {
		what.VSwitchID, what.Address, what.GroupIDs = f.text("vswitch_id"), f.text("address"), f.all("group_ids")
	}
	if kind == domain.AttachHost || kind == domain.AttachPort {
		what.HostPort = f.number("host_port")
	}
	if kind == domain.AttachPort {
		what.TargetIP, what.TargetPort = f.text("target_ip"), f.number("target_port")
	}
	var id string
	if f.ok() {
		id, err = f.once(c, s, "CreateAttachment", func(ctx context.Context) (string, error) {
			a, err := s.CreateAttachment(ctx, what)
			if err != nil {
				return "", err
			}
			return a.ID, nil
		})
	}
	faultsAt(err, func(field string) string {
		if field == "offer_id" || field == "kind" {
			return "source"
		}
		return field
	})
	if f.refused(err) {
		return k.attachmentForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, "/attachments/"+id, done(s, id, "Attachment created."))
}

// ---- one of them

func (k *Console) attachment(c echo.Context, s *domain.Scope) error {
	return k.showAttachment(c, s, newForm())
}

func (k *Console) showAttachment(c echo.Context, s *domain.Scope, f *form) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Attachment", "/vpcs")
	d, err := s.Attachment(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = d.Name
	v := attachmentView(s, d)
	if c.QueryParam("tab") == network.TabAudit {
		if v.Audit, err = k.history(c, s, d.ID); err != nil {
			return err
		}
	} else if v.May && d.VSwitchID != "" && (c.QueryParam("edit") == "groups" || !f.ok()) {
		if v.AllGroups, err = groupOptions(ctx, s, d.VPCID); err != nil {
			return err
		}
		if f.values == nil {
			f.set("version", strconv.FormatInt(d.Version, 10))
			for _, g := range d.Groups {
				f.values.Add("group_ids", g.ID)
			}
		}
		form := f.show(s, "groups", v.URL+"/groups", f.version())
		v.EditGroups = &form
		return showForm(c, f, network.AttachmentPage(p, v), network.GroupsForm(form, v.AllGroups, v.NewGroup, v.URL))
	}
	page := network.AttachmentPage(p, v)
	return show(c, page, page)
}

func attachmentView(s *domain.Scope, d *domain.AttachmentDetail) network.AttachmentView {
	sum := domain.AttachmentSummary{Attachment: d.Attachment, VPCName: d.VPC.Name, OfferLabel: d.OfferLabel, Groups: len(d.Groups)}
	if d.VSwitch != nil {
		sum.VSwitchName, sum.ZoneID = d.VSwitch.Name, d.VSwitch.ZoneID
	}
	v := network.AttachmentView{
		Attachment: attachmentRow(s, sum), VSwitchID: d.VSwitchID, HostPort: d.HostPort, Created: d.CreatedAt, Error: d.EngineError,
		NewGroup: in(s, "/security-groups/new?vpc=", d.VPCID), May: s.Can(domain.WriteNetwork),
	}
	if d.TargetIP != "" {
		v.Leads = net.JoinHostPort(d.TargetIP, strconv.Itoa(d.Target))
	}
	if d.Kind == domain.AttachManaged || d.Kind == domain.AttachAdopted {
		v.Exec = "openprivatelink exec " + shellWord(d.Attachment) + " -- sh"
	}
	for _, g := range d.Groups {
		v.In = append(v.In, ui.Crumb{Label: g.Name, Href: in(s, "/security-groups/", g.ID)})
	}
	for _, r := range d.Routes {
		v.Routes = append(v.Routes, ui.Crumb{Label: r.Destination, Href: in(s, "/route-tables/", r.TableID)})
	}
	for _, t := range d.Servers {
		v.Targets = append(v.Targets, network.Target{Group: t.GroupName, Port: t.Port, Weight: t.Weight, Zone: t.ZoneID, Health: healthState(t.Server, true)})
	}
	return v
}

var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)

// shellWord is how a command line names an attachment without quotes: by its name
// if that is plain, else by its id.
func shellWord(a domain.Attachment) string {
	if plainWord.MatchString(a.Name) {
		return a.Name
	}
	return a.ID
}

func (k *Console) setAttachmentGroups(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id := c.Param("id")
	err = s.SetAttachmentGroups(c.Request().Context(), id, f.all("group_ids"), f.version())
	if f.refused(err) {
		return k.showAttachment(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, "/attachments/"+id, done(s, id, "Security groups changed."))
}

func (k *Console) askDeleteAttachment(c echo.Context, s *domain.Scope) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	p := k.page(c, s, "Delete attachment", "/vpcs")
	d, err := s.Attachment(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	at := in(s, "/attachments/", d.ID)
	r := network.Removal{
		Question: ui.Question{
			Form:  ui.Form{ID: "delete", Action: at + "/delete", Hidden: hidden(s, d.Version)},
			Title: "Delete attachment " + d.Name + "?", Verb: "Delete attachment", Danger: true, Cancel: at,
		},
		Effect: deletionEffect(d),
	}
	for _, t := range d.Servers {
		r.Uses = append(r.Uses, ui.Crumb{Label: fmt.Sprintf("target of %s, port %d", t.GroupName, t.Port), Href: in(s, groupPath, "/", t.ServerGroupID)})
	}
	for _, x := range d.Routes {
		r.Uses = append(r.Uses, ui.Crumb{Label: "route to " + x.Destination, Href: in(s, "/route-tables/", x.TableID)})
	}
	return show(c, network.RemovalPage(p, r), network.Remove(r))
}

func deletionEffect(d *domain.AttachmentDetail) string {
	switch d.Kind {
	case domain.AttachManaged:
		return "Its namespace goes with it, and what runs inside is ended."
	case domain.AttachHost, domain.AttachPort:
		return "The offer stays, and can be used again."
	}
	return "It is taken out of the VPC and otherwise left as it is. Its address, " + d.Address + ", is free again."
}

func (k *Console) deleteAttachment(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	d, err := s.Attachment(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	if err := s.DeleteAttachment(ctx, d.ID); err != nil {
		return err
	}
	return k.seeOther(c, s, "/vpcs/"+d.VPCID+"/"+network.TabAttachments, done(s, d.ID, "Attachment "+d.Name+" deleted."))
}
