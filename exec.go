package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/openprivatelink/openprivatelink/proxy"
)

func execCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use:   "exec ATTACHMENT -- COMMAND [ARGUMENT…]",
		Short: "Run a command inside an attachment",
		Long: `Run a command inside an attachment: its standard input, output and error, its
terminal, the signals it gets and its exit code are those of this command.

ATTACHMENT is an id, a name, or ACCOUNT/NAME.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.complete(); err != nil {
				return err
			}
			id := args[0]
			var found attachmentOut
			err := remote(cmd.Context(), c.controlPath(), "attachment-find", nameIn{id}, &found)
			switch {
			case err == nil:
				id = found.ID
			case !errors.Is(err, errNoServer): // while no server runs the engine may, and it knows ids
				return err
			}
			dir, err := os.Getwd()
			if err != nil {
				return fmt.Errorf("read working directory: %w", err)
			}
			engine := proxy.Dial(proxy.Socket(c.engineDir()))
			defer engine.Close()
			// Signals are relayed to the command; they do not end this one.
			code, err := engine.Exec(context.WithoutCancel(cmd.Context()), proxy.ExecRequest{Attachment: id, Args: args[1:], Env: os.Environ(), Dir: dir},
				[3]*os.File{os.Stdin, os.Stdout, os.Stderr})
			if err != nil {
				return err
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
	dataFlag(cmd.Flags(), c)
	return cmd
}
