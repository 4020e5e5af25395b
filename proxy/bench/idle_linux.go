package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Connections that do nothing are opened by several processes, and leave some
// descriptors to their forwarder, which needs two for each.
const (
	idleName    = "idle"
	idleConns   = 7000
	idleClients = 2
	idleReserve = 2000
)

// idle opens connections to a peer that has had none so far, and returns what it
// needs for each of them.
func (r *rig) idle(ctx context.Context, p peer) (figures map[string]float64, err error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	each := min(idleConns, int(limit.Max-idleReserve)/2) / idleClients
	before, err := holdings(p.pid)
	if err != nil {
		return nil, err
	}
	// The kernel keeps what connections have used for the next ones: all peers are
	// compared with what it had before the first.
	if r.slab == 0 {
		r.slab = before["slab"]
	}
	before["slab"] = r.slab
	var let []func() error
	defer func() {
		for _, free := range let {
			err = errors.Join(err, free())
		}
	}()
	for range idleClients {
		free, err := r.hold(ctx, p, each)
		if err != nil {
			return nil, err
		}
		let = append(let, free)
	}
	after, err := holdings(p.pid)
	if err != nil {
		return nil, err
	}
	figures = map[string]float64{}
	for part := range after {
		figures[idleName+"."+part] = (after[part] - before[part]) / float64(each*idleClients)
	}
	return figures, nil
}

// hold opens connections to p, and returns what closes them.
func (r *rig) hold(ctx context.Context, p peer, conns int) (free func() error, err error) {
	cmd := exec.CommandContext(ctx, r.self, "load", "idle", "-to", p.at.String(), "-conns", fmt.Sprint(conns))
	var fault strings.Builder
	cmd.Stderr = &fault
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.from.start(cmd); err != nil {
		return nil, err
	}
	free = func() error {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(fault.String()))
		}
		return nil
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		return nil, errors.Join(errors.New("the connections do not come up"), free())
	}
	time.Sleep(settle)
	return free, nil
}

// holdings of a process and its children: bytes of memory, descriptors, and, of the
// whole machine, bytes of the kernel's own.
func holdings(pid int) (map[string]float64, error) {
	h := map[string]float64{}
	if err := addHoldings(h, pid); err != nil {
		return nil, err
	}
	slab, err := kilobytes("/proc/meminfo", "Slab:")
	h["slab"] = slab
	return h, err
}

func addHoldings(h map[string]float64, pid int) error {
	dir := fmt.Sprintf("/proc/%d", pid)
	memory, err := kilobytes(filepath.Join(dir, "smaps_rollup"), "Pss:")
	if err != nil {
		return err
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return err
	}
	h["memory"] += memory
	h["fds"] += float64(len(fds))
	for _, child := range children(pid) {
		if err := addHoldings(h, child); err != nil {
			return err
		}
	}
	return nil
}

// kilobytes returns, in bytes, what the line of a file says that begins with key.
func kilobytes(file, key string) (float64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == key && fields[2] == "kB" {
			n, err := strconv.ParseFloat(fields[1], 64)
			return n * 1024, err
		}
	}
	return 0, fmt.Errorf("%s: no line %s", file, key)
}
