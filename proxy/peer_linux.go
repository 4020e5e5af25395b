package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer refuses clients of other users, except root.
//
// In a user namespace every user outside it looks like the overflow user. An engine
// that is this user itself would see everyone as itself, so the check would say
// nothing there; the mode of the socket and its directory, which were made sure of
// before, are then all that keeps strangers out.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	e := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(e, err); err != nil {
		return fmt.Errorf("ask who the peer is: %w", err)
	}
	if uid := int(peer.Uid); uid != os.Getuid() && uid != 0 {
		return fmt.Errorf("peer is user %d, process %d", peer.Uid, peer.Pid)
	}
	return nil
}
