package docs_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// vendors are the commands of clouds that pages use, with their options and arguments as the
// clouds' own references list them. An option with an exclamation mark is required; what has no
// dashes is an argument by its place. Nobody signs in to a cloud for a test: stand-ins on the PATH
// take what is in this table, and nothing else.
var vendors = map[string]string{
	"aws eks associate-identity-provider-config": "--cluster-name! --oidc! --client-request-token --tags",
	"aws eks create-access-entry":                "--cluster-name! --principal-arn! --kubernetes-groups --type --username",
	"aws eks create-pod-identity-association":    "--cluster-name! --namespace! --service-account! --role-arn! --client-request-token --tags",
	"aws eks describe-cluster":                   "--name!",
	"aws eks get-token":                          "--cluster-name! --role-arn",
	"aws iam create-access-key":                  "--user-name",
	"aws iam create-open-id-connect-provider":    "--url! --client-id-list --thumbprint-list",
	"aws iam create-role":                        "--role-name! --assume-role-policy-document! --description --max-session-duration --path --permissions-boundary --tags",
	"aws iam create-user":                        "--user-name!",

	"az ad app credential reset":              "--id! --append --cert --create-cert --display-name --years",
	"az ad sp create-for-rbac":                "--name --role --scopes --cert --create-cert --years",
	"az ad sp show":                           "--id!",
	"az aks get-credentials":                  "--name! --resource-group! --admin --context --file --overwrite-existing",
	"az aks update":                           "--name! --resource-group! --aad-admin-group-object-ids --enable-aad --enable-azure-rbac",
	"az identity create":                      "--name! --resource-group! --location",
	"az identity federated-credential create": "--name! --identity-name! --resource-group! --audiences --issuer --subject",

	"gcloud container clusters describe":                       "NAME --location",
	"gcloud iam service-accounts create":                       "NAME --description --display-name",
	"gcloud iam service-accounts keys create":                  "FILE --iam-account! --key-file-type",
	"gcloud iam workload-identity-pools create":                "NAME --location! --description --display-name",
	"gcloud iam workload-identity-pools providers create-oidc": "NAME --attribute-mapping! --issuer-uri! --location! --workload-identity-pool! --allowed-audiences --attribute-condition --jwk-json-path",
	"gcloud iam workload-identity-pools providers describe":    "NAME --location! --workload-identity-pool!",

	"kubectl-krew install": "--manifest --manifest-url --archive",
}

// everywhere are options that all commands of a program have.
var everywhere = map[string]string{
	"aws":    "--output --profile --query --region",
	"az":     "--output --query --subscription",
	"gcloud": "--format --project --quiet",
}

// standIns are the programs that they stand in for: those of clouds, krew, which downloads, and
// those that change Keyferry itself.
var standIns = []string{"aws", "az", "gcloud", "go", "kubectl-krew", "make"}

