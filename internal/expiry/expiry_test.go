package expiry_test

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/keyferry/keyferry/internal/clocktest"
	"github.com/keyferry/keyferry/internal/expiry"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func jwt(claims string) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func eks(url string) string { return "k8s-aws-v1." + base64.RawURLEncoding.EncodeToString([]byte(url)) }
func ncp(json string) string {
	return "k8s-ncp-v1." + base64.StdEncoding.EncodeToString([]byte(json))
}

func TestToken(t *testing.T) {
	unknown := now.Add(5 * time.Minute)
	for name, test := range map[string]struct {
		token string
		want  time.Time
	}{
		"JWT":                     {jwt(`{"exp":1772370000}`), time.Unix(1772370000, 0)},
		"JWT, fraction":           {jwt(`{"exp":1772370000.75}`), time.Unix(1772370000, 0)},
		"JWT, ended":              {jwt(`{"exp":1}`), time.Unix(1, 0)},
		"JWT without exp":         {jwt(`{"sub":"system:serviceaccount:a:b"}`), unknown},
		"JWT, exp is a string":    {jwt(`{"exp":"1772370000"}`), unknown},
		"JWT, exp beyond time":    {jwt(`{"exp":1e300}`), unknown},
		"JWT, negative exp":       {jwt(`{"exp":-1}`), unknown},
		"JWT, not base64":         {"a.*.c", unknown},
		"JWT, not JSON":           {jwt("x"), unknown},
		"opaque":                  {"0123456789abcdef", unknown},
		"empty":                   {"", unknown},
		"EKS":                     {eks("https://sts.eu-west-1.amazonaws.com/?X-Amz-Date=20260301T115800Z&X-Amz-Expires=60"), now.Add(12 * time.Minute)},
		"EKS, padded":             {eks("https://sts.amazonaws.com/?X-Amz-Date=20260301T115800Z") + "==", now.Add(12 * time.Minute)},
		"EKS without date":        {eks("https://sts.eu-west-1.amazonaws.com/"), unknown},
		"EKS, not base64":         {"k8s-aws-v1.***", unknown},
		"NCP":                     {ncp(`{"timestamp":"1668407407855","accessKey":"a","signature":"b","path":"/"}`), time.UnixMilli(1668407407855 + 240_000)},
		"NCP without timestamp":   {ncp(`{}`), unknown},
		"NCP, not base64":         {"k8s-ncp-v1.***", unknown},
		"NCP, timestamp too long": {ncp(`{"timestamp":"9223372036854775807"}`), unknown},
	} {
		t.Run(name, func(t *testing.T) {
			if got := expiry.Token(test.token, now); !got.Equal(test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func FuzzToken(f *testing.F) {
	for _, token := range []string{"", "a.b.c", jwt(`{"exp":1772370000}`), jwt(`{"exp":1e19}`), jwt(`{"exp":null}`),
		eks("https://sts.amazonaws.com/?X-Amz-Date=20260301T115800Z"), eks("\x00://"),
		ncp(`{"timestamp":"1668407407855"}`), ncp(`{"timestamp":"-1"}`)} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		got := expiry.Token(token, now)
		if got.IsZero() {
			t.Error("no time")
		}
		if _, err := got.UTC().MarshalJSON(); err != nil {
			t.Errorf("%v cannot be written: %v", got, err)
		}
	})
}

func TestCertificateRefuses(t *testing.T) {
	for name, chain := range map[string]string{
		"empty":     "",
		"no PEM":    "certificate",
		"only keys": "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
		"malformed": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := expiry.Certificate([]byte(chain)); err == nil {
				t.Errorf("got %v, want an error", got)
			}
		})
	}
}

func TestRefreshAt(t *testing.T) {
	issued := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct{ life, want time.Duration }{
		"a day: 80 %":                  {24 * time.Hour, 19*time.Hour + 12*time.Minute},
		"an hour: 80 %":                {time.Hour, 48 * time.Minute},
		"15 minutes: 80 %":             {15 * time.Minute, 12 * time.Minute},
		"10 minutes: 150 s before":     {10 * time.Minute, 450 * time.Second},
		"12m30s: where both meet":      {750 * time.Second, 600 * time.Second},
		"6 minutes: 150 s before":      {6 * time.Minute, 210 * time.Second},
		"5 minutes: where halves meet": {5 * time.Minute, 150 * time.Second},
		"1 minute: half":               {time.Minute, 30 * time.Second},
		"20 s: half":                   {20 * time.Second, 10 * time.Second},
		"nothing":                      {0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := expiry.RefreshAt(issued, issued.Add(test.life)).Sub(issued); got != test.want {
				t.Errorf("after %v, want %v", got, test.want)
			}
		})
	}
}

func TestDue(t *testing.T) {
	for name, test := range map[string]struct {
		pass, set time.Duration
		want      bool
	}{
		"at once":                        {0, 0, false},
		"before":                         {47 * time.Minute, 0, false},
		"then":                           {48 * time.Minute, 0, true},
		"a clock that is set forward":    {40 * time.Minute, 10 * time.Minute, true},
		"a clock that is set back":       {48 * time.Minute, -10 * time.Minute, true},
		"set back by a day, before":      {47 * time.Minute, -24 * time.Hour, false},
		"a machine that was suspended":   {0, time.Hour, true},
		"suspended, but not for so long": {20 * time.Minute, 20 * time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktest.New()
			at := clock.Now().Add(48 * time.Minute)
			clock.Pass(test.pass)
			clock.Set(test.set)
			if got := expiry.Due(clock.Now(), at); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if !expiry.Due(now, time.Time{}) || expiry.Due(now, now.Add(1)) || !expiry.Due(now, now) {
		t.Error("times without a monotonic reading are not compared as they are")
	}
}

func TestUrgent(t *testing.T) {
	for left, want := range map[time.Duration]bool{
		time.Hour: false, expiry.UrgentPeriod + 1: false, expiry.UrgentPeriod: true, 1: true, 0: false, -time.Minute: false,
	} {
		if got := expiry.Urgent(now, now.Add(left)); got != want {
			t.Errorf("%v before the expiry: %v", left, got)
		}
	}
	if expiry.Urgent(now, time.Time{}) {
		t.Error("no credential is urgent")
	}
}

func TestRetryWait(t *testing.T) {
	const urgent = 3 * time.Second
	for name, test := range map[string]struct{ wait, untilExpiry, want time.Duration }{
		"long before":          {5 * time.Minute, time.Hour, 5 * time.Minute},
		"up to the last part":  {5 * time.Minute, expiry.UrgentPeriod + time.Minute, time.Minute},
		"in the last part":     {5 * time.Minute, time.Minute, urgent},
		"shorter than urgent":  {time.Second, time.Minute, time.Second},
		"just before its part": {5 * time.Minute, expiry.UrgentPeriod + time.Second, urgent},
		"expired":              {5 * time.Minute, 0, 5 * time.Minute},
	} {
		if got := expiry.RetryWait(test.wait, test.untilExpiry, urgent); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
