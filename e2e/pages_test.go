package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestEveryPage opens every page of the demo that a link leads to, as one user who
// has every role, in both themes and at the width of a phone: each answers, breaks no
// content policy, scrolls sideways nowhere and passes axe.
func TestEveryPage(t *testing.T) {
	a := start(t, "--demo")
	light := a.person(profile{})
	light.open(a.link)
	light.press("Accept the connection")
	light.at("terminal", "hello from")
	pages := light.crawl()
	t.Logf("%d pages", len(pages))
	if len(pages) < 40 {
		t.Errorf("only %d pages were found: %v", len(pages), pages)
	}
	dark, phone := a.person(profile{dark: true}), a.person(profile{width: 390})
	dark.signIn("demo")
	phone.signIn("demo")
	for _, path := range pages {
		light.open(path)
		light.axe()
		light.shot("page-" + name(path) + "-light")
		dark.open(path)
		if !strings.Contains(path, "?") { // a tab has the colours of its page
			dark.axe()
		}
		dark.shot("page-" + name(path) + "-dark")
		phone.open(path)
		wide, err := phone.page.Evaluate(`document.documentElement.scrollWidth - document.documentElement.clientWidth`)
		phone.must(err, "measure "+path)
		if over := fmt.Sprint(wide); over != "0" {
			t.Errorf("%s: a phone has to scroll %s pixels sideways", path, over)
		}
	}
}

var (
	anID    = regexp.MustCompile(`-[a-z2-7]{20}`)
	numbers = regexp.MustCompile(`/\d{1,4}$`)
	digits  = regexp.MustCompile(`\d{16}`)
	unnamed = regexp.MustCompile(`[^a-z0-9]+`)
)

// name is a path as part of a file's name: ids differ from run to run.
func name(path string) string {
	path = digits.ReplaceAllStringFunc(path, func(id string) string { return id[13:] })
	return strings.Trim(unnamed.ReplaceAllString(anID.ReplaceAllString(path, ""), "-"), "-")
}

// crawl follows every link of the pages that a person can reach, each kind of page
// once, and returns their paths in the order they were found.
func (p *person) crawl() []string {
	p.t.Helper()
	var pages []string
	queue, seen := []string{"/a/1000000000000001", "/a/1000000000000042", "/admin/accounts"}, map[string]bool{}
	for len(queue) > 0 && len(pages) < 250 {
		path := queue[0]
		queue = queue[1:]
		kind := numbers.ReplaceAllString(anID.ReplaceAllString(path, ""), "/n")
		if path, query, _ := strings.Cut(kind, "?"); !strings.HasPrefix(query, "tab=") {
			kind = path // filters show the same page
		}
		if seen[kind] {
			continue
		}
		seen[kind] = true
		p.open(path)
		pages = append(pages, path)
		hrefs, err := p.page.Evaluate(`[...document.querySelectorAll('a[href^="/"]')].map(a => a.getAttribute('href'))`)
		p.must(err, "read links of "+path)
		for _, h := range hrefs.([]any) {
			href, _, _ := strings.Cut(h.(string), "#")
			if strings.Contains(href, "?after=") || strings.Contains(href, ".csv") || strings.Contains(href, ".jsonl") || strings.Contains(href, "flash=") || strings.Contains(href, "/undo") {
				continue
			}
			if strings.HasPrefix(href, "/a/1000000000000077") {
				continue // the same pages with nothing on them
			}
			queue = append(queue, href)
		}
	}
	return pages
}
