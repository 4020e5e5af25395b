package domain

import (
	"slices"
	"strings"
	"testing"
)

// FuzzParseAccounts reads pasted lists: what comes out are account ids, each once,
// that are read again as they are, and a list without a fault has no other tokens.
func FuzzParseAccounts(f *testing.F) {
	for _, s := range []string{"", "1000000000000042", "1000000000000042, 1000000000000077\n*", "acs:ram:*:1000000000000042:*", "acs:ram:*::*", "me\x00you", "１０００", "a:b:c:d:e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, pasted string) {
		ids, err := parseAccounts(pasted)
		for i, id := range ids {
			if id != Everyone && !accountID.MatchString(id) {
				t.Errorf("%q gave %q", pasted, id)
			}
			if slices.Contains(ids[:i], id) {
				t.Errorf("%q gave %q twice", pasted, id)
			}
		}
		again, againErr := parseAccounts(strings.Join(ids, "; "))
		if againErr != nil || !slices.Equal(again, ids) {
			t.Errorf("%v was read as %v, %v", ids, again, againErr)
		}
		if tokens := strings.FieldsFunc(pasted, separates); err == nil && len(tokens) > 0 && len(ids) == 0 {
			t.Errorf("%q gave nothing and no fault", pasted)
		}
		for _, e := range Fields(err) {
			if e.Field != "accounts" || strings.ContainsRune(e.Message, 0) {
				t.Errorf("%q gave fault %+v", pasted, e)
			}
		}
	})
}
