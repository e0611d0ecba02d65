// Package refresher keeps the files by which a Pod's unmodified in-cluster clients find and enter
// another cluster current.
//
// It runs as a sidecar: it asks the broker for a credential, writes it as one set of files, renews
// it before it ends, and keeps the last good set whatever fails. The environment and the files
// always belong together: when the API server moved, the files are not swapped under running
// containers, but together with a restart of all of them.
//
// It is in every Pod, and therefore made of the standard library only.
package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/internal/hedge"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/refresher/cabundle"
	"github.com/keyferry/keyferry/refresher/fileset"
)

// ErrRestart is returned by Run when the files are those of another endpoint than before, so that
// all containers of the Pod have to be restarted to get the environment that belongs to them.
var ErrRestart = errors.New("the endpoint moved: all containers have to be restarted")

// Mode is what to do when the broker names another endpoint than the containers were started with.
type Mode string

const (
	// Restart all containers, with the new environment: it comes from the env file.
	Restart Mode = "restart"
	// Ignore the new endpoint and be unhealthy: the environment is fixed.
	Ignore Mode = "ignore"
)

// Delivery is how clients get to the target.
type Delivery string

const (
	// Direct tells clients the target's endpoint, CA and token.
	Direct Delivery = "direct"
	// Proxy tells them a proxy at loopback, its CA and a token of the Pod's own.
	Proxy Delivery = "proxy"
)

// Config of a Refresher. The names in parentheses are those of the flags, by which New's errors
// call the fields.
type Config struct {
	// Broker is the https URL of the broker, without a path (--broker).
	Broker string
	// BrokerAddress, if set, is the IP address to dial instead of looking up the host of Broker
	// (--broker-address).
	BrokerAddress string
	// Target is the TargetCluster, as NAMESPACE/NAME (--target), or else ClusterProfile a
	// ClusterProfile (--cluster-profile).
	Target, ClusterProfile string
	// Namespace is the content of the namespace file; empty means what the broker says (--namespace).
	Namespace string
	// SubjectToken is the file in IdentityDir with the token that the target's provider exchanges, if
	// it does; empty means subject-token.
	SubjectToken string

	// Delivery is Direct or Proxy (--delivery).
	Delivery Delivery
	// ProxyAddress is the loopback address and port to listen at, for Proxy only, and needed there
	// (--proxy-address).
	ProxyAddress string
	// ProxyDir is where the identity of the proxy and the target's credential are stored, for Proxy
	// only; no other container may read it (--proxy-dir).
	ProxyDir string

	// OnEndpointChange is Restart or Ignore (--on-endpoint-change). Behind a proxy the endpoint may
	// change, but not the cluster.
	OnEndpointChange Mode
	// Endpoint is the https URL in the fixed environment; for Direct and Ignore only, and needed there
	// (--endpoint).
	Endpoint string
	// RestartSpread is the longest random wait before a restart, so that not all Pods restart at once
	// (--restart-spread).
	RestartSpread time.Duration

	// CredentialsDir is where the files are written (--credentials-dir), IdentityDir where the Pod's
	// own token and the broker's CA are read (--identity-dir), TerminationLog the file for the reason
	// of a failure (--termination-log).
	CredentialsDir, IdentityDir, TerminationLog string

	// Plugin, if set, issues the credentials (--plugin): the broker then only says for which cluster,
	// and that this Pod may still have any.
	Plugin func(context.Context, wire.Cluster) (providers.Credential, error)

	Log *slog.Logger
	// Dial opens connections; nil means a net.Dialer.
	Dial DialFunc
	// Listen opens listeners for Proxy; nil means a net.ListenConfig.
	Listen ListenFunc
	// Jitter returns a random number in [0, 1).
	Jitter func() float64
}

// Refresher keeps one set of files current.
type Refresher struct {
	config Config
	log    *slog.Logger
	dial   DialFunc
	// askBroker is broker.ask and writeFiles is fileset.Write, but in tests.
	writeFiles func(dir string, files map[string][]byte) error
	askBroker  func(ctx context.Context, etag, useless string, untilExpiry time.Duration) (reply, error)
	// freeMemory is called before the refresher waits.
	freeMemory func()
	health     health
	// object is what the credential is requested for, for messages.
	object string

	// local is what the proxy adds; nil for direct delivery.
	local *local
	// expected is the endpoint that the containers' environment names; zero if they have none yet.
	// clusterUID is that of the cluster there; empty if it is not known.
	expected   endpoint
	clusterUID string

	// Of the set in place:
	current   credential
	bundle    cabundle.Bundle
	etag      string
	notAfter  time.Time
	refreshAt time.Time

	// asked is when the last request to the broker began, failures how many in a row have failed.
	asked    time.Time
	failures int
	// reported is the termination message.
	reported string
	// restartAt is when a restart for restartFor is due; zero if none is.
	restartAt  time.Time
	restartFor endpoint
}

