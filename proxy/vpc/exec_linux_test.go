package vpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStart(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	sh := func(script string) Command { return Command{Args: []string{"sh", "-c", script}} }
	for _, tt := range []struct {
		name    string
		command Command
		output  string // contained
		code    int
	}{
		{"exit code", sh("exit 7"), "", 7},
		{"both outputs", sh("echo out; echo err >&2"), "out\nerr\n", 0},
		{"not found", Command{Args: []string{"no-such-command"}}, "not found", 127},
		{"no such path", Command{Args: []string{"/no/such/command"}}, "no such file", 127},
		{"not executable", Command{Args: []string{"/etc/passwd"}}, "permission denied", 126},
		{"a directory that is not there", Command{Args: []string{"true"}, Dir: "/no/such/dir"}, "no such file", 126},
		{"a signal", sh("kill -9 $$"), "", 137},
		{"directory", Command{Args: []string{"pwd"}, Dir: "/usr"}, "/usr\n", 0},
		{"default directory", Command{Args: []string{"pwd"}}, "/\n", 0},
		{"environment", Command{Args: []string{"/usr/bin/env"}, Env: []string{"A=b"}}, "A=b\n", 0},
		{"environment by default", sh("env | grep -c -v -e ^PATH= -e ^HOME= -e ^LANG= -e ^OPENPRIVATELINK_ -e ^PWD= -e ^SHLVL= -e ^_="), "0\n", 1},
		{"a port below 1024, without privilege", sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n", 0},
		{"ping, without privilege", sh("cat /proc/sys/net/ipv4/ping_group_range"), fmt.Sprintf("%d\t%[1]d\n", os.Getgid()), 0},
		{"its address", sh("echo $OPENPRIVATELINK_ADDRESS $OPENPRIVATELINK_ATTACHMENT"), clientIP + " vpc-a/" + client + "\n", 0},
		{"its own device", Command{Args: []string{"cat", "/proc/net/dev"}}, "eth0", 0},
		{"a leader of its own", sh("ps -o pid=,pgid=,sid= -p $$ | awk '{print ($1 == $2 && $2 == $3)}'"), "1\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			output, code := (&lab{l.namespaces, t}).run("vpc-a", client, tt.command)
			if !strings.Contains(output, tt.output) || code != tt.code {
				t.Errorf("got %q and %d, want %q and %d", output, code, tt.output, tt.code)
			}
		})
	}
	if err := l.Start(t.Context(), "vpc-a", "att-x", sh("true")); !errors.Is(err, ErrNoAttachment) {
		t.Errorf("start in no attachment: %v", err)
	}
	if err := l.Start(t.Context(), "vpc-a", client, Command{}); err == nil {
		t.Error("no command was started")
	}
}

// TestCapabilities: a command has no capability that reaches past its attachment,
// not even by way of a program that would get it.
func TestCapabilities(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	sets := func(capable bool) map[string]uint64 {
		output, code := l.run("vpc-a", client, Command{Args: []string{"grep", "^Cap", "/proc/self/status"}, Capable: capable})
		if code != 0 {
			t.Fatalf("grep: %s", output)
		}
		sets := map[string]uint64{}
		for line := range strings.Lines(output) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			sets[name] = bits
		}
		return sets
	}
	mask := func(caps ...[]int) (m uint64) {
		for _, c := range slices.Concat(caps...) {
			m |= 1 << c
		}
		return m
	}
	plain, capable := mask(), mask(forging)
	if os.Getuid() == 0 {
		plain, capable = mask(kept), mask(kept, forging)
		if got := sets(false)["CapBnd"]; got != plain {
			t.Errorf("bounding set %x, want %x", got, plain)
		}
	}
	for _, set := range []string{"CapEff", "CapPrm"} {
		if got := sets(false)[set]; got != plain {
			t.Errorf("%s is %x, want %x", set, got, plain)
		}
		if got := sets(true)[set]; got != capable {
			t.Errorf("%s of a capable command is %x, want %x", set, got, capable)
		}
	}
	for _, set := range []string{"CapInh", "CapAmb"} {
		if got := sets(false)[set]; got != 0 {
			t.Errorf("%s is %x, want none", set, got)
		}
	}
	for _, command := range []string{"ip link add x type dummy", "ip addr add 10.0.1.99/32 dev eth0", "ip link set eth0 address 02:00:00:00:00:09", "unshare -n true"} {
		if output, code := l.run("vpc-a", client, Command{Args: []string{"sh", "-c", command}}); code == 0 {
			t.Errorf("%s works: %s", command, output)
		}
	}
	if output, code := l.run("vpc-a", client, Command{Args: []string{"ip", "addr", "add", "10.0.1.99/32", "dev", "eth0"}, Capable: true}); code != 0 {
		t.Errorf("a capable command may not change its addresses: %s", output)
	}
	if output, code := l.run("vpc-a", client, Command{Args: []string{"sh", "-c", "command -v ping >/dev/null || exit 0; ping -c 1 -W 5 " + gatewayIP}}); code != 0 {
		t.Errorf("ping of the gateway: %s", output)
	}
}

