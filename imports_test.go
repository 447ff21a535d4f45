// Package peervip_test holds the rules that no single package can hold: which
// package may import which (docs/code.md gives the reasons).
package peervip_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/peervip/peervip"

// ours says which packages of this module each package may import. Imports only
// go down; a package that is not listed is a violation, so that a new one is
// thought about. Tests may import e2e/lab besides.
var ours = map[string][]string{
	"hashring":    {},
	"node":        {"hashring"},
	"node/health": {"node", "hashring"},
	"node/link":   {"node", "hashring"},
	"nft":         {"node", "hashring"},
	"gossip":      {}, // its payloads are bytes to it
	"agent":       {"gossip", "nft", "node/health", "node/link", "node", "hashring"},
	"cmd/peervip": {"agent", "node/health", "node", "e2e/lab"},
	"e2e/lab":     {}, // it sees an agent from outside only
	"e2e":         {},
	"e2e/systemd": {},
	"mutants":     {}, // it runs the tests of others
	".":           {},
}

const labPackage = "e2e/lab"

// only says which packages may import a library, outside of tests. A library is
// meant with everything below it.
var only = map[string]string{
	"github.com/hashicorp/memberlist": "gossip",
	"github.com/google/nftables":      "nft",
	"github.com/mdlayher/packet":      "node/link",
	"github.com/spf13/viper":          "cmd/peervip",
	"github.com/spf13/cobra":          "cmd/peervip",
}

// pure packages take time and randomness as arguments and do nothing but compute.
var pure = []string{"hashring", "node"}

// pureImports is all that a pure package may import besides packages of ours:
// nothing that reads a clock, a file, a socket or a random number, or that runs
// beside the caller.
var pureImports = []string{
	"bytes", "cmp", "encoding/base64", "encoding/binary", "encoding/json", "errors", "fmt",
	"crypto/hkdf", "crypto/hmac", "crypto/sha256", "hash", "iter", "maps", "math", "math/bits", "net/netip", "slices", "strconv", "strings", "time",
	"github.com/cespare/xxhash/v2",
}

// impure names what even the packages above have of clocks, timers and output.
var impure = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
	"fmt":  {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
}

// violations lists what breaks the rules in the Go files of a module, sorted.
func violations(tree fs.FS) ([]string, error) {
	var found []string
	err := fs.WalkDir(tree, ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && ignored(entry.Name()):
			return fs.SkipDir
		case entry.IsDir() || path.Ext(file) != ".go":
			return nil
		}
		source, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, file, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		found = append(found, check(files, parsed, file)...)
		return nil
	})
	slices.Sort(found)
	return found, err
}

// ignored are the directories that the go command passes over.
func ignored(dir string) bool {
	return dir == "testdata" || dir == "vendor" || strings.HasPrefix(dir, ".") || strings.HasPrefix(dir, "_")
}

// check lists what one file does against the rules.
func check(files *token.FileSet, parsed *ast.File, file string) []string {
	var found []string
	bad := func(at token.Pos, format string, args ...any) {
		where := files.Position(at)
		found = append(found, fmt.Sprintf("%s:%d: %s", file, where.Line, fmt.Sprintf(format, args...)))
	}
	pkg, test := path.Dir(file), strings.HasSuffix(file, "_test.go")
	allowed, known := ours[pkg]
	if !known {
		bad(parsed.Package, "package %s is in no rule: say in imports_test.go what it may import", pkg)
		return found
	}
	isPure := slices.Contains(pure, pkg) && !test
	names := map[string]string{} // of the imported packages, as the file calls them
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			bad(spec.Pos(), "import %s: %v", spec.Path.Value, err)
			continue
		}
		names[path.Base(imported)] = imported
		if spec.Name != nil {
			names[spec.Name.Name] = imported
		}
		if target, inside := within(imported, module); inside {
			itself := target == pkg && test // an external test imports what it tests
			if !itself && !slices.Contains(allowed, target) && !(test && target == labPackage) {
				bad(spec.Pos(), "%s must not import %s", pkg, target)
			}
			continue
		}
		for library, owner := range only {
			if _, inside := within(imported, library); inside && pkg != owner && !test {
				bad(spec.Pos(), "%s must not import %s: only %s may", pkg, imported, owner)
			}
		}
		if isPure && !slices.Contains(pureImports, imported) {
			bad(spec.Pos(), "%s is pure and must not import %s", pkg, imported)
		}
		if isPure && spec.Name != nil && spec.Name.Name == "." {
			bad(spec.Pos(), "%s is pure and must say what it uses of %s", pkg, imported)
		}
	}
	if isPure {
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				bad(n.Pos(), "%s is pure and must not start a goroutine", pkg)
			case *ast.SelectorExpr:
				name, ok := n.X.(*ast.Ident)
				if ok && slices.Contains(impure[names[name.Name]], n.Sel.Name) {
					bad(n.Pos(), "%s is pure and must not use %s.%s", pkg, names[name.Name], n.Sel.Name)
				}
			}
			return true
		})
	}
	return found
}

// within tells whether an import path is a module or library or below it, and
// where: "." for itself.
func within(imported, root string) (below string, inside bool) {
	if imported == root {
		return ".", true
	}
	return strings.CutPrefix(imported, root+"/")
}

