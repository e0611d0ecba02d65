package refresher

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
)

// Ask requests a credential from the broker once, for callers that need the credential and not its
// files. It reads only the fields of config that name the broker, the target and this Pod's
// identity. The credential in the response is valid, and its times are by this node's clock.
func Ask(ctx context.Context, config Config) (wire.ExecCredential, error) {
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	broker, err := newBroker(config, dial)
	if err != nil {
		return wire.ExecCredential{}, err
	}
	got, err := broker.ask(ctx, "", "", 0)
	if err != nil {
		return wire.ExecCredential{}, err
	}
	answer, err := parseAnswer(got.body)
	if err != nil {
		return wire.ExecCredential{}, err
	}
	known := &answer.Spec.Cluster.Config
	if known.PluginInPod {
		return wire.ExecCredential{}, errors.New("the broker gives no credential for this target: a plugin in the sidecar of each Pod issues it")
	}
	if _, err := brokerCredential(answer, got.date, got.received); err != nil {
		return wire.ExecCredential{}, err
	}
	for _, t := range []*time.Time{&known.IssuedAt, &known.RefreshAt, &answer.Status.ExpirationTimestamp} {
		*t = got.received.Add(t.Sub(got.date))
	}
	return answer, nil
}
