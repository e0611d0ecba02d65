package v1alpha1_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// hostile are values that mean something else somewhere: in a URL, a header, a command line, a file
// name, YAML or JSON.
var hostile = map[string]string{
	"line end":        "a\nb",
	"header":          "a\r\nX-Header: y",
	"quotes":          `a"b'c`,
	"not UTF-8":       "a\ufffdb", // which is what decoders make of it
	"NUL":             "a\x00b",
	"parent folder":   "../../etc/passwd",
	"dots":            "..",
	"encoded slash":   "a%2f..%2fb",
	"slash":           "a/b",
	"query":           "a?b=c&d",
	"fragment":        "a#b",
	"variable":        "$(HOME)${x}",
	"flag":            "--a",
	"shell":           "a;`reboot`",
	"other scheme":    "file:///etc/passwd",
	"user":            "https://u:p@a",
	"right to left":   "a\u202eb",
	"long":            strings.Repeat("a", 1<<16),
	"YAML":            "a: &a [*a]",
	"system":          "system:masters",
	"absolute":        "/etc/passwd",
	"blank":           "a b",
	"NUL in a URL":    "https://a\x00.example",
	"header in a URL": "https://a.example/\r\nX: y",
}

// freeText are fields that are somebody else's names. They take everything that can be printed, and
// end where it is escaped: in one segment of a path or in a query, in JSON, in the claims of a
// token, in a certificate's subject.
var freeText = map[string]bool{
	".access.exec.provider":                    true, // is looked up, by the whole of it
	".access.spider.cluster":                   true,
	".access.spider.connection":                true,
	".access.tumblebug.cluster":                true,
	".access.tumblebug.namespace":              true,
	".issue.clientCertificate.commonName":      true,
	".issue.clientCertificate.organizations[]": true,
	".issue.federation.audience":               true,
	".issue.tokenRequest.audiences[]":          true,
}

// meant are the few that make sense after all.
var meant = map[string]string{
	".access.kubeconfig.key":             "flag dots", // is looked up, by the whole of it
	".secret.key":                        "flag",      // so is this
	".endpoint.certificateAuthorityData": "long",      // base64
	".endpoint.proxyURL":                 "user",
}

// handedOn are fields that nobody reads but the API server, as what they are in another object.
var handedOn = map[string]bool{
	".secret.annotations.a": true,
	".secret.labels.a":      true,
}

// TestHostileFields: of the strings in a spec, those that are not free text take nothing that means
// something else where it ends.
func TestHostileFields(t *testing.T) {
	tried := map[string]bool{}
	for _, spec := range []string{
		"endpoint: {server: 'https://a.example', certificateAuthorityData: Q0E=, tlsServerName: kubernetes, proxyURL: 'http://proxy.example:3128'}\ndefaultNamespace: a\ndelivery: Proxy\n" +
			strings.Replace(kubeconfig, "name: tenant-1", "name: tenant-1, key: k", 1) + handOn,
		"clusterProfile: {namespace: fleet, name: tenant-1}\nendpoint: {wellKnownCACertificates: System}\n" + tokenRequestWith(fixed+", audiences: [vault], duration: 90m"),
		server("https://a.example") + noAccess + "issue: {type: Federation, federation: {audience: a, duration: 24h}}\n",
		server("https://a.example") + noAccess +
			"issue: {type: ClientCertificate, clientCertificate: {issuerRef: {name: pods, kind: ClusterIssuer, group: cert-manager.io}, commonName: c, organizations: [b], duration: 48h}}\n",
		accessWith("EKS, eks: {clusterName: c_1, region: us-gov-west-1, identity: Secret, roleARN: 'arn:aws-us-gov:iam::123456789012:role/a/b', credentials: {name: keys}}"),
		accessWith("GKE, gke: {credentials: {name: key}, impersonate: a@p.iam.gserviceaccount.com}"),
		accessWith("GKE, gke: {identity: WorkloadIdentity, workloadIdentityProvider: projects/1/locations/global/workloadIdentityPools/p/providers/r}"),
		accessWith("AKS, aks: {credentials: {name: app}, authorityHost: 'https://login.microsoftonline.us'}"),
		accessWith("AKS, aks: {identity: WorkloadIdentity, clientID: " + uuid + ", tenantID: " + uuid + "}"),
		accessWith("Exec, exec: {provider: a, runIn: Broker}"),
		ackWith("clusterID: c5b5, region: cn-hangzhou, duration: 90m, credentials: {name: keys}"),
		ncpWith("clusterUUID: " + uuid + ", region: SGN, credentials: {name: keys}"),
		spiderWith("url: 'https://spider.example', cluster: a, connection: b, credentials: {name: spider}"),
		tumblebugWith("url: 'https://tumblebug.example', namespace: ns, cluster: c, credentialHolder: team-a, credentials: {name: tumblebug}"),
	} {
		try(t, tried, spec, func(spec string) error { _, err := create(t, spec); return err })
	}
	try(t, tried, forWeb+"type: kubeconfig\nduration: 90m\nsecret: {name: a.b, key: value, labels: {a: b}, annotations: {a: b}}",
		func(spec string) error { return createRequest(t, "web", spec) })
	known := map[string]bool{}
	for _, crd := range []string{"targetclusters", "credentialrequests"} {
		for _, path := range stringsOf(t, crd) {
			known[path] = true
			if !tried[path] {
				t.Errorf("%s of %s is not tried", path, crd)
			}
		}
	}
	for path := range freeText {
		if !known[path] {
			t.Errorf("%s is not there any more", path)
		}
	}
}

