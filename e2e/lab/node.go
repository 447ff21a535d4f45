package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Node is a server: a namespace with services, and perhaps a running agent. Its
// methods are for one goroutine at a time.
type Node struct {
	Name  string
	Index int
	Addr  netip.Addr
	// Dir holds the configuration, the state directory, the socket and the log.
	Dir string
	// NS is the machine. It is a new one after a power-off, and nil without power.
	NS *Namespace
	// Config is what the next Start writes to the configuration file.
	Config AgentConfig

	// LogByPipe has the agent's log pass through a pipe from the next Start on, so
	// that StallLog can stall it.
	LogByPipe bool

	lab      *Lab
	binary   string
	services *services
	agent    *process
	pipe     *logPipe // of the agent, if it logs by one
}

func newNode(l *Lab, index int, binary string) *Node {
	name := NodeName(index)
	return &Node{
		Name: name, Index: index, Addr: NodeAddress(index),
		Dir: filepath.Join(l.Dir, name), lab: l, binary: binary,
	}
}

// UseProgram has the node run another program from its next start on.
func (n *Node) UseProgram(binary string) { n.binary = binary }

// PowerOn boots the machine: a namespace as after a start of the kernel, a link
// to the switch and the services. The agent is not started.
func (n *Node) PowerOn() (err error) {
	if n.NS != nil {
		return fmt.Errorf("powering on %s: it has power", n.Name)
	}
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of %s: %w", n.Name, err)
	}
	if n.NS, err = NewNamespace(n.lab.Prefix + "-" + n.Name); err != nil {
		return err
	}
	if err := n.plug(); err != nil {
		return err
	}
	n.services, err = startServices(n.Name, n.NS, n.lab)
	return err
}

// MAC is the address of the node's interface on the switch.
func (n *Node) MAC() net.HardwareAddr { return portMAC(n.portID()) }

// portID is the last byte of the MAC.
func (n *Node) portID() byte { return byte(n.Index + 1) }

// plug links the machine to the switch.
func (n *Node) plug() error {
	return n.lab.plug(n.NS, n.Name, n.portID(), []netip.Addr{n.Addr})
}

// PowerOff takes the machine away as the end of its power does: first its port
// goes down, so that nothing it still says is heard, then the agent is killed
// and the machine with its sockets, rules and addresses is gone. Its disk stays.
func (n *Node) PowerOff() error {
	if n.NS == nil {
		return nil
	}
	return errors.Join(n.lab.setPort(n.Name, false), n.close())
}

// close removes what the node has, whatever state it is in.
func (n *Node) close() error {
	if n.NS == nil {
		return nil
	}
	errs := []error{n.Kill()}
	n.pipe.close()
	if n.services != nil {
		n.services.close()
		n.services = nil
	}
	// The link goes at once, and with it the switch port's name; a namespace is
	// only freed in the kernel's own time.
	if err := n.lab.onPort(n.Name, netlink.LinkDel); err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
		errs = append(errs, err)
	}
	errs = append(errs, n.NS.Close())
	n.NS = nil
	return errors.Join(errs...)
}

// Unplug pulls the cable: the node lives, loses its carrier and may notice.
func (n *Node) Unplug() error { return n.lab.setPort(n.Name, false) }

// Plug puts the cable back and waits for the carrier.
func (n *Node) Plug() error {
	if err := n.lab.setPort(n.Name, true); err != nil {
		return err
	}
	return n.lab.onPort(n.Name, func(netlink.Link) error { return waitUp(n.Name) })
}

// SetHealthy makes the node's /healthz answer 200, as it does at the start, or 503.
func (n *Node) SetHealthy(ok bool) { n.services.healthy.Store(ok) }

// WriteConfig writes the configuration, for an agent that runs or is started otherwise.
func (n *Node) WriteConfig() error {
	if err := os.MkdirAll(n.Config.Node.StateDir, 0o700); err != nil {
		return fmt.Errorf("making the state directory of %s: %w", n.Name, err)
	}
	return n.Config.write(n.configFile())
}

func (n *Node) configFile() string { return filepath.Join(n.Dir, "peervip.yaml") }

// StopWeb ends the node's web server, so that its port is refused.
func (n *Node) StopWeb() error { return n.services.web.Close() }