func TestImportsOnlyGoDown(t *testing.T) {
	found, err := violations(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range found {
		t.Error(v)
	}
}

// Each package of the rules exists, or the rules would hold nothing.
func TestImportRulesNamePackages(t *testing.T) {
	for pkg := range ours {
		files, err := fs.Glob(os.DirFS("."), path.Join(pkg, "*.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("package %s has %d Go files (%v)", pkg, len(files), err)
		}
	}
}

func TestViolationsAreFound(t *testing.T) {
	imports := func(paths ...string) string {
		var text strings.Builder
		text.WriteString("package p\n")
		for _, p := range paths {
			text.WriteString("import " + p + "\n")
		}
		return text.String()
	}
	const at = module + "/"
	for name, test := range map[string]struct {
		file, source string
		want         []string
	}{
		"down":                {"agent/a.go", imports(`"` + at + `node/link"`), nil},
		"up":                  {"node/a.go", imports(`"` + at + `agent"`), []string{"node/a.go:2: node must not import agent"}},
		"up in a test":        {"nft/a_test.go", imports(`"` + at + `agent"`), []string{"nft/a_test.go:2: nft must not import agent"}},
		"sideways":            {"gossip/a.go", imports(`"` + at + `node"`), []string{"gossip/a.go:2: gossip must not import node"}},
		"below a longer path": {"hashring/a.go", imports(`"` + at + `node/health"`), []string{"hashring/a.go:2: hashring must not import node/health"}},
		"the lab in a test":   {"nft/a_test.go", imports(`"` + at + `e2e/lab"`), nil},
		"the lab":             {"nft/a.go", imports(`"` + at + `e2e/lab"`), []string{"nft/a.go:2: nft must not import e2e/lab"}},
		"the lab looks in":    {"e2e/lab/a.go", imports(`"` + at + `nft"`), []string{"e2e/lab/a.go:2: e2e/lab must not import nft"}},
		"an external test":    {"node/a_test.go", imports(`"` + at + `node"`), nil},
		"the module's root":   {"node/a.go", imports(`"` + module + `"`), []string{"node/a.go:2: node must not import ."}},
		"a package in no rule": {"web/a.go", imports(`"os"`),
			[]string{"web/a.go:1: package web is in no rule: say in imports_test.go what it may import"}},
		"a library": {"agent/a.go", imports(`"github.com/hashicorp/memberlist"`),
			[]string{"agent/a.go:2: agent must not import github.com/hashicorp/memberlist: only gossip may"}},
		"a part of a library": {"agent/a.go", imports(`"github.com/google/nftables/expr"`),
			[]string{"agent/a.go:2: agent must not import github.com/google/nftables/expr: only nft may"}},
		"a library where it may be":     {"nft/a.go", imports(`"github.com/google/nftables/expr"`), nil},
		"a library in a test":           {"nft/a_test.go", imports(`"github.com/mdlayher/packet"`), nil},
		"a library of the same letters": {"agent/a.go", imports(`"github.com/google/nftablesque"`), nil},
		"pure and addresses":            {"node/a.go", imports(`"net/netip"`), nil},
		"pure and sockets":              {"node/a.go", imports(`"net"`), []string{"node/a.go:2: node is pure and must not import net"}},
		"pure and logs":                 {"hashring/a.go", imports(`"log/slog"`), []string{"hashring/a.go:2: hashring is pure and must not import log/slog"}},
		"pure and locks":                {"node/a.go", imports(`"sync/atomic"`), []string{"node/a.go:2: node is pure and must not import sync/atomic"}},
		"its tests are not":             {"node/a_test.go", imports(`"os"`) + "var _ = time.Now\n", nil},
		"its neighbours are not":        {"node/link/a.go", imports(`"os"`), nil},
		"pure and durations":            {"node/a.go", imports(`"time"`) + "const a = time.Second\n", nil},
		"pure and the clock": {"node/a.go", imports(`"time"`) + "var a = time.Now()\n",
			[]string{"node/a.go:3: node is pure and must not use time.Now"}},
		"pure and the clock by another name": {"node/a.go", imports(`clock "time"`) + "var a = clock.Since\n",
			[]string{"node/a.go:3: node is pure and must not use time.Since"}},
		"pure and all names at once": {"node/a.go", imports(`. "time"`),
			[]string{"node/a.go:2: node is pure and must say what it uses of time"}},
		"pure and output": {"hashring/a.go", imports(`"fmt"`) + "func f() { fmt.Println() }\n",
			[]string{"hashring/a.go:3: hashring is pure and must not use fmt.Println"}},
		"pure and goroutines": {"node/a.go", "package p\nfunc f() { go f() }\n",
			[]string{"node/a.go:2: node is pure and must not start a goroutine"}},
		"what go passes over": {"web/testdata/a.go", imports(`"os"`), nil},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := violations(fstest.MapFS{test.file: {Data: []byte(test.source)}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, found); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

// A file that cannot be parsed is an error, not a file without violations.
func TestUnreadableFilesAreErrors(t *testing.T) {
	if _, err := violations(fstest.MapFS{"node/a.go": {Data: []byte("pakcage node")}}); err == nil {
		t.Error("a file that is no Go was passed over")
	}
}
