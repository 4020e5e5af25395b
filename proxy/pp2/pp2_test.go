package pp2_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	proxyproto "github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/openprivatelink/openprivatelink/proxy/pp2"
)

var (
	client4, front4 = netip.MustParseAddrPort("10.0.5.100:40000"), netip.MustParseAddrPort("10.0.5.5:443")
	client6, front6 = netip.MustParseAddrPort("[fd00::100]:40000"), netip.MustParseAddrPort("[fd00::5]:443")
)

func TestGolden(t *testing.T) {
	const start = "0d0a0d0a000d0a515549540a"
	tests := []struct {
		name string
		pp2.Header
		want string
	}{
		{"local", pp2.Header{}, "20000000"},
		{"tcp4", pp2.Header{Source: client4, To: front4}, "2111000c" + "0a0005640a0005059c4001bb"},
		{"udp4", pp2.Header{Source: client4, To: front4, Packet: true}, "2112000c" + "0a0005640a0005059c4001bb"},
		{
			"tcp6",
			pp2.Header{Source: client6, To: front6},
			"21210024" + "fd000000000000000000000000000100" + "fd000000000000000000000000000005" + "9c4001bb",
		},
		{
			"udp6",
			pp2.Header{Source: client6, To: front6, Packet: true},
			"21220024" + "fd000000000000000000000000000100" + "fd000000000000000000000000000005" + "9c4001bb",
		},
		{
			"the cloud's example",
			pp2.Header{Source: client4, To: front4, Endpoint: "ep-bp1x"},
			"21110017" + "0a0005640a0005059c4001bb" + "e100080265702d62703178",
		},
		{
			"every id",
			pp2.Header{Source: client4, To: front4, Dialect: pp2.Alibaba, VPC: "v", Endpoint: "e", Service: "s"},
			"2111001b" + "0a0005640a0005059c4001bb" + "e100020176" + "e100020265" + "e100020373",
		},
	}
	for _, test := range tests {
		if got := hex.EncodeToString(pp2.Append(nil, test.Header)); got != start+test.want {
			t.Errorf("%s: got\n%s, want\n%s", test.name, got, start+test.want)
		}
	}
	if got := pp2.Number("ep-bp1x"); got != 0xe5e0e6823f43e170 {
		t.Errorf("number of ep-bp1x: %#x; it must never change", got)
	}
}

func TestAppendKeepsAndAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 256)
	for _, d := range []pp2.Dialect{pp2.Alibaba, pp2.AWS, pp2.Azure, pp2.GCP} {
		h := pp2.Header{Source: client6, To: front6, Dialect: d, VPC: "vpc-1", Endpoint: "ep-1", Service: "epsrv-1"}
		if n := testing.AllocsPerRun(100, func() { buf = pp2.Append(buf[:0], h) }); n > 0 {
			t.Errorf("%s: %v allocations", d, n)
		}
		if got := pp2.Append([]byte("before"), h); string(got) != "before"+string(buf) {
			t.Errorf("%s: appended to something: %q", d, got)
		}
	}
}

// FuzzAppend has an independent reader understand what is written.
func FuzzAppend(f *testing.F) {
	for i, d := range []pp2.Dialect{pp2.Alibaba, pp2.AWS, pp2.Azure, pp2.GCP, ""} {
		f.Add(client4.Addr().AsSlice(), front4.Addr().AsSlice(), uint16(1), uint16(65535), i%2 == 0, string(d), "vpc-1", "ep-1", "epsrv-1")
		f.Add(client6.Addr().AsSlice(), front4.Addr().AsSlice(), uint16(0), uint16(9), i%2 == 1, string(d), "", "vpce-0123", "")
	}
	f.Add([]byte{}, front4.Addr().AsSlice(), uint16(1), uint16(2), false, "", "vpc-1", "ep-1", strings.Repeat("x", 256))
	f.Fuzz(func(t *testing.T, source, to []byte, from, at uint16, packet bool, dialect, vpc, endpoint, service string) {
		a, _ := netip.AddrFromSlice(source)
		b, _ := netip.AddrFromSlice(to)
		h := pp2.Header{
			Source: netip.AddrPortFrom(a.Unmap(), from), To: netip.AddrPortFrom(b.Unmap(), at), Packet: packet,
			Dialect: pp2.Dialect(dialect), VPC: vpc, Endpoint: endpoint, Service: service,
		}
		const after = "what the client says"
		r := bufio.NewReader(bytes.NewReader(append(pp2.Append(nil, h), after...)))
		got, err := proxyproto.Read(r)
		if err != nil {
			t.Fatal(err)
		}
		rest := make([]byte, len(after)+1)
		if n, _ := r.Read(rest); string(rest[:n]) != after {
			t.Fatalf("after the header: %q", rest[:n])
		}
		if !h.Source.IsValid() || !h.To.IsValid() {
			if !got.Command.IsLocal() {
				t.Fatalf("without addresses: %+v", got)
			}
			return
		}
		if got.TransportProtocol.IsDatagram() != packet || got.TransportProtocol.IsIPv4() != (h.Source.Addr().Is4() && h.To.Addr().Is4()) {
			t.Fatalf("protocol: %v", got.TransportProtocol)
		}
		ip, ip2, _ := got.IPs()
		port, port2, _ := got.Ports()
		if !ip.Equal(h.Source.Addr().AsSlice()) || !ip2.Equal(h.To.Addr().AsSlice()) || port != int(from) || port2 != int(at) {
			t.Fatalf("addresses: %v:%d to %v:%d, want %v to %v", ip, port, ip2, port2, h.Source, h.To)
		}
		ids(t, got, h)
	})
}

// ids wants exactly those of h.
func ids(t *testing.T, got *proxyproto.Header, h pp2.Header) {
	t.Helper()
	tlvs, err := got.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	told := func(id string) bool { return id != "" && len(id) <= 255 }
	switch h.Dialect {
	case pp2.AWS:
		if !told(h.Endpoint) {
			break
		}
		if len(tlvs) != 1 || tlvs[0].Type != tlvparse.PP2_TYPE_AWS || string(tlvs[0].Value) != "\x01"+h.Endpoint {
			t.Fatalf("got %v, want %q", tlvs, h.Endpoint)
		}
		if id := tlvparse.FindAWSVPCEndpointID(tlvs); id != "" && id != h.Endpoint {
			t.Fatalf("got %q, want %q", id, h.Endpoint)
		}
		return
	case pp2.Azure:
		id, found := tlvparse.FindAzurePrivateEndpointLinkID(tlvs)
		if found != (h.Endpoint != "") || found && id != uint32(pp2.Number(h.Endpoint)) {
			t.Fatalf("got %v %v for %q", id, found, h.Endpoint)
		}
		return
	case pp2.GCP:
		id, found := tlvparse.ExtractPSCConnectionID(tlvs)
		if found != (h.Endpoint != "") || found && id != pp2.Number(h.Endpoint) {
			t.Fatalf("got %v %v for %q", id, found, h.Endpoint)
		}
		return
	default:
		var want []proxyproto.TLV
		for i, id := range []string{h.VPC, h.Endpoint, h.Service} {
			if told(id) {
				want = append(want, proxyproto.TLV{Type: 0xe1, Value: append([]byte{byte(i + 1)}, id...)})
			}
		}
		if diff := cmp.Diff(want, tlvs); diff != "" {
			t.Fatal(diff)
		}
		return
	}
	if len(tlvs) > 0 {
		t.Fatalf("got %v, want none", tlvs)
	}
}
