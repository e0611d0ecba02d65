package webhook

import (
	"context"
	"net/http"
	"time"
)

// Drain is the end of a server that others take over from: for a while it goes on serving, and
// tells clients to make their next connection. API servers keep a connection to a webhook for as
// long as it is there; were it closed under a request, a Pod would be refused.
type Drain struct{ begun <-chan struct{} }

// NewDrain returns a Drain that begins when ctx ends, and the context of the server, which ends
// delay later.
func NewDrain(ctx context.Context, delay time.Duration) (*Drain, context.Context) {
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		time.AfterFunc(delay, func() { end(context.Cause(ctx)) })
	})
	return &Drain{begun: ctx.Done()}, serving
}

// Handler has requests answered by next. While draining, each answer is the last one on its
// connection, in HTTP/2 by GOAWAY.
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
