// Package webhook is a plugin that we ship: it POSTs the body of each message to
// a URL, and goes by the status of the answer.
//
//	2xx                      done
//	3xx                      permanent:redirect; redirects are not followed
//	408, 425, 429, 5xx       tried again, not before what Retry-After says
//	other 4xx                permanent:http_<status>
//	network error, time-out  tried again
//	an address not allowed   permanent:refused_address
//
// Where it may send to is said when it starts, by environment variables, and
// nothing that a message holds can add to it: its type selects the URL, or its
// header webhook_to chooses one of those that are offered by name. The addresses
// that a host has are checked when they are dialled, after DNS, so a name that
// resolves to something else a moment later leads nowhere new. Requests are
// signed as Standard Webhooks has it. docs/webhook.md has every variable.
package webhook
