package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"usher/handlers"
)

// sign sets the headers of Standard Webhooks: who sent this body, and when. Of
// several secrets each signs; a receiver takes any signature that it can check.
func (w *webhook) sign(h http.Header, m *handlers.Message, now time.Time) {
	id, at := plainID(m.IdempotencyKey), strconv.FormatInt(now.Unix(), 10)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	var signatures []string
	for _, secret := range w.secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + at + "."))
		mac.Write(m.Body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if len(signatures) > 0 {
		h.Set("Webhook-Signature", strings.Join(signatures, " "))
	}
}

// plainID is an id without dots, which separate what is signed: with one in it
// the same signature would hold for another id, another time and less of the body.
func plainID(id string) string {
	return strings.ReplaceAll(url.PathEscape(id), ".", "%2E")
}
