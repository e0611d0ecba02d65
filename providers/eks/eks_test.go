package eks_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-iam-authenticator/pkg/token"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/eks"
	"github.com/keyferry/keyferry/providers/eks/ststest"
	"github.com/keyferry/keyferry/providers/providertest"
)

const (
	role    = "arn:aws:iam::123456789012:role/keyferry"
	user    = "arn:aws:iam::123456789012:user/keyferry"
	planted = "planted-secret"
	session = "planted+session/token="
	subject = "planted-subject-token"
)

var request = providers.Request{
	Identity:     providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "1", PodName: "web-0", PodUID: "a"},
	SubjectToken: subject,
}

// newSTS knows the user, who may assume the role, as may the Pod.
func newSTS(t *testing.T) *ststest.Server {
	s := ststest.New(t)
	s.Keys["AKIA1"] = ststest.Key{Secret: planted, SessionToken: session, ARN: user}
	s.Trust[role] = []string{user, subject}
	return s
}

func config(identity eks.Identity, role string) eks.Config {
	cfg := eks.Config{
		ClusterName: "tenant-1",
		Region:      "eu-central-1",
		Identity:    identity,
		RoleARN:     role,
		Egress:      endpoint.Policy{AllowLocal: true},
	}
	if identity == eks.Secret {
		cfg.Secret = "fleet/keys"
		cfg.Data = map[string][]byte{"accessKeyID": []byte("AKIA1"), "secretAccessKey": []byte(planted), "sessionToken": []byte(session)}
	}
	return cfg
}

func provider(t *testing.T, cfg eks.Config, s *ststest.Server) *eks.Provider {
	t.Helper()
	p, err := eks.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.Through(s.Transport)
	return p
}

