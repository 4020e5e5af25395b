//go:build unix

package vpc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"go.uber.org/goleak"
)

// As package main of the program does.
func init() { runtime.LockOSThread() }

// envMode tells a run of these tests which mode it is to test.
const envMode = "VPC_TEST_MODE"

// TestMain is also the program that shims, probes and clients are. For an ordinary user it
// runs the tests again in a user namespace.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "shim":
			os.Exit(ShimMain(os.Args[2:]))
		case "probe-userns":
			os.Exit(ProbeMain())
		case "probe":
			mode, reason, err := Probe(os.Args[2])
			if err != nil {
				mode, reason = "error", err.Error()
			}
			fmt.Fprintf(os.Stdout, "%s: %s\n", mode, reason)
			os.Exit(0)
		case "exec":
			os.Exit(execTool(os.Args[2:]))
		}
	}
	if os.Getenv(envMode) == "" && os.Getuid() != 0 {
		if _, _, err := Probe(ModeUserns); err == nil {
			os.Exit(inUserNamespace())
		}
	}
	goleak.VerifyTestMain(m)
}

func inUserNamespace() int {
	cmd := exec.Command(self(), os.Args[1:]...)
	cmd.Env = append(os.Environ(), envMode+"="+ModeUserns)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = SysProcAttr(ModeUserns)
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
