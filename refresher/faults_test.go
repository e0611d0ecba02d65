package refresher

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

var (
	firstSchedule = flag.Uint64("first-schedule", 1, "seed of the first schedule of faults; the others follow it")
	schedules     = flag.Int("schedules", 10_000, "number of schedules of faults")
)

// TestNoScheduleOfFaultsLeavesAPodWithoutACredential: a provider fails in all ways, except for ten
// seconds in the last two minutes of each credential. Meanwhile the brokers restart. The files of
// the Pod must always contain a credential that has not expired.
func TestNoScheduleOfFaultsLeavesAPodWithoutACredential(t *testing.T) {
	const together = 100
	t.Logf("-first-schedule=%d -schedules=%d repeats these", *firstSchedule, *schedules)
	for first := 0; first < *schedules; first += together {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			var all sync.WaitGroup
			for i := range min(together, *schedules-first) {
				seed := *firstSchedule + uint64(first+i)
				all.Go(func() {
					if err := runSchedule(t.Context(), seed, dir); err != nil {
						t.Errorf("-first-schedule=%d -schedules=1: %v", seed, err)
					}
				})
			}
			all.Wait()
			<-time.After(time.Minute) // the last calls of providers end
		})
		if t.Failed() {
			return
		}
	}
}

// runSchedule runs a Pod until its first credential, and often the second, was replaced.
func runSchedule(ctx context.Context, seed uint64, dir string) error {
	random := rand.New(rand.NewPCG(seed, 0))
	p := &faultyProvider{seed: seed, window: time.Now(), lifetime: time.Minute + time.Duration(random.Int64N(int64(6*time.Minute)))}
	brokers := &brokers{provider: p, random: rand.New(rand.NewPCG(seed, 1))}
	r, err := New(Config{
		Broker: brokerURL, Target: "fleet/tenant-1", Delivery: Direct, OnEndpointChange: Restart,
		CredentialsDir: dir, IdentityDir: dir, TerminationLog: os.DevNull,
		Log: slog.New(slog.DiscardHandler), Jitter: random.Float64,
	})
	if err != nil {
		return err
	}
	r.askBroker, r.freeMemory = brokers.ask, func() {}
	r.writeFiles = func(string, map[string][]byte) error { return nil }

	ctx, cancel := context.WithTimeout(ctx, p.lifetime*3/2)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	for {
		expires := r.health.snapshot().notAfter
		select {
		case err := <-ended:
			return err
		case <-time.After(max(time.Until(expires), window)): // so long the start may take
		}
		if problem := r.health.problem(time.Now()); problem != "" {
			return fmt.Errorf("%s; a lifetime is %s; what happened before:\n%s", problem, p.lifetime, strings.Join(p.history, "\n"))
		}
	}
}

// faultyProvider issues credentials for ten seconds: at the start, and once in the last two minutes
// of each credential. Its behaviour depends only on its seed and the time.
type faultyProvider struct {
	seed     uint64
	lifetime time.Duration

	mu      sync.Mutex
	last    providers.Credential
	window  time.Time // the present one, or the one to come
	next    time.Time // the window after that; zero until a credential is issued
	history []string  // the last events
}

func (p *faultyProvider) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history = append(p.history[max(len(p.history)-40, 0):], time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

const window = 10 * time.Second

var errFault = errors.New("a fault")

// fault is a way to fail. chance is between 0 and 1.
type fault func(ctx context.Context, p *faultyProvider, chance float64) (providers.Credential, error)

var faults = []fault{
	func(context.Context, *faultyProvider, float64) (providers.Credential, error) { // down
		return providers.Credential{}, providers.Unavailable(0, errFault)
	},
	func(ctx context.Context, _ *faultyProvider, chance float64) (providers.Credential, error) { // slow, and fails then
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(chance * float64(14*time.Second))):
		}
		return providers.Credential{}, providers.Unavailable(0, errFault)
	},
	func(ctx context.Context, _ *faultyProvider, _ float64) (providers.Credential, error) { // silent
		<-ctx.Done()
		return providers.Credential{}, providers.Unavailable(0, ctx.Err())
	},
	func(_ context.Context, _ *faultyProvider, chance float64) (providers.Credential, error) { // throttled
		return providers.Credential{}, providers.Unavailable(time.Duration(chance*float64(time.Hour)), errFault)
	},
	func(context.Context, *faultyProvider, float64) (providers.Credential, error) { // garbage
		return providers.Credential{}, fmt.Errorf("%w: %w", providers.ErrRefused, errFault)
	},
	func(_ context.Context, _ *faultyProvider, chance float64) (providers.Credential, error) { // expired
		return providers.Credential{Token: "expired", NotAfter: time.Now().Add(-time.Duration(chance * float64(time.Hour)))}, nil
	},
	func(_ context.Context, p *faultyProvider, _ float64) (providers.Credential, error) { // what it issued before
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.last, nil
	},
}

// draw returns the random numbers for the half minute of now.
func (p *faultyProvider) draw(now time.Time) *rand.Rand {
	return rand.New(rand.NewPCG(p.seed, uint64(now.Unix())/30))
}

// ShareKey implements providers.Sharer.
func (p *faultyProvider) ShareKey(providers.Request) string { return "" }

