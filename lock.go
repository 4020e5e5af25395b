package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// lockData takes the data folder for this process. The lock belongs to the open
// file: it ends with the process, however that ends.
func lockData(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "serve.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

var errLocked = errors.New("another openprivatelink uses this data folder")

// allowedPeer checks that the other end of a unix socket is this user or root. In
// a user namespace strangers look like the overflow uid; the socket's mode and the
// folder's are what keeps them out there.
func allowedPeer(c net.Conn) error {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return err
	}
	var uid uint32
	cerr := raw.Control(func(fd uintptr) { uid, err = peerUID(int(fd)) })
	if err = errors.Join(cerr, err); err != nil {
		return fmt.Errorf("read who is asking: %w", err)
	}
	if uid != 0 && uid != uint32(os.Getuid()) {
		return fmt.Errorf("this server belongs to user %d, you are %d", os.Getuid(), uid)
	}
	return nil
}
