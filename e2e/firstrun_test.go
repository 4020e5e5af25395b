package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFirstRun is what the README promises: a link, one click, and the output of
// curl from inside the other network.
func TestFirstRun(t *testing.T) {
	a := start(t, "--demo")
	t.Logf("ready in %v", a.ready.Round(time.Millisecond))
	if limit := 2 * time.Second; a.ready > limit {
		t.Errorf("ready in %v, want at most %v", a.ready, limit)
	}
	st := a.status()
	server, engine := resident(t, st.Server), resident(t, st.Engine.PID)
	t.Logf("resident: server %d KiB, engine %d KiB, together %d MiB (%s)", server, engine, (server+engine)>>10, st.Engine.Mode)
	if limit := 80 << 10; server+engine > limit {
		t.Errorf("%d KiB resident in both processes, want at most %d", server+engine, limit)
	}

	p := a.person(profile{})
	p.open(a.link)
	p.sees("no route between them")
	p.axe()
	p.shot("welcome-waiting-light")
	if out, err := a.run1("shop-client", "curl", "-sS", "-m", "2", "http://10.0.1.17/"); err == nil {
		t.Fatalf("before approval curl got %q", out)
	}
	p.press("Accept the connection")
	p.at("terminal", "hello from acme back end pay-2 (10.0.1.17 in its own VPC)")
	if p.clicks != 1 {
		t.Errorf("%d clicks to the first answer, want 1", p.clicks)
	}
	p.axe()
	p.shot("welcome-connected-light")

	out, err := a.run1("shop-client", "curl", "-sS", "http://10.0.1.17/")
	if err != nil || !strings.Contains(out, "hello from acme back end") {
		t.Fatalf("exec curl: %q, %v", out, err)
	}

	p.press("Break it")
	p.at("terminal", "refused (no answer)")
	if out, err := a.run1("shop-client", "curl", "-sS", "-m", "2", "http://10.0.1.17/"); err == nil {
		t.Fatalf("with the rule dropped curl got %q", out)
	}
	p.shot("welcome-broken-light")
	p.press("Fix it")
	p.at("terminal", "hello from acme back end")
	if out, err := a.run1("shop-client", "curl", "-sS", "http://10.0.1.17/"); err != nil {
		t.Fatalf("after the fix: %q, %v", out, err)
	}
}

// TestFirstRunWithoutScript is the same story for a browser that runs no script.
func TestFirstRunWithoutScript(t *testing.T) {
	a := start(t, "--demo")
	p := a.person(profile{noScript: true, dark: true})
	p.open(a.link)
	p.press("Accept the connection")
	p.at("terminal", "hello from acme back end")
	p.shot("welcome-connected-dark")
}

// TestEmptyStore leads an operator from the printed link to a first account.
func TestEmptyStore(t *testing.T) {
	a := start(t)
	p := a.person(profile{})
	p.open(a.link)
	p.sees("Accounts")
	p.axe()
	p.shot("admin-accounts-light")
}

