// Package report judges what a benchmark measured by the project's goals, and says
// it in lines and in a page. It measures nothing itself.
package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// Goals are what figures shall be.
type Goals struct {
	Figures []Figure `toml:"figure"`
}

// Figure is one thing that is measured, and what it shall be at a peer. Each level
// is a list like ">= 1.3 haproxy, >= 0.55 direct": ratios to what the same rounds
// measured at others, or numbers when no other is named.
type Figure struct {
	ID      string    `toml:"id"`      // of the measurement, like crr or crr.cpu
	Name    string    `toml:"name"`    // for people
	Unit    string    `toml:"unit"`    //
	Subject string    `toml:"subject"` // the peer that is judged; empty means self
	Floor   Condition `toml:"floor"`   // below it, a change is not to be merged
	Goal    Condition `toml:"goal"`    //
	Stretch Condition `toml:"stretch"` //
}

// Condition is a list of bounds that all shall hold.
type Condition []Bound

// Bound is one comparison, with a peer's figure or with a number.
type Bound struct {
	AtMost bool // else at least
	Limit  float64
	Peer   string // empty: Limit is a number in the figure's unit
}

// UnmarshalText reads a list of bounds, separated by commas.
func (c *Condition) UnmarshalText(text []byte) error {
	*c = nil
	for part := range strings.SplitSeq(string(text), ",") {
		words := strings.Fields(part)
		if len(words) < 2 || len(words) > 3 || words[0] != "<=" && words[0] != ">=" {
			return fmt.Errorf("bound %q: want <= or >=, a number and perhaps a peer", strings.TrimSpace(part))
		}
		limit, err := strconv.ParseFloat(words[1], 64)
		if err != nil || !(limit >= 0) {
			return fmt.Errorf("bound %q: %q is no number from 0", strings.TrimSpace(part), words[1])
		}
		b := Bound{AtMost: words[0] == "<=", Limit: limit}
		if len(words) == 3 {
			b.Peer = words[2]
		}
		*c = append(*c, b)
	}
	return nil
}

func (b Bound) String() string {
	sign := "≥"
	if b.AtMost {
		sign = "≤"
	}
	s := sign + " " + strconv.FormatFloat(b.Limit, 'g', -1, 64)
	if b.Peer != "" {
		s += " × " + b.Peer
	}
	return s
}

func (c Condition) String() string {
	parts := make([]string, len(c))
	for i, b := range c {
		parts[i] = b.String()
	}
	return strings.Join(parts, ", ")
}

// ParseGoals reads a goals file.
func ParseGoals(text string) (Goals, error) {
	var g Goals
	meta, err := toml.Decode(text, &g)
	if err != nil {
		return Goals{}, fmt.Errorf("goals: %w", err)
	}
	if keys := meta.Undecoded(); len(keys) > 0 {
		return Goals{}, fmt.Errorf("goals: nobody knows %v", keys[0])
	}
	seen := map[string]bool{}
	for i, f := range g.Figures {
		if f.Subject == "" {
			f.Subject = Self
			g.Figures[i] = f
		}
		key := f.ID + " at " + f.Subject
		if f.ID == "" || f.Name == "" || seen[key] {
			return Goals{}, fmt.Errorf("goals: figure %d needs a name, and an id that no other has at %s", i+1, f.Subject)
		}
		seen[key] = true
	}
	return g, nil
}

// peers names everybody that f is compared with, in the order of the goals.
func (f Figure) peers() (names []string) {
	for _, b := range slices.Concat(f.Floor, f.Goal, f.Stretch) {
		if b.Peer != "" && !slices.Contains(names, b.Peer) {
			names = append(names, b.Peer)
		}
	}
	return names
}
