package proxy

import (
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/openprivatelink/openprivatelink/proxy/forward"
)

// A server is tried from each local address while there is no free port towards
// it, and then another one is.
func TestOutOfPorts(t *testing.T) {
	short := os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)
	refused := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	locals := []netip.Addr{netip.MustParseAddr("10.0.0.20"), netip.MustParseAddr("10.0.0.21"), netip.MustParseAddr("10.0.0.22")}
	p := new(pool)
	slots := slotsOf(1, 1)
	p.fill(new(ServerGroup), "vpc", locals, slots)
	e := &Local{log: slog.New(slog.DiscardHandler)}
	for name, test := range map[string]struct {
		errs []error
		want string // reason of the end
	}{
		"everywhere":                 {slices.Repeat([]error{short}, 6), ReasonPorts},
		"at last refused":            {append(slices.Repeat([]error{short}, 3), refused), ReasonConnect},
		"first refused":              {append([]error{refused}, slices.Repeat([]error{short}, 3)...), ReasonPorts},
		"one address, then refused":  {[]error{short, refused, short, short, refused}, ReasonConnect},
		"refused by one and another": {[]error{refused, refused}, ReasonConnect},
	} {
		t.Run(name, func(t *testing.T) {
			f := new(forward.Flow)
			s := &session{flow: f, door: &door{engine: e, tally: new(tally)}, gate: &gate{pool: p}}
			var last forward.Target
			seen := map[netip.AddrPort]map[netip.Addr]bool{}
			for i, err := range test.errs {
				at, ok := s.Next(f)
				if !ok {
					t.Fatalf("gave up with %q after %d attempts, want %d", f.Reason(), i, len(test.errs))
				}
				if again := i > 0 && at.To == last.To; again && seen[at.To][at.From] {
					t.Fatalf("attempt %d: %v from %v again", i, at.To, at.From)
				}
				if seen[at.To] == nil {
					seen[at.To] = map[netip.Addr]bool{}
				}
				seen[at.To][at.From] = true
				last = at
				if s.server.live.Load() != 1 {
					t.Fatal("an attempt is no flow of its server")
				}
				s.Failed(f, err)
			}
			if at, ok := s.Next(f); ok || f.Reason() != test.want {
				t.Errorf("in the end %+v %v, %q, want %q", at, ok, f.Reason(), test.want)
			}
			for _, v := range slots {
				if v.live.Load() != 0 {
					t.Errorf("%s has %d flows left", v.id, v.live.Load())
				}
			}
		})
	}
}
