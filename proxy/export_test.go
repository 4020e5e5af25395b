package proxy

// LookAfterNext looks after the network that follows last, as the engine does from
// time to time, and returns its id.
func (e *Local) LookAfterNext(last string) string {
	id := e.nextNetwork(last)
	e.lookAfter(id)
	return id
}

// SocketOf returns where r dials.
func SocketOf(r *Remote) string { return r.socket }
