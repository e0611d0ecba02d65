package credentials

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/clocktest"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/issuer"
)

// The tests of this file hold what is known to go wrong where a controller keeps tokens in Secrets.

// Defect 1: when the target changes, what was made in the old one stays behind, and its namesake in
// the new one is deleted.
func TestDefect01RetargetingCleansUpInTheOldCluster(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	old := w.token()
	handle := w.request.Status.Revocations[0].Handle

	// The new target has the same names, and another's Secret where the old one has the request's.
	second := newTarget(t, here, w.target.namespace)
	namesake := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: second.namespace, Name: strings.TrimPrefix(handle, second.namespace+"/")}}
	w.create(namesake)
	w.targetCluster("tenant-2", second)
	w.allow("web", "tenant-2")
	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.TargetCluster.Name = "tenant-2" })
	w.ready()

	if user, ok := second.knows(t, w.token()); !ok || user != "system:serviceaccount:"+second.namespace+":robot" {
		t.Errorf("to the new target the new token is %q's", user)
	}
	if _, ok := w.target.knows(t, old); ok {
		t.Error("the old target still accepts the old token")
	}
	left := &corev1.SecretList{}
	if err := w.target.client.List(t.Context(), left, client.InNamespace(w.target.namespace)); err != nil || len(left.Items) != 0 {
		t.Errorf("left behind in the old target: %d Secrets, %v", len(left.Items), err)
	}
	for _, target := range []*targetWorld{w.target, second} {
		if err := target.client.Get(t.Context(), client.ObjectKey{Namespace: target.namespace, Name: "robot"}, &corev1.ServiceAccount{}); err != nil {
			t.Errorf("the ServiceAccount, which was not the request's: %v", err)
		}
	}
	if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(namesake), &corev1.Secret{}); err != nil {
		t.Errorf("the namesake in the new target: %v", err)
	}
	if got := w.request.Status.Revocations; len(got) != 1 || got[0].TargetCluster.Name != "tenant-2" {
		t.Errorf("noted to be revoked: %+v", got)
	}
}

// Defect 2: the user names any remote service account, and an existing one is adopted.
func TestDefect02NobodyChoosesOrAdoptsARemoteServiceAccount(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	cluster := &v1alpha1.TargetCluster{}
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: w.fleet, Name: "tenant-1"}, cluster); err != nil {
		t.Fatal(err)
	}
	cluster.Spec.Issue.TokenRequest.Create = true // robot is there, and was made by somebody else
	w.update(cluster)
	w.look()
	if message := w.condition(v1alpha1.ConditionIssued, metav1.ConditionFalse, issuer.ReasonRefused); !strings.Contains(message, "Keyferry did not create it for this TargetCluster") {
		t.Errorf("message %q", message)
	}
	if w.secret(w.request) != nil || w.minted.Load() != 0 {
		t.Error("a token of it was issued")
	}
}

// Defect 3: a Secret in any namespace is written, and deleted at the end.
func TestDefect03OnlyItsOwnSecretsAreWrittenAndDeleted(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(*corev1.Secret)
		message string
	}{
		"somebody's":           {func(*corev1.Secret) {}, "was not created by this CredentialRequest"},
		"labelled for another": {func(s *corev1.Secret) { s.Labels = map[string]string{v1alpha1.LabelCredentialRequest: "other"} }, "was not created by this CredentialRequest"},
		"controlled by another": {func(s *corev1.Secret) {
			s.Labels = map[string]string{v1alpha1.LabelCredentialRequest: "web"}
			yes := true
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "1", Controller: &yes}}
		}, "belongs to ConfigMap x"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, v1alpha1.CredentialTokenFile)
			secret := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: w.request.Spec.Secret.Name},
				Data:       map[string][]byte{"precious": []byte("data")},
			}
			tt.change(secret)
			w.create(secret)
			w.look()
			message := w.condition(v1alpha1.ConditionSecretWritten, metav1.ConditionFalse, reasonSecretConflict)
			if !strings.Contains(message, tt.message) || !strings.Contains(message, "keyferry.dev/credential-request=web") {
				t.Errorf("message %q", message)
			}
			if w.minted.Load() != 0 {
				t.Error("a token was issued for it")
			}
			w.delete(w.request)
			w.look()
			if after := w.secret(w.request); after == nil || after.ResourceVersion != secret.ResourceVersion {
				t.Errorf("the Secret became %+v", after)
			}
		})
	}
}

