package console

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/provide"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// Targets are changed on the page of a load balancer and on that of their server
// group, by the same forms: the path says which, and the answer leads back there.
func (k *Console) targetRoutes(r router) {
	for _, page := range []string{balancerPath, groupPath} {
		r.get(page+"/:id/targets/:target/weight", k.editWeight)
		r.post(page+"/:id/targets/:target/weight", k.setWeight)
		r.get(page+"/:id/targets/:target/remove", k.askRemoveTarget)
		r.post(page+"/:id/targets/:target/remove", k.removeTarget)
	}
}

// onGroup reports whether the request is about a server group's page.
func onGroup(c echo.Context) bool { return strings.Contains(c.Path(), groupPath+"/:id") }

// targetsPage is the path of the page that shows the targets.
func targetsPage(c echo.Context) string {
	if onGroup(c) {
		return groupPath + "/" + c.Param("id")
	}
	return balancerPath + "/" + c.Param("id")
}

// targetsPatched ends a change of targets on the page they are shown at.
func (k *Console) targetsPatched(c echo.Context, s *domain.Scope, n ui.Note) error {
	if onGroup(c) {
		return k.groupPatched(c, s, c.Param("id"), n)
	}
	return k.balancerPatched(c, s, c.Param("id"), n)
}

// targetView is a target on the page at url.
func targetView(s *domain.Scope, url string, t domain.ServerDetail, g domain.ServerGroup) provide.Target {
	v := provide.Target{
		ID: t.ID, URL: url + "/targets/" + t.ID, Address: t.Target, Zone: t.ZoneID, Weight: t.Weight, Host: t.Host,
		State: healthState(t.Server, g.HealthEnabled), Reason: reasonWords(t.HealthReason), Code: t.HealthReason, Since: t.HealthSince, Hidden: hidden(s, 0),
	}
	if t.AttachmentID != "" {
		v.Name = provide.Link{Label: t.Name, Href: in(s, "/attachments/", t.AttachmentID)}
	}
	return v
}

// reasonWords says why a target is unhealthy; the API's word is the title.
func reasonWords(reason string) string {
	if words, ok := map[string]string{
		"CONNECT_TIMEOUT": "no connection in time", "CONNECT_FAILED": "the connection was refused", "CONNECT_INTERRUPT": "the connection broke",
		"RECV_RESPONSE_TIMEOUT": "no answer in time", "HTTP_CODE_NOT_MATCH": "another HTTP status than expected", "HTTP_INVALID_HEADER": "the answer is not HTTP",
		"NAME_UNRESOLVED": "the name has no address", "NAME_REFUSED": "the name leads out of the VPC",
	}[reason]; ok {
		return words
	}
	return reason
}

// readTarget reads a target from fields whose names begin with under. An address or
// a name that was typed stands above the attachment beside it. A port that is left
// empty is the listener's, 0 for a range; a host service's own takes no port.
func readTarget(f *form, under string, port int) domain.ServerInput {
	srv := domain.ServerInput{Port: f.number(under + "port")}
	if f.text(under+"weight") != "" {
		srv.Weight = new(f.number(under + "weight"))
	}
	var host bool
	switch typed := f.text(under + "address"); {
	case typed == "":
		srv.AttachmentID, host = strings.CutPrefix(f.text(under+"attachment_id"), hostPrefix)
	case isName(typed):
		srv.DNSName = typed
	default:
		srv.Address = typed
	}
	if srv.Port == 0 && !host {
		srv.Port = port
	}
	return srv
}

// isName tells a DNS name from an address: it has a letter, and no address is
// written so.
func isName(s string) bool {
	_, err := netip.ParseAddr(s)
	return err != nil && strings.ContainsFunc(s, unicode.IsLetter)
}

// targetField names the control that a fault of a target is about.
func targetField(field string) string { return strings.Replace(field, "dns_name", "address", 1) }

// hostPrefix marks an option that is a host service.
const hostPrefix = "host:"

// targetChoices are what listeners in a VPC can send to; types narrow the server groups.
func targetChoices(ctx context.Context, s *domain.Scope, vpc string, types ...string) (provide.TargetChoices, error) {
	var out provide.TargetChoices
	var err error
	if out.Attachments, err = targetOptions(ctx, s, vpc); err != nil {
		return out, err
	}
	groups, err := every(ctx, s.ServerGroups, domain.Query{Filter: map[string][]string{"vpc": {vpc}, "type": types}})
	if err != nil {
		return out, err
	}
	for _, g := range groups {
		out.Groups = append(out.Groups, ui.Option{
			Value: g.ID, Label: fmt.Sprintf("%s · %s · %s", g.Name, protocolWords[g.Protocol], ui.Plural(g.Total, "target", "")),
		})
	}
	return out, nil
}

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

