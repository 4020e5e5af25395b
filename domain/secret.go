package domain

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// How passwords are hashed: argon2id with 19 MiB, two passes, one thread.
const (
	hashMemory = 19 * 1024 // KiB
	hashTime   = 2
	hashLength = 32
	saltLength = 16
)

// Hashes are made two at a time, so that a crowd that signs in neither takes the
// machine's memory nor its processors; the rest wait, up to a number.
const (
	maxHashes        = 2
	maxWaitingHashes = 64
)

var (
	hashes        = make(chan struct{}, maxHashes)
	waitingHashes = make(chan struct{}, maxHashes+maxWaitingHashes)
)

// derive runs the hash when it is its turn.
func derive(ctx context.Context, password string, salt []byte, time, memory uint32, threads uint8, length int) ([]byte, error) {
	select {
	case waitingHashes <- struct{}{}:
		defer func() { <-waitingHashes }()
	default:
		return nil, fail(Limit, "too_many_sign_ins", "Too many people are signing in at this moment. Try again.")
	}
	select {
	case hashes <- struct{}{}:
		defer func() { <-hashes }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return argon2.IDKey([]byte(password), salt, time, memory, threads, uint32(length)), nil
}

// hashPassword returns the password's hash in the PHC string format.
func hashPassword(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltLength)
	rand.Read(salt)
	key, err := derive(ctx, password, salt, hashTime, hashMemory, 1, hashLength)
	if err != nil {
		return "", err
	}
	return phc(salt, key), nil
}

func phc(salt, key []byte) string {
	e := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, hashMemory, hashTime, e.EncodeToString(salt), e.EncodeToString(key))
}

// decoy is the hash of no password. Who does not exist or has no password is
// checked against it, so that an answer takes as long as for others.
var decoy = phc(make([]byte, saltLength), make([]byte, hashLength))

// checkPassword reports whether the password is the one of hash; it never is if
// hash is "", which takes as long.
func checkPassword(ctx context.Context, hash, password string) (bool, error) {
	known := hash != ""
	if !known {
		hash = decoy
	}
	var (
		version, memory, time uint32
		threads               uint8
	)
	parts := strings.Split(hash, "$") // "", argon2id, v=, parameters, salt, key
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("read password hash: not one of argon2id")
	}
	_, err1 := fmt.Sscanf(parts[2], "v=%d", &version)
	_, err2 := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads)
	salt, err3 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err4 := base64.RawStdEncoding.DecodeString(parts[5])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return false, fmt.Errorf("read password hash: %w", err)
	}
	if version != argon2.Version || memory > 4*hashMemory || time < 1 || time > 16 || threads < 1 || len(want) < 16 {
		return false, errors.New("read password hash: parameters out of range")
	}
	got, err := derive(ctx, password, salt, time, memory, threads, len(want))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1 && known, nil
}

// validPassword checks a password that somebody chooses.
func validPassword(field, password string) error {
	switch n := utf8.RuneCountInString(password); {
	case !utf8.ValidString(password):
		return invalid(field, "invalid_password", "A password is text.")
	case n < 8:
		return invalid(field, "password_too_short", "A password has at least 8 characters.")
	case n > 256:
		return invalid(field, "password_too_long", "A password has at most 256 characters.")
	}
	return nil
}

// digest is what is stored of a token that somebody carries.
func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// seal encrypts text with the installation's key. It opens only for the same name.
func (s *Store) seal(name, text string) ([]byte, error) {
	c, err := s.cipher()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, c.NonceSize())
	rand.Read(nonce)
	return c.Seal(nonce, nonce, []byte(text), []byte(name)), nil
}

// open decrypts what seal made.
func (s *Store) open(name string, sealed []byte) (string, error) {
	c, err := s.cipher()
	if err != nil {
		return "", err
	}
	if len(sealed) < c.NonceSize() {
		return "", errors.New("open secret: too short")
	}
	text, err := c.Open(nil, sealed[:c.NonceSize()], sealed[c.NonceSize():], []byte(name))
	if err != nil {
		return "", fmt.Errorf("open secret: %w", err)
	}
	return string(text), nil
}

func (s *Store) cipher() (cipher.AEAD, error) {
	if len(s.secret) != 32 {
		return nil, fmt.Errorf("use the key of secrets: it has %d bytes instead of 32", len(s.secret))
	}
	block, err := aes.NewCipher(s.secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
