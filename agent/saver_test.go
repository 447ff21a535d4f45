package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

func exampleMemory() memory {
	return memory{Drained: true, Forced: true, Obeyed: 1<<63 + 5, Peers: []gossip.Peer{{Name: "b", Addr: netip.MustParseAddrPort("192.0.2.12:7946")}}}
}

func TestMemoryOutlivesTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	if m, err := loadMemory(dir); err != nil || m.Drained || m.Obeyed != 0 || m.Peers != nil {
		t.Errorf("of the first start: %+v, %v", m, err)
	}
	must(t, exampleMemory().save(dir))
	// What a crash has left of a later write is no obstacle.
	must(t, os.WriteFile(filepath.Join(dir, memoryFile+".new"), []byte(`{"drained":fal and much more of the same`), 0o600))
	got, err := loadMemory(dir)
	must(t, err)
	if diff := cmp.Diff(exampleMemory(), got, compareAddr, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	must(t, memory{}.save(dir))
	if got, err := loadMemory(dir); err != nil || got.Drained {
		t.Errorf("%+v, %v", got, err)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("%d files in the state directory", len(entries))
	}
	info, err := os.Stat(filepath.Join(dir, memoryFile))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// A memory that is damaged, as by a power cut, is set aside. Whether the node was
// drained is in doubt then, over further starts too.
func TestDamagedMemory(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "cut": `{"drained":tr`, "another program's": "drained=yes\n", "of another type": `{"drained":"yes"}`,
		"a bad peer": `{"drained":true,"peers":[{"name":"b","addr":"nowhere"}]}`, "two": "{}{}",
	} {
		cfg := Config{Name: "a", Cluster: "web", StateDir: t.TempDir()}
		path := filepath.Join(cfg.StateDir, memoryFile)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		log := &logText{}
		for range 2 {
			m, err := recallMemory(cfg, log.logger())
			must(t, err)
			if !m.Drained || !m.Doubt || m.Forced || m.Obeyed != 0 || m.Node != "a" || m.Cluster != "web" {
				t.Errorf("%s: %+v", name, m)
			}
		}
		if n := strings.Count(log.String(), "is damaged and set aside"); n != 1 || !strings.Contains(log.String(), path+".damaged") {
			t.Errorf("%s: logged %s", name, log)
		}
		if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != content {
			t.Errorf("%s: set aside %q, %v", name, kept, err)
		}
	}
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, memoryFile), 0o700))
	if _, err := recallMemory(Config{StateDir: dir}, (&logText{}).logger()); err == nil || !strings.HasPrefix(err.Error(), "node.state_dir: reading what this node remembers: ") {
		t.Errorf("a directory: %v", err)
	}
}

// A copied state_dir, as in an image of a drained node, drains nobody else.
func TestMemoryOfAnotherNode(t *testing.T) {
	dir := t.TempDir()
	theirs := exampleMemory()
	theirs.Cluster, theirs.Node = "web", "a"
	for _, c := range []struct {
		cluster, node string
		drained       bool
	}{{"web", "a", true}, {"web", "b", false}, {"other", "a", false}} {
		must(t, theirs.save(dir))
		log := &logText{}
		m, err := recallMemory(Config{Cluster: c.cluster, Name: c.node, StateDir: dir}, log.logger())
		must(t, err)
		if m.Drained != c.drained || m.Doubt || m.Cluster != c.cluster || m.Node != c.node || c.drained != (len(m.Peers) > 0) {
			t.Errorf("%+v: %+v", c, m)
		}
		if said := strings.Contains(log.String(), "is of node a of cluster web and set aside"); said == c.drained {
			t.Errorf("%+v: logged %s", c, log)
		}
	}
	// One that does not say whose it is, is of an older version.
	must(t, exampleMemory().save(dir))
	if m, err := recallMemory(Config{Cluster: "web", Name: "b", StateDir: dir}, (&logText{}).logger()); err != nil || !m.Drained || m.Node != "b" {
		t.Errorf("%+v, %v", m, err)
	}
}

// Two agents never share a state_dir: the second is told, and the first is untouched.
func TestStateDirInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	unlock, err := lockState(t.Context(), dir)
	must(t, err)
	_, err = lockState(t.Context(), dir)
	want := fmt.Sprintf("node.state_dir: %s is in use by another agent (process %d): stop that one first, or give each agent a directory of its own", dir, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if errors.As(err, new(*EditError)) {
		t.Error("the service manager would not try again when the other one has ended")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockState(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("told to end: %v", err)
	}
	// One that ends a moment later is waited for.
	first := unlock
	time.AfterFunc(200*time.Millisecond, func() { first() })
	unlock, err = lockState(t.Context(), dir)
	must(t, err)
	must(t, unlock())
	// Where nothing can be written nothing can be overwritten.
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	unlock, err = lockState(t.Context(), file)
	must(t, err)
	must(t, unlock())
}

// What is changed on the host outlives the process; a memory of it that is lost keeps
// nobody from starting.
func TestChangesOutliveTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	log := &logText{}
	want := link.Changes{Host: "x/1", Settings: []link.Setting{{Where: "eth0", Key: "arp_ignore", Index: 2, Found: 0, Set: 1}}}
	for _, want := range []link.Changes{{}, want} {
		if want.Host != "" {
			must(t, saveChanges(dir, want))
		}
		if diff := cmp.Diff(want, loadChanges(dir, log.logger())); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	if log.String() != "" {
		t.Errorf("log: %s", log)
	}
	must(t, os.WriteFile(filepath.Join(dir, changesFile), []byte(`{"host":"x/1","settings":[{"where":"eth0"},3]}`), 0o600))
	if got := loadChanges(dir, log.logger()); got.Host != "" || got.Settings != nil || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("damaged: %+v, log: %s", got, log)
	}
}

