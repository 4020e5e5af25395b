package proxy_test

import (
	"bufio"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// task is a workload that runs in the client's attachment.
type task struct {
	first chan string // its first line
	last  chan string // all that it printed after that, once it has ended
	end   func()      // its standard input
}

func (w *world) start(r *proxy.Remote, args ...string) task {
	w.Helper()
	self, err := os.Executable()
	if err != nil {
		w.Fatal(err)
	}
	input, ends, err := os.Pipe()
	if err != nil {
		w.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		w.Fatal(err)
	}
	k := task{first: make(chan string, 1), last: make(chan string, 1), end: func() { _ = ends.Close() }}
	var running sync.WaitGroup
	running.Go(func() {
		defer input.Close()
		_, err := r.Exec(w.Context(), proxy.ExecRequest{
			Attachment: client, Args: append([]string{self, "workload"}, args...), Env: os.Environ(), Dir: "/",
		}, [3]*os.File{input, in, in})
		if err != nil {
			w.Error(err)
		}
		_ = in.Close()
	})
	running.Go(func() {
		defer out.Close()
		lines := bufio.NewScanner(out)
		lines.Scan()
		k.first <- lines.Text()
		var rest []string
		for lines.Scan() {
			rest = append(rest, lines.Text())
		}
		k.last <- strings.Join(rest, "\n")
	})
	w.Cleanup(running.Wait)
	w.Cleanup(k.end)
	return k
}

// An upgrade cuts nothing, twice in a row: streams that never pause, a transfer that
// is under way in both directions, idle flows, half-closed ones and commands go on in
// the new program, and what is decided there holds for what is older.
func TestUpgrade(t *testing.T) {
	const streams = 20
	for _, mode := range []string{vpc.ModeNetns, vpc.ModeUserns} {
		t.Run(mode, func(t *testing.T) {
			if _, _, err := vpc.Probe(mode); err != nil {
				t.Skip(err)
			}
			p, _ := install(t, mode)
			w := scene(t, p)
			lb := w.shall.LoadBalancers[balancer]
			lb.Listeners = append(slices.Clone(lb.Listeners), proxy.Listener{ID: "lsn-udp", Protocol: verdict.UDP, Port: w.port, ServerGroup: group})
			w.shall.LoadBalancers[balancer] = lb
			w.shall.Groups[firewall] = verdict.Group{ID: firewall, Rules: []verdict.Rule{
				{ID: "sgr-1", Priority: 1, Policy: verdict.Accept, Protocol: verdict.All, Peer: range16},
			}}
			w.apply()
			w.says(p.Remote, "before")
			at := netip.AddrPortFrom(epH, w.port).String()
			var running []task
			for range streams {
				running = append(running, w.start(p.Remote, "stream", at))
			}
			for _, k := range running {
				if got := <-k.first; got != "running" {
					t.Fatal(got)
				}
			}
			packets := w.start(p.Remote, "datagrams", at)
			if got := <-packets.first; got != "running" {
				t.Fatal(got)
			}
			was := status(t, p)
			server, err := os.ReadFile(childrenOf(was.PID))
			if err != nil {
				t.Fatal(err)
			}
			bulk := w.start(p.Remote, "bulk", at, "64")
			for status(t, p).Flows != streams+2 {
				time.Sleep(time.Millisecond)
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				began := time.Now()
				is, err := p.Upgrade(t.Context(), self)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("upgraded in %v", time.Since(began))
				if is.PID != was.PID || !is.Started.After(was.Started) || is.Generation != was.Generation || is.Listeners != was.Listeners {
					t.Errorf("status %+v, was %+v", is, was)
				}
				if is.Flows < streams {
					t.Errorf("%d flows after the upgrade, want %d at least", is.Flows, streams)
				}
				was = is
				w.says(p.Remote, "a new flow")
			}
			if got := <-bulk.first; got != "all of it" {
				t.Errorf("the transfer ended with %q", got)
			}
			if after, err := os.ReadFile(childrenOf(was.PID)); err != nil || !strings.HasPrefix(string(after), strings.Fields(string(server))[0]) {
				t.Errorf("the server's command was %s and is %s (%v)", server, after, err)
			}
			w.seen, w.since = proxy.Observations{}, 0
			w.observe("counters that go on", func(proxy.Observations) bool {
				c := w.counter(zoneH)
				return c.Active == streams+1 && c.Flows >= streams+4 && c.In > 64<<20 && c.Out > 64<<20
			})

			w.carry(endpoint, false)
			for _, k := range running {
				if got := <-k.last; !strings.Contains(got, "reset") {
					t.Errorf("a stream ended with %q, want a reset", got)
				}
			}
			if got := <-packets.last; got != "lost 0" && got != "lost 1" && got != "lost 2" {
				t.Errorf("of the datagrams through two upgrades: %s, want one each at most", got)
			}
			w.carrying(endpoint, false)
			revoked := 0
			page, err := p.Records(t.Context(), proxy.RecordQuery{Endpoint: endpoint, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Records {
				if r.Reason == proxy.ReasonRevoked && r.Start.Before(was.Started) && r.In > 0 && r.Server == "srv-1" {
					revoked++
					if !r.Local.IsValid() || (r.Protocol == verdict.UDP) != (r.PacketsIn > 0) {
						t.Errorf("record of a flow that was handed over: %+v", r)
					}
				}
			}
			if revoked != streams+1 {
				t.Errorf("%d records of revoked flows older than the upgrade, want %d: %+v", revoked, streams+1, page.Records)
			}
			w.carry(endpoint, true)
			w.says(p.Remote, "accepted again")
		})
	}
}

func childrenOf(pid int) string {
	return filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(pid), "children")
}

// A program that cannot take over changes nothing.
func TestUpgradeIsGivenUp(t *testing.T) {
	mode := vpc.ModeNetns
	if _, _, err := vpc.Probe(mode); err != nil {
		mode = vpc.ModeUserns
		if _, _, err := vpc.Probe(mode); err != nil {
			t.Skip(err)
		}
	}
	p, cfg := install(t, mode)
	w := scene(t, p)
	w.says(p.Remote, "before")
	k := w.start(p.Remote, "stream", netip.AddrPortFrom(epH, w.port).String())
	<-k.first
	was := status(t, p)
	none := filepath.Join(cfg.Dir, "no-such-program")
	text := filepath.Join(cfg.Dir, "text")
	if err := os.WriteFile(text, []byte("not a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{none, text, "/bin/false", cfg.Dir} {
		if _, err := p.Upgrade(t.Context(), program); err == nil || !strings.Contains(err.Error(), program) {
			t.Errorf("upgrade to %s: %v, want an error that names it", program, err)
		}
	}
	if is := status(t, p); !is.Started.Equal(was.Started) || is.Flows != was.Flows {
		t.Errorf("status %+v, was %+v", is, was)
	}
	w.says(p.Remote, "after")
	select {
	case got := <-k.last:
		t.Errorf("a stream ended: %s", got)
	default:
	}
	w.carry(endpoint, false)
	<-k.last
}
