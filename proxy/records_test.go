package proxy_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
)

// A flow that goes on has a record each window, and all of them together say what a
// single one would.
func TestWindows(t *testing.T) {
	d := newFake()
	w := newWorld(t, d, startWith(t, proxy.Config{Driver: d, Dir: t.TempDir(), Window: 20 * time.Millisecond}))
	w.connected(proxytest.Echo)
	c := w.mustDial(epH)
	w.echoes(c, "one")
	all := func() []proxy.Record {
		page, err := w.engine.Records(w.Context(), proxy.RecordQuery{Endpoint: endpoint, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		return page.Records
	}
	wait := func(what string, ok func([]proxy.Record) bool) []proxy.Record {
		t.Helper()
		for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
			got := all()
			if ok(got) {
				return got
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, got)
			}
		}
	}
	wait("two windows", func(got []proxy.Record) bool { return len(got) >= 2 })
	w.echoes(c, "two and three")
	n := len(all())
	wait("a window with more", func(got []proxy.Record) bool { return len(got) > n+1 })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	got := wait("the end", func(got []proxy.Record) bool { return !got[len(got)-1].Window })
	var in, out int64
	for i, r := range got {
		last := i == len(got)-1
		if r.Window == last || (r.Reason == proxy.ReasonOpen) == last || r.Action != proxy.ActionAccept || (r.Flow == 0) != (i == 0) || i > 0 && r.Flow != got[0].Seq {
			t.Errorf("row %d of %d: %+v", i, len(got), r)
		}
		if i > 0 && !r.Start.Equal(got[i-1].End) {
			t.Errorf("row %d begins at %v, the one before ended at %v", i, r.Start, got[i-1].End)
		}
		in, out = in+r.In, out+r.Out
	}
	if want := int64(len("one") + len("two and three")); in != want || out != want {
		t.Errorf("in all %d in and %d out, want %d", in, out, want)
	}
	last := got[len(got)-1]
	if last.Target != netip.AddrPortFrom(backend(1), w.port) || !last.Local.Addr().IsValid() || last.LoadBalancer == "" || last.Server == "" || last.Service == "" {
		t.Errorf("the provider's half: %+v", last)
	}
}

func TestVitals(t *testing.T) {
	d := newFake()
	w := newWorld(t, d, startRemote(t, d, t.TempDir()))
	w.connected(proxytest.Echo)
	c := w.mustDial(epH)
	w.echoes(c, "hello")
	v, err := w.engine.Vitals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v.Flows != 1 || v.Listeners == 0 || v.Descriptors < 5 || v.DescriptorLimit < uint64(v.Descriptors) || v.Goroutines == 0 || v.Memory < 1<<20 || v.JournalErrors != 0 {
		t.Errorf("%+v", v)
	}
	w.carry(endpoint, false)
	w.records(1)
	if v, err = w.engine.Vitals(t.Context()); err != nil || v.Flows != 0 || v.Ended[proxy.ReasonRevoked] != 1 || v.Records.Written != 1 || v.Records.Bytes == 0 {
		t.Errorf("after the end: %+v, %v", v, err)
	}
}

// What passes an endpoint is in its series, and in those of everything that it
// leads to.
func TestSeriesOfTheEngine(t *testing.T) {
	d := newFake()
	e := startWith(t, proxy.Config{Driver: d, Dir: t.TempDir()})
	w := newWorld(t, d, e)
	w.connected(proxytest.Echo)
	sample := e.Sample()
	c := w.mustDial(epH)
	w.echoes(c, "0123456789")
	at := time.Now().Truncate(time.Minute).Add(time.Minute)
	sample(at)
	lb := w.shall.Endpoints[endpoint].Zones[0].LoadBalancer
	var server string
	for _, g := range w.shall.ServerGroups {
		server = g.Servers[0].ID
	}
	for _, tt := range []struct {
		of   proxy.Object
		want map[string]float64
	}{
		{proxy.Object{Kind: proxy.OfEndpoint, ID: endpoint}, map[string]float64{"InBps": 8, "OutBps": 8, "NewConnection": .1, "ActiveConnection": 1}},
		{proxy.Object{Kind: proxy.OfEndpoint, ID: endpoint, Zone: zoneH}, map[string]float64{"InBps": 8}},
		{proxy.Object{Kind: proxy.OfService, ID: "epsrv-1"}, map[string]float64{"InBps": 8, "ActiveConnection": 1}},
		{proxy.Object{Kind: proxy.OfLoadBalancer, ID: lb}, map[string]float64{"InBps": 8, "ActiveConnection": 1, "UnhealthyServerCount": 0, "ZoneHealthy": 1}},
		{proxy.Object{Kind: proxy.OfServer, ID: server}, map[string]float64{"ActiveConnection": 1}},
	} {
		p, err := e.Series(t.Context(), proxy.SeriesQuery{Object: tt.of, From: at.Add(-time.Second), To: at})
		if err != nil || len(p.Times) != 1 {
			t.Errorf("%+v: %+v, %v", tt.of, p, err)
			continue
		}
		for name, want := range tt.want {
			if got := p.Values[name][0]; got != want {
				t.Errorf("%+v: %s is %v, want %v", tt.of, name, got, want)
			}
		}
	}
}
