package refresher

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keyferry/keyferry/refresher/cabundle"
	"github.com/keyferry/keyferry/refresher/fileset"
	"github.com/keyferry/keyferry/refresher/proxy"
)

// ListenFunc opens a listener, as net.ListenConfig.Listen does.
type ListenFunc func(ctx context.Context, network, address string) (net.Listener, error)

// local is the state for delivery by proxy. With direct delivery it is nil; a nil local has no
// renewals and no failures.
type local struct {
	identity *proxy.Identity
	proxy    *proxy.Proxy
	// target is the target of the proxy, with the CA that the broker returned. Its Server is nil until
	// there is a target.
	target proxy.Target

	// asks receives renewals that the proxy requests. failed receives the error if the proxy cannot
	// serve.
	asks   chan renewal
	failed chan error
}

// renewal is a request of the proxy for a newer credential. done is closed when it is finished; nil
// if there is no request. refused reports that the target rejects the current credential.
type renewal struct {
	done    chan struct{}
	refused bool
}

func (r renewal) finish() {
	if r.done != nil {
		close(r.done)
	}
}

func newLocal() *local {
	return &local{asks: make(chan renewal), failed: make(chan error, 2)}
}

func (l *local) renewals() <-chan renewal {
	if l == nil {
		return nil
	}
	return l.asks
}

func (l *local) failures() <-chan error {
	if l == nil {
		return nil
	}
	return l.failed
}

// renew requests a newer credential from the broker at once, and returns when the request is
// finished.
func (l *local) renew(ctx context.Context, refused bool) {
	done := make(chan struct{})
	select {
	case l.asks <- renewal{done, refused}:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// fail passes the reason to the proxy, which returns it to clients if it has no usable credential.
func (l *local) fail(problem proxy.Problem) {
	if l != nil && l.proxy != nil {
		l.proxy.Fail(problem)
	}
}

// publish makes target, verified with ca, the target of the proxy. It returns the token and CA for
// clients of the proxy.
func (l *local) publish(target proxy.Target, ca []byte) (token string, localCA []byte) {
	l.target = target
	target.CA = ca
	l.proxy.Set(target)
	return l.identity.Token(), l.identity.CA()
}

// proxyEndpoint returns the endpoint of the proxy for clients.
func proxyEndpoint(config Config) (endpoint, error) {
	at, err := netip.ParseAddrPort(config.ProxyAddress)
	switch {
	case err != nil || !at.Addr().IsLoopback() || at.Port() == 0:
		return endpoint{}, fmt.Errorf("--proxy-address %q: --delivery=proxy needs a loopback address and a port, such as 127.0.0.1:16443", config.ProxyAddress)
	case config.ProxyDir == "":
		return endpoint{}, errors.New("--proxy-dir is needed with --delivery=proxy")
	case config.Endpoint != "":
		return endpoint{}, errors.New("--endpoint is for --delivery=direct only")
	}
	return parseEndpoint("https://" + at.String())
}

// serveProxy starts the proxy. If no credential is stored, requests wait for the first one.
func (r *Refresher) serveProxy(ctx context.Context) (err error) {
	if r.local.identity, err = proxy.LoadIdentity(r.config.ProxyDir); err != nil {
		return err
	}
	r.local.proxy = proxy.New(proxy.Config{Cluster: r.object, Identity: r.local.identity, Renew: r.local.renew, Dial: r.dial, Log: r.log})
	r.restore()
	listen := r.config.Listen
	if listen == nil {
		listen = new(net.ListenConfig).Listen
	}
	listener, err := listen(ctx, "tcp", r.config.ProxyAddress)
	if err != nil {
		return ListenError(err)
	}
	go r.local.serve(ctx, listener)
	if r.expected.host != "::1" {
		// On a node with IPv6, localhost may be either address.
		if second, err := listen(ctx, "tcp", net.JoinHostPort("::1", r.expected.port)); err == nil {
			go r.local.serve(ctx, second)
		}
	}
	return nil
}

// credentialPath returns the file in which the proxy's credential is stored. Several refreshers may
// share the directory.
func (r *Refresher) credentialPath() string {
	name := strings.ReplaceAll(cmp.Or(r.config.Target, r.config.ClusterProfile), "/", "_")
	return filepath.Join(r.config.ProxyDir, name+".json")
}

// save stores c for a sidecar that restarts while the broker is down. The proxy works without the
// stored credential, so an error is only logged.
func (r *Refresher) save(c credential) {
	content, err := json.Marshal(c.answer())
	if err == nil {
		err = fileset.WriteFile(r.credentialPath(), content)
	}
	if err != nil {
		r.log.Warn("could not store the credential: if the sidecar restarts, it has no credential until the broker answers", "error", err.Error())
	}
}

// restore makes the proxy use the stored credential of an earlier process, if it has not expired.
func (r *Refresher) restore() {
	content, err := os.ReadFile(r.credentialPath())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var c credential
	if err == nil {
		c, err = storedCredential(content, time.Now())
	}
	if err == nil && r.clusterUID != c.clusterUID {
		err = errors.New("the credential is for another cluster than the files")
	}
	if err != nil {
		r.log.Warn("starting without the stored credential", "error", err.Error())
		return
	}
	c.endpoint = r.expected
	r.current, r.notAfter, r.refreshAt = c, c.notAfter, c.refreshAt
	r.bundle = cabundle.Bundle{}.Next(c.target.CA, time.Now())
	r.local.publish(c.target, r.bundle.PEM())
	r.health.written(fileset.Written(r.config.CredentialsDir), c.notAfter)
	r.log.Info("starting with the stored credential", "endpoint", c.target.Server.String(), "notAfter", c.notAfter)
}

// drop has the proxy forget the credential, and end all requests that it made with it. Nothing is
// left for a restarted sidecar. With direct delivery the files stay: the application has read them,
// and clients that find no file may use the local cluster.
func (r *Refresher) drop() {
	if r.local == nil || r.local.target.Server == nil {
		return
	}
	r.local.target = proxy.Target{}
	r.local.proxy.Drop()
	r.current, r.etag, r.notAfter, r.refreshAt = credential{}, "", time.Time{}, time.Time{}
	r.health.written(time.Time{}, time.Time{})
	if err := os.Remove(r.credentialPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Error("deleting the stored credential failed", "error", err.Error())
	}
}

// ListenError adds the probable cause to an error of listening for clients.
func ListenError(err error) error {
	question := "does another container of the Pod use the port?"
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		question = "has a program removed 127.0.0.1 from the loopback interface?"
	}
	return fmt.Errorf("listening for the clients of this Pod (%s): %w", question, err)
}

func (l *local) serve(ctx context.Context, listener net.Listener) {
	if err := l.proxy.Serve(ctx, listener); !errors.Is(err, http.ErrServerClosed) {
		l.failed <- fmt.Errorf("serving the clients of this Pod: %w", err)
	}
}

// probeMove returns an error if the target has another endpoint or CA and does not answer: while
// the old credential is valid, a mistake must not disconnect a working Pod.
func (r *Refresher) probeMove(ctx context.Context, c credential) error {
	if r.local == nil || r.local.target.Server == nil || r.local.target.SameServer(c.target) || !time.Now().Before(r.notAfter) {
		return nil
	}
	if err := probe(ctx, r.dial, c.target); err != nil {
		return fmt.Errorf("the target's endpoint or CA changed (%s, now %s), but the new endpoint does not answer, so the proxy keeps the old endpoint: %w",
			r.local.target.Server, c.target.Server, err)
	}
	return nil
}
