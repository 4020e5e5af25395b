package proxy

import (
	"context"
	"path/filepath"

	"github.com/openprivatelink/openprivatelink/proxy/flowlog"
)

const flowsDir = "flows" // below the engine's directory

func openRecords(cfg Config) (*flowlog.Log, error) {
	dir := cfg.Dir
	if dir != "" {
		dir = filepath.Join(dir, flowsDir)
	}
	return flowlog.Open(flowlog.Config{Dir: dir, Log: cfg.Log, Now: cfg.Now})
}

// Records implements [Engine].
func (e *Local) Records(ctx context.Context, q RecordQuery) (Records, error) {
	return e.records.Read(ctx, q)
}
