package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKeyFile(t *testing.T) {
	cleanEnvironment(t)
	const cure = ": make a key with `peervip keygen`"
	for _, test := range []struct {
		name, content string
		mode          os.FileMode
		want          string // FILE stands for the path; empty: no error
	}{
		{"base64", testKey1, 0o600, ""},
		{"base64 without padding", strings.TrimRight(testKey1, "="), 0o400, ""},
		{"hexadecimal", strings.ToUpper(testKey2) + "\r\n", 0o600, ""},
		{"with a byte order mark", "\ufeff" + testKey1 + "\r\n", 0o600, ""},
		{"a ring", "# new\n" + testKey1 + "\n\n# old\n  " + testKey2 + "\n", 0o600, ""},
		{"empty", "", 0o600, "FILE: no key in it" + cure},
		{"comments only", "# key\n", 0o600, "FILE: no key in it" + cure},
		{"short", "c2hvcnQ=", 0o600, "FILE: line 1: a key of 5 bytes, want 32" + cure},
		{"long", testKey1[:43] + testKey1[:43], 0o600, "FILE: line 1: a key of 64 bytes, want 32" + cure},
		{"short in hexadecimal", testKey2[:62], 0o600, "FILE: line 1: a key of 31 bytes, want 32" + cure},
		{"no key", "correct horse battery staple", 0o600, "FILE: line 1: neither base64 nor hexadecimal" + cure},
		{"the second line", testKey1 + "\nhell", 0o600, "FILE: line 2: a key of 3 bytes, want 32" + cure},
		{"twice", testKey2 + "\n" + strings.ToUpper(testKey2), 0o600, "FILE: line 2: a key that an earlier line has: take it out"},
		{"readable by the group", testKey1, 0o640, "FILE has mode 0640, so others than its owner can use it: chmod 600 FILE"},
		{"readable by all", testKey1, 0o644, "FILE has mode 0644, so others than its owner can use it: chmod 600 FILE"},
		{"writable by others", testKey1, 0o602, "FILE has mode 0602, so others than its owner can use it: chmod 600 FILE"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := writeFile(t, "key", test.content, test.mode)
			checkKeyFile(t, file, test.want)
		})
	}
	if os.Geteuid() == 0 { // only root can give a file away
		foreign := writeFile(t, "key", testKey1, 0o600)
		if err := os.Chown(foreign, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		checkKeyFile(t, foreign, "FILE belongs to user 65534, who can read and change it: chown 0 FILE")
	}
	everybodys := writeFile(t, "key", testKey1, 0o600)
	directory := filepath.Dir(everybodys)
	if err := os.Chmod(directory, 0o777); err != nil {
		t.Fatal(err)
	}
	checkKeyFile(t, everybodys, "everybody may write to its directory "+directory+", and so put another key there: chmod o-w "+directory)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(everybodys, link); err != nil {
		t.Fatal(err)
	}
	checkKeyFile(t, link, "everybody may write to its directory "+directory+", and so put another key there: chmod o-w "+directory)
	if err := os.Chmod(directory, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	checkKeyFile(t, everybodys, "")
	missing := filepath.Join(t.TempDir(), "key")
	checkKeyFile(t, missing, "FILE does not exist: copy it from another node, or make the cluster's first key with `(umask 077; peervip keygen > FILE)`")
	checkKeyFile(t, t.TempDir(), "FILE is not a regular file: name the file with the key")
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	checkKeyFile(t, pipe, "FILE is not a regular file: name the file with the key")
	checkKeyFile(t, filepath.Join(pipe, "key"), "opening FILE: not a directory")
}

func checkKeyFile(t *testing.T, file, want string) {
	t.Helper()
	got, _, err := load(t, "--name=n", "--interface=eth0", "--vip=192.0.2.100", "--key-file", file)
	if want == "" {
		if err != nil || len(got.Keys) == 0 || got.Insecure {
			t.Errorf("%d keys, error %v", len(got.Keys), err)
		}
		for _, key := range got.Keys {
			if string(key) != string(countUp(0)) && string(key) != string(countUp(0x20)) {
				t.Errorf("key %x", key)
			}
		}
		return
	}
	want = "cluster.key_file: " + strings.ReplaceAll(want, "FILE", file) + " (--key-file)"
	if err == nil || err.Error() != want {
		t.Errorf("error\n%v\nwant\n%s", err, want)
	}
}

// Keys must not get into errors, and with them into logs.
func FuzzParseKeys(f *testing.F) {
	for _, seed := range []string{testKey1, testKey2, testKey1 + "\n" + testKey2, "# c\n\n", "c2hvcnQ=", "\x00", strings.Repeat("A", 100)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, err := parseKeys(content)
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%d keys and error %v", len(keys), err)
		}
		for _, key := range keys {
			if len(key) != keySize {
				t.Fatalf("a key of %d bytes", len(key))
			}
		}
		if err != nil && len(err.Error()) > 100 {
			t.Fatalf("error of %d bytes: %v", len(err.Error()), err)
		}
	})
}
