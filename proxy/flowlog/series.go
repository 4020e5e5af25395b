package flowlog

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"time"
)

// What series are kept: every 10 s for an hour, and every minute for a day, as long
// as the budget lasts; beyond it the oldest of all go first. An object costs memory
// only while something is counted of it: about 16 bytes a row. So 10,000 endpoints
// that are busy all the time are remembered for a quarter of an hour by 10 s and
// for five hours by the minute, and with fewer the hour and the day are whole.
const (
	SeriesStep    = 10 * time.Second
	seriesLong    = time.Minute
	fineBudget    = 12 << 20
	coarseBudget  = 48 << 20 // the rest of the budget is for the index
	fineFrames    = int(time.Hour / SeriesStep)
	coarseFrames  = int(24 * time.Hour / seriesLong)
	seriesObjects = 40_000 // in the index; others are not kept
	seriesPoints  = 1500   // in an answer
)

// Object is what series are about. Zone is empty for what has none.
type Object struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	Zone string `json:"zone,omitempty"`
}

// Kinds of objects.
const (
	OfEndpoint     = "endpoint"
	OfService      = "service"
	OfLoadBalancer = "load_balancer"
	OfServer       = "server"
)

// Values is what is sampled of an object: counts since the sample before, and
// levels. What is zero costs nothing.
type Values [values]uint64

// Places in Values: counts, and then levels.
const (
	InBytes = iota
	OutBytes
	NewFlows
	Denied      // refused by security groups
	Refused     // for whatever reason
	ActiveFlows // the first level
	Utilization // of a bandwidth limit, in a thousandth
	Unhealthy   // servers
	ZoneDown    // 1: it has servers, and none is healthy
	values
	counts = ActiveFlows
)

// Add puts what was sampled of another part of the same thing to v.
func (v *Values) Add(o *Values) {
	for i, n := range o {
		v[i] += n
	}
}

// Metric is one line of a chart: its name, unit, and how it is made of Values.
type Metric struct {
	Name string
	Unit string // bit/s, 1/s, % or empty for a number of things
	of   int
	by   float64
	rate bool // by the second
	not  bool // 1 minus it
}

// Metrics are all there are, by the names of the cloud's monitoring.
var Metrics = []Metric{
	{Name: "InBps", Unit: "bit/s", of: InBytes, by: 8, rate: true},
	{Name: "OutBps", Unit: "bit/s", of: OutBytes, by: 8, rate: true},
	{Name: "NewConnection", Unit: "1/s", of: NewFlows, by: 1, rate: true},
	{Name: "ActiveConnection", of: ActiveFlows, by: 1},
	{Name: "DropConnection", Unit: "1/s", of: Refused, by: 1, rate: true},
	{Name: "SecurityGroupDenied", Unit: "1/s", of: Denied, by: 1, rate: true},
	{Name: "BandwidthUtilization", Unit: "%", of: Utilization, by: .1},
	{Name: "UnhealthyServerCount", of: Unhealthy, by: 1},
	{Name: "ZoneHealthy", of: ZoneDown, by: 1, not: true},
}

// Series keeps samples of many objects. Its methods may be called at the same time.
type Series struct {
	mu           sync.Mutex
	index        map[Object]map[string]*entry // by the object without its zone, and the zone
	entries      int
	next         uint32
	minute       map[uint32]*Values // of the coarse frame that is being filled
	filled       time.Duration
	fine, coarse tier
	left         uint64 // samples that found no room in the index
}

type entry struct {
	number uint32
	seen   int64 // Unix seconds
}

// tier is frames of one step, oldest first.
type tier struct {
	step   time.Duration
	most   int
	budget int
	size   int
	frames []frame
}

// frame is what was sampled at one time: for each object its number, the length of
// what follows, a mask of the values that are not 0, and these.
type frame struct {
	at   int64 // Unix seconds, of its end
	span time.Duration
	data []byte
}

const frameCost = 64 // bytes of a frame beside its data

// NewSeries returns series without a sample.
func NewSeries() *Series {
	return &Series{
		index: map[Object]map[string]*entry{}, minute: map[uint32]*Values{},
		fine:   tier{step: SeriesStep, most: fineFrames, budget: fineBudget},
		coarse: tier{step: seriesLong, most: coarseFrames, budget: coarseBudget},
	}
}

// Sample keeps what each object did in the span that ends at at.
func (s *Series) Sample(at time.Time, span time.Duration, all map[Object]*Values) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := frame{at: at.Unix(), span: span}
	for o, v := range all {
		if *v == (Values{}) {
			continue
		}
		e := s.entry(o)
		if e == nil {
			s.left++
			continue
		}
		e.seen = f.at
		f.append(e.number, v)
		m := s.minute[e.number]
		if m == nil {
			m = new(Values)
			s.minute[e.number] = m
		}
		for i, n := range v {
			if i < counts {
				m[i] += n
			} else {
				m[i] = max(m[i], n)
			}
		}
	}
	s.fine.push(f)
	if s.filled += span; s.filled < seriesLong {
		return
	}
	long := frame{at: f.at, span: s.filled}
	for number, v := range s.minute {
		long.append(number, v)
	}
	s.coarse.push(long)
	s.filled = 0
	clear(s.minute)
	for o, zones := range s.index {
		for z, e := range zones {
			if f.at-e.seen > int64(24*time.Hour/time.Second) {
				delete(zones, z)
				s.entries--
			}
		}
		if len(zones) == 0 {
			delete(s.index, o)
		}
	}
}

