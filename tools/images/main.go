// Images builds container images as tar files, without Docker and without a registry: static
// programs on an empty base, the same as the Dockerfile's. The same source gives the same bytes.
//
//	images [-version v1.2.3] [-out dist/images] [-arch amd64,arm64] [-oci] [-programs DIR] [NAME...]
//
// It prints one line for each image: its name and its file. For one architecture that is what
// `docker load` reads; for several, and with -oci, an OCI layout, for tools such as skopeo.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	repository = "ghcr.io/keyferry/"
	module     = "github.com/keyferry/keyferry"
	// nonRoot is the user of all images; it has no name in an empty image.
	nonRoot = "65532:65532"
)

// image is what goes into one image.
type image struct {
	name string
	// tag is Keyferry's version where it is empty.
	tag string
	// dir is the folder of the module, below the repository's root, that packages are of.
	dir      string
	packages []string
	// modfile is another go.mod of that folder; empty is go.mod.
	modfile string
	// entrypoint is the program that runs if a Pod names none.
	entrypoint string
	// certificates says whether the programs talk to public servers.
	certificates bool
}

func images() []image {
	return []image{
		{
			name: "keyferry", packages: []string{"./cmd/webhook", "./cmd/broker", "./cmd/controller", "./cmd/keyferry"},
			entrypoint: "/keyferry", certificates: true,
		},
		{name: "refresher", packages: []string{"./cmd/refresher"}, entrypoint: "/refresher"},
		{name: "e2e-client", tag: "dev", dir: "e2e/testdata/client", packages: []string{"."}, entrypoint: "/client"},
		{name: "e2e-client-go-0.28", tag: "dev", dir: "e2e/testdata/client", modfile: "client-go-0.28.mod", packages: []string{"."}, entrypoint: "/client"},
		{name: "e2e-manager", tag: "dev", dir: "e2e", packages: []string{"./cmd/manager"}, entrypoint: "/manager"},
		{name: "e2e-secretreader", tag: "dev", dir: "e2e", packages: []string{"sigs.k8s.io/cluster-inventory-api/plugins/secretreader/cmd/plugin"}, entrypoint: "/plugin"},
		{name: "e2e-certmanager", tag: "dev", dir: "e2e", packages: []string{"./cmd/certmanager"}, entrypoint: "/certmanager"},
		{name: "e2e-podtools", tag: "dev", dir: "e2e", packages: []string{"./cmd/podtools"}, entrypoint: "/podtools"},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := flag.String("root", ".", "the repository's root")
	out := flag.String("out", "dist/images", "folder of the tar files")
	version := flag.String("version", "", "version and tag (default: from git)")
	arch := flag.String("arch", runtime.GOARCH, "the nodes' architecture, or several, by comma")
	oci := flag.Bool("oci", false, "write OCI layouts, also for one architecture")
	programs := flag.String("programs", "", "folder with the programs of Keyferry's own images, in linux-ARCH each (default: build them)")
	flag.Parse()
	b := builder{root: *root, out: *out, version: *version, archs: strings.Split(*arch, ","), oci: *oci, programs: *programs}
	if err := b.run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

type builder struct {
	root, out, version string
	archs              []string
	oci                bool
	// programs has those that are built already; empty if none are.
	programs string
}

func (b builder) run(ctx context.Context, names []string) (err error) {
	if b.root, err = filepath.Abs(b.root); err != nil {
		return err
	}
	if len(names) == 0 {
		names = []string{"keyferry", "refresher"}
	}
	if b.version == "" {
		b.version = gitVersion(ctx, b.root)
	}
	for _, n := range names {
		i := slices.IndexFunc(images(), func(i image) bool { return i.name == n })
		if i < 0 {
			return fmt.Errorf("there is no image %q", n)
		}
		if err := b.build(ctx, images()[i]); err != nil {
			return fmt.Errorf("building image %s: %w", n, err)
		}
	}
	return nil
}

// build makes one image and writes its file, which appears when it is whole.
func (b builder) build(ctx context.Context, img image) error {
	start := time.Now()
	tag := img.tag
	if tag == "" {
		tag = b.version
	}
	reference, err := name.NewTag(repository + img.name + ":" + tag)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "building image %s\n", reference)
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	built := map[string]v1.Image{}
	for _, arch := range b.archs {
		if built[arch], err = b.buildFor(ctx, img, tag, arch); err != nil {
			return fmt.Errorf("for %s: %w", arch, err)
		}
	}
	file := filepath.Join(b.out, img.name+".tar")
	if len(b.archs) == 1 && !b.oci {
		err = tarball.WriteToFile(file+".new", reference, built[b.archs[0]])
	} else {
		err = writeLayout(file+".new", reference, built)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return err
	}
	if took := time.Since(start); took > 2*time.Second {
		fmt.Fprintf(os.Stderr, "  took %.0f s\n", took.Seconds())
	}
	fmt.Println(reference, file)
	return nil
}

// buildFor makes an image for one architecture.
func (b builder) buildFor(ctx context.Context, img image, tag, arch string) (v1.Image, error) {
	work, err := os.MkdirTemp("", "keyferry-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	if b.programs != "" && img.dir == "" {
		err = copyPrograms(filepath.Join(b.programs, "linux-"+arch), img.packages, work)
	} else {
		err = b.compile(ctx, img, work, arch)
	}
	if err != nil {
		return nil, err
	}
	return b.assemble(img, tag, work, arch)
}

// compile builds the image's programs into dir.
func (b builder) compile(ctx context.Context, img image, dir, arch string) error {
	cmd := exec.CommandContext(ctx, b.root+"/tools/build", append([]string{b.version, dir}, img.packages...)...)
	cmd.Dir = filepath.Join(b.root, img.dir)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch)
	if img.modfile != "" {
		cmd.Env = append(cmd.Env, "GOFLAGS="+os.Getenv("GOFLAGS")+" -modfile="+img.modfile)
	}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	defer showProgress("compiling " + strings.Join(img.packages, " "))()
	return cmd.Run()
}

