package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/bench/load"
	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// The sets. In plain, everything is in one VPC and over its loopback device, so
// that nothing but the forwarders differs. In pair, the client is a workload of one
// VPC and the backend one of another, with the same addresses.
const (
	plain = "plain"
	pair  = "vpc"
)

const (
	consumer, provider = "consumer", "provider"
	zone               = "zone-a"
)

// Addresses, in either VPC.
var (
	wide       = netip.MustParsePrefix("10.0.0.0/20")
	backendAt  = netip.MustParseAddr("10.0.2.10")
	clientAt   = netip.MustParseAddr("10.0.3.10")
	balancerAt = netip.MustParseAddr("10.0.4.1") // and those after it
	endpointAt = netip.MustParseAddr("10.0.5.1") // and those after it
	otherAt    = netip.MustParseAddr("10.0.6.1") // and those after it
	flowAt     = netip.MustParseAddr("10.0.8.0") // and those after it: sources of datagrams
)

// flowsMost is how many flows of datagrams there may be.
const flowsMost = 1000

// after returns the nth address after a.
func after(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}

// selves are the endpoints of the engine, in the order of their addresses.
var selves = []struct {
	name  string
	proxy proxy.ProxyProtocol
	limit int      // Mbit/s
	only  []string // loads; empty: all
}{
	{name: report.Self},
	{name: "self-ppv2", proxy: proxy.ProxyProtocol{Enabled: true, VPC: true, Endpoint: true, Service: true}, only: []string{"crr"}},
	{name: "self-100m", limit: 100, only: []string{"bulk1"}},
	{name: "self-1g", limit: 1000, only: []string{"bulk1"}},
	{name: "self-5g", limit: 5000, only: []string{"bulk1"}},
}

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

	softirqs []int // pids of the kernel's threads whose work is ours
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
	networks := r.networks()
	if err := r.engine.Apply(ctx, proxy.Change{Generation: 1, Set: proxy.Snapshot{Networks: networks}}); err != nil {
		return nil, fmt.Errorf("make the networks: %w", err)
	}
	if err := r.enterAll("/run/netns/op-" + installation + "-"); err != nil {
		return nil, err
	}
	shall := r.scene()
	if err := r.engine.Apply(ctx, proxy.Change{Base: 1, Generation: 2, Set: shall}); err != nil {
		return nil, fmt.Errorf("make the endpoints: %w", err)
	}
	serve := exec.CommandContext(ctx, r.self, "backend", "-at", backendAt.String())
	if err := r.start(r.server, serve); err != nil {
		return nil, fmt.Errorf("start the backend: %w", err)
	}
	r.backend = serve.Process.Pid
	return r, r.open(ctx, want)
}

// networks returns the VPCs of the set.
func (r *rig) networks() map[string]vpc.Network {
	vsw := []vpc.VSwitch{{ID: "vsw", Zone: zone, CIDR: wide}}
	managed := func(id string, at netip.Addr) map[string]vpc.Attachment {
		return map[string]vpc.Attachment{id: {ID: id, Kind: vpc.Managed, VSwitch: "vsw", Address: at}}
	}
	front := vpc.Network{ID: consumer, Number: 1, CIDRs: []netip.Prefix{wide}, VSwitches: vsw}
	back := vpc.Network{ID: provider, Number: 2, CIDRs: []netip.Prefix{wide}, VSwitches: vsw}
	for i := range selves {
		front.Addresses = append(front.Addresses, after(endpointAt, i))
		back.Addresses = append(back.Addresses, after(balancerAt, i))
	}
	for i := range others {
		front.Addresses = append(front.Addresses, after(otherAt, i))
	}
	if r.set == plain {
		front.Addresses = append(slices.Concat(front.Addresses, back.Addresses), backendAt)
		for i := range flowsMost {
			front.Addresses = append(front.Addresses, after(flowAt, i))
		}
		return map[string]vpc.Network{consumer: front}
	}
	front.Attachments = managed("client", clientAt)
	back.Attachments = managed("backend", backendAt)
	back.Attachments["neighbour"] = vpc.Attachment{ID: "neighbour", Kind: vpc.Managed, VSwitch: "vsw", Address: clientAt}
	return map[string]vpc.Network{consumer: front, provider: back}
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

// rules are n of a security group, of which the last decides.
func rules(n int) (list []verdict.Rule) {
	for i := range n - 1 {
		list = append(list, verdict.Rule{
			ID: fmt.Sprint("sgr-", i), Priority: 1 + i%99, Policy: verdict.Accept, Protocol: verdict.TCP, From: 1, To: 65535,
			Peer: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(i>>8), byte(i), 0}), 24),
		})
	}
	return append(list, verdict.Rule{ID: "sgr-last", Priority: 100, Policy: verdict.Accept, Protocol: verdict.All, Peer: wide})
}

// scene returns the endpoints of the engine and what is behind them.
func (r *rig) scene() proxy.Snapshot {
	s := proxy.Snapshot{
		LoadBalancers: map[string]proxy.LoadBalancer{},
		ServerGroups:  map[string]proxy.ServerGroup{},
		Groups:        map[string]verdict.Group{"sg": {ID: "sg", Rules: rules(60)}},
		Endpoints:     map[string]proxy.Endpoint{},
	}
	back := provider
	if r.set == plain {
		back = consumer
	}
	for i, self := range selves {
		servers := map[uint16]uint16{load.PortEcho: load.PortEcho, load.PortSink: load.PortSink}
		if self.proxy.Enabled {
			servers = map[uint16]uint16{load.PortEcho: load.PortEchoProxy, load.PortSink: load.PortSinkProxy}
		}
		lb := proxy.LoadBalancer{ID: "nlb-" + self.name, Network: back, Zones: []proxy.LBZone{{Zone: zone, Address: after(balancerAt, i)}}}
		for port, to := range servers {
			group := fmt.Sprintf("sgp-%s-%d", self.name, port)
			s.ServerGroups[group] = proxy.ServerGroup{ID: group, Servers: []proxy.Server{
				{ID: "srv", Zone: zone, Address: netip.AddrPortFrom(backendAt, to), Weight: 100},
			}}
			lb.Listeners = append(lb.Listeners, proxy.Listener{
				ID: fmt.Sprintf("lsn-%s-%d", self.name, port), Protocol: verdict.TCP, Port: port, ServerGroup: group, Proxy: self.proxy,
			})
		}
		if self.name == report.Self {
			s.ServerGroups["sgp-udp"] = proxy.ServerGroup{ID: "sgp-udp", Servers: []proxy.Server{
				{ID: "srv", Zone: zone, Address: netip.AddrPortFrom(backendAt, load.PortDatagram), Weight: 100},
			}}
			lb.Listeners = append(lb.Listeners, proxy.Listener{
				ID: "lsn-udp", Protocol: verdict.UDP, Port: load.PortDatagram, ServerGroup: "sgp-udp", IdleTimeout: 5,
			})
		}
		s.LoadBalancers[lb.ID] = lb
		s.Endpoints[self.name] = proxy.Endpoint{
			ID: self.name, Service: "epsrv", Network: consumer, Carry: true, Groups: []string{"sg"}, Bandwidth: self.limit, Version: 1,
			Zones: []proxy.EndpointZone{{Zone: zone, Address: after(endpointAt, i), Carry: true, LoadBalancer: lb.ID}},
		}
	}
	return s
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
		if err := answers(ctx, p.from, p.at); err != nil {
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
