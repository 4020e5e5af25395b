// Package provide is the provider's half of the console: load balancers,
// endpoint services and the connections that ask to reach them.
package provide

import "strings"

// Link names another resource of the account and leads to it.
type Link struct{ Label, Href string }

// above is the address of the list that a page's resource is in.
func above(url string) string { return url[:strings.LastIndexByte(url, '/')] }
