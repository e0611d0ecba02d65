package eks

import (
	"net/http"
	"time"
)

// Through has p reach STS through what wrap makes of its transport.
func (p *Provider) Through(wrap func(http.RoundTripper) http.RoundTripper) {
	p.http.Transport = wrap(p.http.Transport)
}

// SessionName makes the name of a session.
var SessionName = sessionName

// Life of a token.
const Life = 14 * time.Minute
