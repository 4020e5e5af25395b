package e2e

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// The test binary is also what runs inside attachments: a server and its clients.
// It is started again by `exec` with one of these words as its first argument.
var peers = map[string]func(args []string) error{
	"peer-serve": peerServe, // ADDRESS
	"peer-get":   peerGet,   // ADDRESS BYTES: prints how many came and whether the checksum is right
	"peer-hold":  peerHold,  // ADDRESS: prints "open", then what ended it
	"peer-dial":  peerDial,  // ADDRESS: connects, or says why not
}

func peer(args []string) int {
	if err := peers[args[0]](args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// peerServe answers "GET n" with n bytes and, once the client has closed its half,
// their SHA-256; and "ECHO" with whatever comes.
func peerServe(args []string) error {
	ln, err := net.Listen("tcp4", args[0]) //nolint:noctx // it ends with the process
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			word, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
			if word == "ECHO" {
				io.Copy(c, r)
				return
			}
			n, err := strconv.ParseInt(arg, 10, 64)
			if err != nil {
				return
			}
			sum, b := sha256.New(), make([]byte, 64<<10)
			for left := n; left > 0; {
				for i := range b {
					b[i] = byte(left>>(i%5) ^ int64(i))
				}
				k := min(int64(len(b)), left)
				if _, err := c.Write(b[:k]); err != nil {
					return
				}
				sum.Write(b[:k])
				left -= k
			}
			io.Copy(io.Discard, r) // until the client's half is closed
			fmt.Fprintf(c, "%x", sum.Sum(nil))
		}()
	}
}

func dialPeer(address string) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp4", address, 3*time.Second)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func peerGet(args []string) error {
	c, err := dialPeer(args[0])
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	fmt.Fprintln(c, "GET", n)
	sum := sha256.New()
	got, err := io.CopyN(sum, c, n)
	if err != nil {
		return fmt.Errorf("after %d bytes: %w", got, err)
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	said, err := io.ReadAll(c) // what comes after the half-close
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%d bytes, equal %v\n", got, string(said) == fmt.Sprintf("%x", sum.Sum(nil)))
	return err
}

func peerHold(args []string) error {
	c, err := dialPeer(args[0])
	if err != nil {
		return err
	}
	fmt.Fprintln(c, "GET", int64(1)<<50)
	b := make([]byte, 64<<10)
	for n := 0; ; n++ {
		if _, err := c.Read(b); err != nil {
			return err
		}
		if n == 16 {
			fmt.Fprintln(os.Stdout, "open")
		}
		time.Sleep(time.Millisecond) // a live transfer, not a benchmark
	}
}

func peerDial(args []string) error {
	c, err := dialPeer(args[0])
	if err != nil {
		return err
	}
	c.SetDeadline(time.Now().Add(3 * time.Second))
	fmt.Fprintln(c, "ECHO")
	fmt.Fprintln(c, "hello")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(os.Stdout, line)
	return err
}
