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
	"github.com/peervip/peervip/node/link"
)

// memory is what a node remembers over a restart, in state_dir/state.json.
type memory struct {
	Drained bool           `json:"drained"`
	Forced  bool           `json:"forced"`
	Grace   *time.Duration `json:"grace_ns,omitempty"` // of the drain; nil: spec.drain_timeout
	Obeyed  uint64         `json:"obeyed"`
	Peers   []gossip.Peer  `json:"peers"`
}

const (
	memoryFile = "state.json"
	// changesFile is what link.Config.Remember was given last. It is a file of its own,
	// for link writes it when it must, and the loop writes the other.
	changesFile = "host.json"
)

// loadMemory reads what was remembered; nothing, if there is no file yet. A file
// that cannot be read is an error: the node may be one that must stay drained.
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
		return m, fmt.Errorf("node.state_dir: %s is damaged (%w): remove it; the node then only forgets whether it was drained, and its last peers", path, err)
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
