//go:build !linux

package forward

import (
	"log/slog"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// New makes the forwarder of this system; it has no loops.
func New(driver vpc.Driver, _ int, log *slog.Logger) (Forwarder, error) {
	return NewGoroutines(driver, log), nil
}
