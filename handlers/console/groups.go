package console

import (
	"context"
	"strconv"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/network"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) groupsArea(r router) {
	r.get("/security-groups", k.groups)
	r.get("/security-groups/new", k.newGroup)
	r.post("/security-groups/new", k.createGroup)
	r.get("/security-groups/:id", k.group)
	r.post("/security-groups/:id/describe", k.describeGroup)
	r.get("/security-groups/:id/delete", k.askDeleteGroup)
	r.post("/security-groups/:id/delete", k.deleteGroup)
	r.post("/security-groups/:id/rules", k.addRule)
	r.post("/security-groups/:id/rules/:rule", k.updateRule)
	r.post("/security-groups/:id/rules/:rule/delete", k.deleteRule)
	r.resource("security-groups", func(ctx context.Context, s *domain.Scope, id string) error { _, err := s.Group(ctx, id); return err })
	r.live(domain.KindGroup, k.groupChanged)
}

// ---- the list

func (k *Console) groups(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Security groups", "/security-groups")
	l := readList(c, s, "/security-groups", "vpc")
	got, err := s.Groups(c.Request().Context(), l.domain())
	if err != nil {
		return err
	}
	v := network.Groups{May: s.Can(domain.WriteNetwork), URL: p.URL("/security-groups/new")}
	if vpc := l.get("vpc"); vpc != "" {
		v.URL += encoded(map[string][]string{"vpc": {vpc}})
	}
	if v.Selects, err = byVPC(c, s, l); err != nil {
		return err
	}
	for _, x := range got.Items {
		v.Rows = append(v.Rows, groupRow(s, x))
	}
	v.List = l.fill(v.Frame(), ids(v.Rows, func(r network.Group) string { return r.ID }), got.Prev, got.Next)
	return list(c, v.List, network.GroupsPage(p, v), network.GroupsResults(v))
}

func groupRow(s *domain.Scope, g domain.GroupSummary) network.Group {
	return network.Group{
		URL: in(s, "/security-groups/", g.ID), ID: g.ID, Name: g.Name, Description: g.Description, Type: g.Type,
		VPC: ui.Crumb{Label: g.VPCName, Href: in(s, "/vpcs/", g.VPCID)}, Rules: g.Rules, Members: g.Members, Endpoints: g.Endpoints,
	}
}

func (k *Console) groupChanged(ctx context.Context, s *domain.Scope, id string) (templ.Component, error) {
	g, err := one(ctx, s.Groups, id, func(g domain.GroupSummary) string { return g.ID })
	if err != nil {
		return nil, err
	}
	return announced(patch(liveID(domain.KindGroup, id), network.GroupRow(groupRow(s, g))), "security-groups", g.CreatedAt), nil
}

// ---- a new one

func (k *Console) newGroup(c echo.Context, s *domain.Scope) error {
	f := newForm()
	f.set("vpc_id", c.QueryParam("vpc"))
	f.set("start", network.StartVPC)
	return k.groupForm(c, s, f)
}

func (k *Console) groupForm(c echo.Context, s *domain.Scope, f *form) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	p := k.page(c, s, "Create security group", "/security-groups")
	options, err := vpcOptions(c.Request().Context(), s, "")
	if err != nil {
		return err
	}
	back := p.URL("/security-groups")
	if len(options) == 0 {
		page := network.ChooseVPCPage(p, network.ChooseVPC{
			Title: "Create security group", Back: ui.Crumb{Label: "Security groups", Href: back}, New: p.URL("/vpcs/new"),
		})
		return show(c, page, page)
	}
	v := network.GroupForm{VPCs: options, Back: back}
	v.Form = f.show(s, "group", p.URL("/security-groups/new"), 0)
	return showForm(c, f, network.GroupFormPage(p, v), network.NewGroup(v))
}

