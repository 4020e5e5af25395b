package forward

import "math/bits"

// wheel is a hierarchical timing wheel: adding and removing a timer costs the
// same however many there are. Times are nanoseconds of one clock; a timer fires
// within a tick after it is due, never before.
type wheel struct {
	now    int64 // ticks that have been fired
	levels [wheelLevels]struct {
		slots [wheelSlots]*timer
		used  uint64 // one bit a slot
	}
	far *timer // beyond the highest level
}

const (
	tick        = int64(8e6) // 8 ms
	wheelBits   = 6
	wheelSlots  = 1 << wheelBits
	wheelLevels = 4 // 8 ms, 0.5 s, 33 s, 35 min, together 37 hours
)

// timer belongs to whoever embeds it. The zero timer is not set.
type timer struct {
	at         int64 // in ticks
	owner      interface{ due(now int64) }
	head       **timer // of the list it is in; nil: not set
	prev, next *timer
	level      int8
	slot       uint8
}

func newWheel(now int64) *wheel { return &wheel{now: now / tick} }

// set arms t to fire once at time at, in place of what it was set to before.
func (w *wheel) set(t *timer, at int64) {
	w.clear(t)
	t.at = max((at+tick-1)/tick, w.now+1)
	w.put(t)
}

func (w *wheel) put(t *timer) {
	ahead := uint64(t.at) ^ uint64(w.now)
	level := max(bits.Len64(ahead)-1, 0) / wheelBits
	if level >= wheelLevels {
		t.level, t.head = wheelLevels, &w.far
	} else {
		l := &w.levels[level]
		t.level, t.slot = int8(level), uint8(t.at>>(level*wheelBits)&(wheelSlots-1))
		t.head = &l.slots[t.slot]
		l.used |= 1 << t.slot
	}
	t.prev, t.next = nil, *t.head
	if t.next != nil {
		t.next.prev = t
	}
	*t.head = t
}

// clear disarms t.
func (w *wheel) clear(t *timer) {
	if t.head == nil {
		return
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	if t.prev != nil {
		t.prev.next = t.next
	} else if *t.head = t.next; t.next == nil && t.level < wheelLevels {
		w.levels[t.level].used &^= 1 << t.slot
	}
	t.head, t.prev, t.next = nil, nil, nil
}

// next is when something has to be done, and false if there is nothing.
func (w *wheel) next() (at int64, ok bool) {
	for level := range w.levels {
		l := &w.levels[level]
		if l.used == 0 {
			continue
		}
		shift := level * wheelBits
		here := uint(w.now>>shift) & (wheelSlots - 1)
		ahead := bits.TrailingZeros64(bits.RotateLeft64(l.used, -int(here)))
		return ((w.now>>shift + int64(ahead)) << shift) * tick, true
	}
	if w.far != nil {
		return ((w.now>>(wheelLevels*wheelBits) + 1) << (wheelLevels * wheelBits)) * tick, true
	}
	return 0, false
}

// advance fires what is due by now. Timers may be set and cleared meanwhile.
func (w *wheel) advance(now int64) {
	for {
		at, ok := w.next()
		if !ok || at > now {
			w.now = max(w.now, now/tick)
			return
		}
		w.now = max(w.now, at/tick)
		for level := wheelLevels; level > 0; level-- {
			if w.now&(1<<(level*wheelBits)-1) != 0 {
				continue
			}
			if level == wheelLevels {
				w.spread(&w.far)
			} else {
				slot := w.now >> (level * wheelBits) & (wheelSlots - 1)
				w.levels[level].used &^= 1 << slot
				w.spread(&w.levels[level].slots[slot])
			}
		}
		l := &w.levels[0]
		slot := &l.slots[w.now&(wheelSlots-1)]
		for t := *slot; t != nil; t = *slot {
			w.clear(t)
			t.owner.due(now)
		}
	}
}

// spread puts the timers of a list where they belong now.
func (w *wheel) spread(list **timer) {
	t := *list
	*list = nil
	for t != nil {
		next := t.next
		w.put(t)
		t = next
	}
}
