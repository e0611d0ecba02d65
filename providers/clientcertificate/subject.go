package clientcertificate

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/keyferry/keyferry/providers"
)

// maxName is the longest common name, and name of an organization, that X.509 allows (RFC 5280,
// appendix A.1), in bytes.
const maxName = 64

// reserved returns the prefixes of the names of Kubernetes' own users and groups. In a cluster of
// kubeadm, the group kubeadm:cluster-admins may do everything.
func reserved() []string { return []string{"system:", "kubeadm:"} }

// field matches a field of a template, or what looks as if it should be one.
var field = regexp.MustCompile(`\$\{[^}]*\}?`)

// Fields of templates.
const (
	fieldNamespace      = "${namespace}"
	fieldServiceAccount = "${serviceAccount}"
	fieldPodName        = "${podName}"
	fieldPodUID         = "${podUID}"
)

// valueOf returns what a field stands for, and how much of the identity a certificate with it
// depends on: the first one, two … of namespace, name and UID of the ServiceAccount, name and UID
// of the Pod. That is zero if there is no such field.
func valueOf(field string, id providers.Identity) (value string, dependsOn int) {
	switch field {
	case fieldNamespace:
		return id.Namespace, 1
	case fieldServiceAccount:
		return id.ServiceAccount, 3
	case fieldPodName:
		return id.PodName, 5
	case fieldPodUID:
		return id.PodUID, 5
	}
	return "", 0
}

// subject is whom a certificate names. Organizations are sorted, each once.
type subject struct {
	commonName    string
	organizations []string
}

func (s subject) String() string {
	return pkix.Name{CommonName: s.commonName, Organization: s.organizations}.String()
}

func (s subject) equal(other subject) bool {
	return s.commonName == other.commonName && slices.Equal(s.organizations, other.organizations)
}

// signingRequest is PEM.
func (s subject) signingRequest(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: s.commonName, Organization: s.organizations},
	}, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// subjectOf returns whom Kubernetes takes the bearer of a certificate for.
func subjectOf(cert *x509.Certificate) subject {
	return subject{commonName: cert.Subject.CommonName, organizations: distinct(cert.Subject.Organization)}
}

func distinct(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// subjectTemplate is a subject with fields. The common name is the first.
type subjectTemplate []template

type template struct {
	// name is that of the field of the spec.
	name, text string
}

// parseSubject checks as much as can be known before it is known who asks.
func parseSubject(commonName string, organizations []string) (subjectTemplate, error) {
	all := subjectTemplate{{"spec.issue.clientCertificate.commonName", commonName}}
	for i, organization := range organizations {
		all = append(all, template{fmt.Sprintf("spec.issue.clientCertificate.organizations[%d]", i), organization})
	}
	for _, t := range all {
		if err := t.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if err := all.checkGroups(); err != nil {
		return nil, err
	}
	return all, nil
}

func (t template) check() error {
	for _, found := range field.FindAllString(t.text, -1) {
		if _, dependsOn := valueOf(found, providers.Identity{}); dependsOn == 0 {
			return fmt.Errorf("%s is not a field: use ${namespace}, ${serviceAccount}, ${podName} or ${podUID}", found)
		}
	}
	// A field is at least one letter, whatever it stands for.
	if err := checkName(field.ReplaceAllLiteralString(t.text, "x")); err != nil {
		return err
	}
	return t.checkDistinct()
}

// dependsOn is how much of the identity makes a difference.
func (s subjectTemplate) dependsOn() int {
	most := 0
	for _, t := range s {
		for _, found := range field.FindAllString(t.text, -1) {
			_, dependsOn := valueOf(found, providers.Identity{})
			most = max(most, dependsOn)
		}
	}
	return most
}

// of returns the subject for an identity.
func (s subjectTemplate) of(id providers.Identity) (subject, error) {
	values := make([]string, len(s))
	for i, t := range s {
		var missing string
		values[i] = field.ReplaceAllStringFunc(t.text, func(found string) string {
			value, _ := valueOf(found, id)
			if value == "" {
				missing = found
			}
			return value
		})
		if missing != "" {
			return subject{}, fmt.Errorf("%s contains %s, but the request does not come from a Pod: use ${namespace} and ${serviceAccount} only", t.name, missing)
		}
		if err := checkName(values[i]); err != nil {
			return subject{}, fmt.Errorf("%s comes to %q for %s: %w", t.name, values[i], id, err)
		}
	}
	return subject{commonName: values[0], organizations: distinct(values[1:])}, nil
}

// checkName refuses a user or group that is the target's own, or that somebody could take for it.
func checkName(name string) error {
	for _, prefix := range reserved() {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return fmt.Errorf("begins with %s, which is reserved for the target's own users and groups: use another prefix", prefix)
		}
	}
	switch {
	case name == "":
		return errors.New("must not be empty")
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("has characters that are not printable ASCII: use only printable ASCII characters")
	case strings.TrimSpace(name) != name:
		return errors.New("begins or ends with a space: remove the space")
	case len(name) > maxName:
		return fmt.Errorf("has %d bytes, and X.509 allows %d: make it shorter; ${podUID} always has 36", len(name), maxName)
	}
	return nil
}
