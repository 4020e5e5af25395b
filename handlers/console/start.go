package console

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/start"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// The newcomer's page of a demo's account: the connection between two of the demo's
// accounts, which one user owns both of.

func (k *Console) startArea(r router) {
	r.get(startPath, k.start)
	r.post(startPath+"/accept", k.startAccept)
	r.post(startPath+"/break", k.startRule(domain.PolicyDrop))
	r.post(startPath+"/fix", k.startRule(domain.PolicyAccept))
	r.post(startPath+"/publish", k.startPublish)
	r.get(startPath+"/empty", k.askStartEmpty)
	r.post(startPath+"/empty", k.startEmpty)
}

const (
	startPath = "/welcome"
	// storySettles is how long a step waits for the data plane before it shows how far it is.
	storySettles = 3 * time.Second
	storyLooks   = 20 * time.Millisecond
)

// scene is what the story is about: a connection to this account, and both its owners.
type scene struct {
	provider, consumer *domain.Scope
	connection         domain.ConnectionSummary
	endpoint           *domain.EndpointDetail
}

// scene finds the latest connection to the account whose consumer the same browser
// is signed in for.
func (k *Console) scene(c echo.Context, s *domain.Scope) (*scene, error) {
	ctx := c.Request().Context()
	page, err := s.Connections(ctx, domain.ConnQuery{})
	if err != nil {
		return nil, err
	}
	for _, x := range slices.Backward(page.Items) { // the demo's own is the oldest
		consumer, err := k.scope(c, x.ConsumerID)
		if err != nil || !consumer.Account().Demo {
			continue
		}
		e, err := consumer.Endpoint(ctx, x.EndpointID)
		if err != nil {
			return nil, err
		}
		return &scene{provider: s, consumer: consumer, connection: x, endpoint: e}, nil
	}
	return nil, nil
}

func (k *Console) start(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Welcome", "")
	sc, err := k.scene(c, s)
	if err != nil {
		return err
	}
	if sc == nil || !s.Account().Demo {
		return redirect(c, p.URL(""))
	}
	v, err := k.story(c, sc, nil)
	if err != nil {
		return err
	}
	return show(c, start.Page(p, v), start.Content(v))
}

// story shows how far the connection is; once it carries, what a client in the
// consumer's VPC gets. own is the form that was refused, or nil.
func (k *Console) story(c echo.Context, sc *scene, own *form) (start.Story, error) {
	ctx := c.Request().Context()
	s, e := sc.provider, sc.endpoint
	at := func(path string) string { return in(s, startPath, path) }
	post := func(path string, b ui.Btn) *ui.Post {
		return &ui.Post{Action: at(path), Hidden: hidden(s, 0), Button: b}
	}
	v := start.Story{
		URL: in(s, startPath), State: connectionState(e.Connection.Status, e.Connection.Decision), Kind: ui.Waiting,
		Service: sc.connection.ServiceName, Endpoint: e.ID, Link: in(s, connectionPath, "/", e.ID),
		Consumer: start.Side{Account: sc.consumer.Account().Name, VPC: e.VPC.Name, CIDR: e.VPC.CIDR},
		Provider: start.Side{Account: s.Account().Name},
	}
	if len(e.Zones) > 0 {
		v.Consumer.Address = e.Zones[0].Address
	}
	for _, a := range e.Sources {
		v.Consumer.Lines = append(v.Consumer.Lines, a.Name+"  "+a.Address)
	}
	if err := sc.backstage(ctx, &v.Provider); err != nil {
		return v, err
	}
	switch {
	case e.Connection.Status == domain.Connected:
		v.Kind = ui.OK
		if err := k.proof(ctx, sc, &v, post); err != nil {
			return v, err
		}
	case e.Connection.Decision == domain.Accepted:
		v.Kind = ui.Busy
	case e.Connection.Status == domain.Disconnected:
		v.Accept = post("/accept", ui.Btn{Label: "Accept the connection", Icon: "check", Look: ui.Primary, Large: true})
	}
	for _, i := range k.everybody(c) {
		if i.Operator() {
			v.Empty = at("/empty")
		}
	}
	offers, err := s.Offers(ctx)
	if err != nil {
		return v, err
	}
	if i := slices.IndexFunc(offers, func(o domain.OfferView) bool { return o.Kind == domain.AttachHost }); i >= 0 {
		if own == nil {
			own = newForm()
		}
		v.Own = &start.Own{Form: own.show(s, "own", at("/publish"), 0), Host: offers[i].Host}
	}
	return v, nil
}

