package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	contoso   = "/a/1000000000000077"
	northwind = "/a/1000000000000042"
	acme      = "/a/1000000000000001"
)

// bookings is a service that tess of contoso-travel publishes and jorge of
// northwind-shop connects to, both in one browser. Both VPCs are 10.0.0.0/16.
type bookings struct {
	*app
	p        *person
	endpoint string // id
	service  string // id
	address  string // of the endpoint
}

var lastID = regexp.MustCompile(`(ep|epsrv|vpc)-[a-z2-7]{20}`)

func publishBookings(t *testing.T) *bookings {
	t.Helper()
	a := start(t, "--demo")
	b := &bookings{app: a, p: a.person(profile{}), address: "10.0.1.77:7000"}
	p := b.p
	p.signIn("tess")
	p.open(contoso + "/vpcs/new")
	p.fill("Name", "vpc-travel")
	p.press("Create VPC")
	p.sees("vpc-travel")
	p.open(contoso + "/attachments/new")
	p.fill("Name", "backend")
	p.fill("Address", "10.0.1.17")
	p.press("Create attachment")
	p.sees("10.0.1.17")
	a.ready4exec("backend")
	a.background("backend", os.Args[0], "peer-serve", "10.0.1.17:7000")
	p.open(contoso + "/load-balancers/new")
	p.fill("Name", "nlb-travel")
	p.fill("Listens on port", "7000")
	p.press("Create load balancer")
	p.sees("nlb-travel")
	p.open(contoso + "/services/new")
	p.fill("Name", "bookings")
	p.fill("Accounts to whitelist", "1000000000000042")
	p.press("Create service")
	p.sees("bookings")
	b.service = lastID.FindString(p.page.URL())

	p.signIn("jorge") // beside tess
	p.open(northwind + "/catalogue?q=bookings")
	p.follow("Connect")
	p.fill("Address", "10.0.1.77")
	p.press("Create endpoint")
	p.sees("Waiting for approval")
	b.endpoint = lastID.FindString(p.page.URL())
	return b
}

func (b *bookings) accept() {
	b.t.Helper()
	b.p.open(contoso + "/connections")
	b.p.press("Accept northwind-shop")
	b.p.sees("northwind-shop is being connected")
	eventually(b.t, func() error {
		_, err := b.run1("shop-client", os.Args[0], "peer-dial", b.address)
		return err
	})
}

// hold begins a live transfer inside the consumer's VPC and returns a channel that
// tells what ended it.
func (b *bookings) hold() <-chan string {
	b.t.Helper()
	cmd := b.inside("shop-client", os.Args[0], "peer-hold", b.address)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { cmd.Process.Kill() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		b.t.Fatalf("the transfer did not begin: %q, %v, %s", line, err, stderr.String())
	}
	ended := make(chan string, 1)
	go func() {
		io.Copy(io.Discard, out)
		cmd.Wait()
		ended <- stderr.String()
	}()
	return ended
}

func running(tb testing.TB, ended <-chan string) {
	tb.Helper()
	select {
	case why := <-ended:
		tb.Fatalf("the live transfer ended: %s", why)
	default:
	}
}

// TestMainJob is what the product is for, from two sides of one browser.
func TestMainJob(t *testing.T) {
	b := publishBookings(t)
	p := b.p
	if out, err := b.run1("shop-client", os.Args[0], "peer-dial", b.address); err == nil {
		t.Fatalf("before approval the consumer got %q", out)
	}
	b.accept()
	p.shot("story-accepted")
	p.open(northwind + "/endpoints/" + b.endpoint)
	p.sees("Connected")
	p.choose("How", "Connection only")
	p.press("Test it")
	p.sees("The endpoint saw 10.0.1.10 as the source")

	out, err := b.run1("shop-client", os.Args[0], "peer-get", b.address, fmt.Sprint(64<<20))
	if want := fmt.Sprintf("%d bytes, equal true\n", 64<<20); out != want || err != nil {
		t.Fatalf("64 MiB and a half-close: %q, %v; want %q", out, err, want)
	}

	ended := b.hold()
	p.open(contoso + "/connections/" + b.endpoint + "/reject")
	p.press("Reject")
	begun := time.Now()
	select {
	case why := <-ended:
		if !strings.Contains(why, "reset") {
			t.Errorf("the live transfer ended with %q, want a reset", why)
		}
		t.Logf("reset %v after the rejection was answered", time.Since(begun).Round(time.Millisecond))
	case <-time.After(time.Second):
		t.Fatal("the live transfer went on for a second after the rejection")
	}
	if out, err := b.run1("shop-client", os.Args[0], "peer-dial", b.address); err == nil {
		t.Fatalf("after the rejection the consumer got %q", out)
	}

	// The stranger sees and reaches nothing.
	p.signIn("mara")
	p.open(acme + "/catalogue")
	if text, _ := p.page.Content(); strings.Contains(text, b.service) || strings.Contains(text, "bookings") {
		t.Error("the catalogue of an account that is not whitelisted shows the service")
	}
	for _, path := range []string{"/services/" + b.service, "/connections/" + b.endpoint, "/endpoints/" + b.endpoint} {
		if code := p.status(acme + path); code != 404 {
			t.Errorf("%s of another account: %d, want 404", path, code)
		}
	}
}

