package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// edit changes a source file: what is there once becomes something else.
type edit struct{ file, old, new string }

// compileEdited builds peervip with changed sources, which stay as they are on disk.
func compileEdited(name string, edits ...edit) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		root, err := filepath.Abs("..")
		if err != nil {
			return "", err
		}
		texts := map[string]string{}
		for _, e := range edits {
			path := filepath.Join(root, e.file)
			if texts[path] == "" {
				text, err := os.ReadFile(path)
				if err != nil {
					return "", err
				}
				texts[path] = string(text)
			}
			if strings.Count(texts[path], e.old) != 1 {
				return "", fmt.Errorf("%s does not have %q once", e.file, e.old)
			}
			texts[path] = strings.Replace(texts[path], e.old, e.new, 1)
		}
		overlay := struct{ Replace map[string]string }{map[string]string{}}
		for path, text := range texts {
			edited := filepath.Join(programs, name+"-"+filepath.Base(path))
			if err := os.WriteFile(edited, []byte(text), 0o644); err != nil {
				return "", err
			}
			overlay.Replace[path] = edited
		}
		list, err := json.Marshal(overlay)
		if err != nil {
			return "", err
		}
		file := filepath.Join(programs, name)
		if err := os.WriteFile(file+".json", list, 0o644); err != nil {
			return "", err
		}
		if out, err := exec.Command("go", "build", "-race", "-overlay", file+".json", "-o", file, "../cmd/peervip").CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		return file, nil
	})
}

var (
	// earlier is a version that reads the first format of beacons only.
	earlier = compileEdited("earlier", edit{"node/beacon_format.go", "BeaconMax = 2", "BeaconMax = 1"})
	// later is a version that has a format more, of beacons and of messages, and a field more in a
	// beacon, a statement and the spec.
	later = compileEdited("later",
		edit{"node/beacon_format.go", "BeaconMax = 2", "BeaconMax = 3"},
		edit{"node/message.go", "FormatMax = 1", "FormatMax = 2"},
		edit{"node/beacon_codec2.go", "c.appendHead(buf, b, 2, flags)", "c.appendHead(buf, b, b.Format, flags)"},
		edit{"node/beacon_codec2.go", "buf = be.AppendUint32(buf, uint32(packed))\n\t}\n", "buf = be.AppendUint32(buf, uint32(packed))\n\t}\n\tbuf = append(buf, b.Name...)\n"},
		edit{"node/statement.go", "type Statement struct {\n", "type Statement struct {\n\tLater string `json:\"later,omitempty\"`\n"},
		edit{"node/statement.go", "d := Delta{Statement: *s}\n", "d := Delta{Statement: *s}\n\td.Later = \"what a later version says\"\n"},
		edit{"agent/config.go", "type Spec struct {\n", "type Spec struct {\n\tLater string `json:\"later\"`\n"},
		edit{"agent/config.go", `{"spec.mac", s.MAC, "multicast"},`, `{"spec.mac", s.MAC, "multicast"}, {"spec.later", s.Later, ""},`},
	)
)

// TestVersionsRollUpAndBack upgrades three nodes one after another by two versions, and takes
// them back, under new connections all the time: nobody is refused, no open connection breaks,
// and the nodes speak the highest format that all of them read.
func TestVersionsRollUpAndBack(t *testing.T) {
	l := build(t, 3)
	program := func(build func() (string, error)) string {
		path, err := build()
		must(t, err)
		return path
	}
	for _, n := range l.Nodes {
		n.UseProgram(program(earlier))
	}
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	clients := visit(t, l)
	begun := l.Now()
	least, reads := 1, []int{1, 1, 1}
	for _, version := range []struct {
		name   string
		build  func() (string, error)
		format int
	}{{"this version", tested, 2}, {"a later one", later, 3}, {"this version again", tested, 2}, {"an earlier one", earlier, 1}} {
		for i, n := range l.Nodes {
			run(t, n, "leave", "--keep-flows")
			must(t, n.WaitExit(patiently(t)))
			n.UseProgram(program(version.build))
			start(t, n)
			settle(t, l, l.Nodes...)
			reads[i] = version.format
			least = min(reads[0], reads[1], reads[2])
			for _, n := range l.Nodes {
				s := mustStatus(t, n)
				if s.Beacons.Format > least {
					t.Errorf("with %s on %s, %s speaks format %d, which not all read", version.name, l.Nodes[i].Name, n.Name, s.Beacons.Format)
				}
				for _, problem := range s.Problems {
					if strings.Contains(problem, "understood") || strings.Contains(problem, "spec") {
						t.Errorf("with %s on %s, %s says: %s", version.name, l.Nodes[i].Name, n.Name, problem)
					}
				}
			}
		}
		for _, n := range l.Nodes {
			eventually(t, func() error {
				if b := mustStatus(t, n).Beacons; b.Format != least || b.FormatFor != "" && least == version.format {
					return fmt.Errorf("all have %s, and %s speaks format %d for %q", version.name, n.Name, b.Format, b.FormatFor)
				}
				return nil
			})
		}
		clients.untroubled(t, begun, version.name)
		clients.allServed(t)
		t.Logf("%s is on all nodes, and they speak format %d", version.name, least)
	}
	clients.served(t)
	longest := time.Duration(0)
	for _, trace := range clients.Traces() {
		longest = max(longest, trace.LongestSilence(lab.Window{From: begun, To: l.Now()}, l.Now()))
	}
	t.Logf("the longest silence of a client in %d restarts: %v", 4*len(l.Nodes), longest)
	if longest > forgiven {
		clients.demand(t, begun, "a client was silent for %v", longest)
	}
	clients.quiet(t)
}
