package clientcertificate_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
)

// targetCluster makes one that needs no access: the target is this very API server.
func (w *world) targetCluster(commonName string) (*v1alpha1.TargetCluster, *issuer.Issuer) {
	w.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		w.Fatal(err)
	}
	c, err := client.New(serverConfig, client.Options{Scheme: scheme})
	if err != nil {
		w.Fatal(err)
	}
	cluster := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "tenant-1"},
		Spec: v1alpha1.TargetClusterSpec{
			Endpoint: &v1alpha1.Endpoint{Server: serverConfig.Host, CertificateAuthorityData: serverConfig.CAData},
			Access:   v1alpha1.Access{Type: v1alpha1.AccessNone},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueClientCertificate, ClientCertificate: &v1alpha1.ClientCertificateIssue{
				IssuerRef:  v1alpha1.CertificateIssuerReference{Name: "target-ca"},
				CommonName: commonName,
			}},
		},
	}
	if err := c.Create(w.Context(), cluster); err != nil {
		w.Fatal(err)
	}
	i, err := issuer.New(issuer.Config{
		Clusters: c, Secrets: c, CertManager: w.api, Policy: endpoint.Policy{AllowLocal: true},
		Now: func() time.Time { return w.now() },
	})
	if err != nil {
		w.Fatal(err)
	}
	return cluster, i
}

// TestManyPods: as many certificates are signed as the template tells users apart.
func TestManyPods(t *testing.T) {
	const pods = 50
	for commonName, want := range map[string]int{"${namespace}:${serviceAccount}": 1, "${podUID}": pods} {
		t.Run(commonName, func(t *testing.T) {
			w := newWorld(t)
			w.each(func(r *cmapi.CertificateRequest) { w.say(r, nil, approved()) })
			cluster, i := w.targetCluster(commonName)
			var mu sync.Mutex
			ids := map[string]bool{}
			var all sync.WaitGroup
			for n := range pods {
				all.Go(func() {
					req := web
					req.Identity.PodName, req.Identity.PodUID = fmt.Sprintf("web-%d", n), fmt.Sprintf("uid-%d", n)
					issued, err := i.IssueFor(t.Context(), cluster, req)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					ids[issued.ID] = true
				})
			}
			all.Wait()
			if made := int(w.made.Load()); len(ids) != want || made != want {
				t.Errorf("%d certificates by %d requests, want %d", len(ids), made, want)
			}
		})
	}
}

// TestIssued: what the broker has for a Pod, its renewal, and the way in.
func TestIssued(t *testing.T) {
	w := newWorld(t)
	w.each(func(r *cmapi.CertificateRequest) { w.say(r, nil, approved()) })
	cluster, i := w.targetCluster("${namespace}:${serviceAccount}")
	first, err := i.IssueFor(t.Context(), cluster, web)
	if err != nil {
		t.Fatal(err)
	}
	if user, _ := w.whoami(first.Credential); user != "app:web" {
		t.Errorf("the target takes it for %s", user)
	}
	if first.Delivery != v1alpha1.DeliveryProxy || first.Token != "" || !strings.HasPrefix(first.ID, "X509SHA256=") {
		t.Errorf("issued %v %q, want a certificate that is delivered by proxy", first.Delivery, first.ID)
	}
	w.now = func() time.Time { return first.RefreshAt }
	second, err := i.IssueFor(t.Context(), cluster, web)
	if err != nil {
		t.Fatal(err)
	}
	if second.ID == first.ID || bytes.Equal(first.ClientKey, second.ClientKey) {
		t.Error("at RefreshAt there is no new certificate, or it has the old key")
	}
}

// TestKeyIsNowhere: no object of the cluster, no log and no error holds a private key that a Pod is
// given.
func TestKeyIsNowhere(t *testing.T) {
	w := newWorld(t)
	life := make(chan string)
	watched, err := certs.RESTClient().Get().Namespace(w.namespace).Resource("certificaterequests").Param("watch", "true").Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(life)
		var all strings.Builder
		for lines := bufio.NewScanner(watched); lines.Scan(); {
			if all.WriteString(lines.Text()); strings.Contains(lines.Text(), `"DELETED"`) {
				life <- all.String()
				return
			}
		}
	}()
	w.each(func(r *cmapi.CertificateRequest) { w.say(r, nil, approved()) })
	cluster, i := w.targetCluster("${podUID}")
	issued, err := i.IssueFor(t.Context(), cluster, web)
	if err != nil {
		t.Fatal(err)
	}
	requests := <-life
	lines := strings.Split(strings.TrimSpace(string(issued.ClientKey)), "\n")
	for where, text := range map[string]string{"the requests": requests, "a log": logged.String(), "Secrets": w.secrets()} {
		for _, line := range lines[1 : len(lines)-1] {
			if strings.Contains(text, line) {
				t.Errorf("%s: there is a piece of the key", where)
			}
		}
	}
}

// secrets is the content of all Secrets of the cluster.
func (w *world) secrets() string {
	w.Helper()
	list, err := server.CoreV1().Secrets("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	var all strings.Builder
	for _, secret := range list.Items {
		for _, value := range secret.Data {
			all.Write(value)
		}
	}
	return all.String()
}
