package refresher

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/clocktest"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/refresher/fileset"
)

func TestParseEndpoint(t *testing.T) {
	tests := map[string]struct {
		want endpoint
		err  string
	}{
		"https://10.0.0.1:6443":            {want: endpoint{"10.0.0.1", "6443"}},
		"https://api.Example.com":          {want: endpoint{"api.example.com", "443"}},
		"https://api.example.com/":         {want: endpoint{"api.example.com", "443"}},
		"https://[2001:DB8:0::1]:6443":     {want: endpoint{"2001:db8::1", "6443"}},
		"https://[2001:db8::1]":            {want: endpoint{"2001:db8::1", "443"}},
		"https://api:06443":                {want: endpoint{"api", "6443"}},
		"http://10.0.0.1:8080":             {err: "need https"},
		"10.0.0.1:6443":                    {err: "parsing"},
		"https://":                         {err: "neither an address nor a DNS name"},
		"https://:6443":                    {err: "neither an address nor a DNS name"},
		"https://rancher/k8s/clusters/c-1": {err: "only a host and a port"},
		"https://api?x":                    {err: "only a host and a port"},
		"https://api?":                     {err: "only a host and a port"},
		"https://api#x":                    {err: "only a host and a port"},
		"https://user:pw@api":              {err: "only a host and a port"},
		"https://api:0":                    {err: "1 to 65535"},
		"https://api:65536":                {err: "1 to 65535"},
		"https://api:port":                 {err: "parsing"},
		"https://it's":                     {err: "neither an address nor a DNS name"},
		"https://a b":                      {err: "parsing"},
		"https://a%0ab":                    {err: "parsing"},
		"https://-a.b":                     {err: "neither an address nor a DNS name"},
		"https://a..b":                     {err: "neither an address nor a DNS name"},
		"https://[fe80::1%25eth0]:6443":    {err: "not an address that another node could use"},
	}
	for server, test := range tests {
		t.Run(server, func(t *testing.T) {
			got, err := parseEndpoint(server)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want one that says %q", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("%+v (error %v), want %+v", got, err, test.want)
			}
		})
	}
}

// envLines matches the file that the kubelet reads, which must contain nothing else.
var envLines = regexp.MustCompile(`\AKUBERNETES_SERVICE_HOST='[0-9a-z.:-]+'\nKUBERNETES_SERVICE_PORT='([1-9][0-9]*)'\nKUBERNETES_SERVICE_PORT_HTTPS='([1-9][0-9]*)'\n\z`)

func FuzzParseEndpoint(f *testing.F) {
	for _, seed := range []string{oldServer, newServer, "https://api.example.com/", "https://it's:1", "https://a\nb", "https://[::ffff:1.2.3.4]", "https://[fe80::1%25a'b]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, server string) {
		e, err := parseEndpoint(server)
		if err != nil {
			return
		}
		if !envLines.Match(e.env()) {
			t.Errorf("the env file is %q", e.env())
		}
		if again, err := parseEndpoint(e.String()); err != nil || again != e {
			t.Errorf("%v parses as %v (error %v)", e, again, err)
		}
	})
}

func TestParseCredentialRefuses(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ca := newCA(t)
	certificate, key := newPair(t)
	tests := map[string]struct {
		change func(a *wire.ExecCredential)
		want   string
	}{
		"proxy delivery": {func(a *wire.ExecCredential) { a.Spec.Cluster.Config.Delivery = "Proxy" }, "now needs delivery by proxy"},
		"no delivery":    {func(a *wire.ExecCredential) { a.Spec.Cluster.Config.Delivery = "" }, `"" is not supported by this version`},
		"client certificate": {func(a *wire.ExecCredential) {
			a.Status.Token, a.Status.ClientCertificateData, a.Status.ClientKeyData = "", certificate, key
		}, "the credential is a client certificate"},
		"no pair":            {func(a *wire.ExecCredential) { a.Status.ClientCertificateData = certificate }, "do not belong together"},
		"server name":        {func(a *wire.ExecCredential) { a.Spec.Cluster.TLSServerName = "api" }, "TLS server name"},
		"proxy":              {func(a *wire.ExecCredential) { a.Spec.Cluster.ProxyURL = "http://proxy" }, "or proxy"},
		"other version":      {func(a *wire.ExecCredential) { a.APIVersion += "beta1" }, "is --broker the broker?"},
		"path in the server": {func(a *wire.ExecCredential) { a.Spec.Cluster.Server += "/k8s" }, "only a host and a port"},
		"no token":           {func(a *wire.ExecCredential) { a.Status.Token = "" }, "neither a token nor a client certificate"},
		"newline in token":   {func(a *wire.ExecCredential) { a.Status.Token = "secret\n" }, "not valid in an HTTP header"},
		"no CA":              {func(a *wire.ExecCredential) { a.Spec.Cluster.CertificateAuthorityData = nil }, "CA of the endpoint is missing"},
		"CA is not PEM":      {func(a *wire.ExecCredential) { a.Spec.Cluster.CertificateAuthorityData = []byte("x") }, "CA of the endpoint is missing"},
		"no namespace":       {func(a *wire.ExecCredential) { a.Spec.Cluster.Config.Namespace = "" }, "not the name of a namespace"},
		"namespace's line":   {func(a *wire.ExecCredential) { a.Spec.Cluster.Config.Namespace = "a\n" }, "not the name of a namespace"},
		"no end":             {func(a *wire.ExecCredential) { a.Status.ExpirationTimestamp = time.Time{} }, "already ended"},
		"at its end":         {func(a *wire.ExecCredential) { a.Status.ExpirationTimestamp = now }, "already ended"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := answer("secret", now, time.Hour)
			a.Spec.Cluster.CertificateAuthorityData = ca
			test.change(&a)
			body, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			c, err := parse(body, now)
			if err == nil {
				err = c.tellDirectly()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells the token: %v", err)
			}
		})
	}
}

