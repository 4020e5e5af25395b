package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	networkTimeout = 30 * time.Second // to make or remove one
	commandSettled = 10 * time.Second // a command that ran so long was started well
)

// network is what the engine knows of a VPC beside its place in the snapshot.
type network struct {
	making      sync.Mutex // one Ensure or Remove at a time
	wanted      bool
	attachments set[string]
	reach       []netip.Prefix // that it knows a way to
}

// attachment is an attachment as it was adopted.
type attachment struct {
	vpc.Attachment
	network string

	// Of a published port.
	pool  *pool
	tally *tally

	running bool // its command
}

// adoptNetwork follows a network and its attachments; not wanted means that it is
// gone. The caller holds mu.
func (e *Local) adoptNetwork(id string, wanted bool, want map[string]vpc.Attachment, w *work) {
	n := e.networks[id]
	if n == nil {
		n = new(network)
		e.networks[id] = n
	}
	w.networks.add(id)
	if n.wanted != wanted { // then nobody can listen in it any more, or everybody can
		for o := range e.inNetwork[id] {
			w.owners.add(o)
		}
	}
	n.wanted = wanted
	for old := range n.attachments {
		if _, stays := want[old]; !stays {
			e.adoptAttachment(id, old, nil, w)
		}
	}
	n.attachments = set[string]{}
	for name, a := range want {
		n.attachments.add(name)
		e.adoptAttachment(id, name, &a, w)
	}
}

func (e *Local) adoptAttachment(network, id string, want *vpc.Attachment, w *work) {
	o := object{anAttachment, id}
	a := e.attachments[id]
	switch {
	case a != nil && a.network != network && want == nil:
		return // it has moved to another network already
	case a == nil || a.network != network:
		a = &attachment{network: network, pool: new(pool), tally: new(tally)}
		e.attachments[id] = a
	}
	if want == nil {
		delete(e.attachments, id)
		want = new(vpc.Attachment)
		e.board.drop(o)
		e.repairs.done(object{aCommand, id})
	}
	if a.Kind == vpc.PublishedPort || want.Kind == vpc.PublishedPort {
		w.owners.add(o)
		a.pool.fill(new(ServerGroup), network, []netip.Addr{want.Address}, []slot{{server: &server{target: target{id: id, address: want.To}}, weight: 1}})
		if want.Kind == vpc.PublishedPort {
			e.inNetwork.add(network, o)
		} else {
			e.inNetwork.remove(network, o)
		}
	}
	a.Attachment = *want
}

// makeNetwork makes the machine follow the snapshot in one network, or takes the
// network away if the snapshot has it no more.
func (e *Local) makeNetwork(id string) { e.withNetwork(id, e.driver.Ensure) }

// lookAfter makes the machine once more what it was made, in one network: somebody
// may have deleted a device.
func (e *Local) lookAfter(id string) {
	e.withNetwork(id, func(ctx context.Context, n vpc.Network) (map[string]error, error) {
		return e.driver.Repair(ctx, n.ID)
	})
}

func (e *Local) withNetwork(id string, ensure func(context.Context, vpc.Network) (map[string]error, error)) {
	e.mu.Lock()
	n := e.networks[id]
	e.mu.Unlock()
	if n == nil {
		return
	}
	n.making.Lock()
	defer n.making.Unlock()
	ctx, cancel := context.WithTimeout(e.life, networkTimeout)
	defer cancel()
	e.mu.Lock()
	want, ok := e.snapshot.Networks[id]
	e.mu.Unlock()
	if !ok {
		e.removeNetwork(ctx, id, n)
		return
	}
	faults, err := ensure(ctx, want)
	if err != nil {
		e.log.Error("make network", "network", id, "err", err)
	}
	for at, fault := range faults {
		e.log.Warn("make attachment", "network", id, "attachment", at, "err", fault)
	}
	o := object{aNetwork, id}
	if err != nil || len(faults) > 0 {
		e.repairs.failed(o)
	} else {
		e.repairs.done(o)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.board.post(o, NetworkObserved{ID: id, Up: err == nil, Error: message(err)})
	for at, a := range want.Attachments {
		r := e.attachments[at]
		if r == nil || r.network != id || a.Kind == vpc.PublishedPort {
			continue // gone meanwhile, or told by its listener
		}
		fault := err
		if fault == nil {
			fault = faults[at]
		}
		e.board.post(object{anAttachment, at}, AttachmentObserved{ID: at, Up: fault == nil, Error: message(fault)})
		if fault == nil && len(r.Command) > 0 && !r.running {
			e.startCommand(at, r)
		}
	}
}

func (e *Local) removeNetwork(ctx context.Context, id string, n *network) {
	o := object{aNetwork, id}
	if err := e.driver.Remove(ctx, id); err != nil {
		e.log.Error("remove network", "network", id, "err", err)
		e.board.post(o, NetworkObserved{ID: id, Error: message(err)})
		e.repairs.failed(o)
		return
	}
	e.repairs.done(o)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !n.wanted {
		e.board.drop(o)
		delete(e.networks, id)
	}
}

// startCommand runs the command of an attachment, and again when it ends, which is
// also when another Command takes effect. It ends with the attachment. The caller
// holds mu.
func (e *Local) startCommand(id string, a *attachment) {
	if e.life.Err() != nil {
		return
	}
	a.running = true
	c := vpc.Command{Args: a.Command, Env: os.Environ(), Stdio: [3]*os.File{nil, os.Stderr, os.Stderr}}
	began := time.Now()
	ended := func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		a.running = false
		if e.attachments[id] != a || e.life.Err() != nil {
			return
		}
		e.log.Warn("command ended", "attachment", id, "command", c.Args[0], "err", err)
		o := object{aCommand, id}
		if time.Since(began) > commandSettled {
			e.repairs.done(o)
		}
		e.repairs.failed(o)
	}
	c.Exited = func(code int) { ended(fmt.Errorf("exit code %d", code)) }
	network := a.network
	if e.driver.Resume(network, id, c.Exited) {
		return
	}
	e.commands.Go(func() {
		if err := e.driver.Start(e.life, network, id, c); err != nil {
			ended(err)
		}
	})
}

// message is err for an observation, empty for none.
func message(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimSpace(err.Error())
}
