package console

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
)

// rules are the rules of the group, as text.
func (n *netWorld) rules(t *testing.T) []string {
	t.Helper()
	g, err := n.Provider.Group(t.Context(), n.group.ID)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range g.Rules {
		out = append(out, r.String())
	}
	return out
}

func TestRulesInPlace(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/security-groups/" + n.group.ID
	res := n.press(t, n.provider, at+"?add=ingress", "form#rule", url.Values{"ports": {"0"}, "peer": {"10.0.0.0/33"}, "description": {"kept"}})
	d := res.doc(t)
	if res.StatusCode != http.StatusUnprocessableEntity || d.Find("#rule-ports-err").Length() != 1 || d.Find("#rule-peer-err").Length() != 1 ||
		d.Find("[name=description]").AttrOr("value", "") != "kept" {
		t.Fatalf("a wrong rule: %d", res.StatusCode)
	}
	n.moved(t, n.provider, n.press(t, n.provider, at+"?add=ingress", "form#rule", url.Values{"ports": {"8000-8099"}, "peer": {n.group.ID}, "priority": {"5"}}))
	n.moved(t, n.provider, n.press(t, n.provider, at+"?add=egress", "form#rule", url.Values{"protocol": {"all"}, "peer": {"0.0.0.0/0"}}))
	want := []string{"ingress 1 accept tcp 443 172.20.0.0/16", "ingress 5 accept tcp 8000-8099 " + n.group.ID, "egress 1 accept all 0.0.0.0/0"}
	if diff := cmp.Diff(want, n.rules(t)); diff != "" {
		t.Errorf("added: -want +got\n%s", diff)
	}

	// The form of a rule begins with what it says; a duplicate too, and is a rule of its own.
	_, v := filled(t, n.page(t, n.provider, at+"?edit="+n.rule.ID), "form#rule")
	for name, value := range map[string]string{"direction": "ingress", "priority": "1", "protocol": "tcp", "ports": "443", "peer": "172.20.0.0/16", "description": "HTTPS"} {
		if v.Get(name) != value {
			t.Errorf("%s begins with %q, want %q", name, v.Get(name), value)
		}
	}
	n.moved(t, n.provider, n.press(t, n.provider, at+"?edit="+n.rule.ID, "form#rule", url.Values{"policy": {"drop"}}))
	n.moved(t, n.provider, n.press(t, n.provider, at+"?add=ingress&like="+n.rule.ID, "form#rule", url.Values{"ports": {"444"}}))
	want = []string{
		"ingress 1 drop tcp 443 172.20.0.0/16", "ingress 1 drop tcp 444 172.20.0.0/16", "ingress 5 accept tcp 8000-8099 " + n.group.ID,
		"egress 1 accept all 0.0.0.0/0",
	}
	less := func(list []string) map[string]bool {
		out := map[string]bool{}
		for _, s := range list {
			out[s] = true
		}
		return out
	}
	if diff := cmp.Diff(less(want), less(n.rules(t))); diff != "" {
		t.Errorf("edited and duplicated: -want +got\n%s", diff)
	}

	res = n.post(t, n.provider, at+"/rules/"+n.rule.ID+"/delete", url.Values{"account": {n.Provider.Account().ID}}, partial...)
	if res.StatusCode != http.StatusOK || !strings.Contains(res.body, `hx-target="#rules"`) || strings.Contains(res.body, n.rule.ID+`"`) {
		t.Errorf("deleted with script: %d", res.StatusCode)
	}
	if got := n.rules(t); len(got) != 3 {
		t.Errorf("after deleting: %v", got)
	}
}

func TestRuleOfAnotherGroup(t *testing.T) {
	n := newNetwork(t)
	other, err := n.Provider.CreateGroup(t.Context(), domain.GroupInput{VPCID: n.provide.vpc.ID, Name: "sg-other"})
	if err != nil {
		t.Fatal(err)
	}
	at := account(n.Provider) + "/security-groups/" + other.ID + "/rules/" + n.rule.ID
	v := url.Values{"account": {n.Provider.Account().ID}, "direction": {"ingress"}, "protocol": {"all"}, "peer": {"0.0.0.0/0"}}
	for _, path := range []string{at, at + "/delete"} {
		if res := n.post(t, n.provider, path, v); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", path, res.StatusCode)
		}
	}
	if got := n.rules(t); len(got) != 1 {
		t.Errorf("rules: %v", got)
	}
}

