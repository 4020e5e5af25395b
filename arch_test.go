package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/openprivatelink/openprivatelink"

// arrows says who may import whom. A name stands for a package; a trailing slash
// for all packages below. What has no line imports nothing of ours.
var arrows = map[string][]string{
	"":                   {"domain", "proxy/", "proxy", "handlers/", "handlers", "static", "web/"},
	"handlers":           {"handlers/session", "handlers/console", "domain", "static", "web/layout", "web/ui"},
	"handlers/session":   {"domain", "web/"},
	"handlers/console":   {"domain", "web/", "handlers/session"},
	"web/layout":         {"web/ui", "static"},
	"web/ui":             {},
	"web/":               {"web/layout", "web/ui"},
	"proxy":              {"proxy/vpc", "proxy/verdict", "proxy/flowlog", "proxy/forward", "proxy/pp2"},
	"proxy/reconcile":    {"domain", "proxy", "proxy/vpc", "proxy/verdict"},
	"proxy/bench":        {"proxy/bench/", "proxy", "proxy/vpc", "proxy/verdict", "proxy/proxytest"},
	"proxy/bench/load":   {},
	"proxy/bench/report": {},
	"proxy/forward":      {"proxy/vpc"},
	"proxy/pp2":          {},
	"proxy/vpc":          {},
	"proxy/verdict":      {},
	"proxy/flowlog":      {"proxy/verdict"},
	"proxy/proxytest":    {},
	"domain":             {},
	"domain/domaintest":  {"domain"},
	"static":             {},
	"static/gen":         {},
	"e2e":                {},
}

// TestArrows fails on an import against the arrows. Test files may also use the
// packages that exist for tests.
func TestArrows(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		from := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		allowed, ok := arrows[from]
		if !ok {
			if area, _, found := strings.Cut(from, "/"); found {
				allowed, ok = arrows[area+"/"]
			}
		}
		if !ok {
			t.Errorf("package %q has no line in arrows: say what it may import", from)
			continue
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, module)
			if !ours {
				continue
			}
			to = strings.TrimPrefix(to, "/")
			if !slices.ContainsFunc(allowed, func(a string) bool {
				return a == to || (strings.HasSuffix(a, "/") && strings.HasPrefix(to, a))
			}) {
				t.Errorf("%s imports %s", from, to)
			}
		}
	}
	if seen < 5 {
		t.Fatalf("go list knew only %d packages", seen)
	}
}
