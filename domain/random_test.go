package domain_test

import (
	"flag"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// TestRandomLives lets people, the clock and an engine that lags behind do what they
// like to an endpoint, and looks at what always has to hold.
func TestRandomLives(t *testing.T) {
	m := newMarket(t)
	ctx, sys := t.Context(), m.Store.System()
	switches := map[string]domain.VSwitch{domaintest.ZoneH: m.sh, domaintest.ZoneI: m.si}
	colleague := m.As(m.Provider.Account().ID, domain.RoleProvider)
	if checks := flag.Lookup("rapid.checks").Value; checks.String() == "100" { // the default: a life takes a quarter of a second
		check(t, checks.Set("40"))
		defer func() { check(t, checks.Set("100")) }()
	}
	rapid.Check(t, func(t *rapid.T) {
		ep, err := m.Consumer.CreateEndpoint(ctx, domain.EndpointInput{
			ServiceName: m.service.ID, VPCID: m.shop.ID, GroupIDs: []string{m.group.ID}, Zones: []domain.EndpointZoneInput{{VSwitchID: m.sh.ID}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { // also after a failure, for the next life has the same addresses
			_ = m.Consumer.DeleteEndpoint(ctx, ep.ID, domain.RemoveInput{})
			m.Follow()
		}()
		var (
			version  int64                  = 1
			approved bool                   // the last word of the provider, or of the clock
			deleting bool                   //
			engine   *domain.EngineEndpoint // what the engine has applied; it may be old
			seen     int64                  // the newest version that it has reported about as it is
		)
		wants := func() *domain.EngineEndpoint {
			got, err := sys.EngineEndpoints(ctx, []string{ep.ID})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				return nil
			}
			return &got[0]
		}
		// person does something that either is refused, or makes the next version.
		person := func(err error, done func()) {
			e := wants()
			switch {
			case err == nil && e != nil:
				if e.Version != version+1 {
					t.Fatalf("done, and version %d became %d", version, e.Version)
				}
				version = e.Version
				done()
			case domain.KindOf(err) != domain.Conflict && domain.KindOf(err) != domain.NotFound && domain.KindOf(err) != domain.Invalid:
				t.Fatal(err)
			case e != nil && e.Version != version:
				t.Fatalf("refused with %v, and version %d became %d", err, version, e.Version)
			}
		}
		provider := func(t *rapid.T) *domain.Scope {
			return rapid.SampledFrom([]*domain.Scope{m.Provider, colleague}).Draw(t, "who")
		}
		zone := func(t *rapid.T) string {
			return rapid.SampledFrom([]string{domaintest.ZoneH, domaintest.ZoneI}).Draw(t, "zone")
		}
		drain := func(t *rapid.T) int { return rapid.SampledFrom([]int{0, 5, 60}).Draw(t, "drain") }
		var undone bool // approved before the last decision
		rejected := func(t *rapid.T, zone string) (by bool) {
			err := m.Store.DB().Model(&domain.EndpointZone{}).Where("endpoint_id = ? AND zone_id = ?", ep.ID, zone).Pluck("rejected", &by).Error
			if err != nil {
				t.Fatal(err)
			}
			return by
		}
		t.Repeat(map[string]func(*rapid.T){
			"accept": func(t *rapid.T) {
				in := domain.AcceptInput{}
				if rapid.Bool().Draw(t, "with an end") {
					in.ExpiresAt = new(m.Clock.Now().Add(time.Minute))
				}
				_, err := provider(t).AcceptConnection(ctx, ep.ID, in)
				person(err, func() { undone, approved = approved, true })
			},
			"reject": func(t *rapid.T) {
				_, err := provider(t).RejectConnection(ctx, ep.ID, domain.RejectInput{Drain: drain(t)})
				person(err, func() { undone, approved = approved, false })
			},
			"undo": func(t *rapid.T) {
				_, err := provider(t).UndoDecision(ctx, ep.ID, 0)
				person(err, func() { approved = undone })
			},
			"cut": func(t *rapid.T) {
				_, err := provider(t).CutConnection(ctx, ep.ID, 0)
				person(err, func() {})
			},
			"reject zone": func(t *rapid.T) {
				_, err := provider(t).RejectZone(ctx, ep.ID, zone(t), domain.RejectZoneInput{Drain: drain(t)})
				person(err, func() {})
			},
			"accept zone": func(t *rapid.T) {
				_, err := provider(t).AcceptZone(ctx, ep.ID, zone(t), 0)
				person(err, func() {})
			},
			"modify": func(t *rapid.T) {
				_, err := provider(t).ModifyConnection(ctx, ep.ID, domain.ModifyInput{Bandwidth: new(200)})
				person(err, func() {})
			},
			"time": func(t *rapid.T) {
				m.Clock.Step(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
				if err := sys.Expire(ctx); err != nil {
					t.Fatal(err)
				}
				if e := wants(); e != nil && e.Version != version {
					version, approved = e.Version, false
				}
			},
			"add zone": func(t *rapid.T) {
				person(m.Consumer.AddEndpointZone(ctx, ep.ID, domain.EndpointZoneInput{VSwitchID: switches[zone(t)].ID}, 0), func() {})
			},
			"remove zone": func(t *rapid.T) {
				person(m.Consumer.RemoveEndpointZone(ctx, ep.ID, zone(t), domain.RemoveInput{Drain: drain(t)}), func() {})
			},
			"groups": func(*rapid.T) {
				person(m.Consumer.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{GroupIDs: &[]string{m.group.ID}}), func() {})
			},
			"delete": func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "really") == 0 {
					person(m.Consumer.DeleteEndpoint(ctx, ep.ID, domain.RemoveInput{Drain: drain(t)}), func() { deleting = true })
				}
			},
			"engine applies": func(*rapid.T) { engine = wants() },
			"engine reports": func(t *rapid.T) {
				if engine == nil {
					return
				}
				r := domaintest.Followed(*engine)
				whole := rapid.Bool().Draw(t, "all of it")
				if !whole { // one zone is not there yet, or not gone yet
					z := zone(t)
					r.Zones[z] = domain.ZoneReport{Carrying: !r.Zones[z].Carrying}
				}
				if err := sys.Report(ctx, domain.Report{Endpoints: []domain.EndpointReport{r}}); err != nil {
					t.Fatal(err)
				}
				if engine.Version == version {
					seen = version
				}
			},
			"": func(t *rapid.T) {
				e := wants()
				d, err := m.Consumer.Endpoint(ctx, ep.ID)
				if e == nil {
					if !deleting || domain.KindOf(err) != domain.NotFound {
						t.Fatalf("gone, though deleting is %v: %v", deleting, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if e.Carry != (approved && !deleting) {
					t.Fatalf("carries %v as %s %s, approved %v, deleting %v", e.Carry, d.Connection.Status, d.Connection.Decision, approved, deleting)
				}
				if e.Version != version {
					t.Fatalf("version %d became %d by itself", version, e.Version)
				}
				for _, z := range e.Zones {
					if z.Carries() && !e.Carry {
						t.Fatalf("zone %s is %s in a connection that does not carry", z.ZoneID, z.Status)
					}
					if e.Carry && !z.Carries() && z.Status != domain.ZoneDeleting && !rejected(t, z.ZoneID) {
						t.Fatalf("zone %s is %s in a connection that carries", z.ZoneID, z.Status)
					}
					if z.Carries() && rejected(t, z.ZoneID) {
						t.Fatalf("zone %s is %s, though it is rejected", z.ZoneID, z.Status)
					}
					if z.DrainUntil != nil && z.Status != domain.ZoneDisconnecting && z.Status != domain.ZoneDeleting {
						t.Fatalf("zone %s drains, and is %s", z.ZoneID, z.Status)
					}
				}
				switch d.Connection.Status {
				case domain.Connected, domain.Disconnected:
					if seen == 0 && (d.Connection.Status == domain.Connected || approved) {
						t.Fatalf("%s, which the engine never saw", d.Connection.Status)
					}
				case domain.Deleting:
					if !deleting {
						t.Fatal("deleting by itself")
					}
				}
			},
		})
		// However it went: once the engine has followed, everything has come to rest.
		m.Follow()
		d, err := m.Consumer.Endpoint(ctx, ep.ID)
		switch {
		case deleting:
			if domain.KindOf(err) != domain.NotFound {
				t.Fatalf("a deletion did not end: %v", err)
			}
		case err != nil:
			t.Fatal(err)
		case approved != (d.Connection.Status == domain.Connected) || approved == (d.Connection.Status == domain.Disconnected) || d.Status != domain.EndpointActive:
			t.Fatalf("came to rest as %s, %s", d.Connection.Status, d.Status)
		}
	})
	for _, s := range []*domain.Scope{m.Provider, m.Consumer} {
		if c := must(s.VerifyAudit(ctx))(t); c.BrokenAt != 0 {
			t.Errorf("trail of %s is broken at %d", s.Account().Name, c.BrokenAt)
		}
	}
	var left int64
	check(t, m.Store.DB().Model(&domain.Address{}).Where("owner_kind = ?", domain.KindEndpoint).Count(&left).Error)
	if left > 0 {
		t.Errorf("%d addresses of endpoints are left", left)
	}
}

// TestOneWriter looks for writes of a status outside of the state machines.
func TestOneWriter(t *testing.T) {
	files := must(filepath.Glob("*.go"))(t)
	writes := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := gotoken.NewFileSet()
		file := must(parser.ParseFile(fset, name, nil, 0))(t)
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Update", "Updates", "UpdateColumn", "UpdateColumns", "Exec", "edit"}, sel.Sel.Name) {
				return true
			}
			for _, arg := range call.Args {
				ast.Inspect(arg, func(n ast.Node) bool {
					lit, ok := n.(*ast.BasicLit)
					if !ok || lit.Kind != gotoken.STRING {
						return true
					}
					s, err := strconv.Unquote(lit.Value)
					check(t, err)
					if s != "status" && !strings.Contains(s, "SET status") {
						return true
					}
					if writes++; name != "state.go" {
						t.Errorf("%s writes a status", fset.Position(lit.Pos()))
					}
					return true
				})
			}
			return true
		})
	}
	if writes == 0 {
		t.Error("no write of a status was found at all")
	}
}
