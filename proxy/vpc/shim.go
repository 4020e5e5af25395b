//go:build unix

package vpc

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// shim is a command about to be started under a process of its own, the shim. It
// is this program again, the command's parent, and outlives the engine: neither an
// upgrade nor, where namespaces are pinned, a crash of the engine touches the
// command.
type shim struct {
	Command
	exec      string
	marks     []string // added to the environment
	directory string   // where Dir is empty
	life      *os.File // end of it is the end of the command; nil: none
}

// Every process of a command carries these in its environment. They are how
// leftovers are found.
const (
	envInstallation = "OPENPRIVATELINK_INSTALLATION"
	envAttachment   = "OPENPRIVATELINK_ATTACHMENT"
	envAddress      = "OPENPRIVATELINK_ADDRESS"
)

func marks(installation, network, attachment string, at netip.Addr) []string {
	return []string{envInstallation + "=" + installation, attachmentMark(network, attachment), envAddress + "=" + at.String()}
}

func attachmentMark(network, id string) string { return envAttachment + "=" + network + "/" + id }

// Descriptors of the shim beside the command's own three.
const (
	shimControl = 3 + iota
	shimLife
)

// start forks the shim from the calling thread, tells its process, and calls ended
// once it has ended and Exited has returned.
func (s shim) start(forked func(pid int), ended func()) error {
	if len(s.Args) == 0 {
		return errors.New("no command")
	}
	args := []string{"openprivatelink", "shim", "-dir", s.Dir}
	if s.Dir == "" {
		args[3] = s.directory
	}
	if s.TTY {
		args = append(args, "-tty")
	}
	if s.Control != nil {
		args = append(args, "-control")
	}
	if s.life != nil {
		args = append(args, "-life")
	}
	args = append(append(args, "--"), s.Args...)
	env := s.Env
	if env == nil { // not all that the engine has: some may be secret
		for _, name := range []string{"PATH", "HOME", "LANG"} {
			env = append(env, name+"="+os.Getenv(name))
		}
	}
	// Descriptors and not files are passed on, because File.Fd may change the mode
	// of what the client shares with us.
	files, closeAll, err := duplicates(s.Stdio[0], s.Stdio[1], s.Stdio[2], s.Control, s.life)
	if err != nil {
		return err
	}
	defer closeAll()
	pid, err := syscall.ForkExec(s.exec, args, &syscall.ProcAttr{
		Dir: "/", Env: slices.Concat(env, s.marks), Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("run %s: %w", s.exec, err)
	}
	forked(pid)
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	go func() {
		defer ended()
		code := exitOf(p)
		if s.Control == nil && s.Exited != nil {
			s.Exited(code)
		}
	}()
	return nil
}

// exitOf waits for the end of a shim and returns its exit code.
func exitOf(p *os.Process) int {
	state, err := p.Wait()
	if err == nil && state.ExitCode() >= 0 {
		return state.ExitCode()
	}
	return 128 + int(syscall.SIGKILL)
}

// duplicates returns descriptors of files that fork may pass on; nil becomes the
// null device.
func duplicates(files ...*os.File) (fds []uintptr, closeAll func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	closeAll = func() {
		for _, fd := range fds {
			syscall.Close(int(fd))
		}
	}
	for _, f := range files {
		if f == nil {
			f = null
		}
		var fd int
		c, err := f.SyscallConn()
		if err == nil {
			e := c.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) })
			err = errors.Join(e, err)
		}
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
		}
		fds = append(fds, uintptr(fd))
	}
	return fds, closeAll, nil
}

// Note is what the client of a command and its shim say to each other on the
// client's connection. The engine says Error, and the shim nothing, if there is no
// command.
type Note struct {
	Signal int    `json:"signal,omitempty"` // to the command
	Exit   *int   `json:"exit,omitempty"`   // of the command; 128+n for signal n; the last note
	Error  string `json:"error,omitempty"`
}

// What the shim answers for a command that could not be run, as shells do.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// killGrace is how long a command may take to end once asked.
const killGrace = 5 * time.Second

