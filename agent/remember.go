package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/peervip/peervip/gossip"
)

// memory is what a node remembers over a restart, in state_dir/state.json.
type memory struct {
	Drained bool          `json:"drained"`
	Obeyed  uint64        `json:"obeyed"`
	Peers   []gossip.Peer `json:"peers"`
}

const memoryFile = "state.json"

// loadMemory reads what was remembered; nothing, if there is no file yet.
func loadMemory(dir string) (memory, error) {
	var m memory
	path := filepath.Join(dir, memoryFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("reading what this node remembers: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s is damaged (%w): remove it; the node then only forgets whether it was drained, and its last peers", path, err)
	}
	return m, nil
}

// save replaces the file as a whole, so that a crash leaves the old or the new.
func (m memory) save(dir string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding what this node remembers: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	path := filepath.Join(dir, memoryFile)
	f, err := os.CreateTemp(dir, memoryFile+".*")
	if err != nil {
		return fmt.Errorf("saving what this node remembers: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("saving what this node remembers in %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}
