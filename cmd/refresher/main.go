// Refresher is the sidecar that keeps a Pod's credentials for another cluster current.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/credentialplugin"
	"github.com/keyferry/keyferry/internal/memory"
	"github.com/keyferry/keyferry/internal/version"
	"github.com/keyferry/keyferry/refresher"
	"github.com/keyferry/keyferry/refresher/clusters"
	"github.com/keyferry/keyferry/refresher/install"
	"github.com/keyferry/keyferry/refresher/proxy"
)

const usage = `Keyferry's refresher renews a Pod's credentials for another cluster.

Usage:
  refresher run --broker=URL --target=NAMESPACE/NAME [flags]
        Request a credential from the broker, write it to the files that in-cluster clients read, and renew it.
        With --delivery=proxy, keep the credential, and serve a proxy at loopback.
        This is the sidecar keyferry-refresher, which Keyferry's webhook adds to annotated Pods.
  refresher run [--target=NAMESPACE/NAME] --cluster=NAMESPACE/NAME@IP:PORT …
        Like the first command, for several clusters: one proxy and one kubeconfig context for each cluster.
  refresher run --plugin … -- COMMAND [ARGUMENT …]
        Like the first command, with a credential of the credential plugin COMMAND (client.authentication.k8s.io).
  refresher wait [flags]
        Wait for a valid credential in the files (with --kubeconfig: for that file). This is the sidecar's postStart hook.
  refresher copy FROM TO
        Copy a program, such as a plugin of an image that cannot be mounted.
  refresher --version

'refresher run --help' and 'refresher wait --help' list the flags.

Exit codes:
  0   run: stopped by SIGTERM or SIGINT; wait: the files exist; copy: the copy exists
  1   failed; the reason is on stderr
  2   invalid command line
  42  run: the endpoint or the cluster changed, and the new files are written: restartPolicyRules must restart
      all containers (RestartAllContainers)
`

const (
	exitFailed  = 1
	exitUsage   = 2
	exitRestart = 42
)

func main() {
	// The work is one request a minute: threads for more would only cost memory, in every Pod. With
	// one, the proxy also answers more requests than with two, which wake each other.
	runtime.GOMAXPROCS(1)
	memory.Limit()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command does what args say and returns the exit code.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	var err error
	switch name {
	case "run":
		err = run(ctx, args, stdout, stderr)
	case "wait":
		err = wait(ctx, args, stdout)
	case "copy":
		err = copyProgram(args)
	case "version", "--version", "-version":
		_, err = fmt.Fprintln(stdout, version.String())
	case "help", "--help", "-help", "-h":
		_, err = fmt.Fprint(stdout, usage)
	case "":
		err = usageError{errors.New("expected run, wait or copy; see 'refresher --help'")}
	default:
		err = usageError{fmt.Errorf("unknown command %q (expected run, wait or copy); see 'refresher --help'", name)}
	}
	switch _, wrongUsage := errors.AsType[usageError](err); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, refresher.ErrRestart):
		return exitRestart
	case wrongUsage:
		fmt.Fprintln(stderr, "refresher:", err)
		return exitUsage
	default:
		fmt.Fprintln(stderr, "refresher:", err)
		return exitFailed
	}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	all := clusters.Config{First: refresher.Config{
		Log:    slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{ReplaceAttr: asServersLog})),
		Jitter: rand.Float64,
	}}
	config := &all.First
	var healthAddress string
	flags := flag.NewFlagSet("refresher run", flag.ContinueOnError)
	flags.StringVar(&config.Broker, "broker", "", "`URL` of the broker, such as https://keyferry-broker.keyferry-system.svc")
	flags.StringVar(&config.BrokerAddress, "broker-address", "", "`IP` of the broker, for Pods whose DNS does not resolve Services; the host of --broker is still verified")
	flags.StringVar(&config.Target, "target", "", "the TargetCluster, as `NAMESPACE/NAME`")
	flags.StringVar(&config.ClusterProfile, "cluster-profile", "", "instead of --target: a ClusterProfile, as `NAMESPACE/NAME`")
	flags.Func("cluster", "another TargetCluster and the address of its proxy, as `NAMESPACE/NAME@IP:PORT`; append /NAMESPACE to set the context's namespace; repeatable; needs --delivery=proxy", func(text string) error {
		further, err := clusters.Parse(text)
		all.Further = append(all.Further, further)
		return err
	})
	flags.StringVar(&all.Kubeconfig, "kubeconfig", "/var/run/keyferry/kubeconfig", "with --cluster: `file` for a kubeconfig with a context for each cluster")
	flags.StringVar(&config.Namespace, "namespace", "", "content of the file namespace (default: the TargetCluster's default namespace)")
	delivery := flags.String("delivery", string(refresher.Direct), "how clients connect to the target: `direct` or proxy")
	flags.StringVar(&config.ProxyAddress, "proxy-address", "", "with --delivery=proxy: the loopback `IP:PORT` in the containers' environment")
	flags.StringVar(&config.ProxyDir, "proxy-dir", "/var/run/secrets/keyferry.dev/proxy", "with --delivery=proxy: private `directory` of the proxy's CA and token")
	onChange := flags.String("on-endpoint-change", string(refresher.Restart), "what to do when the endpoint changes (with --delivery=proxy: the cluster): `restart` all containers, "+
		"or ignore the change and report unhealthy")
	flags.StringVar(&config.Endpoint, "endpoint", "", "with --delivery=direct and --on-endpoint-change=ignore: the https `URL` in the containers' environment")
	flags.DurationVar(&config.RestartSpread, "restart-spread", 5*time.Minute, "with --on-endpoint-change=restart: longest random wait before a restart, which spreads the restarts of Pods")
	flags.StringVar(&config.IdentityDir, "identity-dir", "/var/run/secrets/keyferry.dev/identity", "`directory` with this Pod's token for the broker and the broker's ca.crt")
	flags.StringVar(&healthAddress, "health-address", "", "`address` of /healthz and /metrics, such as :8081 (default: not served)")
	setPlugin := pluginFlags(flags)
	locations(flags, &config.CredentialsDir, &config.TerminationLog)
	if err := parse(flags, args, stdout); err != nil {
		return err
	}
	if err := setPlugin(config); err != nil {
		return err
	}
	config.Delivery, config.OnEndpointChange = refresher.Delivery(*delivery), refresher.Mode(*onChange)
	r, err := clusters.New(all)
	if err != nil {
		return usageError{err}
	}
	if healthAddress != "" {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", healthAddress)
		if err != nil {
			return fmt.Errorf("serving at --health-address: %w", err)
		}
		defer serve(listener, r.Handler(version.String()), config.Log).Close()
	}
	return r.Run(ctx)
}

