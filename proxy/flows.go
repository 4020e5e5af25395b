package proxy

import (
	"maps"
	"slices"
	"sync"
)

// flowSet holds the live flows of a door or a server until it is shut.
type flowSet struct {
	mu    sync.Mutex
	flows set[*session]
	empty chan struct{} // not nil: shut; closed when the last flow has left
}

// add is false once the set is shut.
func (s *flowSet) add(f *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty != nil {
		return false
	}
	if s.flows == nil {
		s.flows = set[*session]{}
	}
	s.flows.add(f)
	return true
}

func (s *flowSet) remove(f *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flows, f)
	if s.empty != nil && len(s.flows) == 0 {
		close(s.empty)
	}
}

// list returns the flows inside.
func (s *flowSet) list() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.flows))
}

// cut ends the flows inside that which names; others may come.
func (s *flowSet) cut(reason string, which func(*session) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.flows {
		if which(f) {
			f.flow.End(reason)
		}
	}
}

// shut lets no flow in any more. It returns a channel that closes when those inside
// have left.
func (s *flowSet) shut() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty == nil {
		s.empty = make(chan struct{})
		if len(s.flows) == 0 {
			close(s.empty)
		}
	}
	return s.empty
}

// end lets no flow in any more and ends those inside, as shut.
func (s *flowSet) end(reason string) <-chan struct{} {
	empty := s.shut()
	s.cut(reason, func(*session) bool { return true })
	return empty
}
