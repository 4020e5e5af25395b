package report

import (
	"math"
	"slices"
)

// The peers that have a part of their own in a report.
const (
	Self    = "self"          // the engine, by one endpoint
	Direct  = "direct"        // nothing in between
	Control = "haproxy"       // and
	Again   = "haproxy-again" // the same once more: how far they are apart is noise
)

// assumedBand is the noise where no control could be run: by experience, what is
// within it is no claim.
const assumedBand = 0.12

// Samples of a figure: by peer, one value for each round.
type Samples map[string][]float64

// Ratio of two peers: the median of the rounds' ratios, and their range.
type Ratio struct{ Median, Min, Max float64 }

// over compares two peers round by round, so that what the whole machine did in a
// round is in both. ok is false if either was not measured.
func (s Samples) over(a, b string) (r Ratio, ok bool) {
	x, y := s[a], s[b]
	ratios := make([]float64, 0, len(x))
	for i := range min(len(x), len(y)) {
		if y[i] > 0 {
			ratios = append(ratios, x[i]/y[i])
		}
	}
	if len(ratios) == 0 {
		return Ratio{}, false
	}
	return Ratio{Median: median(ratios), Min: slices.Min(ratios), Max: slices.Max(ratios)}, true
}

// band is the noise of a ratio, from the control: half of its rounds are no further
// from 1, and neither is its median.
func (s Samples) band() float64 {
	x, y := s[Again], s[Control]
	var off []float64
	for i := range min(len(x), len(y)) {
		if x[i] > 0 && y[i] > 0 {
			off = append(off, math.Abs(math.Log(x[i]/y[i])))
		}
	}
	if len(off) == 0 {
		return assumedBand
	}
	return math.Expm1(median(off))
}

// median of values, of which there is at least one.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Outcome of a comparison with a goal.
type Outcome string

// The outcomes. Near misses the goal by no more than the noise; Open could not be
// judged, because a peer was not measured or no goal is set.
const (
	Pass Outcome = "PASS"
	Near Outcome = "NEAR"
	Fail Outcome = "FAIL"
	Open Outcome = "-"
)

// worse orders outcomes: a goal is as good as its worst bound.
var worse = []Outcome{Pass, Open, Near, Fail}

// Judgement of a figure in a set.
type Judgement struct {
	Figure
	Value  float64 // the subject's median
	Band   float64 // noise, as a part of 1
	Ratios map[string]Ratio

	Floored, Reached, Stretched Outcome
	Missed                      []Bound // of floor and goal
}

// judge compares a figure's samples with its goals. ok is false if the subject was
// not measured.
func (f Figure) judge(s Samples) (j Judgement, ok bool) {
	if len(s[f.Subject]) == 0 {
		return Judgement{}, false
	}
	j = Judgement{Figure: f, Value: median(s[f.Subject]), Band: s.band(), Ratios: map[string]Ratio{}}
	for _, peer := range f.peers() {
		if r, ok := s.over(f.Subject, peer); ok {
			j.Ratios[peer] = r
		}
	}
	j.Floored, j.Reached, j.Stretched = j.outcome(f.Floor), j.outcome(f.Goal), j.outcome(f.Stretch)
	for _, b := range slices.Concat(f.Floor, f.Goal) {
		if o := j.bound(b); (o == Near || o == Fail) && !slices.Contains(j.Missed, b) {
			j.Missed = append(j.Missed, b)
		}
	}
	return j, true
}

func (j Judgement) outcome(c Condition) Outcome {
	if len(c) == 0 {
		return Open
	}
	worst := Pass
	for _, b := range c {
		if o := j.bound(b); slices.Index(worse, o) > slices.Index(worse, worst) {
			worst = o
		}
	}
	return worst
}

func (j Judgement) bound(b Bound) Outcome {
	is, band := j.Value, 0.0
	if b.Peer != "" {
		r, ok := j.Ratios[b.Peer]
		if !ok {
			return Open
		}
		is, band = r.Median, j.Band
	}
	if b.AtMost {
		is, b.Limit = b.Limit, is
	}
	switch {
	case is >= b.Limit:
		return Pass
	case is*(1+band) >= b.Limit:
		return Near
	}
	return Fail
}