// asServersLog writes the level as the server programs do.
func asServersLog(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) == 0 && attr.Key == slog.LevelKey {
		attr.Value = slog.StringValue(strings.ToLower(attr.Value.String()))
	}
	return attr
}

// pluginFlags adds the flags of a plugin. What it returns reads them when they have been parsed.
func pluginFlags(flags *flag.FlagSet) func(*refresher.Config) error {
	var p credentialplugin.Plugin
	runs := flags.Bool("plugin", false, "run the credential plugin whose command and arguments follow --")
	flags.StringVar(&p.APIVersion, "plugin-api-version", wire.APIVersion, "with --plugin: `apiVersion` of the plugin's ExecCredential")
	tell := flags.Bool("plugin-cluster-info", false, "with --plugin: set provideClusterInfo, as in a kubeconfig")
	return func(config *refresher.Config) error {
		command := flags.Args()
		switch {
		case !*runs:
			return noArguments(flags)
		case len(command) == 0:
			return usageError{errors.New("--plugin needs the plugin's command and arguments after --")}
		}
		p.Command, p.Args = command[0], command[1:]
		config.Plugin = refresher.ByPlugin(p, *tell)
		return nil
	}
}

func wait(ctx context.Context, args []string, stdout io.Writer) error {
	var credentialsDir, terminationLog, kubeconfig string
	flags := flag.NewFlagSet("refresher wait", flag.ContinueOnError)
	timeout := flags.Duration("timeout", 30*time.Second, "how long to wait")
	flags.StringVar(&kubeconfig, "kubeconfig", "", "wait for this `file` instead")
	locations(flags, &credentialsDir, &terminationLog)
	if err := parse(flags, args, stdout); err != nil {
		return err
	}
	if err := noArguments(flags); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if kubeconfig != "" {
		return refresher.WaitFor(ctx, kubeconfig)
	}
	return refresher.Wait(ctx, credentialsDir, terminationLog)
}

// locations are the flags that run and wait have to agree on.
func locations(flags *flag.FlagSet, credentialsDir, terminationLog *string) {
	flags.StringVar(credentialsDir, "credentials-dir", "/var/run/keyferry/serviceaccount", "`directory` of the files; created if it is missing")
	flags.StringVar(terminationLog, "termination-log", "/dev/termination-log", "`file` for the reason why there is no credential")
}

// parse reads args. Help goes to stdout; of a mistake, the caller tells.
func parse(flags *flag.FlagSet, args []string, stdout io.Writer) error {
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, "Flags of %s:\n", flags.Name())
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return err
	case err != nil:
		return usageError{fmt.Errorf("%w; see '%s --help'", err, flags.Name())}
	}
	return nil
}

func noArguments(flags *flag.FlagSet) error {
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("%q is not a flag; see '%s --help'", flags.Arg(0), flags.Name())}
	}
	return nil
}

func copyProgram(args []string) error {
	if len(args) != 2 {
		return usageError{errors.New("copy needs FROM and TO; see 'refresher --help'")}
	}
	return install.Copy(args[0], args[1])
}

// maxHealthConnections limits the connections of all clients that read metrics and health. Each
// serves one request and is closed after at most ten seconds.
const maxHealthConnections = 16

// serve serves handler until the result is closed.
func serve(listener net.Listener, handler http.Handler, log *slog.Logger) io.Closer {
	server := &http.Server{Handler: handler, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 4 << 10}
	server.SetKeepAlivesEnabled(false)
	go func() {
		if err := server.Serve(proxy.Limit(listener, maxHealthConnections)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serving health ended", "error", err.Error())
		}
	}()
	return server
}
