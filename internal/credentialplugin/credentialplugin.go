// Package credentialplugin runs credential plugins: programs that print an ExecCredential, as
// client-go runs them for kubeconfigs
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins).
//
// client-go waits for a plugin as long as it takes, and reads all that it prints. Here both have
// limits. The refresher runs plugins, too, hence the standard library only.
package credentialplugin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/providers"
)

const (
	// DefaultTimeout leaves the application's start, which waits 30 seconds for a credential, time for
	// the rest.
	DefaultTimeout = 20 * time.Second
	// maxAnswer bounds what a plugin may print.
	maxAnswer = 1 << 20
	// maxSaid is how much of the end of its standard error is repeated, and maxHeard how much is
	// looked through for secrets before.
	maxSaid  = 1 << 10
	maxHeard = 64 << 10
	// drain is how long output is still read that a process holds open which outlived the plugin.
	drain = time.Second
)

// kind of question and answer.
const kind = "ExecCredential"

// Plugin is a program, and how it is asked.
type Plugin struct {
	// Command is the path of the program, Args are its arguments. No shell has to do with either.
	Command string
	Args    []string
	// Env is the whole environment, as NAME=value; nil is that of this process. The question comes on
	// top.
	Env []string
	// Secrets are hidden where the program repeats them in what it says of a failure.
	Secrets []string
	// APIVersion is that of the question, and has to be that of the answer.
	APIVersion string
	// Timeout is after how long the program, with all that it has started, is killed. Zero means
	// DefaultTimeout.
	Timeout time.Duration
}

// Cluster is what a plugin may be told of the cluster that the credential is for.
type Cluster struct {
	Server                   string `json:"server"`
	TLSServerName            string `json:"tls-server-name,omitempty"`
	CertificateAuthorityData []byte `json:"certificate-authority-data,omitempty"`
	ProxyURL                 string `json:"proxy-url,omitempty"`
	// Config is for the plugin alone: any JSON, or nothing.
	Config json.RawMessage `json:"config,omitempty"`
}

type question struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       spec   `json:"spec"`
}

type spec struct {
	Cluster     *Cluster `json:"cluster,omitempty"`
	Interactive bool     `json:"interactive"`
}

type answer struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Status     *status `json:"status"`
}

type status struct {
	ExpirationTimestamp   *time.Time `json:"expirationTimestamp"`
	Token                 string     `json:"token"`
	ClientCertificateData string     `json:"clientCertificateData"`
	ClientKeyData         string     `json:"clientKeyData"`
}

// Run runs the program once and returns what it printed; cluster is nil for plugins that are told
// nothing. An end that the answer does not tell is taken from the credential itself.
//
// Its errors wrap providers.ErrRefused where the answer is of no use, and providers.ErrUnavailable
// where there is none. They hold the end of what the program wrote to standard error, and nothing
// of what it printed.
func (p Plugin) Run(ctx context.Context, cluster *Cluster) (providers.Credential, error) {
	asked, err := json.Marshal(question{APIVersion: p.APIVersion, Kind: kind, Spec: spec{Cluster: cluster}})
	if err != nil {
		return providers.Credential{}, p.refused("%w", err)
	}
	printed, err := p.run(ctx, "KUBERNETES_EXEC_INFO="+string(asked))
	if err != nil {
		return providers.Credential{}, err
	}
	return p.read(printed, time.Now())
}

func (p Plugin) refused(format string, args ...any) error {
	return fmt.Errorf("%w: plugin %s: %w", providers.ErrRefused, p.Command, fmt.Errorf(format, args...))
}

// run returns what the program printed.
func (p Plugin) run(ctx context.Context, asked string) ([]byte, error) {
	timeout := p.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, end := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it has not ended within %s", timeout))
	defer end()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	printed := output{tooMuch: func() { stop(fmt.Errorf("it prints more than %d KiB", maxAnswer>>10)) }}
	var said tail
	cmd := exec.CommandContext(ctx, p.Command, p.Args...) //nolint:gosec // the operator's command, never a user's
	if cmd.Env = p.Env; p.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], asked)
	cmd.Stdout, cmd.Stderr = &printed, &said
	inGroup(cmd)
	cmd.WaitDelay = drain
	err := cmd.Run()
	if cmd.Process != nil {
		sweep(cmd.Process.Pid)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: the program or its loader does not exist: plugins must be static programs", err)
	case errors.Is(err, syscall.E2BIG):
		return nil, p.refused("its arguments and environment are too long for a process: use a shorter CA bundle or config of the cluster")
	case errors.Is(err, exec.ErrWaitDelay):
		err = errors.New("the program has ended, but another process that it started still writes to the same output")
	}
	if err != nil {
		return nil, providers.Unavailable(0, fmt.Errorf("plugin %s: %w%s", p.Command, err, said.quoted(p.Secrets)))
	}
	return printed.text, nil
}

