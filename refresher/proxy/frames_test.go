package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestHostileFrames sends HTTP/2 requests that Go's client would not send. The proxy rejects them,
// or sends them with the target's credential to the target only.
func TestHostileFrames(t *testing.T) {
	const token = "{token}"
	good := []string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/api", "authorization", "Bearer " + token}
	with := func(pairs ...string) []string { return append(append([]string{}, good...), pairs...) }
	replace := func(name, value string) []string {
		changed := append([]string{}, good...)
		for i := 0; i < len(changed); i += 2 {
			if changed[i] == name {
				changed[i+1] = value
			}
		}
		return changed
	}
	for name, test := range map[string]struct {
		header, trailer []string
		passes          bool
	}{
		"good":                        {header: good, passes: true},
		"no token":                    {header: good[:8]},
		"wrong token":                 {header: replace("authorization", "Bearer wrong")},
		"two tokens":                  {header: with("authorization", "Bearer other")},
		"token in the trailer":        {header: good[:8], trailer: []string{"authorization", "Bearer " + token}},
		"another in the trailer":      {header: good, trailer: []string{"authorization", "Bearer other", "impersonate-user", "root"}, passes: true},
		"other authority":             {header: replace(":authority", "other.example.com"), passes: true},
		"authority and host":          {header: with("host", "other.example.com"), passes: true},
		"authority with a user":       {header: replace(":authority", "u:p@other.example.com")},
		"path of another host":        {header: replace(":path", "https://other.example.com/api")},
		"path of two slashes":         {header: replace(":path", "//other.example.com/api"), passes: true},
		"path without a slash":        {header: replace(":path", "api")},
		"path out of the target":      {header: replace(":path", "/a/%2e%2e/b")},
		"no path":                     {header: replace(":path", "")},
		"asterisk":                    {header: replace(":path", "*")},
		"line end in the path":        {header: replace(":path", "/api\r\nX: y")},
		"scheme http":                 {header: replace(":scheme", "http"), passes: true},
		"scheme file":                 {header: replace(":scheme", "file")},
		"CONNECT":                     {header: []string{":method", "CONNECT", ":authority", "other.example.com:443", "authorization", "Bearer " + token}},
		"extended CONNECT":            {header: append([]string{":protocol", "websocket"}, replace(":method", "CONNECT")...)},
		"method with a line end":      {header: replace(":method", "GET /x HTTP/1.1\r\nX: y\r\n\r\nGET")},
		"two paths":                   {header: append([]string{":path", "/other"}, good...)},
		"pseudo header after others":  {header: with(":path", "/other")},
		"unknown pseudo header":       {header: append([]string{":target", "other.example.com"}, good...)},
		"connection":                  {header: with("connection", "authorization")},
		"transfer-encoding":           {header: with("transfer-encoding", "chunked")},
		"upgrade":                     {header: with("upgrade", "h2c")},
		"upper case":                  {header: with("Authorization", "Bearer other")},
		"line end in a value":         {header: with("x-a", "b\r\nAuthorization: Bearer other")},
		"NUL in a value":              {header: with("x-a", "b\x00c")},
		"header of many bytes":        {header: with("x-a", strings.Repeat("a", 2*maxHeader))},
		"length that is none":         {header: with("content-length", "-1"), passes: true},
		"length and no body":          {header: with("content-length", "5"), passes: true},
		"host of a forwarding server": {header: with("x-forwarded-host", "other.example.com", "forwarded", "host=other.example.com"), passes: true},
	} {
		t.Run(name, func(t *testing.T) {
			w, target := newWorld(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
			fill := strings.NewReplacer(token, w.proxy.config.Identity.Token())
			status := w.frames(t, filled(fill, test.header), filled(fill, test.trailer))
			if passed := status == "200"; passed != test.passes {
				t.Errorf("the status is %q", status)
			}
			seen := w.seen()
			if (len(seen) > 0) != test.passes {
				t.Fatalf("%d requests got to the target", len(seen))
			}
			for _, got := range seen {
				if values := got.Header.Values("Authorization"); len(values) != 1 || values[0] != "Bearer target-token" {
					t.Errorf("Authorization is %q", values)
				}
				if got.ContentLength > 0 && len(test.trailer) == 0 {
					t.Errorf("the target waits for %d bytes", got.ContentLength)
				}
				if got.Host != target.Listener.Addr().String() {
					t.Errorf("the host is %s", got.Host)
				}
				if len(got.Trailer) > 0 || got.Header.Get("X-Forwarded-Host") != "" || got.Header.Get("Impersonate-User") != "" {
					t.Errorf("header %v, trailer %v", got.Header, got.Trailer)
				}
			}
		})
	}
}

func filled(fill *strings.Replacer, pairs []string) []string {
	all := make([]string, len(pairs))
	for i := range pairs {
		all[i] = fill.Replace(pairs[i])
	}
	return all
}

// frames sends a raw request and returns the status of the response; empty if there is none.
func (w *world) frames(t *testing.T, header, trailer []string) string {
	t.Helper()
	config := w.tls()
	config.NextProtos = []string{"h2"}
	connection, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	framer := http2.NewFramer(connection, connection)
	go func() {
		_, _ = io.WriteString(connection, http2.ClientPreface)
		_ = framer.WriteSettings()
		_ = writeHeader(framer, header, len(trailer) == 0)
		if len(trailer) > 0 {
			_ = framer.WriteData(1, false, []byte("body"))
			_ = writeHeader(framer, trailer, true)
		}
	}()
	reader := http2.NewFramer(io.Discard, connection)
	reader.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := reader.ReadFrame()
		if _, ok := errors.AsType[http2.StreamError](err); ok {
			continue
		}
		if err != nil {
			return ""
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return ""
		}
	}
}

// writeHeader writes a header block in as many frames as it needs.
func writeHeader(framer *http2.Framer, pairs []string, last bool) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(pairs); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			return err
		}
	}
	const frame = 16 << 10
	first := block.Next(frame)
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: last, EndHeaders: block.Len() == 0}); err != nil {
		return err
	}
	for block.Len() > 0 {
		part := block.Next(frame)
		if err := framer.WriteContinuation(1, block.Len() == 0, part); err != nil {
			return err
		}
	}
	return nil
}
