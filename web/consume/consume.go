// Package consume is the consumer's half of the console: the services that an
// account may use, and the endpoints by which it reaches them.
package consume

import "strings"

// Link names another resource of the account and leads to it.
type Link struct{ Label, Href string }

// above is the address of the list that a page's resource is in.
func above(url string) string { return url[:strings.LastIndexByte(url, '/')] }
