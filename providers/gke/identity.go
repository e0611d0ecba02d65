package gke

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cloud.google.com/go/compute/metadata"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/oauth2/google/externalaccount"
	"golang.org/x/oauth2/jwt"

	"github.com/keyferry/keyferry/providers"
)

// key is a service account's key.
type key struct {
	config *jwt.Config
	secret string // the name of the Secret
}

// readKey reads the key in the Secret. Its errors say what is wrong with key.json, and repeat
// nothing of it.
func readKey(cfg Config) (key, error) {
	data := cfg.Data["key.json"]
	var file struct {
		Type string `json:"type"`
	}
	switch err := json.Unmarshal(data, &file); {
	case len(data) == 0:
		return key{}, errors.New("is missing: write the output of gcloud iam service-accounts keys create into this key")
	case err != nil:
		return key{}, errors.New("is not JSON: write the output of gcloud iam service-accounts keys create into this key")
	case file.Type != "service_account":
		// Such files name URLs, files and programs, all of them on the machine that reads them, ours.
		return key{}, errors.New("is not the key of a service account (type service_account), and Keyferry supports no other type of key: use a service account's key, or set spec.access.gke.identity to WorkloadIdentity or Ambient")
	}
	config, err := google.JWTConfigFromJSON(data, scopes...)
	switch {
	case err != nil:
		return key{}, errors.New("is malformed: make a new key")
	case !email.MatchString(config.Email):
		return key{}, errors.New("has no valid client_email: create a new key")
	case !isRSA(config.PrivateKey):
		return key{}, errors.New("has no valid private_key: create a new key")
	}
	return key{config: config, secret: cfg.Secret}, checkTokenURI(config.TokenURL)
}

func isRSA(text []byte) bool {
	block, _ := pem.Decode(text)
	if block == nil {
		return false
	}
	if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		_, ok := parsed.(*rsa.PrivateKey)
		return ok
	}
	_, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	return err == nil
}

func checkTokenURI(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil:
		return errors.New("has a token_uri that is not a URL: create a new key")
	case u.Scheme != "https":
		return errors.New("has a token_uri that is not https: create a new key")
	}
	return nil
}

func (k key) ask(providers.Request) (question, error) {
	return question{
		doing:   "asking Google at " + k.config.TokenURL + " for a token of " + k.config.Email,
		secrets: []string{string(k.config.PrivateKey)},
		refused: "check that the key in Secret " + k.secret + " is still one of the service account's, or write a new one there",
		missing: "the service account of the key in Secret " + k.secret + " is gone: write another's there",
		get: func(ctx context.Context, _ *http.Client) (*oauth2.Token, error) {
			return k.config.TokenSource(ctx).Token()
		},
	}, nil
}

// workload is the Pod's own identity.
type workload struct{ provider string }

func (w workload) audience() string { return "https://iam.googleapis.com/" + w.provider }

func (w workload) ask(req providers.Request) (question, error) {
	if req.SubjectToken == "" {
		return question{}, fmt.Errorf("%w: identity WorkloadIdentity needs a token of the Pod for audience %s, and the Pod sent no such token: recreate the Pod",
			providers.ErrRefused, w.audience())
	}
	return question{
		doing:   "asking Google at https://sts.googleapis.com to exchange the token of " + req.Identity.String() + " at " + w.provider,
		secrets: []string{req.SubjectToken},
		refused: "check the issuer, the keys, the allowed audiences and the attribute condition of the workload identity provider",
		missing: "check spec.access.gke.workloadIdentityProvider, and that this provider and its pool are there and enabled",
		get: func(ctx context.Context, _ *http.Client) (*oauth2.Token, error) {
			source, err := externalaccount.NewTokenSource(ctx, externalaccount.Config{
				Audience:             "//iam.googleapis.com/" + w.provider,
				SubjectTokenType:     "urn:ietf:params:oauth:token-type:jwt",
				TokenURL:             "https://sts.googleapis.com/v1/token",
				Scopes:               scopes,
				SubjectTokenSupplier: subjectToken(req.SubjectToken),
			})
			if err != nil {
				return nil, err
			}
			return source.Token()
		},
	}, nil
}

// subjectToken is the one token that is exchanged.
type subjectToken string

// SubjectToken returns it.
func (t subjectToken) SubjectToken(context.Context, externalaccount.SupplierOptions) (string, error) {
	return string(t), nil
}

// machine is the identity of the machine or Pod that this process runs in.
type machine struct{}

func (machine) ask(providers.Request) (question, error) {
	return question{
		doing:    "asking the metadata server for a token of the broker's own identity",
		refused:  "on GKE, bind the ServiceAccount keyferry-broker to what may get in; elsewhere, give the machine a service account that may",
		missing:  "the machine has no service account: give it one",
		metadata: true,
		get: func(ctx context.Context, client *http.Client) (*oauth2.Token, error) {
			text, err := metadata.NewClient(client).GetWithContext(ctx, "instance/service-accounts/default/token?scopes="+url.QueryEscape(strings.Join(scopes, ",")))
			if err != nil {
				return nil, err
			}
			var token oauth2.Token
			if err := json.Unmarshal([]byte(text), &token); err != nil {
				return nil, err
			}
			if token.ExpiresIn > 0 {
				token.Expiry = time.Now().Add(time.Duration(token.ExpiresIn) * time.Second)
			}
			return &token, nil
		},
	}, nil
}
