package ui

import (
	"net/url"
	"slices"
)

// FieldError is what is wrong with one field; Field "" is the form as a whole.
type FieldError struct{ Field, Message string }

// Form is a writing form as shown: before the first submit Values is nil and
// each control shows its own value; afterwards it shows what was typed.
type Form struct {
	ID     string // of the element, so that 422 can replace it
	Action string
	Hidden Hidden
	Values url.Values
	Errors []FieldError
}

// Control is one field. Value is what it holds at first: Values where several
// may be chosen.
type Control struct {
	Name     string
	Label    string
	Hint     string
	Value    string
	Values   []string
	Options  []Option
	Optional bool // says so beside the label
	Bare     bool // the label is read out, not shown: in a table of fields
	Disabled bool

	Type         string // of an input; "" is text
	Placeholder  string
	Suffix       string // a unit behind the input
	InputMode    string
	Autocomplete string // "" is off
	Mono         bool
	Rows         int // of a text area; 0 means 2
	Autofocus    bool

	id, err string // set by show
}

// show gives c what f knows of it: what was typed, and what is wrong with it.
func (f Form) show(c Control) Control {
	c.id = f.ID + "-" + c.Name
	if f.Values != nil {
		c.Value, c.Values = f.Values.Get(c.Name), f.Values[c.Name]
	} else if c.Value != "" && c.Values == nil {
		c.Values = []string{c.Value}
	}
	if i := slices.IndexFunc(f.Errors, func(e FieldError) bool { return e.Field == c.Name }); i >= 0 {
		c.err = f.Errors[i].Message
	}
	return c
}

// Typed returns what the control name holds now, for parts of a page that
// depend on it: what was typed, else value.
func (f Form) Typed(name, value string) string {
	if f.Values != nil {
		return f.Values.Get(name)
	}
	return value
}

// anchor is where the summary of errors leads.
func (f Form) anchor(e FieldError) string {
	if e.Field == "" {
		return "#" + f.ID
	}
	return "#" + f.ID + "-" + e.Field
}

func (c Control) hintID() string { return c.id + "-hint" }
func (c Control) errID() string  { return c.id + "-err" }

// describedBy lists the ids of what explains the control.
func (c Control) describedBy() string {
	switch {
	case c.err != "" && c.Hint != "":
		return c.hintID() + " " + c.errID()
	case c.err != "":
		return c.errID()
	case c.Hint != "":
		return c.hintID()
	}
	return ""
}

func (c Control) chosen(value string) bool { return slices.Contains(c.Values, value) }

func (c Control) autocomplete() string {
	if c.Autocomplete == "" {
		return "off"
	}
	return c.Autocomplete
}

func (c Control) inputType() string {
	if c.Type == "" {
		return "text"
	}
	return c.Type
}

func (c Control) rows() int {
	if c.Rows == 0 {
		return 2
	}
	return c.Rows
}

func (c Control) inputClass() string {
	if c.Mono {
		return "inp mono"
	}
	return "inp"
}
