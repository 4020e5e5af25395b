package reconcile

import (
	"cmp"
	"context"
	"net/netip"
	"time"

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

// kindsOfSeries are the engine's words for the domain's kinds.
var kindsOfSeries = map[string]string{
	domain.KindEndpoint: proxy.OfEndpoint, domain.KindService: proxy.OfService, domain.KindLoadBalancer: proxy.OfLoadBalancer,
}

// Series implements [domain.DataPlane].
func (l *Loop) Series(ctx context.Context, q domain.SeriesQuery) (domain.Series, error) {
	now := time.Now()
	p, err := l.Engine.Series(ctx, proxy.SeriesQuery{
		Object: proxy.Object{Kind: kindsOfSeries[q.Kind], ID: q.ID}, From: now.Add(-cmp.Or(q.Span.For, time.Hour)), To: now, Step: q.Span.Step,
	})
	out := domain.Series{Step: p.Step}
	for _, at := range p.Times {
		out.Times = append(out.Times, time.Unix(at, 0))
	}
	for name, values := range p.Values {
		out.Lines = append(out.Lines, domain.SeriesLine{Name: name, Values: values})
	}
	return out, err
}

// Status implements [domain.DataPlane].
func (l *Loop) Status(ctx context.Context) (domain.EngineStatus, error) {
	s, err := l.Engine.Status(ctx)
	if err != nil {
		return domain.EngineStatus{}, err
	}
	return domain.EngineStatus{Version: s.Version, Mode: s.Mode, Reason: s.Reason, PID: s.PID, Flows: s.Flows, Started: s.Started}, nil
}
