package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// memory is what a node remembers over a restart, in state_dir/state.json.
type memory struct {
	// Cluster and Node are whose memory it is; empty in files of older versions.
	Cluster string `json:"cluster,omitempty"`
	Node    string `json:"node,omitempty"`
	// Doubt: an earlier memory was lost, see node.Started.
	Doubt   bool           `json:"doubt,omitempty"`
	Drained bool           `json:"drained"`
	Forced  bool           `json:"forced"`
	Grace   *time.Duration `json:"grace_ns,omitempty"` // of the drain; nil: spec.drain_timeout
	Obeyed  uint64         `json:"obeyed"`             // all that older versions know of Stamps
	Stamps  node.Stamps    `json:"stamps,omitempty"`   // see node.Statement
	Peers   []gossip.Peer  `json:"peers"`
}

const (
	memoryFile = "state.json"
	// changesFile is what link.Config.Remember was given last. It is a file of its own,
	// for link writes it when it must, and the loop writes the other.
	changesFile = "host.json"
)

// damagedError is a memory file that nothing can be read from.
type damagedError struct{ err error }

func (e *damagedError) Error() string { return e.err.Error() }

// recallMemory is loadMemory for the start of a node. A file that is damaged, or another
// node's, is set aside. With the first the node may be one that must stay drained: it
// is in doubt.
func recallMemory(cfg Config, log *slog.Logger) (memory, error) {
	m, err := loadMemory(cfg.StateDir)
	path := filepath.Join(cfg.StateDir, memoryFile)
	damaged := (*damagedError)(nil)
	switch {
	case errors.As(err, &damaged):
		log.Warn("node.state_dir: what this node remembered is damaged and set aside: it is drained, unless another node knows that it was not", "file", setAside(path, "damaged"), "error", damaged.err)
		m = memory{Cluster: cfg.Cluster, Node: cfg.Name, Drained: true, Doubt: true}
		// At once: a start that follows would find no file, and take the node for a new one.
		if err := m.save(cfg.StateDir); err != nil {
			log.Warn("node.state_dir: that this node may be drained is not remembered", "error", err)
		}
		return m, nil
	case err != nil:
		return m, err
	case m.Node != "" && (m.Node != cfg.Name || m.Cluster != cfg.Cluster):
		log.Warn(fmt.Sprintf("node.state_dir: what is remembered there is of node %s of cluster %s and set aside: was the directory copied, or the node renamed?", m.Node, m.Cluster), "file", setAside(path, "foreign"))
		m = memory{}
	}
	m.Cluster, m.Node = cfg.Cluster, cfg.Name
	return m, nil
}

// setAside renames the file, over what was set aside before, and returns where it is.
func setAside(path, why string) string {
	aside := path + "." + why
	if err := os.Rename(path, aside); err != nil {
		return path
	}
	return aside
}

// loadMemory reads what was remembered; nothing, if there is no file yet. The error is
// a *damagedError if the file could be read and not understood.
func loadMemory(dir string) (memory, error) {
	var m memory
	path := filepath.Join(dir, memoryFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("node.state_dir: reading what this node remembers: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return memory{}, &damagedError{err}
	}
	return m, nil
}

// save replaces the file as a whole, so that a crash leaves the old or the new.
// When it returns, the new one outlives the loss of power.
func (m memory) save(dir string) error {
	return saveJSON(dir, memoryFile, m)
}

// loadChanges reads what an earlier life has changed on the host and not put back.
// Without it a clean stop leaves a few sysctls behind; that is no reason not to start.
func loadChanges(dir string, log *slog.Logger) (c link.Changes) {
	path := filepath.Join(dir, changesFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		log.Warn("it is not known which sysctls an earlier run has changed; they stay as they are", "file", path, "error", err)
		return link.Changes{}
	}
	return c
}

func saveChanges(dir string, c link.Changes) error { return saveJSON(dir, changesFile, c) }

func saveJSON(dir, name string, v any) error {
	path := filepath.Join(dir, name)
	if err := replaceJSON(dir, path, v); err != nil {
		return fmt.Errorf("saving what this node remembers in %s: %w", path, err)
	}
	return nil
}

func replaceJSON(dir, path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The same name each time: what a crash leaves behind is overwritten.
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	d, err := os.Open(dir) // which holds the new name
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
