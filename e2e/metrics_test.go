package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// scraper reads Keyferry's metrics as Prometheus does: it verifies each Pod, and presents a token
// that may read metrics.
type scraper struct {
	roots *x509.CertPool
	token string
}

// newScraper creates a ServiceAccount, which remove deletes.
func newScraper(ctx context.Context) (s *scraper, remove func() error, err error) {
	trust := &corev1.ConfigMap{}
	if err := suite.management.Get(ctx, client.ObjectKey{Namespace: suite.release, Name: "keyferry-trust"}, trust); err != nil {
		return nil, nil, err
	}
	s = &scraper{roots: x509.NewCertPool()}
	if !s.roots.AppendCertsFromPEM([]byte(trust.Data["ca.crt"])) {
		return nil, nil, errors.New("keyferry-trust has no certificate")
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: suite.release, Name: "scraper"}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "keyferry-e2e-scraper"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "keyferry-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}
	remove = func() error {
		return errors.Join(client.IgnoreNotFound(suite.management.Delete(ctx, binding)), client.IgnoreNotFound(suite.management.Delete(ctx, account)))
	}
	for _, object := range []client.Object{account, binding} {
		if err := client.IgnoreAlreadyExists(suite.management.Create(ctx, object)); err != nil {
			return nil, nil, errors.Join(err, remove())
		}
	}
	token := &authenticationv1.TokenRequest{}
	if err := suite.management.SubResource("token").Create(ctx, account, token); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	s.token = token.Status.Token
	return s, remove, nil
}

var forwarded = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) `)

// scrape returns the metrics of a Pod of Keyferry. It connects through the kubelet: the API
// server's proxy for Pods would remove the token.
func (s *scraper) scrape(ctx context.Context, pod *corev1.Pod) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	forward := exec.CommandContext(ctx, suite.kubectl, "--kubeconfig", suite.management.kubeconfig,
		"port-forward", "--namespace", pod.Namespace, "pod/"+pod.Name, "--address", "127.0.0.1", ":8080")
	out, err := forward.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := forward.Start(); err != nil {
		return nil, err
	}
	defer func() { cancel(); _ = forward.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("reading what kubectl port-forward prints: %w", err)
	}
	match := forwarded.FindStringSubmatch(line)
	if match == nil {
		return nil, fmt.Errorf("kubectl port-forward printed %q", line)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+match[1]+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	name := "keyferry-" + pod.Labels["app.kubernetes.io/component"] + "." + pod.Namespace + ".svc"
	prometheus := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: s.roots, ServerName: name, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}}
	response, err := prometheus.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	page, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, page)
	}
	return page, err
}
