package load

import (
	"encoding/binary"
	"testing"
)

// FuzzHeader cuts a connection's first bytes into two pieces. Where it cuts must not
// matter, and what is left is what follows the header.
func FuzzHeader(f *testing.F) {
	header := signature + "\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02"
	f.Add([]byte(header+"hello"), 3)
	f.Add([]byte(header), 14)
	f.Add([]byte(signature+"\x20\x00\x00\x00x"), 15)
	f.Add([]byte("GET / HTTP/1.1\r\n"), 5)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut < 0 || cut > len(b) {
			return
		}
		strip := func(pieces ...[]byte) (rest string, header, ok bool) {
			p := peer{header: []byte{}}
			for _, piece := range pieces {
				if p.header != nil {
					if piece, ok = p.strip(piece); !ok {
						return "", false, false
					}
				}
				rest += string(piece)
			}
			return rest, p.header == nil, true
		}
		rest, header, ok := strip(b)
		rest2, header2, ok2 := strip(b[:cut], b[cut:])
		if rest != rest2 || header != header2 || ok != ok2 {
			t.Fatalf("whole: %q %v %v, cut at %d: %q %v %v", rest, header, ok, cut, rest2, header2, ok2)
		}
		if !header && rest != "" {
			t.Fatalf("%q came out before the header was whole", rest)
		}
		if header && len(rest) != len(b)-fixedHeader-int(binary.BigEndian.Uint16(b[fixedHeader-2:])) {
			t.Fatalf("%q is not what follows the header", rest)
		}
	})
}
