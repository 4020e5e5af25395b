package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// rig is an engine with its networks, the backend and every peer, all alive.
type rig struct {
	set     string
	dir     string // for everybody's files
	self    string // this program
	engine  *proxy.Process
	pid     int // of the engine
	front   *cell
	back    *cell // front, if there is one VPC only
	client  *cell // where the client runs
	direct  *cell // where it runs if nothing is in between
	server  *cell // where the backend runs
	cells   []*cell
	procs   []*exec.Cmd
	backend int // pid
	peers   []peer
	left    map[string]string // peers that are not there, and why
	is      map[string]string // settings of the namespaces

	softirqs []int   // pids of the kernel's threads whose work is ours
	slab     float64 // bytes of the kernel's own before any idle connection; 0: not known yet
}

// assemble starts everything for a set. want says which peers.
func assemble(ctx context.Context, set, program, version string, want func(name string) bool) (_ *rig, err error) {
	r := &rig{set: set, left: map[string]string{}, softirqs: softirqs()}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close(ctx))
		}
	}()
	if r.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if r.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	installation := "b" + strings.ToLower(rand.Text()[:6])
	r.engine, err = proxy.Start(ctx, proxy.StartConfig{
		Dir: filepath.Join(r.dir, "engine"), Mode: vpc.ModeNetns, Installation: installation, Version: version, Program: program,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	st, err := r.engine.Status(ctx)
	if err != nil {
		return nil, err
	}
	r.pid = st.PID
	prefer(r.pid)
	if err := r.engine.Apply(ctx, proxy.Change{Generation: 1, Set: proxy.Snapshot{Networks: networks(set)}}); err != nil {
		return nil, fmt.Errorf("make the networks: %w", err)
	}
	if err := r.enterAll("/run/netns/op-" + installation + "-"); err != nil {
		return nil, err
	}
	if err := r.engine.Apply(ctx, proxy.Change{Base: 1, Generation: 2, Set: scene(set)}); err != nil {
		return nil, fmt.Errorf("make the endpoints: %w", err)
	}
	serve := exec.CommandContext(ctx, r.self, "backend", "-at", backendAt.String())
	if err := r.start(r.server, serve); err != nil {
		return nil, fmt.Errorf("start the backend: %w", err)
	}
	r.backend = serve.Process.Pid
	return r, r.open(ctx, want)
}

// enterAll enters the namespaces and sets them up, before any socket is made there.
func (r *rig) enterAll(prefix string) (err error) {
	into := func(c **cell, name string) {
		if err == nil {
			*c, err = enter(prefix + name)
		}
		if err == nil {
			r.cells = append(r.cells, *c)
			r.is, err = (*c).prepare()
		}
	}
	into(&r.front, "r-"+consumer)
	if r.set == plain {
		r.back, r.client, r.direct, r.server = r.front, r.front, r.front, r.front
		return err
	}
	into(&r.back, "r-"+provider)
	into(&r.client, "a-"+consumer+".client")
	into(&r.direct, "a-"+provider+".neighbour")
	into(&r.server, "a-"+provider+".backend")
	return err
}

// open starts the peers that are wanted and waits until they answer.
func (r *rig) open(ctx context.Context, want func(string) bool) error {
	if err := answers(ctx, r.direct, backendAt); err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	if want(report.Direct) {
		r.peers = append(r.peers, peer{name: report.Direct, at: backendAt, from: r.direct, udp: true})
	}
	for i, self := range selves {
		if !want(self.name) {
			continue
		}
		p := peer{name: self.name, at: after(endpointAt, i), from: r.client, pid: r.pid, only: self.only, slow: self.limit > 0}
		err := answers(ctx, p.from, p.at)
		if err != nil && p.name == report.Self {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err != nil {
			r.left[p.name] = err.Error()
			continue
		}
		if p.name == report.Self && r.set == plain {
			if p.udp = answersDatagrams(ctx, p.from, p.at); !p.udp {
				r.left[p.name+" (udp)"] = "it carries no datagrams"
			}
		}
		r.peers = append(r.peers, p)
	}
	for i, other := range others {
		if !want(other.name) {
			continue
		}
		p := peer{name: other.name, at: after(otherAt, i), from: r.client}
		cmd, err := other.open(ctx, r, p.name, p.at)
		if err == nil {
			err = r.start(r.front, cmd)
		}
		if err == nil {
			err = answers(ctx, p.from, p.at)
		}
		if err != nil {
			r.left[p.name] = err.Error()
			continue
		}
		p.pid, p.udp = cmd.Process.Pid, p.name == "nginx" && answersDatagrams(ctx, p.from, p.at)
		r.peers = append(r.peers, p)
	}
	return ctx.Err()
}

// start starts a process that lives as long as the rig.
func (r *rig) start(where *cell, cmd *exec.Cmd) error {
	log, err := os.Create(filepath.Join(r.dir, filepath.Base(cmd.Path)+fmt.Sprint(len(r.procs))+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	if err := where.start(cmd); err != nil {
		return err
	}
	r.procs = append(r.procs, cmd)
	return nil
}

// close ends everything and takes it away, also once ctx has ended.
func (r *rig) close(ctx context.Context) error {
	var errs []error
	for _, p := range r.procs {
		_ = unix.Kill(-p.Process.Pid, unix.SIGKILL) // and its children
		_ = p.Wait()
	}
	for _, c := range r.cells {
		c.leave()
	}
	if r.engine != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		errs = append(errs, r.engine.Stop(ctx))
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}
