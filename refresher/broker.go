package refresher

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/refresher/proxy"
)

const (
	// requestTimeout limits one exchange, from dialing to the last byte. The broker itself may be
	// waiting for a provider.
	requestTimeout = 25 * time.Second
	// dialTimeout is short enough for another try before the application's start fails.
	dialTimeout = 5 * time.Second
	// maxBody limits the body of a response, in bytes.
	maxBody = 1 << 20
)

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc = proxy.DialFunc

// broker is a client of the broker for one credential.
type broker struct {
	url          string
	identityDir  string
	subjectToken string
	dial         DialFunc
}

// newBroker returns the client for the broker in config.
func newBroker(config Config, dial DialFunc) (broker, error) {
	base, err := url.Parse(config.Broker)
	if err != nil || base.Scheme != "https" || base.Hostname() == "" || strings.TrimSuffix(config.Broker, "/") != "https://"+base.Host {
		return broker{}, fmt.Errorf("--broker %q: use https://HOST or https://HOST:PORT", config.Broker)
	}
	path, err := askedPath(config)
	if err != nil {
		return broker{}, err
	}
	if config.BrokerAddress != "" {
		address, err := netip.ParseAddr(config.BrokerAddress)
		if err != nil {
			return broker{}, fmt.Errorf("--broker-address %q: use an IP address", config.BrokerAddress)
		}
		dial = dialAlways(dial, net.JoinHostPort(address.String(), cmp.Or(base.Port(), "443")))
	}
	return broker{
		url:          "https://" + base.Host + path,
		identityDir:  config.IdentityDir,
		subjectToken: cmp.Or(config.SubjectToken, subjectTokenFile),
		dial:         dial,
	}, nil
}

// askedPath returns the path of the credential that config names.
func askedPath(config Config) (string, error) {
	flag, value, kind, path := "--target", config.Target, "TargetCluster", wire.TargetClusterPath
	if config.ClusterProfile != "" {
		flag, value, kind, path = "--cluster-profile", config.ClusterProfile, "ClusterProfile", wire.ClusterProfilePath
	}
	namespace, name, _ := strings.Cut(value, "/")
	switch {
	case config.Target != "" && config.ClusterProfile != "":
		return "", errors.New("--target and --cluster-profile exclude each other")
	case !isNamespace(namespace) || !isObjectName(name):
		return "", fmt.Errorf("%s %q: use NAMESPACE/NAME of a %s", flag, value, kind)
	}
	return path(namespace, name), nil
}

// dialAlways returns a DialFunc that always dials address. The server's certificate is still
// verified for the host of the request.
func dialAlways(dial DialFunc, address string) DialFunc {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, address)
	}
}

// reply is a successful response of the broker.
type reply struct {
	unchanged      bool // since the response with the request's ETag; then all other fields are zero
	body           []byte
	etag           string
	date, received time.Time
}

// refusal is an error response of the broker.
type refusal struct {
	code       int
	status     string
	message    string
	retryAfter time.Duration
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the broker answers %s: %s", r.status, r.message)
}

// refusalIn returns the error response of the broker in err; the zero refusal if there is none.
func refusalIn(err error) refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return *r
	}
	return refusal{}
}