func (k *Console) createGroup(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.GroupInput{VPCID: f.text("vpc_id"), Name: f.text("name"), Description: f.text("description"), Type: f.text("type")}
	start := f.text("start")
	var id string
	if f.ok() {
		id, err = f.once(c, s, "CreateSecurityGroup", func(ctx context.Context) (string, error) {
			switch start {
			case network.StartVPC:
				v, err := s.VPC(ctx, what.VPCID)
				if err != nil {
					return "", err
				}
				what.Rules = letIn(v.CIDR, "Everybody in the VPC")
			case network.StartAnyone:
				what.Rules = letIn("0.0.0.0/0", "Everybody")
			}
			g, err := s.CreateGroup(ctx, what)
			if err != nil {
				return "", err
			}
			return g.ID, nil
		})
	}
	if f.refused(err) {
		return k.groupForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, "/security-groups/"+id, done(s, id, "Security group created."))
}

// letIn is one rule for all that comes from a range.
func letIn(cidr, description string) []domain.RuleInput {
	return []domain.RuleInput{{
		Direction: domain.Ingress, Policy: domain.PolicyAccept, Protocol: domain.ProtocolAll, Peer: cidr, Description: description,
	}}
}

// ---- one of them

func (k *Console) group(c echo.Context, s *domain.Scope) error {
	return k.showGroup(c, s, newForm(), ruleEdit{id: c.QueryParam("edit"), add: c.QueryParam("add"), like: c.QueryParam("like")})
}

// ruleEdit is which rule the page has a form for: the one with the id, or a new
// one for a direction, which may begin as a copy of another.
type ruleEdit struct{ id, add, like string }

// describing is the value of "edit" for the name and the description.
const describing = "name"

// showGroup is the page of a group; f is the form on it, as it was typed, and edit
// says which that is.
func (k *Console) showGroup(c echo.Context, s *domain.Scope, f *form, edit ruleEdit) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Security group", "/security-groups")
	d, err := s.Group(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = d.Name
	v := k.groupView(s, d)
	switch {
	case c.QueryParam("tab") == network.TabAudit:
		if v.Audit, err = k.history(c, s, d.ID); err != nil {
			return err
		}
		return show(c, network.GroupPage(p, v), v.Audit)
	case !v.May:
	case edit.id == describing:
		if f.values == nil {
			f.set("name", d.Name)
			f.set("description", d.Description)
			f.set("intra_policy", d.IntraPolicy)
		}
		form := f.show(s, "describe", v.URL+"/describe", d.Version)
		v.Edit = &form
		return showForm(c, f, network.GroupPage(p, v), network.DescribeGroup(form, v))
	case edit.id != "" || edit.add != "":
		if v.Rules.Edit, err = ruleForm(ctx, s, d, v.URL, f, edit); err != nil {
			return err
		}
	}
	if e := v.Rules.Edit; e != nil && !f.ok() {
		peer := "Source"
		if e.Direction == network.Outbound {
			peer = "Destination"
		}
		return showForm(c, f, network.GroupPage(p, v), network.RuleForm(*e, peer))
	}
	return show(c, network.GroupPage(p, v), network.RulesRegion(v.Rules))
}

func (k *Console) groupView(s *domain.Scope, d *domain.GroupDetail) network.GroupView {
	v := network.GroupView{
		Group:   groupRow(s, domain.GroupSummary{SecurityGroup: d.SecurityGroup, VPCName: d.VPCName, Rules: len(d.Rules), Members: len(d.Members), Endpoints: len(d.Endpoints)}),
		Created: d.CreatedAt, Together: d.IntraPolicy == domain.PolicyAccept, Enterprise: d.Type == domain.GroupEnterprise, May: s.Can(domain.WriteNetwork),
	}
	v.Rules = rulesView(s, d, v.URL, v.May)
	for _, a := range d.Members {
		v.Members = append(v.Members, network.Use{
			Link: ui.Crumb{Label: a.Name, Href: in(s, "/attachments/", a.ID)}, ID: a.ID, State: attachmentState(a), Text: kindLabel(a.Kind) + " · " + a.Address,
		})
	}
	for _, e := range d.Endpoints {
		v.Uses = append(v.Uses, network.Use{
			Link: ui.Crumb{Label: e.Name, Href: in(s, "/endpoints/", e.ID)}, ID: e.ID, State: endpointStatus(e.Status), Text: e.ServiceName,
		})
	}
	return v
}

