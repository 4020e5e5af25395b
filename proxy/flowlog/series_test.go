package flowlog

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var seriesDay = time.Unix(1_800_000_000, 0).Truncate(time.Hour)

// ticks samples n times, as the engine does.
func ticks(s *Series, n int, sample func(i int) map[Object]*Values) time.Time {
	at := seriesDay
	for i := range n {
		at = at.Add(SeriesStep)
		s.Sample(at, SeriesStep, sample(i))
	}
	return at
}

func TestSeries(t *testing.T) {
	s := NewSeries()
	h, i := Object{OfEndpoint, "ep-1", "h"}, Object{OfEndpoint, "ep-1", "i"}
	now := ticks(s, 12, func(n int) map[Object]*Values {
		return map[Object]*Values{
			h:                        {InBytes: 1000, NewFlows: 20, ActiveFlows: uint64(n), ZoneDown: uint64(n / 11)},
			i:                        {InBytes: 250, OutBytes: 10, Utilization: 505},
			{OfService, "ep-1", "h"}: {InBytes: 77},
			{OfServer, "srv-1", ""}:  {Unhealthy: 1},
		}
	})
	p := s.Read(SeriesQuery{Object: Object{Kind: OfEndpoint, ID: "ep-1"}, From: seriesDay}, now)
	if p.Step != SeriesStep || len(p.Times) != 12 || p.Times[0] != seriesDay.Unix()+10 || p.Since != p.Times[0] {
		t.Fatalf("%+v", p)
	}
	last := map[string]float64{}
	for _, m := range Metrics {
		last[m.Name] = p.Values[m.Name][11]
	}
	want := map[string]float64{
		"InBps": 1000, "OutBps": 8, "NewConnection": 2, "ActiveConnection": 11, "DropConnection": 0, "SecurityGroupDenied": 0,
		"BandwidthUtilization": 50.5, "UnhealthyServerCount": 0, "ZoneHealthy": 0,
	}
	if diff := cmp.Diff(want, last); diff != "" {
		t.Error(diff)
	}
	if got := s.Read(SeriesQuery{Object: h, From: seriesDay}, now).Values["InBps"][3]; got != 800 {
		t.Errorf("one zone: %v", got)
	}
	p = s.Read(SeriesQuery{Object: h, From: seriesDay, Step: time.Minute}, now)
	if len(p.Times) != 2 || p.Values["ActiveConnection"][0] != 5 || p.Values["InBps"][0] != 800 || p.Values["ZoneHealthy"][0] != 1 || p.Values["ZoneHealthy"][1] != 0 {
		t.Errorf("by the minute: %+v", p)
	}
	if p := s.Read(SeriesQuery{Object: Object{Kind: OfEndpoint, ID: "ep-none"}, From: seriesDay}, now); len(p.Times) != 12 || p.Values["InBps"][0] != 0 {
		t.Errorf("of what was never seen: %+v", p)
	}
	// While nobody sampled there is nothing, not 0.
	s.Sample(now.Add(time.Minute), SeriesStep, nil)
	p = s.Read(SeriesQuery{Object: h, From: now.Add(-SeriesStep), To: now.Add(time.Hour)}, now.Add(time.Minute))
	if want := []int64{now.Unix(), now.Unix() + 60}; !slices.Equal(p.Times, want) {
		t.Errorf("times %v, want %v", p.Times, want)
	}
}

// An hour by 10 s and a day by the minute, and no more.
func TestSeriesReachBack(t *testing.T) {
	s := NewSeries()
	o := Object{OfEndpoint, "ep-1", "h"}
	now := ticks(s, 26*360, func(int) map[Object]*Values { return map[Object]*Values{o: {InBytes: 100}} })
	if got := s.Stats(); got.Fine != time.Hour || got.Coarse != 24*time.Hour || got.Objects != 1 {
		t.Errorf("%+v", got)
	}
	p := s.Read(SeriesQuery{Object: o, From: now.Add(-48 * time.Hour)}, now)
	if p.Step != 2*time.Minute || len(p.Times) != 720 || p.Values["InBps"][5] != 80 {
		t.Errorf("step %v, %d points", p.Step, len(p.Times))
	}
	for range 25 * 360 { // idle for longer than it is kept
		now = now.Add(SeriesStep)
		s.Sample(now, SeriesStep, nil)
	}
	if got := s.Stats(); got.Objects != 0 {
		t.Errorf("an object that is forgotten: %+v", got)
	}
}

// With 10,000 endpoints that are all busy the budget holds, and history is shorter.
func TestSeriesBudget(t *testing.T) {
	s := NewSeries()
	all := map[Object]*Values{}
	for i := range 10_000 {
		all[Object{OfEndpoint, fmt.Sprintf("ep-%020d", i), "cn-hangzhou-h"}] = &Values{InBytes: 1 << 27, OutBytes: 1 << 30, NewFlows: 200, ActiveFlows: 90}
	}
	now := ticks(s, 90, func(int) map[Object]*Values { return all })
	got := s.Stats()
	t.Logf("%d bytes for %d objects: %v by 10 s, %v by the minute", got.Bytes, got.Objects, got.Fine, got.Coarse)
	if got.Bytes > fineBudget+coarseBudget || got.Fine < 10*time.Minute || got.Coarse < 15*time.Minute || got.Objects != 10_000 {
		t.Errorf("%+v", got)
	}
	o := slices.Collect(maps.Keys(all))[0]
	if p := s.Read(SeriesQuery{Object: o}, now); len(p.Times) == 0 || p.Values["InBps"][len(p.Times)-1] != float64(1<<27)*8/10 {
		t.Errorf("%+v", p)
	}
	for i := range seriesObjects {
		all[Object{OfService, fmt.Sprint(i), ""}] = &Values{InBytes: 1}
	}
	s.Sample(now.Add(SeriesStep), SeriesStep, all)
	if got := s.Stats(); got.Objects != seriesObjects || got.Missing == 0 {
		t.Errorf("beyond the bound: %+v", got)
	}
}

func BenchmarkSample(b *testing.B) {
	s := NewSeries()
	all := map[Object]*Values{}
	for i := range 10_000 {
		all[Object{OfEndpoint, fmt.Sprintf("ep-%020d", i), "cn-hangzhou-h"}] = &Values{InBytes: 1 << 27, OutBytes: 1 << 30, NewFlows: 200, ActiveFlows: 90}
	}
	at := seriesDay
	for b.Loop() {
		at = at.Add(SeriesStep)
		s.Sample(at, SeriesStep, all)
	}
}
