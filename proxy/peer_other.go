//go:build !linux

package proxy

import "net"

// checkPeer trusts the mode of the socket and its directory: engines of other
// systems run inside the console's process, and only tests call them here.
func checkPeer(*net.UnixConn) error { return nil }
