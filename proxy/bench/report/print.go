package report

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// Machine says where a benchmark ran.
type Machine struct {
	Kernel   string            `json:"kernel"`
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Settings map[string]string `json:"settings"` // of the kernel, as they were set or found
}

// Run is everything that a benchmark measured.
type Run struct {
	Date    string  `json:"date"`
	Version string  `json:"version"`
	Machine Machine `json:"machine"`
	Seconds float64 `json:"seconds"` // of one load
	Sets    []Set   `json:"sets"`
}

// Set is one arrangement of client, forwarders and backend.
type Set struct {
	Name    string             `json:"name"`
	Peers   []string           `json:"peers"`
	Left    map[string]string  `json:"left,omitempty"` // peers that were left out, and why
	Rounds  int                `json:"rounds"`
	Figures map[string]Samples `json:"figures"` // by id
	Foreign map[string]float64 `json:"foreign"` // most of the machine that others used during a load, by its name
}

// Add adds what a round has measured at a peer.
func (s *Set) Add(figure, peer string, value float64) {
	if s.Figures[figure] == nil {
		s.Figures[figure] = Samples{}
	}
	s.Figures[figure][peer] = append(s.Figures[figure][peer], value)
}

// Judge compares what was measured with goals.
func (s Set) Judge(g Goals) (judged []Judgement) {
	for _, f := range g.Figures {
		if j, ok := f.judge(s.Figures[f.ID]); ok {
			judged = append(judged, j)
		}
	}
	return judged
}

// Line says it in one line.
func (j Judgement) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s %s %s", j.ID, j.Subject, number(j.Value))
	if j.Unit != "" {
		fmt.Fprintf(&b, " %s", j.Unit)
	}
	for _, ratio := range j.ratios() {
		b.WriteString("  " + ratio)
	}
	if len(j.Ratios) > 0 {
		fmt.Fprintf(&b, "  noise %.0f %%", 100*j.Band)
	}
	fmt.Fprintf(&b, " | floor %s goal %s", j.Floored, j.Reached)
	if len(j.Stretch) > 0 {
		fmt.Fprintf(&b, " stretch %s", j.Stretched)
	}
	if len(j.Missed) > 0 {
		fmt.Fprintf(&b, " (want %s)", Condition(j.Missed))
	}
	return b.String()
}

// ratios lists them, those within the noise marked.
func (j Judgement) ratios() (list []string) {
	for _, peer := range j.peers() {
		r, ok := j.Ratios[peer]
		if !ok {
			continue
		}
		near := ""
		if math.Abs(math.Log(r.Median)) <= math.Log1p(j.Band) {
			near = "~"
		}
		list = append(list, fmt.Sprintf("%s%.2f × %s [%.2f-%.2f]", near, r.Median, peer, r.Min, r.Max))
	}
	return list
}

// number prints v with three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || a == 0:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// Lines prints one line for each figure of a run, and says whether every floor
// holds but for noise.
func (r Run) Lines(w io.Writer, g Goals) bool {
	ok := true
	r.header(w, "")
	for _, s := range r.Sets {
		fmt.Fprintf(w, "\n%s, %d rounds\n", s.Name, s.Rounds)
		for _, j := range s.Judge(g) {
			fmt.Fprintln(w, j.Line())
			ok = ok && j.Floored != Fail
		}
	}
	return ok
}
