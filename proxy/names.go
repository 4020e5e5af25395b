package proxy

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	nameInterval  = 10 * time.Second // between two lookups: the system's resolver tells no TTL
	nameRetry     = time.Second      // after the first, and then twice as long each time, until there is an answer
	nameTimeout   = 5 * time.Second
	nameAddresses = 32 // of one name; further ones are left out
	lookupsOnce   = 16
)

// Reasons of a server whose name leads nowhere, beside those of the load balancer's
// API.
const (
	nameUnresolved = "NAME_UNRESOLVED" // it has never been resolved
	nameRefused    = "NAME_REFUSED"    // its addresses are none that a load balancer may send to
)

// name is a DNS name that servers go by. It is resolved by this machine's own
// configuration, in the host's namespace, for as long as a group has it. An answer
// that fails leaves the last one in force.
type name struct {
	forget    context.CancelFunc
	addresses []netip.Addr // of the last good answer, in order
	reason    string       // why there are none; empty at first
}

// Lookup resolves a name to IPv4 addresses.
type Lookup func(ctx context.Context, name string) ([]netip.Addr, error)

// systemLookup is what the machine itself knows a name by.
func systemLookup(ctx context.Context, name string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
}

// adoptNames follows the names of a server group. The caller holds mu.
func (e *Local) adoptNames(group string, was, is []Server) {
	wanted := set[string]{}
	for _, s := range is {
		if s.Name == "" || s.Host {
			continue
		}
		wanted.add(s.Name)
		e.namedIn.add(s.Name, group)
		if e.names[s.Name] == nil && e.life.Err() == nil {
			ctx, cancel := context.WithCancel(e.life)
			n := &name{forget: cancel}
			e.names[s.Name] = n
			e.work.Go(func() { e.resolve(ctx, s.Name, n) })
		}
	}
	for _, s := range was {
		if _, stays := wanted[s.Name]; stays || s.Name == "" {
			continue
		}
		e.namedIn.remove(s.Name, group)
		if n := e.names[s.Name]; n != nil && e.namedIn[s.Name] == nil {
			n.forget()
			delete(e.names, s.Name)
		}
	}
}

// resolve looks a name up until ctx ends.
func (e *Local) resolve(ctx context.Context, id string, n *name) {
	failing, pause := false, nameRetry
	for {
		select {
		case e.lookups <- struct{}{}:
		case <-ctx.Done():
			return
		}
		limited, cancel := context.WithTimeout(ctx, nameTimeout)
		found, err := e.lookup(limited, id)
		cancel()
		<-e.lookups
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			e.log.Warn("resolve", "name", id, "err", err)
		}
		failing = err != nil
		if e.answered(id, n, found, err) { //nolint:contextcheck // as for any change
			pause = nameInterval
		}
		timer := time.NewTimer(pause)
		pause = min(2*pause, nameInterval)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// answered takes an answer. It returns whether there has been a good one yet.
func (e *Local) answered(id string, n *name, found []netip.Addr, err error) bool {
	addresses, reason := n.addresses, n.reason // written here alone
	if err == nil {
		addresses, reason = usable(found), ""
	}
	if len(addresses) == 0 {
		reason = nameUnresolved
		if err == nil && len(found) > 0 {
			reason = nameRefused
		}
	}
	e.mu.Lock()
	if e.names[id] != n || slices.Equal(addresses, n.addresses) && reason == n.reason {
		e.mu.Unlock()
		return len(addresses) > 0
	}
	n.addresses, n.reason = addresses, reason
	w := newWork()
	refill := set[string]{}
	for group := range e.namedIn[id] {
		if g, ok := e.snapshot.ServerGroups[group]; ok {
			e.adoptServerGroup(group, &g, w, refill)
		}
	}
	for b := range refill {
		e.refill(b)
	}
	e.mu.Unlock()
	e.follow(w)
	return len(addresses) > 0
}

// usable returns the addresses that a server may have, in order, whatever VPC it is
// in: not this machine's own, nor of its links.
func usable(found []netip.Addr) (list []netip.Addr) {
	for _, a := range found {
		if a = a.Unmap(); a.Is4() && a.IsGlobalUnicast() {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	return list[:min(len(list), nameAddresses)]
}

// targets lists what a server of the snapshot stands for: itself, or each address
// of its name.
func (e *Local) targets(s Server) []target {
	if s.Name == "" {
		return []target{{id: s.ID, address: s.Address, host: s.Host}}
	}
	var list []target
	if n := e.names[s.Name]; n != nil && !s.Host {
		for _, a := range n.addresses {
			list = append(list, target{id: s.ID, address: netip.AddrPortFrom(a, s.Address.Port()), named: true})
		}
	}
	return list
}

// reaches says whether t may be sent to from a VPC. What people enter is checked
// where they do; what a name leads to only here.
func (e *Local) reaches(network string, t target) bool {
	n := e.networks[network]
	return !t.named || n != nil && slices.ContainsFunc(n.reach, func(p netip.Prefix) bool { return p.Contains(t.address.Addr()) })
}

// adoptReach follows the ranges of a VPC, which bound what names may lead to. The
// caller holds mu.
func (e *Local) adoptReach(network string, ranges []netip.Prefix, w *work, refill set[string]) {
	n := e.networks[network]
	if slices.Equal(n.reach, ranges) {
		return
	}
	n.reach = ranges
	for o := range e.inNetwork[network] {
		if b := e.balancers[o.id]; o.kind == aBalancer && b != nil {
			refill.add(o.id)
			for _, l := range b.Listeners {
				w.groups.add(l.ServerGroup)
			}
		}
	}
}

// reach lists the ranges that a VPC knows a way to.
func reach(n vpc.Network) []netip.Prefix {
	list := slices.Clone(n.CIDRs)
	for _, r := range n.Routes {
		list = append(list, r.To)
	}
	return list
}

// unnamed says why a server that stands for no address does so.
func (e *Local) unnamed(s Server) (Health, string) {
	n := e.names[s.Name]
	switch {
	case s.Host: // a name must not lead to what an operator did not offer
		return Unhealthy, nameRefused
	case n == nil || n.reason == "":
		return Unknown, ""
	}
	return Unhealthy, n.reason
}