func TestCreateAndDeleteGroup(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/security-groups"
	res := n.press(t, n.provider, at+"/new", "form#group", url.Values{"name": {"x"}, "description": {"http://example.com"}})
	d := res.doc(t)
	_, open := d.Find("details.more").Attr("open")
	if res.StatusCode != http.StatusUnprocessableEntity || !open || d.Find("[name=description]").AttrOr("value", "") != "http://example.com" {
		t.Errorf("wrong: %d, more settings open: %v", res.StatusCode, open)
	}
	for start, want := range map[string]string{"vpc": "172.20.0.0/16", "any": "0.0.0.0/0", "empty": "No ingress rule"} {
		d := n.moved(t, n.provider, n.press(t, n.provider, at+"/new", "form#group", url.Values{"name": {"sg-" + start}, "start": {start}}))
		if got := words(d.Find("#rules")); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", start, got, want)
		}
		if got := words(d.Find(".aside")); !strings.Contains(got, "drop wins") || !strings.Contains(got, "not filtered in this version") {
			t.Errorf("it is not said how it works: %q", got)
		}
	}
	if err := n.Provider.SetAttachmentGroups(t.Context(), n.provide.attachment.ID, []string{n.group.ID}, 0); err != nil {
		t.Fatal(err)
	}
	one := at + "/" + n.group.ID
	if d := n.page(t, n.provider, one+"/delete"); d.Find("main form").Length() != 0 || !strings.Contains(words(d.Find("main")), "attachment backend-one") {
		t.Errorf("in use: %q", words(d.Find("main")))
	}
	if err := n.Provider.SetAttachmentGroups(t.Context(), n.provide.attachment.ID, nil, 0); err != nil {
		t.Fatal(err)
	}
	d = n.moved(t, n.provider, n.press(t, n.provider, one+"/delete", "form#delete", nil))
	if got := d.Find("[data-testid=security-group]").Length(); got != 3 {
		t.Errorf("%d groups left, want 3", got)
	}
}

func TestDescribeGroup(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/security-groups/" + n.group.ID
	d := n.moved(t, n.provider, n.press(t, n.provider, at+"?edit=name", "form#describe", url.Values{"name": {"sg-renamed"}, "description": {"front"}}))
	if words(d.Find("h1")) != "sg-renamed" || !strings.Contains(words(d.Find(".head")), "front") {
		t.Errorf("described: %q", words(d.Find(".head")))
	}
	res := n.post(t, n.provider, at+"/describe", url.Values{"account": {n.Provider.Account().ID}, "version": {"1"}, "name": {"sg-late"}})
	if res.StatusCode != http.StatusConflict {
		t.Errorf("an old form: got %d, want 409", res.StatusCode)
	}
	if got := words(n.page(t, n.provider, at).Find(".aside")); !strings.Contains(got, "whatever the rules say") {
		t.Errorf("members accept each other: %q", got)
	}
	d = n.moved(t, n.provider, n.press(t, n.provider, at+"?edit=name", "form#describe", url.Values{"intra_policy": {"drop"}}))
	if got := words(d.Find(".aside")); !strings.Contains(got, "isolated") {
		t.Errorf("members are isolated: %q", got)
	}
	strict, err := n.Provider.CreateGroup(t.Context(), domain.GroupInput{VPCID: n.provide.vpc.ID, Type: domain.GroupEnterprise})
	if err != nil {
		t.Fatal(err)
	}
	d = n.page(t, n.provider, account(n.Provider)+"/security-groups/"+strict.ID+"?edit=name")
	if got := words(d.Find(".aside")); d.Find("[name=intra_policy]").Length() != 0 || !strings.Contains(got, "kept apart") {
		t.Errorf("an enterprise group: %q", got)
	}
	endpoints := n.page(t, n.consumer, account(n.Consumer)+"/security-groups")
	row := endpoints.Find("[data-testid=security-group]")
	if row.Length() != 1 || !strings.Contains(words(row), "1") {
		t.Fatalf("the consumer's group: %q", words(row))
	}
	if got := words(n.page(t, n.consumer, row.Find("a.nm").AttrOr("href", "")).Find(".aside")); !strings.Contains(got, "to-payments") {
		t.Errorf("the endpoint that uses it: %q", got)
	}
}
