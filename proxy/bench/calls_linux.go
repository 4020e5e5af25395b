package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	callsName  = "calls"
	callsEvent = "raw_syscalls:sys_enter"
)

// calls counts the system calls that a forwarder makes for each connection or
// request of a load, which hardly depends on what else the machine does.
func (r *rig) calls(ctx context.Context, w workload, p peer, each time.Duration) (float64, error) {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return 0, fmt.Errorf("perf: %w", errMissing)
	}
	file := filepath.Join(r.dir, "perf")
	defer os.Remove(file)
	pids := []string{strconv.Itoa(p.pid)}
	for _, child := range children(p.pid) {
		pids = append(pids, strconv.Itoa(child))
	}
	count := []string{perf, "stat", "-x", ",", "-e", callsEvent, "-o", file, "-p", strings.Join(pids, ","), "--", r.self}
	res, err := r.load(ctx, w, p, each, count...)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, rest, _ := strings.Cut(line, ","); strings.Contains(rest, callsEvent) {
			calls, err := strconv.ParseFloat(n, 64)
			return calls / res.Work, err
		}
	}
	return 0, errors.New("perf counted nothing")
}
