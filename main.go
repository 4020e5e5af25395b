// Command openprivatelink is PrivateLink that you run yourself: the console, the
// commands and, as a child process of the same binary, the engine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// version is set by the build.
var version = "dev"

// The main goroutine keeps the main thread, so that no thread that enters a VPC is
// ever the one that /proc/self and new processes take after.
func init() { runtime.LockOSThread() }

const readHeaderTimeout = 10 * time.Second

func main() {
	shedProgram()
	// The engine and the shim are started by our own processes, many times a minute
	// even: they are not commands for people.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "engine":
			os.Exit(proxy.EngineMain(os.Args[2:], version))
		case "shim":
			os.Exit(vpc.ShimMain(os.Args[2:]))
		case "probe-userns":
			os.Exit(vpc.ProbeMain())
		case "demo-backend":
			os.Exit(demoBackend(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if next, ok := errors.AsType[*successor](err); ok {
		err = next.run()
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		os.Exit(int(code))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "openprivatelink:", err)
		os.Exit(1)
	}
}

// exitCode is the code of a command that was run inside an attachment.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func root() *cobra.Command {
	serve := serveCommand()
	cmd := &cobra.Command{
		Use:               "openprivatelink",
		Short:             "PrivateLink that you run yourself",
		Long:              "OpenPrivateLink publishes services of one network to accounts of others, at private addresses of their own. Without a command it serves.",
		Args:              cobra.NoArgs,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: fromEnvironment,
		RunE:              serve.RunE,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	cmd.Flags().AddFlagSet(serve.Flags())
	cmd.AddCommand(serve, execCommand(), upgradeCommand(), stopCommand(), versionCommand())
	cmd.AddCommand(adminCommands()...)
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "openprivatelink %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}
