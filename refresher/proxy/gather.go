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
	// segment is no more than fits into one packet at loopback, which is where clients are: 64 KiB
	// with its headers. A byte more is another packet.
	segment = 64<<10 - 80
	// maxGathered is how much waits to be written to a connection, at most, while its peer does not
	// read.
	maxGathered = 2 * segment
	// closeTimeout is how long a peer may take to read what was written before a connection was
	// closed.
	closeTimeout = 5 * time.Second
)

// gathered is a connection to which one system call writes what many would: what is written waits
// until the other goroutines have had their turn, which have more. HTTP/2 over TLS writes twice for
// a frame and once for a window, and the kernel takes longer for each than all else does.
//
// An error is returned by the first Write after the one that it came of.
type gathered struct {
	net.Conn

	mu sync.Mutex
	// changed is told when one of these does.
	changed sync.Cond
	pending []byte
	// flushing is whether there is a goroutine that writes what is pending, and closes the connection
	// after it.
	flushing, closed bool
	// failed is why nothing can be written, and refused why nothing may be.
	failed, refused error
}

// Connections that something waits for have a buffer, of the size of a few small requests or
// answers if that does.
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

// gatherAll has connections gathered that dial opens.
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

// makeRoom has pending hold more bytes, if it can.
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

// release gives the buffer back that pending was in.
func release(pending []byte) {
	if size := cap(pending); size > 0 {
		gatheredBuffers(size).Put(pending[:size])
	}
}

// flush writes until nothing is pending.
func (g *gathered) flush() {
	runtime.Gosched() // a goroutine that has just been started is the next to run, before those that have more to write
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
		_ = g.Conn.Close() // as before: nobody is there to be told
	}
}

// SetWriteDeadline is for what is written from now on: one that has passed, as crypto/tls sets
// after its last word, cuts off nothing that was written before.
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

// Close ends reading at once, and closes the connection when what was written has left it.
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
