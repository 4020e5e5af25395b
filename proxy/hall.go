package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/openprivatelink/openprivatelink/proxy/forward"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// hall is where the doors of a network are that have a range of ports. They share
// one listening socket, to which the network leads whatever is meant for them, so
// that a range costs no socket however wide it is. The hall finds the door by what
// the client asked for.
//
// A filter on that socket could not be one endpoint's: behind a range, security
// groups decide once a connection is accepted, and what they refuse is reset.
type hall struct {
	engine  *Local
	network string

	// Guarded by the engine.
	listener forward.Listener // nil: nothing is led here
	led      set[vpc.Ports]
	untidy   bool // something may be led here that no door is open for

	mu    sync.RWMutex
	doors map[netip.Addr][]*door // of the network, those with one port too: they go first
}

// hall returns that of a network. The caller holds mu.
func (e *Local) hall(network string) *hall {
	h := e.halls[network]
	if h == nil {
		h = &hall{engine: e, network: network, led: set[vpc.Ports]{}, doors: map[netip.Addr][]*door{}}
		e.halls[network] = h
	}
	return h
}

// Admit implements [forward.Door]. Where there is no door any more the client is
// reset.
func (h *hall) Admit(f *forward.Flow) forward.Session {
	if d := h.find(f.Address); d != nil {
		return d.Admit(f)
	}
	return nil
}

func (h *hall) find(to netip.AddrPort) (found *door) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, d := range h.doors[to.Addr()] {
		if d.covers(to) && (found == nil || d.to == 0) {
			found = d
		}
	}
	return found
}

func (h *hall) enter(d *door) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.doors[d.at.Addr()] = append(h.doors[d.at.Addr()], d)
}

// leave takes a door out. What is led to it is given up by the next tidy. The caller
// holds the engine's mu.
func (h *hall) leave(d *door) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := d.at.Addr()
	h.doors[at] = slices.DeleteFunc(h.doors[at], func(o *door) bool { return o == d })
	if len(h.doors[at]) == 0 {
		delete(h.doors, at)
	}
	h.untidy = h.untidy || d.to != 0
}

// lead has connections to ports led here. The caller holds the engine's mu.
func (h *hall) lead(ctx context.Context, ports ...vpc.Ports) error {
	e := h.engine
	ports = slices.DeleteFunc(ports, func(p vpc.Ports) bool { _, is := h.led[p]; return is })
	if len(ports) > 0 {
		if err := e.driver.Redirect(ctx, h.network, ports, nil); err != nil {
			return err
		}
		for _, p := range ports {
			h.led.add(p)
		}
	}
	if h.listener != nil {
		return nil
	}
	fd, err := e.bind(ctx, h.network, vpc.Lobby, vpc.SocketOptions{})
	if err == nil {
		h.listener, err = e.forwarder.AcceptRedirected(fd, h)
	}
	return err
}

// leadAll has everything led at once, in each network, that the doors of owners
// with a range are about to need. What fails is tried, and told, door by door.
func (e *Local) leadAll(owners set[object]) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.life.Err() != nil {
		return
	}
	ports := map[string][]vpc.Ports{}
	for o := range owners {
		for _, v := range e.wants(o) {
			if v.err == nil && v.to != 0 && e.places[v.place] == nil {
				ports[v.network] = append(ports[v.network], v.ports())
			}
		}
	}
	ctx, cancel := context.WithTimeout(e.life, networkTimeout)
	defer cancel()
	for network, list := range ports {
		h := e.hall(network)
		h.untidy = true // another change may come before the doors open
		if err := h.lead(ctx, list...); err != nil {
			e.log.Debug("lead port ranges", "network", network, "err", err)
		}
	}
}

// tidy gives up what was led to doors that are closed, and the sockets of halls that
// nothing is led to. The caller holds mu.
func (e *Local) tidy() {
	ctx, cancel := context.WithTimeout(e.life, networkTimeout)
	defer cancel()
	for network, h := range e.halls {
		if h.untidy {
			h.tidy(ctx)
		}
		if len(h.doors) == 0 && h.listener == nil {
			delete(e.halls, network)
		}
	}
}

func (h *hall) tidy(ctx context.Context) {
	h.untidy = false
	var stale []vpc.Ports
	for p := range h.led {
		if h.engine.places[place{h.network, verdict.TCP, netip.AddrPortFrom(p.At, p.First), p.Last}] == nil {
			stale = append(stale, p)
			delete(h.led, p)
		}
	}
	if len(stale) > 0 {
		err := h.engine.driver.Redirect(ctx, h.network, nil, stale)
		if err != nil && !errors.Is(err, vpc.ErrNoNetwork) { // who comes is reset
			h.engine.log.Error("close port ranges", "network", h.network, "err", err)
		}
	}
	if len(h.led) == 0 {
		h.close()
	}
}

func (h *hall) close() {
	if h.listener != nil {
		h.listener.Close()
		h.listener = nil
	}
}

// ports are those of a place with a range.
func (p place) ports() vpc.Ports { return vpc.Ports{At: p.at.Addr(), First: p.at.Port(), Last: p.to} }

func (p place) covers(at netip.AddrPort) bool {
	return p.at.Addr() == at.Addr() && p.at.Port() <= at.Port() && at.Port() <= max(p.at.Port(), p.to)
}

func (p place) overlaps(o place) bool {
	return p.network == o.network && p.protocol == o.protocol && p.at.Addr() == o.at.Addr() &&
		p.at.Port() <= max(o.at.Port(), o.to) && o.at.Port() <= max(p.at.Port(), p.to)
}

func (p place) String() string {
	if p.to == 0 {
		return p.at.String()
	}
	return fmt.Sprintf("%v to %d", p.at, p.to)
}
