package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every mutant says what it breaks, names tests that exist, and still applies to the code as
// it is. Where it does not, the code that it changes was changed: make the same mistake in
// the new code, and `git diff` is the new patch, below the old head.
func TestMutantsApply(t *testing.T) {
	mutants, err := readMutants("patches", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, errGit := exec.LookPath("git")
	names := map[string]bool{}
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("two are called %s", m.name)
		}
		names[m.name] = true
		for _, test := range m.tests {
			if !hasTest(t, filepath.Join("..", m.pkg), test) {
				t.Errorf("%s: there is no %s in %s", m.name, test, m.pkg)
			}
		}
		if errGit != nil {
			continue // as on a machine that has the source from elsewhere
		}
		patch, err := filepath.Abs(m.file)
		if err != nil {
			t.Fatal(err)
		}
		check := exec.Command("git", "apply", "--check", patch)
		check.Dir = ".."
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s does not apply: %s", m.name, out)
		}
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`(?m)^func ` + name + `\(`)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if want.Match(source) {
			return true
		}
	}
	return false
}

func TestHeadOfAMutant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.patch")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("M7: nothing works.\npackage: ./agent\ntests: TestA TestB\nsurvives: for ever\n\ndiff --git a/x b/x\n")
	m, err := readMutant(file)
	if err != nil || m.name != "M7" || m.breaks != "nothing works." || m.pkg != "./agent" || strings.Join(m.tests, ",") != "TestA,TestB" || m.survives != "for ever" {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []string{"", "M7: nothing works.\n", "M7\n\ndiff --git a/x b/x\n", "M7: it.\nwhy: so\n\ndiff --git a/x b/x\n"} {
		write(bad)
		if _, err := readMutant(file); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