func TestLabelledSecretIsTakenOver(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialArgoCD)
	w.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.ns, Name: w.request.Spec.Secret.Name,
			Labels: map[string]string{v1alpha1.LabelCredentialRequest: "web", "mine": "yes"},
		},
		Data: map[string][]byte{"project": []byte("a"), "config": []byte("{}")},
	})
	w.ready()
	secret := w.secret(w.request)
	if string(secret.Data["project"]) != "a" || secret.Labels["mine"] != "yes" || string(secret.Data["config"]) == "{}" || !metav1.IsControlledBy(secret, w.request) {
		t.Errorf("data %d keys, labels %v, owners %v", len(secret.Data), secret.Labels, secret.OwnerReferences)
	}
	// With another name, the former Secret goes.
	former := client.ObjectKeyFromObject(secret)
	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Secret.Name = "another" })
	w.ready()
	if err := w.client.Get(t.Context(), former, &corev1.Secret{}); !apierrors.IsNotFound(err) {
		t.Errorf("the former Secret: %v", err)
	}
	if w.minted.Load() != 1 {
		t.Errorf("%d issued, want the same credential in the new Secret", w.minted.Load())
	}
}

// Defect 4: two requests share a remote service account; deleting one kills the other's tokens.
func TestDefect04SharedServiceAccountSurvives(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	first := w.token()
	other := w.newRequest("other", v1alpha1.CredentialTokenFile)
	w.create(other)
	w.reconcile(other)
	second := string(w.secret(other).Data[injector.TokenFileToken])

	w.delete(w.request)
	w.look()
	if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(w.request), w.request); !apierrors.IsNotFound(err) {
		t.Errorf("the deleted request: %v", err)
	}
	if _, ok := w.target.knows(t, first); ok {
		t.Error("the token of the deleted request is still accepted")
	}
	if _, ok := w.target.knows(t, second); !ok {
		t.Error("the other request's token is no longer accepted")
	}
	if err := w.target.client.Get(t.Context(), client.ObjectKey{Namespace: w.target.namespace, Name: "robot"}, &corev1.ServiceAccount{}); err != nil {
		t.Errorf("the ServiceAccount: %v", err)
	}
}

// Defect 5: with a clock that is ahead the time until the renewal is negative, and it is never
// renewed again.
func TestDefect05ClockSkew(t *testing.T) {
	t.Run("far ahead", func(t *testing.T) {
		w := newWorld(t, v1alpha1.CredentialTokenFile)
		w.now = w.now.Add(3 * time.Hour) // the token, which lives for an hour, is one of the past
		if after := w.look(); after <= 0 || after >= time.Hour {
			t.Errorf("looks again after %s", after)
		}
		w.ready()
		if life := w.request.Status.ExpirationTimestamp.Sub(w.now); life <= 0 || life > time.Hour {
			t.Errorf("by our clock, it lives for %s", life)
		}
		w.now = w.now.Add(-3 * time.Hour)
		w.restart()
		w.ready()
	})
	t.Run("jumps ahead, then back", func(t *testing.T) {
		w := newWorld(t, v1alpha1.CredentialTokenFile)
		w.now = w.now.Add(30 * time.Minute)
		w.ready()
		w.now = w.now.Add(-30 * time.Minute) // the times in the Secret are in the future
		w.ready()
		if w.minted.Load() != 2 || !w.request.Status.IssuedAt.Time.Equal(w.now) {
			t.Errorf("%d issued, the last at %s, now %s", w.minted.Load(), w.request.Status.IssuedAt, w.now)
		}
		w.ready()
		if w.minted.Load() != 2 {
			t.Error("it is issued anew each time")
		}
	})
	t.Run("behind", func(t *testing.T) {
		w := newWorld(t, v1alpha1.CredentialTokenFile)
		w.now = w.now.Add(-2 * time.Hour)
		w.ready()
		// By the clock here the token ends in three hours; it lives for one.
		if renew := w.request.Status.RenewAt.Sub(w.now); renew > 48*time.Minute {
			t.Errorf("renews after %s", renew)
		}
	})
	t.Run("is set while it runs", func(t *testing.T) {
		w := newWorld(t, v1alpha1.CredentialTokenFile)
		w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Duration = &metav1.Duration{Duration: 30 * time.Minute} })
		clock := clocktest.New()
		for i, step := range []struct {
			pass, set time.Duration
			want      int32 // issued, in all
		}{
			{0, 0, 1},
			{12 * time.Minute, -10 * time.Minute, 1},
			{11 * time.Minute, 0, 1},
			{time.Minute, 0, 2}, // 24 minutes, which leave a fifth of its life
			{10 * time.Minute, 10 * time.Minute, 2},
			{0, 24 * time.Hour, 3},
			{time.Minute, 0, 3},
			{time.Minute, -24 * time.Hour, 4}, // it is of tomorrow
			{time.Minute, 0, 4},
		} {
			clock.Pass(step.pass)
			clock.Set(step.set)
			w.now = clock.Now()
			w.ready()
			if got := w.minted.Load(); got != step.want {
				t.Errorf("after step %d, %d were issued, want %d", i, got, step.want)
			}
		}
	})
}

