package systemd

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// release is the Debian that the machines run: the oldest that peervip is for.
	release = "bookworm"
	// packages are all that a machine has.
	packages = "systemd,systemd-sysv,dbus,iproute2,nginx-light,curl,procps,nftables,udev"
	// cache is where roots are kept, from the folder of this package.
	cache = "../../.cache/systemd"
)

// prepare is run in a new root, once: what the machines have no use for would only
// take its time at each boot.
const prepare = `
systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	console-getty.service getty.target systemd-logind.service systemd-update-utmp.service \
	systemd-update-utmp-runlevel.service systemd-modules-load.service dev-hugepages.mount
systemctl -q enable systemd-networkd.service systemd-networkd-wait-online.service
systemctl -q disable nginx.service
rm -rf /var/cache/apt /var/lib/apt/lists /usr/share/doc /usr/share/man /usr/share/locale /etc/machine-id
touch /etc/machine-id
mkdir -p /var/log/journal
`

// base is the root that all machines begin with. It is made once, which takes the
// better part of a minute and a Debian mirror, and kept in the cache for as long as
// nothing of what it is made from changes.
var base = sync.OnceValues(func() (string, error) {
	sum := sha256.Sum256([]byte(release + packages + prepare))
	folder, err := filepath.Abs(cache)
	if err != nil {
		return "", err
	}
	root := filepath.Join(folder, release+"-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(folder)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	old, err := filepath.Glob(filepath.Join(folder, "*-*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old { // made from something else, or only half made
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	mirror := os.Getenv("DEBIAN_MIRROR")
	if mirror == "" {
		mirror = "http://deb.debian.org/debian"
	}
	began, half := time.Now(), root+"-half"
	fmt.Printf("making a Debian %s from %s in %s\n", release, mirror, root)
	cmd := exec.Command("debootstrap", "--variant=minbase", "--include="+packages, release, half, mirror)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("no Debian %s could be made from %s (DEBIAN_MIRROR says another): %w: %s", release, mirror, err, lastLines(out, 3))
	}
	if out, err := exec.Command("chroot", half, "/bin/sh", "-euc", prepare).CombinedOutput(); err != nil {
		return "", fmt.Errorf("preparing a Debian %s: %w: %s", release, err, lastLines(out, 3))
	}
	fmt.Printf("made in %v\n", time.Since(began).Round(time.Second))
	return root, os.Rename(half, root)
})

// lock keeps other tests out of the folder until the unlock.
func lock(folder string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// overlays says whether a root can be laid over the base; otherwise it is copied,
// as where the temporary folder is on such a root itself.
var overlays = sync.OnceValue(func() bool {
	root, err := base()
	if err != nil {
		return false
	}
	dir, err := os.MkdirTemp(programs, "overlay-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	if err := overlayFolders(dir); err != nil {
		return false
	}
	return exec.Command("unshare", "--mount", "--propagation", "private", "/bin/sh", "-euc", mountOverlay, "sh", root, dir).Run() == nil
})

func overlayFolders(dir string) error {
	var errs []error
	for _, name := range []string{"upper", "work", "root"} {
		errs = append(errs, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	return errors.Join(errs...)
}

// mountOverlay lays the upper folder of $2 over the root in $1.
const mountOverlay = `mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"`

// newRoot makes the root of a machine in the folder, and returns where its files
// are to be written before it boots.
func newRoot(dir string) (files string, err error) {
	if err := overlayFolders(dir); err != nil {
		return "", err
	}
	if overlays() {
		return filepath.Join(dir, "upper"), nil
	}
	root, err := base()
	if err != nil {
		return "", err
	}
	files = filepath.Join(dir, "root")
	if out, err := exec.Command("cp", "-a", "--reflink=auto", root+"/.", files).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copying %s: %w: %s", root, err, lastLines(out, 3))
	}
	return files, nil
}

// writeFile writes a file of a root that no machine runs on, with its folders.
func writeFile(root, path, text string, mode fs.FileMode) error {
	file := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), mode)
}

// lastLines are the last of what a program has said, as one line.
func lastLines(out []byte, most int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "; ")
}