// standIn is what runs in place of a program: it refuses what the program would not understand.
func standIn(stdout io.Writer, args []string) error {
	switch name := filepath.Base(args[0]); name {
	case "go":
		if len(args) > 1 && args[1] == "version" {
			cmd := exec.Command(os.Getenv("GO"), args[1:]...)
			cmd.Stdout = stdout
			return cmd.Run()
		}
		return goCommand(".", args[1:])
	case "make":
		return makeCommand(os.Getenv("REPOSITORY"), args[1:])
	default:
		err := vendorCommand(append([]string{name}, args[1:]...), true)
		if err == nil {
			fmt.Fprintln(stdout, "https://example.com", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==")
		}
		return err
	}
}

// vendorCommand looks a command up. Text may leave out what is required; who runs it may not.
func vendorCommand(words []string, whole bool) error {
	n := slices.IndexFunc(words, func(word string) bool { return strings.HasPrefix(word, "-") })
	if n < 0 {
		n = len(words)
	}
	for ; vendors[strings.Join(words[:n], " ")] == ""; n-- {
		if n == 1 {
			return fmt.Errorf("no page so far uses %s: add it to the table of its commands, from the reference of %s", strings.Join(words, " "), words[0])
		}
	}
	var required, known, places []string
	for _, word := range strings.Fields(vendors[strings.Join(words[:n], " ")] + " " + everywhere[words[0]]) {
		option, isRequired := strings.CutSuffix(word, "!")
		switch {
		case !strings.HasPrefix(word, "--"):
			places = append(places, word)
		case isRequired:
			required = append(required, option)
			fallthrough
		default:
			known = append(known, option)
		}
	}
	var given []string
	for i, word := range words[n:] {
		option, _, hasValue := strings.Cut(word, "=")
		afterOption := i > 0 && strings.HasPrefix(words[n+i-1], "-") && !strings.Contains(words[n+i-1], "=")
		switch {
		case strings.HasPrefix(word, "--") && !slices.Contains(known, option):
			return fmt.Errorf("%s has no option %s", strings.Join(words[:n], " "), option)
		case strings.HasPrefix(word, "--"):
			given = append(given, option)
		case !afterOption && !hasValue && len(places) > 0:
			places = places[1:]
		case !afterOption:
			return fmt.Errorf("%s takes no argument %s", strings.Join(words[:n], " "), word)
		}
	}
	for _, option := range required {
		if whole && !slices.Contains(given, option) {
			return fmt.Errorf("%s needs %s", strings.Join(words[:n], " "), option)
		}
	}
	if whole && len(places) > 0 {
		return fmt.Errorf("%s needs %s", strings.Join(words[:n], " "), places[0])
	}
	return nil
}

// goCommand looks whether the packages, and the tests, that go is given are there.
func goCommand(dir string, args []string) error {
	if len(args) == 0 || !slices.Contains([]string{"get", "mod", "run", "test", "tool", "version", "vet"}, args[0]) {
		return fmt.Errorf("go %q: nothing here knows that", args)
	}
	run, folders := "", []string{}
	for i, arg := range args {
		if i > 0 && args[i-1] == "-run" {
			run = arg
		} else if strings.HasPrefix(arg, ".") {
			folders = append(folders, filepath.Join(dir, strings.TrimSuffix(arg, "/...")))
		}
	}
	for _, folder := range folders {
		if _, err := os.Stat(folder); err != nil {
			return err
		}
	}
	return hasTest(folders, run)
}

// hasTest looks whether one of the packages has a test of which the name, up to its first slash,
// matches.
func hasTest(folders []string, run string) error {
	name, _, _ := strings.Cut(run, "/")
	if name == "" {
		return nil
	}
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
		if err != nil {
			return err
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if regexp.MustCompile(`(?m)^func ` + name).Match(content) {
				return nil
			}
		}
	}
	return fmt.Errorf("there is no test %s in %q", name, folders)
}

// makeCommand looks for the targets among the arguments of make, and for the tests that it is to
// run.
func makeCommand(repository string, args []string) error {
	makefile, err := os.ReadFile(filepath.Join(repository, "Makefile"))
	if err != nil {
		return err
	}
	folder, flags := "e2e", ""
	for _, arg := range args {
		name, value, isVariable := strings.Cut(arg, "=")
		switch {
		case name == "PACKAGES":
			folder = value
		case name == "TESTFLAGS":
			flags = value
		case isVariable && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(name)+` \?=`).Match(makefile):
			return fmt.Errorf("the Makefile has no variable %s", name)
		case !isVariable && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(arg)+`:`).Match(makefile):
			return fmt.Errorf("there is no target %s", arg)
		}
	}
	if flags == "" || strings.Contains(flags, "…") {
		return nil
	}
	if _, run, found := strings.Cut(flags, "-run "); found {
		return hasTest([]string{filepath.Join(repository, folder)}, strings.Fields(run)[0])
	}
	return errors.New("TESTFLAGS says nothing that is understood here: " + flags)
}