func (k *Console) newTarget(c echo.Context, s *domain.Scope) error {
	return k.targetForm(c, s, newForm())
}

// groupOf finds the server group that a new target is for, and the port it gets
// where none is named: the listener's.
func (k *Console) groupOf(c echo.Context, s *domain.Scope) (g *domain.ServerGroupDetail, port int, err error) {
	id := c.Param("id")
	if !onGroup(c) {
		_, l, err := k.listenerOf(c, s)
		if err != nil {
			return nil, 0, err
		}
		id, port = l.ServerGroupID, l.Port
	} else if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return nil, 0, err
	}
	g, err = s.ServerGroup(c.Request().Context(), id)
	if err == nil && g.AnyPort {
		port = 0
	}
	return g, port, err
}

func (k *Console) targetForm(c echo.Context, s *domain.Scope, f *form) error {
	g, port, err := k.groupOf(c, s)
	if err != nil {
		return err
	}
	options, err := targetOptions(c.Request().Context(), s, g.VPCID)
	if err != nil {
		return err
	}
	q := ui.Question{
		Form: f.show(s, "add-target", c.Request().URL.Path, 0), Title: "Add a target to " + g.Name, Verb: "Add target", Cancel: in(s, targetsPage(c)),
	}
	return k.ask(c, s, f, balancerPath, q, provide.TargetFields(q.Form, options, g.AnyPort, port))
}

func (k *Console) addTarget(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	g, port, err := k.groupOf(c, s)
	if err != nil {
		return err
	}
	what := readTarget(f, "", port)
	if f.ok() {
		_, err = f.once(c, s, "AddServer", func(ctx context.Context) (string, error) {
			srv, err := s.AddServer(ctx, g.ID, what)
			if err != nil {
				return "", err
			}
			return srv.ID, nil
		})
	}
	faultsAt(err, targetField)
	if f.refused(err) {
		return k.targetForm(c, s, f)
	}
	if err != nil {
		return err
	}
	return k.targetsPatched(c, s, done(s, g.ID, "The target is added. It gets connections once it is healthy."))
}

// targetOf finds the target that the path names, on the page that it names.
func (k *Console) targetOf(c echo.Context, s *domain.Scope) (*domain.ServerDetail, error) {
	if err := k.mayWrite(s, domain.WriteProvide); err != nil {
		return nil, err
	}
	var shown []domain.ServerDetail
	if onGroup(c) {
		g, err := s.ServerGroup(c.Request().Context(), c.Param("id"))
		if err != nil {
			return nil, err
		}
		shown = g.Servers
	} else {
		b, err := s.LoadBalancer(c.Request().Context(), c.Param("id"))
		if err != nil {
			return nil, err
		}
		for _, l := range b.Listeners {
			shown = append(shown, l.Servers...)
		}
	}
	for i := range shown {
		if shown[i].ID == c.Param("target") {
			return &shown[i], nil
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
	q := ui.Question{Form: f.show(s, "weight", c.Request().URL.Path, 0), Title: "Weight of " + targetName(t), Verb: "Save", Cancel: in(s, targetsPage(c))}
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
	return k.targetsPatched(c, s, n)
}

func (k *Console) askRemoveTarget(c echo.Context, s *domain.Scope) error {
	t, err := k.targetOf(c, s)
	if err != nil {
		return err
	}
	f := newForm()
	q := ui.Question{
		Form: f.show(s, "remove-target", c.Request().URL.Path, 0), Title: "Remove target " + targetName(t) + "?", Verb: "Remove", Danger: true,
		Cancel: in(s, targetsPage(c)),
	}
	return k.ask(c, s, f, balancerPath, q, provide.Text("Connections to it end at once, or when its server group has drained. Weight 0 lets them finish first."))
}

func (k *Console) removeTarget(c echo.Context, s *domain.Scope) error {
	t, err := k.targetOf(c, s)
	if err != nil {
		return err
	}
	if err := s.RemoveServer(c.Request().Context(), t.ID); err != nil {
		return err
	}
	return k.targetsPatched(c, s, done(s, t.ID, targetName(t)+" is removed."))
}

func targetName(t *domain.ServerDetail) string {
	if t.Name != "" {
		return t.Name
	}
	return t.Target
}
