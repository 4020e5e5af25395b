package reconcile

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/flowlog"
)

// patient is an engine that has vitals, or is away.
type patient struct {
	proxy.Engine
	away bool
}

func (p *patient) Vitals(context.Context) (proxy.Vitals, error) {
	if p.away {
		return proxy.Vitals{}, proxy.ErrAway
	}
	return proxy.Vitals{
		Listeners: 7, Descriptors: 40, DescriptorLimit: 1024, Goroutines: 9, Memory: 1 << 20, JournalErrors: 2,
		Ended: map[string]int64{"closed": 5, "sg": 3}, Records: flowlog.Stats{Written: 8, Dropped: 1, Bytes: 4096},
	}, nil
}

// scrape is what Prometheus would read.
func scrape(t *testing.T, l *Loop) map[string]*dto.MetricFamily {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(l)
	out := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(out, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(out.Body)
	if err != nil || out.Code != http.StatusOK {
		t.Fatalf("%d, %v", out.Code, err)
	}
	return families
}

func TestMetrics(t *testing.T) {
	engine := &patient{}
	l := &Loop{Engine: engine, counters: map[string]map[string]proxy.Counter{
		"ep-1": {"zone-h": {Endpoint: "ep-1", Zone: "zone-h", Service: "epsrv-1", Active: 2, Flows: 10, Refused: 1, In: 100, Out: 200}},
	}}
	got := scrape(t, l)
	value := func(name string, labels ...string) float64 {
		t.Helper()
		for _, m := range got[name].GetMetric() {
			have := []string{}
			for _, p := range m.GetLabel() {
				have = append(have, p.GetName()+"="+p.GetValue())
			}
			if fmt.Sprint(have) == fmt.Sprint(labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		t.Errorf("no %s with %v in %v", name, labels, got[name])
		return -1
	}
	ep := []string{"endpoint=ep-1", "service=epsrv-1", "zone=zone-h"}
	for _, tt := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{2, "privatelink_active_connections", ep},
		{10, "privatelink_new_connections_total", ep},
		{1, "privatelink_drop_connections_total", ep},
		{100, "privatelink_in_bytes_total", ep},
		{200, "privatelink_out_bytes_total", ep},
		{3, "privatelink_flows_ended_total", []string{"reason=sg"}},
		{40, "privatelink_engine_open_fds", nil},
		{1024, "privatelink_engine_max_fds", nil},
		{2, "privatelink_engine_journal_errors_total", nil},
		{1, "privatelink_flow_records_dropped_total", nil},
	} {
		if v := value(tt.name, tt.labels...); v != tt.want {
			t.Errorf("%s is %v, want %v", tt.name, v, tt.want)
		}
	}

	// However many endpoints there are, a scrape stays small, and its sums right.
	for i := range labelledAtMost {
		id := fmt.Sprint("ep-more-", i)
		l.counters[id] = map[string]proxy.Counter{"zone-i": {Endpoint: id, Zone: "zone-i", Service: "epsrv-2", Flows: 1}}
	}
	engine.away = true
	got = scrape(t, l)
	if n := len(got["privatelink_new_connections_total"].GetMetric()); n != 2 {
		t.Errorf("%d series of flows, want one a zone", n)
	}
	if v := value("privatelink_new_connections_total", "endpoint=", "service=", "zone=zone-i"); v != labelledAtMost {
		t.Errorf("the zone's sum is %v", v)
	}
	if v := value("privatelink_endpoint_zones_without_series"); v != labelledAtMost+1 {
		t.Errorf("%v endpoint zones without series", v)
	}
	if got["privatelink_engine_listeners"] != nil || value("privatelink_engine_up") != 0 {
		t.Error("figures of an engine that is away")
	}
}
