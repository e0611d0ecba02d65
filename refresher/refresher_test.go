package refresher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/refresher/cabundle"
	"github.com/keyferry/keyferry/refresher/fileset"
)

// inBubble runs test in a world with its own time.
func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

func TestRenewsInTimeAndPollsBetween(t *testing.T) {
	for name, skew := range map[string]time.Duration{"clocks agree": 0, "broker ahead": 3 * time.Hour, "broker behind": -3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.broker.skew, w.broker.life = skew, 10*time.Minute
				p := w.start()
				for range 60 {
					pass(time.Minute)
					if left := time.Until(w.state().NotAfter); left < 4*time.Minute || left > 10*time.Minute {
						t.Fatalf("the credential in the files lasts for %v", left)
					}
				}
				p.stop()
				if err := p.ended(); err != nil {
					t.Error(err)
				}
				if w.broker.issued < 10 || w.broker.issued > 12 {
					t.Errorf("%d credentials were issued in an hour, want one for each 5 minutes", w.broker.issued)
				}
				for i, at := range w.broker.asked[1:] {
					if wait := at.Sub(w.broker.asked[i]); wait > pollInterval {
						t.Errorf("nothing was asked for %v", wait)
					}
				}
				if got := len(w.broker.requests()) - w.broker.issued; got != w.broker.polls {
					t.Errorf("%d of %d polls were answered with a whole credential", got-w.broker.polls, got)
				}
			})
		})
	}
}

// TestOlderCredentialOfAnotherReplica: a replica of the broker that cannot reach the provider
// returns an old credential, which must not replace a newer one.
func TestOlderCredentialOfAnotherReplica(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.broker.life = 10 * time.Minute
		w.start()
		var older wire.ExecCredential
		var tag string
		w.broker.set(func() { older, tag = w.broker.current, w.broker.etag })
		pass(6 * time.Minute)
		if got := w.file("token"); got != "token-2" {
			t.Fatalf("the token is %q after a renewal", got)
		}
		w.broker.set(func() { w.broker.current, w.broker.etag, w.broker.stuck = older, tag, true })
		pass(2 * time.Minute)
		if got := w.file("token"); got != "token-2" {
			t.Errorf("the token is %q, which expires sooner", got)
		}
		w.broker.set(func() { w.broker.stuck = false })
		pass(pollInterval)
		if got := w.file("token"); got != "token-3" {
			t.Errorf("the token is %q, want the one that was issued", got)
		}
	})
}

// TestBrokersClockIsSet checks that no Pod, old or new, gets an expired credential, or many
// needless ones.
func TestBrokersClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{10 * time.Minute, -10 * time.Minute, 24 * time.Hour, -24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.broker.life = 10 * time.Minute
				w.start()
				pass(3 * time.Minute)
				w.broker.set(func() { w.broker.skew = by })
				before := w.config.CredentialsDir
				w.config.CredentialsDir = t.TempDir()
				w.start()
				for range 60 {
					pass(time.Minute)
					w.broker.set(func() {
						for _, dir := range []string{before, w.config.CredentialsDir} {
							files, err := fileset.Read(dir)
							if err != nil {
								t.Fatal(err)
							}
							if token := string(files[tokenFile]); token != w.broker.current.Status.Token && time.Since(w.broker.since) > pollInterval {
								t.Errorf("%s is there, though another was issued %v ago", token, time.Since(w.broker.since))
							}
						}
						if age := time.Since(w.broker.since); age > w.broker.life/2+pollInterval {
							t.Errorf("the last credential was issued %v ago", age)
						}
					})
				}
				if w.broker.issued < 10 || w.broker.issued > 15 {
					t.Errorf("%d credentials were issued in an hour, want one for each 5 minutes", w.broker.issued)
				}
			})
		})
	}
}

