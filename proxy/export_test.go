package proxy

// SocketOf returns where r dials.
func SocketOf(r *Remote) string { return r.socket }
