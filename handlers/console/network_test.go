package console

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"
	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// netWorld is the provider's network of a linkWorld with a group and a route.
type netWorld struct {
	*linkWorld
	group *domain.SecurityGroup
	rule  *domain.SecurityRule
	table string
}

func newNetwork(t *testing.T) *netWorld {
	t.Helper()
	n := &netWorld{linkWorld: newLinkWorld(t)}
	var err error
	n.group, err = n.Provider.CreateGroup(t.Context(), domain.GroupInput{VPCID: n.provide.vpc.ID, Name: "sg-web", Rules: []domain.RuleInput{
		{Direction: domain.Ingress, Protocol: domain.ProtocolTCP, Ports: "443", Peer: "172.20.0.0/16", Description: "HTTPS"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := n.Provider.Group(t.Context(), n.group.ID)
	if err != nil {
		t.Fatal(err)
	}
	n.rule = &g.Rules[0]
	d, err := n.Provider.VPC(t.Context(), n.provide.vpc.ID)
	if err != nil {
		t.Fatal(err)
	}
	n.table = d.RouteTableID
	if err := n.apply(t, domain.RouteInput{Destination: "10.9.0.0/16", NextHopID: n.provide.attachment.ID, Description: "office"}); err != nil {
		t.Fatal(err)
	}
	return n
}

// apply makes the routes those of the table.
func (n *netWorld) apply(t *testing.T, routes ...domain.RouteInput) error {
	t.Helper()
	_, err := n.Provider.ReplaceRoutes(t.Context(), n.table, routes, 0)
	return err
}

// custom are the custom routes of the table.
func (n *netWorld) custom(t *testing.T) []string {
	t.Helper()
	d, err := n.Provider.RouteTable(t.Context(), n.table)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range customRoutes(d) {
		out = append(out, strings.TrimSpace(r.Destination+" "+r.NextHopName+" "+r.Description))
	}
	return out
}

// paths are the pages about networks, and which of them are forms for writing.
func (n *netWorld) paths() (read, write []string) {
	vpc, att, sg, rt := "/vpcs/"+n.provide.vpc.ID, "/attachments/"+n.provide.attachment.ID, "/security-groups/"+n.group.ID, "/route-tables/"+n.table
	read = []string{
		"/vpcs", vpc, vpc + "?tab=vswitches", vpc + "/attachments", vpc + "?tab=services", vpc + "?tab=audit",
		"/attachments", att, att + "?tab=audit", "/route-tables", rt, rt + "?address=10.9.1.1", rt + "?tab=audit",
		"/security-groups", sg, sg + "?tab=audit", "/audit", "/audit/1",
	}
	write = []string{
		"/vpcs/new", vpc + "/delete", vpc + "/vswitches/" + n.provide.switches[1].ID + "/delete", "/attachments/new?vpc=" + n.provide.vpc.ID,
		att + "/delete", rt + "/edit", "/security-groups/new", sg + "/delete",
	}
	return read, write
}

func TestNetworkPagesAreForTheirReaders(t *testing.T) {
	n := newNetwork(t)
	read, write := n.paths()
	auditor := n.as(t, n.Provider, domain.RoleAuditor)
	for _, path := range append(slices.Clone(read), write...) {
		n.page(t, n.provider, account(n.Provider)+path)
		if strings.Contains(path, n.provide.vpc.ID) || strings.Contains(path, n.provide.attachment.ID) || strings.Contains(path, n.group.ID) || strings.Contains(path, n.table) {
			// The account is the consumer's own, what the path names is not.
			if res := n.get(t, n.consumer, account(n.Consumer)+path); res.StatusCode != http.StatusNotFound {
				t.Errorf("%s of another account: got %d, want 404", path, res.StatusCode)
			}
		}
		if res := n.get(t, n.consumer, account(n.Provider)+path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s in another account: got %d, want 404", path, res.StatusCode)
		}
	}
	for _, path := range read {
		d := n.page(t, auditor, account(n.Provider)+path)
		if f := d.Find("main form[method=post]"); f.Length() > 0 {
			t.Errorf("%s offers an auditor to send %s", path, f.AttrOr("action", ""))
		}
		d.Find("main a[href]").Each(func(_ int, a *goquery.Selection) {
			for _, end := range []string{"/new", "/edit", "/delete"} {
				if strings.HasSuffix(strings.Split(a.AttrOr("href", ""), "?")[0], end) {
					t.Errorf("%s leads an auditor to %s", path, a.AttrOr("href", ""))
				}
			}
		})
		if !strings.Contains(words(d.Find("header.top")), "Read-only") {
			t.Errorf("%s does not say that it is read-only", path)
		}
	}
	for _, path := range write {
		if res := n.get(t, auditor, account(n.Provider)+path); res.StatusCode != http.StatusForbidden || !strings.Contains(res.body, "network:write") {
			t.Errorf("%s for an auditor: got %d, want 403 with the permission", path, res.StatusCode)
		}
	}
}

func TestNetworkWritesAreGuarded(t *testing.T) {
	n := newNetwork(t)
	vpc, att, sg, rt := "/vpcs/"+n.provide.vpc.ID, "/attachments/"+n.provide.attachment.ID, "/security-groups/"+n.group.ID, "/route-tables/"+n.table
	writes := []string{
		"/vpcs/new", vpc + "/rename", vpc + "/delete", vpc + "/vswitches", vpc + "/vswitches/" + n.provide.switches[1].ID + "/delete",
		"/attachments/new", att + "/groups", att + "/delete", "/security-groups/new", sg + "/describe", sg + "/delete", sg + "/rules",
		sg + "/rules/" + n.rule.ID, sg + "/rules/" + n.rule.ID + "/delete", rt + "/edit", rt + "/routes",
	}
	auditor := n.as(t, n.Provider, domain.RoleAuditor)
	form := url.Values{
		"account": {n.Provider.Account().ID}, "vpc_id": {n.provide.vpc.ID}, "source": {domain.AttachManaged}, "name": {"forged"}, "token": {"0123456789abcdef"},
		"region_id": {domaintest.Region}, "cidr": {"10.0.0.0/16"}, "direction": {"ingress"}, "protocol": {"tcp"}, "peer": {"0.0.0.0/0"}, "priority": {"1"},
		"vswitch_id": {n.provide.switches[0].ID},
	}
	before := n.trail(t)
	for _, path := range writes {
		if res := n.post(t, n.provider, account(n.Provider)+path, url.Values{"account": {n.Consumer.Account().ID}}); res.StatusCode != http.StatusConflict {
			t.Errorf("%s with another account's form: got %d, want 409", path, res.StatusCode)
		}
		if res := n.post(t, auditor, account(n.Provider)+path, form); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s by an auditor: got %d, want 403", path, res.StatusCode)
		}
		if res := n.post(t, n.consumer, account(n.Provider)+path, form); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s by a stranger: got %d, want 404", path, res.StatusCode)
		}
	}
	if after := n.trail(t); after != before {
		t.Errorf("the trail grew from %d to %d entries", before, after)
	}
}

// trail is how many entries the provider's trail has.
func (n *netWorld) trail(t *testing.T) int64 {
	t.Helper()
	c, err := n.Provider.VerifyAudit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c.Entries
}

// hostile is a name that must come out as it went in.
const hostile = `Bobby"><script>alert(1)</script>&amp;'`

func TestHostileNamesAreText(t *testing.T) {
	n := newNetwork(t)
	ctx := t.Context()
	if err := n.Provider.RenameVPC(ctx, n.provide.vpc.ID, hostile, 0); err != nil {
		t.Fatal(err)
	}
	if err := n.Provider.UpdateGroup(ctx, n.group.ID, domain.GroupUpdate{Name: hostile, Description: hostile}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Provider.AddRule(ctx, n.group.ID, domain.RuleInput{Direction: domain.Ingress, Protocol: domain.ProtocolAll, Peer: "0.0.0.0/0", Description: hostile}); err != nil {
		t.Fatal(err)
	}
	if err := n.apply(t, domain.RouteInput{Destination: "10.9.0.0/16", NextHopID: n.provide.attachment.ID, Description: hostile}); err != nil {
		t.Fatal(err)
	}
	read, write := n.paths()
	seen := 0
	for _, path := range append(read, write...) {
		res := n.get(t, n.provider, account(n.Provider)+path)
		if strings.Contains(res.body, "<script>alert") || strings.Contains(res.body, `Bobby">`) {
			t.Errorf("%s lets a name out as markup", path)
		}
		if strings.Contains(res.doc(t).Text(), hostile) {
			seen++
		}
	}
	if seen < 15 {
		t.Errorf("only %d pages show the name", seen)
	}
}

func TestVPCList(t *testing.T) {
	n := newNetwork(t)
	for i := range pageSize + 3 {
		if _, err := n.Provider.CreateVPC(t.Context(), domain.VPCInput{Name: fmt.Sprintf("many-%02d", i), RegionID: domaintest.Region, CIDR: "10.0.0.0/16"}); err != nil {
			t.Fatal(err)
		}
	}
	at := account(n.Provider) + "/vpcs"
	d := n.page(t, n.provider, at)
	if got := d.Find("[data-testid=vpc]").Length(); got != pageSize {
		t.Errorf("first page: %d rows", got)
	}
	next := d.Find(".pager a[aria-label='Next page']").AttrOr("href", "")
	d = n.page(t, n.provider, next)
	if got := d.Find("[data-testid=vpc]").Length(); got != 4 {
		t.Errorf("second page: %d rows, want 4", got)
	}
	d = n.page(t, n.provider, at+"?q=provider")
	row := d.Find("[data-testid=vpc]")
	if row.Length() != 1 || row.AttrOr("id", "") != liveID(domain.KindVPC, n.provide.vpc.ID) {
		t.Errorf("filtered: %d rows, first %s", row.Length(), row.AttrOr("id", ""))
	}
	for _, want := range []string{"Preparing", "172.20.0.0/16", "none of yours"} {
		if !strings.Contains(words(row), want) {
			t.Errorf("row %q does not say %q", words(row), want)
		}
	}
	if many := n.page(t, n.provider, at+"?q=many-00"); !strings.Contains(words(many.Find("[data-testid=vpc]")), "many-01, many-02 and") {
		t.Errorf("overlaps are not told: %q", words(many.Find("[data-testid=vpc]")))
	}
	d = n.page(t, n.provider, at+"?q=nothing")
	if !strings.Contains(words(d.Find("#vpcs-results")), "Clear filters") {
		t.Errorf("no match: %q", words(d.Find("#vpcs-results")))
	}
	if empty := n.page(t, n.as(t, n.Stranger, domain.RoleOwner), account(n.Stranger)+"/vpcs"); !strings.Contains(words(empty.Find("#vpcs-results")), "Create VPC") {
		t.Errorf("empty: %q", words(empty.Find("#vpcs-results")))
	}
	part := n.get(t, n.provider, at+"?q=provider", partial...)
	if strings.Contains(part.body, "<html") || part.Header.Get("HX-Replace-Url") != at+"?q=provider" {
		t.Errorf("part: %q, %s", part.Header.Get("HX-Replace-Url"), part.body[:80])
	}
}

func TestCreateVPCWithoutScript(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/vpcs/new"
	action, v := filled(t, n.page(t, n.provider, at), "form#vpc")
	want := map[string]string{
		"region_id": domaintest.Region, "cidr": "10.0.0.0/16", "vswitches.0.zone_id": domaintest.ZoneH, "vswitches.0.cidr": "10.0.1.0/24",
		"vswitches.1.zone_id": domaintest.ZoneI, "vswitches.1.cidr": "10.0.2.0/24",
	}
	for name, value := range want {
		if v.Get(name) != value {
			t.Errorf("%s begins with %q, want %q", name, v.Get(name), value)
		}
	}

	// Rows come and go by buttons, and what is typed stays.
	v.Set("name", "with rows")
	v.Set("add_row", "1")
	res := n.post(t, n.provider, action, v)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("add: got %d", res.StatusCode)
	}
	_, v = filled(t, res.doc(t), "form#vpc")
	if v.Get("vswitches.2.cidr") != "10.0.3.0/24" || v.Get("name") != "with rows" {
		t.Errorf("after adding: %v", v)
	}
	v.Set("remove_row", "0")
	_, v = filled(t, n.post(t, n.provider, action, v).doc(t), "form#vpc")
	if v.Has("vswitches.2.cidr") || v.Get("vswitches.0.cidr") != "10.0.2.0/24" {
		t.Errorf("after removing: %v", v)
	}
	v.Set("cidr", "192.168.128.0/20")
	v.Set("suggest_rows", "1")
	_, v = filled(t, n.post(t, n.provider, action, v).doc(t), "form#vpc")
	if v.Get("vswitches.0.cidr") != "192.168.129.0/24" || v.Get("vswitches.1.zone_id") != domaintest.ZoneI {
		t.Errorf("after suggesting: %v", v)
	}

	// What is wrong is said beside the field, and nothing is made.
	v.Set("vswitches.1.cidr", "192.168.129.128/25")
	v.Set("name", "1x")
	res = n.post(t, n.provider, action, v)
	d := res.doc(t)
	if res.StatusCode != http.StatusUnprocessableEntity {
		t.Fatalf("wrong: got %d", res.StatusCode)
	}
	for name, text := range map[string]string{"vpc-name": "begins with a letter"} {
		if got := words(d.Find("[id='" + name + "-err']")); !strings.Contains(got, text) {
			t.Errorf("%s: %q, want %q", name, got, text)
		}
	}
	if d.Find("[name='vswitches.1.cidr']").AttrOr("value", "") != "192.168.129.128/25" || d.Find("[name=name]").AttrOr("value", "") != "1x" {
		t.Error("what was typed is lost")
	}
	v.Set("name", "made")
	d = n.post(t, n.provider, action, v).doc(t)
	if got := words(d.Find("[id='vpc-vswitches.1.cidr-err']")); !strings.Contains(got, "overlaps") {
		t.Errorf("overlap: %q", got)
	}
	htmx := n.post(t, n.provider, action, v, partial...)
	if htmx.StatusCode != http.StatusUnprocessableEntity || !strings.HasPrefix(strings.TrimSpace(htmx.body), "<form") {
		t.Errorf("htmx: %d %.60s", htmx.StatusCode, htmx.body)
	}

	v.Set("vswitches.1.cidr", "192.168.130.0/24")
	res = n.post(t, n.provider, action, v)
	if got := words(n.moved(t, n.provider, res).Find("h1")); got != "made" {
		t.Errorf("made %q", got)
	}
	again := n.post(t, n.provider, action, v) // a double click
	if strings.Split(again.Header.Get("Location"), "?")[0] != strings.Split(res.Header.Get("Location"), "?")[0] {
		t.Errorf("sent twice: %s and %s", res.Header.Get("Location"), again.Header.Get("Location"))
	}
}

func TestFreeRanges(t *testing.T) {
	tests := []struct {
		vpc   string
		taken []string
		n     int
		want  []string
	}{
		{"10.0.0.0/16", nil, 2, []string{"10.0.1.0/24", "10.0.2.0/24"}},
		{"10.0.0.0/16", []string{"10.0.0.0/22"}, 1, []string{"10.0.4.0/24"}},
		{"10.0.0.0/8", nil, 1, []string{"10.0.1.0/24"}},
		{"192.168.4.0/24", nil, 9, []string{"192.168.4.64/26", "192.168.4.128/26", "192.168.4.192/26", "192.168.4.0/26"}},
		{"192.168.4.0/28", nil, 9, []string{"192.168.4.8/29", "192.168.4.0/29"}},
		{"10.0.0.0/24", []string{"10.0.0.0/25", "10.0.0.128/25"}, 1, nil},
		{"10.255.0.0/16", []string{"10.255.0.0/17", "10.255.128.0/17"}, 3, nil},
		{"nonsense", nil, 1, nil},
		{"10.0.0.0/30", nil, 1, nil},
		{"fd00::/16", nil, 1, nil},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, freeRanges(tt.vpc, tt.taken, tt.n)); diff != "" {
			t.Errorf("freeRanges(%s, %v, %d): -want +got\n%s", tt.vpc, tt.taken, tt.n, diff)
		}
	}
}

func TestRenameAndDeleteVPC(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/vpcs/" + n.provide.vpc.ID
	res := n.press(t, n.provider, at+"?edit=name", "form#rename", url.Values{"name": {"?"}})
	if res.StatusCode != http.StatusUnprocessableEntity || res.doc(t).Find("[name=name]").AttrOr("value", "") != "?" {
		t.Errorf("bad name: %d", res.StatusCode)
	}
	res = n.press(t, n.provider, at+"?edit=name", "form#rename", url.Values{"name": {"renamed"}})
	if got := words(n.moved(t, n.provider, res).Find("h1")); got != "renamed" {
		t.Errorf("renamed to %q", got)
	}
	if res := n.post(t, n.provider, at+"/rename", url.Values{"account": {n.Provider.Account().ID}, "version": {"1"}, "name": {"late"}}); res.StatusCode != http.StatusConflict {
		t.Errorf("an old form: got %d, want 409", res.StatusCode)
	}

	d := n.page(t, n.provider, at+"/delete")
	if d.Find("main form[method=post]").Length() != 0 {
		t.Error("a VPC in use can be deleted")
	}
	for _, want := range []string{"1 load balancer", "1 attachment", "1 security group", "2 vSwitches"} {
		if got := words(d.Find("main ul")); !strings.Contains(got, want) {
			t.Errorf("uses: %q, want %q", got, want)
		}
	}
	if res := n.post(t, n.provider, at+"/delete", url.Values{"account": {n.Provider.Account().ID}}); res.StatusCode != http.StatusConflict {
		t.Errorf("deleting it all the same: got %d, want 409", res.StatusCode)
	}

	empty, err := n.Provider.CreateVPC(t.Context(), domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16"})
	if err != nil {
		t.Fatal(err)
	}
	res = n.press(t, n.provider, account(n.Provider)+"/vpcs/"+empty.ID+"/delete", "form#delete", nil)
	if got := words(n.moved(t, n.provider, res).Find("[data-testid=flash]")); !strings.Contains(got, "deleted") {
		t.Errorf("deleted: %q", got)
	}
	if res := n.get(t, n.provider, account(n.Provider)+"/vpcs/"+empty.ID); res.StatusCode != http.StatusNotFound {
		t.Errorf("afterwards: got %d", res.StatusCode)
	}
}

func TestVSwitches(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/vpcs/" + n.provide.vpc.ID
	tab := at + "?tab=vswitches"
	_, v := filled(t, n.page(t, n.provider, tab), "form#vswitch")
	if got := v.Get("cidr"); got != "172.20.3.0/24" {
		t.Errorf("suggested %s", got)
	}
	res := n.press(t, n.provider, tab, "form#vswitch", url.Values{"cidr": {"10.0.0.0/24"}, "name": {"kept"}})
	d := res.doc(t)
	if res.StatusCode != http.StatusUnprocessableEntity || d.Find("form#vswitch [name=name]").AttrOr("value", "") != "kept" || d.Find("#vswitch-cidr-err").Length() != 1 {
		t.Errorf("outside the VPC: %d", res.StatusCode)
	}
	d = n.moved(t, n.provider, n.press(t, n.provider, tab, "form#vswitch", url.Values{"name": {"third"}}))
	if got := d.Find("[data-testid=vswitch]").Length(); got != 3 {
		t.Errorf("%d vSwitches", got)
	}
	third := d.Find("[data-testid=vswitch]:last-child a").AttrOr("href", "")
	if used := n.page(t, n.provider, d.Find("[data-testid=vswitch]:first-child a").AttrOr("href", "")); used.Find("main form[method=post]").Length() != 0 || !strings.Contains(words(used.Find("main")), "in use") {
		t.Errorf("one in use: %q", words(used.Find("main")))
	}
	action, v := filled(t, n.page(t, n.provider, third), "form#delete")
	res = n.post(t, n.provider, action, v, partial...)
	if res.StatusCode != http.StatusOK || !strings.Contains(res.body, `hx-swap="delete"`) || !strings.Contains(res.body, "third deleted") {
		t.Errorf("deleted with script: %d %s", res.StatusCode, res.body)
	}
}