func TestFiles(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.broker.clusterUID = "uid-1"
		w.broker.server = newServer
		w.start()
		for name, want := range map[string]string{
			"token":      "token-1",
			"namespace":  "default",
			"ca.crt":     string(w.broker.ca),
			"env":        "KUBERNETES_SERVICE_HOST='::1'\nKUBERNETES_SERVICE_PORT='6443'\nKUBERNETES_SERVICE_PORT_HTTPS='6443'\n",
			"state.json": `{"endpoint":"https://[::1]:6443","notAfter":"2000-01-01T01:00:00Z","clusterUID":"uid-1"}`,
		} {
			if got := w.file(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	})
}

func TestNamespaceOfThePodWins(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.config.Namespace = "own"
		w.start()
		if got := w.file("namespace"); got != "own" {
			t.Errorf("namespace is %q", got)
		}
	})
}

func TestNewCAComesWithinAMinuteAndOverlaps(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.start()
		before, after := string(w.broker.ca), string(newCA(t))
		pass(10 * time.Minute)
		w.broker.set(func() { w.broker.ca = []byte(after) })
		pass(pollInterval)
		if got := w.file("ca.crt"); got != after+before {
			t.Errorf("a minute after the change, ca.crt is %q, want the new and the old certificate", got)
		}
		pass(cabundle.Overlap)
		if got := w.file("ca.crt"); got != after+before {
			t.Errorf("without a renewal, ca.crt became %q", got)
		}
		pass(time.Hour)
		if got := w.file("ca.crt"); got != after {
			t.Errorf("after a renewal, ca.crt is %q, want the new certificate only", got)
		}
	})
}

func TestMoveRestartsOnceTheNewEndpointAnswers(t *testing.T) {
	for name, status := range map[string]int{"version is shown": http.StatusOK, "version is for others": http.StatusForbidden} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				p := w.start()
				pass(10 * time.Minute)
				w.serveTarget("[::1]:6443", status)
				w.broker.set(func() { w.broker.server = newServer })
				pass(pollInterval)
				if err := p.ended(); !errors.Is(err, errRunning) {
					t.Fatalf("Run ended at once: %v", err)
				}
				if got := w.state().Endpoint; got != oldServer {
					t.Fatalf("before the restart, the files are for %s", got)
				}
				pass(w.config.RestartSpread)
				if err := p.ended(); !errors.Is(err, ErrRestart) {
					t.Fatalf("Run: %v, want ErrRestart", err)
				}
				if got := w.state().Endpoint; got != newServer {
					t.Errorf("the new files are for %s", got)
				}
				if got := w.terminationMessage(); !strings.Contains(got, "changed from "+oldServer+" to "+newServer) {
					t.Errorf("termination message: %q", got)
				}

				p = w.start()
				pass(time.Hour)
				if err := p.ended(); !errors.Is(err, errRunning) {
					t.Errorf("after the restart, Run ended: %v", err)
				}
			})
		})
	}
}

func TestWrongAddressRestartsNothing(t *testing.T) {
	tests := map[string]func(w *world){
		"nobody there":       func(*world) {},
		"token is not known": func(w *world) { w.serveTarget("[::1]:6443", http.StatusUnauthorized) },
		"server error":       func(w *world) { w.serveTarget("[::1]:6443", http.StatusBadGateway) },
		"redirect": func(w *world) {
			w.serve("[::1]:6443", http.RedirectHandler("https://example.com:6443/version", http.StatusFound))
			w.serveTarget("example.com:6443", http.StatusOK) // does not receive the credential
		},
		"certificate of others": func(w *world) { w.serveTarget("[::1]:6443", http.StatusOK); w.broker.ca = newCA(w.t) },
	}
	for name, serve := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.broker.life = 10 * time.Minute
				p := w.start()
				ca := w.broker.ca
				w.broker.set(func() { w.broker.server = newServer; serve(w) })
				pass(8 * time.Minute)
				if err := p.ended(); !errors.Is(err, errRunning) {
					t.Fatalf("Run ended: %v", err)
				}
				if got := w.state().Endpoint; got != oldServer {
					t.Errorf("the files are for %s", got)
				}
				if code, reason := p.healthz(); code != http.StatusOK {
					t.Errorf("unhealthy while the old credential lasts: %s", reason)
				}
				pass(3 * time.Minute)
				if code, reason := p.healthz(); code != http.StatusServiceUnavailable || !strings.Contains(reason, "ended at") {
					t.Errorf("healthz after the old credential's end: %d %s", code, reason)
				}

				w.broker.set(func() { w.broker.server, w.broker.ca = oldServer, ca })
				pass(maxBackOff)
				if left := time.Until(w.state().NotAfter); left < 4*time.Minute {
					t.Errorf("after the mistake was mended, the credential lasts for %v", left)
				}
			})
		})
	}
}

func TestMoveBackWithinTheSpreadRestartsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.start()
		w.serveTarget("[::1]:6443", http.StatusOK)
		w.broker.set(func() { w.broker.server = newServer })
		pass(pollInterval)
		if p.restartAt.IsZero() {
			t.Fatal("no restart is due")
		}
		w.broker.set(func() { w.broker.server = oldServer })
		pass(time.Hour)
		if err := p.ended(); !errors.Is(err, errRunning) {
			t.Errorf("Run ended: %v", err)
		}
	})
}

func TestRestartDoesNotWaitForAnEndedCredential(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.broker.life = 10 * time.Minute
		p := w.start()
		w.broker.set(func() { w.broker.server = newServer })
		pass(11 * time.Minute)
		w.serveTarget("[::1]:6443", http.StatusOK)
		pass(maxBackOff)
		if err := p.ended(); !errors.Is(err, ErrRestart) {
			t.Errorf("Run: %v, want ErrRestart", err)
		}
	})
}

func TestAnotherClusterBehindTheEndpointRestarts(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.serveTarget("127.0.0.1:6443", http.StatusOK)
		p := w.start()
		w.broker.set(func() { w.broker.clusterUID = "uid-1" })
		pass(time.Hour)
		w.broker.set(func() { w.broker.clusterUID = "" })
		pass(time.Hour)
		if err := p.ended(); !errors.Is(err, errRunning) {
			t.Fatalf("Run ended when the UID became known or unknown: %v", err)
		}
		w.broker.set(func() { w.broker.clusterUID = "uid-2" })
		pass(pollInterval + w.config.RestartSpread)
		if err := p.ended(); !errors.Is(err, ErrRestart) {
			t.Errorf("Run: %v, want ErrRestart", err)
		}
		if got := w.state().ClusterUID; got != "uid-2" {
			t.Errorf("the new files are of cluster %q", got)
		}
	})
}

func TestFilesOfAPredecessorCountAsInUse(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.start()
		p.stop()
		w.serveTarget("[::1]:6443", http.StatusOK)
		w.broker.set(func() { w.broker.server, w.broker.down = newServer, true })
		p = w.start()
		if code, reason := p.healthz(); code != http.StatusOK {
			t.Errorf("unhealthy with a valid credential of a predecessor: %s", reason)
		}
		w.broker.set(func() { w.broker.down = false })
		pass(pollInterval)
		if err := p.ended(); !errors.Is(err, errRunning) {
			t.Fatalf("Run ended at once: %v", err)
		}
		pass(w.config.RestartSpread)
		if err := p.ended(); !errors.Is(err, ErrRestart) {
			t.Errorf("Run: %v, want ErrRestart", err)
		}
	})
}

func TestFixedEnvironmentStaysWithItsEndpoint(t *testing.T) {
	changes := map[string]func(b *fakeBroker){
		"endpoint": func(b *fakeBroker) { b.server = newServer },
		"cluster":  func(b *fakeBroker) { b.clusterUID = "uid-2" },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.config.OnEndpointChange, w.config.RestartSpread, w.config.Endpoint = Ignore, 0, oldServer
				w.broker.clusterUID = "uid-1"
				w.serveTarget("[::1]:6443", http.StatusOK)
				p := w.start()
				pass(time.Hour)
				before := w.state()
				w.broker.set(func() { change(w.broker) })
				pass(pollInterval)
				if got := w.state(); got != before {
					t.Errorf("the files became those of %+v", got)
				}
				if code, reason := p.healthz(); code != http.StatusServiceUnavailable || !strings.Contains(reason, "recreate the Pod") {
					t.Errorf("healthz: %d %s", code, reason)
				}
				w.broker.set(func() { w.broker.server, w.broker.clusterUID = oldServer, "uid-1" })
				pass(pollInterval)
				if code, reason := p.healthz(); code != http.StatusOK {
					t.Errorf("unhealthy after the endpoint moved back: %s", reason)
				}
			})
		})
	}
}

