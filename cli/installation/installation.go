// Package installation says whether Keyferry itself works: it asks the webhooks what the API server
// asks them and the broker as refreshers do, and verifies each as these do.
package installation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/injector"
)

// The names that the chart gives.
const (
	webhookConfiguration = "keyferry-webhook"
	brokerService        = "keyferry-broker"
)

const (
	requestTimeout = 10 * time.Second
	maxAnswer      = 1 << 20
)

// Config is what a check needs.
type Config struct {
	// Client reads webhook configurations, and ConfigMaps of Namespace.
	Client client.Reader
	// Namespace that Keyferry is installed in.
	Namespace string
	// Dial opens connections; nil means a net.Dialer. Only from within the cluster do Services have
	// names.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Finding is one thing that was looked at.
type Finding struct {
	// What was looked at, such as "webhook pods.keyferry.dev".
	What string
	// Err is nil if it works.
	Err error
	// Note is what was left out.
	Note string
}

// Check looks at everything, whatever fails.
func Check(ctx context.Context, cfg Config) []Finding {
	hooks, missing := cfg.webhooks(ctx)
	findings := missing
	for _, hook := range hooks {
		finding := Finding{What: "webhook " + hook.name, Err: cfg.askWebhook(ctx, hook)}
		if errors.Is(finding.Err, errCertificateRequired) {
			finding.Err, finding.Note = nil, "it serves only clients with a certificate (chart value webhook.clientCertificates), so only its own certificate was checked"
		}
		findings = append(findings, finding)
	}
	return append(findings, Finding{What: "broker", Err: cfg.askBroker(ctx)})
}

// errCertificateRequired reports a server that serves only clients with a certificate.
var errCertificateRequired = errors.New("the server wants a client certificate")

// webhook is as much of an entry of a webhook configuration as is needed to ask it.
type webhook struct {
	name   string
	client admissionregistrationv1.WebhookClientConfig
}

func (cfg Config) webhooks(ctx context.Context) (hooks []webhook, missing []Finding) {
	key := types.NamespacedName{Name: webhookConfiguration}
	mutating := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := cfg.Client.Get(ctx, key, mutating); err != nil {
		missing = append(missing, Finding{What: "MutatingWebhookConfiguration " + key.Name, Err: withFix(err, "install Keyferry's Helm chart")})
	}
	for _, hook := range mutating.Webhooks {
		hooks = append(hooks, webhook{hook.Name, hook.ClientConfig})
	}
	validating := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	if err := cfg.Client.Get(ctx, key, validating); err != nil {
		missing = append(missing, Finding{What: "ValidatingWebhookConfiguration " + key.Name, Err: withFix(err, "install Keyferry's Helm chart")})
	}
	for _, hook := range validating.Webhooks {
		hooks = append(hooks, webhook{hook.Name, hook.ClientConfig})
	}
	return hooks, missing
}

// withFix adds the fix to an error that says that something is missing.
func withFix(err error, fix string) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %s", err, fix)
	}
	return err
}

// askWebhook sends a review of a Pod that asks for nothing, verifying the server as the API server
// does.
func (cfg Config) askWebhook(ctx context.Context, hook webhook) error {
	service := hook.client.Service
	switch {
	case service == nil:
		return errors.New("the webhook configuration contains no Service: install the chart without changes")
	case len(hook.client.CABundle) == 0:
		return errors.New("the webhook configuration has no caBundle yet, so the API server does not trust the webhook: look at the log of keyferry-controller or, with certificates.mode cert-manager, of the CA injector")
	}
	port, path := int32(443), "/"
	if service.Port != nil {
		port = *service.Port
	}
	if service.Path != nil {
		path = *service.Path
	}
	review := admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID:       "check",
			Kind:      metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
			Resource:  metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Namespace: cfg.Namespace,
			Operation: admissionv1.Create,
			Object:    runtime.RawExtension{Raw: []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"check"},"spec":{"containers":[{"name":"check","image":"check"}]}}`)},
		},
	}
	host := net.JoinHostPort(service.Name+"."+service.Namespace+".svc", strconv.Itoa(int(port)))
	answer := admissionv1.AdmissionReview{}
	if err := cfg.post(ctx, "https://"+host+path, hook.client.CABundle, review, &answer); err != nil {
		return err
	}
	if answer.Response == nil || answer.Response.UID != review.Request.UID || !answer.Response.Allowed {
		return fmt.Errorf("%s denies a Pod without annotations: is it Keyferry's webhook?", host)
	}
	return nil
}

// askBroker asks without an identity, verifying the server by what refreshers know it by. To be
// refused as unknown is the right answer.
func (cfg Config) askBroker(ctx context.Context) error {
	trust := &corev1.ConfigMap{}
	key := types.NamespacedName{Namespace: cfg.Namespace, Name: injector.TrustConfigMap}
	if err := cfg.Client.Get(ctx, key, trust); err != nil {
		return withFix(err, "the controller keeps it, look at the log of keyferry-controller")
	}
	host := brokerService + "." + cfg.Namespace + ".svc"
	answer := metav1.Status{}
	if err := cfg.post(ctx, "https://"+host+wire.TargetClusterPath(cfg.Namespace, "check"), []byte(trust.Data["ca.crt"]), struct{}{}, &answer); err != nil {
		return err
	}
	if answer.Code != http.StatusUnauthorized {
		return fmt.Errorf("%s answers %d to an unknown client: is it Keyferry's broker?", host, answer.Code)
	}
	return nil
}

// post sends a question and decodes the answer, whatever its code.
func (cfg Config) post(ctx context.Context, url string, ca []byte, question, answer any) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("the CA for the broker contains no certificate: look at the log of keyferry-controller")
	}
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encoding a question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	request.Header.Set("Content-Type", "application/json")
	var required atomic.Bool
	client := http.Client{Transport: &http.Transport{
		DialContext:       cfg.Dial,
		DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: roots,
			// Called once the server is verified, if it wants a certificate.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				required.Store(true)
				return new(tls.Certificate), nil
			},
		},
	}}
	response, err := client.Do(request)
	if err != nil && required.Load() && ctx.Err() == nil {
		return errCertificateRequired
	}
	if err != nil {
		return err // it names the URL
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("reading the answer of %s, %s: %w", url, response.Status, err)
	}
	return nil
}

// Works reports whether everything does.
func Works(findings []Finding) bool {
	return !slices.ContainsFunc(findings, func(f Finding) bool { return f.Err != nil })
}
