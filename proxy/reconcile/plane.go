package reconcile

import (
	"context"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/proxy"
)

// Counters implements [domain.DataPlane].
func (l *Loop) Counters(endpointID string) domain.Counters {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum domain.Counters
	for _, c := range l.counters[endpointID] {
		sum.Active += c.Active
		sum.Flows += c.Flows
		sum.Refused += c.Refused
		sum.In += c.In
		sum.Out += c.Out
	}
	return sum
}

// Probe implements [domain.DataPlane].
func (l *Loop) Probe(ctx context.Context, attachmentID string, target netip.AddrPort, http bool) (domain.ProbeResult, error) {
	kind := proxy.ProbeTCP
	if http {
		kind = proxy.ProbeHTTP
	}
	r, err := l.Engine.Probe(ctx, proxy.ProbeRequest{Attachment: attachmentID, Target: target, Kind: kind})
	if err != nil {
		return domain.ProbeResult{}, err
	}
	return domain.ProbeResult{
		OK: r.OK, Error: r.Error, Source: r.Source, Connect: r.Connect, Total: r.Total, Status: r.Status, Command: r.Command, Output: r.Output,
	}, nil
}

// Records implements [domain.DataPlane].
func (l *Loop) Records(ctx context.Context, q domain.RecordQuery) (domain.RecordPage, error) {
	got, err := l.Engine.Records(ctx, proxy.RecordQuery{
		After: q.After, Before: q.Before, Newest: q.Newest, Limit: q.Limit, From: q.From, To: q.To,
		Endpoint: q.EndpointID, Service: q.ServiceID, Action: q.Action, Reason: q.Reason,
	})
	p := domain.RecordPage{Next: got.Next, More: got.More}
	for _, r := range got.Records {
		p.Records = append(p.Records, domain.FlowRecord{
			Seq: r.Seq, Flow: r.Flow, Window: r.Window, Protocol: string(r.Protocol), EndpointID: r.Endpoint, ServiceID: r.Service, ZoneID: r.Zone,
			Start: r.Start, End: r.End, In: r.In, Out: r.Out, Packets: [2]int64{r.PacketsIn, r.PacketsOut},
			Accepted: r.Action == proxy.ActionAccept, Reason: r.Reason,
			Source: r.Source, Address: r.Address, Group: r.Verdict.Group, Rule: r.Verdict.Rule,
			LoadBalancerID: r.LoadBalancer, ServerID: r.Server, Local: r.Local, Target: r.Target, Told: r.Told,
		})
	}
	return p, err
}

// Status implements [domain.DataPlane].
func (l *Loop) Status(ctx context.Context) (domain.EngineStatus, error) {
	s, err := l.Engine.Status(ctx)
	if err != nil {
		return domain.EngineStatus{}, err
	}
	return domain.EngineStatus{Version: s.Version, Mode: s.Mode, Reason: s.Reason, PID: s.PID, Flows: s.Flows, Started: s.Started}, nil
}

// Figures that /metrics shows. They are sums over the installation: what belongs to
// one account is shown to that account alone.
var (
	engineUp   = prometheus.NewDesc("privatelink_engine_up", "1 if the engine answered the last question.", nil, nil)
	passes     = prometheus.NewDesc("privatelink_reconcile_passes_total", "Passes of the reconciler.", nil, nil)
	failures   = prometheus.NewDesc("privatelink_reconcile_failures_total", "Passes that failed and were tried again.", nil, nil)
	resyncs    = prometheus.NewDesc("privatelink_reconcile_resyncs_total", "Times everything was sent to the engine.", nil, nil)
	generation = prometheus.NewDesc("privatelink_snapshot_generation", "Generation of the snapshot the engine has.", nil, nil)
	active     = prometheus.NewDesc("privatelink_flows_active", "Live flows through endpoints.", nil, nil)
	flows      = prometheus.NewDesc("privatelink_flows_total", "Flows accepted since the engine started.", nil, nil)
	refused    = prometheus.NewDesc("privatelink_flows_refused_total", "Flows refused since the engine started.", nil, nil)
	carried    = prometheus.NewDesc("privatelink_bytes_total", "Bytes carried since the engine started; in is from consumer to service.", []string{"direction"}, nil)
)

// Describe implements [prometheus.Collector].
func (l *Loop) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(l, ch) }

// Collect implements [prometheus.Collector].
func (l *Loop) Collect(ch chan<- prometheus.Metric) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum proxy.Counter
	for _, zones := range l.counters {
		for _, c := range zones {
			sum.Active += c.Active
			sum.Flows += c.Flows
			sum.Refused += c.Refused
			sum.In += c.In
			sum.Out += c.Out
		}
	}
	up := 0.0
	if l.totals.engineUp {
		up = 1
	}
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(engineUp, up)
	gauge(generation, float64(l.totals.generation))
	gauge(active, float64(sum.Active))
	count(passes, l.totals.passes)
	count(failures, l.totals.failures)
	count(resyncs, l.totals.resyncs)
	count(flows, sum.Flows)
	count(refused, sum.Refused)
	count(carried, sum.In, "in")
	count(carried, sum.Out, "out")
}
