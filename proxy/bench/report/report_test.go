package report_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
)

var update = flag.Bool("update", false, "rewrite golden files")

const goals = `
[[figure]]
id = "crr"
name = "new connections"
unit = "/s"
floor = ">= 0.8 haproxy"
goal = ">= 0.95 haproxy, >= 0.9 nginx"
stretch = ">= 1.1 haproxy"

[[figure]]
id = "crr.cpu"
name = "their CPU"
unit = "s"
floor = "<= 1.3 haproxy"
goal = "<= 1.05 haproxy"

[[figure]]
id = "crr.cpu"
subject = "self-ppv2"
name = "their CPU with PROXY v2"
floor = "<= 1.05 self"

[[figure]]
id = "limit"
name = "of its limit"
floor = ">= 0.95, <= 1.05"
`

func parse(t *testing.T, text string) report.Goals {
	t.Helper()
	g, err := report.ParseGoals(text)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestParseGoals(t *testing.T) {
	got := parse(t, goals).Figures[0]
	want := report.Figure{
		ID: "crr", Name: "new connections", Unit: "/s", Subject: "self",
		Floor:   report.Condition{{Limit: 0.8, Peer: "haproxy"}},
		Goal:    report.Condition{{Limit: 0.95, Peer: "haproxy"}, {Limit: 0.9, Peer: "nginx"}},
		Stretch: report.Condition{{Limit: 1.1, Peer: "haproxy"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseGoalsRefuses(t *testing.T) {
	const head = "[[figure]]\nid = \"a\"\nname = \"a\"\n"
	for text, want := range map[string]string{
		head + `floor = "> 1 b"`:        "want <= or >=",
		head + `floor = ">= b"`:         "no number",
		head + `floor = ">= -1 b"`:      "no number from 0",
		head + `floor = ">= 1 b c"`:     "want <= or >=",
		head + `floor = ""`:             "want <= or >=",
		head + `florr = ">= 1 b"`:       "nobody knows",
		head + head:                     "no other has",
		"[[figure]]\nname = \"a\"":      "needs a name, and an id",
		"[[figure]]\nid = \"a\"":        "needs a name, and an id",
		head + `floor = ">= 1 b`:        "goals: ",
		head + `floor = ">= 1 b, <= c"`: "no number",
	} {
		if _, err := report.ParseGoals(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzCondition(f *testing.F) {
	f.Add(">= 1.3 haproxy, <= 0.55 direct")
	f.Add(">= 0")
	f.Add("<= NaN nginx,")
	f.Fuzz(func(t *testing.T, text string) {
		var c report.Condition
		if c.UnmarshalText([]byte(text)) != nil {
			return
		}
		for _, b := range c {
			if !(b.Limit >= 0) || strings.ContainsAny(b.Peer, ", ") {
				t.Fatalf("%q: got %+v", text, b)
			}
		}
	})
}

// measured is a run in which the control is 5 % apart from itself.
func measured() report.Run {
	return report.Run{
		Date: "2026-11-25", Version: "v1.2.3", Seconds: 1.5,
		Machine: report.Machine{Kernel: "6.18.1", CPU: "A CPU", Cores: 2, Settings: map[string]string{"ipv4/tcp_congestion_control": "reno"}},
		Sets: []report.Set{{
			Name: "plain", Rounds: 3, Peers: []string{"direct", "self", "self-ppv2", "haproxy", "haproxy-again"},
			Left:    map[string]string{"nginx": "not installed"},
			Foreign: map[string]float64{"crr": 0.12},
			Figures: map[string]report.Samples{
				"crr": {
					"direct": {20000, 21000, 22000}, "self": {9300, 9100, 9000}, "self-ppv2": {9000, 9000, 9000},
					"haproxy": {10000, 10000, 10000}, "haproxy-again": {10500, 9800, 10800},
				},
				"crr.cpu": {
					"self": {13.3, 13.5, 12}, "self-ppv2": {14, 14, 14}, "haproxy": {10, 10, 10}, "haproxy-again": {10.5, 9.6, 10},
				},
				"crr.p99": {"direct": {5000, 5100, 5200}, "self": {9000, 9000, 9000}},
				"limit":   {"self": {0.97, 0.9, 1.02}},
			},
		}},
	}
}

func TestJudge(t *testing.T) {
	type outcome struct {
		id, subject                 string
		floor, goal, stretch        report.Outcome
		ratio, low, high, band, was float64
	}
	var got []outcome
	for _, j := range measured().Sets[0].Judge(parse(t, goals)) {
		r := j.Ratios["haproxy"]
		got = append(got, outcome{j.ID, j.Subject, j.Floored, j.Reached, j.Stretched, r.Median, r.Min, r.Max, j.Band, j.Value})
	}
	want := []outcome{
		{"crr", "self", report.Pass, report.Near, report.Fail, 0.91, 0.90, 0.93, 0.05, 9100},
		{"crr.cpu", "self", report.Near, report.Fail, report.Open, 1.33, 1.2, 1.35, 0.0417, 13.3},
		{"crr.cpu", "self-ppv2", report.Near, report.Open, report.Open, 0, 0, 0, 0.0417, 14},
		{"limit", "self", report.Pass, report.Open, report.Open, 0, 0, 0, 0.12, 0.97},
	}
	near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-3*b+1e-9 && b-a < 1e-3*b+1e-9 })
	if d := cmp.Diff(want, got, cmp.AllowUnexported(outcome{}), near); d != "" {
		t.Error(d)
	}
}

func TestLines(t *testing.T) {
	var b bytes.Buffer
	if !measured().Lines(&b, parse(t, goals)) {
		t.Error("got a missed floor, want none: the only one that is missed is within the noise")
	}
	golden(t, "lines.txt", b.Bytes())

	slow := measured()
	slow.Sets[0].Figures["crr"]["self"] = []float64{7000, 7000, 7000}
	if slow.Lines(&b, parse(t, goals)) {
		t.Error("got all floors, want one missed by more than the noise")
	}
}

func TestPage(t *testing.T) {
	var b bytes.Buffer
	measured().Page(&b, parse(t, goals))
	golden(t, "page.md", b.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Error(d)
	}
}
