package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
)

// TestTemplates has each forwarder that is installed check its own configuration.
func TestTemplates(t *testing.T) {
	check := map[string]func(cmd *exec.Cmd) []string{
		"haproxy": func(cmd *exec.Cmd) []string { return append(cmd.Args[1:], "-c") },
		"nginx":   func(cmd *exec.Cmd) []string { return append(cmd.Args[1:], "-t", "-e", "stderr") },
	}
	one, two := namespace(t, "one"), namespace(t, "two")
	for set, r := range map[string]rig{plain: {front: one, back: one}, pair: {front: one, back: two}} {
		for _, o := range others {
			t.Run(set+"/"+o.name, func(t *testing.T) {
				r.dir = t.TempDir()
				cmd, err := o.open(t.Context(), &r, o.name, netip.MustParseAddr("127.0.0.1"))
				if err != nil {
					t.Skip(err)
				}
				if set == pair && os.Getuid() != 0 {
					t.Skip("only root can make the namespaces that it names")
				}
				args, ok := check[filepath.Base(cmd.Path)]
				if !ok {
					return
				}
				if out, err := exec.CommandContext(t.Context(), cmd.Path, args(cmd)...).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
	}
}

// namespace makes one where that is allowed; without, it is only a name.
func namespace(t *testing.T, name string) *cell {
	t.Helper()
	c := &cell{name: fmt.Sprintf("bench-%d-%s", os.Getpid(), name)}
	if os.Getuid() != 0 {
		return c
	}
	if out, err := exec.CommandContext(t.Context(), "ip", "netns", "add", c.name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := exec.CommandContext(context.Background(), "ip", "netns", "delete", c.name).Run(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestGoals wants every figure that has a goal to be one that is measured, and every
// peer that one names to be there.
func TestGoals(t *testing.T) {
	goals, err := report.ParseGoals(goalsFile)
	if err != nil {
		t.Fatal(err)
	}
	figures := map[string]bool{
		"idle.memory": true, "idle.fds": true, "idle.slab": true, countersName: true, userName: true, "rules60": true, "rules1000": true,
	}
	for _, w := range workloads {
		for _, part := range []string{"", ".cpu", ".all", ".p50", ".p99", ".p999", ".lost", "." + callsName} {
			figures[w.name+part] = true
		}
	}
	peers := map[string]bool{report.Direct: true, userAlone: true, userCrowd: true}
	for _, s := range selves {
		peers[s.name] = true
	}
	for _, o := range others {
		peers[o.name] = true
	}
	for _, f := range goals.Figures {
		if !figures[f.ID] {
			t.Errorf("%s is not measured", f.ID)
		}
		for _, c := range []report.Condition{f.Floor, f.Goal, f.Stretch} {
			for _, b := range c {
				if b.Peer != "" && !peers[b.Peer] || !peers[f.Subject] {
					t.Errorf("%s at %s: %v: there is no such peer", f.ID, f.Subject, b)
				}
			}
		}
	}
}

func TestProcessTime(t *testing.T) {
	before, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	busy := exec.CommandContext(t.Context(), "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	if err := busy.Run(); err != nil {
		t.Fatal(err)
	}
	after, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	user := busy.ProcessState.UserTime() + busy.ProcessState.SystemTime()
	if got := after - before; got < user-2*tick {
		t.Errorf("the process and its child took %v, want at least the child's %v", got, user)
	}
	if own := ownTime(); own < user {
		t.Errorf("own time: got %v, want at least %v", own, user)
	}
	if machine, err := machineTime(); err != nil || machine < after {
		t.Errorf("time of the machine: got %v, %v, want at least our %v", machine, err, after)
	}
}
