package forward

import (
	"net/netip"
	"time"
)

// Heritable is a [Forwarder] whose flows go on in the program that takes the place
// of this process.
type Heritable interface {
	Forwarder
	// Freeze holds everything where nothing moves and returns the flows there are.
	// The process is to be replaced now, with their descriptors open; if that fails,
	// thaw makes everything go on as if nothing had been.
	Freeze() (flows []Handover, thaw func())
	// Adopt goes on with a flow of the program before. admit is called for it in the
	// place of [Door.Admit]. A flow of UDP needs the listener that it came in by.
	Adopt(h Handover, l Listener, admit func(*Flow) Session)
	// Descriptor is the listening socket of l.
	Descriptor(l Listener) int
}

// Handover is a flow as one process leaves it and the next goes on with it. The
// descriptors are the flow's own.
type Handover struct {
	Source  netip.AddrPort `json:"source"`
	Start   time.Time      `json:"start"`
	Quiet   time.Duration  `json:"quiet"`            // since the last byte
	Packet  bool           `json:"packet,omitempty"` // it is one of UDP
	Client  int            `json:"client"`           // -1: the listener's, for UDP
	Server  int            `json:"server"`           // -1: none yet; the search for one begins anew
	Preface []byte         `json:"preface,omitempty"`
	Head    int            `json:"head,omitempty"` // bytes of In.Rest that are the preface's
	In      Half           `json:"in"`
	Out     Half           `json:"out"`

	Session Session `json:"-"` // that the flow has in the process that leaves it
}

// Half is one direction of a [Handover].
type Half struct {
	Moved     int64  `json:"moved"`               // bytes passed on so far
	Datagrams int64  `json:"datagrams,omitempty"` // of UDP
	Rest      []byte `json:"rest,omitempty"`      // read and not yet passed on
	EOF       bool   `json:"eof,omitempty"`       // nothing more will be read
	Shut      bool   `json:"shut,omitempty"`      // and the other side has been told
}