// showProgress prints what is being done every 30 s until stop is called.
func showProgress(what string) (stop func()) {
	start := time.Now()
	ticker := time.NewTicker(30 * time.Second)
	stopped := make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(os.Stderr, "  %.0f s: %s\n", time.Since(start).Seconds(), what)
			case <-stopped:
				return
			}
		}
	}()
	return func() { ticker.Stop(); close(stopped) }
}

// copyPrograms copies the programs of packages, which are built already.
func copyPrograms(from string, packages []string, to string) error {
	for _, p := range packages {
		content, err := os.ReadFile(filepath.Join(from, filepath.Base(p)))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(p)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// assemble puts the programs in dir on an empty base.
func (b builder) assemble(img image, tag, dir, arch string) (v1.Image, error) {
	content, err := layer(dir, img.certificates)
	if err != nil {
		return nil, err
	}
	built, err := mutate.AppendLayers(empty.Image, content)
	if err != nil {
		return nil, err
	}
	file, err := built.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Config.User = nonRoot
	file.Config.Entrypoint = []string{img.entrypoint}
	file.Config.Labels = map[string]string{
		"org.opencontainers.image.source":   "https://" + module,
		"org.opencontainers.image.version":  tag,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	return mutate.ConfigFile(built, file)
}

// gitVersion is the newest tag and the distance from it, or where there is no tag, the commit;
// always good for an image's tag.
func gitVersion(ctx context.Context, root string) string {
	describe := func(args ...string) string {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", root, "describe", "--dirty"}, args...)...)
		out, err := cmd.Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	version := describe("--tags", "--match=v*")
	if version == "" {
		version = "v0.0.0-dev"
		if commit := describe("--always", "--exclude=*"); commit != "" {
			version += "-" + commit
		}
	}
	return regexp.MustCompile(`[^A-Za-z0-9_.-]`).ReplaceAllString(version, "-")
}
