package vpc

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kept are the capabilities that a command of root's has: what programs need to
// change to another user and to listen, and nothing that reaches past the
// attachment. It is no sandbox, for the file system is the host's.
var kept = []int{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
	unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE,
}

// forging are those of a Capable command.
var forging = []int{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}

func (d *namespaces) Start(_ context.Context, network, attachment string, c Command) error {
	ns, done, err := d.inside(network, attachment)
	if err != nil {
		return err
	}
	defer done()
	a := d.attachment(network, attachment)
	s := shim{
		Command: c, exec: d.Exec, directory: d.Dir,
		marks: marks(d.Installation, network, attachment, a.Address),
	}
	ended := func() {}
	running := Running{Network: network, Attachment: attachment, Own: c.Control == nil}
	// In a user namespace the attachment ends with the engine, and so does the command.
	if c.Control == nil || d.Mode == ModeUserns {
		if s.life, ended, err = d.life.take(); err != nil {
			return err
		}
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, spoilt for others, ends with this goroutine
		err := ns.enter()
		if err == nil {
			err = dropCapabilities(c.Capable)
		}
		if err == nil {
			err = s.start(func(pid int) {
				running.PID, running.Life = pid, s.life != nil
				d.began(running)
			}, func() {
				d.ended(running.PID)
				ended()
			}) // forks from this thread, and so inside
		}
		started <- err
	}()
	if err := <-started; err != nil {
		ended()
		return fmt.Errorf("start a command in attachment %s: %w", attachment, err)
	}
	return nil
}

// began and ended count the shims that run.
func (d *namespaces) began(r Running) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[r.PID] = r
}

func (d *namespaces) ended(pid int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.running, pid)
}

// inherit goes on with what a former driver in this process left.
func (d *namespaces) inherit(in Inheritance) error {
	d.life = inheritLifeline(in.Life)
	for name, fd := range in.Namespaces {
		ns, err := inheritNamespace(fd, name)
		if err != nil {
			return err
		}
		d.inherited[name] = ns
	}
	for _, r := range in.Commands {
		p, err := os.FindProcess(r.PID)
		if err != nil {
			return fmt.Errorf("find command %d: %w", r.PID, err)
		}
		done := func() {}
		if r.Life {
			if _, done, err = d.life.take(); err != nil {
				return err
			}
		}
		d.running[r.PID] = r
		exit := make(chan int, 1)
		if r.Own {
			d.resumable[[2]string{r.Network, r.Attachment}] = exit
		}
		go func() {
			exit <- exitOf(p)
			d.ended(r.PID)
			done()
		}()
	}
	return nil
}

// Resume implements [Driver].
func (d *namespaces) Resume(network, attachment string, exited func(code int)) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := [2]string{network, attachment}
	exit, ok := d.resumable[at]
	if ok {
		delete(d.resumable, at)
		go func() { exited(<-exit) }()
	}
	return ok
}

// Inheritance implements [Driver].
func (d *namespaces) Inheritance() Inheritance {
	d.mu.RLock()
	defer d.mu.RUnlock()
	in := Inheritance{
		Namespaces: map[string]int{}, Commands: slices.Collect(maps.Values(d.running)),
		Life: [2]int{descriptor(d.life.here), descriptor(d.life.there)},
	}
	if d.pins == nil {
		for _, r := range d.networks {
			if r.ns != nil {
				in.Namespaces[routerPin(r.id)] = descriptor(r.ns.file)
			}
			for id, pl := range r.places {
				if pl.ns != nil {
					in.Namespaces[attachmentPin(r.id, id)] = descriptor(pl.ns.file)
				}
			}
		}
	}
	return in
}

// descriptor is the number of f, which stays as it is: File.Fd would make it
// blocking.
func descriptor(f *os.File) (n int) {
	c, err := f.SyscallConn()
	if err != nil {
		return -1
	}
	if c.Control(func(fd uintptr) { n = int(fd) }) != nil {
		return -1
	}
	return n
}

// dropCapabilities takes from the calling thread what the command, and the shim
// before it, must not inherit. An ordinary user's programs get capabilities only
// from the ambient set; root's get all that the bounding set leaves.
func dropCapabilities(capable bool) error {
	keep := kept
	if capable {
		keep = slices.Concat(kept, forging)
	}
	if os.Geteuid() == 0 {
		for c := 0; ; c++ {
			if slices.Contains(keep, c) {
				continue
			}
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err == unix.EINVAL {
				break // past the last that this kernel knows
			} else if err != nil {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if capable {
		for _, c := range forging {
			data[0].Inheritable |= 1 << c
		}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set the capabilities: %w", err)
	}
	if !capable {
		return nil
	}
	for _, c := range forging {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return fmt.Errorf("raise capability %d: %w", c, err)
		}
	}
	return nil
}

// How long processes may take to end once asked, and to vanish once killed.
const (
	evictGrace = 500 * time.Millisecond
	evictWait  = 5 * time.Second
)

// evict ends the processes in ns, or those of them whose environment holds mark.
// They are asked, then killed, until none is left.
func (d *namespaces) evict(ctx context.Context, ns *namespace, mark string) error {
	link := fmt.Sprintf("net:[%d]", ns.inode)
	match := func(pid string) bool {
		at, err := os.Readlink(filepath.Join("/proc", pid, "ns/net"))
		return err == nil && at == link && (mark == "" || marked(pid, mark))
	}
	signal, start := unix.SIGTERM, time.Now()
	asked := map[int]bool{}
	for {
		pids := processes(match)
		if len(pids) == 0 {
			return nil
		}
		switch past := time.Since(start); {
		case past > evictWait:
			return fmt.Errorf("processes %v do not end", pids)
		case past > evictGrace:
			signal = unix.SIGKILL
		}
		for _, pid := range pids {
			if signal == unix.SIGKILL || !asked[pid] {
				kill(pid, signal, match)
				asked[pid] = true
			}
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// KillLeftovers kills the processes of commands that an engine of the installation
// left behind, and returns how many there were. It is for user namespaces, whose
// networks end with their engine, and for the engine's parent: the next engine,
// in another user namespace, may not look into them.
func KillLeftovers(installation string) int {
	match := func(pid string) bool { return marked(pid, envInstallation+"="+installation) }
	found := processes(match)
	for _, pid := range found {
		kill(pid, unix.SIGKILL, match)
	}
	return len(found)
}

// processes lists those that match, but never this one.
func processes(match func(pid string) bool) (found []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && match(e.Name()) {
			found = append(found, pid)
		}
	}
	return found
}

// marked reports whether the environment of a process holds mark.
func marked(pid, mark string) bool {
	env, err := os.ReadFile(filepath.Join("/proc", pid, "environ"))
	return err == nil && slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return string(v) == mark })
}

// kill signals a process if it still matches: the number may be another's by now.
func kill(pid int, signal syscall.Signal, match func(pid string) bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer unix.Close(fd)
	if match(strconv.Itoa(pid)) {
		_ = unix.PidfdSendSignal(fd, signal, nil, 0) // gone, or somebody else's by setuid: evict sees it again
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
