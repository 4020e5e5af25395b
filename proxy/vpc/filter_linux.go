package vpc

import (
	"fmt"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// SetFilter makes a socket drop the packets of which program keeps nothing, at once
// and without an answer; without a program it takes all again. Sockets that were
// accepted before keep what they have, which is the program of that time.
func SetFilter(fd int, program []bpf.RawInstruction) error {
	if len(program) == 0 {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		if err == unix.ENOENT { // it has none
			return nil
		}
		return os.NewSyscallError("setsockopt", err)
	}
	code := make([]unix.SockFilter, len(program))
	for i, c := range program {
		code[i] = unix.SockFilter{Code: c.Op, Jt: c.Jt, Jf: c.Jf, K: c.K}
	}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	if err != nil {
		return fmt.Errorf("attach a filter of %d instructions: %w", len(code), os.NewSyscallError("setsockopt", err))
	}
	return nil
}