// endpointStatus is the state of an endpoint itself, without its connection.
func endpointStatus(status domain.EndpointStatus) ui.State {
	st := ui.State{Kind: ui.Busy, Word: string(status), Title: "EndpointStatus: " + string(status)}
	switch status {
	case domain.EndpointActive:
		st.Kind = ui.OK
	case domain.EndpointPending:
		st.Word = "Updating"
	case domain.EndpointDeleting:
		st.Kind = ui.Leaving
	}
	return st
}

func rulesView(s *domain.Scope, d *domain.GroupDetail, at string, may bool) network.Rules {
	var v network.Rules
	if may {
		v.AddInbound, v.AddOutbound = at+"?add="+network.Inbound, at+"?add="+network.Outbound
	}
	for _, r := range d.Rules {
		x := network.Rule{
			ID: r.ID, Priority: r.Priority, Policy: ui.State{Kind: ui.OK, Word: r.Policy}, Protocol: protocolWord(r.Protocol), Ports: r.Ports(),
			Peer: ui.Crumb{Label: r.PeerCIDR}, Description: r.Description,
		}
		if r.Policy == domain.PolicyDrop {
			x.Policy.Kind = ui.Bad
		}
		if x.Ports == "" {
			x.Ports = "all"
		}
		if r.PeerGroupID != "" {
			x.Peer = ui.Crumb{Label: nameOr(d.PeerNames, r.PeerGroupID), Href: in(s, "/security-groups/", r.PeerGroupID)}
		}
		if may {
			x.Edit, x.Duplicate = at+"?edit="+r.ID, at+"?add="+r.Direction+"&like="+r.ID
			x.Delete = ui.Post{
				Action: at + "/rules/" + r.ID + "/delete", Hidden: hidden(s, 0),
				Button: ui.Btn{Label: "Delete rule", Of: r.ID, Icon: "trash-2", Look: ui.Ghost, Small: true, IconOnly: true},
			}
		}
		if r.Direction == domain.Ingress {
			v.Inbound = append(v.Inbound, x)
		} else {
			v.Outbound = append(v.Outbound, x)
		}
	}
	return v
}

func protocolWord(protocol string) string {
	return map[string]string{domain.ProtocolAll: "all", domain.ProtocolTCP: "TCP", domain.ProtocolUDP: "UDP", domain.ProtocolICMP: "ICMP"}[protocol]
}

// ruleForm is the form of the rule that edit names; nil if there is none.
func ruleForm(ctx context.Context, s *domain.Scope, d *domain.GroupDetail, at string, f *form, edit ruleEdit) (*network.RuleEdit, error) {
	e := &network.RuleEdit{ID: edit.id, Direction: edit.add, Back: at}
	from := domain.SecurityRule{Direction: edit.add, Priority: 1, Policy: domain.PolicyAccept, Protocol: domain.ProtocolTCP}
	known := edit.add == network.Inbound || edit.add == network.Outbound
	for _, r := range d.Rules {
		if r.ID == edit.id || (edit.id == "" && r.ID == edit.like) {
			from, known = r, true
			e.Direction = r.Direction
		}
	}
	if !known {
		return nil, nil
	}
	if f.values == nil {
		for name, value := range map[string]string{
			"priority": strconv.Itoa(from.Priority), "policy": from.Policy, "protocol": from.Protocol, "ports": from.Ports(),
			"peer": from.Peer(), "description": from.Description,
		} {
			f.set(name, value)
		}
	}
	id, action := "rule", at+"/rules"
	if edit.id != "" {
		action += "/" + edit.id
	}
	e.Form = f.show(s, id, action, 0)
	e.Peers = []ui.Option{{Value: "0.0.0.0/0", Label: "everybody"}}
	if v, err := s.VPC(ctx, d.VPCID); err == nil {
		e.Peers = append(e.Peers, ui.Option{Value: v.CIDR, Label: "VPC " + v.Name})
	}
	if d.Type == domain.GroupNormal {
		groups, err := groupOptions(ctx, s, d.VPCID)
		if err != nil {
			return nil, err
		}
		e.Peers = append(e.Peers, groups...)
	}
	return e, nil
}

