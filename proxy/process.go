package proxy

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// Files of the engine's directory, beside its state.
const (
	socketFile = "engine.sock"
	lockFile   = "engine.lock"
	logFile    = "engine.log"
)

// Socket returns the path of the control socket of the engine that keeps its state
// in dir.
func Socket(dir string) string { return filepath.Join(dir, socketFile) }

const (
	answerTimeout = 15 * time.Second // for a new engine to answer
	answerPoll    = 5 * time.Millisecond
	settledAfter  = 10 * time.Second // an engine that lived so long is started again at once
	logLimit      = 16 << 20         // bytes of log; then it is put aside, and the one before is lost
)

// StartConfig says how the engine of an installation runs.
type StartConfig struct {
	Dir          string        // of its state, socket, lock and log; made with mode 0700
	Mode         string        // netns, userns or loopback
	Reason       string        // why it is not a stronger mode
	Installation string        // id in every name on the host
	Version      string        // of this build
	Log          *slog.Logger  // nil: slog.Default()
	Window       time.Duration // that flows which go on get a record for; 0 means 10 minutes
	Program      string        // that is run as "PROGRAM engine …"; empty: this one

	// Of the process that is an engine.
	lock      *os.File
	inherited *handover
}

// Process is the engine of an installation, watched: when it dies it is started
// again. In loopback mode it is not a process of its own but a part of this one,
// behind the same socket.
type Process struct {
	*Remote
	cfg StartConfig

	life    context.Context // of an engine in this process
	end     context.CancelFunc
	watched context.Context
	unwatch context.CancelFunc
	loops   sync.WaitGroup
}

// Start finds the engine that serves cfg.Dir, or starts one, and returns once it
// answers. The engine does not end with the caller, whose successor finds it; it
// may then be of another version, which its Status says; [Remote.Upgrade] replaces
// it. An engine of another mode or installation is stopped, for it cannot become
// what cfg asks for.
func Start(ctx context.Context, cfg StartConfig) (*Process, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the engine's directory: %w", err)
	}
	p := &Process{Remote: Dial(Socket(cfg.Dir)), cfg: cfg}
	p.life, p.end = context.WithCancel(context.WithoutCancel(ctx))
	p.watched, p.unwatch = context.WithCancel(p.life)
	if err := p.ensure(ctx); err != nil {
		p.Close()
		return nil, err
	}
	p.loops.Go(p.watch)
	return p, nil
}

// Close stops watching. An engine in a process of its own goes on.
func (p *Process) Close() {
	p.end()
	p.loops.Wait()
	p.Remote.Close()
}

// Stop takes away every network, ends the engine and closes p.
func (p *Process) Stop(ctx context.Context) error {
	defer p.Close()
	p.unwatch()
	return StopEngine(ctx, p.cfg.Dir)
}

// StopEngine asks the engine that serves dir to take away every network, and waits
// until it has ended. It fails with [ErrAway] if none runs.
func StopEngine(ctx context.Context, dir string) error {
	r := Dial(Socket(dir))
	defer r.Close()
	if err := r.Stop(ctx); err != nil {
		return err
	}
	for {
		lock, err := takeLock(dir)
		if err == nil {
			return lock.Close()
		}
		if !errors.Is(err, errLocked) {
			return err
		}
		if err := pause(ctx, answerPoll); err != nil {
			return err
		}
	}
}

// ensure returns once an engine answers. It starts one if none holds the lock.
func (p *Process) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var ended <-chan error // of the engine that was started here
	for {
		st, err := p.Status(ctx)
		if err == nil && st.Mode == p.cfg.Mode && st.Installation == p.cfg.Installation {
			return nil
		}
		if err == nil {
			p.cfg.Log.Warn("stopping an engine of another kind", "mode", st.Mode, "installation", st.Installation)
			if err := StopEngine(ctx, p.cfg.Dir); err != nil {
				return fmt.Errorf("stop an engine of mode %s and installation %s: %w", st.Mode, st.Installation, err)
			}
			ended = nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the engine ended at once: %w%s", err, p.lastWords())
		default:
		}
		if ended == nil {
			lock, err := takeLock(p.cfg.Dir)
			if err == nil {
				ended, err = p.spawn(lock)
			}
			if err != nil && !errors.Is(err, errLocked) {
				return err
			}
		}
		if pause(ctx, answerPoll) != nil {
			return fmt.Errorf("the engine does not answer: %w%s", err, p.lastWords())
		}
	}
}

// watch starts the engine again whenever it dies.
func (p *Process) watch() {
	wait := time.Duration(0)
	for {
		began := time.Now()
		p.hold()
		if p.watched.Err() != nil {
			return
		}
		if time.Since(began) > settledAfter {
			wait = 0
		}
		if _, err := p.Status(p.watched); err == nil {
			continue // another program has taken its place
		}
		p.cfg.Log.Warn("the engine is gone; starting it again", "after", wait)
		for pause(p.watched, wait) == nil {
			wait = min(max(2*wait, firstPause), lastPause)
			err := p.ensure(p.watched)
			if err == nil {
				break
			}
			if p.watched.Err() == nil {
				p.cfg.Log.Error("start the engine", "err", err)
			}
		}
	}
}

// hold keeps a connection to the engine and returns when that ends.
func (p *Process) hold() {
	c, err := p.dial(p.watched)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(p.watched, func() { _ = c.Close() })()
	_, _ = c.Read(make([]byte, 1)) // the engine says nothing that it was not asked
}

