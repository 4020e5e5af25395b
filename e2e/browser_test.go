package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/playwright-community/playwright-go"
)

// One browser serves the whole run; each person has a context, like a profile, of
// their own.
var chromium = sync.OnceValues(func() (playwright.Browser, error) {
	path := os.Getenv("CHROMIUM")
	if path == "" {
		for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
			if p, err := exec.LookPath(name); err == nil {
				path = p
				break
			}
		}
	}
	if path == "" {
		return nil, fmt.Errorf("no Chromium: run make setup, or name it in CHROMIUM")
	}
	if os.Getenv("PLAYWRIGHT_DRIVER_PATH") == "" {
		abs, err := filepath.Abs(filepath.Join("..", "tmp", "playwright-driver"))
		if err != nil {
			return nil, err
		}
		os.Setenv("PLAYWRIGHT_DRIVER_PATH", abs)
	}
	pw, err := playwright.Run(&playwright.RunOptions{SkipInstallBrowsers: true, Verbose: false})
	if err != nil {
		return nil, fmt.Errorf("start playwright (make setup installs its driver): %w", err)
	}
	browser, err := pw.Chromium.Launch(playwright.BrowserTypeLaunchOptions{
		ExecutablePath: new(path),
		Args: []string{
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync",
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	stopBrowser = func() {
		browser.Close()
		pw.Stop()
	}
	return browser, nil
})

var stopBrowser = func() {}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && peers[os.Args[1]] != nil {
		os.Exit(peer(os.Args[1:]))
	}
	code := m.Run()
	stopBrowser()
	os.Exit(code)
}

// person is somebody at a browser. Every step fails the test if it cannot be done.
type person struct {
	t      testing.TB
	app    *app
	ctx    playwright.BrowserContext
	page   playwright.Page
	clicks int
	mu     sync.Mutex
	faults []string // console errors, CSP violations, 5xx
}

type profile struct {
	noScript bool
	dark     bool
	width    int
}

func (a *app) person(p profile) *person {
	a.t.Helper()
	browser, err := chromium()
	if err != nil {
		a.t.Fatal(err)
	}
	scheme := playwright.ColorSchemeLight
	if p.dark {
		scheme = playwright.ColorSchemeDark
	}
	if p.width == 0 {
		p.width = 1440
	}
	ctx, err := browser.NewContext(playwright.BrowserNewContextOptions{
		JavaScriptEnabled: new(!p.noScript),
		ColorScheme:       scheme,
		Viewport:          &playwright.Size{Width: p.width, Height: 900},
		ReducedMotion:     playwright.ReducedMotionReduce,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	ctx.SetDefaultTimeout(float64(patience.Milliseconds()))
	page, err := ctx.NewPage()
	if err != nil {
		a.t.Fatal(err)
	}
	who := &person{t: a.t, app: a, ctx: ctx, page: page}
	fault := func(s string) {
		who.mu.Lock()
		defer who.mu.Unlock()
		who.faults = append(who.faults, s)
	}
	// The browser itself logs every 4xx answer to the console; those are not faults.
	answered := regexp.MustCompile(`status of 4\d\d`)
	ctx.OnConsole(func(m playwright.ConsoleMessage) {
		if m.Type() == "error" && !answered.MatchString(m.Text()) {
			fault("console: " + m.Text())
		}
	})
	ctx.OnResponse(func(r playwright.Response) {
		if r.Status() >= 500 {
			fault(fmt.Sprintf("%d %s", r.Status(), r.URL()))
		}
	})
	a.t.Cleanup(func() {
		if a.t.Failed() {
			who.shot("failed-" + strings.ReplaceAll(a.t.Name(), "/", "-"))
		}
		ctx.Close()
		who.mu.Lock()
		defer who.mu.Unlock()
		for _, f := range who.faults {
			a.t.Errorf("the browser saw: %s", f)
		}
	})
	return who
}

func (p *person) must(err error, doing string) {
	p.t.Helper()
	if err != nil {
		text, _ := p.page.Locator("body").InnerText()
		p.t.Fatalf("%s at %s: %v\npage:\n%s", doing, p.page.URL(), err, text)
	}
}

// open goes to a path, or to a whole URL.
func (p *person) open(path string) {
	p.t.Helper()
	if strings.HasPrefix(path, "/") {
		path = p.app.url + path
	}
	resp, err := p.page.Goto(path)
	p.must(err, "open "+path)
	if resp != nil && resp.Status() >= 400 {
		p.must(fmt.Errorf("status %d", resp.Status()), "open "+path)
	}
}

// status opens a path and returns the answer's code.
func (p *person) status(path string) int {
	p.t.Helper()
	resp, err := p.page.Goto(p.app.url + path)
	p.must(err, "open "+path)
	return resp.Status()
}

// signIn signs a user in beside those who are signed in already.
func (p *person) signIn(user string) {
	p.t.Helper()
	p.open("/sign-in")
	p.fill("User", user)
	p.fill("Password", demoPassword)
	p.press("Sign in")
	p.must(p.page.WaitForURL(regexp.MustCompile(`/a/\d{16}`)), "sign in "+user)
}

// press activates a button by its name, or the start of it, and counts a click.
func (p *person) press(name string) {
	p.t.Helper()
	p.clicks++
	p.must(p.page.GetByRole("button", playwright.PageGetByRoleOptions{Name: startsWith(name)}).First().Click(), "press "+name)
}

// follow activates a link of the page, not of its frame, by its name, or the start of it, and counts a click.
func (p *person) follow(name string) {
	p.t.Helper()
	p.clicks++
	p.must(p.page.Locator("main").GetByRole("link", playwright.LocatorGetByRoleOptions{Name: startsWith(name)}).First().Click(), "follow "+name)
}

func startsWith(name string) *regexp.Regexp {
	return regexp.MustCompile(`^\s*` + regexp.QuoteMeta(name))
}

// fill types into the field with the label.
func (p *person) fill(label, text string) {
	p.t.Helper()
	p.must(p.field(label).Fill(text), "fill "+label)
}

func (p *person) field(label string) playwright.Locator {
	return p.page.GetByLabel(startsWith(label)).First()
}

// choose picks an option of a select by its label, or the start of it, and counts
// two clicks: open and pick.
func (p *person) choose(label, option string) {
	p.t.Helper()
	p.clicks += 2
	values, err := p.field(label).Locator("option").AllInnerTexts()
	p.must(err, "read options of "+label)
	i := slices.IndexFunc(values, func(v string) bool { return strings.HasPrefix(strings.TrimSpace(v), option) })
	if i < 0 {
		p.must(fmt.Errorf("it has %q", values), fmt.Sprintf("choose %q of %s", option, label))
	}
	_, err = p.field(label).SelectOption(playwright.SelectOptionValues{Indexes: &[]int{i}})
	p.must(err, "choose "+option)
}

// sees waits until the text is on the page.
func (p *person) sees(text string) {
	p.t.Helper()
	p.must(playwright.NewPlaywrightAssertions(float64(patience.Milliseconds())).Locator(p.page.Locator("body")).ToContainText(text), "see "+text)
}

// at waits until the test id holds the text.
func (p *person) at(testid, text string) {
	p.t.Helper()
	p.must(playwright.NewPlaywrightAssertions(float64(patience.Milliseconds())).Locator(p.page.GetByTestId(testid).First()).ToContainText(text), "see "+text+" at "+testid)
}

// shot saves a picture of the page for people to look at.
func (p *person) shot(name string) {
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		dir = "out"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Logf("screenshot: %v", err)
		return
	}
	if _, err := p.page.Screenshot(playwright.PageScreenshotOptions{Path: new(filepath.Join(dir, name+".png"))}); err != nil {
		p.t.Logf("screenshot: %v", err)
	}
}

// axe fails the test on a violation of WCAG 2.2 A or AA that axe-core can find.
func (p *person) axe() {
	p.t.Helper()
	path := os.Getenv("AXE")
	if path == "" {
		path = filepath.Join("..", "node_modules", "axe-core", "axe.min.js")
	}
	src, err := os.ReadFile(path)
	p.must(err, "read axe-core")
	// Evaluate runs outside the page's content security policy.
	_, err = p.page.Evaluate(string(src))
	p.must(err, "load axe-core")
	v, err := p.page.Evaluate(`axe.run(document, {runOnly: ['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa']})
		.then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.target).join(', ')).join('\n'))`)
	p.must(err, "run axe-core")
	if s, _ := v.(string); s != "" {
		p.t.Errorf("accessibility of %s:\n%s", p.page.URL(), s)
	}
}
