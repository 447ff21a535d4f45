package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/agent"
)

// keySize is an AES-256 key, in bytes.
const keySize = 32

// maxKeyFile bounds what is read of a file that is not a key file at all.
const maxKeyFile = 64 << 10

func (p *parser) keys(raw rawCluster) agent.Keyring {
	const key = "cluster.key_file"
	switch {
	case raw.KeyFile == "" && raw.Insecure:
		return nil
	case raw.KeyFile == "":
		p.bad(key, "required: make a key with `(umask 077; peervip keygen > FILE)`, copy FILE to every node and name it here or with --key-file; or, where nobody else reaches the network, set cluster.insecure: true")
		return nil
	case raw.Insecure:
		p.bad(key, "set together with cluster.insecure: true: take one of them out")
		return nil
	}
	keys, err := readKeys(raw.KeyFile)
	if err != nil {
		p.bad(key, "%v", err)
	}
	return keys
}

// readKeys reads a key file: a key a line, 32 bytes in base64 or hexadecimal,
// the first for signing; empty lines and lines that begin with # do not count.
// A file that others than root and the agent's own user may read or replace is refused.
func readKeys(path string) (agent.Keyring, error) {
	// Not blocking, so that a pipe is refused instead of waited for.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	name := shown(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist: copy it from another node, or make the cluster's first key with `(umask 077; peervip keygen > %s)`", name, name)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, withoutPath(err))
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("asking for the mode of %s: %w", name, withoutPath(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: name the file with the key", name)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so others than its owner can use it: chmod 600 %s", name, mode, name)
	}
	if err := checkOwner(name, info); err != nil {
		return nil, err
	}
	if err := checkDirectory(path); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, withoutPath(err))
	}
	keys, err := parseKeys(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}

// checkOwner refuses a key that belongs to somebody who is neither root nor the
// agent's own user: whoever owns a file can read and change it, whatever its mode.
func checkOwner(name string, info os.FileInfo) error {
	owner := info.Sys().(*syscall.Stat_t).Uid
	own := uint32(os.Geteuid())
	if owner == 0 || owner == own {
		return nil
	}
	return fmt.Errorf("%s belongs to user %d, who can read and change it: chown %d %s", name, owner, own, name)
}

// checkDirectory refuses a directory in which everybody may put another file in the
// key's place. Where the sticky bit is set only its owner may.
func checkDirectory(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("asking for the mode of %s: %w", shown(dir), withoutPath(err))
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("everybody may write to its directory %s, and so put another key there: chmod o-w %s", shown(dir), shown(dir))
	}
	return nil
}

// withoutPath is for errors that name the path already.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}

// parseKeys never quotes what it reads in an error: it may be a key.
func parseKeys(content []byte) (agent.Keyring, error) {
	const cure = "make a key with `peervip keygen`"
	var keys agent.Keyring
	number := 0
	text := strings.TrimPrefix(string(content), "\ufeff") // editors of Windows put a byte order mark there
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, err := decodeKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: neither base64 nor hexadecimal: %s", number, cure)
		}
		if len(key) != keySize {
			return nil, fmt.Errorf("line %d: a key of %d bytes, want %d: %s", number, len(key), keySize, cure)
		}
		for _, known := range keys {
			if bytes.Equal(known, key) {
				return nil, fmt.Errorf("line %d: a key that an earlier line has: take it out", number)
			}
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in it: " + cure)
	}
	return keys, nil
}

// decodeKey tries hexadecimal first: such a line may be base64 too, but never of
// 32 bytes, which take 43 digits, an odd number, or end in =.
func decodeKey(line string) ([]byte, error) {
	if key, err := hex.DecodeString(line); err == nil {
		return key, nil
	}
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(line, "="))
}
