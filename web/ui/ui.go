// Package ui is the design system of the console: small templ components that
// take plain values and decide nothing.
//
// It is the only place, with web/layout, that knows the attributes of htmx:
// every form and link works without script first, and the components add the
// shorter trip. A component that is swapped has an id; [Patch] replaces it.
package ui

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Kind is what a status means; it decides icon and colour, and the page gives
// the word, so that colour never stands alone. The zero Kind is [Off].
type Kind string

// Kinds of status.
const (
	OK      Kind = "ok"      // done, healthy, connected
	Busy    Kind = "busy"    // on its way there: a spinner
	Waiting Kind = "waiting" // for a person
	Warn    Kind = "warn"    // works, but look
	Bad     Kind = "bad"     // failed, refused
	Off     Kind = "off"     // not in use
	Leaving Kind = "leaving" // on its way out: a spinner
	Info    Kind = "info"    // neutral
)

// looks maps a kind to its colour class and its icon.
var looks = map[Kind]struct{ class, icon string }{
	OK:      {"ok", "circle-check"},
	Busy:    {"info", "loader"},
	Waiting: {"warn", "clock"},
	Warn:    {"warn", "triangle-alert"},
	Bad:     {"bad", "circle-x"},
	Off:     {"off", "circle-minus"},
	Leaving: {"off", "loader"},
	Info:    {"info", "info"},
}

func (k Kind) class() string { return looks[k.known()].class }
func (k Kind) icon() string  { return looks[k.known()].icon }

func (k Kind) known() Kind {
	if _, ok := looks[k]; ok {
		return k
	}
	return Off
}

// State is a status as shown. Title, if any, is the API's word for it.
type State struct {
	Kind  Kind
	Word  string
	Title string
}

// Side says whose side of a connection something is on; it has a colour of its
// own everywhere. The zero Side belongs to neither.
type Side string

// Sides of a connection.
const (
	Consumer Side = "cons"
	Provider Side = "prov"
)

// Number writes n with thousands separators.
func Number[T ~int | ~int32 | ~int64 | ~uint64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	digits := strings.TrimPrefix(s, "-")
	var b strings.Builder
	b.WriteString(s[:len(s)-len(digits)])
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// Bytes writes n with a binary unit: "64 MiB", "1.5 KiB".
func Bytes(n int64) string {
	return scaled(float64(n), 1024, " B", " KiB", " MiB", " GiB", " TiB", " PiB")
}

// Rate writes a speed in bits per second: "420 Mbit/s".
func Rate(bits float64) string {
	return scaled(bits, 1000, " bit/s", " kbit/s", " Mbit/s", " Gbit/s", " Tbit/s")
}

func scaled(v, step float64, units ...string) string {
	i := 0
	for ; math.Abs(v) >= step && i < len(units)-1; i++ {
		v /= step
	}
	digits := 0
	if i > 0 && math.Abs(v) < 10 && v != math.Trunc(v) {
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + units[i]
}

// Plural writes "1 zone", "2 zones": the word for one, and for many "" (adds an
// s) or the word itself.
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	if many == "" {
		many = one + "s"
	}
	return Number(n) + " " + many
}

const utcLayout = "2006-01-02 15:04:05 UTC"

// relative says how long ago at was, or how soon it will be. app.js has the
// same rule and keeps the words right while a page stays open.
func relative(at, now time.Time) string {
	d := now.Sub(at)
	format := "%s ago"
	if d < 0 {
		d, format = -d, "in %s"
	}
	var n int
	var unit string
	switch {
	case d < 10*time.Second:
		if format[0] == 'i' {
			return "in a moment"
		}
		return "just now"
	case d < time.Minute:
		n, unit = int(d.Seconds()), " s"
	case d < time.Hour:
		n, unit = int(d.Minutes()), " min"
	case d < 48*time.Hour:
		n, unit = int(d.Hours()), " h"
	case d < 30*24*time.Hour:
		n, unit = int(d.Hours()/24), " d"
	default:
		return at.UTC().Format("2 Jan 2006")
	}
	return strings.Replace(format, "%s", strconv.Itoa(n)+unit, 1)
}

func utc(at time.Time) string { return at.UTC().Format(utcLayout) }
