package systemd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// patience is how long anything may take: much longer than it should.
const patience = time.Minute

func patiently(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pollFor(d time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return lab.Poll(ctx, check)
}

// eventually waits until check says nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	must(t, lab.Poll(patiently(t), check))
}

// configuration is the one of README for so many machines: the name is the host's.
func configuration(machines int) string {
	var join []string
	for i := range machines {
		join = append(join, lab.NodeAddress(i).String())
	}
	return `node: {interface: ` + nodeLink + `}
cluster:
  name: web
  key_file: /etc/peervip/key
  join: [` + strings.Join(join, ", ") + `]
spec:
  vips: [` + lab.VIP.String() + `]
  services:
    - name: other
      health:
        - {type: http, target: "http://127.0.0.1/healthz"}
`
}

// cluster is a lab's switch and clients, with machines in the place of its nodes.
type cluster struct {
	*lab.Lab
	machines []*machine
}

const configFile = "/etc/peervip/peervip.yaml"

// build makes machines without power that have peervip installed as the docs say,
// and enabled. change may write more files.
func build(t *testing.T, machines int, change ...func(m *machine) error) *cluster {
	t.Helper()
	binary, err := program()
	must(t, err)
	unit, err := os.ReadFile("../../docs/peervip.service")
	must(t, err)
	l, err := lab.New(t.Context(), lab.Config{Bare: true, Sources: 24})
	must(t, err)
	c := &cluster{Lab: l}
	t.Cleanup(func() { c.close(t) })
	key := filepath.Join(l.Dir, "key")
	must(t, lab.WriteKey(t.Context(), binary, key))
	secret, err := os.ReadFile(key)
	must(t, err)
	for i := range machines {
		m, err := newMachine(l, i)
		must(t, err)
		c.machines = append(c.machines, m)
		must(t, os.MkdirAll(filepath.Join(m.files, "/usr/local/sbin"), 0o755))
		must(t, os.Link(binary, filepath.Join(m.files, "/usr/local/sbin/peervip")))
		must(t, writeFile(m.files, "/etc/peervip/key", string(secret), 0o600))
		must(t, m.write(configFile, configuration(machines)))
		must(t, m.write("/etc/systemd/system/peervip.service", string(unit)))
		must(t, m.enable("peervip.service", "/etc/systemd/system/"))
		for _, f := range change {
			must(t, f(m))
		}
	}
	return c
}

// raise is build with power, and waits until the machines share the address.
func raise(t *testing.T, machines int, change ...func(m *machine) error) *cluster {
	t.Helper()
	c := build(t, machines, change...)
	c.boot(t, c.machines...)
	c.settle(t, c.machines...)
	return c
}

// boot boots the machines beside each other.
func (c *cluster) boot(t *testing.T, machines ...*machine) {
	t.Helper()
	ctx := patiently(t)
	errs := make(chan error)
	for _, m := range machines {
		go func() { errs <- m.boot(ctx) }()
	}
	for range machines {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// close cuts the power and removes everything; of a test that has failed it tells
// the journals first.
func (c *cluster) close(t *testing.T) {
	for _, m := range c.machines {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			journal, err := m.run(ctx, "journalctl", "--no-pager", "-o", "short-precise", "-n", "150", "-u", "peervip", "-u", "nginx")
			t.Logf("journal of %s (%v):\n%s", m.name, err, journal)
			status, err := m.run(ctx, "peervip", "status")
			t.Logf("status of %s (%v):\n%s", m.name, err, status)
			cancel()
		}
		if err := m.cut(); err != nil {
			t.Error(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// settle waits until exactly these machines share everything, and each sees it.
func (c *cluster) settle(t *testing.T, serving ...*machine) {
	t.Helper()
	var names []string
	for _, m := range serving {
		names = append(names, m.name)
	}
	eventually(t, func() error {
		for _, m := range serving {
			s, err := m.status(t.Context())
			if err != nil {
				return err
			}
			if err := s.Unsettled(names); err != nil {
				return err
			}
		}
		return nil
	})
}

// run runs a command in the machine, which must succeed.
func (m *machine) must(t *testing.T, command string, args ...string) string {
	t.Helper()
	out, err := m.run(patiently(t), command, args...)
	must(t, err)
	return out
}

// is waits until a property of the agent's unit has the value.
func (m *machine) is(t *testing.T, property, want string) {
	t.Helper()
	eventually(t, func() error {
		got, err := m.unit(t.Context(), property)
		if err == nil && got != want {
			err = fmt.Errorf("%s of %s is %q, not %q", property, m.name, got, want)
		}
		return err
	})
}

// property is one of the agent's unit, now.
func (m *machine) property(t *testing.T, property string) string {
	t.Helper()
	got, err := m.unit(patiently(t), property)
	must(t, err)
	return got
}

// journal is what the agent's unit has written in this boot, with further options.
func (m *machine) journal(t *testing.T, options ...string) string {
	t.Helper()
	args := append([]string{"--no-pager", "-q", "-b", "-o", "cat", "-u", "peervip"}, options...)
	return m.must(t, "journalctl", args...)
}

// says waits until the journal of the agent's unit has the words.
func (m *machine) says(t *testing.T, words string) {
	t.Helper()
	eventually(t, func() error {
		if text := m.journal(t); !strings.Contains(text, words) {
			return fmt.Errorf("the journal of %s has no %q", m.name, words)
		}
		return nil
	})
}

// crowd are the clients: a new connection each 25 ms, and one held open from each
// source.
type crowd struct {
	c      *cluster
	visits *lab.Browsers
	held   *lab.Holders
	since  time.Duration
}

// aWhile is how long the clients are watched after the last thing that happened.
const aWhile = 2 * time.Second

// come lets the clients begin, and waits until each holds its connection.
func (c *cluster) come(t *testing.T) *crowd {
	t.Helper()
	w := &crowd{c: c, visits: c.Browse(lab.BrowseConfig{Interval: 25 * time.Millisecond}), held: c.Hold(lab.HoldConfig{})}
	must(t, w.held.WaitOpen(patiently(t)))
	w.since = c.Now()
	return w
}

// window is the time since the last, and a while more. What was under way at its end
// has had the time to end.
func (w *crowd) window() lab.Window {
	time.Sleep(aWhile)
	span := lab.Window{From: w.since, To: w.c.Now()}
	time.Sleep(time.Second)
	w.since = w.c.Now()
	return span
}

// unharmed checks that since the last time every new connection was served, and no
// open one ended.
func (w *crowd) unharmed(t *testing.T, what string) {
	t.Helper()
	span := w.window()
	w.served(t, what, span)
	h := w.held.Report(span, nil)
	t.Logf("%s: %d connections held, %d reset, %d stalled", what, h.Held, h.Reset, h.Stalled)
	if h.Reset > 0 || h.Held == 0 {
		t.Errorf("%s: %d of %d open connections were reset", what, h.Reset, h.Held)
	}
}

// served checks that every new connection of the time was served.
func (w *crowd) served(t *testing.T, what string, span lab.Window) {
	t.Helper()
	v := w.visits.Report(span)
	failed := v.Failed + v.Reset + v.TimedOut
	t.Logf("%s: %d new connections, %d failed, %d with a segment sent again, longest %v", what, v.Begun, failed, v.Retransmitted, v.Took.Max)
	if failed > 0 || v.Begun == 0 {
		t.Errorf("%s: %d of %d new connections failed: %v", what, failed, v.Begun, v.FirstError)
	}
}

func contains(text, words string) error {
	if !strings.Contains(text, words) {
		return fmt.Errorf("no %q in %q", words, text)
	}
	return nil
}
