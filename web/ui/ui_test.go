package ui

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"
	"github.com/a-h/templ"
)

func render(t *testing.T, c templ.Component, children ...templ.Component) *goquery.Document {
	t.Helper()
	var b strings.Builder
	if err := c.Render(templ.WithChildren(t.Context(), templ.Join(children...)), &b); err != nil {
		t.Fatal(err)
	}
	d, err := goquery.NewDocumentFromReader(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWords(t *testing.T) {
	tests := []struct{ got, want string }{
		{Number(0), "0"},
		{Number(999), "999"},
		{Number(1000), "1,000"},
		{Number(-1234567), "-1,234,567"},
		{Bytes(0), "0 B"},
		{Bytes(1023), "1023 B"},
		{Bytes(1536), "1.5 KiB"},
		{Bytes(64 << 20), "64 MiB"},
		{Rate(420e6), "420 Mbit/s"},
		{Rate(9.96e9), "10.0 Gbit/s"},
		{Plural(1, "zone", ""), "1 zone"},
		{Plural(2, "zone", ""), "2 zones"},
		{Plural(0, "entry", "entries"), "0 entries"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestRelative(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		ago  time.Duration
		want string
	}{
		{0, "just now"},
		{9 * time.Second, "just now"},
		{10 * time.Second, "10 s ago"},
		{59 * time.Second, "59 s ago"},
		{time.Minute, "1 min ago"},
		{59*time.Minute + 59*time.Second, "59 min ago"},
		{47 * time.Hour, "47 h ago"},
		{48 * time.Hour, "2 d ago"},
		{30 * 24 * time.Hour, "26 Oct 2026"},
		{-5 * time.Second, "in a moment"},
		{-5 * time.Minute, "in 5 min"},
	}
	for _, tt := range tests {
		if got := relative(now.Add(-tt.ago), now); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.ago, got, tt.want)
		}
	}
	at := time.Date(2026, 11, 25, 14, 0, 0, 0, time.FixedZone("", 2*3600))
	el := render(t, Time(at)).Find("time")
	if el.AttrOr("datetime", "") != "2026-11-25T12:00:00Z" || el.AttrOr("data-utc", "") != "2026-11-25 12:00:00 UTC" || el.AttrOr("tabindex", "") != "0" {
		t.Errorf("time is %v", el.Nodes[0].Attr)
	}
	if d := render(t, Time(time.Time{})); d.Find("time").Length() != 0 || d.Text() != "–" {
		t.Errorf("no time is %q", d.Text())
	}
}

// A status never stands on colour alone, and every kind has an icon that is there.
func TestKinds(t *testing.T) {
	for _, k := range []Kind{OK, Busy, Waiting, Warn, Bad, Off, Leaving, Info, "", "unknown"} {
		d := render(t, Status(State{Kind: k, Word: "Word", Title: "APIWord"}))
		icon := strings.TrimPrefix(d.Find("use").AttrOr("href", ""), "#i-")
		if !known(icon) || strings.TrimSpace(d.Text()) != "Word" || d.Find("[title=APIWord]").Length() != 1 {
			t.Errorf("%q: icon %q, text %q", k, icon, d.Text())
		}
	}
}

func known(icon string) bool {
	return slices.ContainsFunc(symbols, func(s struct{ name, svg string }) bool { return s.name == icon })
}

func TestControlsKeepWhatWasTyped(t *testing.T) {
	options := []Option{{Value: "a", Label: "A"}, {Value: "b", Label: "B"}}
	type control = func(Form, Control) templ.Component
	tests := []struct {
		name    string
		control control
		c       Control
		chosen  string // selects what is chosen
		first   string // its value at first
		typed   url.Values
		want    string // its value afterwards, or "" for nothing chosen
	}{
		{"input", Input, Control{Value: "a"}, "input", "a", url.Values{"x": {"b<"}}, "b<"},
		{"input emptied", Input, Control{Value: "a"}, "input", "a", url.Values{"x": {""}}, ""},
		{"textarea", Textarea, Control{Value: "a"}, "textarea", "a", url.Values{"x": {"b"}}, "b"},
		{"select", Select, Control{Value: "a", Options: options}, "option[selected]", "a", url.Values{"x": {"b"}}, "b"},
		{"radio", RadioCards, Control{Value: "a", Options: options}, "input[checked]", "a", url.Values{"x": {"b"}}, "b"},
		{"cards", CheckCards, Control{Values: []string{"a"}, Options: options}, "input[checked]", "a", url.Values{"x": {"b"}}, "b"},
		{"cards cleared", CheckCards, Control{Values: []string{"a"}, Options: options}, "input[checked]", "a", url.Values{}, ""},
		{"checkbox", Checkbox, Control{Values: []string{"on"}}, "input[checked]", "on", url.Values{}, ""},
		{"checkbox ticked", Checkbox, Control{}, "input[checked]", "", url.Values{"x": {"on"}}, "on"},
		{"checkbox of a value", Checkbox, Control{Value: "sg-1"}, "input[checked]", "", url.Values{"x": {"sg-1"}}, "sg-1"},
	}
	value := func(d *goquery.Document, sel string) string {
		s := d.Find(sel)
		if s.Is("textarea") {
			return s.Text()
		}
		return s.AttrOr("value", "")
	}
	for _, tt := range tests {
		tt.c.Name, tt.c.Label, tt.c.Hint = "x", "Label", "Hint"
		if got := value(render(t, tt.control(Form{ID: "f"}, tt.c)), tt.chosen); got != tt.first {
			t.Errorf("%s: at first %q, want %q", tt.name, got, tt.first)
		}
		d := render(t, tt.control(Form{ID: "f", Values: tt.typed, Errors: []FieldError{{"y", "other"}, {"x", "Wrong."}}}, tt.c))
		if got := value(d, tt.chosen); got != tt.want {
			t.Errorf("%s: afterwards %q, want %q", tt.name, got, tt.want)
		}
		if got := strings.TrimSpace(d.Find("#f-x-err").Text()); got != "Wrong." || strings.Contains(d.Text(), "other") {
			t.Errorf("%s: the fault is %q", tt.name, got)
		}
		described := d.Find("[aria-describedby]").AttrOr("aria-describedby", "")
		if !strings.Contains(described, "f-x-err") {
			t.Errorf("%s: described by %q", tt.name, described)
		}
		for id := range strings.FieldsSeq(described) {
			if d.Find("#"+id).Length() != 1 {
				t.Errorf("%s: described by #%s, which is not there", tt.name, id)
			}
		}
		if d.Find("#f-x").Length() != 1 {
			t.Errorf("%s: the summary has nothing to lead to", tt.name)
		}
	}
	if d := render(t, Input(Form{Values: url.Values{"p": {"secret"}}}, Control{Name: "p", Type: "password"})); d.Find("[value]").Length() != 0 {
		t.Error("a password is sent back")
	}
}

func TestFormSummary(t *testing.T) {
	if d := render(t, FormSummary(Form{ID: "f"})); d.Find("*").Length() > 3 { // html, head, body
		t.Error("a form without faults has a summary")
	}
	one := render(t, FormSummary(Form{ID: "f", Errors: []FieldError{{"", "Not together."}}}))
	if one.Find("[role=alert]").Length() != 1 || one.Find("a").Length() != 0 || !strings.Contains(one.Text(), "Not together.") {
		t.Errorf("a fault of the form: %q", one.Text())
	}
	two := render(t, FormSummary(Form{ID: "f", Errors: []FieldError{{"name", "Too short."}, {"", "Not together."}}}))
	links := two.Find("a").Map(func(_ int, s *goquery.Selection) string { return s.AttrOr("href", "") })
	if !slices.Equal(links, []string{"#f-name", "#f"}) || !strings.Contains(two.Find("h2").Text(), "2 things") {
		t.Errorf("leads to %v", links)
	}
}

// Whatever htmx does, the browser does without it.
func TestFormsWorkWithoutScript(t *testing.T) {
	f := Form{ID: "f", Action: "/do", Hidden: Hidden{Account: "1", Version: 2, Token: "t"}}
	for name, d := range map[string]*goquery.Document{
		"form":    render(t, PostForm(f)),
		"button":  render(t, PostButton(Post{Action: "/do", Hidden: f.Hidden, Button: Btn{Label: "Do"}})),
		"confirm": render(t, Confirm(Question{Form: f, Title: "Do?", Verb: "Do", Cancel: "/back"})),
	} {
		form := d.Find("form")
		if form.AttrOr("method", "") != "post" || form.AttrOr("action", "") != "/do" || form.AttrOr("hx-post", "") != "/do" || form.AttrOr("hx-sync", "") != "this:drop" {
			t.Errorf("%s: %v", name, form.Nodes[0].Attr)
		}
		for field, want := range map[string]string{"account": "1", "version": "2", "token": "t"} {
			if got := form.Find("input[type=hidden][name="+field+"]").AttrOr("value", ""); got != want {
				t.Errorf("%s: %s is %q, want %q", name, field, got, want)
			}
		}
	}
	filter := render(t, Listing(List{ID: "things", Label: "Things", URL: "/things", Filter: &Filter{Q: "x", Keep: []Pair{{"view", "waiting"}}}})).Find("form")
	if filter.AttrOr("method", "") != "get" || filter.AttrOr("action", "") != filter.AttrOr("hx-get", "-") || filter.Find("noscript").Length() != 1 || filter.Find("[name=view]").AttrOr("value", "") != "waiting" {
		t.Error("the filter needs script")
	}
	dialog := render(t, DialogButton("/ask", Btn{Label: "Reject", Of: "shop"})).Find("a")
	if dialog.AttrOr("href", "") != "/ask" || dialog.AttrOr("hx-target", "") != "#dialog" || strings.Join(strings.Fields(dialog.Text()), " ") != "Reject shop" {
		t.Errorf("dialog link %v %q", dialog.Nodes[0].Attr, dialog.Text())
	}
}

func TestListStates(t *testing.T) {
	row := templ.Raw("<tr id='row'><td>x</td></tr>")
	l := List{ID: "things", Label: "Things", URL: "/things", Query: "?q=x", Columns: []Column{{Label: "Name", Sort: "?sort=-name", Sorted: "ascending"}}}
	full := l
	full.IDs, full.Pager = []string{"t-1", "t-2"}, Pager{From: 26, To: 27, Prev: "/things?before=x"}
	d := render(t, Results(full), row)
	if d.Find("#row").Length() != 1 || d.Find("th[aria-sort=ascending] a").Length() != 1 {
		t.Error("no rows")
	}
	if got := d.Find(".pager [role=status]").Text(); got != "26–27" {
		t.Errorf("pager %q", got)
	}
	if d.Find("a[aria-label='Previous page']").AttrOr("href", "") != "/things?before=x" || d.Find("a[aria-label='Next page']").Length() != 0 {
		t.Error("pager leads elsewhere")
	}
	if got := d.Find("#things-fresh").AttrOr("hx-vals", ""); got != `{"seen":"t-1 t-2"}` {
		t.Errorf("seen %q", got)
	}
	none := l
	none.Filtered = true
	if d := render(t, Results(none)); d.Find("a").AttrOr("href", "") != "/things" || !strings.Contains(d.Text(), "Clear filters") || d.Find("table").Length() != 0 {
		t.Error("no match is not its own state")
	}
	empty := l
	empty.Empty = templ.Raw("<p>Publish your first</p>")
	if d := render(t, Results(empty)); !strings.Contains(d.Text(), "Publish your first") {
		t.Error("the empty state is not the page's")
	}
	if d := render(t, Fresh(l, 0)); d.Text() != "" {
		t.Error("nothing new is announced")
	}
}

func TestToast(t *testing.T) {
	bad := render(t, AddToast(Note{Kind: Bad, Title: "No", Request: "R1"}))
	if bad.Find("hx-partial[hx-target='#toasts'] [role=alert]").Length() != 1 || bad.Find("[data-copy=R1]").Length() != 1 {
		t.Error("an error is not an alert with a request id to copy")
	}
	good := render(t, Toast(Note{Kind: OK, Title: "Yes", Undo: &Post{Action: "/undo", Button: Btn{Label: "Undo"}}}))
	if good.Find("[role=alert]").Length() != 0 || good.Find("form[action='/undo'] button").Text() == "" {
		t.Error("good news alarms, or cannot be undone")
	}
}

func TestSpark(t *testing.T) {
	tests := []struct {
		values []float64
		want   string
	}{
		{nil, ""},
		{[]float64{1}, ""},
		{[]float64{0, 0}, "M0.0 22.0L88.0 22.0"},
		{[]float64{0, 5, 10}, "M0.0 22.0L44.0 12.0L88.0 2.0"},
	}
	for _, tt := range tests {
		if got := sparkPath(tt.values); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.values, got, tt.want)
		}
	}
}

