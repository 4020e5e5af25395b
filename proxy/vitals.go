package proxy

import (
	"context"
	"os"
	"runtime"
	"runtime/metrics"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/flowlog"
)

// Vitals are an engine's own figures, since it started.
type Vitals struct {
	Flows           int64               `json:"flows"` // with both sides
	Listeners       int                 `json:"listeners"`
	Descriptors     int                 `json:"descriptors"` // open now
	DescriptorLimit uint64              `json:"descriptorLimit"`
	Ended           map[string]int64    `json:"ended"` // flows that ended or were refused, by reason
	Records         flowlog.Stats       `json:"records"`
	JournalErrors   int64               `json:"journalErrors"` // changes that could not be kept on disk
	Series          flowlog.SeriesStats `json:"series"`
	Goroutines      int                 `json:"goroutines"`
	Memory          uint64              `json:"memory"` // bytes that the runtime has of the system
}

// Vitals implements [Engine].
func (e *Local) Vitals(context.Context) (Vitals, error) {
	v := Vitals{
		Flows: e.active.Load(), Listeners: int(e.listeners.Load()), Ended: e.ends.read(), Records: e.records.Stats(), Series: e.series.Stats(),
		JournalErrors: e.unkept.Load(), Goroutines: runtime.NumGoroutine(),
	}
	if open, err := os.ReadDir("/dev/fd"); err == nil {
		v.Descriptors = len(open) - 1 // but for the folder's own
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		v.DescriptorLimit = limit.Cur
	}
	held := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(held)
	v.Memory = held[0].Value.Uint64() - held[1].Value.Uint64()
	return v, nil
}
