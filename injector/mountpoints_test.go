package injector_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestMountsThatKeepAContainerFromStarting: the runtime cannot create a directory in a volume that
// is mounted read-only. See https://github.com/kubernetes/kubernetes/issues/65835 and 72261 for the
// error messages of the node.
func TestMountsThatKeepAContainerFromStarting(t *testing.T) {
	t.Parallel()
	const (
		token = "{name: kube-api-access-x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}"
		files = "/var/run/secrets/kubernetes.io/serviceaccount"
		local = "/var/run/secrets/keyferry.dev/local"
	)
	denied := func(at, dir string) string {
		return "container app mounts volume v at " + at + ", which is read-only, and Keyferry mounts " + dir + " inside it, so the container would not start: " +
			"mount the volume elsewhere, or exclude the container with annotation keyferry.dev/exclude-containers"
	}
	warned := func(at, dir string) string {
		return "warning: container app mounts volume v read-only at " + at + ", and Keyferry mounts " + dir + " inside it: " +
			"the container starts only if the volume contains this directory"
	}
	linked := func(at, dir string) string {
		return "container app mounts volume v at " + at + ", and Keyferry mounts " + dir + ", which is the same directory in images where /var/run is a link to /run: " +
			"mount the volume elsewhere, or exclude the container with annotation keyferry.dev/exclude-containers"
	}
	for name, test := range map[string]struct {
		volume, mounts string
		annotations    string
		want           string // a part of the error, or of the warnings with "warning: "; empty for neither
	}{
		"Secret above":                           {volume: "secret: {secretName: s}", mounts: "{name: v, mountPath: /var/run/secrets}", want: denied("/var/run/secrets", files)},
		"Secret above, where /var/run is a link": {volume: "secret: {secretName: s}", mounts: "{name: v, mountPath: /run/secrets/}", want: warned("/run/secrets/", files)},
		"ConfigMap above":                        {volume: "configMap: {name: c}", mounts: "{name: v, mountPath: /var/run}", want: denied("/var/run", files)},
		"ConfigMap above local files":            {volume: "configMap: {name: c}", mounts: token + ", {name: v, mountPath: /var/run/secrets/keyferry.dev}", want: denied("/var/run/secrets/keyferry.dev", local)},
		"ConfigMap beside":                       {volume: "configMap: {name: c}", mounts: "{name: v, mountPath: /var/run/secrets/example.com}"},
		"ConfigMap where local files would be, if there were a token": {volume: "configMap: {name: c}", mounts: "{name: v, mountPath: /var/run/secrets/keyferry.dev}"},
		"Secret with directories": {
			volume: "projected: {sources: [{secret: {name: s, items: [{key: a, path: kubernetes.io/serviceaccount/a}]}}]}",
			mounts: "{name: v, mountPath: /var/run/secrets}", want: warned("/var/run/secrets", files),
		},
		"image above":                     {volume: "image: {reference: a}", mounts: "{name: v, mountPath: /var}", want: warned("/var", files)},
		"claim above, read-only":          {volume: "persistentVolumeClaim: {claimName: c, readOnly: true}", mounts: "{name: v, mountPath: /run}", want: warned("/run", files)},
		"claim above":                     {volume: "persistentVolumeClaim: {claimName: c}", mounts: "{name: v, mountPath: /run}"},
		"emptyDir above":                  {volume: "emptyDir: {}", mounts: "{name: v, mountPath: /var/run}"},
		"emptyDir above, read-only mount": {volume: "emptyDir: {}", mounts: "{name: v, mountPath: /var/run, readOnly: true}", want: warned("/var/run", files)},
		"kubeconfig below": {
			volume: "configMap: {name: c}", mounts: "{name: v, mountPath: /run}", annotations: "keyferry.dev/clusters: fleet/tenant-1",
			want: warned("/run", "/var/run/keyferry"),
		},
		"local token below, which the Pod keeps": {
			volume: "configMap: {name: c}", mounts: "{name: v, mountPath: /var/run/secrets}", annotations: "keyferry.dev/clusters: fleet/tenant-1",
		},
		"where the files are, if /var/run is a link": {volume: "emptyDir: {}", mounts: "{name: v, mountPath: /run/secrets/kubernetes.io/serviceaccount}", want: linked("/run/secrets/kubernetes.io/serviceaccount", files)},
		"the same, not cleaned":                      {volume: "emptyDir: {}", mounts: "{name: v, mountPath: /run/x/../secrets//kubernetes.io/serviceaccount/}", want: linked("/run/x/../secrets//kubernetes.io/serviceaccount/", files)},
		"inside the files, if /var/run is a link":    {volume: "emptyDir: {}", mounts: token + ", {name: v, mountPath: /run/secrets/kubernetes.io/serviceaccount/more}", want: linked("/run/secrets/kubernetes.io/serviceaccount/more", files)},
		"the local files, if /var/run is a link":     {volume: "emptyDir: {}", mounts: token + ", {name: v, mountPath: /run/secrets/keyferry.dev/local}", want: linked("/run/secrets/keyferry.dev/local", local)},
		"no local files":                             {volume: "emptyDir: {}", mounts: "{name: v, mountPath: /run/secrets/keyferry.dev/local}"},
		"the kubeconfig, if /var/run is a link": {
			volume: "emptyDir: {}", mounts: "{name: v, mountPath: run/./keyferry}", annotations: "keyferry.dev/clusters: fleet/tenant-1",
			want: linked("run/./keyferry", "/var/run/keyferry"),
		},
		"the kubeconfig, not cleaned": {
			volume: "emptyDir: {}", mounts: "{name: v, mountPath: /var/run/./keyferry}", annotations: "keyferry.dev/clusters: fleet/tenant-1",
			want: "container app mounts volume v at /var/run/./keyferry, but Keyferry mounts the kubeconfig",
		},
		"no kubeconfig":    {volume: "emptyDir: {}", mounts: "{name: v, mountPath: /run/keyferry}"},
		"beside the files": {volume: "emptyDir: {}", mounts: "{name: v, mountPath: /run/secrets/kubernetes.io/other}"},
		"local files that the Pod keeps": {
			volume: "emptyDir: {}", mounts: "{name: v, mountPath: /run/secrets/kubernetes.io/serviceaccount}", annotations: "keyferry.dev/clusters: fleet/tenant-1",
		},
		"Secret above, not cleaned":   {volume: "secret: {secretName: s}", mounts: "{name: v, mountPath: /var/lib/../run/secrets/kubernetes.io/..}", want: denied("/var/lib/../run/secrets/kubernetes.io/..", files)},
		"Secret above, not cleaned 2": {volume: "secret: {secretName: s}", mounts: "{name: v, mountPath: /var/lib/..}", want: denied("/var/lib/..", files)},
		"inside the files": {
			volume: "emptyDir: {}", mounts: "{name: v, mountPath: " + files + "/more}",
			want: "container app mounts volume v at " + files + "/more, but Keyferry mounts a parent directory",
		},
		"inside the local files": {
			volume: "emptyDir: {}", mounts: token + ", {name: v, mountPath: " + local + "/more}",
			want: "container app mounts volume v at " + local + "/more, but Keyferry mounts a parent directory",
		},
		"excluded": {
			volume: "secret: {secretName: s}", mounts: "{name: v, mountPath: /var/run/secrets}",
			annotations: "{keyferry.dev/cluster: fleet/tenant-1, keyferry.dev/containers: other}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			annotations := test.annotations
			if annotations == "" {
				annotations = "keyferry.dev/cluster: fleet/tenant-1"
			}
			raw, err := yaml.YAMLToJSON([]byte("{kind: Pod, metadata: {name: web, namespace: shop, annotations: {" + strings.Trim(annotations, "{}") +
				"}}, spec: {volumes: [{name: a}, {name: v, " + test.volume + "}], containers: [{name: app, volumeMounts: [" + test.mounts + "]}, {name: other}]}}"))
			if err != nil {
				t.Fatal(err)
			}
			result, err := defaultInstallation().inject(raw)
			got := fmt.Sprint(err)
			if err == nil {
				got = "warning: " + strings.Join(result.Warnings, "\nwarning: ")
			}
			if !strings.Contains(got, test.want) || test.want == "" && got != "warning: " {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
