package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a listener for connections in memory, so that time in a synctest bubble passes only if
// all goroutines wait.
type memory struct {
	connections chan net.Conn
	closed      chan struct{}
	open, most  atomic.Int64
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case connection := <-m.connections:
		m.most.Store(max(m.most.Load(), m.open.Add(1)))
		return &counted{Conn: connection, open: &m.open}, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { close(m.closed); return nil }
func (m *memory) Addr() net.Addr { return &net.TCPAddr{} }

func (m *memory) dial() net.Conn {
	client, server := net.Pipe()
	m.connections <- server
	return client
}

type counted struct {
	net.Conn
	open *atomic.Int64
	once atomic.Bool
}

func (c *counted) Close() error {
	if c.once.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// noTarget returns a dial function that fails the test.
func noTarget(t *testing.T) DialFunc {
	return func(context.Context, string, string) (net.Conn, error) {
		t.Error("the target was dialled")
		return nil, net.ErrClosed
	}
}

// inMemory runs a proxy without a target in a bubble. Its certificates use the bubble's time.
func inMemory(t *testing.T, dir string, dial DialFunc) (*Proxy, *memory) {
	t.Helper()
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := New(Config{
		Cluster: "TargetCluster fleet/tenant-1", Identity: id, Renew: func(context.Context, bool) {}, Dial: dial, Log: slog.New(slog.DiscardHandler),
	})
	listener := &memory{connections: make(chan net.Conn), closed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		<-time.After(closeTimeout) // of the bubble's time, which stands still when the test has ended: for connections whose peers do not read, either
	})
	return p, listener
}

// TestManyConnections opens 10,000 slow connections. The proxy serves a limited number of them at a
// time, disconnects each soon, and then serves a client that is not slow.
func TestManyConnections(t *testing.T) {
	dir, before := t.TempDir(), heap()
	synctest.Test(t, func(t *testing.T) {
		p, listener := inMemory(t, dir, noTarget(t))
		w := &world{t: t, proxy: p}
		config := w.tls()
		config.ServerName = "localhost"
		for i := range 10000 {
			go func() {
				connection := listener.dial()
				defer connection.Close()
				switch i % 20 {
				case 0: // the header of a request, half of it, after a whole handshake
					connection = tls.Client(connection, config)
					_, _ = io.WriteString(connection, "GET /api HTTP/1.1\r\nHost: x\r\nX: ")
				case 1: // of a handshake
					_, _ = connection.Write([]byte("\x16\x03\x01"))
				}
				_, _ = io.Copy(io.Discard, connection)
			}()
		}
		synctest.Wait()
		if got := listener.open.Load(); got != maxConnections {
			t.Errorf("%d connections are held", got)
		}
		if grown := heap() - before; grown > 150<<20 {
			t.Errorf("%d MiB are held, for client and proxy", grown>>20)
		} else {
			t.Logf("%d MiB are held, for client and proxy", grown>>20)
		}
		start := time.Now()
		connection := tls.Client(listener.dial(), config)
		t.Cleanup(func() { _ = connection.Close() })
		if _, err := io.WriteString(connection, "GET /api HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("the answer is %s", response.Status)
		}
		if took := time.Since(start); took > 10000/maxConnections*2*headerTimeout {
			t.Errorf("it took %v", took)
		}
		if got := listener.most.Load(); got > maxConnections {
			t.Errorf("up to %d connections were held", got)
		}
	})
}

func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}

// TestSlowHeaders checks that a request with an endless header is rejected, even if the header
// arrives steadily.
func TestSlowHeaders(t *testing.T) {
	for name, authorization := range map[string]string{"without the token": "", "with the token": "Authorization: Bearer %s\r\n"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				p, listener := inMemory(t, dir, noTarget(t))
				config := (&world{t: t, proxy: p}).tls()
				config.ServerName = "localhost"
				connection := tls.Client(listener.dial(), config)
				t.Cleanup(func() { _ = connection.Close() })
				start := time.Now()
				go func() {
					_, err := io.WriteString(connection, "GET /api HTTP/1.1\r\nHost: x\r\n"+strings.ReplaceAll(authorization, "%s", p.config.Identity.Token())+"X: ")
					for err == nil {
						select {
						case <-time.After(time.Second):
							_, err = io.WriteString(connection, "x")
						case <-t.Context().Done():
							return
						}
					}
				}()
				_, _ = io.Copy(io.Discard, connection)
				if took := time.Since(start); took < headerTimeout/2 || took > headerTimeout+2*time.Second {
					t.Errorf("it was served for %v", took)
				}
			})
		})
	}
}
