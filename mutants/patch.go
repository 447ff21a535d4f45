package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutant is the source with one rule of the protocol taken out. It is kept as a patch,
// with lines before the diff that say what it breaks:
//
//	M1: a grant goes out before the kernel has released its buckets.
//	package: ./agent          whose tests are to catch it; without the line ./node
//	tests: TestA TestB        that catch it, among others: they are run first
//	survives: because ...     no test can catch it
type mutant struct {
	name, breaks string // "M1", and a sentence
	file         string
	pkg          string
	tests        []string
	survives     string // why no test can catch it; "": one must
}

func readMutant(file string) (mutant, error) {
	m := mutant{file: file, pkg: "./node"}
	text, err := os.ReadFile(file)
	if err != nil {
		return m, err
	}
	head, _, found := strings.Cut(string(text), "\ndiff --git ")
	if !found {
		return m, fmt.Errorf("%s: there is no diff in it", file)
	}
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case m.name == "":
			m.name, m.breaks = key, value
		case key == "package":
			m.pkg = value
		case key == "tests":
			m.tests = strings.Fields(value)
		case key == "survives":
			m.survives = value
		case key != "":
			return m, fmt.Errorf("%s: %q is no line that is known here", file, key)
		}
	}
	if m.breaks == "" {
		return m, fmt.Errorf("%s: it does not say what it breaks", file)
	}
	return m, nil
}

// readMutants reads those in the folder, in the order of their files; of them only those
// of these names, if there are any.
func readMutants(dir string, only []string) ([]mutant, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, file := range files {
		m, err := readMutant(file)
		if err != nil {
			return nil, err
		}
		if len(only) == 0 || slices.Contains(only, m.name) {
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no such mutant in %s", dir)
	}
	return all, nil
}
