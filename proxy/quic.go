package proxy

import (
	"encoding/binary"
	"sync"
)

// Lengths in the header of a QUIC packet (RFC 8999, which holds for every version;
// the fixed bit is of RFC 9000).
const (
	quicLong     = 0x80 // bit of the first byte: a long header
	quicFixed    = 0x40 // bit of the first byte: set in every packet but negotiations of a version
	quicLeast    = 9    // the shortest datagram that is looked at: a first byte and 8 of an id
	quicLongest  = 20   // of an id
	quicMost     = 8    // bytes of an id that count
	quicLearnt   = 1 << 16
	quicLongHead = 6 // first byte, version, length of the first id
)

// quicID is a QUIC connection id as far as it counts.
type quicID struct {
	size  uint8 // 1 to quicMost
	bytes [quicMost]byte
}

func newQUICID(b []byte) quicID {
	id := quicID{size: uint8(min(len(b), quicMost))}
	copy(id.bytes[:], b)
	return id
}

func (id quicID) head() uint64 { return binary.BigEndian.Uint64(id.bytes[:]) }

// shorter is the first n bytes of id.
func (id quicID) shorter(n uint8) quicID { return newQUICID(id.bytes[:min(n, id.size)]) }

// destinationID returns the id that a packet is sent to. A short header does not
// say how long it is: of that, the first 8 bytes after the first byte. It is false
// for what is too short or not QUIC.
func destinationID(b []byte) (quicID, bool) {
	if len(b) < quicLeast || b[0]&quicFixed == 0 {
		return quicID{}, false
	}
	if b[0]&quicLong == 0 {
		return newQUICID(b[1:quicLeast]), true
	}
	id, _, ok := cutID(b[quicLongHead-1:])
	return newQUICID(id), ok && len(id) > 0
}

// sourceID returns the id that the sender of a long header goes by, which its peer
// will send to.
func sourceID(b []byte) (quicID, bool) {
	if len(b) < quicLeast || b[0]&(quicLong|quicFixed) != quicLong|quicFixed {
		return quicID{}, false
	}
	_, rest, ok := cutID(b[quicLongHead-1:])
	if !ok {
		return quicID{}, false
	}
	id, _, ok := cutID(rest)
	return newQUICID(id), ok && len(id) > 0
}

// cutID cuts an id with its length before it off b.
func cutID(b []byte) (id, rest []byte, ok bool) {
	if len(b) == 0 || int(b[0]) > quicLongest || len(b) <= int(b[0]) {
		return nil, nil, false
	}
	n := 1 + int(b[0])
	return b[1:n], b[n:], true
}

// quicIDs remembers which server goes by which id, the newest quicLearnt at least
// and twice that at most.
type quicIDs struct {
	mu         sync.RWMutex
	sizes      [quicMost + 1]bool // that ids have come in
	young, old map[quicID]*server
}

// learn takes the id out of a reply of s.
func (q *quicIDs) learn(s *server, reply []byte) {
	id, ok := sourceID(reply)
	if !ok {
		return
	}
	q.mu.RLock()
	known := q.young[id] == s
	q.mu.RUnlock()
	if known {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.young == nil || len(q.young) >= quicLearnt {
		q.young, q.old = map[quicID]*server{}, q.young
	}
	q.young[id] = s
	q.sizes[id.size] = true
}

// find returns the server that a datagram belongs to, nil if that is not known.
func (q *quicIDs) find(datagram []byte) *server {
	id, ok := destinationID(datagram)
	if !ok {
		return nil
	}
	q.mu.RLock()
	defer q.mu.RUnlock()
	for n := id.size; n > 0; n-- { // the longest that fits
		if !q.sizes[n] {
			continue
		}
		at := id.shorter(n)
		if s := q.young[at]; s != nil {
			return s
		}
		if s := q.old[at]; s != nil {
			return s
		}
	}
	return nil
}
