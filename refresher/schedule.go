package refresher

import (
	"time"

	"github.com/keyferry/keyferry/internal/expiry"
)

const (
	// urgentInterval is the longest time between two requests to the broker in the last two minutes of
	// a credential's lifetime; a request that hangs does not hold up the next one.
	urgentInterval = 3 * time.Second
	// urgentTimeout is how long requests are repeated that all hang, before the refresher reports it.
	urgentTimeout = 15 * time.Second

	// pollInterval is the longest time between two questions to the broker: how late a new CA or
	// endpoint may be noticed.
	pollInterval = time.Minute
	// minWait keeps a broker whose times make no sense from being asked without end.
	minWait = time.Second
	// maxBackOff is the longest time between two tries while the broker does not answer as it should.
	maxBackOff = 30 * time.Second
)

// All jitter here is a random number in [0, 1), drawn afresh each time.

// pollWait returns how long to wait for the next poll: it is drawn downward, to keep the promise of
// pollInterval.
func pollWait(jitter float64) time.Duration {
	return pollInterval - time.Duration(jitter*float64(pollInterval)/4)
}

// refreshWait returns how long to wait before renewing a credential that the broker wants renewed
// in untilRefresh and that ends in untilEnd. Jitter takes at most a tenth of what is left after
// that: asking earlier would only be answered with the same credential, and clients need the rest
// to read the new one.
func refreshWait(untilRefresh, untilEnd time.Duration, jitter float64) time.Duration {
	if untilRefresh <= 0 {
		// The provider has nothing newer.
		return expiry.RetryWait(pollInterval, max(untilEnd, minWait), urgentWait(0, jitter))
	}
	spread := max(untilEnd-untilRefresh, 0) / 10
	return max(untilRefresh+time.Duration(jitter*float64(spread)), minWait)
}

// urgentWait returns how long to wait for the next request in the last two minutes of a
// credential's lifetime, after one that took so long.
func urgentWait(took time.Duration, jitter float64) time.Duration {
	return max(urgentInterval-time.Duration(jitter*float64(urgentInterval)/4)-took, 0)
}

// backOff returns how long to wait after the given number of failures in a row, at least one:
// exponential with full jitter, on top of what the broker asked for, if it did. Of that, half of
// maxBackOff is granted: the application's start waits no longer than 30 s, and a provider that was
// down for long should not make its end last.
func backOff(failures int, retryAfter time.Duration, jitter float64) time.Duration {
	ceiling := maxBackOff
	if failures <= 5 {
		ceiling = min(time.Second<<(failures-1), maxBackOff)
	}
	return min(retryAfter, maxBackOff/2) + time.Duration(jitter*float64(ceiling))
}
