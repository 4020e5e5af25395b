package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const tryTimeout = 10 * time.Second // for the next program to say that it could go on

// succession is how another program takes the place of an engine's process.
type succession struct{ StartConfig }

// try runs the program once beside this one, to read what it would be handed: after
// exec there is no way back.
func (s *succession) try(ctx context.Context, program string, h *handover) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	b, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("describe what is handed over: %w", err)
	}
	cmd := exec.CommandContext(ctx, program, s.args("-check")...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s cannot take over: %w: %s", program, err, bytes.TrimSpace(out))
	}
	return nil
}

// checkHandover is what try runs. It returns the exit code.
func checkHandover(r io.Reader) int {
	if _, err := decodeHandover(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// take replaces the process. It returns only if that fails.
func (s *succession) take(program string, h *handover) error {
	b, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("describe what is handed over: %w", err)
	}
	told, err := memoryFile("handover")
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	defer told.Close()
	if _, err := told.WriteAt(b, 0); err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	syscall.ForkLock.Lock() // or what is started meanwhile would have the descriptors
	defer syscall.ForkLock.Unlock()
	keep := append(h.descriptors(), int(s.lock.Fd()), int(told.Fd()))
	defer func() {
		for _, fd := range keep {
			if fd >= 0 {
				syscall.CloseOnExec(fd)
			}
		}
	}()
	for _, fd := range keep {
		if fd < 0 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("hand over descriptor %d: %w", fd, err)
		}
	}
	args := s.args("-lock", strconv.Itoa(int(s.lock.Fd())), "-resume", strconv.Itoa(int(told.Fd())))
	return fmt.Errorf("run %s: %w", program, syscall.Exec(program, append([]string{program}, args...), os.Environ()))
}

func readHandover(f *os.File) (*handover, error) {
	defer f.Close()
	return decodeHandover(f)
}

func decodeHandover(r io.Reader) (*handover, error) {
	h := new(handover)
	var format struct {
		Format  int    `json:"format"`
		Version string `json:"version"`
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read what was handed over: %w", err)
	}
	if err = json.Unmarshal(b, &format); err == nil {
		h.Format, h.Version = format.Format, format.Version
		if h.Format == handoverFormat {
			err = json.Unmarshal(b, h)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read what was handed over: %w", err)
	}
	return h, h.check()
}