// spawn starts an engine that holds lock and returns a channel for its end.
func (p *Process) spawn(lock *os.File) (<-chan error, error) {
	ended := make(chan error, 1)
	if p.cfg.Mode == vpc.ModeLoopback {
		p.loops.Go(func() {
			defer lock.Close()
			ended <- runEngine(p.life, p.cfg)
		})
		return ended, nil
	}
	defer lock.Close() // the child has it too
	if p.cfg.Mode == vpc.ModeUserns {
		if n := vpc.KillLeftovers(p.cfg.Installation); n > 0 {
			p.cfg.Log.Warn("killed what a former engine left", "processes", n)
		}
	}
	log, err := openLog(filepath.Join(p.cfg.Dir, logFile))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	program := p.cfg.Program
	if program == "" {
		if program, err = self(); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(program, p.cfg.args("-lock", "3")...) //nolint:noctx // it outlives this process
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log // a file: a pipe would kill it after us
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = vpc.SysProcAttr(p.cfg.Mode)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the engine (%s): %w", p.cfg.Mode, err)
	}
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit code 0")
		}
		ended <- err
	}()
	return ended, nil
}

// lastWords returns the end of the engine's log.
func (p *Process) lastWords() string {
	const most = 2 << 10
	f, err := os.Open(filepath.Join(p.cfg.Dir, logFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return ""
	}
	return "; its log ends with:\n" + string(b)
}

// args are those of the program that is an engine as c says.
func (c *StartConfig) args(more ...string) []string {
	return append([]string{
		"engine", "-dir", c.Dir, "-mode", c.Mode, "-reason", c.Reason, "-installation", c.Installation, "-window", c.Window.String(),
	}, more...)
}

// EngineMain is the hidden subcommand "engine". It serves until SIGTERM or SIGINT,
// which leave the networks for the next engine, or until a client asks it to stop.
// It returns the exit code.
func EngineMain(args []string, version string) int {
	flags := flag.NewFlagSet("engine", flag.ContinueOnError)
	cfg := StartConfig{Version: version, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags.StringVar(&cfg.Dir, "dir", "", "state, socket, lock")
	flags.StringVar(&cfg.Mode, "mode", "", "netns, userns or loopback")
	flags.StringVar(&cfg.Reason, "reason", "", "why it is not a stronger mode")
	flags.StringVar(&cfg.Installation, "installation", "", "id of the installation")
	flags.DurationVar(&cfg.Window, "window", 0, "that flows which go on get a record for")
	inherited := flags.Int("lock", -1, "descriptor of the lock, if it is held already")
	resume := flags.Int("resume", -1, "descriptor of what the program before handed over")
	check := flags.Bool("check", false, "only say whether this program could go on with what standard input has")
	if err := flags.Parse(args); err != nil || cfg.Dir == "" {
		return 2
	}
	if *check {
		return checkHandover(os.Stdin)
	}
	var lock *os.File
	var err error
	if *resume >= 0 {
		if cfg.inherited, err = readHandover(os.NewFile(uintptr(*resume), "handover")); err != nil {
			cfg.Log.Error("read what was handed over", "err", err)
			return 1
		}
	}
	if *inherited >= 0 {
		syscall.CloseOnExec(*inherited) // or commands would hold it
		lock = os.NewFile(uintptr(*inherited), lockFile)
	} else if err = os.MkdirAll(cfg.Dir, 0o700); err == nil {
		lock, err = takeLock(cfg.Dir)
	}
	if err == nil {
		defer lock.Close()
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + loops()) // a loop takes one while it waits
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // not Ignore, which commands would inherit
		cfg.lock = lock
		err = runEngine(ctx, cfg)
	}
	if err != nil {
		cfg.Log.Error("engine", "err", err)
		return 1
	}
	return 0
}

// runEngine serves until ctx ends or a client asks the engine to stop.
func runEngine(ctx context.Context, cfg StartConfig) error {
	made := vpc.Config{Installation: cfg.Installation, Mode: cfg.Mode, Reason: cfg.Reason, Log: cfg.Log}
	if cfg.inherited != nil {
		made.Inherited = &cfg.inherited.Driver
	}
	driver, err := vpc.New(made) //nolint:contextcheck // it ends with Close
	if err != nil {
		return fmt.Errorf("open the %s driver: %w", cfg.Mode, err)
	}
	cfg.Log.Info("engine starts", "pid", os.Getpid(), "version", cfg.Version, "mode", driver.Capabilities().Mode)
	engine := Config{
		Driver: driver, Dir: cfg.Dir, Installation: cfg.Installation, Version: cfg.Version, Window: cfg.Window, Log: cfg.Log, inherited: cfg.inherited,
	}
	if cfg.lock != nil {
		engine.succeed = &succession{cfg}
	}
	err = Serve(ctx, engine, Socket(cfg.Dir))
	cfg.Log.Info("engine ends", "pid", os.Getpid())
	return errors.Join(err, driver.Close())
}

var errLocked = errors.New("another engine serves this directory")

// takeLock takes the lock of an engine's directory. It belongs to the open file,
// so it can be handed to a child, and ends with the last process that has it.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the engine's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock the engine's directory: %w", err)
	}
	return f, nil
}

// openLog opens a log for more lines, or a new one if that is too long.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		_ = os.Rename(path, path+".1") // else it grows until the next start
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the engine's log: %w", err)
	}
	return f, nil
}

// self is this program, also once its file has been replaced.
func self() (string, error) {
	const link = "/proc/self/exe"
	if _, err := os.Stat(link); err == nil {
		return link, nil
	}
	return os.Executable()
}

// pause waits for d, or until ctx ends, which is its error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
