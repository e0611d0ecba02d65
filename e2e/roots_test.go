package e2e

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// rootsVolume has the file of a ConfigMap as the system's CA certificates of broker and controller,
// besides the plugin.
const rootsVolume = `
broker:
  extraVolumes: [{name: roots, configMap: {name: e2e-roots}}%s]
  extraVolumeMounts: [{name: roots, mountPath: /etc/ssl/certs, readOnly: true}%s]
`

// TestPublicCertificate: a target whose certificate is of a CA that only Keyferry's system knows.
// Pods receive that CA, also if neither the TargetCluster nor the kubeconfig has one.
func TestPublicCertificate(t *testing.T) {
	ns := suite.management.namespace(t, nil)
	suite.management.mustApply(t, `
apiVersion: v1
kind: Service
metadata: {name: forward, namespace: {{.NS}}}
spec: {selector: {app: forward}, ports: [{port: 8443}]}
`, map[string]any{"NS": ns})
	host := "forward." + ns + ".svc"
	public := selfMade(t, host)
	public.forward(t, ns, "forward", "--token-life=0s")
	answers(t, ns, "forward", "forward")

	roots := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: suite.release, Name: "e2e-roots"},
		Data:       map[string]string{"ca-certificates.crt": string(public.authority)},
	}
	if err := suite.management.Create(t.Context(), roots); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, suite.management, roots)
	t.Cleanup(func() {
		if err := suite.installation(context.WithoutCancel(t.Context()), ""); err != nil {
			t.Errorf("installing without the volume: %v", err)
		}
	})
	suite.install(t, suite.rootsVolume())

	tn := newStranger(t)
	tn.secret(t, fleet, map[string][]byte{"kubeconfig": withoutCA(t, accessKubeconfig(t, tn.Namespace), "https://"+host+":8443")})
	tn.applyTargetCluster(t, "{}")
	tn.waitFor(t, "Resolved", "False")
	tn.applyTargetCluster(t, "{wellKnownCACertificates: System}")
	tn.waitFor(t, "Ready", "True")
	tn.allow(t, ns, "default")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	if last := tn.works(t, ns, pod.Name, "client"); !strings.HasPrefix(last.Host, "https://"+host) {
		t.Errorf("the client's host is %s, want %s", last.Host, host)
	}
	renewed(t, pod, 3)
	notRestarted(t, pod)
}

// rootsVolume is the value with the volume and, as values has it, the plugin's.
func (e environment) rootsVolume() string {
	if !e.imageVolumes {
		return strings.ReplaceAll(rootsVolume, "%s", "")
	}
	volume := `, {name: plugins, image: {reference: "` + e.images["e2e-secretreader"].Reference + `"}}`
	return strings.Replace(strings.Replace(rootsVolume, "%s", volume, 1), "%s", ", {name: plugins, mountPath: /plugins, readOnly: true}", 1)
}

// withoutCA returns a kubeconfig for another server, without a CA.
func withoutCA(t *testing.T, kubeconfig []byte, server string) []byte {
	t.Helper()
	config, err := clientcmd.Load(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range config.Clusters {
		cluster.Server, cluster.CertificateAuthorityData, cluster.TLSServerName = server, nil, ""
	}
	text, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
