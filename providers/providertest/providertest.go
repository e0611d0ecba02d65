// Package providertest holds a Provider to the contract of package providers.
package providertest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyferry/keyferry/providers"
)

// Suite makes a Provider in the states that Run looks at. A nil function stands for a state that
// the provider cannot be in.
type Suite struct {
	// New returns a Provider whose service works, and that shares nothing with others that it
	// returned.
	New func(t *testing.T) providers.Provider

	// NotFound, Refused and Unavailable return a Provider whose service fails that way, with messages
	// and headers that repeat the Secrets where the protocol has room for them.
	NotFound    func(t *testing.T) providers.Provider
	Refused     func(t *testing.T) providers.Provider
	Unavailable func(t *testing.T) providers.Provider
	// RetryAfter is what the service of Unavailable asks for.
	RetryAfter time.Duration

	// Hanging returns a Provider whose service never answers, and a channel that is closed when it was
	// asked.
	Hanging func(t *testing.T) (providers.Provider, <-chan struct{})

	// Secrets are what the Providers were given and what their services send: nothing of it may be in
	// an error.
	Secrets []string

	// Request is what is asked for.
	Request providers.Request
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Run("issues what can be used", s.issues)
	t.Run("may be used concurrently", s.concurrently)
	t.Run("ends with its context", s.ends)
	t.Run("shares under a stable key", s.shares)
	t.Run("instances are independent", s.independent)
	for _, failure := range []struct {
		name string
		new  func(*testing.T) providers.Provider
		want error
	}{
		{"not found", s.NotFound, providers.ErrNotFound},
		{"refused", s.Refused, providers.ErrRefused},
		{"unavailable", s.Unavailable, providers.ErrUnavailable},
	} {
		if failure.new == nil {
			continue
		}
		t.Run(failure.name, func(t *testing.T) {
			_, err := failure.new(t).Issue(t.Context(), s.Request)
			s.checkError(t, err, failure.want)
			if errors.Is(failure.want, providers.ErrUnavailable) && providers.RetryAfter(err) != s.RetryAfter {
				t.Errorf("RetryAfter(%v) = %v, want %v", err, providers.RetryAfter(err), s.RetryAfter)
			}
		})
	}
}

func (s Suite) issues(t *testing.T) {
	credential, err := s.New(t).Issue(t.Context(), s.Request)
	if err != nil {
		t.Fatal(err)
	}
	checkCredential(t, credential)
}

func (s Suite) concurrently(t *testing.T) {
	provider := s.New(t)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			credential, err := provider.Issue(t.Context(), s.Request)
			if err != nil {
				t.Error(err)
				return
			}
			checkCredential(t, credential)
		})
	}
	all.Wait()
}

func (s Suite) ends(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.New(t).Issue(ended, s.Request)
	s.checkError(t, err, providers.ErrUnavailable)

	if s.Hanging == nil {
		return
	}
	provider, asked := s.Hanging(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	_, err = provider.Issue(ctx, s.Request)
	s.checkError(t, err, providers.ErrUnavailable)
	if ctx.Err() == nil {
		t.Error("gave up before its context ended")
	}
}

func (s Suite) shares(t *testing.T) {
	key := providers.ShareKey(s.New(t), s.Request)
	if again := providers.ShareKey(s.New(t), s.Request); again != key {
		t.Errorf("share key is %q, then %q", key, again)
	}
	s.checkSecrets(t, "share key", key)
	if s.Request.SubjectToken != "" && strings.Contains(key, s.Request.SubjectToken) {
		t.Error("share key holds the subject token")
	}
}

func (s Suite) independent(t *testing.T) {
	one := s.New(t)
	if _, err := one.Issue(t.Context(), s.Request); err != nil {
		t.Fatal(err)
	}
	for _, failing := range []func(*testing.T) providers.Provider{s.NotFound, s.Refused, s.Unavailable} {
		if failing == nil {
			continue
		}
		if _, err := failing(t).Issue(t.Context(), s.Request); err == nil {
			t.Error("took over the success of another instance")
		}
		credential, err := one.Issue(t.Context(), s.Request)
		if err != nil {
			t.Fatalf("took over the failure of another instance: %v", err)
		}
		checkCredential(t, credential)
	}
}

func checkCredential(t *testing.T, c providers.Credential) {
	t.Helper()
	if !c.NotAfter.After(time.Now()) {
		t.Errorf("NotAfter is %v, want it set and in the future", c.NotAfter)
	}
	token, certificate := c.Token != "", len(c.ClientCertificate) > 0
	if token == certificate || certificate != (len(c.ClientKey) > 0) {
		t.Error("want either a token, or a certificate and its key")
	}
}

func (s Suite) checkError(t *testing.T, err, want error) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that is %q", want)
	}
	for _, class := range []error{providers.ErrNotFound, providers.ErrRefused, providers.ErrUnavailable} {
		if errors.Is(err, class) != errors.Is(want, class) {
			t.Errorf("error %q: is %q = %v", err, class, errors.Is(err, class))
		}
	}
	s.checkSecrets(t, "error", err.Error())
}

func (s Suite) checkSecrets(t *testing.T, what, text string) {
	t.Helper()
	for _, secret := range s.Secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%s holds a secret: %q", what, text)
		}
	}
}
