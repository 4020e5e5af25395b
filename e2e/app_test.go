// Package e2e drives the built binary as its users do: the console in Chromium,
// the commands, and bytes through real endpoints. OPENPRIVATELINK_BINARY names the
// binary; as root VPCs are namespaces of the machine, as an ordinary user they live
// in a user namespace.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a condition may take on a busy machine before it counts as
// not coming. What is promised faster is measured where it is promised.
const patience = 20 * time.Second

func binary(tb testing.TB) string {
	tb.Helper()
	path := os.Getenv("OPENPRIVATELINK_BINARY")
	if path == "" {
		path = filepath.Join("..", "bin", "openprivatelink")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("no binary: %v (run make build)", err)
	}
	return path
}

// app is a running server with a data folder of its own.
type app struct {
	t    testing.TB
	bin  string
	data string
	args []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	url    string // http://127.0.0.1:port
	link   string // signs in once
	ready  time.Duration
	log    bytes.Buffer
}

// demoPassword is what the demo's users get in tests.
const demoPassword = "correct-horse-battery"

// start runs the server on an empty data folder. It is stopped, with its engine and
// networks, when the test ends.
func start(tb testing.TB, args ...string) *app {
	tb.Helper()
	dir, err := os.MkdirTemp("", "opl-e2e-") //nolint:usetesting // a path that is short enough for a unix socket
	if err != nil {
		tb.Fatal(err)
	}
	a := &app{t: tb, bin: binary(tb), data: filepath.Join(dir, "data"), args: args}
	tb.Cleanup(func() {
		a.stop()
		if tb.Failed() {
			a.mu.Lock()
			tb.Logf("server log:\n%s", a.log.String())
			a.mu.Unlock()
			if b, err := os.ReadFile(filepath.Join(a.data, "engine", "engine.log")); err == nil {
				tb.Logf("engine log:\n%s", b)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("remove data folder: %v", err)
		}
	})
	a.run()
	return a
}

var (
	urlLine  = regexp.MustCompile(`OpenPrivateLink is up\s+(http://[^\s/]+)`)
	linkLine = regexp.MustCompile(`(http://\S+/welcome\?t=\S+)`)
)

// run starts the server process and returns when it has printed its address.
func (a *app) run() {
	a.t.Helper()
	listen := "127.0.0.1:0"
	if a.url != "" { // again, at the same address
		listen = strings.TrimPrefix(a.url, "http://")
	}
	cmd := exec.Command(a.bin, append([]string{"serve", "--data", a.data, "--listen", listen}, a.args...)...) //nolint:noctx // it ends by signals
	cmd.Env = append(os.Environ(), "OPENPRIVATELINK_DEMO_PASSWORD="+demoPassword)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		a.t.Fatal(err)
	}
	cmd.Stderr = lockedWriter{&a.mu, &a.log}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.exited = make(chan struct{})
	up := make(chan error, 1)
	go func() {
		sc := bufio.NewScanner(stdout)
		told := false
		for sc.Scan() {
			line := sc.Text()
			if m := urlLine.FindStringSubmatch(line); m != nil {
				a.url = m[1]
			}
			if m := linkLine.FindStringSubmatch(line); m != nil {
				a.link = m[1]
			}
			if a.url != "" && line == "" && !told { // the block ends with an empty line
				told = true
				up <- nil
			}
		}
		cmd.Wait()
		if !told {
			up <- fmt.Errorf("the server ended before it was up: %v", cmd.ProcessState)
		}
		close(a.exited)
	}()
	select {
	case err := <-up:
		a.ready = time.Since(begun)
		if err != nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.t.Fatalf("%v\n%s", err, a.log.String())
		}
	case <-time.After(patience):
		cmd.Process.Kill()
		a.t.Fatal("the server did not come up")
	}
	a.cmd = cmd
}

// kill ends the server process without a word, as a crash does.
func (a *app) kill() {
	a.t.Helper()
	if err := a.cmd.Process.Kill(); err != nil {
		a.t.Fatal(err)
	}
	<-a.exited
}

// stop ends server and engine, however far they got.
func (a *app) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, a.bin, "stop", "--data", a.data).CombinedOutput(); err != nil {
		a.t.Errorf("stop: %v\n%s", err, out)
		if a.cmd != nil {
			a.cmd.Process.Kill()
		}
	}
	if a.exited != nil {
		select {
		case <-a.exited:
		case <-ctx.Done():
			a.t.Error("the server did not end")
		}
	}
}

// state is what `openprivatelink status` says.
type state struct {
	Server int
	Since  time.Time // when the server started
	URL    string
	Engine struct {
		PID     int       `json:"pid"`
		Mode    string    `json:"mode"`
		Flows   int       `json:"flows"`
		Started time.Time `json:"started"`
	}
}

func (a *app) status() state {
	a.t.Helper()
	var st state
	eventually(a.t, func() error {
		out, err := a.command("status", "--json")
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(out), &st)
	})
	return st
}

// ready4exec waits until the attachment is there.
func (a *app) ready4exec(attachment string) {
	a.t.Helper()
	eventually(a.t, func() error {
		_, err := a.run1(attachment, "true")
		return err
	})
}

// command runs a command of the binary and returns what it printed.
func (a *app) command(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, a.bin, append(args[:1:1], append([]string{"--data", a.data}, args[1:]...)...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

// admin runs `openprivatelink NOUN VERB …` and decodes its JSON.
func (a *app) admin(v any, noun, verb string, args ...string) {
	a.t.Helper()
	full := append([]string{verb, "--data", a.data, "--json"}, args...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, a.bin, append([]string{noun}, full...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		a.t.Fatalf("%s %s: %v: %s", noun, strings.Join(full, " "), err, stderr.String())
	}
	if err := json.Unmarshal(out, v); err != nil {
		a.t.Fatalf("%s %s: %v in %s", noun, verb, err, out)
	}
}

// inside prepares a command inside an attachment.
func (a *app) inside(attachment string, argv ...string) *exec.Cmd {
	return exec.Command(a.bin, append([]string{"exec", "--data", a.data, attachment, "--"}, argv...)...) //nolint:noctx // callers end it
}

// run1 runs a command inside an attachment to its end.
func (a *app) run1(attachment string, argv ...string) (string, error) {
	cmd := a.inside(attachment, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// background runs a command inside an attachment until the test ends.
func (a *app) background(attachment string, argv ...string) *exec.Cmd {
	a.t.Helper()
	cmd := a.inside(attachment, argv...)
	out := &lockedWriter{&a.mu, &a.log}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	return cmd
}

// eventually waits until f returns nil.
func eventually(tb testing.TB, f func() error) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	var err error
	for time.Now().Before(deadline) {
		if err = f(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Fatalf("not in %v: %v", patience, err)
}

// exitCode returns a finished command's code, -1 if it is something else.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return -1
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
