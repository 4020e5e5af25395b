package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/bench/load"
	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
)

//go:embed goals.toml
var goalsFile string

const (
	settle     = 50 * time.Millisecond // after a load, in which forwarders close what is left
	foreignMax = 0.25                  // part of the machine that others may use during a load
	redos      = 2                     // of a load that others disturbed
)

const udp = "udp"

// suits says whether a peer of a set can have the load. Flows of datagrams are told
// apart by their addresses, of which a workload of a VPC has but one.
func (w workload) suits(set string, p peer) bool {
	return among(p.only, w.name) && (w.load != udp || set == plain && p.udp)
}

// workload is a load and what its result means.
type workload struct {
	name  string
	load  string
	conns int
	size  int
	gso   bool
	scale float64 // of work a second, for the figure
	per   float64 // work that CPU time is told for
}

var workloads = []workload{
	{name: "crr", load: "crr", conns: 64, size: 64, scale: 1, per: 1e5},
	{name: "rr64", load: "rr", conns: 256, size: 64, scale: 1, per: 1e6},
	{name: "rr1k", load: "rr", conns: 256, size: 1024, scale: 1, per: 1e6},
	{name: "ping", load: "rr", conns: 1, size: 64, scale: 1, per: 1e6},
	{name: "bulk1", load: "bulk", conns: 1, scale: 8e-9, per: 1e9},
	{name: "bulk8", load: "bulk", conns: 8, scale: 8e-9, per: 1e9},
	{name: "udp1x64", load: udp, conns: 1, size: 64, scale: 1, per: 1e6},
	{name: "udp1x1200", load: udp, conns: 1, size: 1200, scale: 1, per: 1e6},
	{name: "udp1x1200gso", load: udp, conns: 1, size: 1200, gso: true, scale: 1, per: 1e6},
	{name: "udp1kx64", load: udp, conns: flowsMost, size: 64, scale: 1, per: 1e6},
	{name: "udp1kx1200", load: udp, conns: flowsMost, size: 1200, scale: 1, per: 1e6},
	{name: "udp1kx1200gso", load: udp, conns: flowsMost, size: 1200, gso: true, scale: 1, per: 1e6},
}

// options of a run.
type options struct {
	sets, only, peers []string // empty: all
	rounds            int
	each              time.Duration
	program           string
	json, page        string
}

func run(ctx context.Context, args []string) error {
	o := options{}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	list := func(into *[]string, name, what string) {
		flags.Func(name, what+" (a,b,…)", func(s string) error {
			*into = strings.Split(s, ",")
			return nil
		})
	}
	list(&o.sets, "set", "sets: plain, vpc")
	list(&o.only, "only", "loads: idle, crr, rr64, rr1k, ping, bulk1, bulk8, udp1x64 and so on, counters, rules")
	list(&o.peers, "peers", "peers, like direct, self, haproxy, nginx")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds over all peers")
	flags.DurationVar(&o.each, "for", 1500*time.Millisecond, "length of a load")
	flags.StringVar(&o.program, "program", "", "binary of the engine; it is built if none is named")
	flags.StringVar(&o.json, "json", "", "file for everything that was measured")
	page := pageFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.page = *page
	if unix.Geteuid() != 0 {
		return errors.New("only root may enter the namespaces in which this measures")
	}
	result, err := o.measure(ctx)
	if err != nil {
		return err
	}
	if o.json != "" {
		text, err := json.Marshal(result)
		if err == nil {
			err = os.WriteFile(o.json, append(text, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write what was measured: %w", err)
		}
	}
	return publish(result, o.page)
}

// rewrite prints and writes again what an earlier run has measured.
func rewrite(args []string) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	from := flags.String("json", "", "file that a run wrote")
	page := pageFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*from)
	var result report.Run
	if err == nil {
		err = json.Unmarshal(text, &result)
	}
	if err != nil {
		return fmt.Errorf("read what was measured: %w", err)
	}
	return publish(result, *page)
}

func pageFlag(flags *flag.FlagSet) *string {
	return flags.String("page", "", "file for the report, in Markdown")
}

var errFloor = errors.New("a floor is missed by more than the noise")