// New checks config.
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
		// The next exchange is a minute away, as a rule.
		freeMemory: debug.FreeOSMemory,
	}
	if config.ClusterProfile != "" {
		r.log = config.Log.With("clusterProfile", config.ClusterProfile)
		r.object = "ClusterProfile " + config.ClusterProfile
	}
	switch {
	case config.Namespace != "" && !isNamespace(config.Namespace):
		return nil, fmt.Errorf("--namespace %q is not a name of a namespace", config.Namespace)
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

// directEndpoint returns what the environment says, if it is fixed.
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
		return endpoint{}, errors.New("--endpoint is for --on-endpoint-change=ignore only: with restart, the endpoint is the broker's")
	default:
		return endpoint{}, nil
	}
}

// Run keeps the files current until ctx ends, when it returns nil, or all containers have to be
// restarted, when it returns ErrRestart. It may be called once.
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
	var asked renewal // by the proxy
	for {
		wait, err := r.turn(ctx, asked.refused)
		asked.finish()
		asked = renewal{}
		if err != nil {
			return err // even if ctx has ended: the files are new, and their environment has to follow
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
				r.refreshAt = time.Time{} // the broker would know of nothing newer
			}
		case err := <-r.local.failures():
			r.report(err.Error())
			return err
		}
	}
}

// resume takes over the files of a predecessor, as the application may be running with them: a
// sidecar can be restarted alone.
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
		return // the files hold the proxy's own token: serveProxy restores the credential
	}
	r.notAfter = state.NotAfter
	r.current.namespace = string(files[namespaceFile])
	r.current.target.Server, r.current.target.CA = server, files[caFile]
	r.bundle = cabundle.Published(files[caFile])
	r.health.written(fileset.Written(r.config.CredentialsDir), state.NotAfter)
	r.log.Info("starting with the files that are there", "endpoint", state.Endpoint, "notAfter", state.NotAfter)
}

// turn asks the broker once and does what the answer calls for: also whether there is another
// credential, if the target refused the one that there is. It returns how long to wait for the next
// turn.
func (r *Refresher) turn(ctx context.Context, refused bool) (time.Duration, error) {
	r.asked = time.Now()
	etag, useless := r.etag, ""
	if expiry.Due(time.Now(), r.refreshAt) {
		etag = "" // something new is wanted, not the news that nothing changed
	}
	if refused && r.config.Plugin == nil { // a plugin's credential is none of the broker's
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
		return r.failed(ctx, fmt.Errorf("%w, but the environment of this Pod is fixed: recreate the Pod to follow", change)), nil
	}
}

// ask asks the broker. In the UrgentPeriod of the credential, a request that hangs does not hold up
// the next one.
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