// read returns the credential in what was printed.
func (p Plugin) read(printed []byte, now time.Time) (providers.Credential, error) {
	var a answer
	// The decoder's own words may quote a credential.
	if err := json.Unmarshal(printed, &a); err != nil {
		return providers.Credential{}, p.refused("it did not print an %s as JSON", kind)
	}
	switch {
	case a.Kind != kind:
		return providers.Credential{}, p.refused("it printed no %s", kind)
	case a.APIVersion != p.APIVersion:
		return providers.Credential{}, p.refused("it printed an %s of apiVersion %.64q, and was asked for %s: correct apiVersion in the provider file", kind, a.APIVersion, p.APIVersion)
	case a.Status == nil || a.Status.Token == "" && a.Status.ClientCertificateData == "" && a.Status.ClientKeyData == "":
		return providers.Credential{}, p.refused("it printed an %s without a credential", kind)
	case (a.Status.ClientCertificateData == "") != (a.Status.ClientKeyData == ""):
		return providers.Credential{}, p.refused("of clientCertificateData and clientKeyData it printed only one")
	case strings.ContainsFunc(a.Status.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return providers.Credential{}, p.refused("it printed a token with blanks, line ends or other characters that an HTTP header cannot contain")
	case a.Status.ClientKeyData != "" && !a.Status.isPair():
		return providers.Credential{}, p.refused("clientCertificateData and clientKeyData that it printed are not a certificate and its key")
	}
	credential, err := a.Status.credential(now)
	if err != nil {
		return providers.Credential{}, p.refused("%w", err)
	}
	if !credential.NotAfter.After(now) {
		return providers.Credential{}, p.refused("it printed a credential that expired at %s, and the time is now %s: check the clocks",
			credential.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return credential, nil
}

func (s status) isPair() bool {
	_, err := tls.X509KeyPair([]byte(s.ClientCertificateData), []byte(s.ClientKeyData))
	return err == nil
}

// credential is the token if there is one: with a certificate beside it, either is enough for an
// API server.
func (s status) credential(now time.Time) (c providers.Credential, err error) {
	if s.Token != "" {
		c.Token, c.NotAfter = s.Token, expiry.Token(s.Token, now)
	} else {
		c.ClientCertificate, c.ClientKey = []byte(s.ClientCertificateData), []byte(s.ClientKeyData)
		if c.NotAfter, err = expiry.Certificate(c.ClientCertificate); err != nil {
			return c, fmt.Errorf("reading clientCertificateData: %w", err)
		}
	}
	if s.ExpirationTimestamp != nil {
		c.NotAfter = *s.ExpirationTimestamp
	}
	return c, nil
}

// output is what a program prints, up to maxAnswer.
type output struct {
	text    []byte
	tooMuch func()
}

func (o *output) Write(b []byte) (int, error) {
	if len(o.text)+len(b) > maxAnswer {
		o.tooMuch()
		return 0, errors.New("too much")
	}
	o.text = append(o.text, b...)
	return len(b), nil
}

// tail keeps the end of what is written to it.
type tail struct{ end []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.end = append(t.end, b[max(0, len(b)-maxHeard):]...)
	t.end = append(t.end[:0], t.end[max(0, len(t.end)-maxHeard):]...)
	return len(b), nil
}

// withoutTokens hides JWTs, and the tokens of clouds that have a form of their own. It is not done
// by regular expressions: they would make each Pod's refresher a quarter of a megabyte larger.
func withoutTokens(text string) string {
	for _, form := range append(providers.TokenForms(), providers.TokenForm{Prefix: "eyJ"}) {
		var kept strings.Builder
		for {
			before, rest, found := strings.Cut(text, form.Prefix)
			kept.WriteString(before)
			if !found {
				break
			}
			kept.WriteString("[token]")
			text = strings.TrimLeft(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.+/=")
		}
		text = kept.String()
	}
	return text
}

// quoted is the end of what was said, as the end of a message: in one line, of printable
// characters, without secrets and tokens.
func (t *tail) quoted(secrets []string) string {
	said := string(t.end)
	for _, secret := range secrets {
		said = strings.ReplaceAll(said, secret, "[hidden]")
	}
	said = withoutTokens(said)
	said = strings.ToValidUTF8(said[max(0, len(said)-maxSaid):], "")
	line := strings.Join(strings.FieldsFunc(said, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if line == "" {
		return ""
	}
	return ": it says: " + line
}
