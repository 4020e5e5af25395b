package forward

import (
	"testing"

	"pgregory.net/rapid"
)

type alarm struct {
	timer
	want  int64 // 0: not set
	fired int64
}

func (a *alarm) due(now int64) { a.fired = now }

// A timer fires once, never early, and in the first advance that is a tick late.
func TestWheel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Int64Range(1, 1e18).Draw(t, "start")
		w := newWheel(now)
		alarms := make([]*alarm, 8)
		for i := range alarms {
			alarms[i] = new(alarm)
			alarms[i].owner = alarms[i]
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			a := rapid.SampledFrom(alarms).Draw(t, "alarm")
			span := rapid.SampledFrom([]int64{tick, 100 * tick, 5e9, 300e9, 4e12, 200e12}).Draw(t, "span")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				a.want = now + rapid.Int64Range(0, span).Draw(t, "in")
				w.set(&a.timer, a.want)
			case 2:
				a.want = 0
				w.clear(&a.timer)
			default:
				now += rapid.Int64Range(0, span).Draw(t, "on")
				w.advance(now)
				for i, a := range alarms {
					switch {
					case a.fired != 0 && (a.want == 0 || now < a.want):
						t.Fatalf("alarm %d fired at %d, set for %d", i, a.fired, a.want)
					case a.fired == 0 && a.want != 0 && now >= a.want+2*tick:
						t.Fatalf("alarm %d set for %d did not fire by %d", i, a.want, now)
					case a.fired != 0:
						a.fired, a.want = 0, 0
					}
				}
			}
			earliest := int64(0)
			for _, a := range alarms {
				if a.want != 0 && (earliest == 0 || a.want < earliest) {
					earliest = a.want
				}
			}
			if at, ok := w.next(); ok != (earliest != 0) || ok && at > earliest+2*tick {
				t.Fatalf("next is %d, %v; the earliest alarm is set for %d", at, ok, earliest)
			}
		}
	})
}

func BenchmarkWheelSet(b *testing.B) {
	w := newWheel(0)
	alarms := make([]alarm, 10_000)
	for i := range alarms {
		alarms[i].owner = &alarms[i]
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.set(&alarms[i%len(alarms)].timer, int64(i%1000)*1e9)
	}
}
