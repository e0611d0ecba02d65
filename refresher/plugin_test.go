package refresher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/clocktest"
	"github.com/keyferry/keyferry/providers"
)

// fakePlugin issues tokens with a lifetime of an hour, unless it fails.
type fakePlugin struct {
	mu          sync.Mutex
	runs        int
	err         error
	certificate providers.Credential // instead of a token, if set
	told        wire.Cluster
}

func (p *fakePlugin) issue(_ context.Context, cluster wire.Cluster) (providers.Credential, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs++
	p.told = cluster
	if p.err != nil {
		return providers.Credential{}, p.err
	}
	issued := p.certificate
	if issued.ClientCertificate == nil {
		issued.Token = fmt.Sprintf("plugin-%d", p.runs)
	}
	issued.NotAfter = time.Now().Add(time.Hour)
	return issued, nil
}

func (p *fakePlugin) ran() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs
}

// fail makes the plugin fail with err; nil makes it work again.
func (p *fakePlugin) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// withPlugin runs test with a broker that leaves the issuing to a plugin. The broker's responses
// are due for renewal only after a day.
func withPlugin(test func(t *testing.T, w *world, p *fakePlugin)) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		p := &fakePlugin{}
		w.broker.inPod, w.broker.life = true, 48*time.Hour
		w.config.Plugin = p.issue
		test(t, w, p)
	}
}

func TestPluginIssues(t *testing.T) {
	inBubble(t, withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
		start := time.Now()
		r := w.start()
		if got := w.file(tokenFile); got != "plugin-1" {
			t.Errorf("the token is %q", got)
		}
		if p.told.Server != oldServer || w.state().Endpoint != oldServer {
			t.Errorf("the plugin was told %+v, the application %+v", p.told, w.state())
		}
		if got := w.state().NotAfter.Sub(start); got != time.Hour {
			t.Errorf("the credential ends in %v", got)
		}
		// 48 minutes of an hour: by then the broker has been asked each minute, and the plugin not at
		// all.
		pass(47 * time.Minute)
		if p.ran() != 1 || w.broker.unchanged() < 47 {
			t.Errorf("%d runs, %d polls", p.ran(), w.broker.unchanged())
		}
		pass(3 * time.Minute)
		if got := w.file(tokenFile); p.ran() != 2 || got != "plugin-2" {
			t.Errorf("after 50 minutes and %d runs, the token is %q", p.ran(), got)
		}
		r.stop()
	}))
}

// TestPluginRunsAfterASuspension: after a suspension, the credential has expired by one clock, and
// hardly any time has passed by the other.
func TestPluginRunsAfterASuspension(t *testing.T) {
	withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
		r, err := New(w.config)
		if err != nil {
			t.Fatal(err)
		}
		turn := func() {
			if _, err := r.turn(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		}
		turn()
		turn()
		if p.ran() != 1 {
			t.Fatalf("%d runs at the start", p.ran())
		}
		clock := clocktest.New()
		clock.Set(-time.Hour)
		r.refreshAt = clock.Now().Add(48 * time.Minute)
		turn()
		turn()
		if p.ran() != 2 || w.file(tokenFile) != "plugin-2" {
			t.Errorf("%d runs, the token is %s", p.ran(), w.file(tokenFile))
		}
	})(t, newWorld(t))
}

func TestPluginThatFailsTakesNothingAway(t *testing.T) {
	inBubble(t, withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
		r := w.start()
		p.fail(errors.New("plugin /aws: exit status 1: it says: no such role"))
		pass(50 * time.Minute)
		if code, _ := r.healthz(); w.file(tokenFile) != "plugin-1" || code != http.StatusOK {
			t.Errorf("the token is %q, healthz %d", w.file(tokenFile), code)
		}
		if got := w.terminationMessage(); !strings.Contains(got, "TargetCluster fleet/tenant-1") || !strings.Contains(got, "no such role") {
			t.Errorf("the termination message is %q", got)
		}
		pass(11 * time.Minute)
		if code, why := r.healthz(); code == http.StatusOK || !strings.Contains(why, "no such role") {
			t.Errorf("after the end, healthz is %d: %s", code, why)
		}
		p.fail(nil)
		pass(time.Minute)
		if code, why := r.healthz(); code != http.StatusOK {
			t.Errorf("the plugin works again, healthz is %d: %s", code, why)
		}
		r.stop()
	}))
}

// TestPluginRunsOnlyWhileTheBrokerLetsIt checks that the plugin issues nothing for a Pod that lost
// its access.
func TestPluginRunsOnlyWhileTheBrokerLetsIt(t *testing.T) {
	inBubble(t, withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
		r := w.start()
		w.broker.set(func() { w.broker.refuse, w.broker.message = http.StatusForbidden, "may not use" })
		pass(2 * time.Hour)
		if p.ran() != 1 {
			t.Errorf("it ran %d times", p.ran())
		}
		if code, why := r.healthz(); code == http.StatusOK || !strings.Contains(why, "may not use") {
			t.Errorf("healthz is %d: %s", code, why)
		}
		r.stop()
	}))
}