// everybody is who is signed in; an error was reported when the scope was made.
func (k *Console) everybody(c echo.Context) []*domain.Identity {
	who, err := k.identities(c)
	if err != nil {
		return nil
	}
	return who
}

// backstage is what the provider sees of its own side.
func (sc *scene) backstage(ctx context.Context, side *start.Side) error {
	d, err := sc.provider.Connection(ctx, sc.connection.EndpointID)
	if err != nil {
		return err
	}
	if len(d.SeenAs) > 0 {
		side.Address = d.SeenAs[0]
	}
	if len(d.ZoneStates) == 0 {
		return nil
	}
	lb, err := sc.provider.LoadBalancer(ctx, d.ZoneStates[0].LoadBalancerID) // of the other zones, too
	if err != nil {
		return err
	}
	v, err := sc.provider.VPC(ctx, lb.VPCID)
	if err != nil {
		return err
	}
	side.VPC, side.CIDR = v.Name, v.CIDR
	for _, l := range lb.Listeners {
		for _, srv := range l.Servers {
			side.Lines = append(side.Lines, srv.Name+"  "+srv.Target)
		}
	}
	return nil
}

// proof runs a request inside the consumer's VPC and says what came back.
func (k *Console) proof(ctx context.Context, sc *scene, v *start.Story, post func(string, ui.Btn) *ui.Post) error {
	r, err := sc.consumer.TestEndpoint(ctx, sc.endpoint.ID, domain.TestInput{HTTP: true})
	if err != nil {
		return err
	}
	t := &start.Terminal{Command: r.Command, Output: r.Output}
	if r.OK {
		t.Note = ui.State{Kind: ui.OK, Word: fmt.Sprintf("Answered in %s, asked from %s", r.Total.Round(100*time.Microsecond), r.Source)}
		v.Break = post("/break", ui.Btn{Label: "Break it", Icon: "shield"})
	} else {
		v.Kind = ui.Bad
		t.Note = ui.State{Kind: ui.Bad, Word: "No answer: " + r.Error}
		if t.Output == "" {
			t.Output = r.Error
		}
		switch {
		case r.Refused == nil:
		case r.Refused.Reason == domain.FlowDenied:
			t.Note.Word = "refused (" + refusal(r) + ")"
			t.Why = fmt.Sprintf("Rule %s of security group %s drops TCP %d from %s", r.Refused.Rule, r.Refused.Group, r.Address.Port(), r.Attachment.Address)
			t.WhyHref = in(sc.consumer, "/security-groups/", r.Refused.Group)
			v.Fix = post("/fix", ui.Btn{Label: "Fix it", Icon: "check", Look: ui.Primary})
		default:
			t.Note.Word = "No answer: " + r.Refused.Why()
		}
	}
	if t.Command == "" {
		t.Command = "curl http://" + r.Address.String() + "/"
	}
	v.Terminal = t
	return nil
}

// settle waits for the data plane to follow, up to a few seconds.
func (sc *scene) settle(ctx context.Context) error {
	for deadline := time.Now().Add(storySettles); ; {
		e, err := sc.consumer.Endpoint(ctx, sc.endpoint.ID)
		if err != nil {
			return err
		}
		sc.endpoint = e
		if e.Connection.Status == domain.Connected || time.Now().After(deadline) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(storyLooks):
		}
	}
}

// told ends a step: htmx gets the story as it is now, a browser its page.
func (k *Console) told(c echo.Context, sc *scene, n ui.Note) error {
	if !wantsPart(c) {
		return k.seeOther(c, sc.provider, startPath, n)
	}
	v, err := k.story(c, sc, nil)
	if err != nil {
		return err
	}
	return k.changed(c, sc.provider, startPath, n, patch("story", start.Content(v)))
}

