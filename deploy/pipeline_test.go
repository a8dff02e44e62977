package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"usher/engine/enginetest/process"
)

// workflow is what the tests look at of one.
type workflow struct {
	Permissions map[string]string
	Jobs        map[string]struct {
		Needs any
		Steps []struct{ Uses, Run, If string }
	}
}

func readWorkflow(t *testing.T, name string) (w workflow, runs []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(process.ModuleRoot(t), ".github", "workflows", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &w); err != nil {
		t.Fatal(err)
	}
	for _, job := range w.Jobs {
		for _, step := range job.Steps {
			if step.Run != "" {
				runs = append(runs, step.Run)
			}
		}
	}
	return w, runs
}

// Another CI can do all that these do: each step is a make target that there is.
func TestPipelinesCallMakeTargets(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(process.ModuleRoot(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z/ -]+):.*## `).FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, strings.Fields(m[1])...)
	}
	called := map[string]bool{}
	for _, name := range []string{"ci.yml", "deploy.yml"} {
		_, runs := readWorkflow(t, name)
		for _, run := range runs {
			words := strings.Fields(run)
			if words[0] == "docker" {
				continue
			}
			if words[0] != "make" {
				t.Errorf("%s runs %q", name, run)
			}
			for _, word := range words[1:] {
				if strings.Contains(word, "=") || strings.HasPrefix(word, "$") || word == "inputs.stage" || word == "}}" {
					continue
				}
				called[word] = true
				if !slices.Contains(targets, word) {
					t.Errorf("%s calls make %s, which there is not", name, word)
				}
			}
		}
	}
	for _, target := range []string{"lint", "verify", "test", "bench", "deploy/push", "deploy/plan", "deploy/apply", "deploy/check", "deploy/smoke", "deploy/rollback"} {
		if !called[target] {
			t.Errorf("no pipeline calls make %s", target)
		}
	}
}

// A deployment is allowed by a role of the moment, shown before it is done, and taken
// back if the message does not come through.
func TestADeploymentIsShownAndCanGoBack(t *testing.T) {
	w, _ := readWorkflow(t, "deploy.yml")
	if w.Permissions["id-token"] != "write" || w.Permissions["contents"] != "read" {
		t.Errorf("it may %v", w.Permissions)
	}
	if w.Jobs["apply"].Needs != "plan" {
		t.Errorf("apply waits for %v", w.Jobs["apply"].Needs)
	}
	var smoke, back int
	for i, step := range w.Jobs["apply"].Steps {
		switch {
		case strings.Contains(step.Run, "deploy/smoke"):
			smoke = i
		case strings.Contains(step.Run, "deploy/rollback"):
			back = i
			if !strings.Contains(step.If, "failure()") {
				t.Errorf("it goes back if %q", step.If)
			}
		}
	}
	if smoke == 0 || back <= smoke {
		t.Errorf("the message is step %d, the way back %d", smoke, back)
	}
}

func TestScriptsAreShell(t *testing.T) {
	root := process.ModuleRoot(t)
	for _, script := range []string{"tools/deploy", "tools/image", "tools/prepare"} {
		if out, err := exec.CommandContext(t.Context(), "bash", "-n", filepath.Join(root, script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	// Without a stage they say how they are used.
	out, err := exec.CommandContext(t.Context(), filepath.Join(root, "tools/deploy")).CombinedOutput()
	if exit, is := err.(*exec.ExitError); !is || exit.ExitCode() != 2 || !strings.Contains(string(out), "tools/deploy STAGE plan") {
		t.Errorf("%v: %s", err, out)
	}
}
