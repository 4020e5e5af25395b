package domain

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// SeriesQuery asks for what was counted of an object.
type SeriesQuery struct {
	Kind string // KindEndpoint, KindService or KindLoadBalancer
	ID   string
	Span SeriesSpan
}

// SeriesSpan is a time until now, by steps.
type SeriesSpan struct {
	For  time.Duration // 0 means an hour
	Step time.Duration // 0: as fine as there is
}

// Series are lines with the same times. A time at which nothing was counted is
// missing.
type Series struct {
	Step  time.Duration
	Times []time.Time // ends of the steps
	Lines []SeriesLine
}

// SeriesLine is one metric: its name as in the cloud's monitoring, and its values.
type SeriesLine struct {
	Name   string
	Values []float64
}

// What is told of each kind of object, in this order. Rates are bit/s and things a
// second, In is from consumer to service. What a security group refused is its
// owner's matter alone.
var seriesNames = map[string][]string{
	KindEndpoint:     {"InBps", "OutBps", "NewConnection", "ActiveConnection", "DropConnection", "SecurityGroupDenied", "BandwidthUtilization"},
	KindService:      {"InBps", "OutBps", "NewConnection", "ActiveConnection", "DropConnection"},
	KindLoadBalancer: {"InBps", "OutBps", "NewConnection", "ActiveConnection", "DropConnection", "UnhealthyServerCount", "ZoneHealthy"},
}

// EndpointSeries returns what passed an endpoint of the account. Errors: NotFound.
func (s *Scope) EndpointSeries(ctx context.Context, id string, span SeriesSpan) (Series, error) {
	return s.series(ctx, ReadConsume, KindEndpoint, &Endpoint{}, id, span)
}

// ServiceSeries returns what came to a service of the account. Errors: NotFound.
func (s *Scope) ServiceSeries(ctx context.Context, id string, span SeriesSpan) (Series, error) {
	return s.series(ctx, ReadProvide, KindService, &Service{}, id, span)
}

// LoadBalancerSeries returns what came to a load balancer of the account, through
// services and from its own VPC. Errors: NotFound.
func (s *Scope) LoadBalancerSeries(ctx context.Context, id string, span SeriesSpan) (Series, error) {
	return s.series(ctx, ReadNetwork, KindLoadBalancer, &LoadBalancer{}, id, span)
}

func (s *Scope) series(ctx context.Context, needs Permission, kind string, row any, id string, span SeriesSpan) (Series, error) {
	db, err := s.read(ctx, needs)
	if err != nil {
		return Series{}, err
	}
	if err := first(db, kind, row, "id = ? AND account_id = ?", id, s.account.ID); err != nil || s.store.plane == nil {
		return Series{}, err
	}
	out, err := s.store.plane.Series(ctx, SeriesQuery{Kind: kind, ID: id, Span: span})
	if err != nil {
		return Series{}, fmt.Errorf("read series: %w", err)
	}
	told := seriesNames[kind]
	lines := slices.DeleteFunc(slices.Clone(out.Lines), func(l SeriesLine) bool { return !slices.Contains(told, l.Name) })
	slices.SortFunc(lines, func(a, b SeriesLine) int { return slices.Index(told, a.Name) - slices.Index(told, b.Name) })
	out.Lines = lines
	return out, nil
}
