// Command bench measures the engine beside other forwarders and says how they
// compare: see run. Its other commands are the processes that this takes.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/bench/load"
)

const help = `usage: bench run [flags]                      measure, print and write the report
       bench report [flags]                   print and write that of an earlier run again
       bench load bulk|crr|rr|idle|udp [flags] what a client does
       bench backend -at ADDRESS              what is behind every forwarder
       bench user [flags]                     one stream through an engine of this user's own
       bench copy -at ADDRESS -to ADDRESS     a forwarder of two goroutines and io.Copy
"-h" after a command lists its flags.`

func main() {
	switch err := command(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) > 0 {
		switch rest := args[1:]; args[0] {
		case "run":
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop() // the others have nothing to take away and just end
			return run(ctx, rest)
		case userName:
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return measureUser(ctx, rest)
		case "report":
			return rewrite(rest)
		case "load":
			return generate(rest, os.Stdin, os.Stdout)
		case "backend":
			return serveBackend(rest)
		case "copy":
			return serveCopy(rest)
		}
	}
	fmt.Fprintln(os.Stderr, help)
	return flag.ErrHelp
}

// generate runs one load and prints its result as a line of JSON.
func generate(args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("load: name bulk, crr, rr, idle or udp")
	}
	flags := flag.NewFlagSet("load "+args[0], flag.ContinueOnError)
	to := addrFlag(flags, "to", "address of the forwarder")
	conns := flags.Int("conns", 1, "connections or flows at a time")
	size := flags.Int("size", 64, "bytes of a message")
	d := flags.Duration("for", time.Second, "how long")
	from := addrFlag(flags, "from", "udp: address of the first flow")
	window := flags.Int("window", 64, "udp: datagrams under way")
	gso := flags.Bool("gso", false, "udp: let the kernel cut them")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	var r load.Result
	var err error
	echo, sink := netip.AddrPortFrom(*to, load.PortEcho), netip.AddrPortFrom(*to, load.PortSink)
	switch args[0] {
	case "bulk":
		r, err = load.Bulk(sink, *conns, *d)
	case "crr":
		r, err = load.Connections(echo, *conns, *size, *d)
	case "rr":
		r, err = load.Requests(echo, *conns, *size, *d)
	case "udp":
		l := load.Datagrams{Flows: *conns, From: *from, Size: *size, Window: *window, GSO: *gso}
		r, err = l.Run(netip.AddrPortFrom(*to, load.PortDatagram), *d)
	case "idle":
		r, err = load.Idle(echo, *conns, func() {
			fmt.Fprintln(out, "up")
			_, _ = bufio.NewReader(in).ReadByte() // until our starter has seen enough
		})
	default:
		err = fmt.Errorf("no load is called %q", args[0])
	}
	if err != nil {
		return fmt.Errorf("load %s: %w", args[0], err)
	}
	return json.NewEncoder(out).Encode(r)
}

func serveBackend(args []string) error {
	flags := flag.NewFlagSet("backend", flag.ContinueOnError)
	at := addrFlag(flags, "at", "address to serve")
	threads := flags.Int("threads", 2, "event loops")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return load.Backend(*at, *threads, func() { fmt.Fprintln(os.Stdout, "ready") })
}

func addrFlag(flags *flag.FlagSet, name, what string) *netip.Addr {
	at := new(netip.Addr)
	flags.TextVar(at, name, netip.AddrFrom4([4]byte{127, 0, 0, 1}), what)
	return at
}