func readRule(f *form) domain.RuleInput {
	return domain.RuleInput{
		Direction: f.text("direction"), Priority: f.number("priority"), Policy: f.text("policy"), Protocol: f.text("protocol"),
		Ports: f.text("ports"), Peer: f.text("peer"), Description: f.text("description"),
	}
}

func (k *Console) addRule(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := readRule(f)
	if f.ok() {
		_, err = s.AddRule(c.Request().Context(), c.Param("id"), what)
	}
	if f.refused(err) {
		return k.showGroup(c, s, f, ruleEdit{add: what.Direction})
	}
	if err != nil {
		return err
	}
	return k.rulesChanged(c, s, "Rule added.")
}

func (k *Console) updateRule(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx, rule := c.Request().Context(), c.Param("rule")
	if err := ruleOf(ctx, s, c.Param("id"), rule); err != nil {
		return err
	}
	what := readRule(f)
	if f.ok() {
		_, err = s.UpdateRule(ctx, rule, what)
	}
	if f.refused(err) {
		return k.showGroup(c, s, f, ruleEdit{id: rule})
	}
	if err != nil {
		return err
	}
	return k.rulesChanged(c, s, "Rule changed.")
}

// ruleOf refuses a rule that is not the group's.
func ruleOf(ctx context.Context, s *domain.Scope, group, rule string) error {
	d, err := s.Group(ctx, group)
	if err != nil {
		return err
	}
	for _, r := range d.Rules {
		if r.ID == rule {
			return nil
		}
	}
	return echo.ErrNotFound
}

func (k *Console) deleteRule(c echo.Context, s *domain.Scope) error {
	ctx, rule := c.Request().Context(), c.Param("rule")
	if err := ruleOf(ctx, s, c.Param("id"), rule); err != nil {
		return err
	}
	if err := s.DeleteRule(ctx, rule); err != nil {
		return err
	}
	return k.rulesChanged(c, s, "Rule deleted.")
}

// rulesChanged shows the rules as they are now.
func (k *Console) rulesChanged(c echo.Context, s *domain.Scope, title string) error {
	d, err := s.Group(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	v := k.groupView(s, d)
	return k.changed(c, s, "/security-groups/"+d.ID, done(s, d.ID, title), network.RulesPatch(v.Rules))
}

func (k *Console) describeGroup(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id := c.Param("id")
	what := domain.GroupUpdate{Name: f.text("name"), Description: f.text("description"), IntraPolicy: f.text("intra_policy"), Version: f.version()}
	if f.ok() {
		err = s.UpdateGroup(c.Request().Context(), id, what)
	}
	if f.refused(err) {
		return k.showGroup(c, s, f, ruleEdit{id: describing})
	}
	if err != nil {
		return err
	}
	return k.seeOther(c, s, "/security-groups/"+id, done(s, id, "Security group changed."))
}

func (k *Console) askDeleteGroup(c echo.Context, s *domain.Scope) error {
	if err := k.mayWrite(s, domain.WriteNetwork); err != nil {
		return err
	}
	p := k.page(c, s, "Delete security group", "/security-groups")
	d, err := s.Group(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	v := k.groupView(s, d)
	r := network.Removal{
		Question: ui.Question{
			Form:  ui.Form{ID: "delete", Action: v.URL + "/delete", Hidden: hidden(s, d.Version)},
			Title: "Delete security group " + d.Name + "?", Verb: "Delete security group", Danger: true, Cancel: v.URL,
		},
		Effect: "Its " + ui.Plural(len(d.Rules), "rule goes", "rules go") + " with it.",
	}
	for _, u := range v.Uses {
		r.Uses = append(r.Uses, ui.Crumb{Label: "endpoint " + u.Link.Label, Href: u.Link.Href})
	}
	for _, u := range v.Members {
		r.Uses = append(r.Uses, ui.Crumb{Label: "attachment " + u.Link.Label, Href: u.Link.Href})
	}
	return show(c, network.RemovalPage(p, r), network.Remove(r))
}

func (k *Console) deleteGroup(c echo.Context, s *domain.Scope) error {
	id := c.Param("id")
	if err := s.DeleteGroup(c.Request().Context(), id); err != nil {
		return err
	}
	return k.seeOther(c, s, "/security-groups", done(s, id, "Security group deleted."))
}
