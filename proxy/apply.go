package proxy

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

const (
	partingTime  = time.Second // that Apply waits for flows which it reset to be gone
	networksOnce = 4           // networks that are made at the same time
)

// Names of the snapshot's fields in Change.Delete.
const (
	fieldNetworks      = "networks"
	fieldLoadBalancers = "loadBalancers"
	fieldServerGroups  = "serverGroups"
	fieldGroups        = "groups"
	fieldEndpoints     = "endpoints"
)

// Apply implements [Engine]. The engine keeps what c points at; the caller must
// not change it any more.
//
// A change is kept on disk before any of it is in force, and everything closes
// before anything opens. If it cannot be kept it is in force all the same, since a
// revocation must not wait for a disk; the error says so, and a whole snapshot
// sent again is kept as soon as that is possible.
func (e *Local) Apply(_ context.Context, c Change) error {
	w, err := e.accept(c) //nolint:contextcheck // a change is carried out even if who asked for it goes away
	if w != nil {
		e.follow(w) //nolint:contextcheck // as well
	}
	return err
}

// accept keeps the change and puts everything into force that needs no socket.
func (e *Local) accept(c Change) (*work, error) {
	e.applying.Lock()
	defer e.applying.Unlock()
	if err := e.life.Err(); err != nil {
		return nil, ErrAway
	}
	generation := e.generation.Load()
	if c.Base != 0 && c.Base != generation {
		return nil, fmt.Errorf("%w: at %d, the change is based on %d", ErrGeneration, generation, c.Base)
	}
	e.mu.Lock()
	d, err := e.snapshot.patch(c, c.Base == 0)
	e.mu.Unlock()
	if err != nil {
		return nil, err
	}
	d.Base = generation
	e.generation.Store(c.Generation)
	if err = e.store.append(d, e.copySnapshot); err != nil {
		e.unkept.Add(1)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.adopt(d), err
}

func (e *Local) copySnapshot() Snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Snapshot{
		Networks:      maps.Clone(e.snapshot.Networks),
		LoadBalancers: maps.Clone(e.snapshot.LoadBalancers),
		ServerGroups:  maps.Clone(e.snapshot.ServerGroups),
		Groups:        maps.Clone(e.snapshot.Groups),
		Endpoints:     maps.Clone(e.snapshot.Endpoints),
	}
}

// patch makes s what c says and returns what really differed. With whole, what c
// does not set is deleted.
func (s *Snapshot) patch(c Change, whole bool) (Change, error) {
	for field := range c.Delete {
		switch field {
		case fieldNetworks, fieldLoadBalancers, fieldServerGroups, fieldGroups, fieldEndpoints:
		default:
			return Change{}, fmt.Errorf("delete %q: the snapshot has no such field", field)
		}
	}
	d := Change{Base: c.Base, Generation: c.Generation, Delete: map[string][]string{}}
	gone := func(field string) []string { return c.Delete[field] }
	keep := func(field string, ids []string) {
		if len(ids) > 0 {
			d.Delete[field] = ids
		}
	}
	keep(fieldNetworks, patch(&s.Networks, c.Set.Networks, gone(fieldNetworks), whole, &d.Set.Networks))
	keep(fieldLoadBalancers, patch(&s.LoadBalancers, c.Set.LoadBalancers, gone(fieldLoadBalancers), whole, &d.Set.LoadBalancers))
	keep(fieldServerGroups, patch(&s.ServerGroups, c.Set.ServerGroups, gone(fieldServerGroups), whole, &d.Set.ServerGroups))
	keep(fieldGroups, patch(&s.Groups, c.Set.Groups, gone(fieldGroups), whole, &d.Set.Groups))
	keep(fieldEndpoints, patch(&s.Endpoints, c.Set.Endpoints, gone(fieldEndpoints), whole, &d.Set.Endpoints))
	return d, nil
}

// patch patches one map. What was set and differed goes into differs, the ids of
// what was deleted are returned.
func patch[T any](have *map[string]T, set map[string]T, gone []string, whole bool, differs *map[string]T) (deleted []string) {
	if whole {
		gone = slices.Collect(maps.Keys(*have))
	}
	for _, id := range gone {
		_, known := (*have)[id]
		if _, stays := set[id]; known && !stays {
			delete(*have, id)
			deleted = append(deleted, id)
		}
	}
	for id, v := range set {
		if was, ok := (*have)[id]; ok && reflect.DeepEqual(was, v) {
			continue
		}
		if *have == nil {
			*have = map[string]T{}
		}
		if *differs == nil {
			*differs = map[string]T{}
		}
		(*have)[id], (*differs)[id] = v, v
	}
	return deleted
}

// work is what a change leaves to do with sockets and networks.
type work struct {
	networks set[string]
	owners   set[object] // whose doors may have to open
	groups   set[string] // server groups whose checks may have to change
	ruled    set[string] // endpoints whose rules may have changed
	parting  []<-chan struct{}
}

func newWork() *work {
	return &work{networks: set[string]{}, owners: set[object]{}, groups: set[string]{}, ruled: set[string]{}}
}

