package flowlog

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// Record is one row: a flow that was refused or has ended, or a window of one that
// goes on.
type Record struct {
	Seq      uint64           `json:"seq"`              // number of the row, given by [Log.Add]
	Flow     uint64           `json:"flow,omitempty"`   // Seq of the flow's first row; 0 in that row itself
	Window   bool             `json:"window,omitempty"` // the flow went on at End; Start, End and the counts are of this row alone
	Protocol verdict.Protocol `json:"protocol,omitempty"`
	Endpoint string           `json:"endpoint"`
	Zone     string           `json:"zone"`
	Service  string           `json:"service,omitempty"`

	Source  netip.AddrPort `json:"source"`
	Address netip.AddrPort `json:"address"` // the endpoint's

	LoadBalancer string         `json:"loadBalancer,omitempty"`
	Local        netip.AddrPort `json:"local,omitzero"` // what the server saw as the source
	Server       string         `json:"server,omitempty"`
	Target       netip.AddrPort `json:"target,omitzero"`
	Told         bool           `json:"told,omitempty"` // a PROXY header told the server Source and Address

	Start      time.Time     `json:"start"`
	End        time.Time     `json:"end"`
	In         int64         `json:"in"` // bytes, consumer to service
	Out        int64         `json:"out"`
	PacketsIn  int64         `json:"packetsIn,omitempty"` // datagrams; 0 for protocols that have none
	PacketsOut int64         `json:"packetsOut,omitempty"`
	Action     string        `json:"action"`
	Reason     string        `json:"reason"`
	Verdict    verdict.Trace `json:"verdict"`
}

// Actions of a Record.
const (
	Accept = "ACCEPT" // bytes could pass
	Reject = "REJECT" // the consumer was refused before any byte passed
)

// A record on disk is its length (two bytes), flags, protocol, the times, its
// endpoint, and then the other fields in a fixed order. Ids are kept up to 255 bytes.
const (
	flagAccept = 1 << iota
	flagWindow
	flagTold
	flagVerdict
)

const (
	recordHead = 2 + 1 + 1 + 8 + 8 // up to the endpoint
	recordMost = 4 << 10           // more than any record takes
)

// protocols by their number at IANA.
var protocols = [...]verdict.Protocol{1: verdict.ICMP, 6: verdict.TCP, 17: verdict.UDP}

func protocolNumber(p verdict.Protocol) byte {
	return byte(max(slices.Index(protocols[:], p), 0))
}

// append adds r, but for its number, to b.
func (r *Record) append(b []byte) []byte {
	at := len(b)
	var flags byte
	for _, f := range [...]struct {
		on  bool
		bit byte
	}{{r.Action == Accept, flagAccept}, {r.Window, flagWindow}, {r.Told, flagTold}, {r.Verdict.Accept, flagVerdict}} {
		if f.on {
			flags |= f.bit
		}
	}
	b = append(b, 0, 0, flags, protocolNumber(r.Protocol))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Start.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.End.UnixNano()))
	b = appendText(b, r.Endpoint)
	b = appendText(b, r.Service)
	b = appendText(b, r.Reason)
	b = appendText(b, r.Zone)
	b = appendText(b, r.LoadBalancer)
	b = appendText(b, r.Server)
	b = appendText(b, string(r.Verdict.Reason))
	b = appendText(b, r.Verdict.Group)
	b = appendText(b, r.Verdict.Rule)
	b = appendAddr(b, r.Source)
	b = appendAddr(b, r.Address)
	b = appendAddr(b, r.Local)
	b = appendAddr(b, r.Target)
	b = binary.AppendUvarint(b, r.Flow)
	for _, n := range [...]int64{r.In, r.Out, r.PacketsIn, r.PacketsOut} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	binary.LittleEndian.PutUint16(b[at:], uint16(len(b)-at))
	return b
}

func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	switch ip := a.Addr(); {
	case ip.Is4():
		v := ip.As4()
		b = append(append(b, 4), v[:]...)
	case ip.Is6():
		v := ip.As16()
		b = append(append(b, 16), v[:]...)
	default:
		return append(b, 0)
	}
	return binary.LittleEndian.AppendUint16(b, a.Port())
}

var errRecord = errors.New("not a record")

// raw is one record in a segment, length and all.
type raw []byte

// cut takes the first record off b.
func cut(b []byte) (raw, []byte, error) {
	if len(b) < recordHead {
		return nil, nil, errRecord
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n < recordHead || n > len(b) {
		return nil, nil, errRecord
	}
	return b[:n], b[n:], nil
}

func (r raw) accepted() bool { return r[2]&flagAccept != 0 }
func (r raw) end() int64     { return int64(binary.LittleEndian.Uint64(r[12:])) }

// texts are the endpoint, the service and the reason.
func (r raw) texts() (endpoint, service, reason []byte) {
	p := parser{rest: r[recordHead:]}
	return p.bytes(), p.bytes(), p.bytes()
}

// decode reads a record that is whole.
func (r raw) decode(seq uint64) (Record, error) {
	out := Record{
		Seq: seq, Window: r[2]&flagWindow != 0, Told: r[2]&flagTold != 0, Action: Reject,
		Start: time.Unix(0, int64(binary.LittleEndian.Uint64(r[4:]))), End: time.Unix(0, r.end()),
	}
	if r.accepted() {
		out.Action = Accept
	}
	out.Verdict.Accept = r[2]&flagVerdict != 0
	if int(r[3]) < len(protocols) {
		out.Protocol = protocols[r[3]]
	}
	p := parser{rest: r[recordHead:]}
	out.Endpoint, out.Service, out.Reason = p.text(), p.text(), p.text()
	out.Zone, out.LoadBalancer, out.Server = p.text(), p.text(), p.text()
	out.Verdict.Reason, out.Verdict.Group, out.Verdict.Rule = verdict.Reason(p.text()), p.text(), p.text()
	out.Source, out.Address, out.Local, out.Target = p.addr(), p.addr(), p.addr(), p.addr()
	out.Flow = p.number()
	for _, to := range [...]*int64{&out.In, &out.Out, &out.PacketsIn, &out.PacketsOut} {
		*to = int64(p.number())
	}
	if p.short || len(p.rest) > 0 {
		return Record{}, errRecord
	}
	return out, nil
}

// parser reads fields one after the other; short says that one was missing.
type parser struct {
	rest  []byte
	short bool
}

func (p *parser) take(n int) []byte {
	if n < 0 || n > len(p.rest) {
		p.short, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) bytes() []byte {
	if n := p.take(1); n != nil {
		return p.take(int(n[0]))
	}
	return nil
}

func (p *parser) text() string { return string(p.bytes()) }

func (p *parser) number() uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 {
		p.short, p.rest = true, nil
		return 0
	}
	p.take(n)
	return v
}

func (p *parser) addr() netip.AddrPort {
	b := p.bytes()
	if len(b) == 0 {
		return netip.AddrPort{}
	}
	ip, ok := netip.AddrFromSlice(b)
	port := p.take(2)
	if !ok || port == nil {
		p.short = true
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, binary.LittleEndian.Uint16(port))
}
