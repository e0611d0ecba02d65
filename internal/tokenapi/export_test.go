package tokenapi

import "time"

// GiveUpAfter shortens the time that p waits for an answer.
func (p *Provider) GiveUpAfter(d time.Duration) { p.timeout = d }
