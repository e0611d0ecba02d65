package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of connections in memory, which counts the open ones.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
	open        atomic.Int64
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case connection := <-p.connections:
		p.open.Add(1)
		return &counted{connection, sync.OnceFunc(func() { p.open.Add(-1) })}, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

type counted struct {
	net.Conn

	closed func()
}

func (c *counted) Close() error {
	c.closed()
	return c.Conn.Close()
}

// TestHealthConnectionsAreLimited: clients that keep connections open, send requests slowly, or
// send long headers use little memory of the sidecar, and soon have to connect again.
func TestHealthConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := &pipes{connections: make(chan net.Conn), closed: make(chan struct{})}
		server := serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }), slog.New(slog.DiscardHandler))
		send := func(request string) *http.Response {
			client, other := net.Pipe()
			defer client.Close()
			listener.connections <- other
			go func() { _, _ = io.WriteString(client, request) }()
			response, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil {
				return nil
			}
			_ = response.Body.Close()
			return response
		}
		start := time.Now()
		var clients sync.WaitGroup
		for range 10 * maxHealthConnections {
			clients.Go(func() { send("GET /metrics HTTP/1.1\r\nHost: x\r\nX: ") })
		}
		synctest.Wait()
		if got := listener.open.Load(); got != maxHealthConnections {
			t.Errorf("%d connections are open", got)
		}
		clients.Wait()
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("slow clients were served for %s", took)
		}
		if response := send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); response == nil || response.StatusCode != http.StatusOK || !response.Close {
			t.Errorf("got %+v, and no connection that is closed", response)
		}
		if response := send("GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 16<<10) + "\r\n\r\n"); response == nil || response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a long header gets %+v", response)
		}
		_ = server.Close()
		<-time.After(10 * time.Second) // of the time of the bubble: the server waits for clients to read its last answers
	})
}
