package domain

import "time"

// States of an account.
const (
	AccountActive    = "active"
	AccountSuspended = "suspended"
)

// Account is a tenant.
type Account struct {
	ID        string `gorm:"primaryKey"` // 16 digits, the first is 1; below 2^53
	Name      string
	SiteID    string
	State     string
	Demo      bool // made by the demo; removed by "start empty"
	CreatedAt time.Time
}

// User is a person who can sign in.
type User struct {
	ID           string `gorm:"primaryKey"`
	Name         string // for sign-in, unique
	DisplayName  string
	PasswordHash string // argon2id, PHC format; "" cannot sign in by password
	Operator     bool
	Disabled     bool
	Demo         bool
	CreatedAt    time.Time
}

// Membership gives a user a role in an account.
type Membership struct {
	UserID    string `gorm:"primaryKey"`
	AccountID string `gorm:"primaryKey"`
	Role      Role
}

// Session is one signed-in browser of one user. The cookie holds the token, the
// row only its SHA-256.
type Session struct {
	ID        string `gorm:"primaryKey"` // public handle, e.g. to sign out
	TokenHash string
	UserID    string
	Address   string
	Agent     string
	CreatedAt time.Time
	SeenAt    time.Time // at most once a minute
	ExpiresAt time.Time
}

// SignInLink signs a user in once.
type SignInLink struct {
	TokenHash string `gorm:"primaryKey"`
	UserID    string
	ExpiresAt time.Time
	UsedAt    *time.Time
}

// AccessKey signs API calls of a user for an account.
type AccessKey struct {
	ID         string `gorm:"primaryKey"` // "LTAI" and 20 characters
	UserID     string
	AccountID  string
	Sealed     []byte // the secret, encrypted under the installation's key
	State      string // active, inactive
	CreatedAt  time.Time
	LastUsedAt *time.Time
}

// Quota raises or lowers a limit for one account; see quotaDefaults.
type Quota struct {
	AccountID string `gorm:"primaryKey"`
	Name      string `gorm:"primaryKey"`
	Value     int
}

// FormToken remembers what a form render led to, so that sending it twice does it
// once. Rows are kept for a day.
type FormToken struct {
	AccountID string `gorm:"primaryKey"`
	Token     string `gorm:"primaryKey"`
	Action    string
	Digest    string // of the parameters: the same token with others is refused
	Result    string // id of what was made
	CreatedAt time.Time
}
