package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
)

//go:embed goals.toml
var goalsFile string

// options of a run.
type options struct {
	sets, only, peers []string // empty: all
	rounds, redos     int
	each              time.Duration
	program           string
	json, page        string
}

func run(ctx context.Context, args []string) error {
	o := options{}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	list := func(into *[]string, name, what string) {
		flags.Func(name, what+" (a,b,…)", func(s string) error {
			*into = strings.Split(s, ",")
			return nil
		})
	}
	list(&o.sets, "set", "sets: plain, vpc")
	list(&o.only, "only", "loads: idle, crr, rr64, rr1k, ping, bulk1, bulk8, udp1x64 and so on, counters, calls, rules, user")
	list(&o.peers, "peers", "peers, like direct, self, haproxy, nginx")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds over all peers")
	flags.IntVar(&o.redos, "redos", 2, "times to repeat a load that others disturbed")
	flags.DurationVar(&o.each, "for", 1500*time.Millisecond, "length of a load")
	flags.StringVar(&o.program, "program", "", "binary of the engine; it is built if none is named")
	flags.StringVar(&o.json, "json", "", "file for everything that was measured")
	page := pageFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.page = *page
	if unix.Geteuid() != 0 {
		return errors.New("only root may enter the namespaces in which this measures")
	}
	result, err := o.measure(ctx)
	if err != nil {
		return err
	}
	if o.json != "" {
		text, err := json.Marshal(result)
		if err == nil {
			err = os.WriteFile(o.json, append(text, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write what was measured: %w", err)
		}
	}
	return publish(result, o.page)
}

// rewrite prints and writes again what an earlier run has measured.
func rewrite(args []string) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	from := flags.String("json", "", "file that a run wrote")
	page := pageFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*from)
	var result report.Run
	if err == nil {
		err = json.Unmarshal(text, &result)
	}
	if err != nil {
		return fmt.Errorf("read what was measured: %w", err)
	}
	return publish(result, *page)
}

func pageFlag(flags *flag.FlagSet) *string {
	return flags.String("page", "", "file for the report, in Markdown")
}

var errFloor = errors.New("a floor is missed by more than the noise")

// publish prints a run, writes its page if that has a name, and says whether the
// floors hold.
func publish(result report.Run, page string) error {
	goals, err := report.ParseGoals(goalsFile)
	if err != nil {
		return err
	}
	if page != "" {
		var b bytes.Buffer
		result.Page(&b, goals)
		if err := os.WriteFile(page, b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if !result.Lines(os.Stdout, goals) {
		return errFloor
	}
	return nil
}

// measure runs every set.
func (o *options) measure(ctx context.Context) (report.Run, error) {
	version := "dev"
	if text, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output(); err == nil {
		version = strings.TrimSpace(string(text))
	}
	if o.program == "" {
		dir, err := os.MkdirTemp("", "bench-")
		if err != nil {
			return report.Run{}, err
		}
		defer os.RemoveAll(dir)
		o.program = filepath.Join(dir, "openprivatelink")
		build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-X main.version="+version, "-o", o.program, "github.com/openprivatelink/openprivatelink")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return report.Run{}, fmt.Errorf("build the engine: %w", err)
		}
	}
	result := report.Run{
		Date: time.Now().UTC().Format(time.DateOnly), Version: version, Seconds: o.each.Seconds(), Machine: machine(),
	}
	for _, set := range []string{plain, pair} {
		if !among(o.sets, set) {
			continue
		}
		s, is, err := o.measureSet(ctx, set, version)
		if err != nil {
			return report.Run{}, fmt.Errorf("set %s: %w", set, err)
		}
		maps.Copy(result.Machine.Settings, is)
		result.Sets = append(result.Sets, s)
	}
	return result, nil
}

func among(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }

// machine says where this runs.
func machine() report.Machine {
	m := report.Machine{Cores: runtime.NumCPU(), Settings: map[string]string{}}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		m.Settings["RLIMIT_NOFILE"] = fmt.Sprintf("%d, at most %d", limit.Cur, limit.Max)
	}
	for _, key := range []string{"pipe-max-size", "pipe-user-pages-soft", "pipe-user-pages-hard"} {
		text, _ := os.ReadFile("/proc/sys/fs/" + key)
		m.Settings["fs/"+key] = strings.TrimSpace(string(text))
	}
	return m
}
