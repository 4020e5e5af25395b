package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// CheckPeer refuses clients of other users, except root.
//
// In a user namespace every user outside it looks like the overflow user. An engine
// that is this user itself would see everyone as itself, so the check would say
// nothing there; the mode of the socket and its directory, which were made sure of
// before, are then all that keeps strangers out.
func CheckPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var uid uint32
	e := raw.Control(func(fd uintptr) { uid, err = peerUID(int(fd)) })
	if err := errors.Join(e, err); err != nil {
		return fmt.Errorf("ask who the peer is: %w", err)
	}
	if int(uid) != os.Getuid() && uid != 0 {
		return fmt.Errorf("peer is user %d, this process belongs to user %d", uid, os.Getuid())
	}
	return nil
}
