package domain_test

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestCreateAccount(t *testing.T) {
	w := domaintest.New(t)
	tests := []struct {
		name string
		in   domain.AccountInput
		kind domain.Kind
		want string // "" for success
	}{
		{"id chosen", domain.AccountInput{Name: "acme payments"}, 0, ""},
		{"id given", domain.AccountInput{Name: "northwind", ID: "1000000000000042"}, 0, ""},
		{"other letters", domain.AccountInput{Name: "Zürich 银行"}, 0, ""},
		{"name taken", domain.AccountInput{Name: "northwind"}, domain.Conflict, "name: account_exists"},
		{"id taken", domain.AccountInput{Name: "northwind 2", ID: "1000000000000042"}, domain.Conflict, "id: account_exists"},
		{"both taken", domain.AccountInput{Name: "northwind", ID: "1000000000000042"}, domain.Conflict, "name: account_exists, id: account_exists"},
		{"short", domain.AccountInput{Name: "a"}, domain.Invalid, "name: invalid_name"},
		{"long", domain.AccountInput{Name: strings.Repeat("a", 129)}, domain.Invalid, "name: invalid_name"},
		{"digit first", domain.AccountInput{Name: "1a"}, domain.Invalid, "name: invalid_name"},
		{"NUL", domain.AccountInput{Name: "a\x00b"}, domain.Invalid, "name: invalid_name"},
		{"not UTF-8", domain.AccountInput{Name: "a\xffb"}, domain.Invalid, "name: invalid_name"},
		{"several faults", domain.AccountInput{Name: "", ID: "42"}, domain.Invalid, "name: invalid_name, id: invalid_id"},
		{"id does not begin with 1", domain.AccountInput{Name: "ab", ID: "2000000000000042"}, domain.Invalid, "id: invalid_id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := w.Operator.CreateAccount(t.Context(), tt.in)
			if got := faults(err); got != tt.want || domain.KindOf(err) != tt.kind {
				t.Fatalf("got %s, %q; want %s, %q", domain.KindOf(err), got, tt.kind, tt.want)
			}
			if err == nil && (!regexp.MustCompile(`^1\d{15}$`).MatchString(a.ID) || a.State != domain.AccountActive || a.SiteID != domain.DefaultSite) {
				t.Errorf("account %+v", a)
			}
		})
	}
	_, err := w.Operator.CreateAccount(t.Context(), domain.AccountInput{Name: "mars", SiteID: "mars"})
	fails(t, err, domain.NotFound, "site_not_found")
}

// TestAccountsOfOneNameRace: one is made, the other is a Conflict.
func TestAccountsOfOneNameRace(t *testing.T) {
	w := domaintest.New(t)
	for n := range 5 {
		var made atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := w.Operator.CreateAccount(t.Context(), domain.AccountInput{Name: fmt.Sprint("wanted by all ", n)}); err == nil {
					made.Add(1)
				} else if domain.KindOf(err) != domain.Conflict {
					t.Errorf("got %v, want Conflict", err)
				}
			})
		}
		wg.Wait()
		if made.Load() != 1 {
			t.Errorf("%d accounts of one name", made.Load())
		}
	}
}

func TestCreateUser(t *testing.T) {
	w := domaintest.New(t)
	tests := []struct {
		name string
		in   domain.UserInput
		kind domain.Kind
		want string
	}{
		{"plain", domain.UserInput{Name: "anna"}, 0, ""},
		{"mail address", domain.UserInput{Name: "Ben@Example.com ", Password: "12345678"}, 0, ""},
		{"taken in another case", domain.UserInput{Name: "ANNA"}, domain.Conflict, "name: user_exists"},
		{"looks like an id", domain.UserInput{Name: "usr-anna"}, domain.Invalid, "name: invalid_name"},
		{"short password", domain.UserInput{Name: "carl", Password: "1234567"}, domain.Invalid, "password: password_too_short"},
		{"long password", domain.UserInput{Name: "carl", Password: strings.Repeat("x", 257)}, domain.Invalid, "password: password_too_long"},
		{"several", domain.UserInput{Name: "c arl", DisplayName: "\x07", Password: "x"}, domain.Invalid, "name: invalid_name, display_name: invalid_name, password: password_too_short"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := w.Operator.CreateUser(t.Context(), tt.in)
			if got := faults(err); got != tt.want || domain.KindOf(err) != tt.kind {
				t.Fatalf("got %s, %q; want %s, %q", domain.KindOf(err), got, tt.kind, tt.want)
			}
			if err == nil && (u.Name != strings.ToLower(strings.TrimSpace(tt.in.Name)) || u.DisplayName == "" || u.PasswordHash != "") {
				t.Errorf("user %+v", u)
			}
		})
	}
	users, err := w.Operator.Users(t.Context(), domain.Query{Text: "EXAMPLE"})
	check(t, err)
	if len(users.Items) != 1 || users.Items[0].Name != "ben@example.com" || users.Items[0].PasswordHash != "" {
		t.Errorf("users: %+v", users.Items)
	}
	for _, err := range []error{
		w.Operator.SetPassword(t.Context(), "nobody", "12345678"), w.Operator.DisableUser(t.Context(), "nobody"),
		w.Operator.EnableUser(t.Context(), "usr-nobody"), w.Operator.AddMember(t.Context(), w.Provider.Account().ID, "nobody", domain.RoleOwner),
		w.Operator.RemoveMember(t.Context(), w.Provider.Account().ID, "nobody"),
	} {
		fails(t, err, domain.NotFound, "user_not_found")
	}
}

