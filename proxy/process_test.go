package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// install starts an engine in a process of its own, with this program as its binary.
func install(t *testing.T, mode string) (*proxy.Process, proxy.StartConfig) {
	t.Helper()
	return installAs(t, mode, "")
}

// installAs starts an engine with program as its binary.
func installAs(t *testing.T, mode, program string) (*proxy.Process, proxy.StartConfig) {
	t.Helper()
	cfg := proxy.StartConfig{
		Dir: socketDir(t), Mode: mode, Reason: "a test", Installation: newInstallation(), Version: "test", Log: quiet(t), Program: program,
	}
	p, err := proxy.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := p.Stop(ctx); err != nil && !errors.Is(err, proxy.ErrAway) {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(cfg.Dir + "/engine.log")
			t.Logf("the engine's log:\n%s", log)
		}
	})
	return p, cfg
}

// scene is a world whose server is a workload that the engine runs.
func scene(t *testing.T, p *proxy.Process) *world {
	t.Helper()
	w := newWorld(t, nil, p)
	server := netip.MustParseAddr("10.0.5.200")
	w.servers(proxy.Server{ID: "srv-1", Zone: zoneH, Address: netip.AddrPortFrom(server, w.port), Weight: 1})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for id, n := range w.shall.Networks {
		n.Number += 100 + os.Getpid()%90 // not those of another test at the same time
		if id == provider {
			n.Attachments = map[string]vpc.Attachment{"att-server": {
				ID: "att-server", Kind: vpc.Managed, VSwitch: "vsw-p", Address: server, Command: []string{self, "workload", "echo", fmt.Sprint(w.port)},
			}}
		}
		w.shall.Networks[id] = n
	}
	ep := w.shall.Endpoints[endpoint]
	ep.Carry = true
	w.shall.Endpoints[endpoint] = ep
	w.apply()
	w.carrying(endpoint, true)
	return w
}

// run runs a command inside the client's attachment and returns what it printed.
func run(ctx context.Context, r *proxy.Remote, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return "", err
	}
	defer null.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer out.Close()
	if args[0] == "workload" {
		args = append([]string{self}, args...)
	}
	code, err := r.Exec(ctx, proxy.ExecRequest{Attachment: client, Args: args, Env: os.Environ(), Dir: "/"}, [3]*os.File{null, in, in})
	_ = in.Close()
	if err != nil {
		return "", err
	}
	printed, err := io.ReadAll(out)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, printed)
	}
	return strings.TrimSpace(string(printed)), err
}

// says wants an echo from inside the client's attachment.
func (w *world) says(r *proxy.Remote, text string) {
	w.Helper()
	at := netip.AddrPortFrom(epH, w.port).String()
	var got string
	var err error
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // the server may still be starting
		if got, err = run(w.Context(), r, "workload", "say", at, text); err == nil && got == text {
			return
		}
	}
	w.Fatalf("through the endpoint: %q, %v; want %q", got, err, text)
}

func status(t *testing.T, e proxy.Engine) proxy.Status {
	t.Helper()
	st, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestEngineProcess(t *testing.T) {
	for _, mode := range []string{vpc.ModeNetns, vpc.ModeUserns} {
		t.Run(mode, func(t *testing.T) {
			if _, _, err := vpc.Probe(mode); err != nil {
				t.Skip(err)
			}
			p, cfg := install(t, mode)
			st := status(t, p)
			if st.Mode != mode || st.PID == os.Getpid() || st.Version != "test" || st.Installation != cfg.Installation {
				t.Fatalf("status %+v", st)
			}
			limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", st.PID))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(limits)) {
				if f := strings.Fields(line); strings.HasPrefix(line, "Max open files") && f[3] != f[4] {
					t.Errorf("limit of open files %s, want the hard limit %s", f[3], f[4])
				}
			}
			w := scene(t, p)
			w.says(p.Remote, "from the one to the other, both 10.0.0.0/16")
			if _, err := run(t.Context(), p.Remote, "no-such-program"); err == nil {
				t.Error("a program that is not there was run")
			}
			where, err := run(t.Context(), p.Remote, "readlink", "/proc/self/ns/net")
			if err != nil {
				t.Fatal(err)
			}

			// A second control plane finds the same engine, and its end ends nothing.
			other, err := proxy.Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if again := status(t, other); again.PID != st.PID {
				t.Fatalf("a second engine %d beside %d", again.PID, st.PID)
			}
			other.Close()

			// A crash: watched, started again, and rebuilt without the control plane.
			if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			for end := killed.Add(soon); ; time.Sleep(time.Millisecond) {
				next, err := p.Status(t.Context())
				if err == nil && next.PID != st.PID {
					t.Logf("a new engine answered after %v", time.Since(killed))
					if next.Generation != st.Generation+1 {
						t.Fatalf("generation %d after the crash", next.Generation)
					}
					break
				}
				if time.Now().After(end) {
					t.Fatal("no new engine: ", err)
				}
			}
			w.seen = proxy.Observations{}
			w.carrying(endpoint, true)
			t.Logf("it carried again after %v", time.Since(killed))
			w.says(p.Remote, "after a crash")
			after, err := run(t.Context(), p.Remote, "readlink", "/proc/self/ns/net")
			if err != nil {
				t.Fatal(err)
			}
			if adopted := after == where; adopted != (mode == vpc.ModeNetns) {
				t.Errorf("the attachment was %s and is %s", where, after)
			}

			// Revoked before a crash is revoked after it.
			w.carry(endpoint, false)
			st = status(t, p)
			if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			w.seen, w.since = proxy.Observations{}, 0
			for end := time.Now().Add(soon); !slices.ContainsFunc(w.seen.Endpoints, func(proxy.EndpointObserved) bool { return true }); time.Sleep(time.Millisecond) {
				o, err := p.Observe(t.Context(), 0)
				if err == nil && status(t, p).PID != st.PID {
					w.seen = o
				}
				if time.Now().After(end) {
					t.Fatal("no new engine: ", err)
				}
			}
			if z := w.seen.Endpoints[0].Zones; z[0].Carrying || z[1].Carrying {
				t.Errorf("revoked, and after the crash %+v", z)
			}
			if out, err := run(t.Context(), p.Remote, "workload", "say", netip.AddrPortFrom(epH, w.port).String(), "x"); err == nil {
				t.Errorf("through a revoked endpoint: %q", out)
			}

			if err := p.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Status(t.Context()); !errors.Is(err, proxy.ErrAway) {
				t.Errorf("after Stop: %v", err)
			}
			if left, _ := os.ReadDir("/run/netns"); slices.ContainsFunc(left, func(e os.DirEntry) bool {
				return strings.Contains(e.Name(), cfg.Installation)
			}) {
				t.Errorf("namespaces left: %v", left)
			}
		})
	}
}