func TestFixedEnvironmentOfAnotherEndpointGetsNoFiles(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.config.OnEndpointChange, w.config.Endpoint = Ignore, newServer
		w.start()
		if entries, err := os.ReadDir(w.config.CredentialsDir); err != nil || len(entries) != 0 {
			t.Errorf("%v (error %v) are there, want nothing", entries, err)
		}
		if got := w.terminationMessage(); !strings.Contains(got, "changed from "+newServer+" to "+oldServer) {
			t.Errorf("termination message: %q", got)
		}
	})
}

func TestKeepsTheLastGoodCredentialWhileTheBrokerIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.start()
		w.broker.set(func() { w.broker.down = true })
		pass(59 * time.Minute)
		if code, reason := p.healthz(); code != http.StatusOK || w.file("token") != "token-1" {
			t.Errorf("before the end: healthz %d %s, token %q", code, reason, w.file("token"))
		}
		asked := len(w.broker.requests())
		if lowest, highest := 59*60/30, 59*60*3/30; asked < lowest || asked > highest {
			t.Errorf("a broker that was down was asked %d times, want between %d and %d", asked, lowest, highest)
		}
		pass(2 * time.Minute)
		if code, _ := p.healthz(); code != http.StatusServiceUnavailable || w.file("token") != "token-1" {
			t.Errorf("after the end: healthz %d, token %q", code, w.file("token"))
		}
		if got := w.terminationMessage(); !strings.Contains(got, "no credential for TargetCluster fleet/tenant-1") {
			t.Errorf("termination message: %q", got)
		}
		w.broker.set(func() { w.broker.down = false })
		pass(maxBackOff)
		if code, reason := p.healthz(); code != http.StatusOK || w.file("token") != "token-2" {
			t.Errorf("after it came back: healthz %d %s, token %q", code, reason, w.file("token"))
		}
		if got := w.terminationMessage(); got != "" {
			t.Errorf("termination message after it came back: %q", got)
		}
	})
}

func TestRefusalAtTheStartIsTheTerminationMessage(t *testing.T) {
	const sentence = "system:serviceaccount:app:web may not use targetclusters.keyferry.dev tenant-1 in fleet"
	inBubble(t, func(t *testing.T, w *world) {
		w.broker.refuse, w.broker.message = http.StatusForbidden, sentence
		p := w.start()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := Wait(ctx, w.config.CredentialsDir, w.config.TerminationLog); err == nil || !strings.Contains(err.Error(), sentence) {
			t.Errorf("wait: %v", err)
		}
		if asked := len(w.broker.requests()); asked < 4 {
			t.Errorf("the broker was asked %d times in 30 s", asked)
		}
		p.stop()
		if err := p.ended(); err != nil {
			t.Error(err)
		}
		if got := w.terminationMessage(); !strings.Contains(got, sentence) {
			t.Errorf("termination message: %q", got)
		}
	})
}

func TestRetryAfterIsHonoredWithinReason(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.config.Jitter = func() float64 { return 0 }
		w.broker.refuse, w.broker.message, w.broker.retryAfter = http.StatusServiceUnavailable, "the provider is down", "10"
		w.start()
		pass(10*time.Second - 1)
		if asked := len(w.broker.requests()); asked != 1 {
			t.Errorf("asked %d times within Retry-After", asked)
		}
		w.broker.set(func() { w.broker.retryAfter = "3600" })
		pass(11*time.Second + maxBackOff)
		if asked := len(w.broker.requests()); asked < 3 {
			t.Errorf("asked %d times, want more than an hour's patience", asked)
		}
	})
}

func TestOwnIdentityIsReadAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.start()
		w.broker.set(func() { w.broker.identity = "identity-2" })
		w.writeIdentity("identity-2", append(newCA(t), w.broker.ca...))
		pass(pollInterval)
		if err := p.failure(); err != nil {
			t.Errorf("with new identity: %v", err)
		}
		w.writeIdentity("identity-2", newCA(t))
		pass(pollInterval)
		if err := p.failure(); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("with the CA of another: %v", err)
		}
		if err := os.Remove(filepath.Join(w.config.IdentityDir, tokenFile)); err != nil {
			t.Fatal(err)
		}
		pass(maxBackOff)
		if err := p.failure(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without a token: %v", err)
		}
	})
}

func TestSubjectTokenIsSentWhereThereIsOne(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		want := func(want string) {
			t.Helper()
			w.broker.set(func() {
				if w.broker.subject != want {
					t.Errorf("the subjectToken is %q, want %q", w.broker.subject, want)
				}
			})
		}
		p := w.start()
		want("")
		file := filepath.Join(w.config.IdentityDir, subjectTokenFile)
		for _, token := range []string{"subject-1", "subject-2"} {
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			pass(pollInterval)
			want(token)
		}
		if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
			t.Fatal(err)
		}
		pass(pollInterval)
		if err := p.failure(); err == nil || !strings.Contains(err.Error(), "for the target's provider") {
			t.Errorf("with one that cannot be read: %v", err)
		}
	})
}

func TestBrokerAddressIsDialedForTheNameOfTheBroker(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.config.BrokerAddress = "10.96.0.7"
		w.broker.ca = w.serve("10.96.0.7:443", w.broker)
		w.network.listeners["example.com:443"] = nil
		w.start()
		if got := w.file("token"); got != "token-1" {
			t.Errorf("token is %q", got)
		}
	})
}

// hang does not respond before the client disconnects. A server notices that only after it has read
// the request.
func hang(_ http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		<-r.Context().Done()
	}
}

// say returns a handler that responds with body.
func say(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

func TestBrokerThatMisbehaves(t *testing.T) {
	tests := map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"redirects":       {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, newServer, http.StatusFound) }, "302 Found"},
		"never ends":      {say(strings.Repeat(" ", maxBody+1)), "larger than"},
		"hangs":           {hang, "deadline exceeded"},
		"is no broker":    {say(`{"kind":"Pod"}`), "is --broker the broker?"},
		"speaks no JSON":  {say("<html>"), "decoding"},
		"unasked-for 304": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, "304"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.writeIdentity("identity-1", w.serve("example.com:443", test.answer))
				p := w.start()
				pass(requestTimeout)
				if err := p.failure(); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want one that says %q", err, test.want)
				}
				p.stop()
				if err := p.ended(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestStopsWhileTheBrokerHangs(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.writeIdentity("identity-1", w.serve("example.com:443", http.HandlerFunc(hang)))
		p := w.start()
		p.stop()
		start := time.Now()
		if err := p.ended(); err != nil || time.Since(start) > 0 {
			t.Errorf("Run: %v after %v", err, time.Since(start))
		}
		if got := w.terminationMessage(); got != "" {
			t.Errorf("termination message: %q", got)
		}
	})
}

func TestUnusableVolumeKeepsTheOldFiles(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.start()
		volume := w.config.CredentialsDir
		if err := errors.Join(os.Rename(volume, volume+".away"), os.WriteFile(volume, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		pass(31 * time.Minute)
		if err := p.failure(); err == nil || !strings.Contains(err.Error(), volume) {
			t.Errorf("error %v, want one that names the volume", err)
		}
		if err := errors.Join(os.Remove(volume), os.Rename(volume+".away", volume)); err != nil {
			t.Fatal(err)
		}
		pass(maxBackOff)
		if got := w.file("token"); got != "token-2" {
			t.Errorf("token is %q", got)
		}
	})
}
