package domain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// AuditEvent is one write or one change of the data plane's state. Entries of an
// account form a chain: Hash covers the entry and the hash before it.
type AuditEvent struct {
	AccountID    string `gorm:"primaryKey"`
	Seq          int64  `gorm:"primaryKey;autoIncrement:false"`
	Time         time.Time
	ActorKind    string // user, operator, system, engine, peer
	ActorID      string
	ActorName    string
	Channel      string // console, api, cli, system
	SourceIP     string
	RequestID    string
	Action       string // verb and object, e.g. "AcceptConnection"
	ResourceKind string
	ResourceID   string
	ResourceName string
	Before       string // JSON of the fields that changed, or ""
	After        string
	PrevHash     string
	Hash         string
}

func (e *AuditEvent) sum() string {
	h := sha256.New()
	for _, s := range []string{
		e.PrevHash, e.AccountID, fmt.Sprint(e.Seq), e.Time.UTC().Format(time.RFC3339Nano), e.ActorKind, e.ActorID, e.ActorName,
		e.Channel, e.SourceIP, e.RequestID, e.Action, e.ResourceKind, e.ResourceID, e.ResourceName, e.Before, e.After,
	} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// audit appends an entry to the transaction's account. before and after are the
// fields that changed, as maps or structs; nil for none. No secret goes in here.
func (t *tx) audit(action, kind, id, name string, before, after any) error {
	return t.auditIn(t.account, action, kind, id, name, before, after)
}

// auditIn is audit for another account that is concerned too, e.g. the consumer of
// a connection that its provider decides about. The other account is not told who
// acted, only that the other side did.
func (t *tx) auditIn(account, action, kind, id, name string, before, after any) error {
	e := AuditEvent{
		AccountID: account, Time: t.now, ActorKind: t.by.Kind, ActorID: t.by.ID, ActorName: t.by.Name, Channel: t.by.Channel,
		SourceIP: t.by.Address, RequestID: t.by.RequestID, Action: action, ResourceKind: kind, ResourceID: id, ResourceName: name,
	}
	if account != t.account && t.by.Kind == ActorUser {
		e.ActorKind, e.ActorID, e.ActorName, e.SourceIP, e.RequestID = ActorPeer, t.account, "", "", ""
	}
	var err error
	if e.Before, err = auditJSON(before); err != nil {
		return err
	}
	if e.After, err = auditJSON(after); err != nil {
		return err
	}
	t.entries = append(t.entries, e)
	return nil
}

func auditJSON(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode audit entry: %w", err)
	}
	return string(b), nil
}

