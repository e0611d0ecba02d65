// Package refresher keeps the files current with which a Pod's unmodified in-cluster clients use
// another cluster.
//
// It runs as a sidecar. It requests a credential from the broker, writes it as one set of files,
// and renews it before it expires. If anything fails, the last valid set stays. Environment and
// files always belong together: if the endpoint changes, the refresher replaces the files only
// together with a restart of all containers.
//
// It runs in every Pod, and therefore imports only the standard library.
package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/internal/hedge"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/refresher/cabundle"
	"github.com/keyferry/keyferry/refresher/fileset"
	"github.com/keyferry/keyferry/refresher/proxy"
)

// ErrRestart is returned by Run after it wrote files for another endpoint. All containers of the
// Pod must restart to get the environment for these files.
var ErrRestart = errors.New("the endpoint changed: all containers have to be restarted")

// Mode is the reaction to a change of the endpoint.
type Mode string

const (
	// Restart all containers with the new environment, which they read from the file env.
	Restart Mode = "restart"
	// Ignore the new endpoint and report unhealthy, because the environment is fixed.
	Ignore Mode = "ignore"
)

// Delivery is how clients connect to the target.
type Delivery string

const (
	// Direct gives clients the target's endpoint, CA and token.
	Direct Delivery = "direct"
	// Proxy gives clients the endpoint of a proxy on loopback, its CA and the Pod's own token.
	Proxy Delivery = "proxy"
)

// Config configures a Refresher. The flags are in parentheses; errors of New refer to fields by
// their flags.
type Config struct {
	// Broker is the https URL of the broker, without a path (--broker).
	Broker string
	// BrokerAddress, if set, is the IP address to dial instead of looking up the host of Broker
	// (--broker-address).
	BrokerAddress string
	// Target is a TargetCluster (--target) and ClusterProfile a ClusterProfile (--cluster-profile), as
	// NAMESPACE/NAME. Exactly one of them is required.
	Target, ClusterProfile string
	// Namespace is the content of the file namespace (--namespace). If it is empty, the broker
	// decides.
	Namespace string
	// SubjectToken is the file in IdentityDir with the token that the target's provider exchanges.
	// Empty means subject-token. The file may be missing.
	SubjectToken string

	// Delivery is Direct or Proxy (--delivery).
	Delivery Delivery
	// ProxyAddress is the loopback address and port of the proxy (--proxy-address). It is required for
	// Proxy, and must be empty otherwise.
	ProxyAddress string
	// ProxyDir is the directory for the proxy's identity and the target's credential (--proxy-dir). It
	// is used only for Proxy. No other container may read it.
	ProxyDir string

	// OnEndpointChange is Restart or Ignore (--on-endpoint-change). With Proxy, only a change of the
	// cluster matters, not of its endpoint.
	OnEndpointChange Mode
	// Endpoint is the https URL in the fixed environment (--endpoint). It is required for Direct with
	// Ignore, and must be empty otherwise.
	Endpoint string
	// RestartSpread is the longest random wait before a restart, so that not all Pods restart at once
	// (--restart-spread).
	RestartSpread time.Duration

	// CredentialsDir is the directory for the files (--credentials-dir). IdentityDir contains the
	// Pod's token and the broker's CA (--identity-dir). TerminationLog is the file for the reason of a
	// failure (--termination-log).
	CredentialsDir, IdentityDir, TerminationLog string

	// Plugin, if set, issues the credentials (--plugin). Then the broker returns only the cluster, and
	// checks that the Pod may still use it.
	Plugin func(context.Context, wire.Cluster) (providers.Credential, error)

	Log *slog.Logger
	// Dial opens connections; nil means a net.Dialer.
	Dial DialFunc
	// Listen opens listeners for Proxy; nil means a net.ListenConfig.
	Listen ListenFunc
	// Jitter returns a random number in [0, 1).
	Jitter func() float64
}

