package egress

import (
	"io"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/dnstest"
	"github.com/keyferry/keyferry/providers"
)

// TestFailover: a client that asks all the time follows a name whose address changes, though the
// server at the old address still answers.
func TestFailover(t *testing.T) {
	for code, want := range map[int]time.Duration{
		http.StatusOK:                  maxAge,
		http.StatusFound:               0,
		http.StatusUnauthorized:        0,
		http.StatusNotFound:            0,
		http.StatusInternalServerError: 0,
	} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				name := dnstest.NewInMemory(t, dnstest.Answer(code, "old"), dnstest.Answer(http.StatusOK, "new"))
				at := endpoint.Endpoint{Server: name.URL, CertificateAuthority: name.CA}
				client, err := newClient(at, providers.Credential{}, name.DialContext)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(client.CloseIdleConnections)
				ask := func() string {
					request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, name.URL, http.NoBody)
					if err != nil {
						t.Fatal(err)
					}
					response, err := client.Do(request)
					if err != nil {
						t.Fatal(err)
					}
					defer response.Body.Close()
					body, err := io.ReadAll(response.Body) // to its end, else the connection is closed
					if err != nil {
						t.Fatal(err)
					}
					return string(body)
				}
				if got := ask(); got != "old" {
					t.Fatalf("%s answers", got)
				}
				if got := name.FollowedAfter(t, ask); got != want {
					t.Errorf("the new address is followed after %v, want %v", got, want)
				}
			})
		})
	}
}
