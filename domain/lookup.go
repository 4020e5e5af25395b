package domain

import (
	"context"
	"fmt"
	"strings"
)

// FindAttachment returns the id of the attachment that a person at the machine
// means: an id, a name, or account/name with the account's id or name.
//
// Errors: NotFound if there is none; Conflict if the name is used more than once,
// with the ids.
func (o *Operator) FindAttachment(ctx context.Context, name string) (string, error) {
	db := o.store.handle(ctx).Model(&Attachment{})
	if account, short, ok := strings.Cut(name, "/"); ok {
		db = db.Where("name = ? AND account_id IN (SELECT id FROM accounts WHERE id = ? OR name = ?)", short, account, account)
	} else {
		db = db.Where("id = ? OR name = ?", name, name)
	}
	var found []Attachment
	if err := db.Order("account_id, id").Limit(maxNamedUses + 1).Find(&found).Error; err != nil {
		return "", fmt.Errorf("find attachment: %w", err)
	}
	switch len(found) {
	case 0:
		return "", fail(NotFound, "attachment_not_found", "There is no attachment %q.", name)
	case 1:
		return found[0].ID, nil
	}
	var ids []string
	for _, a := range found {
		ids = append(ids, a.ID+" of account "+a.AccountID)
	}
	return "", fail(Conflict, "attachment_ambiguous", "Several attachments are called %q: %s. Name one by its id, or as ACCOUNT/NAME.", name, strings.Join(ids, ", "))
}
