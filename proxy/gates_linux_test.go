package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// installed starts an engine in a process of its own.
func installed(t *testing.T) *proxy.Process {
	t.Helper()
	if _, _, err := vpc.Probe(vpc.ModeNetns); err != nil {
		t.Skip(err)
	}
	p, _ := install(t, vpc.ModeNetns)
	return p
}

// limited starts an engine in a process of its own that may open so many files.
func limited(t *testing.T, files int) *proxy.Process {
	t.Helper()
	if _, _, err := vpc.Probe(vpc.ModeNetns); err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "limited")
	if err := os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d && exec '%s' \"$@\"\n", files, self), 0o700); err != nil {
		t.Fatal(err)
	}
	p, _ := installAs(t, vpc.ModeNetns, program)
	return p
}

func (w *world) vitals() proxy.Vitals {
	w.Helper()
	v, err := w.engine.Vitals(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return v
}

// carried reads what a workload that holds connections says of them.
func (w *world) carried(k task) (carried, reset int) {
	w.Helper()
	line := <-k.first
	if n, err := fmt.Sscan(line, &carried, &reset); n != 2 {
		w.Fatalf("%q: %v", line, err)
	}
	return carried, reset
}

// Out of descriptors an engine refuses new connections and says why; what it has goes
// on, and it still answers and starts commands.
func TestOutOfDescriptors(t *testing.T) {
	const files, many = 700, 200
	p := limited(t, files)
	w := scene(t, p)
	w.says(p.Remote, "before")
	w.until(0)
	at := netip.AddrPortFrom(epH, w.port).String()
	for round := range 2 {
		was := w.vitals()
		k := w.start(p.Remote, "hold", at, strconv.Itoa(many))
		carried, reset := w.carried(k)
		if carried < 64 || reset < 50 || carried+reset != many {
			t.Errorf("round %d: %d carried and %d reset of %d", round, carried, reset, many)
		}
		is := w.vitals()
		if is.DescriptorLimit != files || is.Descriptors > files-400 {
			t.Errorf("%d descriptors of %d, want a reserve of 400 at least", is.Descriptors, is.DescriptorLimit)
		}
		if got := is.Ended[proxy.ReasonFull] - was.Ended[proxy.ReasonFull]; got != int64(reset) {
			t.Errorf("%d counted as refused for descriptors, want %d: %v", got, reset, is.Ended)
		}
		if got := status(t, p).Flows; got != int64(carried) {
			t.Errorf("%d flows, want %d", got, carried)
		}
		if _, err := run(t.Context(), p.Remote, "true"); err != nil {
			t.Error(err)
		}
		k.end()
		if got := <-k.last; got != strconv.Itoa(carried) {
			t.Errorf("%s flows went on, want %d", got, carried)
		}
		w.until(0)
		w.says(p.Remote, "there is room again")
		w.until(0)
	}
	want := w.vitals().Ended[proxy.ReasonFull]
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		page, err := p.Records(t.Context(), proxy.RecordQuery{Endpoint: endpoint, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		recorded := int64(0)
		for _, r := range page.Records {
			if r.Reason == proxy.ReasonFull && r.Action == proxy.ActionReject {
				recorded++
			}
		}
		if recorded == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d records of the refused, want %d", recorded, want)
		}
	}
}

// A connection costs two descriptors while it is idle, and none once it has ended.
func TestDescriptorsOfIdleFlows(t *testing.T) {
	const flows = 1000
	p := installed(t)
	w := scene(t, p)
	at := netip.AddrPortFrom(epH, w.port).String()
	w.says(p.Remote, "before")
	w.until(0)
	before := w.vitals()
	k := w.start(p.Remote, "hold", at, strconv.Itoa(flows))
	if carried, reset := w.carried(k); carried != flows {
		t.Fatalf("%d carried and %d reset, want %d", carried, reset, flows)
	}
	is := w.vitals()
	grown := is.Descriptors - before.Descriptors
	if (grown+flows/2)/flows != 2 { // but for a few that come and go
		t.Errorf("%d flows cost %d descriptors, want two each", flows, grown)
	}
	k.end()
	if got := <-k.last; got != strconv.Itoa(flows) {
		t.Errorf("%s flows went on, want %d", got, flows)
	}
	w.until(0)
	for end := time.Now().Add(soon); w.vitals().Descriptors > before.Descriptors+flows/10; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors left, %d before", w.vitals().Descriptors, before.Descriptors)
		}
	}
}

// A connection costs little memory while it is idle. Both of its peers are sockets
// that nothing here remembers but their numbers.
func TestMemoryOfIdleFlows(t *testing.T) {
	const flows, most = 1000, 2 << 10
	d := namespaces(t)
	w := newWorld(t, d, start(t, d, ""))
	w.apply()
	server, err := d.Listen(t.Context(), provider, netip.AddrPortFrom(backend(1), w.port))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	w.carry(endpoint, true)
	w.carrying(endpoint, true)
	held := make([]int, 0, 2*flows)
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	dial := func() {
		c, err := w.driver.DialFrom(t.Context(), consumer, client, netip.AddrPortFrom(epH, w.port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			var again int
			if again, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
				held = append(held, again)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range flows { // what is made once, or grows by doubling
		dial()
	}
	w.until(flows)
	before := inUse()
	for range flows {
		dial()
	}
	w.until(2 * flows)
	if got := (inUse() - before) / flows; got > most {
		t.Errorf("%d bytes for each flow, want %d at most", got, most)
	}
}

// inUse returns the bytes of the heap that something points to.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what pools kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Clients that come and leave without a word cost others nothing, and each has an
// end that is counted.
func TestSilentClients(t *testing.T) {
	const knocks = 5000
	p := installed(t)
	w := scene(t, p)
	at := netip.AddrPortFrom(epH, w.port).String()
	w.says(p.Remote, "before")
	stream := w.start(p.Remote, "streams", at, "10")
	if got := <-stream.first; got != "running" {
		t.Fatal(got)
	}
	w.until(10)
	was := w.vitals()
	if got := <-w.start(p.Remote, "knock", at, strconv.Itoa(knocks)).first; got != strconv.Itoa(knocks) {
		t.Fatal(got)
	}
	ended := func() (n int64) {
		for reason, count := range w.vitals().Ended {
			n += count - was.Ended[reason]
		}
		return n
	}
	for end := time.Now().Add(soon); ended() < knocks && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if got := ended(); got < knocks {
		t.Errorf("%d flows ended, want %d at least: %v", got, knocks, w.vitals().Ended)
	}
	w.until(10)
	stream.end()
	if got := <-stream.last; got != "" {
		t.Errorf("streams were cut: %s", got)
	}
	w.says(p.Remote, "after")
}
