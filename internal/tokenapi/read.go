package tokenapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v2"

	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/providers"
)

// answer is an ExecCredential, or one in a field of that name.
type answer struct {
	execCredential
	Wrapped *execCredential `json:"execCredential"`
}

type execCredential struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Status     struct {
		Token               string    `json:"token"`
		ExpirationTimestamp timestamp `json:"expirationTimestamp"`
	} `json:"status"`
}

// timestamp is an RFC 3339 time; zero if it is missing, null or empty. A provider that relays the
// answer of an older one may write it empty.
type timestamp struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (t *timestamp) UnmarshalJSON(data []byte) error {
	if string(data) == `""` {
		return nil
	}
	return t.Time.UnmarshalJSON(data)
}

// Read returns the token in an ExecCredential, wrapped or not. Some providers put a whole
// kubeconfig where the token belongs; then it is that of its current context. An end that the
// answer does not tell is taken from the token.
//
// Its errors wrap ErrUnavailable where there is no ExecCredential, as while a proxy or a portal
// answers instead, and ErrRefused where there is nothing usable in it. They repeat nothing of the
// answer.
func Read(data []byte, now time.Time) (providers.Credential, error) {
	var read answer
	if json.Unmarshal(data, &read) != nil {
		return providers.Credential{}, providers.Unavailable(0, errors.New("the answer cannot be read as an ExecCredential"))
	}
	credential := read.execCredential
	if read.Wrapped != nil {
		credential = *read.Wrapped
	}
	if credential.Kind != "ExecCredential" || !strings.HasPrefix(credential.APIVersion, "client.authentication.k8s.io/") {
		return providers.Credential{}, providers.Unavailable(0, errors.New("the answer is no ExecCredential"))
	}
	token, err := bareToken(credential.Status.Token)
	if err != nil {
		return providers.Credential{}, fmt.Errorf("%w: %w", providers.ErrRefused, err)
	}
	notAfter := expiry.Token(token, now)
	if told := credential.Status.ExpirationTimestamp; !told.IsZero() {
		notAfter = told.Time
	}
	if !notAfter.After(now) {
		return providers.Credential{}, fmt.Errorf("%w: the token in the answer expired at %s, and the time is now %s: check the clocks",
			providers.ErrRefused, notAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return providers.Credential{Token: token, NotAfter: notAfter}, nil
}

// bareToken returns what can be sent as a token: the text itself, or the token of the kubeconfig
// that it is.
func bareToken(text string) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return "", errors.New("the answer has no token: does the provider support clusters of this cloud, and is the cluster ready?")
	case isToken(text):
		return text, nil
	}
	token, err := tokenOfKubeconfig(text)
	if err != nil {
		return "", fmt.Errorf("the answer contains neither a token nor a kubeconfig with a token: %w", err)
	}
	return token, nil
}

// isToken reports whether text can be sent in a header, and is no JSON.
func isToken(text string) bool {
	return !strings.HasPrefix(text, "{") && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// kubeconfig is what is read of one. It is decoded from YAML itself: the way through JSON, which is
// more usual, writes out each alias, and makes gigabytes of some kilobytes; and version 3 of the
// decoder takes a minute to compare keys.
type kubeconfig struct {
	CurrentContext string `yaml:"current-context"`
	Contexts       []struct {
		Name    string `yaml:"name"`
		Context struct {
			User string `yaml:"user"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Users []struct {
		Name string `yaml:"name"`
		User struct {
			Token string `yaml:"token"`
		} `yaml:"user"`
	} `yaml:"users"`
}

func tokenOfKubeconfig(text string) (string, error) {
	var config kubeconfig
	if yaml.Unmarshal([]byte(text), &config) != nil {
		return "", errors.New("it cannot be read as YAML")
	}
	token, err := config.currentToken()
	if err != nil {
		return "", err
	}
	if token = strings.TrimSpace(token); token == "" || !isToken(token) {
		return "", errors.New("the kubeconfig's user has no token, or a token that an HTTP header cannot contain")
	}
	return token, nil
}

// currentToken is that of the current context's user, or of the only user there is.
func (k kubeconfig) currentToken() (string, error) {
	current := ""
	for _, c := range k.Contexts {
		if c.Name == k.CurrentContext {
			current = c.Context.User
		}
	}
	for _, u := range k.Users {
		if u.Name == current {
			return u.User.Token, nil
		}
	}
	if len(k.Users) == 1 {
		return k.Users[0].User.Token, nil
	}
	return "", fmt.Errorf("the user of the kubeconfig's current context is not in the list of its %d users", len(k.Users))
}
