package vpc

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithout(t *testing.T) {
	const top = 0xffffffff
	for _, tt := range []struct{ allow, deny, want []span }{
		{nil, nil, nil},
		{[]span{{1, 9}}, nil, []span{{1, 9}}},
		{[]span{{1, 9}}, []span{{1, 9}}, nil},
		{[]span{{1, 9}}, []span{{3, 4}}, []span{{1, 2}, {5, 9}}},
		{[]span{{1, 9}}, []span{{0, 1}, {9, 20}}, []span{{2, 8}}},
		{[]span{{1, 3}, {4, 9}, {2, 5}}, []span{{7, 7}}, []span{{1, 6}, {8, 9}}},
		{[]span{{0, top}}, []span{{0, 0}, {top, top}}, []span{{1, top - 1}}},
		{[]span{{0, top}}, []span{{5, top}}, []span{{0, 4}}},
		{[]span{{0, top}}, []span{{0, top}}, nil},
		{[]span{{top, top}}, []span{{0, 1}}, []span{{top, top}}},
	} {
		got := without(tt.allow, tt.deny)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(span{})); diff != "" {
			t.Errorf("%v without %v: %s", tt.allow, tt.deny, diff)
		}
	}
	in := func(spans []span, v uint32) bool {
		for _, s := range spans {
			if s.from <= v && v <= s.to {
				return true
			}
		}
		return false
	}
	r := rand.New(rand.NewPCG(1, 2))
	random := func() (out []span) {
		for range r.IntN(6) {
			from := r.Uint32N(64)
			out = append(out, span{from, from + r.Uint32N(16)})
		}
		return out
	}
	for range 2000 {
		allow, deny := random(), random()
		got := without(allow, deny)
		for v := range uint32(90) {
			if want := in(allow, v) && !in(deny, v); in(got, v) != want {
				t.Fatalf("%v without %v is %v: wrong about %d", allow, deny, got, v)
			}
		}
		for i := 1; i < len(got); i++ {
			if got[i].from <= got[i-1].to {
				t.Fatalf("%v without %v is %v: not disjoint", allow, deny, got)
			}
		}
	}
	if got, want := spanOf(netip.MustParsePrefix("0.0.0.0/0")), (span{0, top}); got != want {
		t.Errorf("everything is %v", got)
	}
	if got, want := spanOf(netip.MustParsePrefix("10.0.1.7/24")), (span{10<<24 | 1<<8, 10<<24 | 1<<8 | 255}); got != want {
		t.Errorf("10.0.1.7/24 is %v", got)
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[string]bool{
		"vpc-abc_1": true, "A": true, "": false, "a.b": false, "a/b": false, "..": false, "a b": false, "ä": false, "a\x00": false,
	} {
		if got := validName(s, maxName, true); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
	for _, id := range []string{"", "A", "a-b", "abcdefghi", "../x"} {
		if d, err := New(Config{Installation: id, Mode: ModeLoopback}); err == nil {
			d.Close()
			t.Errorf("installation %q is accepted", id)
		}
	}
	if _, err := New(Config{Installation: "a", Mode: "wonder"}); err == nil {
		t.Error("an unknown mode is accepted")
	}
}
