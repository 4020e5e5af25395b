// Package domain is what PrivateLink is: accounts, their networks and load
// balancers, endpoint services, endpoints and the connections between them, the
// rules they obey, and their storage.
//
// It knows nothing of HTTP, HTML or sockets. Every operation for a tenant is a
// method of [Scope], and a Scope exists only for somebody who has proved who they
// are, so no caller can read or write past its own account by omission. What
// shall be is written by people; what is, by the [System] that the engine's
// reports come in through; and each status has one writer, its state machine.
package domain
