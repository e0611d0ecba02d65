package issuer

import "time"

const (
	// A credential is answered instead of a failure if it has at least this long to live.
	minRest = 5 * time.Second
	// A credential that the target refuses is replaced, but not before it is so old.
	refusedAge = time.Minute
	// In the UrgentPeriod of a credential, a provider that failed is called again after
	// urgentBackoff, whatever it asked for, and a call that hangs is repeated each hedgeInterval.
	urgentBackoff = 2 * time.Second
	hedgeInterval = 3 * time.Second
	// Clients know to the second when their credential expires, and count down from a rounded time.
	expiresGrain = 2 * time.Second
	// A failed source is asked again after this, doubled with each failure, but at least every maxBackoff ...
	minBackoff = time.Second
	maxBackoff = 10 * time.Second
	// ... unless it asked for longer, within reason.
	maxRetryAfter = 5 * time.Minute
)

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
