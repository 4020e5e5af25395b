package domain

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// validName checks a name that people give: 2 to 128 characters, the first one a
// letter. It returns the name without spaces around it.
func validName(field, name string) (string, error) {
	name = strings.TrimSpace(name)
	first, _ := utf8.DecodeRuneInString(name)
	switch n := utf8.RuneCountInString(name); {
	case n < 2 || n > 128:
		return "", invalid(field, "invalid_name", "A name has 2 to 128 characters.")
	case !unicode.IsLetter(first):
		return "", invalid(field, "invalid_name", "A name begins with a letter.")
	case !printable(name):
		return "", invalid(field, "invalid_name", "A name has no control characters.")
	}
	return name, nil
}

// validText checks free text of up to limit characters, which may have lines.
func validText(field, text string, limit int) (string, error) {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n"))
	switch {
	case utf8.RuneCountInString(text) > limit:
		return "", invalid(field, "text_too_long", "This text has at most %d characters.", limit)
	case !printable(strings.ReplaceAll(text, "\n", "")):
		return "", invalid(field, "invalid_text", "This text has no control characters.")
	}
	return text, nil
}

// validDescription checks a description: up to 256 characters, no address of a web page.
func validDescription(field, text string) (string, error) {
	text, err := validText(field, text, 256)
	if err == nil && (strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://")) {
		return "", invalid(field, "invalid_description", "A description does not begin with http:// or https://.")
	}
	return text, err
}

// validMessage checks a message to the other side of a connection: up to 500 characters.
func validMessage(field, text string) (string, error) { return validText(field, text, 500) }

// printable reports whether s is UTF-8 without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

var slug = regexp.MustCompile(`^[a-z][a-z0-9-]{1,31}$`)

// validSlug checks an identifier that an operator chooses, e.g. of a region.
func validSlug(field, id string) (string, error) {
	id = strings.TrimSpace(id)
	if !slug.MatchString(id) {
		return "", invalid(field, "invalid_id", "An id has 2 to 32 characters: a to z, digits and dashes, and begins with a letter.")
	}
	return id, nil
}