// Defect 6: a deleted Secret comes back empty, an edited one is never corrected.
func TestDefect06DeletedOrEditedSecretIsRestored(t *testing.T) {
	edits := map[string]func(*corev1.Secret){
		"token":      func(s *corev1.Secret) { s.Data[injector.TokenFileToken] = []byte("wrong") },
		"host":       func(s *corev1.Secret) { s.Data[injector.TokenFileHost] = []byte("evil.example") },
		"emptied":    func(s *corev1.Secret) { s.Data = nil },
		"annotation": func(s *corev1.Secret) { s.Annotations = nil },
		"label":      func(s *corev1.Secret) { s.Labels = nil },
		"owner":      func(s *corev1.Secret) { s.OwnerReferences = nil },
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, v1alpha1.CredentialTokenFile)
			w.ready()
			secret := w.secret(w.request)
			want := secret.DeepCopy()
			edit(secret)
			w.update(secret)
			w.ready()
			if got := w.secret(w.request); !stored.Same(got, want) {
				t.Error("the Secret is not as it was")
			}
			if w.minted.Load() != 1 {
				t.Errorf("%d issued, want the same credential again", w.minted.Load())
			}
		})
	}
	t.Run("edited while nobody looked", func(t *testing.T) {
		w := newWorld(t, v1alpha1.CredentialTokenFile)
		w.ready()
		secret := w.secret(w.request)
		secret.Data[injector.TokenFileToken] = []byte("wrong")
		w.update(secret)
		w.restart()
		w.ready()
		if _, ok := w.target.knows(t, w.token()); !ok {
			t.Error("the Secret does not hold a token that is accepted")
		}
	})
	t.Run("deleted", func(t *testing.T) {
		w := newWorld(t, v1alpha1.CredentialTokenFile)
		w.ready()
		first := w.token()
		w.delete(w.secret(w.request))
		w.ready()
		if w.token() != first || w.minted.Load() != 1 {
			t.Error("what is deleted at once is issued anew each time")
		}
		w.now = w.now.Add(2 * time.Minute)
		w.delete(w.secret(w.request))
		w.ready()
		if _, ok := w.target.knows(t, w.token()); !ok || w.token() == first {
			t.Errorf("accepted %t, another one %t", ok, w.token() != first)
		}
	})
	t.Run("deleted while the target is down", func(t *testing.T) {
		w := newWorld(t, v1alpha1.CredentialTokenFile)
		w.ready()
		first := w.token()
		w.now = w.now.Add(2 * time.Minute)
		w.delete(w.secret(w.request))
		target := w.target.config.Host
		w.lead(w.target, target)
		w.cfg.Issuer = downIssuer{w.cfg.Issuer}
		w.it.cfg.Issuer = w.cfg.Issuer
		w.look()
		if w.secret(w.request) == nil || w.token() != first {
			t.Error("the credential that still lives was not put back")
		}
	})
}