// ShimMain is the hidden subcommand "shim", started by Driver.Start. It runs the
// command, relays signals to it, tells its client the exit code, and returns the
// same code for its own exit.
func ShimMain(args []string) int {
	flags := flag.NewFlagSet("shim", flag.ContinueOnError)
	dir := flags.String("dir", "/", "where the command starts")
	tty := flags.Bool("tty", false, "standard input is to be the command's terminal")
	control := flags.Bool("control", false, "descriptor 3 is the client's connection")
	life := flags.Bool("life", false, "descriptor 4 ends with the engine")
	if err := flags.Parse(args); err != nil || flags.NArg() == 0 {
		return exitNotExecutable
	}
	syscall.CloseOnExec(shimControl)
	syscall.CloseOnExec(shimLife)
	var client *net.UnixConn
	if *control {
		c, err := net.FileConn(os.NewFile(shimControl, "control"))
		if err != nil {
			fmt.Fprintln(os.Stderr, "openprivatelink: control:", err)
			return exitNotExecutable
		}
		client = c.(*net.UnixConn)
		defer client.Close()
	}
	code := runCommand(flags.Args(), *dir, *tty, client, *life)
	if client != nil {
		_ = Send(client, Note{Exit: &code}) // it may be gone
	}
	return code
}

func runCommand(args []string, dir string, tty bool, client *net.UnixConn, life bool) int {
	relay := make(chan os.Signal, 8) // from the start: what comes before the command is kept for it
	signal.Notify(relay, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...) // ends as group.end says
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: tty} // the terminal is descriptor 0
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "openprivatelink:", err)
		if _, e := os.Stat(dir); e == nil && (errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)) {
			return exitNotFound
		}
		return exitNotExecutable
	}
	letGo() // else the client's terminal and pipes would never end
	g := &group{pid: cmd.Process.Pid}
	go func() {
		for s := range relay {
			g.signal(s.(syscall.Signal))
		}
	}()
	if client != nil {
		go func() {
			for {
				var n Note
				fds, err := Receive(client, &n)
				closeDescriptors(fds) // nobody asked for any
				if err != nil {
					break
				}
				g.signal(syscall.Signal(n.Signal))
			}
			if tty { // what the end of a terminal is; to daemons it means "read your configuration"
				g.end(syscall.SIGHUP)
			} else {
				g.end(syscall.SIGTERM)
			}
		}()
	}
	if life {
		go func() {
			_, _ = os.NewFile(shimLife, "life").Read(make([]byte, 1)) // nothing is ever written
			g.end(syscall.SIGTERM)
		}()
	}
	_ = cmd.Wait() // what it was is in ProcessState
	g.gone()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// letGo puts the null device in the place of the shim's three first descriptors.
func letGo() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	for fd := range 3 {
		_ = unix.Dup2(int(null.Fd()), fd)
	}
}

// group is the process group that a command leads.
type group struct {
	mu    sync.Mutex
	pid   int
	ended bool
}

func (g *group) signal(s syscall.Signal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended && s > 0 {
		_ = syscall.Kill(-g.pid, s)
	}
}

// end asks the group to end and kills what does not.
func (g *group) end(s syscall.Signal) {
	g.signal(s)
	time.AfterFunc(killGrace, func() { g.signal(syscall.SIGKILL) })
}

// gone is said once the leader has been waited for and its number may be another's.
func (g *group) gone() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
}

// lifeline ends commands with their engine, even if that is killed: its shims hold
// one end of a pipe, and the engine the other.
type lifeline struct {
	here, there *os.File
	mu          sync.Mutex
	cutting     bool
	commands    sync.WaitGroup
}

func newLifeline() (*lifeline, error) {
	there, here, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &lifeline{here: here, there: there}, nil
}

// inheritLifeline goes on with a lifeline by its descriptors.
func inheritLifeline(fds [2]int) *lifeline {
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	return &lifeline{here: os.NewFile(uintptr(fds[0]), "life"), there: os.NewFile(uintptr(fds[1]), "life")}
}

// take counts a command; ended is to be called when it has ended.
func (l *lifeline) take() (end *os.File, ended func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cutting {
		return nil, nil, net.ErrClosed
	}
	l.commands.Add(1)
	return l.there, l.commands.Done, nil
}

// cut ends all commands and waits for that.
func (l *lifeline) cut() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.cutting = true
	l.mu.Unlock()
	l.here.Close()
	l.commands.Wait()
	l.there.Close()
}
