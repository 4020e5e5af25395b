// Package pp2 writes headers of the PROXY protocol, version 2: what a server that
// asks for them gets in front of a flow, so that it knows whom it talks to.
//
// It only writes, and only what a load balancer says: addresses, and the ids that
// the clouds tell in a TLV of their own each.
package pp2

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// Dialect is the cloud whose TLV a header speaks.
type Dialect string

// The dialects. Only Alibaba's tells the VPC and the service, too.
const (
	Alibaba Dialect = "alibaba" // one TLV for each id, as text; also what an empty dialect means
	AWS     Dialect = "aws"     // the endpoint as text
	Azure   Dialect = "azure"   // the endpoint as a number, see [Number]
	GCP     Dialect = "gcp"     // the endpoint as a number, see [Number]
)

// Header is what is said about a flow. Without both addresses it is one of the load
// balancer's own connections, such as a health check: a LOCAL header without more.
type Header struct {
	Source, To netip.AddrPort // the client, and where it connected to
	Packet     bool           // the flow is one of UDP, not of TCP

	// Ids; an empty one, and one above 255 bytes, is not told.
	Dialect  Dialect
	VPC      string
	Endpoint string
	Service  string
}

// Types of TLVs, and the parts of their values that say what kind of id follows.
const (
	typeAlibaba = 0xe1
	typeAWS     = 0xea
	typeAzure   = 0xee
	typeGCP     = 0xe0

	alibabaVPC      = 1
	alibabaEndpoint = 2
	alibabaService  = 3
	awsEndpoint     = 1
	azureLink       = 1
)

const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	local     = 0x20 // version 2, and the command
	proxied   = 0x21
	inet      = 0x10
	inet6     = 0x20
	stream    = 0x01
	datagram  = 0x02
	longestID = 255
)

// Append appends the header to dst.
func Append(dst []byte, h Header) []byte {
	dst = append(dst, signature...)
	if !h.Source.IsValid() || !h.To.IsValid() {
		return append(dst, local, 0, 0, 0)
	}
	transport := byte(stream)
	if h.Packet {
		transport = datagram
	}
	source, to := h.Source.Addr().Unmap(), h.To.Addr().Unmap()
	begin := len(dst) + 4 // of what the length counts
	if source.Is4() && to.Is4() {
		dst = append(dst, proxied, inet|transport, 0, 0)
		a, b := source.As4(), to.As4()
		dst = append(append(dst, a[:]...), b[:]...)
	} else {
		dst = append(dst, proxied, inet6|transport, 0, 0)
		a, b := source.As16(), to.As16()
		dst = append(append(dst, a[:]...), b[:]...)
	}
	dst = binary.BigEndian.AppendUint16(dst, h.Source.Port())
	dst = binary.BigEndian.AppendUint16(dst, h.To.Port())
	dst = appendIDs(dst, h)
	binary.BigEndian.PutUint16(dst[begin-2:], uint16(len(dst)-begin))
	return dst
}

func appendIDs(dst []byte, h Header) []byte {
	switch h.Dialect {
	case AWS:
		return appendText(dst, typeAWS, awsEndpoint, h.Endpoint)
	case Azure:
		if h.Endpoint != "" {
			dst = append(dst, typeAzure, 0, 5, azureLink)
			dst = binary.LittleEndian.AppendUint32(dst, uint32(Number(h.Endpoint)))
		}
		return dst
	case GCP:
		if h.Endpoint != "" {
			dst = append(dst, typeGCP, 0, 8)
			dst = binary.BigEndian.AppendUint64(dst, Number(h.Endpoint))
		}
		return dst
	}
	dst = appendText(dst, typeAlibaba, alibabaVPC, h.VPC)
	dst = appendText(dst, typeAlibaba, alibabaEndpoint, h.Endpoint)
	return appendText(dst, typeAlibaba, alibabaService, h.Service)
}

func appendText(dst []byte, kind, part byte, id string) []byte {
	if id == "" || len(id) > longestID {
		return dst
	}
	dst = binary.BigEndian.AppendUint16(append(dst, kind), uint16(1+len(id)))
	return append(append(dst, part), id...)
}

// Number stands for an id in the dialects whose ids are numbers: the first 8 bytes
// of the SHA-256 of its text, the most significant first. Azure's are the lower 32
// bits of it.
func Number(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:])
}
