package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// serveCopy is the forwarder that everybody writes first: two goroutines and io.Copy
// for each connection. It is the control that a better one is measured against.
func serveCopy(args []string) error {
	flags := flag.NewFlagSet("copy", flag.ContinueOnError)
	at := addrFlag(flags, "at", "address to listen at")
	to := addrFlag(flags, "to", "address of the backend")
	if err := flags.Parse(args); err != nil {
		return err
	}
	failed := make(chan error)
	for _, port := range ports {
		ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", netip.AddrPortFrom(*at, port).String())
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := ln.Accept()
				if errors.Is(err, syscall.EMFILE) { // it needs six for each connection
					time.Sleep(settle)
					continue
				}
				if err != nil {
					failed <- err
					return
				}
				go copyBoth(c.(*net.TCPConn), netip.AddrPortFrom(*to, port))
			}
		}()
	}
	return <-failed
}

func copyBoth(client *net.TCPConn, to netip.AddrPort) {
	defer client.Close()
	server, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		return
	}
	defer server.Close()
	var wg sync.WaitGroup
	copyHalf := func(dst, src *net.TCPConn) {
		_, _ = io.Copy(dst, src)
		_ = dst.CloseWrite()
	}
	wg.Go(func() { copyHalf(server, client) })
	copyHalf(client, server)
	wg.Wait()
}
