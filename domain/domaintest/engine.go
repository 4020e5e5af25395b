package domaintest

import (
	"context"
	"slices"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
)

// Follow reports what an engine sees that has caught up with everything that is
// wanted: every zone that shall carry does, every target answers, and every VPC and
// attachment is there.
func (w *World) Follow() {
	w.tb.Helper()
	ctx, sys := w.tb.Context(), w.Store.System()
	var r domain.Report
	endpoints, err := sys.EngineEndpoints(ctx, nil)
	w.must(err)
	for _, e := range endpoints {
		r.Endpoints = append(r.Endpoints, Followed(e))
	}
	groups, err := sys.EngineServerGroups(ctx, nil)
	w.must(err)
	for _, g := range groups {
		for _, srv := range g.Servers {
			r.Servers = append(r.Servers, domain.ServerReport{ID: srv.ID, Health: domain.HealthHealthy, Since: w.Clock.Now()})
		}
	}
	vpcs, err := sys.EngineVPCs(ctx, nil)
	w.must(err)
	for _, v := range vpcs {
		r.VPCs = append(r.VPCs, domain.ObjectReport{ID: v.ID, Up: true})
		for _, a := range v.Attachments {
			r.Attachments = append(r.Attachments, domain.ObjectReport{ID: a.ID, Up: true})
		}
	}
	w.must(sys.Report(ctx, r))
}

// Followed is the report of an engine that does what e wants.
func Followed(e domain.EngineEndpoint) domain.EndpointReport {
	r := domain.EndpointReport{ID: e.ID, Version: e.Version, Zones: map[string]domain.ZoneReport{}}
	for _, z := range e.Zones {
		r.Zones[z.ZoneID] = domain.ZoneReport{Carrying: e.Carry && z.Carries()}
	}
	return r
}

// Recorded answers [domain.DataPlane.Records] from records in the order of their
// numbers, at most five at a time, so that whoever asks has to go on asking.
type Recorded []domain.FlowRecord

// Records returns a page of what q selects.
func (all Recorded) Records(_ context.Context, q domain.RecordQuery) (domain.RecordPage, error) {
	const most = 5
	rows := slices.Clone(all)
	if q.Newest {
		slices.Reverse(rows)
	}
	var p domain.RecordPage
	for _, r := range rows {
		action := "REJECT"
		if r.Accepted {
			action = "ACCEPT"
		}
		if r.Seq <= q.After || (q.Before != 0 && r.Seq >= q.Before) || (q.EndpointID != "" && r.EndpointID != q.EndpointID) ||
			(q.ServiceID != "" && r.ServiceID != q.ServiceID) || (q.Action != "" && q.Action != action) || (q.Reason != "" && q.Reason != r.Reason) ||
			(!q.From.IsZero() && r.End.Before(q.From)) || (!q.To.IsZero() && !r.End.Before(q.To)) {
			continue
		}
		if len(p.Records) == min(q.Limit, most) {
			p.More = true
			break
		}
		p.Records = append(p.Records, r)
		p.Next = r.Seq
	}
	return p, nil
}

// SeriesOf answers [domain.DataPlane.Series] with two points of every metric.
func SeriesOf(q domain.SeriesQuery) domain.Series {
	at := time.Unix(1_800_000_000, 0)
	s := domain.Series{Step: q.Span.Step, Times: []time.Time{at, at.Add(q.Span.Step)}}
	for i, name := range []string{
		"ZoneHealthy", "UnhealthyServerCount", "BandwidthUtilization", "SecurityGroupDenied", "DropConnection", "ActiveConnection", "NewConnection", "OutBps", "InBps",
	} {
		s.Lines = append(s.Lines, domain.SeriesLine{Name: name, Values: []float64{float64(i), 1000 * float64(i)}})
	}
	return s
}
