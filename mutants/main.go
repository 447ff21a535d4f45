// Command mutants shows that the tests of the protocol catch what they are there for: it
// takes rules out of the code, one at a time, in a copy of it, and runs the tests. It ends
// with 1 if one survives that should not, or a patch does not apply any more.
//
//	go run ./mutants [-seeds N] [-only M1,M6]
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
	"strings"
	"time"
)

// simulated are the tests that run the whole cluster in the simulator under faults that
// nobody has chosen for this one rule.
const simulated = "^Test(Mishaps|Crashes|Partitions|PlannedChanges|ColdStarts|ReplaysAmong|FaultsThatLast|ASwitchReboot|TwoPartiesThatStart)"

func main() {
	seeds := flag.Int("seeds", 200, "seeds of the simulator for each kind of trouble")
	only := flag.String("only", "", "only these mutants, by name, with commas between")
	patience := flag.Duration("patience", 15*time.Minute, "for one run of the tests")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	survived, err := run(ctx, *seeds, *patience, strings.FieldsFunc(*only, func(r rune) bool { return r == ',' || r == ' ' }))
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
	if len(survived) > 0 {
		fmt.Println("FAIL: no test catches", strings.Join(survived, ", "))
		os.Exit(1)
	}
}

// run tries them all, prints a line about each, and returns those that survived.
func run(ctx context.Context, seeds int, patience time.Duration, only []string) (survived []string, err error) {
	mutants, err := readMutants("mutants/patches", only)
	if err != nil {
		return nil, err
	}
	l := &lab{seeds: seeds, patience: patience}
	if l.dir, err = os.MkdirTemp("", "peervip-mutants-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(l.dir)
	if err := l.copySource(ctx); err != nil {
		return nil, fmt.Errorf("copying the source: %w", err)
	}
	for _, pkg := range packages(mutants) {
		fmt.Printf("the tests of %s, %d seeds, without a mutant\n", pkg, seeds)
		if v, err := l.try(ctx, mutant{name: "nothing", pkg: pkg}); err != nil {
			return nil, err
		} else if v.by != "" {
			return nil, fmt.Errorf("%s fails without any mutant, so nothing would be proved", v.by)
		}
	}
	fmt.Printf("%-4s  %-52s  %s\n", "", "caught by", "which breaks")
	for _, m := range mutants {
		v, err := l.mutate(ctx, m)
		if err != nil {
			return survived, fmt.Errorf("%s: %w", m.name, err)
		}
		by := v.by
		switch {
		case by == "" && m.survives != "":
			by = "nothing, as expected: " + m.survives
		case by == "":
			by = "NOTHING"
			survived = append(survived, m.name)
		case m.survives != "":
			return survived, fmt.Errorf("%s was said to survive (%s), and %s catches it: say so in %s", m.name, m.survives, by, m.file)
		case !v.simulated && m.pkg == "./node":
			by += ", not by the simulator"
		}
		fmt.Printf("%-4s  %-52s  %s (%v)\n", m.name, by, m.breaks, v.took.Round(time.Second))
	}
	return survived, nil
}

func packages(mutants []mutant) (all []string) {
	seen := map[string]bool{}
	for _, m := range mutants {
		if !seen[m.pkg] {
			seen[m.pkg] = true
			all = append(all, m.pkg)
		}
	}
	return all
}

// lab is a copy of the source in which mutants are made.
type lab struct {
	dir      string
	seeds    int
	patience time.Duration
}

// verdict is what the tests have said.
type verdict struct {
	by        string // the first test that failed; "": none
	simulated bool   // it runs the simulator
	took      time.Duration
}

// copySource copies what git knows of, as it is in the working tree now.
func (l *lab) copySource(ctx context.Context) error {
	return command(ctx, "", "sh", "-c", `git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || cp --parents -P "$f" "$0"; done' "`+l.dir+`"`)
}

// mutate makes the mutant, tries it, and takes it back.
func (l *lab) mutate(ctx context.Context, m mutant) (verdict, error) {
	patch := filepath.Join(l.dir, m.file) // of the same moment as the rest of the copy
	if err := command(ctx, l.dir, "git", "apply", patch); err != nil {
		return verdict{}, err
	}
	v, err := l.try(ctx, m)
	if err != nil {
		return v, err
	}
	return v, command(ctx, l.dir, "git", "apply", "-R", patch)
}

// try runs the tests until one fails: those of the simulator, those that are named, and
// all others.
func (l *lab) try(ctx context.Context, m mutant) (v verdict, err error) {
	began := time.Now()
	binary := filepath.Join(l.dir, "tests")
	if err := command(ctx, l.dir, "go", "test", "-c", "-o", binary, m.pkg); err != nil {
		return v, err
	}
	type stage struct {
		run, skip string
		simulated bool
	}
	stages := []stage{{"", "", false}}
	if m.pkg == "./node" {
		stages = []stage{{simulated, "", true}, {"", simulated, false}}
	}
	if len(m.tests) > 0 {
		named := stage{"^(" + strings.Join(m.tests, "|") + ")$", "", false}
		last := len(stages) - 1
		stages = append(stages[:last:last], named, stages[last])
	}
	for _, s := range stages {
		args := []string{"-test.failfast", "-test.timeout", l.patience.String(), "-test.run", s.run, "-test.skip", s.skip}
		if m.pkg == "./node" {
			args = append(args, fmt.Sprintf("-sim.seeds=%d", l.seeds))
		}
		by, err := l.test(ctx, binary, m.pkg, args)
		if v = (verdict{by, s.simulated, time.Since(began)}); err != nil || by != "" {
			return v, err
		}
	}
	return v, nil
}

var (
	failed = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)
	within = regexp.MustCompile(`(?m)^.*\.(Test\w+)\(`)
)

// test returns the first test that failed, or "".
func (l *lab) test(ctx context.Context, binary, pkg string, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = filepath.Join(l.dir, pkg)
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil:
		return "", nil
	}
	if _, exited := err.(*exec.ExitError); !exited {
		return "", err
	}
	if m := failed.FindSubmatch(out); m != nil {
		return string(m[1]), nil
	}
	if m := within.FindSubmatch(out); m != nil { // a panic, or a test without end
		return string(m[1]) + " (panics or hangs)", nil
	}
	return "", fmt.Errorf("the tests ended with %w, and no test has failed:\n%s", err, out)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
