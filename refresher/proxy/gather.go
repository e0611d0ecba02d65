package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	// segment is the largest data, in bytes, that fits into one packet on loopback: 64 KiB minus
	// headers. A larger write needs another packet.
	segment = 64<<10 - 80
	// maxGathered limits the data that waits for a peer that does not read, in bytes.
	maxGathered = 2 * segment
	// closeTimeout is the time in which a peer must read the remaining data after Close.
	closeTimeout = 5 * time.Second
)

// gathered is a connection that combines several writes into one system call: a write waits until
// other goroutines with more data have run. HTTP/2 over TLS writes twice for a frame and once for a
// window, and each system call takes longer than all other work.
//
// A failed write is reported by the next call of Write.
type gathered struct {
	net.Conn

	mu sync.Mutex
	// changed is signalled when one of the following fields changes.
	changed sync.Cond
	pending []byte
	// flushing reports whether a goroutine is writing the pending data. That goroutine also closes a
	// closed connection.
	flushing, closed bool
	// failed is the error of an earlier write. refused is the error if the write deadline has passed.
	failed, refused error
}

// The buffers for pending data. The small size is enough for a few small requests or responses.
var fewGathered, manyGathered = newBuffers(8 << 10), newBuffers(maxGathered)

func gatheredBuffers(size int) *buffers {
	if size <= fewGathered.size {
		return fewGathered
	}
	return manyGathered
}

func gather(connection net.Conn) net.Conn {
	g := &gathered{Conn: connection}
	g.changed.L = &g.mu
	return g
}

// gatherAll returns a DialFunc that returns gathered connections.
func gatherAll(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return gather(connection), nil
	}
}

func (g *gathered) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n := 0; ; {
		switch {
		case g.failed != nil:
			return n, g.failed
		case g.refused != nil:
			return n, g.refused
		case g.closed:
			return n, net.ErrClosed
		case n == len(p):
			return n, nil
		case len(g.pending) == maxGathered:
			g.changed.Wait()
			continue
		}
		g.makeRoom(len(p) - n)
		part := p[n:min(len(p), n+maxGathered-len(g.pending))]
		g.pending = append(g.pending, part...)
		n += len(part)
		if !g.flushing {
			g.flushing = true
			go g.flush()
		}
	}
}

// makeRoom makes pending large enough for more bytes, up to maxGathered.
func (g *gathered) makeRoom(more int) {
	size := len(g.pending) + more
	if size <= cap(g.pending) || cap(g.pending) == maxGathered {
		return
	}
	larger := gatheredBuffers(size).Get()
	larger = larger[:copy(larger, g.pending)]
	release(g.pending)
	g.pending = larger
}

// release returns the buffer of pending to its pool.
func release(pending []byte) {
	if size := cap(pending); size > 0 {
		gatheredBuffers(size).Put(pending[:size])
	}
}

// flush writes until nothing is pending.
func (g *gathered) flush() {
	runtime.Gosched() // a new goroutine runs next, before those that have more to write
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.pending != nil && g.failed == nil {
		out := g.pending
		g.pending = nil
		g.changed.Broadcast()
		g.mu.Unlock()
		_, err := g.Conn.Write(out)
		release(out)
		g.mu.Lock()
		g.failed = err
	}
	g.flushing = false
	g.changed.Broadcast()
	if g.closed {
		_ = g.Conn.Close() // nobody can receive the error
	}
}

// SetWriteDeadline applies to later writes only. A deadline in the past, as crypto/tls sets after
// its close alert, does not drop pending data.
func (g *gathered) SetWriteDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = nil
	if !t.IsZero() && !t.After(time.Now()) {
		g.refused = os.ErrDeadlineExceeded
		return nil
	}
	return g.Conn.SetWriteDeadline(t)
}

func (g *gathered) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.SetWriteDeadline(t)
}

// Close ends reading at once. It closes the connection after the pending data is written.
func (g *gathered) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.flushing {
		g.closed = true
		return g.Conn.Close()
	}
	if g.closed {
		return net.ErrClosed
	}
	g.closed = true
	g.changed.Broadcast()
	now := time.Now()
	return errors.Join(g.SetReadDeadline(now), g.Conn.SetWriteDeadline(now.Add(closeTimeout)))
}