// StartWeb starts it again.
func (n *Node) StartWeb() error { return n.services.startWeb(n.NS) }

// Start writes the configuration and starts the agent. That it is ready is for
// WaitSettled to say.
func (n *Node) Start() error {
	if n.Running() {
		return fmt.Errorf("starting the agent of %s: it is running", n.Name)
	}
	if n.NS == nil {
		return fmt.Errorf("starting the agent of %s: no power", n.Name)
	}
	if err := n.WriteConfig(); err != nil {
		return err
	}
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", n.Name, err)
	}
	n.pipe.close()
	n.pipe = nil
	if n.LogByPipe {
		if n.pipe, log, err = newLogPipe(log); err != nil {
			return fmt.Errorf("a pipe for the log of %s: %w", n.Name, err)
		}
	}
	defer log.Close() // the child has its own descriptor
	cmd := exec.Command(n.binary, "agent", "--config", n.configFile())
	cmd.Stdout, cmd.Stderr = log, log
	n.agent, err = startProcess(n.NS, cmd)
	if err != nil {
		return fmt.Errorf("starting the agent of %s: %w", n.Name, err)
	}
	return nil
}

// Running says whether the agent's process exists, paused or not.
func (n *Node) Running() bool { return n.agent != nil && n.agent.running() }

// PID is the agent's process, 0 without one.
func (n *Node) PID() int {
	if !n.Running() {
		return 0
	}
	return n.agent.pid()
}

// Stop asks the agent to leave (SIGTERM) and waits for its end. If ctx ends
// first the agent is killed, which is an error, as is a failure that it reports.
func (n *Node) Stop(ctx context.Context) error {
	if !n.Running() {
		return nil
	}
	if err := n.agent.signal(unix.SIGTERM); err != nil {
		return err
	}
	return n.WaitExit(ctx)
}

// WaitExit waits for the agent to end by itself and returns how it did. If ctx
// ends first the agent is killed.
func (n *Node) WaitExit(ctx context.Context) error {
	if n.agent == nil {
		return nil
	}
	select {
	case <-n.agent.done:
		n.pipe.close()
		return n.agent.err
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("the agent of %s did not end in time", n.Name), n.Kill())
	}
}

// Kill ends the agent outright (SIGKILL) and waits until it is gone, and all that it
// has logged is in Log.
func (n *Node) Kill() error {
	if !n.Running() {
		return nil
	}
	err := n.agent.signal(unix.SIGKILL)
	<-n.agent.done
	n.pipe.close()
	return err
}

// Pause stops the agent's process in its tracks (SIGSTOP).
func (n *Node) Pause() error { return n.agent.signal(unix.SIGSTOP) }

// Continue lets a paused agent go on (SIGCONT).
func (n *Node) Continue() error { return n.agent.signal(unix.SIGCONT) }

// Restart kills the agent and starts it again on the same machine.
func (n *Node) Restart() error { return errors.Join(n.Kill(), n.Start()) }

// Peervip runs a command of the peervip program on the node's own agent, such
// as "drain", and returns what it printed.
func (n *Node) Peervip(ctx context.Context, command string, args ...string) (string, error) {
	args = append([]string{command, "--socket", n.Config.Control.Socket}, args...)
	cmd := exec.CommandContext(ctx, n.binary, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		return stdout.String(), &CommandError{
			Command: "peervip " + strings.Join(args, " "), Err: err, Stderr: strings.TrimSpace(stderr.String()),
		}
	}
	return stdout.String(), nil
}

// CommandError is a peervip command that failed.
type CommandError struct {
	Command string
	Err     error
	// Stderr is what it told its user.
	Stderr string
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.Command, e.Err, e.Stderr)
}

func (e *CommandError) Unwrap() error { return e.Err }

// Log returns everything that the node's agents have printed so far.
func (n *Node) Log() string {
	text, err := os.ReadFile(n.logFile())
	if err != nil {
		return fmt.Sprintf("(no log of %s: %v)", n.Name, err)
	}
	return string(text)
}

func (n *Node) logFile() string { return filepath.Join(n.Dir, "agent.log") }

// exitError is how the agent ended, if it has.
func (n *Node) exitError() error {
	if n.agent == nil || n.agent.running() {
		return nil
	}
	return n.agent.err
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
