package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/bench/load"
)

const (
	settle     = 50 * time.Millisecond // after a load, in which forwarders close what is left
	foreignMax = 0.25                  // part of the machine that others may use during a load
	slowly     = 6 * time.Second       // of a load through a limit, at least: what passes at once in the beginning is then a small part

	udp = "udp" // the load of datagrams
)

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

// suits says whether a peer of a set can have the load. Flows of datagrams are told
// apart by their addresses, of which a workload of a VPC has but one.
func (w workload) suits(set string, p peer) bool {
	return among(p.only, w.name) && (w.load != udp || set == plain && p.udp)
}

// measured is what one load showed.
type measured struct {
	figures map[string]float64
	foreign float64
}

// quietly measures again if others used too much of the machine, and returns the
// least disturbed of the attempts.
func (r *rig) quietly(ctx context.Context, w workload, p peer, each time.Duration, redos int) (best measured, err error) {
	if p.slow {
		return r.measure(ctx, w, p, max(each, slowly))
	}
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

// load runs one load to its end, by this program or as the last argument of another.
func (r *rig) load(ctx context.Context, w workload, p peer, each time.Duration, by ...string) (res load.Result, err error) {
	if by == nil {
		by = []string{r.self}
	}
	args := []string{"load", w.load, "-to", p.at.String(), "-conns", fmt.Sprint(w.conns), "-size", fmt.Sprint(w.size), "-for", each.String()}
	if w.load == udp {
		window := 64
		if w.conns > 1 {
			window = 256
		}
		args = append(args, "-from", flowAt.String(), "-window", fmt.Sprint(window), fmt.Sprintf("-gso=%t", w.gso))
	}
	cmd := exec.CommandContext(ctx, by[0], append(by[1:], args...)...)
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