func issue(t *testing.T, p *eks.Provider) providers.Credential {
	t.Helper()
	got, err := p.Issue(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// verify has the authenticator of EKS clusters judge a token. It asks STS by the transport that all
// share.
func verify(t *testing.T, s *ststest.Server, cluster, partition, region, issued string) (*token.Identity, error) {
	t.Helper()
	shared := http.DefaultTransport
	http.DefaultTransport = s.Transport(shared)
	defer func() { http.DefaultTransport = shared }()
	return token.NewVerifier(cluster, partition, region).Verify(issued)
}

// ambient makes the process one with an identity at AWS.
func ambient(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIA1")
	t.Setenv("AWS_SECRET_ACCESS_KEY", planted)
	t.Setenv("AWS_SESSION_TOKEN", session)
}

func TestTheAuthenticatorAccepts(t *testing.T) {
	ambient(t)
	for name, test := range map[string]struct {
		identity eks.Identity
		role     string
		arn      string
	}{
		"Secret":           {eks.Secret, "", user},
		"Secret and role":  {eks.Secret, role, "arn:aws:sts::123456789012:assumed-role/keyferry/keyferry.tenant-1"},
		"Ambient":          {eks.Ambient, "", user},
		"Ambient and role": {eks.Ambient, role, "arn:aws:sts::123456789012:assumed-role/keyferry/keyferry.tenant-1"},
		"WorkloadIdentity": {eks.Workload, role, "arn:aws:sts::123456789012:assumed-role/keyferry/app.web"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSTS(t)
			s.Host = "sts.eu-central-1.amazonaws.com"
			before := time.Now()
			got := issue(t, provider(t, config(test.identity, test.role), s))
			identity, err := verify(t, s, "tenant-1", "aws", "eu-central-1", got.Token)
			if err != nil {
				t.Fatal(err)
			}
			if identity.ARN != test.arn {
				t.Errorf("the cluster sees %s, want %s", identity.ARN, test.arn)
			}
			if life := got.NotAfter.Sub(before); life <= eks.Life-2*time.Second || life > eks.Life+time.Minute {
				t.Errorf("ends after %v, want %v", life, eks.Life)
			}
			if _, err := verify(t, s, "tenant-2", "aws", "eu-central-1", got.Token); err == nil {
				t.Error("another cluster accepts it, too")
			}
		})
	}
}

func TestRegions(t *testing.T) {
	for name, test := range map[string]struct {
		region, partition string
		fips              bool
		host              string
	}{
		"regional":           {"ap-northeast-2", "aws", false, "sts.ap-northeast-2.amazonaws.com"},
		"us-east-1":          {"us-east-1", "aws", false, "sts.us-east-1.amazonaws.com"},
		"FIPS":               {"us-east-1", "aws", true, "sts-fips.us-east-1.amazonaws.com"},
		"China":              {"cn-north-1", "aws-cn", false, "sts.cn-north-1.amazonaws.com.cn"},
		"GovCloud":           {"us-gov-west-1", "aws-us-gov", false, "sts.us-gov-west-1.amazonaws.com"},
		"GovCloud, FIPS":     {"us-gov-west-1", "aws-us-gov", true, "sts.us-gov-west-1.amazonaws.com"},
		"ISO":                {"us-iso-east-1", "aws-iso", false, "sts.us-iso-east-1.c2s.ic.gov"},
		"ISOB":               {"us-isob-east-1", "aws-iso-b", false, "sts.us-isob-east-1.sc2s.sgov.gov"},
		"European sovereign": {"eusc-de-east-1", "aws-eusc", false, "sts.eusc-de-east-1.amazonaws.eu"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSTS(t)
			s.Host = test.host
			arn := strings.Replace(role, ":aws:", ":"+test.partition+":", 1)
			s.Trust[arn] = []string{user}
			cfg := config(eks.Secret, arn)
			cfg.Region, cfg.FIPS = test.region, test.fips
			if _, err := verify(t, s, "tenant-1", test.partition, test.region, issue(t, provider(t, cfg, s)).Token); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTheProcessHasNoPart: what the SDK would read of the process's environment and files changes
// nothing.
func TestTheProcessHasNoPart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	content := "[default]\nregion = us-east-1\nuse_fips_endpoint = true\nendpoint_url = https://planted.example.com\nrole_arn = arn:aws:iam::1:role/other\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID":                  "AKIAOTHER",
		"AWS_SECRET_ACCESS_KEY":              "other",
		"AWS_SESSION_TOKEN":                  "other",
		"AWS_REGION":                         "us-east-1",
		"AWS_DEFAULT_REGION":                 "us-east-1",
		"AWS_ENDPOINT_URL":                   "https://planted.example.com",
		"AWS_ENDPOINT_URL_STS":               "https://planted.example.com",
		"AWS_USE_FIPS_ENDPOINT":              "true",
		"AWS_USE_DUALSTACK_ENDPOINT":         "true",
		"AWS_STS_REGIONAL_ENDPOINTS":         "legacy",
		"AWS_CONFIG_FILE":                    file,
		"AWS_SHARED_CREDENTIALS_FILE":        file,
		"AWS_PROFILE":                        "missing",
		"AWS_ROLE_ARN":                       "arn:aws:iam::1:role/other",
		"AWS_ROLE_SESSION_NAME":              "other",
		"AWS_WEB_IDENTITY_TOKEN_FILE":        "/missing",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
		"AWS_MAX_ATTEMPTS":                   "9",
		"AWS_DEFAULTS_MODE":                  "auto",
	} {
		t.Setenv(name, value)
	}
	for _, identity := range []eks.Identity{eks.Secret, eks.Workload} {
		t.Run(string(identity), func(t *testing.T) {
			s := newSTS(t)
			s.Host = "sts.eu-central-1.amazonaws.com"
			got := issue(t, provider(t, config(identity, role), s))
			if _, err := verify(t, s, "tenant-1", "aws", "eu-central-1", got.Token); err != nil {
				t.Error(err)
			}
			if asked := s.Asked(); len(asked) != 1 || asked[0].Get("RoleArn") != role {
				t.Errorf("STS was asked %v", asked)
			}
		})
	}
}

func TestEndsWithTheCredentialThatSigns(t *testing.T) {
	s := newSTS(t)
	cfg := config(eks.Secret, role)
	at := time.Now().Truncate(time.Second)
	cfg.Now = func() time.Time { return at }
	s.Now = func() time.Time { return at.Add(-10 * time.Minute) } // a role's credential ends 15 minutes later
	if got := issue(t, provider(t, cfg, s)).NotAfter.Sub(at); got != 5*time.Minute {
		t.Errorf("ends after %v, want 5m", got)
	}
	cfg.RoleARN = ""
	if got := issue(t, provider(t, cfg, s)).NotAfter.Sub(at); got != eks.Life {
		t.Errorf("without a role it ends after %v, want %v", got, eks.Life)
	}
}

func TestTooLong(t *testing.T) {
	s := newSTS(t)
	s.Pad = 3000
	_, err := provider(t, config(eks.Secret, role), s).Issue(t.Context(), request)
	if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), "longer than the 4096 bytes that EKS accepts") {
		t.Errorf("got %v", err)
	}
	s.Pad = 1500
	if got := issue(t, provider(t, config(eks.Secret, role), s)); len(got.Token) > 4096 {
		t.Errorf("issued %d bytes", len(got.Token))
	}
}

