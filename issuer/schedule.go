package issuer

import "time"

const (
	// A credential is answered instead of a failure if it has at least this long to live.
	minRest = 5 * time.Second
	// A failed source is asked again after this, doubled with each failure, but at least every maxBackoff ...
	minBackoff = time.Second
	maxBackoff = 10 * time.Second
	// ... unless it asked for longer, within reason.
	maxRetryAfter = 5 * time.Minute
)

// RefreshAt is when a credential that was issued and ends at these times is to be replaced: as late as leaves 20 % and 90 s of its life for
// failures and for clients, which read a new token up to a minute late, but never in the first half of its life.
func RefreshAt(issuedAt, notAfter time.Time) time.Time {
	life := notAfter.Sub(issuedAt)
	return issuedAt.Add(max(life/2, min(life/10*8, life-90*time.Second)))
}

// backoff is how long to wait after so many failures in a row, one or more.
func backoff(failures int) time.Duration {
	return min(minBackoff<<min(failures-1, 10), maxBackoff)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
