package issuer

import "time"

const (
	// A credential is answered instead of a failure if it has at least this long to live.
	minRest = 5 * time.Second
	// A credential that the target rejects is replaced, but not before it is so old; doubled with each
	// rejection in a row, up to maxRejectedAge.
	minRejectedAge = time.Minute
	maxRejectedAge = 16 * time.Minute
	// A provider is called again this long after the target has rejected a credential that it has just
	// issued; four times as long with each one in a row, up to maxRetryAfter. The first time may have
	// been too early, for a ServiceAccount that was just created.
	minRejectedBackoff = 2 * time.Second
	// verifyTimeout bounds a SelfSubjectReview, for which the first Pods of a target wait.
	verifyTimeout = 3 * time.Second
	// verifiedAge is how long a target counts as verified, and unverifiedAge until it is asked again
	// if it could not say.
	verifiedAge   = time.Hour
	unverifiedAge = 10 * time.Minute
	// In the UrgentPeriod of a credential, a provider that failed is called again after
	// urgentBackoff, whatever it asked for, and a call that hangs is repeated each hedgeInterval.
	urgentBackoff = 2 * time.Second
	hedgeInterval = 3 * time.Second
	// Clients know to the second when their credential expires, and count down from a rounded time.
	expiresGrain = 2 * time.Second
	// A failed provider is asked again after this, doubled with each failure, but at least every
	// maxBackoff ...
	minBackoff = time.Second
	maxBackoff = 10 * time.Second
	// ... unless it asked for longer, within reason.
	maxRetryAfter = 5 * time.Minute
)

// backoff is how long to wait after so many failures in a row, one or more.
func backoff(failures int) time.Duration {
	return min(minBackoff<<min(failures-1, 10), maxBackoff)
}

// rejectedAge is the age at which a rejected credential is replaced, after so many rejections in a
// row, one or more.
func rejectedAge(rejections int) time.Duration {
	return min(minRejectedAge<<min(rejections-1, 10), maxRejectedAge)
}

// rejectedBackoff is backoff for credentials that the target rejected as soon as they were issued.
func rejectedBackoff(failures int) time.Duration {
	return min(minRejectedBackoff<<min(2*(failures-1), 10), maxRetryAfter)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
