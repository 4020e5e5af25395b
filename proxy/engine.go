package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/flowlog"
	"github.com/openprivatelink/openprivatelink/proxy/forward"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const loopsMost = 8 // further processors are left to everything else

// Config of an engine.
type Config struct {
	Driver       vpc.Driver       // stays the caller's, who closes it after the engine
	Dir          string           // where the state is kept; empty: nowhere
	Installation string           // id that the driver puts into names
	Version      string           // of this build
	Log          *slog.Logger     // nil: slog.Default()
	Portable     bool             // the forwarder for every system, also where there is a better one
	Lookup       Lookup           // of servers' names; nil: this machine's resolver
	Window       time.Duration    // that a flow which goes on gets a record for; 0 means 10 minutes
	inherited    *handover        // of the program that had this process before; nil: none
	succeed      *succession      // how another takes it; nil: not at all
	Now          func() time.Time // for the times in records and facts; nil: time.Now
}

// Local is the engine in this process.
type Local struct {
	driver       vpc.Driver
	installation string
	version      string
	log          *slog.Logger
	now          func() time.Time
	started      time.Time
	store        *store
	forwarder    forward.Forwarder
	board        *board
	records      *flowlog.Log
	ends         reasonCounts
	series       *flowlog.Series
	repairs      *repairs
	checkSlots   chan struct{}
	lookup       Lookup
	lookups      chan struct{} // one is taken for each lookup

	life     context.Context // ends with Close
	die      context.CancelFunc
	work     sync.WaitGroup // the loops
	flows    sync.WaitGroup
	checking sync.WaitGroup
	commands sync.WaitGroup

	generation atomic.Uint64
	listeners  atomic.Int64
	unkept     atomic.Int64 // changes that could not be kept on disk
	active     atomic.Int64 // flows with two sides
	counting   sync.Mutex
	counted    time.Time // when counters were last posted

	// applying is held while a change is kept and adopted, and guards snapshot
	// against writers; it is free while sockets and networks are made.
	applying sync.Mutex

	// mu guards what follows: the snapshot and all that is derived from it.
	mu           sync.Mutex
	snapshot     Snapshot
	networks     map[string]*network
	attachments  map[string]*attachment
	balancers    map[string]*balancer
	serverGroups map[string]*serverGroup
	draining     map[*server]*time.Timer // servers that were removed, until they are cut
	names        map[string]*name        // of servers
	endpoints    map[string]*endpoint
	rules        map[string]*rules // by the list of security groups
	doors        map[object]map[place]*door
	places       map[place]*door
	halls        map[string]*hall // by network

	endpointsOf index[string, string] // by load balancer
	balancersOf index[string, string] // by server group
	rulesOf     index[string, string] // by security group
	namedIn     index[string, string] // server groups by name
	inNetwork   index[string, object] // by network: what may listen in it
	sockets     map[heldSocket]int    // of the program before, until they are taken
	closed      index[object, *door]  // by owner: doors that are closed and have flows that live on
	watches     map[string]*watch     // by network
	unwatched   set[string]           // networks whose watch has to be adjusted
}