// SIGTERM is an orderly end that leaves the networks for the next engine.
func TestEngineProcessEnds(t *testing.T) {
	if _, _, err := vpc.Probe(vpc.ModeNetns); err != nil {
		t.Skip(err)
	}
	p, cfg := install(t, vpc.ModeNetns)
	w := scene(t, p)
	w.says(p.Remote, "hello")
	st := status(t, p)
	p.Close() // nobody watches now
	if err := syscall.Kill(st.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r := proxy.Dial(proxy.Socket(cfg.Dir))
	defer r.Close()
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		if _, err := r.Status(t.Context()); errors.Is(err, proxy.ErrAway) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not end")
		}
	}
	next, err := proxy.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	w.engine, w.seen, w.since = next, proxy.Observations{}, 0
	w.carrying(endpoint, true)
	w.says(next.Remote, "by the next engine")
	log, err := os.ReadFile(cfg.Dir + "/engine.log")
	if err != nil || bytes.Count(log, []byte("engine ends")) != 1 {
		t.Errorf("log %v:\n%s", err, log)
	}
}

func TestLoopbackEngine(t *testing.T) {
	p, cfg := install(t, vpc.ModeLoopback)
	if st := status(t, p); st.Mode != vpc.ModeLoopback || st.PID != os.Getpid() || st.Reason != "a test" {
		t.Fatalf("status %+v", st)
	}
	w := scene(t, p)
	probe := func(want bool) {
		t.Helper()
		var res proxy.ProbeResult
		for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			var err error
			res, err = p.Probe(t.Context(), proxy.ProbeRequest{Attachment: client, Kind: proxy.ProbeTCP, Target: netip.AddrPortFrom(epH, w.port)})
			if err != nil {
				t.Fatal(err)
			}
			if res.OK == want {
				return
			}
		}
		t.Fatalf("probe %+v, want %v", res, want)
	}
	probe(true)
	if _, err := run(t.Context(), p.Remote, "true"); err == nil {
		t.Error("a command was run in loopback mode")
	}
	p.Close()
	next, err := proxy.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	p, w.engine, w.seen, w.since = next, next, proxy.Observations{}, 0
	w.carrying(endpoint, true)
	probe(true)
	w.carry(endpoint, false)
	probe(false)
}

func TestEngineThatCannotStart(t *testing.T) {
	cfg := proxy.StartConfig{Dir: socketDir(t), Mode: "no-such-mode", Installation: newInstallation(), Log: quiet(t)}
	if p, err := proxy.Start(t.Context(), cfg); err == nil {
		p.Close()
		t.Fatal("started")
	} else if !strings.Contains(err.Error(), "no-such-mode") {
		t.Errorf("got %v, want the engine's own words", err)
	}
}

func TestEngineOfAnotherKindIsReplaced(t *testing.T) {
	if _, _, err := vpc.Probe(vpc.ModeUserns); err != nil {
		t.Skip(err)
	}
	p, cfg := install(t, vpc.ModeUserns)
	first := status(t, p)
	p.Close()
	cfg.Installation = newInstallation()
	other, err := proxy.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if st := status(t, other); st.PID == first.PID || st.Installation != cfg.Installation {
		t.Errorf("status %+v, after %+v", st, first)
	}
	cfg.Mode = vpc.ModeLoopback
	other.Close()
	last, err := proxy.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	if st := status(t, last); st.Mode != vpc.ModeLoopback || st.PID != os.Getpid() {
		t.Errorf("status %+v, want one in this process", st)
	}
}