// schema is what stringsOf reads of one.
type schema struct {
	Type                        string
	Properties                  map[string]schema
	Items, AdditionalProperties *schema
}

// stringsOf are the paths of all strings in a spec, by its CRD.
func stringsOf(t *testing.T, crd string) (paths []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "crd", "keyferry.dev_"+crd+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Schema struct{ OpenAPIV3Schema schema }
			}
		}
	}
	if err := yaml.Unmarshal(text, &definition); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, s *schema)
	walk = func(path string, s *schema) {
		if s == nil {
			return
		}
		if s.Type == "string" {
			paths = append(paths, path)
		}
		for name, property := range s.Properties {
			walk(path+"."+name, &property)
		}
		walk(path+"[]", s.Items)
		walk(path+".a", s.AdditionalProperties) // the key that is tried
	}
	for _, version := range definition.Spec.Versions {
		spec := version.Schema.OpenAPIV3Schema.Properties["spec"]
		walk("", &spec)
	}
	return paths
}

// try puts hostile values, one at a time, into each string of a spec that has not been tried
// before.
func try(t *testing.T, tried map[string]bool, spec string, create func(string) error) {
	t.Helper()
	if err := create(spec); err != nil {
		t.Fatalf("%s is refused as it is: %v", spec, err)
	}
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(spec), &fields); err != nil {
		t.Fatal(err)
	}
	eachString(fields, "", func(path string, set func(string)) {
		if tried[path] {
			return
		}
		tried[path] = true
		if handedOn[path] {
			return
		}
		for name, value := range hostile {
			set(value)
			changed, err := yaml.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			err = create(string(changed))
			if printable := !strings.ContainsAny(value, "\x00\r\n"); freeText[path] && printable || slices.Contains(strings.Fields(meant[path]), name) {
				continue
			}
			if err == nil {
				t.Errorf("%s takes a %s: %.100q", path, name, value)
			}
		}
	})
}

// eachString calls do for each string in value, with a function that replaces it, and puts it back
// afterwards.
func eachString(value any, path string, do func(path string, set func(string))) {
	visit := func(child any, path string, set func(any)) {
		if text, ok := child.(string); ok {
			do(path, func(s string) { set(s) })
			set(text)
			return
		}
		eachString(child, path, do)
	}
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			visit(value[key], path+"."+key, func(v any) { value[key] = v })
		}
	case []any:
		for i := range value {
			visit(value[i], path+"[]", func(v any) { value[i] = v })
		}
	}
}