// flushAudit chains the transaction's entries at its end: heads are locked for a
// moment only, and in one order, so two writers that concern the same accounts
// wait for each other and never in a circle.
func (t *tx) flushAudit() error {
	slices.SortStableFunc(t.entries, func(a, b AuditEvent) int { return strings.Compare(a.AccountID, b.AccountID) })
	for rest := t.entries; len(rest) > 0; {
		account := rest[0].AccountID
		n := 1
		for n < len(rest) && rest[n].AccountID == account {
			n++
		}
		if err := t.chain(account, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// chain appends entries to one account's chain.
func (t *tx) chain(account string, entries []AuditEvent) error {
	err := t.Exec(`INSERT INTO audit_heads (account_id, seq, hash) VALUES (?, ?, '')
		ON CONFLICT (account_id) DO UPDATE SET seq = audit_heads.seq + excluded.seq`, account, len(entries)).Error
	if err != nil {
		return fmt.Errorf("lock audit chain: %w", err)
	}
	var head AuditHead
	if err := t.Take(&head, "account_id = ?", account).Error; err != nil {
		return fmt.Errorf("read audit chain: %w", err)
	}
	first, hash := head.Seq-int64(len(entries))+1, head.Hash
	for i := range entries {
		e := &entries[i]
		e.Seq, e.PrevHash = first+int64(i), hash
		e.Hash = e.sum()
		hash = e.Hash
		t.touched(account, KindAudit, fmt.Sprint(e.Seq))
	}
	if err := t.CreateInBatches(entries, 100).Error; err != nil {
		return fmt.Errorf("write audit entries: %w", err)
	}
	if err := t.Exec("UPDATE audit_heads SET hash = ? WHERE account_id = ?", hash, account).Error; err != nil {
		return fmt.Errorf("close audit chain: %w", err)
	}
	return nil
}

// AuditQuery selects entries. Text of the Query is a part of the resource's name
// at its beginning, or its id.
type AuditQuery struct {
	Query
	ResourceID string // "" for any
	Actor      string // name or id of a user, id of a peer's account, "system" or "engine"; "" for any
	Action     string // "" for any
}

// Audit lists the account's trail, newest first.
func (s *Scope) Audit(ctx context.Context, q AuditQuery) (Page[AuditEvent], error) {
	db, err := s.read(ctx, ReadAudit)
	if err != nil {
		return Page[AuditEvent]{}, err
	}
	return auditPage(db, s.account.ID, q)
}

func auditPage(db *gorm.DB, account string, q AuditQuery) (Page[AuditEvent], error) {
	list := db.Where("account_id = ?", account)
	if q.ResourceID != "" {
		list = list.Where("resource_id = ?", q.ResourceID)
	}
	if q.Action != "" {
		list = list.Where("action = ?", q.Action)
	}
	switch q.Actor {
	case "":
	case ActorSystem, ActorEngine:
		list = list.Where("actor_id = '' AND actor_kind = ?", q.Actor)
	default:
		ids := []string{q.Actor}
		if err := db.Model(&User{}).Where("name = ?", q.Actor).Pluck("id", &ids).Error; err != nil {
			return Page[AuditEvent]{}, fmt.Errorf("find actor: %w", err)
		}
		list = list.Where("actor_id IN ?", append(ids, q.Actor))
	}
	if text := strings.TrimSpace(q.Text); text != "" {
		list = list.Where(`(resource_id = ? OR lower(resource_name) LIKE ? ESCAPE '\')`, text, like(strings.ToLower(text)))
	}
	return paginate(list, q.Query, order{columns: []string{"seq"}, desc: true}, func(e AuditEvent) []any { return []any{e.Seq} })
}

// AuditEvent returns one entry of the account's trail.
func (s *Scope) AuditEvent(ctx context.Context, seq int64) (*AuditEvent, error) {
	db, err := s.read(ctx, ReadAudit)
	if err != nil {
		return nil, err
	}
	var e AuditEvent
	if err := first(db, KindAudit, &e, "account_id = ? AND seq = ?", s.account.ID, seq); err != nil {
		return nil, err
	}
	return &e, nil
}

// AuditCheck is the result of going through a trail.
type AuditCheck struct {
	Entries  int64 // in the trail
	BrokenAt int64 // the first entry that is missing or is not what was written; 0 if all are
}

// VerifyAudit goes through the account's trail and checks every entry against the
// chain of hashes.
func (s *Scope) VerifyAudit(ctx context.Context) (AuditCheck, error) {
	db, err := s.read(ctx, ReadAudit)
	if err != nil {
		return AuditCheck{}, err
	}
	return verifyChain(db, s.account.ID)
}

// verifyBatch is how many entries are in memory at a time.
const verifyBatch = 500

func verifyChain(db *gorm.DB, account string) (AuditCheck, error) {
	var head AuditHead
	// What is appended meanwhile is not looked at.
	if err := db.Where("account_id = ?", account).Limit(1).Find(&head).Error; err != nil {
		return AuditCheck{}, fmt.Errorf("read audit chain: %w", err)
	}
	check := AuditCheck{Entries: head.Seq}
	seq, hash := int64(0), ""
	for seq < head.Seq {
		var batch []AuditEvent
		err := db.Where("account_id = ? AND seq > ? AND seq <= ?", account, seq, head.Seq).Order("seq").Limit(verifyBatch).Find(&batch).Error
		if err != nil {
			return AuditCheck{}, fmt.Errorf("read audit entries: %w", err)
		}
		for _, e := range batch {
			if e.Seq != seq+1 || e.PrevHash != hash || e.sum() != e.Hash {
				check.BrokenAt = seq + 1
				return check, nil
			}
			seq, hash = e.Seq, e.Hash
		}
		if len(batch) == 0 { // the end is cut off
			check.BrokenAt = seq + 1
			return check, nil
		}
	}
	if hash != head.Hash {
		check.BrokenAt = head.Seq
	}
	return check, nil
}
