package proxy

import (
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/flowlog"
)

// LookAfterNext looks after the network that follows last, as the engine does from
// time to time, and returns its id.
func (e *Local) LookAfterNext(last string) string {
	id := e.nextNetwork(last)
	e.lookAfter(id)
	return id
}

// SocketOf returns where r dials.
func SocketOf(r *Remote) string { return r.socket }

// Sample samples what e counts over spans of 10 s, one now and one each time it is
// called, and puts them into its series.
func (e *Local) Sample() func(at time.Time) {
	was := map[*tally][flowlog.ActiveFlows]int64{}
	e.sample(was, flowlog.SeriesStep)
	return func(at time.Time) {
		e.series.Sample(at, flowlog.SeriesStep, e.sample(was, flowlog.SeriesStep))
	}
}