// TestSharedServerGroup makes a server group by itself, sends to it from a listener
// beside the one that has its own targets, and changes it under a live transfer.
func TestSharedServerGroup(t *testing.T) {
	b := publishBookings(t)
	p := b.p
	b.accept()
	ended := b.hold()
	p.open(contoso + "/server-groups/new")
	p.fill("Name", "sgp-shared")
	p.press("Create server group")
	p.follow("Add target")
	p.choose("Target", "backend")
	p.fill("Port", "7000")
	p.press("Add target")
	p.at("target", "10.0.1.17:7000")
	group := p.page.URL()
	p.open(contoso + "/load-balancers")
	p.follow("nlb-travel")
	p.follow("Add listener")
	p.fill("Listens on port", "7001")
	p.choose("Sends to", "sgp-shared")
	p.press("Add listener")
	p.sees("TCP 7001")
	b.letIn("7001")
	second := strings.Replace(b.address, ":7000", ":7001", 1)
	eventually(t, func() error {
		_, err := b.run1("shop-client", os.Args[0], "peer-dial", second)
		return err
	})
	p.open(group)
	p.at("target", "Healthy")
	p.follow("Edit")
	p.choose("Scheduler", "Weighted least connections")
	p.fill("Interval", "1")
	p.press("Save")
	p.sees("TCP check every 1 s")
	if out, err := b.run1("shop-client", os.Args[0], "peer-dial", second); err != nil {
		t.Errorf("after the change the consumer got %q, %v", out, err)
	}
	running(t, ended)
}

// TestDrain revokes and lets the live transfer go on, through a crash of the control
// plane, until it is cut after all.
func TestDrain(t *testing.T) {
	b := publishBookings(t)
	p := b.p
	b.accept()
	ended := b.hold()
	p.open(contoso + "/connections/" + b.endpoint + "/reject")
	p.must(p.page.GetByLabel("Let them drain").Check(), "choose to drain")
	p.fill("For at most", "600")
	p.press("Reject")
	p.sees("Open flows may go on for 600 s")
	eventually(t, func() error {
		if out, err := b.run1("shop-client", os.Args[0], "peer-dial", b.address); err == nil {
			return fmt.Errorf("a new flow got %q", out)
		}
		return nil
	})
	running(t, ended)
	b.kill()
	b.run()
	p.open(contoso + "/connections/" + b.endpoint)
	p.sees("Draining")
	running(t, ended)
	p.press("Cut now")
	begun := time.Now()
	select {
	case <-ended:
		t.Logf("ended %v after the cut was pressed", time.Since(begun).Round(time.Millisecond))
	case <-time.After(patience):
		t.Fatal("the transfer outlived the cut")
	}
	p.sees("Rejected")
}

// TestBandwidth limits a connection whose transfer goes on, and lifts the limit.
func TestBandwidth(t *testing.T) {
	b := publishBookings(t)
	p := b.p
	b.accept()
	ended := b.hold()
	const size = 16 << 20 // 1.3 s at 100 Mbit/s, if nothing else were under way
	load := func() time.Duration {
		t.Helper()
		begun := time.Now()
		out, err := b.run1("shop-client", os.Args[0], "peer-get", b.address, fmt.Sprint(size))
		if want := fmt.Sprintf("%d bytes, equal true\n", size); out != want || err != nil {
			t.Fatalf("got %q, %v; want %q", out, err, want)
		}
		return time.Since(begun)
	}
	p.open(contoso + "/connections/" + b.endpoint + "/terms")
	p.must(p.page.GetByLabel("Limited").Check(), "choose a limit")
	p.fill("Bandwidth limit", "100")
	p.press("Save")
	p.sees("100 Mbit/s each way")
	p.at("status", "Connected")
	limited := load()
	if limited < time.Second {
		t.Errorf("%d bytes took %v at 100 Mbit/s", size, limited)
	}
	running(t, ended)
	p.open(contoso + "/connections/" + b.endpoint + "/terms")
	p.must(p.page.GetByLabel("No limit").Check(), "choose no limit")
	p.press("Save")
	p.sees("The terms of northwind-shop are changed")
	p.at("status", "Connected")
	if free := load(); free > limited/2 {
		t.Errorf("%d bytes took %v without a limit, %v with one", size, free, limited)
	}
	running(t, ended)
}