// inScene runs a step of the story.
func (k *Console) inScene(c echo.Context, s *domain.Scope, f func(context.Context, *scene) (ui.Note, error)) error {
	sc, err := k.scene(c, s)
	if err != nil {
		return err
	}
	if sc == nil {
		return echo.ErrNotFound
	}
	n, err := f(c.Request().Context(), sc)
	if err != nil {
		return err
	}
	return k.told(c, sc, n)
}

func (k *Console) startAccept(c echo.Context, s *domain.Scope) error {
	return k.inScene(c, s, func(ctx context.Context, sc *scene) (ui.Note, error) {
		x, err := s.AcceptConnection(ctx, sc.endpoint.ID, domain.AcceptInput{})
		if err != nil {
			return ui.Note{}, err
		}
		return ui.Note{Kind: ui.OK, Title: sc.consumer.Account().Name + " is connected.", Undo: undoPost(s, *x)}, sc.settle(ctx)
	})
}

// startRule gives the rules of the endpoint's security groups another policy.
func (k *Console) startRule(policy string) page {
	return func(c echo.Context, s *domain.Scope) error {
		return k.inScene(c, s, func(ctx context.Context, sc *scene) (ui.Note, error) {
			for _, of := range sc.endpoint.Groups {
				g, err := sc.consumer.Group(ctx, of.ID)
				if err != nil {
					return ui.Note{}, err
				}
				for _, r := range g.Rules {
					if r.Direction != domain.Ingress || r.Policy == policy {
						continue
					}
					_, err := sc.consumer.UpdateRule(ctx, r.ID, domain.RuleInput{
						Direction: r.Direction, Priority: r.Priority, Policy: policy, Protocol: r.Protocol, Ports: r.Ports(), Peer: r.Peer(), Description: r.Description,
					})
					if err != nil {
						return ui.Note{}, err
					}
				}
			}
			return ui.Note{}, sc.follow(ctx, policy == domain.PolicyAccept)
		})
	}
}

// follow waits until a client is answered, or refused, as the rules now say.
func (sc *scene) follow(ctx context.Context, answered bool) error {
	for deadline := time.Now().Add(storySettles); time.Now().Before(deadline); {
		r, err := sc.consumer.TestEndpoint(ctx, sc.endpoint.ID, domain.TestInput{HTTP: true})
		if err != nil || r.OK == answered {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(storyLooks):
		}
	}
	return nil
}

func (k *Console) startPublish(c echo.Context, s *domain.Scope) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	svc, err := s.PublishHost(c.Request().Context(), domain.PublishInput{Target: f.text("target")})
	if !f.refused(err) && err == nil {
		return k.seeOther(c, s, servicePath+"/"+svc.ID, ui.Note{Kind: ui.OK, Title: svc.Name + " is published.", Text: "Put the accounts that may use it on its whitelist."})
	}
	if f.ok() {
		return err
	}
	sc, err := k.scene(c, s)
	if err != nil {
		return err
	}
	if sc == nil {
		return echo.ErrNotFound
	}
	v, err := k.story(c, sc, f)
	if err != nil {
		return err
	}
	if v.Own == nil {
		return echo.ErrNotFound
	}
	return showForm(c, f, start.Page(k.page(c, s, "Welcome", ""), v), start.OwnForm(*v.Own))
}

// ---- starting empty

func (k *Console) emptyQuestion(s *domain.Scope) ui.Question {
	return ui.Question{
		Form:  ui.Form{ID: "empty", Action: in(s, startPath, "/empty"), Hidden: hidden(s, 0)},
		Title: "Remove the demo?", Verb: "Remove the demo", Danger: true, Cancel: in(s, startPath),
	}
}

func (k *Console) askStartEmpty(c echo.Context, s *domain.Scope) error {
	q := k.emptyQuestion(s)
	return show(c, start.EmptyPage(k.page(c, s, "Remove the demo", ""), q), start.EmptyQuestion(q))
}

func (k *Console) startEmpty(c echo.Context, s *domain.Scope) error {
	for _, i := range k.everybody(c) {
		o, err := i.AsOperator(k.actor(c))
		if err != nil {
			continue
		}
		if err := o.RemoveDemo(c.Request().Context()); err != nil {
			return err
		}
		return k.adminSeeOther(c, "/admin/accounts", ui.Note{Kind: ui.OK, Title: "The demo is removed.", Text: "Make your first account."})
	}
	return echo.ErrNotFound
}