func TestSessionName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, test := range map[string]struct{ namespace, account, want string }{
		"both":     {"app", "web", "app.web"},
		"longest":  {"app", strings.Repeat("w", 60), "app." + strings.Repeat("w", 60)},
		"too long": {long, "web", strings.Repeat("a", 51) + "-8b5ff4df1d3a"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := eks.SessionName(test.namespace, test.account); got != test.want || len(got) > 64 {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
	if eks.SessionName(long, "web") == eks.SessionName(long, "web-2") {
		t.Error("two ServiceAccounts have one name")
	}
}

func TestShares(t *testing.T) {
	other := request
	other.Identity.ServiceAccountUID = "2"
	s := newSTS(t)
	for identity, shared := range map[eks.Identity]bool{eks.Secret: true, eks.Ambient: true, eks.Workload: false} {
		p := provider(t, config(identity, role), s)
		if (p.ShareKey(request) == p.ShareKey(other)) != shared {
			t.Errorf("%s is shared by ServiceAccounts of one name: %v", identity, !shared)
		}
	}
}

func TestConformance(t *testing.T) {
	for _, identity := range []eks.Identity{eks.Secret, eks.Workload, eks.Ambient} {
		t.Run(string(identity), func(t *testing.T) {
			ambient(t)
			secrets := []string{planted, session}
			if identity == eks.Workload {
				secrets = []string{subject}
			}
			failing := func(status int, code string) func(*testing.T) providers.Provider {
				return func(t *testing.T) providers.Provider {
					s := newSTS(t)
					s.Fail = func(w http.ResponseWriter, _ *http.Request) bool {
						w.Header().Set("Retry-After", "7")
						ststest.Error(w, status, code, "you said "+strings.Join(secrets, " and "))
						return true
					}
					return provider(t, config(identity, role), s)
				}
			}
			providertest.Run(t, providertest.Suite{
				New:         func(t *testing.T) providers.Provider { return provider(t, config(identity, role), newSTS(t)) },
				Refused:     failing(403, "AccessDenied"),
				Unavailable: failing(400, "Throttling"),
				RetryAfter:  7 * time.Second,
				Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
					asked := make(chan struct{})
					s := newSTS(t)
					s.Fail = func(_ http.ResponseWriter, req *http.Request) bool {
						close(asked)
						<-req.Context().Done()
						return true
					}
					return provider(t, config(identity, role), s), asked
				},
				Secrets: secrets,
				Request: request,
			})
		})
	}
}

func TestWhatAWSRefuses(t *testing.T) {
	answers := func(status int, code string) func(*ststest.Server, *eks.Config) {
		return func(s *ststest.Server, _ *eks.Config) {
			s.Fail = func(w http.ResponseWriter, _ *http.Request) bool {
				ststest.Error(w, status, code, "of the service")
				return true
			}
		}
	}
	page := func(status int) func(*ststest.Server, *eks.Config) {
		return func(s *ststest.Server, _ *eks.Config) {
			s.Fail = func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(status)
				_, _ = w.Write([]byte("<html>" + planted))
				return true
			}
		}
	}
	for name, test := range map[string]struct {
		identity eks.Identity
		change   func(*ststest.Server, *eks.Config)
		want     error
		says     string
	}{
		"key": {eks.Secret, func(s *ststest.Server, _ *eks.Config) { s.Keys = map[string]ststest.Key{} }, providers.ErrRefused, "check accessKeyID and secretAccessKey in Secret fleet/keys"},
		"signature": {eks.Secret, func(s *ststest.Server, _ *eks.Config) {
			s.Keys["AKIA1"] = ststest.Key{Secret: "x", SessionToken: session}
		}, providers.ErrRefused, "SignatureDoesNotMatch: The Canonical String should have been x x-amz-security-token:[credential]: check accessKeyID"},
		"no trust": {eks.Secret, func(s *ststest.Server, _ *eks.Config) { s.Trust = nil }, providers.ErrRefused, "assuming role " + role + " at https://sts.eu-central-1.amazonaws.com: AccessDenied: " + user + " is not authorized to perform: sts:AssumeRole: let the role's trust policy"},
		"no tags": {eks.Secret, func(s *ststest.Server, _ *eks.Config) {
			s.Fail = func(w http.ResponseWriter, _ *http.Request) bool {
				ststest.Error(w, 403, "AccessDenied", "User: arn:aws:sts::1:assumed-role/a/b is not authorized to perform: sts:TagSession on resource: "+role)
				return true
			}
		}, providers.ErrRefused, "sts:TagSession on resource: " + role + ": let the role's trust policy allow sts:TagSession, too"},
		"no trust in the Pod": {eks.Workload, func(s *ststest.Server, _ *eks.Config) { s.Trust = nil }, providers.ErrRefused, "allow sts:AssumeRoleWithWebIdentity to system:serviceaccount:app:web"},
		"no OIDC provider":    {eks.Workload, answers(400, "InvalidIdentityToken"), providers.ErrRefused, "an OIDC provider in the role's account, with the audience sts.amazonaws.com"},
		"ended":               {eks.Secret, answers(403, "ExpiredToken"), providers.ErrRefused, "renew the keys in Secret fleet/keys"},
		"ended, of the Pod":   {eks.Workload, answers(400, "ExpiredTokenException"), providers.ErrRefused, "check the clocks"},
		"region":              {eks.Secret, answers(403, "RegionDisabledException"), providers.ErrRefused, "enable STS in region eu-central-1"},
		"issuer away":         {eks.Workload, answers(400, "IDPCommunicationError"), providers.ErrUnavailable, "IDPCommunicationError: of the service"},
		"throttled":           {eks.Secret, answers(400, "ThrottlingException"), providers.ErrUnavailable, "ThrottlingException"},
		"internal":            {eks.Secret, answers(500, "InternalFailure"), providers.ErrUnavailable, "InternalFailure"},
		"a proxy's page":      {eks.Secret, page(403), providers.ErrUnavailable, "the answer, 403 Forbidden, does not come from AWS"},
		"a proxy's error":     {eks.Secret, page(502), providers.ErrUnavailable, "the answer, 502 Bad Gateway, does not come from AWS"},
		"no credential":       {eks.Secret, page(200), providers.ErrUnavailable, "does not come from AWS"},
		"an address":          {eks.Secret, func(_ *ststest.Server, c *eks.Config) { c.Egress = endpoint.Policy{} }, providers.ErrRefused, "127.0.0.1 is a loopback address"},
	} {
		t.Run(name, func(t *testing.T) {
			s, cfg := newSTS(t), config(test.identity, role)
			test.change(s, &cfg)
			_, err := provider(t, cfg, s).Issue(t.Context(), request)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want that it is %q and says %q", err, test.want, test.says)
			}
			if err != nil && strings.Contains(err.Error(), "planted") {
				t.Errorf("a secret is in %v", err)
			}
		})
	}
}

