package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

const method = `Everything runs at the same time and on the same cores: the client, the backend, the
engine of this very build and the other forwarders, in namespaces that the engine
made. A load lasts %g s and goes to one of them; rounds go over all of them forwards
and backwards. A ratio is the median of the rounds' ratios, with their range, and is
marked with ~ where it lies within the noise: what one HAProxy is apart from another
one that is the same. Rates of one machine say nothing of another; ratios do.

*direct* has nothing in between, *self* is an endpoint with 60 rules, counters and a
record for each connection, *self-ppv2* the same with PROXY v2 headers. *haproxy*
splices, *haproxy-p1m* with pipes of 1 MiB, *haproxy-nosplice* never; *haproxy-again*
is the control. *go-iocopy* is two goroutines and io.Copy.
`

var setNames = map[string]string{
	"plain": "Plain: one VPC, over its loopback device",
	"vpc":   "VPC: the client in one, the backend in another with the same addresses",
}

// Page writes the run as a page of Markdown.
func (r Run) Page(w io.Writer, g Goals) {
	fmt.Fprintf(w, "# Performance\n\nWritten by `make bench`; not to be edited.\n\n")
	r.header(w, "- ")
	fmt.Fprintln(w)
	fmt.Fprintf(w, method, r.Seconds)
	for _, s := range r.Sets {
		fmt.Fprintf(w, "\n## %s\n\n%d rounds.", setNames[s.Name], s.Rounds)
		for _, name := range slices.Sorted(maps.Keys(s.Left)) {
			fmt.Fprintf(w, " %s is left out: %s.", name, s.Left[name])
		}
		fmt.Fprint(w, "\n\n| figure | of | is | ratios | noise | floor | goal | stretch |\n|---|---|---|---|---|---|---|---|\n")
		for _, j := range s.Judge(g) {
			level := func(c Condition, o Outcome) string {
				if len(c) == 0 {
					return ""
				}
				return fmt.Sprintf("%s: %s", c, strings.Replace(string(o), string(Fail), "**FAIL**", 1))
			}
			noise := ""
			if len(j.Ratios) > 0 {
				noise = fmt.Sprintf("%.0f %%", 100*j.Band)
			}
			fmt.Fprintf(w, "| %s | %s | %s %s | %s | %s | %s | %s | %s |\n", j.Name, j.Subject, number(j.Value), j.Unit,
				strings.Join(j.ratios(), "<br>"), noise, level(j.Floor, j.Floored), level(j.Goal, j.Reached), level(j.Stretch, j.Stretched))
		}
		for _, f := range g.Figures {
			if samples := s.Figures[f.ID]; f.Subject == Self && len(samples) > 1 && !strings.Contains(f.ID, ".") {
				s.table(w, f, samples)
			}
		}
	}
}

// table writes everything that was measured under one load.
func (s Set) table(w io.Writer, f Figure, samples Samples) {
	cpu, all := s.Figures[f.ID+".cpu"], s.Figures[f.ID+".all"]
	fmt.Fprintf(w, "\n### %s\n\nOthers used at most %.0f %% of the machine.\n\n", f.Name, 100*s.Foreign[f.ID])
	fmt.Fprintf(w, "| peer | %s (range) | × %s | × nginx | CPU | × %[2]s | CPU of all | p50 / p99 / p99.9 ms |\n|---|---|---|---|---|---|---|---|\n", f.Unit, Control)
	for _, peer := range s.Peers {
		v := samples[peer]
		if len(v) == 0 {
			continue
		}
		times := ""
		if p50 := s.Figures[f.ID+".p50"][peer]; len(p50) > 0 {
			ms := func(part string) string { return number(median(s.Figures[f.ID+part][peer]) / 1000) }
			times = ms(".p50") + " / " + ms(".p99") + " / " + ms(".p999")
		}
		fmt.Fprintf(w, "| %s | %s (%s–%s) | %s | %s | %s | %s | %s | %s |\n", peer, number(median(v)), number(slices.Min(v)), number(slices.Max(v)),
			samples.cell(peer, Control), samples.cell(peer, "nginx"), middle(cpu[peer]), cpu.cell(peer, Control), middle(all[peer]), times)
	}
}

// cell is the ratio of two peers in a table.
func (s Samples) cell(a, b string) string {
	r, ok := s.over(a, b)
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%.2f", r.Median)
}

func middle(v []float64) string {
	if len(v) == 0 {
		return "–"
	}
	return number(median(v))
}

// header says when and where it was.
func (r Run) header(w io.Writer, bullet string) {
	fmt.Fprintf(w, "%s%s, version %s\n", bullet, r.Date, r.Version)
	fmt.Fprintf(w, "%sLinux %s, %d × %s\n", bullet, r.Machine.Kernel, r.Machine.Cores, r.Machine.CPU)
	var settings []string
	for _, key := range slices.Sorted(maps.Keys(r.Machine.Settings)) {
		settings = append(settings, key[strings.LastIndexByte(key, '/')+1:]+" "+r.Machine.Settings[key])
	}
	fmt.Fprintf(w, "%s%s\n", bullet, strings.Join(settings, ", "))
}
