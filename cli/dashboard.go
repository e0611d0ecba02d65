package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/dashboard"
	"github.com/keyferry/keyferry/cli/targetinfo"
)

// listTimeout is how long the API server may take until everything was read once.
const listTimeout = time.Minute

func newDashboard(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	var port uint16
	var export string
	browser := true
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Show targets, Pods, expiry, access and Events in your browser",
		Long: strings.TrimSpace(`
Open a page in your browser that shows TargetClusters, the Pods and CredentialRequests that use them, when credentials expire, which
ServiceAccounts may use which target, and Events. The page follows changes until Ctrl-C.

Only the browser that opens the link first can see the page, at 127.0.0.1. The command uses your permissions, runs
nothing in the cluster, and reads no Secret. If you may not list a kind in all namespaces, the page shows the objects in
the namespace of --namespace, and lists the missing kinds.

With --export, write the same content into one HTML file, and exit.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  keyferry dashboard

  # On a machine without a browser: forward the port, and open the link
  keyferry dashboard --browser=false --port 8150

  # For a ticket or an auditor
  keyferry dashboard --export keyferry.html
`, "\n"),
		Args: cobra.NoArgs,
		RunE: failing(func(cmd *cobra.Command, _ []string) error {
			d, err := openDashboard(cluster)
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(cmd.Context())
			var running sync.WaitGroup
			defer running.Wait()
			defer stop()
			var server *dashboard.Server
			if export == "" { // before the lists, which take time: the port may be in use
				if server, err = d.Listen(ctx, port); err != nil {
					return err
				}
				defer func() { _ = server.Close() }()
			}
			running.Go(func() { d.Run(ctx) })
			listing, cancel := context.WithTimeout(ctx, listTimeout)
			defer cancel()
			if err := d.Listed(listing); meta.IsNoMatchError(err) {
				return targetinfo.ErrNoTargetClusters
			} else if err != nil {
				return err
			}
			if export != "" {
				return exportDashboard(ctx, d, export)
			}
			printf(streams.Out, "The dashboard is at this link, which works once:\n\n    %s\n\nCtrl-C ends it.\n", server.URL())
			if browser {
				if err := openBrowser(ctx, server.URL()); err != nil {
					printf(streams.ErrOut, "warning: no browser could be opened (%v): open the link\n", err)
				}
			}
			return server.Serve(ctx)
		}),
	}
	cmd.Flags().Uint16Var(&port, "port", 0, "port on 127.0.0.1 (default: any free port)")
	cmd.Flags().BoolVar(&browser, "browser", true, "open the browser")
	cmd.Flags().StringVar(&export, "export", "", "write everything into this HTML file, and exit")
	_ = cmd.MarkFlagFilename("export", "html") // the flag is there
	return cmd
}

// openDashboard returns a dashboard of the cluster that the flags name.
func openDashboard(cluster *genericclioptions.ConfigFlags) (*dashboard.Dashboard, error) {
	loader := cluster.ToRawKubeConfigLoader()
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, err
	}
	kubeconfig, err := loader.RawConfig()
	if err != nil {
		return nil, err
	}
	cfg, c, err := connect(cluster)
	if err != nil {
		return nil, err
	}
	watching := rest.CopyConfig(cfg)
	watching.WarningHandler = rest.NoWarnings{}
	watches, err := client.NewWithWatch(watching, client.Options{Scheme: c.Scheme(), Mapper: c.RESTMapper()})
	if err != nil {
		return nil, err
	}
	return dashboard.New(dashboard.Config{
		Client: watches, Namespace: namespace, Cluster: cmp.Or(*cluster.Context, kubeconfig.CurrentContext, cfg.Host),
		CheckPod: func(ctx context.Context, pod types.NamespacedName) check.Report {
			return check.Pod(ctx, c, check.ExecIn(cfg), pod)
		},
	})
}

// exportDashboard writes the file completely, or not at all.
func exportDashboard(ctx context.Context, d *dashboard.Dashboard, file string) error {
	var html strings.Builder
	if err := d.Export(ctx, &html); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(html.String()), 0o600)
}

// openBrowser opens a URL in the user's browser.
func openBrowser(ctx context.Context, url string) error {
	ctx = context.WithoutCancel(ctx) // the browser stays
	var cmd *exec.Cmd
	switch runtime.GOOS {
	case "darwin":
		cmd = exec.CommandContext(ctx, "open", url) // #nosec G204 -- a URL of this program
	case "windows":
		cmd = exec.CommandContext(ctx, "rundll32", "url.dll,FileProtocolHandler", url) // #nosec G204 -- a URL of this program
	default:
		if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
			return errors.New("there is no display")
		}
		cmd = exec.CommandContext(ctx, "xdg-open", url) // #nosec G204 -- a URL of this program
	}
	leaveGroup(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", cmd.Path, err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}
