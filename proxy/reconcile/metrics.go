package reconcile

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/openprivatelink/openprivatelink/proxy"
)

const (
	// scrapeFor is how long a scrape waits for the engine.
	scrapeFor = 2 * time.Second
	// labelledAtMost bounds the endpoint zones that have series of their own. With
	// more of them, only the sums are left.
	labelledAtMost = 2000
)

// Figures that a scrape gets, in the style of Prometheus. They tell of all accounts,
// so they are for operators alone.
var (
	engineUp    = prometheus.NewDesc("privatelink_engine_up", "1 if the engine answered the last question.", nil, nil)
	passes      = prometheus.NewDesc("privatelink_reconcile_passes_total", "Passes of the reconciler.", nil, nil)
	failures    = prometheus.NewDesc("privatelink_reconcile_failures_total", "Passes that failed and were tried again.", nil, nil)
	resyncs     = prometheus.NewDesc("privatelink_reconcile_resyncs_total", "Times everything was sent to the engine.", nil, nil)
	generation  = prometheus.NewDesc("privatelink_snapshot_generation", "Generation of the snapshot the engine has.", nil, nil)
	active      = prometheus.NewDesc("privatelink_active_connections", "Live flows through endpoints.", byZone, nil)
	flows       = prometheus.NewDesc("privatelink_new_connections_total", "Flows accepted since the engine started.", byZone, nil)
	refused     = prometheus.NewDesc("privatelink_drop_connections_total", "Flows refused since the engine started.", byZone, nil)
	carriedIn   = prometheus.NewDesc("privatelink_in_bytes_total", "Bytes carried from consumer to service since the engine started.", byZone, nil)
	carriedOut  = prometheus.NewDesc("privatelink_out_bytes_total", "Bytes carried from service to consumer since the engine started.", byZone, nil)
	unlabelled  = prometheus.NewDesc("privatelink_endpoint_zones_without_series", "Endpoint zones that are in the sums of their zones alone, because there are so many.", nil, nil)
	ended       = prometheus.NewDesc("privatelink_flows_ended_total", "Flows that ended or were refused, by reason.", []string{"reason"}, nil)
	listeners   = prometheus.NewDesc("privatelink_engine_listeners", "Listening sockets of the engine.", nil, nil)
	descriptors = prometheus.NewDesc("privatelink_engine_open_fds", "Descriptors that the engine has open.", nil, nil)
	fdLimit     = prometheus.NewDesc("privatelink_engine_max_fds", "Descriptors that the engine may have open.", nil, nil)
	goroutines  = prometheus.NewDesc("privatelink_engine_goroutines", "Goroutines of the engine.", nil, nil)
	memory      = prometheus.NewDesc("privatelink_engine_memory_bytes", "Memory that the engine has of the system.", nil, nil)
	unkept      = prometheus.NewDesc("privatelink_engine_journal_errors_total", "Changes that the engine could not keep on disk.", nil, nil)
	written     = prometheus.NewDesc("privatelink_flow_records_written_total", "Flow records that were written.", nil, nil)
	dropped     = prometheus.NewDesc("privatelink_flow_records_dropped_total", "Flow records that found no room in the queue or on the disk.", nil, nil)
	kept        = prometheus.NewDesc("privatelink_flow_records_bytes", "Size of the flow records on disk.", nil, nil)
)

var byZone = []string{"service", "endpoint", "zone"}

// Describe implements [prometheus.Collector].
func (l *Loop) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(l, ch) }

// Collect implements [prometheus.Collector].
func (l *Loop) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeFor)
	defer cancel()
	if v, err := l.Engine.Vitals(ctx); err == nil {
		gauge(listeners, float64(v.Listeners))
		gauge(descriptors, float64(v.Descriptors))
		gauge(fdLimit, float64(v.DescriptorLimit))
		gauge(goroutines, float64(v.Goroutines))
		gauge(memory, float64(v.Memory))
		gauge(kept, float64(v.Records.Bytes))
		count(unkept, float64(v.JournalErrors))
		count(written, float64(v.Records.Written))
		count(dropped, float64(v.Records.Dropped))
		for reason, n := range v.Ended {
			count(ended, float64(n), reason)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	up := 0.0
	if l.totals.engineUp {
		up = 1
	}
	gauge(engineUp, up)
	gauge(generation, float64(l.totals.generation))
	count(passes, float64(l.totals.passes))
	count(failures, float64(l.totals.failures))
	count(resyncs, float64(l.totals.resyncs))

	var all []proxy.Counter
	for _, zones := range l.counters {
		all = slices.AppendSeq(all, maps.Values(zones))
	}
	left := 0
	if len(all) > labelledAtMost {
		left, all = len(all), sums(all)
	}
	gauge(unlabelled, float64(left))
	for _, c := range all {
		labels := []string{c.Service, c.Endpoint, c.Zone}
		gauge(active, float64(c.Active), labels...)
		count(flows, float64(c.Flows), labels...)
		count(refused, float64(c.Refused), labels...)
		count(carriedIn, float64(c.In), labels...)
		count(carriedOut, float64(c.Out), labels...)
	}
}

// sums adds up the counters of each zone.
func sums(all []proxy.Counter) []proxy.Counter {
	zones := map[string]*proxy.Counter{}
	for _, c := range all {
		z := zones[c.Zone]
		if z == nil {
			z = &proxy.Counter{Zone: c.Zone}
			zones[c.Zone] = z
		}
		z.Active += c.Active
		z.Flows += c.Flows
		z.Refused += c.Refused
		z.In += c.In
		z.Out += c.Out
	}
	out := make([]proxy.Counter, 0, len(zones))
	for _, z := range zones {
		out = append(out, *z)
	}
	return out
}
