package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netns"
)

// cell is a thread inside a network namespace. Processes that it starts are born
// there, and are told to end with it.
type cell struct {
	name string // as ip-netns(8) knows it, if it does
	jobs chan func()
}

// enter enters the namespace that path leads to.
func enter(path string) (*cell, error) {
	c := &cell{name: filepath.Base(path), jobs: make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		entered <- err
		if err != nil {
			return
		}
		for job := range c.jobs {
			job()
		}
	}()
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("enter the namespace %s: %w", path, err)
	}
	return c, nil
}

// leave ends the thread.
func (c *cell) leave() { close(c.jobs) }

// do runs f inside.
func (c *cell) do(f func() error) error {
	done := make(chan error)
	c.jobs <- func() { done <- f() }
	return <-done
}

// start starts cmd inside, in a session of its own. The kernel shares the machine
// out between sessions before it does so between processes; the engine has one too.
func (c *cell) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.do(cmd.Start); err != nil {
		return err
	}
	prefer(cmd.Process.Pid)
	return nil
}

// prefer gives the session of a process more of the machine than others get, where
// that is allowed.
func prefer(pid int) { _ = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte("-10"), 0) }

// settings of every namespace in which something is measured, below /proc/sys/net.
// Another congestion control, such as bbr, paces what goes over loopback.
var settings = map[string]string{
	"ipv4/tcp_congestion_control": "reno",
	"ipv4/ip_local_port_range":    "20000 65535",
	"ipv4/tcp_max_tw_buckets":     "4096",
	"core/somaxconn":              "8192",
}

// prepare sets the namespace up, and returns what the kernel then says.
func (c *cell) prepare() (map[string]string, error) {
	is := map[string]string{}
	return is, c.do(func() error {
		for key, value := range settings {
			path := "/proc/sys/net/" + key
			if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("set up the namespace %s: %w", c.name, err)
			}
			text, _ := os.ReadFile(path)
			is[key] = strings.Join(strings.Fields(string(text)), " ")
		}
		return nil
	})
}