func TestWithoutTheTokenOfAPod(t *testing.T) {
	s := newSTS(t)
	_, err := provider(t, config(eks.Workload, role), s).Issue(t.Context(), providers.Request{Identity: request.Identity})
	if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), "a token of the Pod for the audience sts.amazonaws.com") {
		t.Errorf("got %v", err)
	}
	if len(s.Asked()) != 0 {
		t.Error("AWS was asked")
	}
}

func TestNoIdentityOfTheProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("[profile broken]\ncredential_process = echo "+planted+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for profile, want := range map[string]error{"": providers.ErrUnavailable, "missing": providers.ErrRefused, "broken": providers.ErrUnavailable} {
		t.Setenv("AWS_PROFILE", profile)
		_, err := provider(t, config(eks.Ambient, ""), newSTS(t)).Issue(t.Context(), request)
		if !errors.Is(err, want) || strings.Contains(err.Error(), planted) || !strings.Contains(err.Error(), "the identity that this process has at AWS") {
			t.Errorf("profile %q: got %v, want that it is %q", profile, err, want)
		}
	}
}

func TestOutageAndRecovery(t *testing.T) {
	s := newSTS(t)
	down := false
	s.Fail = func(w http.ResponseWriter, _ *http.Request) bool {
		if down {
			ststest.Error(w, 503, "ServiceUnavailable", "soon")
		}
		return down
	}
	p := provider(t, config(eks.Secret, role), s)
	for _, down = range []bool{false, true, false} {
		switch _, err := p.Issue(t.Context(), request); {
		case down && !errors.Is(err, providers.ErrUnavailable):
			t.Errorf("while it is down: %v", err)
		case !down && err != nil:
			t.Errorf("while it is up: %v", err)
		}
	}
	s.Close()
	if _, err := p.Issue(t.Context(), request); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("while it is away: %v", err)
	}
}

