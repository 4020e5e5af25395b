package domain

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPassword(t *testing.T) {
	hash, err := hashPassword(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if want := "$argon2id$v=19$m=19456,t=2,p=1$"; !strings.HasPrefix(hash, want) {
		t.Errorf("hash is %s, want %s…", hash, want)
	}
	if again, err := hashPassword(t.Context(), "correct horse"); err != nil || again == hash {
		t.Errorf("a second hash has the same salt: %v", err)
	}
	// of the test vectors of argon2's reference implementation
	const other = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	tests := []struct {
		name, hash, password string
		want                 bool
	}{
		{"right", hash, "correct horse", true},
		{"wrong", hash, "correct horsf", false},
		{"none given", hash, "", false},
		{"no hash", "", "", false},
		{"decoy", decoy, "", false},
		{"other implementation", other, "password", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := checkPassword(t.Context(), tt.hash, tt.password); err != nil || got != tt.want {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	for _, bad := range []string{
		"x", "$argon2i$v=19$m=1,t=1,p=1$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA", strings.Replace(hash, "m=19456", "m=99999999", 1),
		strings.Replace(hash, "t=2", "t=0", 1), strings.Replace(hash, "v=19", "v=16", 1), hash[:len(hash)-40], hash + "!",
	} {
		if ok, err := checkPassword(t.Context(), bad, "correct horse"); err == nil || ok {
			t.Errorf("%s: got %v, %v, want an error", bad, ok, err)
		}
	}
}

func TestPasswordsAreHashedTwoAtATime(t *testing.T) {
	release := HoldHashes()
	ctx, cancel := context.WithCancel(t.Context())
	const crowd = 100
	results := make(chan error, crowd)
	for range crowd {
		go func() {
			_, err := hashPassword(ctx, "correct horse")
			results <- err
		}()
	}
	for range crowd - cap(waitingHashes) { // the rest is turned away at once
		if err := <-results; KindOf(err) != Limit {
			t.Errorf("got %v, want Limit", err)
		}
	}
	select {
	case err := <-results:
		t.Errorf("somebody did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	cancel()
	for range cap(waitingHashes) {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want canceled", err)
		}
	}
	release()
	if _, err := hashPassword(t.Context(), "correct horse"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestSeal(t *testing.T) {
	s := &Store{secret: []byte(strings.Repeat("k", 32))}
	sealed, err := s.seal("LTAIone", "a secret")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.open("LTAIone", sealed); err != nil || got != "a secret" {
		t.Errorf("got %q, %v", got, err)
	}
	again, err := s.seal("LTAIone", "a secret")
	if err != nil || string(again) == string(sealed) {
		t.Errorf("sealed twice with one nonce: %v", err)
	}
	damaged := []byte(string(sealed))
	damaged[len(damaged)-1] ^= 1
	for name, open := range map[string]func() (string, error){
		"another name": func() (string, error) { return s.open("LTAItwo", sealed) },
		"damaged":      func() (string, error) { return s.open("LTAIone", damaged) },
		"cut":          func() (string, error) { return s.open("LTAIone", sealed[:5]) },
		"another key": func() (string, error) {
			return (&Store{secret: []byte(strings.Repeat("l", 32))}).open("LTAIone", sealed)
		},
		"no key": func() (string, error) { return (&Store{}).open("LTAIone", sealed) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened as %q", name, got)
		}
	}
	if _, err := (&Store{}).seal("LTAIone", "a secret"); err == nil {
		t.Error("sealed without a key")
	}
}
