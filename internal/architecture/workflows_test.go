package architecture

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var (
	pinned  = regexp.MustCompile(`^\./|@[0-9a-f]{40}$`)
	allowed = regexp.MustCompile(`^(make|docker login) [^\n;&|]+$`)
)

// TestWorkflows: a workflow has no right that a job does not list, runs no action that can change,
// and only make targets. So everything that it does can be done, and tested, on any machine.
func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range workflowProblems(t, content) {
			t.Errorf("%s: %s", filepath.Base(file), problem)
		}
	}
}

func workflowProblems(t *testing.T, content []byte) (problems []string) {
	t.Helper()
	type step struct{ Uses, Run string }
	var workflow struct {
		Permissions *map[string]string
		Jobs        map[string]struct {
			Uses        string
			Permissions map[string]string
			Steps       []step
		}
	}
	if err := yaml.Unmarshal(content, &workflow); err != nil {
		t.Fatal(err)
	}
	if workflow.Permissions == nil || len(*workflow.Permissions) > 0 {
		problems = append(problems, "permissions: not {}")
	}
	for name, job := range workflow.Jobs {
		if len(job.Permissions) == 0 {
			problems = append(problems, "job "+name+": no permissions")
		}
		for _, s := range append(job.Steps, step{Uses: job.Uses}) {
			if s.Uses != "" && !pinned.MatchString(s.Uses) {
				problems = append(problems, "job "+name+": not pinned by commit: "+s.Uses)
			}
			if s.Run != "" && !allowed.MatchString(strings.TrimSpace(s.Run)) {
				problems = append(problems, "job "+name+": not a make target: "+s.Run)
			}
		}
	}
	return problems
}

func TestWorkflowProblems(t *testing.T) {
	const hash = "3d3c42e5aac5ba805825da76410c181273ba90b1"
	for _, test := range []struct{ workflow, want string }{
		{"{permissions: {}, jobs: {a: {permissions: {contents: read}, steps: [{uses: a/b@" + hash + "}, {run: make check}]}}}", ""},
		{"{jobs: {a: {permissions: {contents: read}}}}", "permissions: not {}"},
		{"{permissions: {contents: write}, jobs: {a: {permissions: {contents: read}}}}", "permissions: not {}"},
		{"{permissions: {}, jobs: {a: {}}}", "job a: no permissions"},
		{"{permissions: {}, jobs: {a: {permissions: {contents: read}, steps: [{uses: a/b@v1}]}}}", "job a: not pinned by commit: a/b@v1"},
		{"{permissions: {}, jobs: {a: {permissions: {contents: read}, steps: [{run: curl x}]}}}", "job a: not a make target: curl x"},
		{"{permissions: {}, jobs: {a: {permissions: {contents: read}, steps: [{run: make a && curl x}]}}}", "job a: not a make target: make a && curl x"},
	} {
		if got := strings.Join(workflowProblems(t, []byte(test.workflow)), "; "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.workflow, got, test.want)
		}
	}
}