func (s *Series) entry(o Object) *entry {
	zone := o.Zone
	o.Zone = ""
	zones := s.index[o]
	if e := zones[zone]; e != nil {
		return e
	}
	if s.entries >= seriesObjects {
		return nil
	}
	if zones == nil {
		zones = map[string]*entry{}
		s.index[o] = zones
	}
	s.entries++
	s.next++
	zones[zone] = &entry{number: s.next}
	return zones[zone]
}

func (f *frame) append(number uint32, v *Values) {
	f.data = binary.AppendUvarint(f.data, uint64(number))
	at := len(f.data)
	f.data = append(f.data, 0, 0, 0)
	var mask uint16
	for i, n := range v {
		if n != 0 {
			mask |= 1 << i
			f.data = binary.AppendUvarint(f.data, n)
		}
	}
	f.data[at] = byte(len(f.data) - at - 1)
	binary.LittleEndian.PutUint16(f.data[at+1:], mask)
}

// sum adds up what the frame has of some objects.
func (f *frame) sum(numbers []uint32) (v Values) {
	for b := f.data; len(b) > 0; {
		number, n := binary.Uvarint(b)
		size := int(b[n])
		body := b[n+1 : n+1+size]
		b = b[n+1+size:]
		if !slices.Contains(numbers, uint32(number)) {
			continue
		}
		mask := binary.LittleEndian.Uint16(body)
		body = body[2:]
		for i := range v {
			if mask&(1<<i) != 0 {
				x, n := binary.Uvarint(body)
				v[i] += x
				body = body[n:]
			}
		}
	}
	return v
}

func (t *tier) push(f frame) {
	f.data = slices.Clip(slices.Clone(f.data))
	t.frames = append(t.frames, f)
	t.size += len(f.data) + frameCost
	n := 0
	for ; n < len(t.frames)-1 && (t.size > t.budget || len(t.frames)-n > t.most); n++ {
		t.size -= len(t.frames[n].data) + frameCost
	}
	t.frames = slices.Delete(t.frames, 0, n)
}

// SeriesQuery asks for the series of an object; without a zone, of all its zones
// together.
type SeriesQuery struct {
	Object
	From time.Time     `json:"from"`           // zero: an hour before To
	To   time.Time     `json:"to"`             // zero: now
	Step time.Duration `json:"step,omitempty"` // of a point, ns; 0: as fine as there is
}

// Points are series with the same times. A time at which nothing was sampled is
// missing. Counts are means over a step, levels its highest.
type Points struct {
	Step   time.Duration        `json:"step"`
	Times  []int64              `json:"times"` // Unix seconds, of the ends of the steps
	Values map[string][]float64 `json:"values"`
	Since  int64                `json:"since,omitempty"` // the oldest that is kept at this step
}

// Read returns what is kept of an object.
func (s *Series) Read(q SeriesQuery, now time.Time) Points {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.To.IsZero() {
		q.To = now
	}
	if q.From.IsZero() {
		q.From = q.To.Add(-time.Hour)
	}
	t := &s.fine
	if q.Step >= seriesLong || q.From.Before(now.Add(-time.Hour-SeriesStep)) {
		t = &s.coarse
	}
	q.Step = max(q.Step.Truncate(t.step), t.step)
	if least := q.To.Sub(q.From) / seriesPoints; q.Step < least {
		q.Step = least.Truncate(t.step) + t.step
	}
	zone := q.Zone
	o := q.Object
	o.Zone = ""
	var numbers []uint32
	for z, e := range s.index[o] {
		if zone == "" || z == zone {
			numbers = append(numbers, e.number)
		}
	}
	p := Points{Step: q.Step, Times: []int64{}, Values: map[string][]float64{}}
	if len(t.frames) > 0 {
		p.Since = t.frames[0].at
	}
	step := int64(q.Step / time.Second)
	var sum Values
	var span time.Duration
	at := int64(0)
	flush := func() {
		if span == 0 {
			return
		}
		p.Times = append(p.Times, at)
		for _, m := range Metrics {
			p.Values[m.Name] = append(p.Values[m.Name], m.value(&sum, span))
		}
		sum, span = Values{}, 0
	}
	for i := range t.frames {
		f := &t.frames[i]
		if f.at <= q.From.Unix() || f.at > q.To.Unix() {
			continue
		}
		if end := (f.at + step - 1) / step * step; end != at {
			flush()
			at = end
		}
		v := f.sum(numbers)
		for i, n := range v {
			if i < counts {
				sum[i] += n
			} else {
				sum[i] = max(sum[i], n)
			}
		}
		span += f.span
	}
	flush()
	return p
}

func (m Metric) value(v *Values, span time.Duration) float64 {
	x := float64(v[m.of]) * m.by
	if m.rate {
		x /= span.Seconds()
	}
	if m.not {
		x = 1 - min(x, 1)
	}
	return math.Round(x*1000) / 1000
}

// SeriesStats says how much is kept.
type SeriesStats struct {
	Objects int           `json:"objects"`
	Bytes   int           `json:"bytes"`   // of samples
	Fine    time.Duration `json:"fine"`    // that the steps of 10 s reach back
	Coarse  time.Duration `json:"coarse"`  // that the minutes reach back
	Missing uint64        `json:"missing"` // samples of objects beyond the bound
}

// Stats says how the series do.
func (s *Series) Stats() SeriesStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := SeriesStats{Objects: s.entries, Bytes: s.fine.size + s.coarse.size, Missing: s.left}
	reach := func(t *tier) (d time.Duration) {
		for _, f := range t.frames {
			d += f.span
		}
		return d
	}
	out.Fine, out.Coarse = reach(&s.fine), reach(&s.coarse)
	return out
}
