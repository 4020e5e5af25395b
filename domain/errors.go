package domain

import (
	"errors"
	"fmt"
)

// Kind sorts errors by what the caller can do about them. A transport maps each
// kind to one status code.
type Kind int

// The kinds of errors. Internal is the zero value: an error of no known kind.
const (
	Internal Kind = iota
	Invalid       // the request is wrong; Field says where
	NotFound      // there is none, or it belongs to somebody else
	Gone          // it was the caller's own and has been deleted
	Denied        // the caller's role does not allow it
	Conflict      // not in this state, not while in use, or changed meanwhile
	Limit         // a quota or a rate
)

func (k Kind) String() string {
	return [...]string{"internal", "invalid", "not found", "gone", "denied", "conflict", "limit"}[k]
}

// Error is what every operation of this package fails with.
type Error struct {
	Kind    Kind
	Reason  string // stable and machine-readable, e.g. "endpoint_not_found"
	Message string // one sentence or two for a person, safe to show
	Field   string // form field at fault, or ""
	Err     error  // the cause, for the log only
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Message, e.Err)
	}
	return e.Reason + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of err, Internal if it is not an [*Error].
func KindOf(err error) Kind {
	if de, ok := errors.AsType[*Error](err); ok {
		return de.Kind
	}
	return Internal
}

// Fields returns the faults of fields in err, in order, for a form: one [*Error]
// or several joined by [errors.Join].
func Fields(err error) []*Error {
	var out []*Error
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) { //nolint:errorlint // this is the walk that errors.As does, but it wants every fault
		case *Error:
			if e.Field != "" {
				out = append(out, e)
			}
		case interface{ Unwrap() []error }:
			for _, inner := range e.Unwrap() {
				walk(inner)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	return out
}

func fail(kind Kind, reason, message string, args ...any) error {
	if len(args) > 0 {
		message = fmt.Sprintf(message, args...)
	}
	return &Error{Kind: kind, Reason: reason, Message: message}
}

// invalid is a fault of one field.
func invalid(field, reason, message string, args ...any) error {
	if len(args) > 0 {
		message = fmt.Sprintf(message, args...)
	}
	return &Error{Kind: Invalid, Reason: reason, Message: message, Field: field}
}

// missing is the one answer for what does not exist and what belongs to others.
func missing(kind string) error {
	return fail(NotFound, kind+"_not_found", "There is no such %s in this account.", nouns[kind])
}

// changedMeanwhile is a lost race or an old form.
func changedMeanwhile(kind string) error {
	return fail(Conflict, kind+"_changed", "The %s changed meanwhile. Look again and repeat what is still wanted.", nouns[kind])
}

// nouns are the words for kinds of objects in sentences.
var nouns = map[string]string{
	KindAccount: "account", KindUser: "user", KindAccessKey: "access key", KindVPC: "VPC", KindVSwitch: "vSwitch",
	KindGroup: "security group", KindRule: "rule", KindAttachment: "attachment", KindOffer: "offer", KindRouteTable: "route table",
	KindLoadBalancer: "load balancer", KindListener: "listener", KindServerGroup: "server group", KindServer: "target",
	KindService: "endpoint service", KindEndpoint: "endpoint", KindConnection: "connection", KindAudit: "audit entry",
	KindRegion: "region", KindZone: "zone", KindSite: "site", KindSession: "session",
}