// TestExec runs commands inside an attachment as if they ran here.
func TestExec(t *testing.T) {
	a := start(t, "--demo")
	a.ready4exec("shop-client")
	t.Run("output and exit code", func(t *testing.T) {
		cmd := a.inside("shop-client", "sh", "-c", "cat; echo problem >&2; exit 7")
		cmd.Stdin = strings.NewReader("typed\n")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if string(out) != "typed\n" || stderr.String() != "problem\n" || exitCode(err) != 7 {
			t.Fatalf("got %q, %q, code %d", out, stderr.String(), exitCode(err))
		}
	})
	t.Run("no such command", func(t *testing.T) {
		if _, err := a.run1("shop-client", "/nonexistent"); !strings.Contains(fmt.Sprint(err), "127") {
			t.Fatalf("got %v, want exit code 127", err)
		}
	})
	t.Run("signals", func(t *testing.T) {
		cmd := a.inside("shop-client", "sh", "-c", `trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.05; done`)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		if n, err := out.Read(buf); err != nil || string(buf[:n]) != "ready\n" {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		if code := exitCode(err); code != 5 && code != 130 {
			t.Fatalf("exit code %d, want 5", code)
		}
	})
	t.Run("in the consumer's network only", func(t *testing.T) {
		out, err := a.run1("shop-client", "cat", "/proc/net/route")
		if err != nil {
			t.Fatal(err)
		}
		host, err := os.ReadFile("/proc/net/route")
		if err != nil {
			t.Fatal(err)
		}
		if out == string(host) {
			t.Fatal("the routes inside are those of the host")
		}
	})
	t.Run("no capability over the host", func(t *testing.T) {
		if out, err := a.run1("shop-client", "sh", "-c", "mount -t tmpfs none /mnt"); err == nil {
			t.Fatalf("mount worked: %s", out)
		}
	})
}

// TestCommands makes what the first steps need from the command line, beside a
// running server and without one.
func TestCommands(t *testing.T) {
	a := start(t)
	steps := func(t *testing.T, suffix string) {
		t.Helper()
		var acc struct{ ID, Name string }
		a.admin(&acc, "account", "create", "team"+suffix)
		if len(acc.ID) != 16 || acc.ID[0] != '1' {
			t.Fatalf("account id %q, want 16 digits that begin with 1", acc.ID)
		}
		var user struct{ Name string }
		a.admin(&user, "user", "create", "ann"+suffix, "--password", demoPassword, "--account", acc.ID)
		var key struct{ ID, Secret string }
		a.admin(&key, "access-key", "create", "--account", acc.ID, "--user", "ann"+suffix)
		if key.ID == "" || len(key.Secret) < 20 {
			t.Fatalf("access key %+v has no secret", key)
		}
		var keys []struct{ ID, Secret string }
		a.admin(&keys, "access-key", "list", "--account", acc.ID)
		if len(keys) != 1 || keys[0].ID != key.ID || keys[0].Secret != "" {
			t.Fatalf("listed %+v, want the key without its secret", keys)
		}
	}
	t.Run("beside the server", func(t *testing.T) { steps(t, "-one") })
	t.Run("a second server is refused", func(t *testing.T) {
		out, err := exec.Command(a.bin, "serve", "--data", a.data, "--listen", "127.0.0.1:0").CombinedOutput() //nolint:noctx // it ends at once
		if err == nil || !strings.Contains(string(out), "another openprivatelink uses this data folder") {
			t.Fatalf("got %v: %s", err, out)
		}
	})
	t.Run("the new user signs in", func(t *testing.T) {
		p := a.person(profile{})
		p.signIn("ann-one")
		p.sees("team-one")
	})
	backup := a.data + "-backup.zip"
	t.Cleanup(func() { os.Remove(backup) })
	if out, err := a.command("backup", backup); err != nil {
		t.Fatalf("backup: %v %s", err, out)
	}
	a.stop()
	t.Run("without a server", func(t *testing.T) { steps(t, "-two") })
	t.Run("restore", func(t *testing.T) {
		if _, err := a.command("restore", backup); err == nil || !strings.Contains(err.Error(), "empty") {
			t.Fatalf("restore over a store that is in use: %v, want a refusal", err)
		}
		b := &app{t: t, bin: a.bin, data: a.data + "-restored"}
		if _, err := b.command("restore", backup); err != nil {
			t.Fatal(err)
		}
		var accounts []struct{ Name string }
		b.admin(&accounts, "account", "list")
		if len(accounts) != 1 || accounts[0].Name != "team-one" {
			t.Fatalf("restored %+v, want what was there at the backup", accounts)
		}
	})
}

// resident returns the resident memory of a process in KiB.
func resident(tb testing.TB, pid int) int {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib
		}
	}
	tb.Fatal("no VmRSS")
	return 0
}
