package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

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

// networks returns the VPCs of a set.
func networks(set string) map[string]vpc.Network {
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
	if set == plain {
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

// scene returns the endpoints of the engine in a set, and what is behind them.
func scene(set string) proxy.Snapshot {
	s := proxy.Snapshot{
		LoadBalancers: map[string]proxy.LoadBalancer{},
		ServerGroups:  map[string]proxy.ServerGroup{},
		Groups:        map[string]verdict.Group{"sg": {ID: "sg", Rules: rules(60)}},
		Endpoints:     map[string]proxy.Endpoint{},
	}
	back := provider
	if set == plain {
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