type set[T comparable] map[T]struct{}

func (s set[T]) add(v T) { s[v] = struct{}{} }

// index finds what refers to an id.
type index[K, T comparable] map[K]set[T]

func (x index[K, T]) add(id K, v T) {
	if x[id] == nil {
		x[id] = set[T]{}
	}
	x[id].add(v)
}

func (x index[K, T]) remove(id K, v T) {
	delete(x[id], v)
	if len(x[id]) == 0 {
		delete(x, id)
	}
}

// adopt brings everything that is derived from the snapshot up to date with d,
// which the snapshot has in it already: indexes, filters, pools and gates. Doors
// that shall not be any more close here, with their flows. The caller holds mu.
func (e *Local) adopt(d Change) *work {
	w, refill := newWork(), set[string]{} // load balancers
	for id, n := range d.Set.Networks {
		e.adoptNetwork(id, true, n.Attachments, w)
		e.adoptReach(id, reach(n), w, refill)
	}
	for _, id := range d.Delete[fieldNetworks] {
		e.adoptNetwork(id, false, nil, w)
	}

	stale := set[string]{} // keys of rules
	for id := range d.Set.Groups {
		maps.Copy(stale, e.rulesOf[id])
	}
	for _, id := range d.Delete[fieldGroups] {
		maps.Copy(stale, e.rulesOf[id])
	}
	for key := range stale {
		e.compile(key)
		maps.Copy(w.ruled, e.rules[key].users)
	}

	for id, g := range d.Set.ServerGroups {
		e.adoptServerGroup(id, &g, w, refill)
	}
	for _, id := range d.Delete[fieldServerGroups] {
		e.adoptServerGroup(id, nil, w, refill)
	}
	for id, lb := range d.Set.LoadBalancers {
		e.adoptBalancer(id, &lb, w)
		refill.add(id)
	}
	for _, id := range d.Delete[fieldLoadBalancers] {
		e.adoptBalancer(id, nil, w)
	}
	for id := range refill {
		e.refill(id)
	}

	for id, ep := range d.Set.Endpoints {
		e.adoptEndpoint(id, &ep, w)
	}
	for _, id := range d.Delete[fieldEndpoints] {
		e.adoptEndpoint(id, nil, w)
	}
	for o := range w.owners {
		e.swap(o, w)
	}
	e.tidy()
	for id := range w.ruled {
		e.enforce(id)
	}
	return w
}

// balancer is a load balancer as it was adopted, with its pools.
type balancer struct {
	LoadBalancer
	served []Listener // those that this engine serves
	pools  map[poolKey]*pool
	tally  *tally // of direct clients

	cps    bucket
	quotas map[quotaKey]*listenerQuota
}

type (
	poolKey  struct{ zone, group string }
	quotaKey struct{ zone, listener string }
)

func (e *Local) adoptBalancer(id string, lb *LoadBalancer, w *work) {
	o := object{aBalancer, id}
	b := e.balancers[id]
	if b == nil {
		b = &balancer{pools: map[poolKey]*pool{}, tally: new(tally)}
		e.balancers[id] = b
	} else {
		e.inNetwork.remove(b.Network, o)
	}
	for _, l := range b.Listeners {
		e.balancersOf.remove(l.ServerGroup, id)
		w.groups.add(l.ServerGroup)
	}
	w.owners.add(o)
	for ep := range e.endpointsOf[id] {
		w.owners.add(object{anEndpoint, ep})
	}
	if lb == nil {
		delete(e.balancers, id)
		return
	}
	b.LoadBalancer = *lb
	b.setQuotas()
	b.served = slices.DeleteFunc(slices.Clone(lb.Listeners), func(l Listener) bool { return l.Protocol != verdict.TCP && l.Protocol != verdict.UDP })
	e.inNetwork.add(lb.Network, o)
	for _, l := range lb.Listeners {
		e.balancersOf.add(l.ServerGroup, id)
		w.groups.add(l.ServerGroup)
	}
}

// follow does what a change left to do: it makes the networks, waits for the flows
// that were cut, opens doors and starts checks. It looks at what shall be now, not
// at what was to be when the work was given, so it may run beside other changes.
func (e *Local) follow(w *work) {
	e.lookOut() // a watch would keep a network alive
	var making sync.WaitGroup
	free := make(chan struct{}, networksOnce)
	for id := range w.networks {
		free <- struct{}{}
		making.Go(func() {
			defer func() { <-free }()
			e.makeNetwork(id)
		})
	}
	making.Wait()
	e.await(w.parting)
	e.leadAll(w.owners)
	for o := range w.owners {
		e.settle(o)
	}
	e.lookOut()
	for g := range w.groups {
		e.mu.Lock()
		e.adoptChecks(g)
		e.mu.Unlock()
	}
}

// await waits until every flow that was cut has left, for partingTime at most.
func (e *Local) await(parting []<-chan struct{}) {
	late := time.NewTimer(partingTime)
	defer late.Stop()
	for _, gone := range parting {
		select {
		case <-gone:
		case <-late.C:
			e.log.Warn("flows that were cut are still there")
			return
		}
	}
}
