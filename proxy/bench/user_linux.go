package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/bench/load"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// An ordinary user's pipes are small once the user has many of them. An engine that
// held one for each connection would be slow for all when some are idle.
const (
	userName  = "user"
	userIdle  = 500
	userAlone = "user-0idle"
	userCrowd = "user-500idle"
	nobody    = 65534
)

// asUser measures a stream through an engine of an ordinary user, by this program
// as that user, with and without idle connections beside it.
func (s *session) asUser(ctx context.Context) error {
	if s.rig.set != plain || !among(s.only, userName) || !among(s.peers, userName) {
		return nil
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // the programs may lie where the user cannot look
		return err
	}
	self, program := filepath.Join(dir, "bench"), filepath.Join(dir, "openprivatelink")
	if err := errors.Join(copyProgram(self, s.rig.self), copyProgram(program, s.program)); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, userName, "-program", program, "-rounds", fmt.Sprint(s.rounds), "-for", s.each.String())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it has networks to take away
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	rounds, err := converse(cmd)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.rig.left[userName] = err.Error()
		return nil
	}
	for i, r := range rounds {
		s.out.Add(userName, userAlone, r[0])
		s.out.Add(userName, userCrowd, r[1])
		s.say("user %d/%d %.4g Gbit/s alone, %.4g beside %d idle connections", i+1, len(rounds), r[0], r[1], userIdle)
	}
	return nil
}

// converse starts the ordinary user's program, which says which process its engine
// is, sets up the namespaces that this engine has, and returns what is measured then.
func converse(cmd *exec.Cmd) (rounds [][2]float64, err error) {
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
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var pid int
	answers := json.NewDecoder(out)
	if err = answers.Decode(&pid); err == nil {
		err = prepareHeld(pid)
	}
	_ = in.Close() // it goes on
	if err == nil {
		err = answers.Decode(&rounds)
	}
	if ended := cmd.Wait(); ended != nil {
		err = fmt.Errorf("%w: %s", ended, strings.TrimSpace(fault.String()))
	}
	return rounds, err
}

// prepareHeld sets up every namespace that a process holds open.
func prepareHeld(pid int) error {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return err
	}
	for _, file := range files {
		if to, err := os.Readlink(file); err != nil || !strings.HasPrefix(to, "net:[") {
			continue // closed meanwhile, or something else
		}
		c, err := enter(file)
		if err != nil {
			return err
		}
		_, err = c.prepare()
		c.leave()
		if err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// measureUser is what the ordinary user runs. It prints the engine's process, waits
// for the end of its input, and prints a list of pairs, in Gbit/s.
func measureUser(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(userName, flag.ContinueOnError)
	program := flags.String("program", "", "binary of the engine")
	rounds := flags.Int("rounds", 1, "pairs")
	each := flags.Duration("for", time.Second, "length of a load")
	if err := flags.Parse(args); err != nil {
		return err
	}
	u, err := openUser(ctx, *program)
	if err != nil {
		return err
	}
	pairs, err := u.measure(ctx, *rounds, *each)
	if err = errors.Join(err, u.close(ctx)); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(pairs)
}

func (u *user) measure(ctx context.Context, rounds int, each time.Duration) (pairs [][2]float64, err error) {
	st, err := u.engine.Status(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stdout, st.PID)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return nil, err
	}
	for range rounds {
		alone, err := u.bulk(ctx, each)
		if err != nil {
			return nil, err
		}
		free, err := u.hold(ctx)
		if err != nil {
			return nil, err
		}
		crowd, err := u.bulk(ctx, each)
		if err = errors.Join(err, free()); err != nil {
			return nil, err
		}
		pairs = append(pairs, [2]float64{alone, crowd})
	}
	return pairs, nil
}

// user is an engine of this user's own.
type user struct {
	dir    string
	self   string
	engine *proxy.Process
}

func openUser(ctx context.Context, program string) (_ *user, err error) {
	u := &user{}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.close(ctx))
		}
	}()
	if u.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if u.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	u.engine, err = proxy.Start(ctx, proxy.StartConfig{
		Dir: filepath.Join(u.dir, "engine"), Mode: vpc.ModeUserns, Installation: "buser", Program: program,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	shall := scene(pair)
	shall.Networks = networks(pair)
	if err := u.engine.Apply(ctx, proxy.Change{Generation: 1, Set: shall}); err != nil {
		return nil, fmt.Errorf("make the networks: %w", err)
	}
	_, err = u.start(ctx, "backend", "ready\n", "backend", "-at", backendAt.String())
	return u, err
}

// start runs this program in an attachment, waits for the line that it begins with,
// and returns what ends it.
func (u *user) start(ctx context.Context, where, line string, args ...string) (free func() error, err error) {
	in, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	from, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, hold.Close())
	}
	ended := make(chan error, 1)
	go func() {
		code, err := u.engine.Exec(ctx, u.command(where, args), [3]*os.File{in, out, os.Stderr})
		if err == nil && code != 0 {
			err = fmt.Errorf("exit code %d", code)
		}
		ended <- errors.Join(err, out.Close())
	}()
	free = func() error { return errors.Join(hold.Close(), <-ended, from.Close()) }
	if got, err := bufio.NewReader(from).ReadString('\n'); err != nil || got != line {
		return nil, fmt.Errorf("%s: it does not begin: %w", args[0], free())
	}
	return free, nil
}

func (u *user) command(where string, args []string) proxy.ExecRequest {
	return proxy.ExecRequest{Attachment: where, Args: append([]string{u.self}, args...), Env: os.Environ()}
}

func (u *user) hold(ctx context.Context) (free func() error, err error) {
	return u.start(ctx, "client", "up\n", "load", "idle", "-to", endpointAt.String(), "-conns", fmt.Sprint(userIdle))
}

// bulk sends one stream, and returns Gbit/s.
func (u *user) bulk(ctx context.Context, each time.Duration) (float64, error) {
	from, out, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer from.Close()
	code, err := u.engine.Exec(ctx, u.command("client", []string{"load", "bulk", "-to", endpointAt.String(), "-for", each.String()}), [3]*os.File{os.Stdin, out, os.Stderr})
	_ = out.Close() // a line of JSON fits into the pipe
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	var res load.Result
	if err == nil {
		err = json.NewDecoder(from).Decode(&res)
	}
	if err != nil {
		return 0, fmt.Errorf("load bulk: %w", err)
	}
	return res.Work / res.Seconds * 8e-9, nil
}

func (u *user) close(ctx context.Context) error {
	var errs []error
	if u.engine != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		errs = append(errs, u.engine.Stop(ctx))
	}
	if u.dir != "" {
		errs = append(errs, os.RemoveAll(u.dir))
	}
	return errors.Join(errs...)
}