// publish prints a run, writes its page if that has a name, and says whether the
// floors hold.
func publish(result report.Run, page string) error {
	goals, err := report.ParseGoals(goalsFile)
	if err != nil {
		return err
	}
	if page != "" {
		var b bytes.Buffer
		result.Page(&b, goals)
		if err := os.WriteFile(page, b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if !result.Lines(os.Stdout, goals) {
		return errFloor
	}
	return nil
}

// measure runs every set.
func (o *options) measure(ctx context.Context) (report.Run, error) {
	version := "dev"
	if text, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output(); err == nil {
		version = strings.TrimSpace(string(text))
	}
	if o.program == "" {
		dir, err := os.MkdirTemp("", "bench-")
		if err != nil {
			return report.Run{}, err
		}
		defer os.RemoveAll(dir)
		o.program = filepath.Join(dir, "openprivatelink")
		build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-X main.version="+version, "-o", o.program, "github.com/openprivatelink/openprivatelink")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return report.Run{}, fmt.Errorf("build the engine: %w", err)
		}
	}
	result := report.Run{
		Date: time.Now().UTC().Format(time.DateOnly), Version: version, Seconds: o.each.Seconds(), Machine: machine(),
	}
	for _, set := range []string{plain, pair} {
		if !among(o.sets, set) {
			continue
		}
		s, is, err := o.measureSet(ctx, set, version)
		if err != nil {
			return report.Run{}, fmt.Errorf("set %s: %w", set, err)
		}
		maps.Copy(result.Machine.Settings, is)
		result.Sets = append(result.Sets, s)
	}
	return result, nil
}

func among(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }

func (o *options) measureSet(ctx context.Context, set, version string) (_ report.Set, _ map[string]string, err error) {
	r, err := assemble(ctx, set, o.program, version, func(name string) bool { return among(o.peers, name) })
	if err != nil {
		return report.Set{}, nil, err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	s := report.Set{Name: set, Rounds: o.rounds, Left: r.left, Figures: map[string]report.Samples{}, Foreign: map[string]float64{}}
	if among(o.only, idleName) { // first: memory that was used once looks as if it were free
		for _, p := range r.peers {
			if p.pid == 0 || !among(p.only, idleName) {
				continue
			}
			figures, err := r.idle(ctx, p)
			if err != nil && ctx.Err() == nil && p.name != report.Self {
				r.left[p.name+" (idle)"] = fmt.Sprintf("it does not hold %d connections", idleConns)
				continue
			}
			if err != nil {
				return report.Set{}, nil, fmt.Errorf("idle connections at %s: %w", p.name, err)
			}
			for figure, value := range figures {
				s.Add(figure, p.name, value)
			}
			fmt.Fprintf(os.Stderr, "%s %s %s %.0f bytes and %.2f descriptors a connection\n", set, idleName, p.name, figures["idle.memory"], figures["idle.fds"])
		}
	}
	for _, w := range workloads {
		if !among(o.only, w.name) {
			continue
		}
		for round := range o.rounds {
			order := slices.DeleteFunc(slices.Clone(r.peers), func(p peer) bool { return !w.suits(set, p) })
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, p := range order {
				v, err := r.quietly(ctx, w, p, o.each)
				if err != nil {
					return report.Set{}, nil, fmt.Errorf("%s at %s: %w", w.name, p.name, err)
				}
				s.Foreign[w.name] = max(s.Foreign[w.name], v.foreign)
				for figure, value := range v.figures {
					s.Add(figure, p.name, value)
				}
				fmt.Fprintf(os.Stderr, "%s %s %d/%d %-16s %10.4g  foreign %2.0f %%\n", set, w.name, round+1, o.rounds, p.name, v.figures[w.name], 100*v.foreign)
			}
		}
	}
	self := slices.IndexFunc(r.peers, func(p peer) bool { return p.name == report.Self })
	if self >= 0 && among(o.only, countersName) {
		figures, err := r.counters(ctx, r.peers[self], 3*time.Second)
		if err != nil {
			return report.Set{}, nil, fmt.Errorf("counters: %w", err)
		}
		s.Add(countersName, report.Self, figures[countersName])
	}
	if set == plain && among(o.only, rulesName) {
		measureRules(&s, o.rounds)
	}
	for _, name := range slices.Sorted(maps.Keys(r.left)) {
		fmt.Fprintf(os.Stderr, "%s: %s is left out: %s\n", set, name, r.left[name])
	}
	for _, p := range r.peers {
		s.Peers = append(s.Peers, p.name)
	}
	st, err := r.engine.Status(ctx)
	if err == nil && st.PID != r.pid {
		err = errors.New("the engine died and was started again")
	}
	return s, r.is, err
}

// measured is what one load showed.
type measured struct {
	figures map[string]float64
	foreign float64
}

// quietly measures again if others used too much of the machine, and returns the
// least disturbed of the attempts.
func (r *rig) quietly(ctx context.Context, w workload, p peer, each time.Duration) (best measured, err error) {
	for i := range 1 + redos {
		m, err := r.measure(ctx, w, p, each)
		if err != nil {
			return measured{}, err
		}
		if i == 0 || m.foreign < best.foreign {
			best = m
		}
		if best.foreign <= foreignMax {
			break
		}
	}
	return best, nil
}

// measure runs one load against a peer.
func (r *rig) measure(ctx context.Context, w workload, p peer, each time.Duration) (measured, error) {
	before, err := r.usage(p)
	if err != nil {
		return measured{}, err
	}
	res, err := r.load(ctx, w, p, each)
	if err != nil {
		return measured{}, err
	}
	time.Sleep(settle)
	after, err := r.usage(p)
	if err != nil {
		return measured{}, err
	}
	busy, ours := after.machine-before.machine, after.ours-before.ours
	m := measured{
		figures: map[string]float64{
			w.name:          res.Work / res.Seconds * w.scale,
			w.name + ".all": busy.Seconds() / res.Work * w.per,
		},
		foreign: max(0, (busy-ours).Seconds()/after.at.Sub(before.at).Seconds()/float64(runtime.NumCPU())),
	}
	if w.load == udp {
		m.figures[w.name+".lost"] = float64(res.Failed)
	}
	if p.pid != 0 {
		m.figures[w.name+".cpu"] = (after.forwarder - before.forwarder).Seconds() / res.Work * w.per
	}
	if res.P50 > 0 {
		m.figures[w.name+".p50"], m.figures[w.name+".p99"], m.figures[w.name+".p999"] = res.P50, res.P99, res.P999
	}
	return m, nil
}

// load runs one load to its end.
func (r *rig) load(ctx context.Context, w workload, p peer, each time.Duration) (res load.Result, err error) {
	args := []string{"load", w.load, "-to", p.at.String(), "-conns", fmt.Sprint(w.conns), "-size", fmt.Sprint(w.size), "-for", each.String()}
	if w.load == udp {
		window := 64
		if w.conns > 1 {
			window = 256
		}
		args = append(args, "-from", flowAt.String(), "-window", fmt.Sprint(window), fmt.Sprintf("-gso=%t", w.gso))
	}
	cmd := exec.CommandContext(ctx, r.self, args...)
	var out, fault strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &fault
	if err = p.from.start(cmd); err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		return res, ctx.Err()
	}
	if err == nil {
		err = json.Unmarshal([]byte(out.String()), &res)
	}
	if err != nil {
		return res, fmt.Errorf("%w: %s", err, strings.TrimSpace(fault.String()))
	}
	if res.Failed > 0 && w.load != udp {
		return res, fmt.Errorf("%d connections failed, %.0f messages came through", res.Failed, res.Work)
	}
	return res, nil
}

// usage is CPU time so far.
type usage struct {
	at                       time.Time
	forwarder, machine, ours time.Duration
}

func (r *rig) usage(p peer) (u usage, err error) {
	u.at, u.ours = time.Now(), ownTime()
	if u.machine, err = machineTime(); err != nil {
		return usage{}, err
	}
	for _, pid := range append([]int{r.backend, p.pid}, r.softirqs...) {
		if pid == 0 {
			continue
		}
		t, err := processTime(pid)
		if err != nil {
			return usage{}, fmt.Errorf("CPU time: %w", err)
		}
		u.ours += t
		if pid == p.pid {
			u.forwarder = t
		}
	}
	return u, nil
}

// machine says where this runs.
func machine() report.Machine {
	m := report.Machine{Cores: runtime.NumCPU(), Settings: map[string]string{}}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		m.Settings["RLIMIT_NOFILE"] = fmt.Sprintf("%d, at most %d", limit.Cur, limit.Max)
	}
	for _, key := range []string{"pipe-max-size", "pipe-user-pages-soft", "pipe-user-pages-hard"} {
		text, _ := os.ReadFile("/proc/sys/fs/" + key)
		m.Settings["fs/"+key] = strings.TrimSpace(string(text))
	}
	return m
}
