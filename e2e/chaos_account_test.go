//go:build long

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/audit"
	"github.com/keyferry/keyferry/e2e/chaos"
)

// account reads what came of it: from the logs that the node kept, the target's audit log, and the
// Pods.
func (w *chaosWorld) account(t *testing.T, report *chaos.Report, begin time.Time) {
	t.Helper()
	renewals := map[string][]chaos.Renewal{}
	issued := map[string]bool{}
	err := suite.pair.Management.Logs(t.Context(), func(path string, log []byte) error {
		pod, container, _ := strings.Cut(path, "/")
		switch container, _, _ = strings.Cut(container, "/"); {
		case strings.HasPrefix(pod, w.namespace+"_chaos-") && container == "client":
			chaos.Account(report.Phases, chaos.Samples(log))
		case strings.HasPrefix(pod, w.namespace+"_chaos-"):
			renewals[pod] = append(renewals[pod], chaos.Renewals(log)...)
		case strings.HasPrefix(pod, suite.release+"_keyferry-broker-"):
			for line := range bytes.Lines(log) {
				var entry audited
				if _, text, ok := bytes.Cut(line, []byte(" F ")); ok && json.Unmarshal(text, &entry) == nil && entry.Outcome == "issued" {
					issued[entry.CredentialID] = true
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range renewals {
		chaos.AccountRenewals(report.Phases, of)
		report.Gap = max(report.Gap, chaos.Gap(of, enforcedLife-reportedLife))
	}
	if len(renewals) != chaosPods {
		t.Errorf("there are logs of %d Pods", len(renewals))
	}
	report.Issued = len(issued)
	for _, r := range w.readers {
		samples, tokens := r.result()
		chaos.Account(report.Secrets, samples)
		report.Issued += tokens
	}
	report.Minted = w.minted(t, begin)
	report.Restarts = w.restarts(t)
}

// minted is how many tokens the target made for these tenants.
func (w *chaosWorld) minted(t *testing.T, begin time.Time) (n int) {
	t.Helper()
	log, err := suite.pair.Target.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	made, err := audit.Parse(log, begin)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range made {
		for _, tn := range []tenant{w.tokens, w.handed, w.secrets} {
			if r.ObjectRef.Namespace == tn.Namespace && r.IssuedCredential() != "" {
				n++
			}
		}
	}
	return n
}

// restarts counts those of containers, by their names.
func (w *chaosWorld) restarts(t *testing.T) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, namespace := range []string{w.namespace, suite.release} {
		var pods corev1.PodList
		if err := suite.management.List(t.Context(), &pods, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		for _, pod := range pods.Items {
			for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
				count[status.Name] += int(status.RestartCount)
			}
		}
	}
	// A container whose first start failed, on a busy machine, is not an application that was
	// restarted.
	if count["client"] -= w.restartedBefore; count["client"] != 0 {
		t.Errorf("applications were restarted %d times", count["client"])
	}
	return count
}

// secretReader reads a Secret each second, and acts on the target with what it holds then.
type secretReader struct {
	name    string
	stop    func()
	samples []chaos.Sample
	tokens  map[string]bool
}

func readSecret(t *testing.T, secret *corev1.Secret) *secretReader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &secretReader{name: secret.Name, tokens: map[string]bool{}}
	ended := make(chan struct{})
	r.stop = func() { cancel(); <-ended }
	t.Cleanup(r.stop)
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for now := (chaos.Sample{}); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := r.try(ctx, client.ObjectKeyFromObject(secret))
			if ctx.Err() != nil {
				return
			}
			now.Time, now.Requests = time.Now(), now.Requests+1
			if err != nil {
				now.Failures, now.LastError = now.Failures+1, err.Error()
			}
			r.samples = append(r.samples, now)
		}
	}()
	return r
}

// result ends it and returns what it counted, and how many tokens it saw.
func (r *secretReader) result() (samples []chaos.Sample, tokens int) {
	r.stop()
	return r.samples, len(r.tokens)
}

func (r *secretReader) try(ctx context.Context, key client.ObjectKey) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var secret corev1.Secret
	err := suite.management.Get(ctx, key, &secret)
	switch {
	case apierrors.IsNotFound(err):
		return errors.New("there is no credential for " + key.String())
	case err != nil:
		return errors.New("this cluster does not answer")
	}
	plantIssued(&secret)
	token, issued := tokenOf(&secret)
	if token == "" {
		return errors.New("there is no credential for " + key.String() + " in its Secret")
	}
	r.tokens[token] = true
	if time.Since(issued) > enforcedLife {
		return errors.New("the token has ended")
	}
	cfg := rest.AnonymousClientConfig(suite.target.config)
	cfg.BearerToken = token
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	_, err = clients.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	return err
}

// tokenOf is the token in a Secret of a CredentialRequest, and when it was issued.
func tokenOf(secret *corev1.Secret) (token string, issued time.Time) {
	for _, value := range secret.Data {
		for _, word := range strings.Fields(string(value)) {
			parts := strings.Split(word, ".")
			if len(parts) != 3 || !strings.HasPrefix(word, "eyJ") {
				continue
			}
			var claims struct {
				Issued int64 `json:"iat"`
			}
			if text, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil && json.Unmarshal(text, &claims) == nil {
				return word, time.Unix(claims.Issued, 0)
			}
		}
	}
	return "", time.Time{}
}