// An upgrade, asked for by a command and by a signal, cuts no transfer, and what is
// decided after it holds for what is older.
func TestUpgrade(t *testing.T) {
	b := publishBookings(t)
	b.accept()
	ended := b.hold()
	was := b.status()
	out, err := b.command("upgrade")
	if err != nil || !strings.Contains(out, "flows went on") || !strings.Contains(out, "starts again") {
		t.Fatalf("upgrade: %v: %s", err, out)
	}
	running(t, ended)
	if is := b.status(); is.Engine.PID != was.Engine.PID {
		t.Errorf("the engine is process %d and was %d", is.Engine.PID, was.Engine.PID)
	}
	_, err = b.run1("shop-client", os.Args[0], "peer-dial", b.address)
	if err != nil {
		t.Errorf("a new connection after the upgrade: %v", err)
	}
	var before state
	eventually(t, func() error {
		if before = b.status(); !before.Since.After(was.Since) {
			return fmt.Errorf("the server runs since %v, and did before the upgrade", before.Since)
		}
		return nil
	})
	if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if is := b.status(); is.Engine.Started.Equal(before.Engine.Started) || !is.Since.After(before.Since) {
			return fmt.Errorf("the engine started at %v, the server at %v", is.Engine.Started, is.Since)
		}
		return nil
	})
	running(t, ended)
	p := b.p
	p.open(contoso + "/connections/" + b.endpoint + "/reject") // still signed in
	p.press("Reject")
	select {
	case why := <-ended:
		if !strings.Contains(why, "reset") {
			t.Errorf("the transfer ended with %q, want a reset", why)
		}
	case <-time.After(patience):
		t.Error("the transfer goes on after the rejection")
	}
}

// TestUndo takes an acceptance back: what was opened meanwhile is reset.
func TestUndo(t *testing.T) {
	b := publishBookings(t)
	b.p.open(contoso + "/connections")
	b.p.press("Accept northwind-shop")
	b.p.sees("northwind-shop is being connected")
	var ended <-chan string
	eventually(t, func() error {
		_, err := b.run1("shop-client", os.Args[0], "peer-dial", b.address)
		return err
	})
	ended = b.hold()
	b.p.press("Undo")
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the transfer outlived the undone acceptance")
	}
	b.p.open(contoso + "/connections?decision=waiting")
	b.p.sees("northwind-shop")
}

// TestCrashes kills either process while bytes flow.
func TestCrashes(t *testing.T) {
	b := publishBookings(t)
	b.accept()
	ended := b.hold()
	was := b.status()
	made := b.writes(func() { b.kill() }) // the control plane, without a word
	running(t, ended)
	b.run()
	var accounts []struct{ Name string }
	b.admin(&accounts, "account", "list")
	for _, name := range made {
		if !slices.ContainsFunc(accounts, func(a struct{ Name string }) bool { return a.Name == name }) {
			t.Errorf("account %s was acknowledged and is not there", name)
		}
	}
	if now := b.status(); now.Engine.PID != was.Engine.PID {
		t.Fatalf("engine %d was replaced by %d", was.Engine.PID, now.Engine.PID)
	}
	running(t, ended)
	// Every acknowledged write is there, and a new one is carried out.
	b.p.open(contoso + "/connections/" + b.endpoint)
	b.p.sees("Connected")
	b.p.open(contoso + "/connections/" + b.endpoint + "/reject")
	b.p.press("Reject")
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("after the crash a rejection cuts nothing")
	}
	b.accept()

	if err := syscall.Kill(was.Engine.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if now := b.status(); now.Engine.PID == was.Engine.PID || now.Engine.PID == 0 {
			return fmt.Errorf("engine %d", now.Engine.PID)
		}
		return nil
	})
	if was.Engine.Mode == "userns" { // its namespaces ended, and with them what ran inside
		b.ready4exec("backend")
		b.background("backend", os.Args[0], "peer-serve", "10.0.1.17:7000")
	}
	eventually(t, func() error {
		_, err := b.run1("shop-client", os.Args[0], "peer-dial", b.address)
		return err
	})
}

// writes makes accounts one after the other, does something in the middle of it, and
// returns the names of those that were acknowledged.
func (b *bookings) writes(middle func()) (made []string) {
	b.t.Helper()
	begun, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			name := fmt.Sprintf("written-%d", i)
			if err := exec.Command(b.bin, "account", "create", name, "--data", b.data).Run(); err == nil { //nolint:noctx // it ends at once
				made = append(made, name)
			}
			if i == 5 {
				close(begun)
			}
		}
	}()
	<-begun
	middle()
	<-done
	if len(made) == 0 {
		b.t.Fatal("nothing was acknowledged")
	}
	return made
}

// listen adds listeners for the backend at more ports.
func (b *bookings) listen(ports ...string) {
	b.t.Helper()
	b.p.open(contoso + "/load-balancers")
	b.p.follow("nlb-travel")
	lb := b.p.page.URL()
	for _, port := range ports {
		b.p.open(lb)
		b.p.follow("Add listener")
		b.p.fill("Listens on port", port)
		b.p.press("Add listener")
		b.p.sees("TCP " + port)
	}
	b.letIn(ports...)
}

// letIn lets the consumer's VPC reach more ports of the endpoint.
func (b *bookings) letIn(ports ...string) {
	b.t.Helper()
	b.p.open(northwind + "/security-groups")
	b.p.follow("to-bookings")
	group := b.p.page.URL()
	for _, port := range ports {
		b.p.open(group)
		b.p.follow("Add rule")
		b.p.fill("Ports", port)
		b.p.must(b.p.page.Locator("input[name=peer]").Fill("10.0.0.0/16"), "fill the source")
		b.p.press("Add rule")
		b.p.sees(port)
	}
}