// Issue implements providers.Provider.
func (p *faultyProvider) Issue(ctx context.Context, _ providers.Request) (providers.Credential, error) {
	now := time.Now()
	random := p.draw(now)
	if !p.answers(now) {
		// Two faults in turn: half a minute is longer than many last.
		kinds, begin := []int{random.IntN(len(faults)), random.IntN(len(faults))}, random.IntN(30)
		kind := kinds[0]
		if int(now.Unix()%30) >= begin {
			kind = kinds[1]
		}
		p.note("the provider is called: fault %d", kind)
		return faults[kind](ctx, p, random.Float64())
	}
	select {
	case <-ctx.Done():
		return providers.Credential{}, providers.Unavailable(0, ctx.Err())
	case <-time.After(time.Duration(random.Int64N(int64(2 * time.Second)))):
	}
	return p.issue(time.Now())
}

// answers reports whether the provider works at this time.
func (p *faultyProvider) answers(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.next.IsZero() && !now.Before(p.window.Add(window)) {
		p.window, p.next = p.next, time.Time{}
	}
	return !now.Before(p.window) && now.Before(p.window.Add(window))
}

func (p *faultyProvider) issue(now time.Time) (providers.Credential, error) {
	if !p.answers(now) {
		p.note("the provider answers no more")
		return providers.Credential{}, providers.Unavailable(0, errFault)
	}
	p.note("the provider issues")
	p.mu.Lock()
	defer p.mu.Unlock()
	expires := now.Add(p.lifetime)
	p.last = providers.Credential{Token: "token-" + now.Format(time.TimeOnly), NotAfter: expires}
	if p.next.IsZero() {
		// Short-lived credentials are due only then. The others of this window expire up to ten seconds
		// later.
		last := min(2*time.Minute-window, p.lifetime/20*9)
		p.next = expires.Add(-last + time.Duration(p.draw(now).Int64N(int64(last-window))))
	}
	return p.last, nil
}

// issuedWithin reports whether the last credential is at most d old.
func (p *faultyProvider) issuedWithin(d time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.last.NotAfter) > p.lifetime-d
}

// brokers respond like two replicas of the broker, with a random one. Both restart at times.
type brokers struct {
	provider *faultyProvider

	mu      sync.Mutex
	random  *rand.Rand
	issuers [2]*issuer.Issuer
}

func (b *brokers) ask(ctx context.Context, etag, _ string, untilExpiry time.Duration) (reply, error) {
	i, err := b.issuer()
	if err != nil {
		return reply{}, err
	}
	now := time.Now()
	request := providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: "web"}}
	if untilExpiry > 0 {
		request.Expires = now.Add(untilExpiry)
	}
	b.provider.note("broker %p is asked, %s before the expiry", i, untilExpiry)
	issued, err := i.IssueFor(ctx, &targetCluster, request)
	b.provider.note("broker %p answers with %s, %v", i, issued.NotAfter.Format(time.TimeOnly), err)
	if err != nil {
		return reply{}, &refusal{status: "503", message: err.Error(), retryAfter: max(providers.RetryAfter(err), 5*time.Second)}
	}
	tag := fmt.Sprint(issued.Token, issued.IssuedAt, issued.RefreshAt)
	if now = time.Now(); tag == etag && !expiry.Due(now, issued.RefreshAt) {
		return reply{unchanged: true}, nil
	}
	body, err := json.Marshal(answerOf(issued))
	return reply{body: body, etag: tag, date: now, received: now}, err
}

// issuer returns the issuer of one broker. The broker may have restarted just before, but not with
// a credential that its Pod has not received yet.
func (b *brokers) issuer() (*issuer.Issuer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.random.IntN(len(b.issuers))
	if b.issuers[n] != nil && (b.random.IntN(50) > 0 || b.provider.issuedWithin(15*time.Second)) {
		return b.issuers[n], nil
	}
	var err error
	b.issuers[n], err = issuer.New(issuer.Config{
		Clusters: objects{}, Secrets: objects{},
		Decorate: func(providers.Provider) providers.Provider { return b.provider },
	})
	return b.issuers[n], err
}

func answerOf(issued issuer.Issued) wire.ExecCredential {
	made := answer(issued.Token, issued.IssuedAt, time.Hour)
	made.Spec.Cluster.CertificateAuthorityData = issued.Endpoint.CertificateAuthority
	made.Spec.Cluster.Config.RefreshAt = issued.RefreshAt
	made.Status.ExpirationTimestamp = issued.NotAfter
	return made
}

var targetCluster = v1alpha1.TargetCluster{
	ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "tenant-1", UID: "c", Generation: 1},
	Spec: v1alpha1.TargetClusterSpec{
		Endpoint: &v1alpha1.Endpoint{Server: "https://203.0.113.7:6443", CertificateAuthorityData: []byte(fuzzCA)},
		Access:   v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "tenant-1"}},
		Issue:    v1alpha1.Issue{Type: v1alpha1.IssueAccess},
	},
}

// objects is a reader of the Secret that targetCluster names.
type objects struct{ client.Reader }

// Get implements client.Reader.
func (objects) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	secret, ok := object.(*corev1.Secret)
	if !ok {
		return fmt.Errorf("nobody should read %T %s", object, key)
	}
	secret.UID, secret.ResourceVersion = "s", "1"
	secret.Data = map[string][]byte{"value": []byte(`{"current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],
"clusters":[{"name":"a","cluster":{"server":"https://203.0.113.7:6443"}}],"users":[{"name":"a","user":{"token":"access"}}]}`)}
	return nil
}