// credential returns what an answer of the broker comes to: the credential in it, or the one that
// the plugin issues for the cluster in it.
func (r *Refresher) credential(ctx context.Context, reply reply) (credential, error) {
	answer, err := parseAnswer(reply.body)
	if err != nil {
		return credential{}, err
	}
	switch cluster := answer.Spec.Cluster; {
	case cluster.Config.PluginInPod && r.config.Plugin == nil:
		return credential{}, fmt.Errorf("%s needs a plugin in the Pod by now, and this Pod was made without: recreate the Pod", r.object)
	case !cluster.Config.PluginInPod && r.config.Plugin != nil:
		return credential{}, fmt.Errorf("%s needs no plugin in the Pod any more, and this Pod was made to run one: recreate the Pod", r.object)
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

// isOlder reports whether c is for the same as the credential in place, which has not expired, is
// due to be replaced and expires no later: a broker that cannot reach the provider answers with
// what it has, and another replica may have issued since.
func (r *Refresher) isOlder(c credential) bool {
	now := time.Now()
	return now.Before(r.notAfter) && expiry.Due(now, c.refreshAt) && !c.notAfter.After(r.notAfter.Add(time.Second)) &&
		c.namespace == r.current.namespace && r.current.target.Server != nil && r.current.target.SameServer(c.target)
}

// change says what of the expected endpoint is no longer so, or nil: then files can be swapped
// under running containers.
func (r *Refresher) change(c credential) error {
	switch {
	case r.expected == endpoint{}:
		return nil
	case r.expected != c.endpoint:
		return fmt.Errorf("the endpoint moved from %s to %s", r.expected, c.endpoint)
	case r.clusterUID != "" && c.clusterUID != "" && r.clusterUID != c.clusterUID:
		return fmt.Errorf("the cluster at %s is another one: its UID was %s and is %s", c.target.Server, r.clusterUID, c.clusterUID)
	default:
		return nil
	}
}

// move follows a change to c by a restart: only once the new endpoint answers, and after a random
// wait, during which the broker is asked on, since a change that was a mistake is soon changed
// back.
func (r *Refresher) move(ctx context.Context, c credential, change error) (time.Duration, error) {
	if err := probe(ctx, r.dial, c.target); err != nil {
		r.restartAt = time.Time{}
		return r.failed(ctx, fmt.Errorf("%w, which does not answer, so the old files stay: %w", change, err)), nil
	}
	if r.restartAt.IsZero() || r.restartFor != c.endpoint {
		// Nothing is gained by waiting for longer than the old credential lasts.
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
	// From here to the exit nothing may get in between: a successor would take the new files for those
	// that the running containers were started with.
	if err := r.write(c, cabundle.Bundle{}.Next(c.target.CA, time.Now())); err != nil {
		return r.failed(ctx, err), nil
	}
	r.report(change.Error() + ": all containers are restarted")
	r.log.Warn("restarting all containers", "reason", change.Error())
	return 0, ErrRestart
}

// write makes c the set in place, with the certificates of b.
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
		// It lasts no longer than the present one, and is replaced no later, whatever the broker makes of
		// it.
		untilRefresh = min(untilRefresh, r.refreshAt.Sub(now))
	}
	r.current, r.expected, r.clusterUID, r.bundle = c, c.endpoint, c.clusterUID, b
	r.notAfter = c.notAfter
	r.refreshAt = now.Add(refreshWait(untilRefresh, c.notAfter.Sub(now), r.config.Jitter()))
	r.health.written(now, c.notAfter)
	r.log.Info("credential renewed", "endpoint", c.target.Server.String(), "cluster", c.clusterUID, "notAfter", c.notAfter, "refreshAt", r.refreshAt)
	return nil
}

// succeeded notes that the files in place are what the broker wants them to be, and returns how
// long to wait.
func (r *Refresher) succeeded(o outcome) time.Duration {
	if !r.restartAt.IsZero() {
		r.log.Info("no restart is needed any more", "endpoint", r.expected.String())
	}
	r.failures, r.restartAt = 0, time.Time{}
	r.health.asked(o, nil)
	r.report("")
	return max(min(time.Until(r.refreshAt), pollWait(r.config.Jitter())), 0)
}

// failed notes why the files in place stay as they are, and returns how long to wait.
func (r *Refresher) failed(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return 0 // the end was asked for: no failure, and no reason to overwrite the reason of one
	}
	r.failures++
	wait := r.retryWait(backOff(r.failures, retryAfter(err), r.config.Jitter()))
	r.health.asked(outcomeFailed, err)
	r.local.fail(err, wait)
	if time.Now().Before(r.notAfter) {
		r.report(fmt.Sprintf("no new credential for %s: %v", r.object, err))
		r.log.Warn("keeping the last good credential", "error", err.Error(), "notAfter", r.notAfter, "retryIn", wait.String())
		return wait
	}
	r.report(fmt.Sprintf("no credential for %s: %v", r.object, err))
	r.log.Error("no valid credential", "error", err.Error(), "notAfter", r.notAfter, "retryIn", wait.String())
	return wait
}

// retryWait shortens the wait before another request for a credential that is due as the present
// one is about to expire.
func (r *Refresher) retryWait(wait time.Duration) time.Duration {
	return expiry.RetryWait(wait, time.Until(r.notAfter), urgentWait(time.Since(r.asked), r.config.Jitter()))
}

// report makes sentence the container's termination message.
func (r *Refresher) report(sentence string) {
	if sentence == r.reported {
		return
	}
	if err := writeTerminationLog(r.config.TerminationLog, sentence); err != nil {
		r.log.Warn("writing the termination message failed", "error", err.Error())
	}
	r.reported = sentence
}
