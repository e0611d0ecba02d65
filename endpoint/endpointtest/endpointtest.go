// Package endpointtest contains test cases for endpoints that the tests of several packages share.
package endpointtest

// CertificateAuthority is a PEM bundle with one certificate. Its private key was discarded.
const CertificateAuthority = `-----BEGIN CERTIFICATE-----
MIIBeDCCAR+gAwIBAgIUSvFkpnfnShCkcOxKy0lbduhfUw4wCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGdGFyZ2V0MCAXDTI2MTEzMDA0MTEyN1oYDzIxMjYxMTA2MDQx
MTI3WjARMQ8wDQYDVQQDDAZ0YXJnZXQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AATsbbwWEvse78JxKfY1zJ3EuoP6NY3eR+oO0nUU3c23QAnEzMDGqfEPKkO1HybI
e2qqqOwEUISGt4eJSUxQ9kXPo1MwUTAdBgNVHQ4EFgQUegx3FBHIOWf3GUjtL2NE
DOtd3BowHwYDVR0jBBgwFoAUegx3FBHIOWf3GUjtL2NEDOtd3BowDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBgMl/rExB2MdOjKKPyhWbLqz1v/fk9
tbJ0V0fUJwYfeAIgGXcldhp1OuTKjCrAN539Jp90nLmEVKEz2UcLV4tPtxA=
-----END CERTIFICATE-----
`
