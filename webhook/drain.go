package webhook

import (
	"context"
	"net/http"
	"time"
)

// Drain lets a server stop without failed requests: for a while the server continues, and asks
// clients to open a new connection, which another replica gets. API servers keep their connections
// to a webhook open. If the server closed a connection during a request, a Pod would be denied.
type Drain struct{ begun <-chan struct{} }

// NewDrain returns a Drain that begins when ctx is done, and a context for the server that is done
// after a further delay.
func NewDrain(ctx context.Context, delay time.Duration) (*Drain, context.Context) {
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		time.AfterFunc(delay, func() { end(context.Cause(ctx)) })
	})
	return &Drain{begun: ctx.Done()}, serving
}

// Handler returns a handler that calls next. While draining, it closes each connection after the
// response (in HTTP/2, by GOAWAY).
func (d *Drain) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-d.begun:
			w.Header().Set("Connection", "close")
		default:
		}
		next.ServeHTTP(w, r)
	})
}
