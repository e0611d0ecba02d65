package aks

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"

	"github.com/keyferry/keyferry/providers"
)

// application is as whom Entra is asked: by a secret, a certificate, or the Pod's token as
// assertion.
type application struct {
	tenant, client string

	secret       string
	certificates []*x509.Certificate
	key          crypto.PrivateKey
	assertion    bool
}

func readApplication(cfg Config) (application, error) {
	switch cfg.Identity {
	case WorkloadIdentity:
		for field, value := range map[string]string{"clientID": cfg.ClientID, "tenantID": cfg.TenantID} {
			if !uuid.MatchString(value) {
				return application{}, fmt.Errorf("spec.access.aks.%s is not a UUID: use the value that az identity show or az account show prints", field)
			}
		}
		return application{tenant: cfg.TenantID, client: cfg.ClientID, assertion: true}, nil
	case Secret, "":
		if cfg.Secret == "" {
			return application{}, errors.New("spec.access.aks.credentials is missing: set the name of the Secret with the application's clientID, tenantID, and clientSecret or certificate")
		}
		app, err := readSecret(cfg.Data)
		if err != nil {
			return application{}, fmt.Errorf("Secret %s: %w", cfg.Secret, err)
		}
		return app, nil
	}
	return application{}, errors.New("spec.access.aks.identity is none of Secret and WorkloadIdentity")
}

// readSecret's errors repeat nothing of the Secret.
func readSecret(data map[string][]byte) (application, error) {
	for _, key := range []string{"clientID", "tenantID"} {
		if !uuid.Match(data[key]) {
			return application{}, fmt.Errorf("key %s is missing or not a UUID: use the value that az ad sp create-for-rbac prints, without a newline", key)
		}
	}
	app := application{tenant: string(data["tenantID"]), client: string(data["clientID"]), secret: string(data["clientSecret"])}
	certificate := len(data["tls.crt"]) > 0 || len(data["tls.key"]) > 0
	switch {
	case certificate && app.secret != "":
		return application{}, errors.New("the Secret must contain either clientSecret, or tls.crt with tls.key: remove one of them")
	case certificate:
		err := app.readCertificate(data["tls.crt"], data["tls.key"])
		return app, err
	case app.secret == "":
		return application{}, errors.New("the Secret has neither the key clientSecret nor tls.crt and tls.key: add the application's secret or certificate")
	case strings.ContainsFunc(app.secret, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return application{}, errors.New("key clientSecret contains spaces, newlines or other characters that are not valid in a secret of Entra: encode it again without them")
	}
	return app, nil
}

func (a *application) readCertificate(chain, key []byte) error {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return errors.New("keys tls.crt and tls.key are not PEM, or do not belong together")
	}
	rsaKey, ok := pair.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		return errors.New("key tls.key is not an RSA key, which Entra requires: create another key and certificate")
	}
	a.key = rsaKey
	for _, der := range pair.Certificate {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return errors.New("key tls.crt holds a malformed certificate")
		}
		a.certificates = append(a.certificates, certificate)
	}
	return nil
}

// credential is how the application proves to the library for req that it is itself.
func (a application) credential(req providers.Request) (confidential.Credential, error) {
	switch {
	case a.assertion:
		return confidential.NewCredFromAssertionCallback(func(context.Context, confidential.AssertionRequestOptions) (string, error) {
			return req.SubjectToken, nil
		}), nil
	case a.key != nil:
		return confidential.NewCredFromCert(a.certificates, a.key)
	}
	return confidential.NewCredFromSecret(a.secret)
}

// fix is what to do if Entra refuses.
func (a application) fix(secret string) string {
	switch {
	case a.assertion:
		return "check the federated credential of " + a.client + ": its issuer, subject and audience"
	case a.key != nil:
		return "check that the certificate in Secret " + secret + " is one of the application's, and has not ended"
	}
	return "check clientSecret in Secret " + secret + ", or write a new one there"
}

// names is what says who the application is.
func (a application) names(secret string) string {
	if a.assertion {
		return "spec.access.aks.clientID and tenantID"
	}
	return "clientID and tenantID in Secret " + secret
}