// What the policy of the pages forbids is in no template, and htmx is spoken only
// in the design system and the frame.
func TestTemplatesKeepTheRules(t *testing.T) {
	rules := []struct {
		what  string
		found *regexp.Regexp
		but   []string
	}{
		{"an inline style", regexp.MustCompile(`\sstyle=|<style`), nil},
		{"an inline handler", regexp.MustCompile(`\s(on[a-z]+|hx-on[a-z:]*)=`), nil},
		{"an inline script", regexp.MustCompile(`<script(>|\s+[^>]*>[^<]+<)`), nil},
		{"htmx", regexp.MustCompile(`\shx-[a-z]+|<hx-`), []string{"ui", "layout"}},
	}
	icon := regexp.MustCompile(`(?:Icon(?:Small|Large)?\(|Icon:\s*|Empty\()"([a-z0-9-]+)"`)
	seen, icons := map[string]int{}, 0
	walk := func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".templ" && filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "_templ.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range icon.FindAllSubmatch(src, -1) {
			icons++
			if !known(string(m[1])) {
				t.Errorf("%s: icon %q is not in icons.txt", path, m[1])
			}
		}
		for _, r := range rules {
			if filepath.Ext(path) != ".templ" || !r.found.Match(src) {
				continue
			}
			seen[r.what]++
			if !slices.Contains(r.but, filepath.Base(filepath.Dir(path))) {
				t.Errorf("%s has %s: %q", path, r.what, r.found.Find(src))
			}
		}
		return nil
	}
	for _, dir := range []string{"..", "../../handlers/console"} {
		if err := filepath.WalkDir(dir, walk); err != nil {
			t.Fatal(err)
		}
	}
	if icons < 20 || seen["htmx"] < 3 {
		t.Fatalf("found %d icons and %d templates with htmx: the templates are not read", icons, seen["htmx"])
	}
}