// Refresher keeps one set of files current; see Run.
type Refresher struct {
	config Config
	log    *slog.Logger
	dial   DialFunc
	// askBroker is broker.ask and writeFiles is fileset.Write, except in tests.
	writeFiles func(dir string, files map[string][]byte) error
	askBroker  func(ctx context.Context, etag, useless string, untilExpiry time.Duration) (reply, error)
	// freeMemory is called before each wait.
	freeMemory func()
	health     health
	// object is the kind and name of the target, for messages.
	object string

	// local is the state of the proxy; nil for direct delivery.
	local *local
	// expected is the endpoint in the containers' environment; zero if they have none yet. clusterUID
	// identifies the cluster at that endpoint; empty if it is not known.
	expected   endpoint
	clusterUID string

	// The current set of files:
	current   credential
	bundle    cabundle.Bundle
	etag      string
	notAfter  time.Time
	refreshAt time.Time

	// asked is the start of the last request to the broker. failures counts failed requests in a row.
	asked    time.Time
	failures int
	// reported is the last termination message.
	reported string
	// restartAt is the time of a scheduled restart for restartFor; zero if none is scheduled.
	restartAt  time.Time
	restartFor endpoint
}

// New validates config and returns a Refresher.
func New(config Config) (*Refresher, error) {
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	broker, err := newBroker(config, dial)
	if err != nil {
		return nil, err
	}
	r := &Refresher{
		config: config,
		log:    config.Log.With("targetCluster", config.Target),
		dial:   dial,
		object: "TargetCluster " + config.Target,

		askBroker:  broker.ask,
		writeFiles: fileset.Write,
		// Return memory to the OS: the next request is usually a minute away.
		freeMemory: debug.FreeOSMemory,
	}
	if config.ClusterProfile != "" {
		r.log = config.Log.With("clusterProfile", config.ClusterProfile)
		r.object = "ClusterProfile " + config.ClusterProfile
	}
	switch {
	case config.Namespace != "" && !isNamespace(config.Namespace):
		return nil, fmt.Errorf("--namespace %q is not the name of a namespace", config.Namespace)
	case config.OnEndpointChange != Restart && config.OnEndpointChange != Ignore:
		return nil, fmt.Errorf("--on-endpoint-change %q: use restart or ignore", config.OnEndpointChange)
	case config.OnEndpointChange == Restart && config.RestartSpread < 0:
		return nil, errors.New("--restart-spread must not be negative")
	case config.Delivery == Direct:
		r.expected, err = directEndpoint(config)
	case config.Delivery == Proxy:
		r.expected, err = proxyEndpoint(config)
		r.local = newLocal()
	default:
		err = fmt.Errorf("--delivery %q: use direct or proxy", config.Delivery)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// directEndpoint returns the endpoint in the environment if it is fixed, and zero otherwise.
func directEndpoint(config Config) (endpoint, error) {
	switch {
	case config.ProxyAddress != "":
		return endpoint{}, errors.New("--proxy-address is for --delivery=proxy only")
	case config.OnEndpointChange == Ignore:
		fixed, err := parseEndpoint(config.Endpoint)
		if err != nil {
			return endpoint{}, fmt.Errorf("--endpoint, needed with --on-endpoint-change=ignore: %w", err)
		}
		return fixed, nil
	case config.Endpoint != "":
		return endpoint{}, errors.New("--endpoint is for --on-endpoint-change=ignore only: with restart, the broker supplies the endpoint")
	default:
		return endpoint{}, nil
	}
}

// Run keeps the files current. It returns nil when ctx is done, and ErrRestart if all containers
// must restart. It may be called once.
func (r *Refresher) Run(ctx context.Context) error {
	r.resume()
	if r.local != nil {
		serving, stop := context.WithCancel(ctx)
		defer stop()
		if err := r.serveProxy(serving); err != nil {
			r.report(err.Error())
			return err
		}
	}
	var asked renewal // from the proxy
	for {
		wait, err := r.turn(ctx, asked.refused)
		asked.finish()
		asked = renewal{}
		if err != nil {
			return err // even if ctx is done: the files are new, and the environment must be, too
		}
		if ctx.Err() != nil {
			r.log.Info("stopping")
			return nil
		}
		r.freeMemory()
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		case asked = <-r.local.renewals():
			if r.config.Plugin != nil {
				r.refreshAt = time.Time{} // the broker would report no change
			}
		case err := <-r.local.failures():
			r.report(err.Error())
			return err
		}
	}
}

// resume continues with the files of an earlier process. A sidecar can restart alone, while the
// application uses the files.
func (r *Refresher) resume() {
	files, err := fileset.Read(r.config.CredentialsDir)
	if err != nil {
		r.log.Info("starting without files", "error", err.Error())
		return
	}
	state, err := parseState(files)
	if err != nil {
		r.log.Warn("starting without the files that are there", "error", err.Error())
		return
	}
	at, err := parseEndpoint(state.Endpoint)
	server, _ := url.Parse(state.Endpoint)
	if err != nil || r.expected != (endpoint{}) && at != r.expected {
		r.log.Warn("starting without the files that are there", "reason", "they are for another endpoint", "endpoint", state.Endpoint)
		return
	}
	r.expected, r.clusterUID = at, state.ClusterUID
	if r.local != nil {
		return // the files contain the proxy's own token: serveProxy restores the credential
	}
	r.notAfter = state.NotAfter
	r.current.namespace = string(files[namespaceFile])
	r.current.target.Server, r.current.target.CA = server, files[caFile]
	r.bundle = cabundle.Published(files[caFile])
	r.health.written(fileset.Written(r.config.CredentialsDir), state.NotAfter)
	r.log.Info("starting with the files that are there", "endpoint", state.Endpoint, "notAfter", state.NotAfter)
}

// turn sends one request to the broker and handles the response. refused reports that the target
// rejected the current credential, so turn requests another one. It returns how long to wait for
// the next turn.
func (r *Refresher) turn(ctx context.Context, refused bool) (time.Duration, error) {
	r.asked = time.Now()
	etag, useless := r.etag, ""
	if expiry.Due(time.Now(), r.refreshAt) {
		etag = "" // request a new credential, not a report that nothing changed
	}
	if refused && r.config.Plugin == nil { // the broker does not know a plugin's credential
		useless = r.etag
	}
	reply, err := r.ask(ctx, etag, useless)
	if err != nil {
		return r.failed(ctx, err), nil
	}
	if reply.unchanged {
		return r.succeeded(outcomeUnchanged), nil
	}
	c, err := r.credential(ctx, reply)
	if err != nil {
		return r.failed(ctx, err), nil
	}
	c.namespace = cmp.Or(r.config.Namespace, c.namespace)
	if r.local != nil {
		c.endpoint = r.expected
	} else if err := c.tellDirectly(); err != nil {
		return r.failed(ctx, err), nil
	}

	switch change := r.change(c); {
	case change == nil && !refused && r.isOlder(c):
		r.refreshAt = time.Now().Add(r.retryWait(pollInterval))
		return r.succeeded(outcomeUnchanged), nil
	case change == nil:
		if err := r.probeMove(ctx, c); err != nil {
			return r.failed(ctx, err), nil
		}
		c.clusterUID = cmp.Or(c.clusterUID, r.clusterUID)
		if err := r.write(c, r.bundle.Next(c.target.CA, time.Now())); err != nil {
			return r.failed(ctx, err), nil
		}
		r.etag = reply.etag
		return r.succeeded(outcomeRenewed), nil
	case r.config.OnEndpointChange == Restart:
		return r.move(ctx, c, change)
	default:
		r.health.pinned(change)
		return r.failed(ctx, fmt.Errorf("%w, but the environment of this Pod is fixed: recreate the Pod to use the new endpoint", change)), nil
	}
}

// ask sends a request to the broker. In the last two minutes before the expiry, a request that
// hangs does not delay the next one.
func (r *Refresher) ask(ctx context.Context, etag, useless string) (reply, error) {
	notAfter := r.notAfter // a request may begin as this method returns
	ask := func(ctx context.Context) (reply, error) {
		return r.askBroker(ctx, etag, useless, time.Until(notAfter))
	}
	if !expiry.Urgent(time.Now(), notAfter) {
		return ask(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, urgentTimeout)
	defer cancel()
	return hedge.Do(ctx, urgentInterval, ask)
}

// credential returns the credential in a response of the broker, or has the plugin issue one for
// the cluster in it.
func (r *Refresher) credential(ctx context.Context, reply reply) (credential, error) {
	answer, err := parseAnswer(reply.body)
	if err != nil {
		return credential{}, err
	}
	switch cluster := answer.Spec.Cluster; {
	case cluster.Config.PluginInPod && r.config.Plugin == nil:
		return credential{}, fmt.Errorf("%s now needs a plugin in the Pod: recreate the Pod", r.object)
	case !cluster.Config.PluginInPod && r.config.Plugin != nil:
		return credential{}, fmt.Errorf("%s no longer needs a plugin in the Pod: recreate the Pod", r.object)
	case r.config.Plugin != nil:
		issued, err := r.config.Plugin(ctx, cluster)
		if err != nil {
			return credential{}, err
		}
		now := time.Now()
		return newCredential(cluster, issued, expiry.RefreshAt(now, issued.NotAfter), now)
	default:
		return brokerCredential(answer, reply.date, reply.received)
	}
}

// isOlder reports whether c is no better than the current credential, which has not expired: it has
// the same target, is due for renewal and expires no later. A broker that cannot reach the provider
// returns such a credential, even if another replica has issued a newer one.
func (r *Refresher) isOlder(c credential) bool {
	now := time.Now()
	return now.Before(r.notAfter) && expiry.Due(now, c.refreshAt) && !c.notAfter.After(r.notAfter.Add(time.Second)) &&
		c.namespace == r.current.namespace && r.current.target.Server != nil && r.current.target.SameServer(c.target)
}

// change returns how the endpoint or the cluster has changed; nil if it has not. Then the files can
// be replaced while containers run.
func (r *Refresher) change(c credential) error {
	switch {
	case r.expected == endpoint{}:
		return nil
	case r.expected != c.endpoint:
		return fmt.Errorf("the endpoint changed from %s to %s", r.expected, c.endpoint)
	case r.clusterUID != "" && c.clusterUID != "" && r.clusterUID != c.clusterUID:
		return fmt.Errorf("the cluster at %s is another cluster: its UID was %s and is now %s", c.target.Server, r.clusterUID, c.clusterUID)
	default:
		return nil
	}
}

// move handles a change of the endpoint by a restart. It restarts only if the new endpoint answers,
// and after a random wait. During the wait it continues to ask the broker, because a mistake is
// soon reverted.
func (r *Refresher) move(ctx context.Context, c credential, change error) (time.Duration, error) {
	if err := probe(ctx, r.dial, c.target); err != nil {
		r.restartAt = time.Time{}
		return r.failed(ctx, fmt.Errorf("%w, which does not answer, so the old files stay: %w", change, err)), nil
	}
	if r.restartAt.IsZero() || r.restartFor != c.endpoint {
		// Do not wait longer than the old credential is valid.
		spread := min(r.config.RestartSpread, max(time.Until(r.notAfter), 0))
		r.restartAt = time.Now().Add(time.Duration(r.config.Jitter() * float64(spread)))
		r.restartFor = c.endpoint
		r.log.Warn("all containers will be restarted", "reason", change.Error(), "restartAt", r.restartAt)
	}
	r.failures = 0
	r.health.asked(outcomeMoving, nil)
	r.report("")
	if wait := time.Until(r.restartAt); wait > 0 {
		return min(wait, pollWait(r.config.Jitter())), nil
	}
	// Nothing may interrupt the steps from here to the exit: the next process would assume that the
	// running containers were started with the new files.
	if err := r.write(c, cabundle.Bundle{}.Next(c.target.CA, time.Now())); err != nil {
		return r.failed(ctx, err), nil
	}
	r.report(change.Error() + ": all containers are restarted")
	r.log.Warn("restarting all containers", "reason", change.Error())
	return 0, ErrRestart
}

// write makes c the current set of files, with the certificates of b.
func (r *Refresher) write(c credential, b cabundle.Bundle) error {
	token, ca := c.target.Token, b.PEM()
	if r.local != nil {
		token, ca = r.local.publish(c.target, ca)
		r.save(c)
	}
	files, err := c.files(token, ca)
	if err != nil {
		return err
	}
	if err := r.writeFiles(r.config.CredentialsDir, files); err != nil {
		return fmt.Errorf("writing the credential to %s: %w", r.config.CredentialsDir, err)
	}
	now := time.Now()
	untilRefresh := c.refreshAt.Sub(now)
	if r.etag != "" && !c.notAfter.After(r.notAfter.Add(time.Second)) {
		// The new credential expires no later than the current one: renew it no later, whatever time the
		// broker returned.
		untilRefresh = min(untilRefresh, r.refreshAt.Sub(now))
	}
	r.current, r.expected, r.clusterUID, r.bundle = c, c.endpoint, c.clusterUID, b
	r.notAfter = c.notAfter
	r.refreshAt = now.Add(refreshWait(untilRefresh, c.notAfter.Sub(now), r.config.Jitter()))
	r.health.written(now, c.notAfter)
	r.log.Info("credential renewed", "endpoint", c.target.Server.String(), "cluster", c.clusterUID, "notAfter", c.notAfter, "refreshAt", r.refreshAt)
	return nil
}

// succeeded records that the files are up to date, and returns how long to wait.
func (r *Refresher) succeeded(o outcome) time.Duration {
	if !r.restartAt.IsZero() {
		r.log.Info("no restart is needed any more", "endpoint", r.expected.String())
	}
	r.failures, r.restartAt = 0, time.Time{}
	r.health.asked(o, nil)
	r.report("")
	return max(min(time.Until(r.refreshAt), pollWait(r.config.Jitter())), 0)
}

// failed records an error, and returns how long to wait. The files stay unchanged.
func (r *Refresher) failed(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return 0 // stopping is not a failure, and must not overwrite the reason of one
	}
	r.failures++
	refused := refusalIn(err)
	wait := r.retryWait(backOff(r.failures, refused.retryAfter, r.config.Jitter()))
	r.health.asked(outcomeFailed, err)
	r.local.fail(proxy.Problem{Reason: err.Error(), Refused: refused.code != 0, RetryAt: time.Now().Add(wait)})
	if refused.code == http.StatusLocked {
		r.drop()
	}
	if time.Now().Before(r.notAfter) {
		r.report(fmt.Sprintf("no new credential for %s: %v", r.object, err))
		r.log.Warn("keeping the last good credential", "error", err.Error(), "notAfter", r.notAfter, "retryIn", wait.String())
		return wait
	}
	r.report(fmt.Sprintf("no credential for %s: %v", r.object, err))
	r.log.Error("no valid credential", "error", err.Error(), "notAfter", r.notAfter, "retryIn", wait.String())
	return wait
}

// retryWait shortens the wait before the next request if the current credential is about to expire.
func (r *Refresher) retryWait(wait time.Duration) time.Duration {
	return expiry.RetryWait(wait, time.Until(r.notAfter), urgentWait(time.Since(r.asked), r.config.Jitter()))
}

// report writes the container's termination message.
func (r *Refresher) report(sentence string) {
	if sentence == r.reported {
		return
	}
	if err := writeTerminationLog(r.config.TerminationLog, sentence); err != nil {
		r.log.Warn("writing the termination message failed", "error", err.Error())
	}
	r.reported = sentence
}