func TestPluginRunsAnewForAnotherEndpoint(t *testing.T) {
	inBubble(t, withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
		ca := w.broker.ca
		r := w.start()
		w.broker.set(func() { w.broker.ca = append(newCA(t), ca...) })
		pass(time.Minute)
		if p.ran() != 2 || w.file(tokenFile) != "plugin-2" || !strings.Contains(w.file(caFile), string(ca)) {
			t.Errorf("%d runs, token %q", p.ran(), w.file(tokenFile))
		}
		r.stop()
	}))
}

func TestPluginThatIsThereOnOneSideOnly(t *testing.T) {
	for name, test := range map[string]struct {
		inPod, plugin bool
		want          string
	}{
		"Pod without":   {true, false, "TargetCluster fleet/tenant-1 now needs a plugin in the Pod: recreate the Pod"},
		"Pod with":      {false, true, "TargetCluster fleet/tenant-1 no longer needs a plugin in the Pod: recreate the Pod"},
		"both have one": {true, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
				w.broker.inPod = test.inPod
				if !test.plugin {
					w.config.Plugin = nil
				}
				r := w.start()
				if got := w.terminationMessage(); !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
					t.Errorf("the termination message is %q", got)
				}
				if test.want != "" && p.ran() > 0 {
					t.Error("it ran nevertheless")
				}
				r.stop()
			}))
		})
	}
}

func TestPluginOfCertificates(t *testing.T) {
	inBubble(t, withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
		certificate, key := newPair(t)
		p.certificate = providers.Credential{ClientCertificate: []byte(certificate), ClientKey: []byte(key)}
		r := w.start()
		if got := w.terminationMessage(); !strings.Contains(got, "the credential is a client certificate") || !strings.Contains(got, "keyferry.dev/delivery") {
			t.Errorf("the termination message is %q", got)
		}
		r.stop()
	}))
	inProxyBubble(t, withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
		certificate, key := newPair(t)
		p.certificate = providers.Credential{ClientCertificate: []byte(certificate), ClientKey: []byte(key)}
		r := w.start()
		if got := string(r.local.target.Certificate); got != certificate {
			t.Errorf("the proxy presents %q", got)
		}
		r.stop()
	}))
}

// TestPluginRunsAnewWhenTheProxyAsks checks that the plugin runs at once if the target rejects the
// credential, which the broker does not know.
func TestPluginRunsAnewWhenTheProxyAsks(t *testing.T) {
	inProxyBubble(t, withPlugin(func(t *testing.T, w *world, p *fakePlugin) {
		r := w.start()
		r.local.renew(t.Context(), true)
		if synctest.Wait(); p.ran() != 2 || r.local.target.Token != "plugin-2" {
			t.Errorf("%d runs, the token is %q", p.ran(), r.local.target.Token)
		}
		if refused := w.broker.toldRefused(); len(refused) > 0 {
			t.Errorf("the broker is told that %q is refused, which it has not issued", refused)
		}
		r.stop()
	}))
}

func TestClusterProfileHasARouteOfItsOwn(t *testing.T) {
	b, err := newBroker(Config{Broker: brokerURL, ClusterProfile: "fleet/paris"}, nil)
	if want := brokerURL + wire.ClusterProfilePath("fleet", "paris"); err != nil || b.url != want {
		t.Errorf("asks %s (%v), want %s", b.url, err, want)
	}
	for want, config := range map[string]Config{
		"exclude each other":                 {Broker: brokerURL, Target: "fleet/tenant-1", ClusterProfile: "fleet/paris"},
		`--cluster-profile "paris": use`:     {Broker: brokerURL, ClusterProfile: "paris"},
		`--target "": use NAMESPACE/NAME of`: {Broker: brokerURL},
	} {
		if _, err := newBroker(config, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestPluginCluster checks that a plugin receives the CA of the cluster, but not all public CAs,
// which are too long for a variable.
func TestPluginCluster(t *testing.T) {
	cluster := wire.Cluster{Server: oldServer, CertificateAuthorityData: []byte("CA")}
	if got := pluginCluster(cluster); string(got.CertificateAuthorityData) != "CA" || got.Server != oldServer {
		t.Errorf("got %+v", got)
	}
	cluster.Config.SystemRoots = true
	if got := pluginCluster(cluster); got.CertificateAuthorityData != nil || got.Server != oldServer {
		t.Errorf("got %+v, want no CA", got)
	}
}
