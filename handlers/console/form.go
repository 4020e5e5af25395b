package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// form reads what was typed and collects what is wrong with it, field by field.
// The rules are the domain's; here is only what makes a value of a text. Fields
// that nobody asks for are ignored.
type form struct {
	values url.Values
	errors []ui.FieldError
}

// newForm is a form that is shown for the first time.
func newForm() *form { return &form{} }

// readForm is a form that was sent.
func readForm(c echo.Context) (*form, error) {
	v, err := c.FormParams()
	if err != nil {
		return nil, badForm(err)
	}
	return &form{values: v}, nil
}

// show is the form as a component sees it; action is its whole path, and version
// the resource's, or 0.
func (f *form) show(s *domain.Scope, id, action string, version int64) ui.Form {
	h := hidden(s, version)
	if t := f.values.Get("token"); t != "" {
		h.Token = t // of the same rendering: what was refused has changed nothing
	}
	return ui.Form{ID: id, Action: action, Hidden: h, Values: f.values, Errors: f.errors}
}

// hidden is what a form for the account of s carries: see [ui.Hidden].
func hidden(s *domain.Scope, version int64) ui.Hidden {
	return ui.Hidden{Account: s.Account().ID, Version: version, Token: rand.Text()}
}

// maxText bounds a field that is no list and no document, in characters.
const maxText = 1024

// text is a field without spaces around it; "" if it was not sent.
func (f *form) text(name string) string {
	v := strings.TrimSpace(f.values.Get(name))
	if utf8.RuneCountInString(v) > maxText {
		f.wrong(name, "This has at most %d characters.", maxText)
		return ""
	}
	return v
}

// required is a text that must not be empty.
func (f *form) required(name, message string) string {
	v := f.text(name)
	if v == "" && !f.at(name) {
		f.wrong(name, "%s", message)
	}
	return v
}

// number is a whole number; an empty field is zero.
func (f *form) number(name string) int {
	v := strings.ReplaceAll(f.text(name), ",", "")
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		f.wrong(name, "This is a whole number, such as 100.")
	}
	return n
}

// ticked reports whether a checkbox was sent.
func (f *form) ticked(name string) bool { return f.values.Get(name) != "" }

// all is every value of a field that may be sent more than once.
func (f *form) all(name string) []string { return f.values[name] }

// words is a field in which people paste a list: by comma, semicolon, space or
// line, each once.
func (f *form) words(name string) []string {
	var out []string
	seen := map[string]bool{}
	for _, w := range strings.FieldsFunc(f.values.Get(name), func(r rune) bool { return strings.ContainsRune(" ,;\t\r\n", r) }) {
		if !seen[w] {
			seen[w] = true
			out = append(out, w)
		}
	}
	return out
}

// version is that of the resource as the form showed it, or 0.
func (f *form) version() int64 {
	n, _ := strconv.ParseInt(f.values.Get("version"), 10, 64) // nonsense is no version
	return n
}

// once makes something for this rendering of the form: when it was sent before,
// nothing is made, and the id of what was made then is returned. action names the
// operation ("CreateService"); add does nothing slow, and reads only by its context.
func (f *form) once(c echo.Context, s *domain.Scope, action string, add func(context.Context) (id string, err error)) (id string, err error) {
	content := maps.Clone(f.values)
	delete(content, "token")
	sum := sha256.Sum256([]byte(content.Encode()))
	id, _, err = s.Once(c.Request().Context(), f.values.Get("token"), action, hex.EncodeToString(sum[:]), add)
	return id, err
}

// wrong notes what is wrong with a field; the first fault of each is shown.
func (f *form) wrong(name, message string, args ...any) {
	if !f.at(name) {
		f.errors = append(f.errors, ui.FieldError{Field: name, Message: fmt.Sprintf(message, args...)})
	}
}

func (f *form) at(name string) bool {
	for _, e := range f.errors {
		if e.Field == name {
			return true
		}
	}
	return false
}

// ok reports whether nothing is wrong so far.
func (f *form) ok() bool { return len(f.errors) == 0 }

// refused reports whether the form must be shown again: because of what was
// noted, or because err is about its fields. Any other err is the caller's to
// return. An Invalid error of no field is one of the form as a whole.
func (f *form) refused(err error) bool {
	faults := domain.Fields(err)
	for _, e := range faults {
		f.wrong(e.Field, "%s", e.Message)
	}
	if err != nil && len(faults) == 0 && domain.KindOf(err) == domain.Invalid {
		f.wrong("", "%s", failureOf(err).Text)
	}
	return !f.ok()
}
