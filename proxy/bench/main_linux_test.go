package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// As package main of the product does.
func init() { runtime.LockOSThread() }

// TestMain is also the program that engines, shims, loads and backends are.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch args := os.Args[2:]; os.Args[1] {
		case "engine":
			os.Exit(proxy.EngineMain(args, "test"))
		case "shim":
			os.Exit(vpc.ShimMain(args))
		case "load", "backend", "copy":
			if err := command(os.Args[1:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	// Else each process waits a second before it ends, in a build with the race detector.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// TestMeasureSet measures very briefly, with an engine in namespaces.
func TestMeasureSet(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may enter the namespaces")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := filepath.Glob("/run/netns/op-b*")
	for _, set := range []string{plain, pair} {
		t.Run(set, func(t *testing.T) {
			o := options{
				only: []string{"crr", "bulk1"}, peers: []string{report.Direct, report.Self, report.Control, "go-iocopy"},
				rounds: 2, redos: 0, each: 50 * time.Millisecond, program: self,
			}
			s, settings, err := o.measureSet(t.Context(), set, "test")
			if err != nil {
				t.Fatal(err)
			}
			if got := settings["ipv4/tcp_congestion_control"]; got != "reno" {
				t.Errorf("congestion control: got %q, want reno", got)
			}
			for _, figure := range []string{"crr", "crr.all", "crr.p99", "bulk1", "bulk1.all"} {
				for _, peer := range s.Peers {
					got := s.Figures[figure][peer]
					if len(got) != o.rounds || slices.Min(got) <= 0 {
						t.Errorf("%s at %s: got %v, want %d values above 0", figure, peer, got, o.rounds)
					}
				}
			}
			for _, peer := range []string{report.Direct, report.Self} {
				if !slices.Contains(s.Peers, peer) {
					t.Errorf("%s was not measured: %s", peer, s.Left[peer])
				}
			}
			if _, ok := s.Figures["crr.cpu"][report.Direct]; ok {
				t.Error("direct has CPU time of a forwarder")
			}
			if set == pair && s.Left["go-iocopy"] == "" {
				t.Error("nobody says why go-iocopy is left out")
			}
		})
	}
	if after, _ := filepath.Glob("/run/netns/op-b*"); len(after) > len(before) {
		t.Errorf("namespaces are left: %v", after)
	}
}