// parse parses a response that was received when it was sent.
func parse(body []byte, now time.Time) (credential, error) {
	a, err := parseAnswer(body)
	if err != nil {
		return credential{}, err
	}
	return brokerCredential(a, now, now)
}

// TestClockOfThePodIsSet checks that a credential's expiry and renewal depend only on the broker's
// lifetimes.
func TestClockOfThePodIsSet(t *testing.T) {
	for _, by := range []time.Duration{10 * time.Minute, -10 * time.Minute, 24 * time.Hour, -24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			clock, sent := clocktest.New(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			a := answer("token", sent, time.Hour)
			a.Spec.Cluster.CertificateAuthorityData = newCA(t)
			c, err := brokerCredential(a, sent, clock.Now())
			if err != nil {
				t.Fatal(err)
			}
			var h health
			h.written(clock.Now(), c.notAfter)
			clock.Set(by)
			clock.Pass(20 * time.Minute)
			if got := c.refreshAt.Sub(clock.Now()); got != 10*time.Minute {
				t.Errorf("after 20 minutes, it is to be renewed in %v", got)
			}
			clock.Pass(40*time.Minute - 1)
			if problem := h.problem(clock.Now()); problem != "" {
				t.Errorf("just before its end: %s", problem)
			}
			clock.Pass(1)
			if h.problem(clock.Now()) == "" {
				t.Error("nobody is told of its end")
			}
		})
	}
}

