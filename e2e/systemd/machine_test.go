package systemd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
)

// machine is a Debian with systemd as its first process, on a port of a lab's
// switch. Its mounts, processes and control group are gone with it, and it is gone
// with the test.
type machine struct {
	name  string
	index int
	addr  netip.Addr

	dir, group, netns, id string
	files                 string // where files are written before it boots

	mu      sync.Mutex
	power   bool          // it boots again whenever it reboots
	boots   int           // how often it has booted
	process int           // of systemd-nspawn; 0: it is off
	off     chan struct{} // closed when it is off for good
	fault   error         // why it went off by itself
}

// nodeSwitch is the interface that systemd-nspawn gives a machine.
const nodeLink = "host0"

// bootScript makes a machine's process: in mounts of its own, in its control group,
// and in the network of the switch, where systemd-nspawn makes the machine's port.
// ip netns exec would hide the control groups.
const bootScript = `
if [ "$3" = overlay ]; then ` + mountOverlay + `; fi
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
echo $$ > "$4/cgroup.procs"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0
exec nsenter --net="$5" systemd-nspawn --quiet --boot --directory="$2/root" --machine="$6" --hostname="$7" \
	--register=no --keep-unit --network-bridge=` + lab.Bridge + ` --console=read-only --resolv-conf=off \
	--capability=CAP_NET_ADMIN,CAP_IPC_LOCK,CAP_SYS_NICE
`

// rebootAsked is how systemd-nspawn --keep-unit ends for a machine that reboots.
const rebootAsked = 133

// newMachine makes the machine with the number, without power. Its files have a
// static address, a web server and a service that answers lines, both under its name.
func newMachine(l *lab.Lab, index int) (*machine, error) {
	m := &machine{
		name: lab.NodeName(index), index: index, addr: lab.NodeAddress(index),
		id: fmt.Sprintf("%s-%d", l.Prefix, index+1), netns: "/run/netns/" + l.Switch().Name,
	}
	m.dir = filepath.Join(l.Dir, m.name)
	group, err := cgroups()
	if err != nil {
		return nil, err
	}
	m.group = filepath.Join(group, m.id)
	if m.files, err = newRoot(m.dir); err != nil {
		return nil, err
	}
	return m, errors.Join(
		m.write("/etc/hostname", m.name+"\n"),
		m.write("/etc/systemd/network/10-host0.network", networkFile(m.addr)),
		m.write("/etc/nginx/sites-available/default", siteFile("80", m.name)),
		m.write("/etc/systemd/system/talk.socket", talkSocket),
		m.write("/etc/systemd/system/talk@.service", fmt.Sprintf(talkService, m.name)),
		m.enable("nginx.service", "/lib/systemd/system/"),
		m.enable("talk.socket", "/etc/systemd/system/"),
	)
}

func networkFile(a netip.Addr) string {
	return fmt.Sprintf("[Match]\nName=%s\n[Network]\nAddress=%s/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n", nodeLink, a)
}

// siteFile is a web server that answers with the machine's name.
func siteFile(listen, name string) string {
	return fmt.Sprintf(`server {
	listen %s;
	access_log off;
	location = /healthz { return 200 "ok\n"; }
	location = / { return 200 "%s\n"; }
}
`, listen, name)
}

// The service of lab.TalkPort answers each line with the machine's name before it.
// At a shutdown it goes as late as it can.
const talkSocket = `[Socket]
ListenStream=9001
Accept=yes
MaxConnections=1000
Backlog=1000
`

const talkService = `[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart=sed -u "s/^/%s /"
StandardInput=socket
StandardOutput=socket
`

// write writes a file before the machine boots.
func (m *machine) write(path, text string) error { return writeFile(m.files, path, text, 0o644) }