// ask sends one request. With an etag, the broker returns a credential only if it has changed.
// useless is the ETag of a response whose credential the target rejects. Both may be empty.
// untilExpiry is the time until the current credential expires; zero or less means that there is
// none. The Pod's token and the broker's CA are read each time, because they are renewed.
func (b *broker) ask(ctx context.Context, etag, useless string, untilExpiry time.Duration) (reply, error) {
	token, err := os.ReadFile(filepath.Join(b.identityDir, tokenFile))
	if err != nil {
		return reply{}, fmt.Errorf("reading the identity of this Pod: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(b.identityDir, caFile))
	if err != nil {
		return reply{}, fmt.Errorf("reading the CA of the broker: %w", err)
	}
	body, err := b.body()
	if err != nil {
		return reply{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url, bytes.NewReader(body))
	if err != nil {
		return reply{}, fmt.Errorf("asking the broker: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	request.Header.Set("Content-Type", "application/json")
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	if useless != "" {
		request.Header.Set(wire.HeaderRefused, useless)
	}
	if untilExpiry > 0 {
		request.Header.Set(wire.HeaderExpiresIn, strconv.Itoa(int(untilExpiry/time.Second)))
	}
	if !x509.NewCertPool().AppendCertsFromPEM(ca) {
		return reply{}, errors.New("the CA for the broker contains no certificate")
	}
	got, err := exchange(proxy.Target{CA: ca}.Transport(b.dial), request)
	if err != nil {
		return reply{}, fmt.Errorf("asking the broker: %s: %w", request.URL.Host, err)
	}
	received := time.Now()
	date, err := http.ParseTime(got.header.Get("Date"))
	if err != nil {
		date = received // works if the clocks agree
	}
	switch {
	case got.code == http.StatusOK:
		return reply{body: got.body, etag: got.header.Get("ETag"), date: date, received: received}, nil
	case got.code == http.StatusNotModified && etag != "":
		return reply{unchanged: true}, nil
	default:
		return reply{}, newRefusal(got)
	}
}

// body returns the body of a request. It contains the token that the target's provider exchanges,
// if the Pod has one.
func (b *broker) body() ([]byte, error) {
	subject, err := os.ReadFile(filepath.Join(b.identityDir, b.subjectToken))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the token of this Pod for the target's provider: %w", err)
	}
	body, err := json.Marshal(wire.Request{SubjectToken: string(bytes.TrimSpace(subject))})
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return body, nil
}

func newRefusal(got response) error {
	var status wire.Error
	if err := json.Unmarshal(got.body, &status); err != nil || status.Message == "" {
		status.Message = "no reason given"
	}
	seconds, err := strconv.ParseUint(got.header.Get("Retry-After"), 10, 16)
	if err != nil {
		seconds = 0
	}
	return &refusal{code: got.code, status: got.status, message: status.Message, retryAfter: time.Duration(seconds) * time.Second}
}

// probe reports whether the API server of target accepts the credential. 403 is as good a response
// as 200: the API server has authenticated the client.
func probe(ctx context.Context, dial DialFunc, target proxy.Target) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.URL("/version", "/version", "").String(), http.NoBody)
	if err != nil {
		return fmt.Errorf("asking %s for its version: %w", target.Server, err)
	}
	target.Authorize(request.Header)
	got, err := exchange(target.Transport(dial), request)
	if err != nil {
		return fmt.Errorf("asking %s for its version: %w", target.Server, err)
	}
	if got.code != http.StatusOK && got.code != http.StatusForbidden {
		return fmt.Errorf("asking %s for its version: the target answers %s to the new credential", target.Server, got.status)
	}
	return nil
}

// response contains the parts of an HTTP response that callers of exchange need.
type response struct {
	code   int
	status string // such as 403 Forbidden
	header http.Header
	body   []byte
}

// exchange sends request and returns the response with its whole body. It follows no redirects: an
// http.Client, which would follow them, is not part of the program.
//
// Each exchange opens a new connection. There is one exchange a minute: an idle connection would
// cost memory on both sides, and could have been verified with an outdated CA.
func exchange(transport *http.Transport, request *http.Request) (response, error) {
	transport.DisableKeepAlives = true
	transport.ForceAttemptHTTP2 = false
	transport.MaxResponseHeaderBytes = 16 << 10
	transport.ReadBufferSize, transport.WriteBufferSize = 2<<10, 2<<10
	ctx, cancel := context.WithTimeout(request.Context(), requestTimeout)
	defer cancel()
	got, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return response{}, err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(io.LimitReader(got.Body, maxBody+1))
	switch {
	case err != nil:
		return response{}, fmt.Errorf("reading the answer: %w", err)
	case len(body) > maxBody:
		return response{}, fmt.Errorf("the answer is larger than %d bytes", maxBody)
	}
	return response{code: got.StatusCode, status: got.Status, header: got.Header, body: body}, nil
}
