package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// calls counts the writes to a connection.
type calls struct {
	net.Conn
	writes atomic.Int64
	closed atomic.Bool
}

func (c *calls) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func (c *calls) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// inBubble calls test with a gathered connection, the connection below it, and its peer, which
// reads only if the test does.
func inBubble(t *testing.T, test func(t *testing.T, g net.Conn, below *calls, peer net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, peer := net.Pipe()
		below := &calls{Conn: near}
		g := gather(below)
		defer peer.Close()
		defer g.Close()
		test(t, g, below, peer)
	})
}

func mustWrite(t *testing.T, w io.Writer, p []byte) {
	t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		t.Fatalf("%d of %d bytes were written: %v", n, len(p), err)
	}
}

// readAll reads until the connection ends.
func readAll(t *testing.T, peer io.Reader) []byte {
	t.Helper()
	all, err := io.ReadAll(peer)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestGathered checks that writes are combined, in order, while the peer does not read.
func TestGathered(t *testing.T) {
	inBubble(t, func(t *testing.T, g net.Conn, below *calls, peer net.Conn) {
		var want []byte
		for i := range 50 {
			part := bytes.Repeat([]byte{byte(i)}, 100+i*i) // few bytes, and then too many for a small buffer
			mustWrite(t, g, part)
			want = append(want, part...)
			if i == 0 {
				synctest.Wait() // the first is under way
			}
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, peer); !bytes.Equal(got, want) {
			t.Errorf("%d bytes came, other than the %d that were written", len(got), len(want))
		}
		if got := below.writes.Load(); got != 2 {
			t.Errorf("the connection was written to %d times, want 2", got)
		}
	})
}

// TestGatheredIsBounded checks that writers wait for a peer that does not read.
func TestGatheredIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, g net.Conn, _ *calls, peer net.Conn) {
		var written atomic.Int64
		want := bytes.Repeat([]byte("0123456789"), 100_000)
		go func() {
			for part := want; len(part) > 0; part = part[10_000:] {
				if _, err := g.Write(part[:10_000]); err != nil {
					t.Error(err)
				}
				written.Add(10_000)
			}
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		if got := written.Load(); got > 2*maxGathered {
			t.Errorf("%d bytes wait for a peer that does not read", got)
		}
		if got := readAll(t, peer); !bytes.Equal(got, want) {
			t.Errorf("%d bytes came, other than the %d that were written", len(got), len(want))
		}
	})
}

// TestGatheredLastWord checks that data is sent which was written before a deadline in the past, as
// crypto/tls sets with its last alert. Later writes fail.
func TestGatheredLastWord(t *testing.T) {
	inBubble(t, func(t *testing.T, g net.Conn, _ *calls, peer net.Conn) {
		mustWrite(t, g, []byte("last word"))
		if err := g.SetDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
		if n, err := g.Write([]byte("more")); n != 0 || !isTimeout(err) {
			t.Errorf("%d bytes were written after the deadline: %v", n, err)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, peer); string(got) != "last word" {
			t.Errorf("%q came", got)
		}
	})
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// TestGatheredStuck checks that a peer that does not read blocks neither writers nor Close, and
// that the connection is closed.
func TestGatheredStuck(t *testing.T) {
	inBubble(t, func(t *testing.T, g net.Conn, below *calls, _ net.Conn) {
		stuck := make(chan error, 1)
		go func() {
			_, err := g.Write(make([]byte, 10*maxGathered))
			stuck <- err
		}()
		reading := make(chan error, 1)
		go func() {
			_, err := g.Read(make([]byte, 1))
			reading <- err
		}()
		synctest.Wait()
		start := time.Now()
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-stuck; !errors.Is(err, net.ErrClosed) {
			t.Errorf("who wrote is told %v", err)
		}
		if err := <-reading; err == nil {
			t.Error("something was read")
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("they were kept for %v", took)
		}
		<-time.After(closeTimeout)
		synctest.Wait()
		if !below.closed.Load() {
			t.Errorf("the connection is open %v after it was closed", closeTimeout)
		}
	})
}

// TestGatheredFailure checks that a write returns the error of an earlier write.
func TestGatheredFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, g net.Conn, _ *calls, peer net.Conn) {
		if err := peer.Close(); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, g, []byte("lost"))
		synctest.Wait()
		if n, err := g.Write([]byte("more")); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%d bytes were written: %v", n, err)
		}
	})
}