// A disk that fails is said, and tried again until it works; what is still to be
// written at the end is.
func TestSaverTriesAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	must(t, os.WriteFile(dir, nil, 0o600)) // a file where the directory should be
	log := &logText{}
	s := newSaver(dir, log.logger())
	s.again = 5 * time.Millisecond
	s.whenSaved(func(err error) {
		if err != nil {
			t.Errorf("nothing to save: %v", err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()

	s.save(exampleMemory())
	told := make(chan error, 1)
	s.whenSaved(func(err error) { told <- err })
	if err := within(t, "the outcome", told); err == nil {
		t.Error("a failure was told as a success")
	}
	eventually(t, func() error {
		if s.err() == nil {
			return fmt.Errorf("no failure is known")
		}
		return nil
	})
	time.Sleep(20 * time.Millisecond)
	must(t, os.Remove(dir))
	eventually(t, s.err)
	got, err := loadMemory(dir)
	must(t, err)
	if !got.Drained || got.Obeyed != exampleMemory().Obeyed {
		t.Errorf("saved %+v", got)
	}
	s.whenSaved(func(err error) { told <- err })
	if err := within(t, "the outcome", told); err != nil {
		t.Error(err)
	}
	eventually(t, func() error { // it is logged last
		if n := strings.Count(log.String(), "was not saved"); n != 1 || !strings.Contains(log.String(), "is saved again") {
			return fmt.Errorf("logged:\n%s", log)
		}
		return nil
	})

	cancel()
	must(t, within(t, "the end", ended))
	s.save(memory{})
	s.write()
	if got, err := loadMemory(dir); err != nil || got.Drained {
		t.Errorf("at the end: %+v, %v", got, err)
	}
}

// slowDisk lets writes of the rig's memory wait until it is released.
func slowDisk(t *testing.T, r *rig) (release func()) {
	t.Helper()
	// Opening a pipe for writing waits for a reader.
	pipe := filepath.Join(r.cfg.StateDir, memoryFile+".new")
	must(t, os.MkdirAll(r.cfg.StateDir, 0o700))
	must(t, os.RemoveAll(pipe))
	must(t, unix.Mkfifo(pipe, 0o600))
	return func() {
		reader, err := os.OpenFile(pipe, os.O_RDONLY|unix.O_NONBLOCK, 0)
		must(t, err)
		t.Cleanup(func() { reader.Close() })
		must(t, os.Remove(pipe)) // the next try makes a file
	}
}

// "drains" is said when cutting the power would not undo it: of this node and,
// asked there, of another.
func TestDrainIsToldWhenItIsSaved(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"here", "at another node"} {
		t.Run(where, func(t *testing.T) {
			_, rigs := newCluster(t, "a", "b")
			a, asked := rigs[0], rigs[0]
			if where != "here" {
				asked = rigs[1]
			}
			release := slowDisk(t, a)
			told := make(chan error, 1)
			go func() {
				_, err := asked.client.Wish(t.Context(), WishRequest{Node: "a", Want: node.WantDrain})
				told <- err
			}()
			a.phase(t, node.Drained) // the buckets do not wait for the disk
			select {
			case err := <-told:
				t.Errorf("told before it was saved: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			release()
			if err := within(t, "the answer", told); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDrainOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	if _, err := a.client.Wish(t.Context(), WishRequest{Want: node.WantDrain}); err != nil {
		t.Fatal(err)
	}
	m, err := loadMemory(a.cfg.StateDir)
	must(t, err)
	if !m.Drained {
		t.Fatal("told before it was saved")
	}
	a.cancel()
	must(t, a.end(t))
	s.die(t, "a")
	again := newRig(t, "a", func(c *Config) { c.StateDir = a.cfg.StateDir })
	s.add(again)
	again.start()
	again.loop.Event(gossip.Attempt{Reached: 1})
	again.phase(t, node.Drained)
	s.settled(t, rigs[1])
}

// What is saved as the agent ends is on disk when it has ended.
func TestSavedAtTheEnd(t *testing.T) {
	t.Parallel()
	for range 10 {
		r := newRig(t, "a")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.loop.saver.save(exampleMemory())
		must(t, r.run(ctx))
		if m, err := loadMemory(r.cfg.StateDir); err != nil || !m.Drained {
			t.Fatalf("%+v, %v", m, err)
		}
	}
}

// A drain that cannot be saved is done all the same, and the operator is told.
func TestDrainWithoutADisk(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	must(t, os.RemoveAll(a.cfg.StateDir))
	must(t, os.WriteFile(a.cfg.StateDir, nil, fs.FileMode(0o600)))
	r, err := a.client.Wish(t.Context(), WishRequest{Want: node.WantDrain})
	must(t, err)
	if !strings.HasPrefix(r.Note, "done, but a restart would forget it: saving what this node remembers in "+a.cfg.StateDir) || r.Kept {
		t.Errorf("told %+v", r)
	}
	a.phase(t, node.Drained)
	a.problem(t, true, "a restart would forget whether this node is drained")
	must(t, os.Remove(a.cfg.StateDir))
	a.problem(t, false, "a restart would forget")
	if m, err := loadMemory(a.cfg.StateDir); err != nil || !m.Drained {
		t.Errorf("saved later: %+v, %v", m, err)
	}
}
