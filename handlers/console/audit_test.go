package console

import (
	"encoding/csv"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func TestAuditFilters(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/audit"
	owner := n.as(t, n.Provider, domain.RoleNetwork)
	n.moved(t, owner, n.press(t, owner, account(n.Provider)+"/vpcs/"+n.provide.vpc.ID+"?edit=name", "form#rename", map[string][]string{"name": {"renamed"}}))

	d := n.page(t, n.provider, at)
	first := d.Find("[data-testid=audit-entry]").First()
	for _, want := range []string{"network-of-provider", "Rename VPC", "renamed", "vpc-provider", "console", "127.0.0.1"} {
		if !strings.Contains(words(first), want) {
			t.Errorf("newest entry %q has no %q", words(first), want)
		}
	}
	check, err := n.Provider.VerifyAudit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := words(d.Find(".head [data-testid=status]")); got != fmt.Sprintf("Chain intact, %d entries", check.Entries) {
		t.Errorf("chain: %q", got)
	}
	who := first.Find("td[data-label=Actor] a").AttrOr("href", "")
	for href, want := range map[string]int{
		who:                              1,
		at + "?action=RenameVPC":         1,
		at + "?resource=" + n.group.ID:   1,
		at + "?action=RenameVPC&actor=x": 0,
		at + "?q=renamed":                1,
		at + "?q=" + n.group.ID:          1,
		at + "?actor=" + domain.ActorPeer + "&action=RenameVPC": 0,
	} {
		d := n.page(t, n.provider, href)
		if got := d.Find("[data-testid=audit-entry]").Length(); got != want {
			t.Errorf("%s: %d entries, want %d", href, got, want)
		}
		if want == 0 && !strings.Contains(words(d.Find("#audit-results")), "Clear filters") {
			t.Errorf("%s: %q", href, words(d.Find("#audit-results")))
		}
	}
	// The provider reads about the other side only that it is the other side.
	peer := n.page(t, n.provider, at+"?action=RequestConnection").Find("[data-testid=audit-entry] td[data-label=Actor]")
	if got := words(peer); got != "consumer the other side" {
		t.Errorf("the consumer's request: %q", got)
	}
}

func TestAuditEntry(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/audit"
	d := n.page(t, n.provider, at+"?action=ReplaceRoutes")
	d = n.page(t, n.provider, d.Find("[data-testid=audit-entry] td[data-label=Entry] a").AttrOr("href", ""))
	if got := words(d.Find("table.diff tbody")); !strings.Contains(got, "10.9.0.0/16 -> "+n.provide.attachment.ID) {
		t.Errorf("diff: %q", got)
	}
	if got := d.Find(".head .acts a").AttrOr("href", ""); got != account(n.Provider)+"/route-tables/"+n.table {
		t.Errorf("leads to %q", got)
	}
	for _, path := range []string{"/0", "/99999", "/x", "/-1", "/1e3"} {
		if res := n.get(t, n.provider, at+path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", path, res.StatusCode)
		}
	}
}

func TestAuditCSV(t *testing.T) {
	n := newNetwork(t)
	// More than one page of the export, with names that a spreadsheet would run.
	const more = 230
	for i := range more {
		err := n.Provider.UpdateGroup(t.Context(), n.group.ID, domain.GroupUpdate{Name: "sg-web", Description: fmt.Sprintf("=%d+cmd", i)})
		if err != nil {
			t.Fatal(err)
		}
	}
	at := account(n.Provider) + "/audit"
	link := n.page(t, n.provider, at+"?action=UpdateSecurityGroup").Find(".head a[href*='.csv']").AttrOr("href", "")
	res := n.get(t, n.as(t, n.Provider, domain.RoleAuditor), link)
	if kind := res.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/csv") || !strings.Contains(res.Header.Get("Content-Disposition"), "attachment") {
		t.Fatalf("%s %s", kind, res.Header.Get("Content-Disposition"))
	}
	rows, err := csv.NewReader(strings.NewReader(res.body)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(csvHeader, rows[0]); diff != "" {
		t.Errorf("header: -want +got\n%s", diff)
	}
	if len(rows) != more+1 {
		t.Errorf("%d rows, want %d", len(rows)-1, more)
	}
	last := int64(1 << 62)
	for _, r := range rows[1:] {
		seq, err := strconv.ParseInt(r[0], 10, 64)
		if err != nil || seq >= last || r[5] != "UpdateSecurityGroup" {
			t.Fatalf("row %v after %d", r, last)
		}
		last = seq
	}
	if all := n.get(t, n.provider, at+".csv"); strings.Count(all.body, "\n") <= more+1 {
		t.Error("without a filter there are no more entries")
	}
	if res := n.get(t, n.consumer, at+".csv"); res.StatusCode != http.StatusNotFound {
		t.Errorf("another account's: got %d", res.StatusCode)
	}
}

func TestCSVCellsAreNoFormulas(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a=b": "a=b", "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "\t=1": "'\t=1", "\r=1": "'\r=1", "\n=1": "'\n=1", "é": "é",
	} {
		if got := csvCell(in); got != want {
			t.Errorf("csvCell(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestChangesOf(t *testing.T) {
	tests := []struct {
		before, after string
		want          []ui.Change
	}{
		{"", "", nil},
		{"", `{"name":"a","host_port":0,"groups":null,"demo":false}`, []ui.Change{{Name: "name", After: "a"}}},
		{`{"name":"a","port":0}`, "", []ui.Change{{Name: "name", Before: "a"}}},
		{`{"name":"a","size":1}`, `{"name":"b","size":1}`, []ui.Change{{Name: "name", Before: "a", After: "b"}}},
		{`{"groups":["x","y"]}`, `{"groups":[]}`, []ui.Change{{Name: "groups", Before: "x, y"}}},
		{`{"up":true}`, `{"up":false}`, []ui.Change{{Name: "up", Before: "true", After: "false"}}},
		{"", `{"HostIP":"::1","n":1.5,"in":{"a":1}}`, []ui.Change{{Name: "host ip", After: "::1"}, {Name: "in", After: `{"a":1}`}, {Name: "n", After: "1.5"}}},
		{"not json", "", []ui.Change{{Name: "value", Before: "not json"}}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, changesOf(tt.before, tt.after)); diff != "" {
			t.Errorf("%s to %s: -want +got\n%s", tt.before, tt.after, diff)
		}
	}
}

func TestActionWords(t *testing.T) {
	for action, want := range map[string]string{
		"AcceptConnection": "Accept connection", "CreateVPC": "Create VPC", "VPCUp": "VPC up", "CreateVSwitch": "Create vSwitch",
		"AddSecurityGroupRule": "Add security group rule", "SignIn": "Sign in", "": "",
	} {
		if got := actionWords(action); got != want {
			t.Errorf("actionWords(%q) = %q, want %q", action, got, want)
		}
	}
}

// auditCall finds the calls that write an entry, directly or through a helper, and
// the position of the action in them.
var auditCall = map[string]int{"audit": 0, "auditIn": 1, "auditLink": 1, "onZone": 1, "changeZone": 2, "concerns": 1, "setState": 1, "setUser": 1, "beginSession": 2}

// The filter by action offers every action that the store writes down, and none
// that it does not.
func TestAuditActionsAreTheStores(t *testing.T) {
	files, err := filepath.Glob("../../domain/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no source: %v", err)
	}
	camel, fact := regexp.MustCompile(`^"[A-Z][A-Za-z]+"$`), regexp.MustCompile(`^"[A-Z][A-Za-z]+(Up|Down)"$`)
	known := map[string]bool{}
	fset := token.NewFileSet()
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(node ast.Node) bool {
			if lit, ok := node.(*ast.BasicLit); ok && fact.MatchString(lit.Value) { // what the engine reports is chosen from tables
				known[strings.Trim(lit.Value, `"`)] = true
			}
			call, ok := node.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			i, ok := auditCall[sel.Sel.Name]
			if !ok || i >= len(call.Args) {
				return true
			}
			if lit, ok := call.Args[i].(*ast.BasicLit); ok && camel.MatchString(lit.Value) {
				known[strings.Trim(lit.Value, `"`)] = true
			}
			return true
		})
	}
	for action := range known {
		if !slices.Contains(auditActions, action) {
			t.Errorf("%s can be written down, and not be looked for", action)
		}
	}
	for _, action := range auditActions {
		if !known[action] {
			t.Errorf("%s can be looked for, and is never written down", action)
		}
	}
	if !slices.IsSorted(auditActions) {
		t.Error("the actions are not in order")
	}
}