// TestChangesUser: programs that start as root and change user do so.
func TestChangesUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("for root's commands")
	}
	l := newLab(t)
	l.ensure(example("vpc-a"))
	output, code := l.run("vpc-a", client, Command{Args: []string{"setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", "id", "-u"}})
	if output != "1234\n" || code != 0 {
		t.Errorf("got %q and %d", output, code)
	}
}

// session is a command whose client is the test.
type session struct {
	l    *lab
	c    *net.UnixConn
	out  *os.File
	exit chan int // closed when the shim is gone
}

func (l *lab) session(network, attachment string, args ...string) *session {
	l.t.Helper()
	ours, theirs := pair(l.t)
	control, err := theirs.File()
	if err != nil {
		l.t.Fatal(err)
	}
	defer control.Close()
	defer theirs.Close()
	out, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	defer w.Close()
	s := &session{l: l, c: ours, out: out, exit: make(chan int, 1)}
	l.t.Cleanup(func() { ours.Close(); out.Close() })
	if err := l.Start(l.t.Context(), network, attachment, Command{Args: args, Control: control, Stdio: [3]*os.File{nil, w, nil}}); err != nil {
		l.t.Fatal(err)
	}
	return s
}

// line reads until the command has written want.
func (s *session) line(want string) {
	s.l.t.Helper()
	_ = s.out.SetReadDeadline(time.Now().Add(20 * time.Second))
	got := make([]byte, len(want)+1)
	if _, err := io.ReadFull(s.out, got); err != nil || string(got) != want+"\n" {
		s.l.t.Fatalf("read %q %v, want %q", got, err, want)
	}
}

func (s *session) wait() int {
	s.l.t.Helper()
	_ = s.c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var n Note
	if _, err := Receive(s.c, &n); err != nil || n.Exit == nil {
		s.l.t.Fatalf("exit: %+v %v", n, err)
	}
	return *n.Exit
}

func TestControl(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	const obedient = `trap 'echo got TERM; exit 5' TERM; trap 'echo got USR1' USR1; echo ready; while :; do sleep 0.02; done`

	t.Run("signals and exit code", func(t *testing.T) {
		s := (&lab{l.namespaces, t}).session("vpc-a", client, "sh", "-c", obedient)
		s.line("ready")
		for _, step := range []struct {
			signal syscall.Signal
			says   string
		}{{syscall.SIGUSR1, "got USR1"}, {syscall.SIGTERM, "got TERM"}} {
			if err := Send(s.c, Note{Signal: int(step.signal)}); err != nil {
				t.Fatal(err)
			}
			s.line(step.says)
		}
		if code := s.wait(); code != 5 {
			t.Errorf("exit code %d, want 5", code)
		}
	})
	t.Run("killed by a signal", func(t *testing.T) {
		s := (&lab{l.namespaces, t}).session("vpc-a", client, "sleep", "1000")
		if err := Send(s.c, Note{Signal: int(syscall.SIGINT)}); err != nil {
			t.Fatal(err)
		}
		if code := s.wait(); code != 130 {
			t.Errorf("exit code %d, want 130", code)
		}
	})
	t.Run("the client goes away", func(t *testing.T) {
		s := (&lab{l.namespaces, t}).session("vpc-a", client, "sh", "-c", obedient)
		s.line("ready")
		s.c.Close()
		s.line("got TERM")
		_ = s.out.SetReadDeadline(time.Now().Add(20 * time.Second))
		if rest, err := io.ReadAll(s.out); err != nil || len(rest) > 0 {
			t.Errorf("then %q %v, want the end", rest, err)
		}
	})
	t.Run("who does not obey is killed", func(t *testing.T) {
		if testing.Short() {
			t.Skip("takes as long as the grace")
		}
		s := (&lab{l.namespaces, t}).session("vpc-a", client, "sh", "-c", `trap '' TERM HUP; echo ready; while :; do sleep 0.02; done`)
		s.line("ready")
		start := time.Now()
		s.c.Close()
		_ = s.out.SetReadDeadline(time.Now().Add(2 * killGrace))
		if _, err := io.ReadAll(s.out); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < killGrace-time.Second {
			t.Errorf("killed after %v, want %v of grace", d, killGrace)
		}
	})
}