// FuzzParseCredential checks that an accepted credential can be written, and waited for.
func FuzzParseCredential(f *testing.F) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	good := answer("token", now, time.Hour)
	good.Spec.Cluster.CertificateAuthorityData = []byte(fuzzCA)
	body, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add(bytes.Replace(body, []byte("token\""), []byte(`to\nken"`), 1))
	f.Add([]byte(`{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parse(body, now)
		if err != nil {
			return
		}
		if c.tellDirectly() != nil {
			return
		}
		files, err := c.files(c.target.Token, c.target.CA)
		if err != nil {
			t.Fatalf("accepted, but cannot be written: %v", err)
		}
		state, err := parseState(files)
		if err != nil || state.Endpoint != c.endpoint.String() || state.NotAfter.After(c.notAfter) {
			t.Errorf("state is %+v (error %v) of %+v", state, err, c)
		}
		for _, name := range []string{tokenFile, namespaceFile} {
			if bytes.ContainsAny(files[name], " \n\r\t\x00") {
				t.Errorf("%s is %q", name, files[name])
			}
		}
		if !envLines.Match(files[envFile]) {
			t.Errorf("the env file is %q", files[envFile])
		}
	})
}

func TestRefreshWait(t *testing.T) {
	tests := map[string]struct {
		untilRefresh, untilEnd time.Duration
		jitter                 float64
		want                   time.Duration
	}{
		"at refreshAt":             {30 * time.Minute, time.Hour, 0, 30 * time.Minute},
		"and up to a tenth later":  {30 * time.Minute, time.Hour, 1, 33 * time.Minute},
		"short life":               {10 * time.Second, 20 * time.Second, 1, 11 * time.Second},
		"soon":                     {time.Millisecond, time.Hour, 0, minWait},
		"overdue":                  {-time.Minute, time.Hour, 0, pollInterval},
		"overdue, soon urgent":     {-time.Minute, expiry.UrgentPeriod + 20*time.Second, 0, 20 * time.Second},
		"overdue, urgent":          {-time.Minute, expiry.UrgentPeriod, 0, urgentInterval},
		"overdue, with jitter":     {-time.Minute, time.Second, 1, urgentInterval * 3 / 4},
		"overdue, at its end":      {-time.Minute, -time.Minute, 0, urgentInterval},
		"refresh after the end":    {time.Hour, time.Minute, 1, time.Hour},
		"broker's times are crazy": {-1 << 63, -1 << 63, 1, urgentInterval * 3 / 4},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := refreshWait(test.untilRefresh, test.untilEnd, test.jitter); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestBackOff(t *testing.T) {
	for failures, ceiling := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: maxBackOff, 1 << 40: maxBackOff} {
		if low, high := backOff(failures, 0, 0), backOff(failures, 0, 1); low != 0 || high != ceiling {
			t.Errorf("after %d failures: from %v to %v, want 0 to %v", failures, low, high, ceiling)
		}
	}
	if got := backOff(1, time.Hour, 0); got != maxBackOff/2 {
		t.Errorf("asked to wait for an hour: %v", got)
	}
}

func TestNewNamesTheFlag(t *testing.T) {
	tests := map[string]struct {
		change func(c *Config)
		want   string
	}{
		"no broker":             {func(c *Config) { c.Broker = "" }, "--broker"},
		"plain http":            {func(c *Config) { c.Broker = "http://broker" }, "use https://"},
		"path":                  {func(c *Config) { c.Broker += "/v1" }, "use https://"},
		"user in the URL":       {func(c *Config) { c.Broker = "https://a:b@c" }, "use https://"},
		"address is a name":     {func(c *Config) { c.BrokerAddress = "broker" }, "--broker-address"},
		"no target":             {func(c *Config) { c.Target = "" }, "--target"},
		"target is a name":      {func(c *Config) { c.Target = "tenant-1" }, "NAMESPACE/NAME"},
		"target is a path":      {func(c *Config) { c.Target = "a/b/c" }, "NAMESPACE/NAME"},
		"namespace":             {func(c *Config) { c.Namespace = "A_B" }, "--namespace"},
		"mode":                  {func(c *Config) { c.OnEndpointChange = "reload" }, "use restart or ignore"},
		"endpoint with restart": {func(c *Config) { c.Endpoint = oldServer }, "--endpoint is for"},
		"negative spread":       {func(c *Config) { c.RestartSpread = -1 }, "--restart-spread"},
		"ignore without":        {func(c *Config) { c.OnEndpointChange = Ignore }, "--endpoint, needed with"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			config := newWorld(t).config
			test.change(&config)
			if _, err := New(config); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
		})
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		result := make(chan error, 1)
		go func() { result <- Wait(t.Context(), w.config.CredentialsDir, w.config.TerminationLog) }()
		pass(time.Second)
		select {
		case err := <-result:
			t.Fatalf("returned without files: %v", err)
		default:
		}

		c := credential{endpoint: endpoint{"10.0.0.1", "6443"}, namespace: "default", notAfter: time.Now()}
		write := func() {
			files, err := c.files("token", []byte("ca"))
			if err != nil {
				t.Fatal(err)
			}
			if err := fileset.Write(w.config.CredentialsDir, files); err != nil {
				t.Fatal(err)
			}
		}
		write()
		pass(time.Second)
		select {
		case err := <-result:
			t.Fatalf("returned with a credential that has ended: %v", err)
		default:
		}

		c.notAfter = time.Now().Add(time.Hour)
		write()
		pass(waitInterval)
		select {
		case err := <-result:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("did not return with a valid credential")
		}
	})
}

func TestWaitWithoutAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := Wait(ctx, dir, filepath.Join(dir, "log")); err == nil || !strings.Contains(err.Error(), "no reason was given") {
			t.Errorf("error %v", err)
		}
	})
}

func TestTerminationMessageFits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := writeTerminationLog(path, "a"+strings.Repeat("é", maxTerminationMessage)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "a" + strings.Repeat("é", (maxTerminationMessage-1)/2); string(got) != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
}

// fuzzCA is a certificate that signs nothing; seeds have to be the same each time.
const fuzzCA = `-----BEGIN CERTIFICATE-----
MIIBJDCBy6ADAgECAgEBMAoGCCqGSM49BAMCMAAwIhgPMDAwMTAxMDEwMDAwMDBa
GA8yMTAwMDEwMTAwMDAwMFowADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJ4f
xjrVNFoiQZ+mpGujPLEZr53DJraM0bDAkwL5xA32S6JknHARK9tQbVlRJuJf17tL
2oByvuzCbAf2OLdpe1qjMjAwMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFHaK
AhnIHF6ND0Ti3AtyjYWV11+AMAoGCCqGSM49BAMCA0gAMEUCIQD0kPZLw/aJU3pc
yTn9oZxwcQs6yXavcJU8qgYFCucYSQIgBY0myC+CRx7a/wc8zZuy25ffMY0BSgeE
pyX4HO1u0sU=
-----END CERTIFICATE-----
`