// Defect 7: a change waits for the next rotation.
func TestDefect07ChangesActAtOnce(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	first := w.token()

	w.change(func(s *v1alpha1.CredentialRequestSpec) {
		s.Secret.Labels, s.Secret.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	})
	w.ready()
	if s := w.secret(w.request); s.Labels["a"] != "b" || s.Annotations["c"] != "d" || string(s.Data[injector.TokenFileToken]) != first {
		t.Errorf("labels %v; the same token: %t", s.Labels, string(s.Data[injector.TokenFileToken]) == first)
	}
	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Secret.Labels, s.Secret.Annotations = nil, nil })
	w.ready()
	if s := w.secret(w.request); s.Labels["a"] != "" || s.Annotations["c"] != "" || string(s.Data[injector.TokenFileToken]) != first {
		t.Errorf("labels %v; the same token: %t", s.Labels, string(s.Data[injector.TokenFileToken]) == first)
	}

	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Duration = &metav1.Duration{Duration: 20 * time.Minute} })
	w.ready()
	if life := w.request.Status.ExpirationTimestamp.Sub(w.now); life > 20*time.Minute {
		t.Errorf("lives for %s", life)
	}

	w.change(func(s *v1alpha1.CredentialRequestSpec) {
		s.Type = v1alpha1.CredentialKubeconfig
		s.Secret.Key = "value"
	})
	w.ready()
	if s := w.secret(w.request); len(s.Data) != 1 || len(s.Data["value"]) == 0 {
		t.Errorf("%d keys after the change of type", len(s.Data))
	}

	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Type = v1alpha1.CredentialTokenFile; s.Secret.Key = "" })
	w.ready()
	ca := string(w.secret(w.request).Data[injector.TokenFileCertificateAuthority])
	both := &targetWorld{config: there, client: w.target.client, namespace: w.target.namespace}
	bundle := *there
	bundle.CAData = append(append([]byte{}, there.CAData...), here.CAData...)
	both.config = &bundle
	host := strings.Replace(there.Host, "127.0.0.1", "localhost", 1)
	w.lead(both, host)
	w.ready()
	if s := w.secret(w.request); string(s.Data[injector.TokenFileCertificateAuthority]) == ca || string(s.Data[injector.TokenFileHost]) != "localhost" {
		t.Errorf("CA changed: %t, host %q", string(s.Data[injector.TokenFileCertificateAuthority]) != ca, s.Data[injector.TokenFileHost])
	}
}

// A typo in the address must not take away what works.
func TestNewAddressActsOnlyOnceItAnswers(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	before := w.secret(w.request)
	w.lead(w.target, deadAddress(t))
	w.look()
	message := w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, issuer.ReasonUnavailable)
	if !strings.Contains(message, "the credential in the Secret expires at") {
		t.Errorf("message %q", message)
	}
	if after := w.secret(w.request); after.ResourceVersion != before.ResourceVersion {
		t.Error("the Secret was written")
	}
}

// Defect 8: a duration that the server shortens never equals the spec, so every look issues again.
func TestDefect08ClampedDurationDoesNotLoop(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	cluster := &v1alpha1.TargetCluster{}
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: w.fleet, Name: "tenant-1"}, cluster); err != nil {
		t.Fatal(err)
	}
	cluster.Spec.Issue.TokenRequest.Duration = &metav1.Duration{Duration: 48 * time.Hour}
	w.update(cluster)
	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Duration = &metav1.Duration{Duration: 24 * time.Hour} })
	w.ready()
	status := w.request.Status
	if life := status.ExpirationTimestamp.Sub(w.now); life > testenv.MaxTokenLife {
		t.Errorf("said to live for %s", life)
	}
	if renew, want := status.RenewAt.Sub(w.now), testenv.MaxTokenLife/10*8; renew > want || renew < want-time.Minute {
		t.Errorf("renews after %s, want %s, from what was granted", renew, want)
	}
	for range 5 {
		w.now = w.now.Add(time.Minute)
		w.ready()
	}
	if w.minted.Load() != 1 {
		t.Errorf("%d issued", w.minted.Load())
	}
}

