package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
)

// session measures one set.
type session struct {
	*options
	rig *rig
	out report.Set
}

// measureSet measures what is asked for, and returns it with the settings of the
// namespaces.
func (o *options) measureSet(ctx context.Context, set, version string) (_ report.Set, _ map[string]string, err error) {
	r, err := assemble(ctx, set, o.program, version, func(name string) bool { return among(o.peers, name) })
	if err != nil {
		return report.Set{}, nil, err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	s := session{o, r, report.Set{
		Name: set, Rounds: o.rounds, Left: r.left, Figures: map[string]report.Samples{}, Foreign: map[string]float64{},
	}}
	for _, step := range []func(context.Context) error{s.idle, s.loads, s.calls, s.counters, s.rules, s.asUser, s.alive} {
		if err := step(ctx); err != nil {
			return report.Set{}, nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.left)) {
		s.say("%s is left out: %s", name, r.left[name])
	}
	for _, p := range r.peers {
		s.out.Peers = append(s.out.Peers, p.name)
	}
	return s.out, r.is, nil
}

// say tells whoever waits how far it is.
func (s *session) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, s.rig.set+": "+format+"\n", args...)
}

// forwarders lists the peers that are processes and have the load.
func (s *session) forwarders(load string) (peers []peer) {
	if !among(s.only, load) {
		return nil
	}
	for _, p := range s.rig.peers {
		if p.pid != 0 && among(p.only, load) {
			peers = append(peers, p)
		}
	}
	return peers
}

// failed decides what a failure means. Without the engine, and without a way around
// it, there is nothing to measure; any other peer is left out from then on.
func (s *session) failed(ctx context.Context, what string, p peer, err error) error {
	if ctx.Err() != nil || strings.HasPrefix(p.name, report.Self) || p.name == report.Direct {
		return fmt.Errorf("%s at %s: %w", what, p.name, err)
	}
	s.rig.left[p.name] = err.Error()
	s.rig.peers = slices.DeleteFunc(s.rig.peers, func(o peer) bool { return o.name == p.name })
	for _, samples := range s.out.Figures {
		delete(samples, p.name)
	}
	return nil
}

// idle comes first: memory that was used once looks as if it were free.
func (s *session) idle(ctx context.Context) error {
	for _, p := range s.forwarders(idleName) {
		figures, err := s.rig.idle(ctx, p)
		if err != nil && ctx.Err() == nil && p.name != report.Self {
			s.rig.left[p.name+" (idle)"] = fmt.Sprintf("it does not hold %d connections", idleConns)
			continue
		}
		if err != nil {
			return fmt.Errorf("idle connections at %s: %w", p.name, err)
		}
		for figure, value := range figures {
			s.out.Add(figure, p.name, value)
		}
		s.say("idle %-16s %6.0f bytes and %.2f descriptors a connection", p.name, figures["idle.memory"], figures["idle.fds"])
	}
	return nil
}

// loads has every round go over all peers, forwards and backwards in turn.
func (s *session) loads(ctx context.Context) error {
	for _, w := range workloads {
		if !among(s.only, w.name) {
			continue
		}
		for round := range s.rounds {
			order := slices.DeleteFunc(slices.Clone(s.rig.peers), func(p peer) bool { return !w.suits(s.rig.set, p) })
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, p := range order {
				v, err := s.rig.quietly(ctx, w, p, s.each, s.redos)
				if err != nil {
					if err := s.failed(ctx, w.name, p, err); err != nil {
						return err
					}
					continue
				}
				s.out.Foreign[w.name] = max(s.out.Foreign[w.name], v.foreign)
				for figure, value := range v.figures {
					s.out.Add(figure, p.name, value)
				}
				s.say("%s %d/%d %-16s %10.4g  foreign %2.0f %%", w.name, round+1, s.rounds, p.name, v.figures[w.name], 100*v.foreign)
			}
		}
	}
	return nil
}

// calls counts the system calls of connections and requests.
func (s *session) calls(ctx context.Context) error {
	for _, p := range s.forwarders(callsName) {
		if !slices.Contains([]string{report.Self, report.Control, "nginx"}, p.name) {
			continue
		}
		for _, w := range workloads {
			if w.name != "crr" && w.name != "rr64" {
				continue
			}
			n, err := s.rig.calls(ctx, w, p, 4*s.each) // the longer, the less the connections of a request load count
			if err != nil && ctx.Err() != nil {
				return err
			}
			if err != nil {
				s.rig.left[p.name+" (system calls)"] = err.Error()
				break
			}
			s.out.Add(w.name+"."+callsName, p.name, n)
		}
	}
	return nil
}

func (s *session) counters(ctx context.Context) error {
	for _, p := range s.forwarders(countersName) {
		if p.name != report.Self {
			continue
		}
		still, err := s.rig.counters(ctx, p)
		if err != nil {
			return fmt.Errorf("counters: %w", err)
		}
		s.out.Add(countersName, p.name, still.Seconds())
	}
	return nil
}

// rules takes the time of decisions by security groups of some sizes. They are the
// same in every set.
func (s *session) rules(context.Context) error {
	if s.rig.set != plain || !among(s.only, rulesName) {
		return nil
	}
	for range s.rounds {
		for _, n := range []int{60, 1000} {
			s.out.Add(fmt.Sprint(rulesName, n), report.Self, judged(n))
		}
	}
	return nil
}

// alive wants the engine to be the one that it was in the beginning.
func (s *session) alive(ctx context.Context) error {
	st, err := s.rig.engine.Status(ctx)
	if err == nil && st.PID != s.rig.pid {
		err = errors.New("the engine died and was started again")
	}
	return err
}
