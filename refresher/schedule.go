package refresher

import (
	"time"

	"github.com/keyferry/keyferry/internal/expiry"
)

const (
	// urgentInterval is the longest time between two requests to the broker in the last two minutes
	// before the expiry. A request that hangs does not delay the next one.
	urgentInterval = 3 * time.Second
	// urgentTimeout is how long requests are repeated that all hang, before an error is reported.
	urgentTimeout = 15 * time.Second

	// pollInterval is the longest time between two requests to the broker, and so the longest delay
	// until a new CA or endpoint is noticed.
	pollInterval = time.Minute
	// minWait prevents a busy loop if the broker's times are invalid.
	minWait = time.Second
	// maxBackOff is the longest time between two requests while the broker fails.
	maxBackOff = 30 * time.Second
)

// Parameters named jitter are random numbers in [0, 1).

// pollWait returns the time until the next request: at most pollInterval, and up to a quarter less.
func pollWait(jitter float64) time.Duration {
	return pollInterval - time.Duration(jitter*float64(pollInterval)/4)
}

// refreshWait returns how long to wait before renewing a credential. untilRefresh is the time until
// the broker wants it renewed, untilEnd the time until it expires. Jitter adds at most a tenth of
// the time in between: an earlier request would get the same credential, and clients need the rest
// to read the new one.
func refreshWait(untilRefresh, untilEnd time.Duration, jitter float64) time.Duration {
	if untilRefresh <= 0 {
		// The provider has nothing newer.
		return expiry.RetryWait(pollInterval, max(untilEnd, minWait), urgentWait(0, jitter))
	}
	spread := max(untilEnd-untilRefresh, 0) / 10
	return max(untilRefresh+time.Duration(jitter*float64(spread)), minWait)
}

// urgentWait returns how long to wait for the next request in the last two minutes before the
// expiry. took is the duration of the last request.
func urgentWait(took time.Duration, jitter float64) time.Duration {
	return max(urgentInterval-time.Duration(jitter*float64(urgentInterval)/4)-took, 0)
}

// backOff returns how long to wait after a number of failures in a row (at least one): exponential
// with full jitter, in addition to the time that the broker requested. Of that time, at most half
// of maxBackOff is used, so that an application does not wait longer than about 30 s once a
// provider works again.
func backOff(failures int, retryAfter time.Duration, jitter float64) time.Duration {
	ceiling := maxBackOff
	if failures <= 5 {
		ceiling = min(time.Second<<(failures-1), maxBackOff)
	}
	return min(retryAfter, maxBackOff/2) + time.Duration(jitter*float64(ceiling))
}