// Defect 10: tokens are issued before the Secret can be written, so that errors of writing have
// more and more of them issued.
func TestDefect10NothingIsIssuedBeforeTheSecretCanBeWritten(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.refuseSecrets()
	w.look()
	if message := w.condition(v1alpha1.ConditionSecretWritten, metav1.ConditionFalse, reasonSecretRejected); !strings.Contains(message, "no more Secrets") {
		t.Errorf("message %q", message)
	}
	w.condition(v1alpha1.ConditionIssued, metav1.ConditionUnknown, reasonNotTried)
	if w.minted.Load() != 0 {
		t.Error("issued, and could not be written")
	}

	// What was issued and could not be written after all is written later, and not issued again.
	w = newWorld(t, v1alpha1.CredentialTokenFile)
	refusals := 3
	w.intercept = func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodPost && strings.HasSuffix(req.URL.Path, "/secrets") && !strings.Contains(req.URL.RawQuery, "dryRun") && refusals > 0 {
			refusals--
			return &http.Response{StatusCode: http.StatusConflict, Body: http.NoBody, Request: req, Header: http.Header{}}, nil
		}
		return nil, nil
	}
	w.ready()
	if refusals != 0 || w.minted.Load() != 1 {
		t.Errorf("%d refusals to come, %d issued", refusals, w.minted.Load())
	}
}

// Defect 11: an unreachable target keeps a request from being deleted for ever.
func TestDefect11UnreachableTargetDelaysDeletionOnly(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	w.told()
	w.lead(w.target, deadAddress(t))
	w.delete(w.request)
	w.look()
	message := w.condition(v1alpha1.ConditionRevoked, metav1.ConditionFalse, issuer.ReasonUnavailable)
	if !strings.Contains(message, "Keyferry tries again until") || !strings.Contains(message, w.request.Status.Revocations[0].Handle) {
		t.Errorf("message %q", message)
	}
	if told := w.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Warning "+issuer.ReasonUnavailable) {
		t.Errorf("Events %q", told)
	}
	w.now = w.now.Add(w.cfg.RevocationTimeout)
	w.look()
	if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(w.request), w.request); !apierrors.IsNotFound(err) {
		t.Errorf("the request is still there: %v", err)
	}
	if told := w.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Warning "+v1alpha1.EventRevocationGivenUp) {
		t.Errorf("Events %q", told)
	}
}

func TestDeletedTargetClusterDelaysNothing(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	w.delete(&v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: "tenant-1"}})
	w.look()
	w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, reasonTargetNotFound)
	w.delete(w.request)
	w.look()
	if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(w.request), w.request); !apierrors.IsNotFound(err) {
		t.Errorf("the request is still there: %v", err)
	}
}

// A target that cannot be reached keeps neither the new one from being used, nor is it forgotten.
func TestRetargetingFromAnUnreachableTarget(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	old := w.token()
	w.lead(w.target, deadAddress(t))
	second := newTarget(t, here, w.target.namespace)
	w.targetCluster("tenant-2", second)
	w.allow("web", "tenant-2")
	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.TargetCluster.Name = "tenant-2" })
	w.ready()
	w.condition(v1alpha1.ConditionRevoked, metav1.ConditionFalse, issuer.ReasonUnavailable)

	w.restart()
	w.lead(w.target, there.Host)
	w.ready()
	if _, ok := w.target.knows(t, old); ok {
		t.Error("the old token is still accepted, though its target can be reached again")
	}
	if len(w.request.Status.Revocations) != 1 {
		t.Errorf("noted to be revoked: %+v", w.request.Status.Revocations)
	}
}

// Defect 12: of a token that lives for ten minutes, two are left when it is replaced.
func TestDefect12ShortLivesLeaveFiveMinutes(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Duration = &metav1.Duration{Duration: 10 * time.Minute} })
	w.ready()
	status := w.request.Status
	if left := status.ExpirationTimestamp.Sub(status.RenewAt.Time); left < 5*time.Minute {
		t.Errorf("%s are left", left)
	}
}

func TestRenewal(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	first, renew := w.token(), w.request.Status.RenewAt.Time
	w.now = renew.Add(-10 * time.Second)
	if after := w.look(); after != 10*time.Second || w.minted.Load() != 1 {
		t.Errorf("shortly before it is due: %d issued, looks again after %s", w.minted.Load(), after)
	}
	w.now = renew
	w.ready()
	if w.token() == first || !w.request.Status.IssuedAt.Time.Equal(renew) {
		t.Errorf("issued at %s, due at %s", w.request.Status.IssuedAt, renew)
	}
	for _, token := range []string{first, w.token()} {
		if _, ok := w.target.knows(t, token); !ok {
			t.Error("a token that clients have is not accepted")
		}
	}
}