// TestEngineEnds: what ends with the engine, and what does not.
func TestEngineEnds(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	exited := make(chan int, 1)
	err := l.Start(t.Context(), "vpc-a", client, Command{Args: []string{"sleep", "1000"}, Exited: func(code int) { exited <- code }})
	if err != nil {
		t.Fatal(err)
	}
	s := l.session("vpc-a", client, "sh", "-c", `trap 'exit 6' TERM; echo ready; while :; do sleep 0.02; done`)
	s.line("ready")
	if l.pins == nil {
		l.Close()
		if code := s.wait(); code != 6 {
			t.Errorf("in a user namespace a command ended with %d, want 6", code)
		}
	} else {
		next := l.crash()
		next.ensure(example("vpc-a"))
		if err := Send(s.c, Note{Signal: int(syscall.SIGTERM)}); err != nil {
			t.Fatal(err)
		}
		if code := s.wait(); code != 6 {
			t.Errorf("the command of a client ended with %d, want 6: it outlives the engine", code)
		}
	}
	select {
	case code := <-exited:
		if code != 143 {
			t.Errorf("the engine's own command ended with %d, want 143", code)
		}
	default:
		t.Error("the engine's own command outlived it")
	}
}

// TestRemovalEndsCommands: also of one that ignores signals and a daemon.
func TestRemovalEndsCommands(t *testing.T) {
	l := newLab(t)
	n := example("vpc-a")
	l.ensure(n)
	stubborn := l.session("vpc-a", client, "sh", "-c", `trap '' TERM HUP; setsid sleep 1000 & echo ready; while :; do sleep 0.02; done`)
	stubborn.line("ready")
	elsewhere := l.session("vpc-a", far, "sh", "-c", `echo ready; exec sleep 1000`)
	elsewhere.line("ready")
	l.ensure(without1(n, client))
	mark := attachmentMark("vpc-a", client)
	if left := processes(func(pid string) bool { return marked(pid, mark) }); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
	if err := Send(elsewhere.c, Note{Signal: int(syscall.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	if code := elsewhere.wait(); code != 143 {
		t.Errorf("a command of another attachment ended with %d, want 143", code)
	}
}

func TestKillLeftovers(t *testing.T) {
	const installation = "leftover"
	start := func(env string) *exec.Cmd {
		cmd := exec.Command("sleep", "1000")
		cmd.Env = []string{env}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	mine, other := start(envInstallation+"="+installation), start(envInstallation+"="+installation+"2")
	if n := KillLeftovers(installation); n != 1 {
		t.Errorf("killed %d, want 1", n)
	}
	if state, _ := mine.Process.Wait(); state == nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", state)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("another installation's process: %v", err)
	}
}

// TestExec drives the client's side: without a terminal, and on one.
func TestExec(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))

	t.Run("pipes", func(t *testing.T) {
		cmd := l.execCommand(t, "sh", "-c", "cat; echo to stderr >&2; exit 9")
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("through stdin\n"), &stdout, &stderr
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != 9 || stdout.String() != "through stdin\n" || stderr.String() != "to stderr\n" {
			t.Errorf("got %v, %q and %q", err, &stdout, &stderr)
		}
	})
	t.Run("an error instead of a command", func(t *testing.T) {
		cmd := l.execCommand(t)
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), "no command") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("signals", func(t *testing.T) {
		cmd := l.execCommand(t, "sh", "-c", `trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done`)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 4 {
			t.Errorf("exit code %d, want 4", code)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		cmd := l.execCommand(t, "sh", "-c", `tty; stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.02; done`)
		term := l.onTerminal(t, cmd, 33, 99)
		before, err := unix.IoctlGetTermios(int(term.slave), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		term.sees("/dev/pts/")
		term.sees("33 99")
		term.sees("ready")
		term.resize(40, 120)
		_ = cmd.Process.Signal(syscall.SIGWINCH)
		term.sees("40 120")
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 3 {
			t.Errorf("exit code %d, want 3", code)
		}
		after, err := unix.IoctlGetTermios(int(term.slave), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if *before != *after {
			t.Errorf("the terminal was %+v and is left %+v", before, after)
		}
	})
	t.Run("control-C on a terminal", func(t *testing.T) {
		cmd := l.execCommand(t, "sh", "-c", `trap 'echo interrupted; exit 2' INT; echo ready; while :; do sleep 0.02; done`)
		term := l.onTerminal(t, cmd, 24, 80)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		term.sees("ready")
		if _, err := term.master.WriteString("\x03"); err != nil {
			t.Fatal(err)
		}
		term.sees("interrupted")
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 2 {
			t.Errorf("exit code %d, want 2", code)
		}
	})
	t.Run("all output, and no waiting for a daemon", func(t *testing.T) {
		cmd := l.execCommand(t, "sh", "-c", `trap '' HUP; sleep 1000 & seq 1 20000; echo end`)
		term := l.onTerminal(t, cmd, 24, 80)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		term.sees("20000\r\nend")
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// execCommand is a process that runs args in the client attachment by Exec.
func (l *lab) execCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ours, theirs := pair(t)
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self(), append([]string{"exec"}, args...)...)
	cmd.ExtraFiles = []*os.File{file}
	t.Cleanup(func() { file.Close(); theirs.Close() })
	go func() { // the engine's side, as short as can be
		var q execRequest
		fds, err := Receive(ours, &q)
		if err != nil {
			return // the test has failed
		}
		c := Command{Args: q.Args, Env: os.Environ(), TTY: q.TTY}
		for i, fd := range fds {
			c.Stdio[i] = os.NewFile(uintptr(fd), "stdio")
			defer c.Stdio[i].Close()
		}
		if c.Control, err = ours.File(); err == nil {
			err = l.Start(ctx, "vpc-a", client, c)
			c.Control.Close()
		}
		if err != nil {
			_ = Send(ours, Note{Error: err.Error()})
		}
		ours.Close()
	}()
	return cmd
}

type execRequest struct {
	Args []string
	TTY  bool
}

// execTool is the process of execCommand.
func execTool(args []string) int {
	f := os.NewFile(3, "connection")
	c, err := net.FileConn(f)
	f.Close()
	code := 0
	if err == nil {
		code, err = Exec(context.Background(), c.(*net.UnixConn), [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
			func(tty bool) any { return execRequest{args, tty} })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	return code
}

// screen is a terminal that a test looks at.
type screen struct {
	t      *testing.T
	master *os.File
	slave  uintptr
	seen   []byte
}

// onTerminal gives a command that is about to be started a terminal.
func (l *lab) onTerminal(t *testing.T, cmd *exec.Cmd, rows, columns uint16) *screen {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, master: os.NewFile(uintptr(fd), "ptmx")}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	s.slave = slave
	tty := os.NewFile(slave, "tty")
	t.Cleanup(func() { tty.Close(); s.master.Close() })
	s.resize(rows, columns)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return s
}

func (s *screen) resize(rows, columns uint16) {
	s.t.Helper()
	err := control(s.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// sees reads until want appears after what was seen before.
func (s *screen) sees(want string) {
	s.t.Helper()
	_ = s.master.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 4096)
	for {
		if at := bytes.Index(s.seen, []byte(want)); at >= 0 {
			s.seen = s.seen[at+len(want):]
			return
		}
		n, err := s.master.Read(b)
		s.seen = append(s.seen, b[:n]...)
		if err != nil {
			s.t.Fatalf("%q does not appear (%v): %q", want, err, s.seen)
		}
	}
}