func TestAccountsList(t *testing.T) {
	w := domaintest.New(t)
	for n := range 7 {
		_, err := w.Operator.CreateAccount(t.Context(), domain.AccountInput{Name: fmt.Sprint("many ", n)})
		check(t, err)
	}
	names := func(q domain.Query) (string, domain.Page[domain.Account]) {
		t.Helper()
		p, err := w.Operator.Accounts(t.Context(), q)
		check(t, err)
		var out []string
		for _, a := range p.Items {
			out = append(out, a.Name)
		}
		return strings.Join(out, ", "), p
	}
	var got []string
	q := domain.Query{Limit: 4}
	for {
		page, p := names(q)
		got = append(got, page)
		if q.After = p.Next; q.After == "" {
			break
		}
	}
	want := []string{"consumer, many 0, many 1, many 2", "many 3, many 4, many 5, many 6", "provider, stranger"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, _ := names(domain.Query{Text: "ANY 3"}); got != "many 3" {
		t.Errorf("by a part of the name: %s", got)
	}
	if got, _ := names(domain.Query{Text: w.Consumer.Account().ID}); got != "consumer" {
		t.Errorf("by id: %s", got)
	}
}

func TestSuspendAndResume(t *testing.T) {
	w := domaintest.New(t)
	ctx, s := t.Context(), w.Provider
	id := s.Account().ID
	check(t, w.Operator.SuspendAccount(ctx, id))
	check(t, w.Operator.SuspendAccount(ctx, id))
	_, _, err := s.CreateAccessKey(ctx)
	fails(t, err, domain.Denied, "account_suspended")
	if w.Scope(s.User().ID, id).Can(domain.WriteAccount) {
		t.Error("a suspended account can write")
	}
	check(t, w.Operator.ResumeAccount(ctx, id))
	_, _, err = s.CreateAccessKey(ctx)
	check(t, err)
	fails(t, w.Operator.SuspendAccount(ctx, "1999999999999999"), domain.NotFound, "account_not_found")
	p, err := s.Audit(ctx, domain.AuditQuery{Action: "SuspendAccount"})
	check(t, err)
	if len(p.Items) != 1 || p.Items[0].Before != `{"state":"active"}` || p.Items[0].After != `{"state":"suspended"}` {
		t.Errorf("the account's trail: %+v", p.Items)
	}
}

// TestOperatorsAreAudited finds everything that operators did in the trail of the
// installation, and what concerns an account in the account's, too.
func TestOperatorsAreAudited(t *testing.T) {
	w := domaintest.New(t)
	p, err := w.Operator.Audit(t.Context(), domain.AuditQuery{Query: domain.Query{Limit: 200}})
	check(t, err)
	got := map[string]int{}
	for _, e := range p.Items {
		got[e.Action]++
	}
	want := map[string]int{"CreateRegion": 1, "CreateZone": 2, "CreateAccount": 3, "CreateUser": 3, "AddMember": 3, "CreateSignInLink": 3, "SignInByLink": 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	c, err := w.Operator.VerifyAudit(t.Context())
	check(t, err)
	if c.Entries != int64(len(p.Items)) || c.BrokenAt != 0 {
		t.Errorf("trail: %+v", c)
	}
}

func TestFirstSignIn(t *testing.T) {
	ctx := t.Context()
	s := domaintest.Open(t, domaintest.Config(t, nil))
	o := s.Local(domain.Actor{})
	empty := func(want bool) {
		t.Helper()
		got, err := o.Empty(ctx)
		check(t, err)
		if got != want {
			t.Errorf("empty: %v, want %v", got, want)
		}
	}
	empty(true)
	for range 2 { // it is printed at every start until somebody used it
		link, err := o.FirstSignIn(ctx)
		check(t, err)
		token, err := s.SignInByLink(ctx, link, domain.SignInMeta{})
		check(t, err)
		i, err := s.Identify(ctx, token)
		check(t, err)
		if !i.Operator() {
			t.Error("the first user is no operator")
		}
		empty(false)
	}
	check(t, o.SetPassword(ctx, "operator", password))
	if link, err := o.FirstSignIn(ctx); err != nil || link != "" {
		t.Errorf("with a password: %q, %v; want none", link, err)
	}

	w := domaintest.New(t)
	if link, err := w.Operator.FirstSignIn(ctx); err != nil || link != "" {
		t.Errorf("with accounts: %q, %v; want none", link, err)
	}
}

func TestInstallation(t *testing.T) {
	w := domaintest.New(t)
	ids := make([]string, 4)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var err error
			if ids[i], err = w.Operator.Installation(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if !regexp.MustCompile(`^[a-z2-7]{5}$`).MatchString(ids[0]) || ids[1] != ids[0] || ids[2] != ids[0] || ids[3] != ids[0] {
		t.Errorf("ids %v, want one of five characters", ids)
	}
	again, err := domaintest.Open(t, w.Config).Local(domain.Actor{}).Installation(t.Context())
	check(t, err)
	if again != ids[0] {
		t.Errorf("after a restart %s, want %s", again, ids[0])
	}
}

func TestPlaces(t *testing.T) {
	w := domaintest.New(t)
	ctx := t.Context()
	_, err := w.Operator.CreateRegion(ctx, domain.RegionInput{ID: domaintest.Region})
	fails(t, err, domain.Conflict, "region_exists")
	_, err = w.Operator.CreateRegion(ctx, domain.RegionInput{ID: "No Such"})
	fails(t, err, domain.Invalid, "invalid_id")
	_, err = w.Operator.CreateZone(ctx, domain.ZoneInput{ID: domaintest.ZoneH, RegionID: domaintest.Region})
	fails(t, err, domain.Conflict, "zone_exists")
	_, err = w.Operator.CreateZone(ctx, domain.ZoneInput{ID: "us-east-1a", RegionID: domaintest.Region})
	fails(t, err, domain.Invalid, "invalid_id")
	_, err = w.Operator.CreateZone(ctx, domain.ZoneInput{ID: "us-east-1a", RegionID: "us-east-1"})
	fails(t, err, domain.NotFound, "region_not_found")
	_, err = w.Operator.CreateRegion(ctx, domain.RegionInput{ID: "us-east-1", Name: "Virginia"})
	check(t, err)
	_, err = w.Operator.CreateZone(ctx, domain.ZoneInput{ID: "us-east-1a", RegionID: "us-east-1"})
	check(t, err)
	got, err := w.Operator.Regions(ctx)
	check(t, err)
	want := []domain.RegionZones{
		{
			Region: domain.Region{ID: domaintest.Region, Name: domaintest.Region, Mainland: true},
			Zones: []domain.Zone{
				{ID: domaintest.ZoneH, RegionID: domaintest.Region, Name: domaintest.ZoneH},
				{ID: domaintest.ZoneI, RegionID: domaintest.Region, Name: domaintest.ZoneI},
			},
		},
		{
			Region: domain.Region{ID: "us-east-1", Name: "Virginia"},
			Zones:  []domain.Zone{{ID: "us-east-1a", RegionID: "us-east-1", Name: "us-east-1a"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	sites, err := w.Operator.Sites(ctx)
	check(t, err)
	if len(sites) != 1 || sites[0].ID != domain.DefaultSite {
		t.Errorf("sites: %v", sites)
	}
	site, err := w.Operator.CreateSite(ctx, domain.SiteInput{ID: "international"})
	if err != nil || site.Name != "international" {
		t.Errorf("a site: %+v, %v", site, err)
	}
	if _, err := w.Operator.CreateSite(ctx, domain.SiteInput{ID: "international"}); faults(err) != "id: site_exists" {
		t.Errorf("the same site again: %v", err)
	}
	if a, err := w.Operator.CreateAccount(ctx, domain.AccountInput{Name: "abroad", SiteID: "international"}); err != nil || a.SiteID != "international" {
		t.Errorf("an account of it: %+v, %v", a, err)
	}
}

func TestOfferHostObjects(t *testing.T) {
	w := domaintest.New(t)
	ctx := t.Context()
	tests := []struct {
		name string
		in   domain.OfferInput
		want string
	}{
		{"namespace", domain.OfferInput{Kind: domain.AttachAdopted, Path: "/run/netns/app", Inode: 7}, ""},
		{"relative path", domain.OfferInput{Kind: domain.AttachAdopted, Path: "run/netns/app"}, "path: invalid_path"},
		{"path that climbs", domain.OfferInput{Kind: domain.AttachAdopted, Path: "/run/../etc"}, "path: invalid_path"},
		{"interface", domain.OfferInput{Kind: domain.AttachInterface, Device: "eth1.100", DeviceNo: 4}, ""},
		{"loopback interface", domain.OfferInput{Kind: domain.AttachInterface, Device: "lo"}, "device: invalid_device"},
		{"long interface", domain.OfferInput{Kind: domain.AttachInterface, Device: "abcdefghijklmnop"}, "device: invalid_device"},
		{"host service", domain.OfferInput{Kind: domain.AttachHost, HostIP: "127.0.0.1"}, ""},
		{"host service with ports", domain.OfferInput{Kind: domain.AttachHost, HostIP: "127.0.0.1", PortFrom: 5432, PortTo: 5432}, ""},
		{"every address", domain.OfferInput{Kind: domain.AttachHost, HostIP: "0.0.0.0"}, "host_ip: invalid_host_ip"},
		{"every address, published", domain.OfferInput{Kind: domain.AttachPort, HostIP: "0.0.0.0", PortFrom: 8000, PortTo: 8999}, ""},
		{"no address", domain.OfferInput{Kind: domain.AttachPort, HostIP: "localhost"}, "host_ip: invalid_host_ip"},
		{"ports the wrong way round", domain.OfferInput{Kind: domain.AttachPort, HostIP: "127.0.0.1", PortFrom: 2, PortTo: 1}, "port_from: invalid_port_from"},
		{"port too high", domain.OfferInput{Kind: domain.AttachPort, HostIP: "127.0.0.1", PortFrom: 2, PortTo: 65536}, "port_from: invalid_port_from"},
		{"managed", domain.OfferInput{Kind: domain.AttachManaged}, "kind: invalid_kind"},
	}
	made := 0
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Label = "An offer"
			_, err := w.Operator.CreateOffer(ctx, tt.in)
			if got := faults(err); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if err == nil {
				made++
			}
		})
	}
	offers, err := w.Operator.Offers(ctx)
	check(t, err)
	if len(offers) != made {
		t.Errorf("%d offers, want %d", len(offers), made)
	}
	_, err = w.Operator.CreateOffer(ctx, domain.OfferInput{AccountID: "1999999999999999", Label: "An offer", Kind: domain.AttachHost, HostIP: "127.0.0.1"})
	fails(t, err, domain.NotFound, "account_not_found")

	used := offers[0].ID
	now := w.Clock.Now()
	check(t, w.Store.DB().Create(&domain.VPC{ID: "vpc-test", AccountID: w.Provider.Account().ID, RegionID: domaintest.Region, CreatedAt: now}).Error)
	for n := range 6 {
		a := domain.Attachment{ID: fmt.Sprint("att-", n), AccountID: w.Provider.Account().ID, VPCID: "vpc-test", Name: fmt.Sprint("workload ", n), OfferID: used, CreatedAt: now}
		check(t, w.Store.DB().Create(&a).Error)
	}
	err = w.Operator.DeleteOffer(ctx, used)
	fails(t, err, domain.Conflict, "offer_in_use")
	if err == nil || !strings.Contains(err.Error(), "attachment workload 0 (att-0), ") || !strings.Contains(err.Error(), "and 1 more") {
		t.Errorf("%v: want the first five by name", err)
	}
	check(t, w.Operator.DeleteOffer(ctx, offers[1].ID))
	fails(t, w.Operator.DeleteOffer(ctx, offers[1].ID), domain.NotFound, "offer_not_found")
}

// TestLocalScope is the program acting for an account by itself.
func TestLocalScope(t *testing.T) {
	w := domaintest.New(t)
	s, err := w.Store.LocalScope(t.Context(), w.Provider.Account().ID, domain.Actor{Name: "demo"})
	check(t, err)
	check(t, s.AddMember(t.Context(), w.User().Name, domain.RoleAuditor))
	p, err := s.Audit(t.Context(), domain.AuditQuery{Query: domain.Query{Limit: 1}})
	check(t, err)
	if e := p.Items[0]; e.ActorKind != domain.ActorSystem || e.ActorName != "demo" || e.Channel != "system" || e.Action != "AddMember" {
		t.Errorf("audited as %+v", e)
	}
	_, _, err = s.CreateAccessKey(t.Context())
	fails(t, err, domain.NotFound, "user_not_found") // it is nobody's
	_, err = w.Store.LocalScope(t.Context(), "1999999999999999", domain.Actor{})
	fails(t, err, domain.NotFound, "account_not_found")
}