// New starts an engine on cfg.Driver. It answers at once, while it makes what its
// directory remembers; a damaged directory is put aside and the engine carries
// nothing until it is told what shall be.
func New(cfg Config) (*Local, error) {
	log := cfg.Log
	if log == nil {
		log = slog.Default()
	}
	st, kept, err := openStore(cfg.Dir)
	damaged := errors.Is(err, errDamaged)
	switch {
	case damaged:
		log.Error("read state", "dir", cfg.Dir, "err", err)
	case err != nil:
		return nil, err
	}
	if h := cfg.inherited; h != nil && (damaged || kept.Generation != h.State.Generation) {
		kept, damaged = h.State, false
		st.forget()
	}
	records, err := openRecords(cfg)
	if err != nil {
		st.close()
		return nil, err
	}
	e := &Local{
		driver: cfg.Driver, installation: cfg.Installation, version: cfg.Version, log: log, now: cfg.Now, started: time.Now(),
		store: st, ends: newReasonCounts(), series: flowlog.NewSeries(), repairs: newRepairs(), checkSlots: make(chan struct{}, checksOnce), lookups: make(chan struct{}, lookupsOnce),
		snapshot:     kept.Snapshot,
		networks:     map[string]*network{},
		attachments:  map[string]*attachment{},
		balancers:    map[string]*balancer{},
		serverGroups: map[string]*serverGroup{},
		draining:     map[*server]*time.Timer{},
		names:        map[string]*name{},
		endpoints:    map[string]*endpoint{},
		rules:        map[string]*rules{},
		doors:        map[object]map[place]*door{},
		places:       map[place]*door{},
		halls:        map[string]*hall{},
		endpointsOf:  index[string, string]{},
		balancersOf:  index[string, string]{},
		rulesOf:      index[string, string]{},
		inNetwork:    index[string, object]{},
		closed:       index[object, *door]{},
		sockets:      map[heldSocket]int{},
		watches:      map[string]*watch{},
		unwatched:    set[string]{},
		namedIn:      index[string, string]{},
	}
	if e.lookup = cfg.Lookup; e.lookup == nil {
		e.lookup = systemLookup
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.board, e.records = newBoard(e.started), records
	e.generation.Store(kept.Generation)
	e.life, e.die = context.WithCancel(context.Background())
	if cfg.Portable {
		e.forwarder = forward.NewGoroutines(cfg.Driver, log)
	} else if e.forwarder, err = forward.New(cfg.Driver, loops(), log); err != nil {
		st.close()
		return nil, errors.Join(err, records.Close())
	}

	e.applying.Lock() // changes wait until leftovers are swept
	e.mu.Lock()
	w := e.adopt(Change{Set: e.snapshot}) //nolint:contextcheck // it lives as long as the engine
	if cfg.inherited != nil {
		e.inherit(cfg.inherited, w)
	}
	e.mu.Unlock()
	e.work.Go(func() { e.rebuild(w, damaged) })
	e.work.Go(e.sampleSeries)
	e.work.Go(func() { e.recordWindows(cmp.Or(cfg.Window, defaultWindow)) })
	return e, nil
}

// loops is how many event loops an engine has.
func loops() int { return min(runtime.NumCPU(), loopsMost) }

// rebuild makes what the state remembers, and then repairs what fails for as long
// as the engine lives. After damage nothing is swept: what is there may be wanted.
func (e *Local) rebuild(w *work, damaged bool) {
	e.mu.Lock()
	keep := e.snapshot.Networks
	e.mu.Unlock()
	if !damaged {
		ctx, cancel := context.WithTimeout(e.life, networkTimeout)
		if err := e.driver.Sweep(ctx, keep); err != nil {
			e.log.Error("sweep leftovers", "err", err)
		}
		cancel()
	}
	e.applying.Unlock()
	e.follow(w)
	e.dropSockets()
	e.repair()
}

// Clear takes away everything that the engine made and forgets its state. An error
// says what could not be taken away.
func (e *Local) Clear(ctx context.Context) error {
	if err := e.Apply(ctx, Change{}); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if left := slices.Sorted(maps.Keys(e.networks)); len(left) > 0 {
		return fmt.Errorf("remove networks: %s are still there", strings.Join(left, ", "))
	}
	return nil
}

// Close ends every flow, listener and check. Networks stay as they are. Closing
// again does nothing.
func (e *Local) Close() error {
	e.applying.Lock()
	e.die()
	e.applying.Unlock()
	e.work.Wait()
	e.mu.Lock()
	for _, d := range e.places {
		e.shut(d)
		d.flows.end(ReasonShutdown)
	}
	for _, h := range e.halls {
		h.close()
	}
	for _, g := range e.serverGroups {
		for _, s := range g.servers {
			e.stopCheck(s)
		}
	}
	for _, doors := range e.closed {
		for d := range doors {
			if d.end != nil {
				d.end.Stop()
			}
			d.flows.end(ReasonShutdown)
		}
	}
	for _, end := range e.draining {
		end.Stop()
	}
	e.mu.Unlock()
	e.lookOut()
	e.flows.Wait()
	e.forwarder.Close()
	e.checking.Wait()
	e.commands.Wait()
	e.store.close()
	return e.records.Close()
}

// Status implements [Engine].
func (e *Local) Status(context.Context) (Status, error) {
	c := e.driver.Capabilities()
	return Status{
		Version: e.version, PID: os.Getpid(), Mode: c.Mode, Reason: c.Reason, Installation: e.installation,
		Generation: e.generation.Load(), Started: e.started, Flows: e.active.Load(), Listeners: int(e.listeners.Load()),
	}, nil
}
