package console

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
)

func TestRoutesAsOneDraft(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/route-tables/" + n.table
	hop := n.provide.attachment.ID
	action, v := filled(t, n.page(t, n.provider, at+"/edit"), "form#routes")
	if v.Get("routes.0.destination") != "10.9.0.0/16" || v.Get("routes.0.next_hop_id") != hop || !v.Has("routes.3.destination") || v.Has("routes.4.destination") {
		t.Fatalf("the draft begins with %v", v)
	}

	// Rows come and go by buttons; nothing is applied by them.
	v.Set("routes.2.destination", "10.7.0.0/16")
	v.Set("add_row", "1")
	_, v = filled(t, n.post(t, n.provider, action, v).doc(t), "form#routes")
	if !v.Has("routes.6.destination") || v.Get("routes.2.destination") != "10.7.0.0/16" {
		t.Errorf("after adding: %v", v)
	}
	v.Set("remove_row", "0")
	_, v = filled(t, n.post(t, n.provider, action, v).doc(t), "form#routes")
	if v.Get("routes.1.destination") != "10.7.0.0/16" || v.Has("routes.6.destination") {
		t.Errorf("after removing: %v", v)
	}

	// What is wrong is said at its row, of which blank ones are no part.
	v.Set("paste", "10.6.0.0/16 backend-one by paste\n10.5.0.0/16 nobody\n")
	res := n.post(t, n.provider, action, v)
	d := res.doc(t)
	if res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(words(d.Find("#routes-paste-err")), "10.5.0.0/16 nobody") {
		t.Fatalf("a line that means nobody: %d %q", res.StatusCode, words(d.Find("#routes-paste-err")))
	}
	_, v = filled(t, d, "form#routes")
	if v.Get("paste") != "10.5.0.0/16 nobody" {
		t.Errorf("left to paste: %q", v.Get("paste"))
	}
	v.Del("paste")
	d = n.post(t, n.provider, action, v).doc(t)
	if got := words(d.Find("[id='routes-routes.0.next_hop_id-err']")); !strings.Contains(got, "Choose an attachment") {
		t.Errorf("no next hop: %q", got)
	}
	v.Set("routes.0.next_hop_id", hop)

	// The review says what would change, and leads back to the same draft.
	res = n.post(t, n.provider, action, v)
	d = res.doc(t)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("review: %d", res.StatusCode)
	}
	diff := words(d.Find("table.diff tbody"))
	for _, want := range []string{"10.9.0.0/16", "10.7.0.0/16", "10.6.0.0/16"} {
		if !strings.Contains(diff, want) {
			t.Errorf("diff %q has no %s", diff, want)
		}
	}
	if got := words(d.Find(".banner.warn")); !strings.Contains(got, "is not up") {
		t.Errorf("warnings: %q", got)
	}
	if got := n.custom(t); !cmp.Equal(got, []string{"10.9.0.0/16 backend-one office"}) {
		t.Fatalf("applied before it was said: %v", got)
	}
	apply, hidden := filled(t, d, "form#apply")
	hidden.Set("back", "1")
	_, again := filled(t, n.post(t, n.provider, apply, hidden).doc(t), "form#routes")
	if again.Get("routes.1.description") != "by paste" {
		t.Errorf("back to the draft: %v", again)
	}
	hidden.Del("back")
	d = n.moved(t, n.provider, n.post(t, n.provider, apply, hidden))
	if got := words(d.Find("[data-testid=flash]")); !strings.Contains(got, "2 added, 1 removed, 0 kept") {
		t.Errorf("applied: %q", got)
	}
	if diff := cmp.Diff([]string{"10.6.0.0/16 backend-one by paste", "10.7.0.0/16 backend-one"}, n.custom(t)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestRoutesWithScriptStayInOnePage(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/route-tables/" + n.table
	action, v := filled(t, n.page(t, n.provider, at+"/edit"), "form#routes")
	review := func(want int) {
		t.Helper()
		res := n.post(t, n.provider, action, v, partial...)
		if res.StatusCode != want || !strings.HasPrefix(strings.TrimSpace(res.body), `<hx-partial hx-target="#draft"`) {
			t.Errorf("got %d %.80s, want %d", res.StatusCode, res.body, want)
		}
	}
	review(http.StatusOK)
	v.Set("routes.1.destination", "nonsense")
	review(http.StatusUnprocessableEntity)
}

func TestTwoPeopleEditRoutes(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/route-tables/" + n.table
	hop := n.provide.attachment.ID
	action, v := filled(t, n.page(t, n.provider, at+"/edit"), "form#routes")
	// Mine: 10.9 keeps, 10.8 is new, 10.4 is new to both of us.
	v.Set("routes.1.destination", "10.8.0.0/16")
	v.Set("routes.1.next_hop_id", hop)
	v.Set("routes.2.destination", "10.4.0.0/16")
	v.Set("routes.2.next_hop_id", hop)
	apply, mine := filled(t, n.post(t, n.provider, action, v).doc(t), "form#apply")

	// Theirs: 10.9 is gone, 10.3 is new, 10.4 too.
	if err := n.apply(t, domain.RouteInput{Destination: "10.3.0.0/16", NextHopID: hop}, domain.RouteInput{Destination: "10.4.0.0/16", NextHopID: hop, Description: "theirs"}); err != nil {
		t.Fatal(err)
	}
	res := n.post(t, n.provider, apply, mine)
	d := res.doc(t)
	if res.StatusCode != http.StatusConflict {
		t.Fatalf("an old draft: got %d, want 409", res.StatusCode)
	}
	merge, choice := filled(t, d, "form#merge")
	want := map[string]string{"10.3.0.0/16": "theirs", "10.9.0.0/16": "theirs", "10.8.0.0/16": "yours", "10.4.0.0/16": "yours"}
	got := map[string]string{}
	for _, i := range []string{"0", "1", "2", "3"} {
		got[choice.Get("yours."+i+".destination")] = choice.Get("keep." + i)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is proposed: -want +got\n%s", diff)
	}
	if !strings.Contains(words(d.Find("[data-testid=merge]:contains('10.4.0.0/16')")), "both changed it") {
		t.Error("it is not said that both changed 10.4.0.0/16")
	}
	if htmx := n.post(t, n.provider, apply, mine, partial...); htmx.StatusCode != http.StatusConflict || !strings.Contains(htmx.body, `hx-target="#draft"`) {
		t.Errorf("with script: %d %.80s", htmx.StatusCode, htmx.body)
	}
	choice.Set("merge", "1")
	apply, merged := filled(t, n.post(t, n.provider, merge, choice).doc(t), "form#apply")
	n.moved(t, n.provider, n.post(t, n.provider, apply, merged))
	if diff := cmp.Diff([]string{"10.3.0.0/16 backend-one", "10.4.0.0/16 backend-one", "10.8.0.0/16 backend-one"}, n.custom(t)); diff != "" {
		t.Errorf("both changes: -want +got\n%s", diff)
	}
}

// A merge keeps what both want without asking.
func TestMergeKeepsWhatIsTheSame(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/route-tables/" + n.table
	hop := n.provide.attachment.ID
	action, v := filled(t, n.page(t, n.provider, at+"/edit"), "form#routes")
	v.Set("routes.1.destination", "10.8.0.0/16")
	v.Set("routes.1.next_hop_id", hop)
	apply, mine := filled(t, n.post(t, n.provider, action, v).doc(t), "form#apply")
	if err := n.apply(t, domain.RouteInput{Destination: "10.9.0.0/16", NextHopID: hop, Description: "office"}); err != nil {
		t.Fatal(err)
	}
	d := n.post(t, n.provider, apply, mine).doc(t)
	if got := d.Find("[data-testid=merge]").Length(); got != 1 {
		t.Errorf("%d questions, want 1", got)
	}
	merge, choice := filled(t, d, "form#merge")
	choice.Set("merge", "1")
	apply, merged := filled(t, n.post(t, n.provider, merge, choice).doc(t), "form#apply")
	n.moved(t, n.provider, n.post(t, n.provider, apply, merged))
	if diff := cmp.Diff([]string{"10.8.0.0/16 backend-one", "10.9.0.0/16 backend-one office"}, n.custom(t)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestWhichRouteWins(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/route-tables/" + n.table
	for address, want := range map[string]string{"10.9.1.1": "backend-one", "172.20.2.7": "the vSwitch itself", "8.8.8.8": "No route leads to 8.8.8.8"} {
		if got := words(n.page(t, n.provider, at+"?address="+address).Find(".aside")); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
	res := n.get(t, n.provider, at+"?address="+url.QueryEscape(`10.<b>`))
	d := res.doc(t)
	if res.StatusCode != http.StatusUnprocessableEntity || d.Find("[name=address]").AttrOr("value", "") != "10.<b>" || d.Find("#lookup-address-err").Length() != 1 {
		t.Errorf("not an address: %d", res.StatusCode)
	}
	counts := n.page(t, n.provider, account(n.Provider)+"/route-tables").Find("[data-testid=route-table] td.r")
	if words(counts.Eq(0)) != "2" || words(counts.Eq(1)) != "1" {
		t.Errorf("list: %s system routes and %s custom ones, want 2 and 1", words(counts.Eq(0)), words(counts.Eq(1)))
	}
}