func TestInstancesAreIndependent(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	one, other := config(eks.Secret, ""), config(eks.Secret, "")
	other.ClusterName, other.Region, other.FIPS = "tenant-2.example.com", "us-east-1", true
	other.Data["secretAccessKey"] = []byte("other")
	one.Now, other.Now = func() time.Time { return at }, func() time.Time { return at }
	s := newSTS(t)
	p := provider(t, one, s)
	before := issue(t, p).Token
	if issue(t, provider(t, other, s)).Token == before {
		t.Error("another cluster, region and key made the same token")
	}
	if issue(t, p).Token != before {
		t.Error("the first makes another token now")
	}
}

// TestForm holds a token to what the authenticator's documentation says of it.
func TestForm(t *testing.T) {
	cfg := config(eks.Secret, "")
	cfg.Now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 999, time.UTC) }
	encoded, ok := strings.CutPrefix(issue(t, provider(t, cfg, newSTS(t))).Token, "k8s-aws-v1.")
	decoded, err := base64.RawURLEncoding.DecodeString(encoded)
	if !ok || err != nil {
		t.Fatalf("no token: %v", err)
	}
	u, err := url.Parse(string(decoded))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Action": "GetCallerIdentity", "Version": "2011-06-15", "X-Amz-Expires": "60", "X-Amz-Date": "20260301T120000Z",
		"X-Amz-SignedHeaders": "host;x-k8s-aws-id", "X-Amz-Credential": "AKIA1/20260301/eu-central-1/sts/aws4_request",
	} {
		if got := u.Query()[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	if u.Scheme+"://"+u.Host+u.Path != "https://sts.eu-central-1.amazonaws.com/" || len(u.Query()) != 9 {
		t.Errorf("it asks %s with %d parameters", u.Host, len(u.Query()))
	}
}

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*eks.Config)
		says   string
	}{
		"no cluster":        {func(c *eks.Config) { c.ClusterName = "" }, "spec.access.eks.clusterName"},
		"an ARN":            {func(c *eks.Config) { c.ClusterName = "arn:aws:eks:eu-central-1:1:cluster/a" }, "the last part of the cluster's ARN"},
		"region":            {func(c *eks.Config) { c.Region = "eu-central-1.evil.example" }, "spec.access.eks.region"},
		"role":              {func(c *eks.Config) { c.RoleARN = "keyferry" }, "spec.access.eks.roleARN is not the ARN of a role"},
		"role, partition":   {func(c *eks.Config) { c.Region = "cn-north-1"; c.RoleARN = role }, "is a role in partition aws, but region cn-north-1 is in partition aws-cn"},
		"workload, no role": {func(c *eks.Config) { c.Identity = eks.Workload }, "spec.access.eks.roleARN is missing"},
		"identity":          {func(c *eks.Config) { c.Identity = "Other" }, "use Secret, WorkloadIdentity or Ambient"},
		"no key ID":         {func(c *eks.Config) { delete(c.Data, "accessKeyID") }, "Secret fleet/keys: key accessKeyID is missing"},
		"no key":            {func(c *eks.Config) { delete(c.Data, "secretAccessKey") }, "Secret fleet/keys: key secretAccessKey is missing"},
		"line end":          {func(c *eks.Config) { c.Data["sessionToken"] = []byte(planted + "\n") }, "Secret fleet/keys: key sessionToken contains spaces, newlines"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(eks.Secret, "")
			test.change(&cfg)
			_, err := eks.New(cfg)
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), planted) {
				t.Errorf("got %v, want that it says %q", err, test.says)
			}
		})
	}
}
