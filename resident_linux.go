package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// shedProgram lets go of the pages of the program's own file that were needed only
// to start: the packages of the console initialise in the engine and in every shim,
// too. What runs is read again from the page cache, a page at a time. Nothing is
// lost, for only mappings are shed that hold the file and nothing else.
func shedProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	mappings, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	var from, to uintptr
	ours := false
	for line := range strings.Lines(string(mappings)) {
		var first, end uintptr
		var rights string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &first, &end, &rights); n == 3 {
			from, to = first, end
			ours = !strings.Contains(rights, "w") && strings.HasSuffix(line, " "+program+"\n")
		} else if ours && strings.HasPrefix(line, "Anonymous:") && strings.Fields(line)[1] == "0" {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // a wish, not a need
		}
	}
}