// enable has the unit started at boot; it must not have run yet.
func (m *machine) enable(unit, folder string) error {
	wants := filepath.Join(m.files, "/etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	return os.Symlink(folder+unit, filepath.Join(wants, unit))
}

// boot gives the machine power, and waits until all that it starts has started.
func (m *machine) boot(ctx context.Context) error {
	if err := os.MkdirAll(m.group, 0o755); err != nil {
		return err
	}
	root, err := base()
	if err != nil {
		return err
	}
	console, err := os.OpenFile(filepath.Join(m.dir, "console"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	layers := "copy"
	if overlays() {
		layers = "overlay"
	}
	m.mu.Lock()
	m.power, m.off, m.fault = true, make(chan struct{}), nil
	boots := m.boots
	m.mu.Unlock()
	go func() {
		// The kernel sends the death signal when the thread that forked ends.
		runtime.LockOSThread()
		defer console.Close()
		defer close(m.off)
		for {
			cmd := exec.Command("unshare", "--mount", "--propagation", "private", "/bin/sh", "-euc", bootScript, "sh",
				root, m.dir, layers, m.group, m.netns, m.id, m.name)
			cmd.Stdout, cmd.Stderr = console, console
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
			m.mu.Lock()
			if !m.power {
				m.mu.Unlock()
				return
			}
			if err := cmd.Start(); err != nil {
				m.fault = err
				m.mu.Unlock()
				return
			}
			m.process = cmd.Process.Pid
			m.boots++
			m.mu.Unlock()
			err := cmd.Wait()
			m.mu.Lock()
			m.process = 0
			again := m.power && cmd.ProcessState.ExitCode() == rebootAsked
			if m.power && err != nil && !again {
				m.fault = fmt.Errorf("its systemd-nspawn ended: %w", err)
			}
			m.mu.Unlock()
			if !again {
				return
			}
		}
	}()
	return m.booted(ctx, boots+1)
}

// booting is the number of the boot that it is in.
func (m *machine) booting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boots
}

// booted waits for the end of the boot with the number.
func (m *machine) booted(ctx context.Context, number int) error {
	err := lab.Poll(ctx, func() error {
		m.mu.Lock()
		boots, fault := m.boots, m.fault
		m.mu.Unlock()
		if fault != nil {
			return lab.Final(fault)
		}
		if boots < number {
			return errors.New("it does not boot again")
		}
		state, err := m.run(ctx, "systemctl", "is-system-running")
		if state = strings.TrimSpace(state); state != "running" && state != "degraded" {
			return fmt.Errorf("it is %q (%w)", state, err)
		}
		return nil
	})
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(m.dir, "console"))
		return fmt.Errorf("booting %s: %w\nits console: %s", m.name, err, lastLines(console, 20))
	}
	return nil
}

// cut takes the power away, as a power cut does.
func (m *machine) cut() error {
	m.mu.Lock()
	m.power = false
	off := m.off
	m.mu.Unlock()
	err := removeGroup(m.group)
	if off != nil {
		<-off
	}
	return err
}

// first is the process that is the first in the machine.
func (m *machine) first() (int, error) {
	m.mu.Lock()
	process := m.process
	m.mu.Unlock()
	if process == 0 {
		return 0, fmt.Errorf("%s is off", m.name)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", process, process))
	if err != nil {
		return 0, err
	}
	for _, child := range strings.Fields(string(children)) {
		status, err := os.ReadFile("/proc/" + child + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			if ids := strings.Fields(value); name == "NSpid" && len(ids) > 1 && ids[len(ids)-1] == "1" {
				return strconv.Atoi(child)
			}
		}
	}
	return 0, fmt.Errorf("%s has not booted", m.name)
}

// run runs a command in the machine, and returns what it printed.
func (m *machine) run(ctx context.Context, command string, args ...string) (string, error) {
	pid, err := m.first()
	if err != nil {
		return "", err
	}
	enter := []string{"-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "-C", "--", "/usr/bin/env", "-i",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TZ=UTC", command}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %s %s: %w: %s", m.name, command, strings.Join(args, " "), err, lastLines(out, 5))
	}
	return string(out), err
}

// status is what peervip says there.
func (m *machine) status(ctx context.Context) (s lab.Status, err error) {
	out, err := m.run(ctx, "peervip", "status", "-o", "json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("status of %s: %w in %q", m.name, err, out)
	}
	return s, nil
}

// unit is what systemd says of a property of the agent's unit.
func (m *machine) unit(ctx context.Context, property string) (string, error) {
	out, err := m.run(ctx, "systemctl", "show", "--value", "--property="+property, "peervip.service")
	return strings.TrimSpace(out), err
}
