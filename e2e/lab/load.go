package lab

import (
	"context"
	"fmt"
	"time"
)

// Load is what the clients do to the VIP all the time. What is zero is as much as
// the figures are promised for.
type Load struct {
	// Pace is the time between two datagrams of one source; 0 means 5 ms.
	Pace time.Duration
	// Open is how many connections are talked on; 0 means 256.
	Open int
	// Rate is how many new connections are made a second; 0 means 500.
	Rate int
	// Watch is how long each step is measured once it has settled; 0 means 3 s,
	// enough for a client's TCP to find out about a lost connection.
	Watch time.Duration
}

// The load for which the figures are promised.
const (
	DefaultPace  = 5 * time.Millisecond
	DefaultOpen  = 256
	DefaultRate  = 500
	DefaultWatch = 3 * time.Second
)

func (d Load) withDefaults() Load {
	if d.Pace == 0 {
		d.Pace = DefaultPace
	}
	if d.Open == 0 {
		d.Open = DefaultOpen
	}
	if d.Rate == 0 {
		d.Rate = DefaultRate
	}
	if d.Watch == 0 {
		d.Watch = DefaultWatch
	}
	return d
}

// Crowd is the clients, each with datagrams, with new connections and with some that
// stay open.
type Crowd struct {
	lab      *Lab
	load     Load
	talkers  *Talkers
	browsers *Browsers
	holders  *Holders
}

// Gather lets the clients begin, and waits until every one is served.
func (l *Lab) Gather(ctx context.Context, load Load) (*Crowd, error) {
	c := &Crowd{lab: l, load: load.withDefaults()}
	var err error
	if c.talkers, err = l.Talk(TalkConfig{Interval: c.load.Pace}); err != nil {
		return nil, err
	}
	c.browsers = l.Browse(BrowseConfig{Interval: time.Second / time.Duration(c.load.Rate)})
	c.holders = l.Hold(HoldConfig{Connections: c.load.Open})
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	if err := c.holders.WaitOpen(ctx); err != nil {
		return nil, fmt.Errorf("the clients' connections: %w", err)
	}
	return c, sleep(ctx, 500*time.Millisecond) // past the first packets, which wait for ARP
}

// Stop ends the clients. Steps can be reported for as long as the lab is there.
func (c *Crowd) Stop() {
	c.browsers.Stop()
	c.holders.Stop()
	c.talkers.Stop()
}

// Step is one thing that happened, and when.
type Step struct {
	Name string
	// Node is whom it befell, nil for nobody.
	Node   *Node
	Window Window
	// Settled is from the beginning of the window, to about 0.1 s.
	Settled time.Duration
	// Status is a serving node's once it has settled.
	Status Status
	// tcp is what the clients' kernel did meanwhile.
	tcp TCPCounts
}

// Step does something to a node, waits until the serving nodes have settled, and
// watches what the clients see.
func (c *Crowd) Step(ctx context.Context, name string, node *Node, do func() error, serving []*Node) (Step, error) {
	st := Step{Name: name, Node: node}
	before, err := c.lab.Client.TCPCounts()
	if err != nil {
		return st, err
	}
	st.Window.From = c.lab.Now()
	if err := do(); err != nil {
		return st, err
	}
	if st.Status, err = c.lab.settle(ctx, serving); err != nil {
		return st, err
	}
	st.Settled = c.lab.Now() - st.Window.From
	if err := sleep(ctx, c.load.Watch); err != nil {
		return st, err
	}
	st.Window.To = c.lab.Now()
	after, err := c.lab.Client.TCPCounts()
	st.tcp = after.minus(before)
	return st, err
}

// Report says what the clients saw of the step. What was still under way is not in
// it: best ask when they have stopped.
func (c *Crowd) Report(st Step) StepFigures {
	f := StepFigures{
		Name: st.Name, Settled: st.Settled,
		Talk:   c.talkers.Report(st.Window, st.Node),
		Browse: c.browsers.Report(st.Window),
		Hold:   c.holders.Report(st.Window, st.Node),
		TCP:    st.tcp,
	}
	if st.Node != nil {
		f.Node = st.Node.Name
	}
	for _, n := range c.lab.Nodes {
		status, _ := st.Status.Find(n.Name)
		f.Buckets = append(f.Buckets, serves(status))
		f.Clients = append(f.Clients, f.Talk.Sources[n.ID()])
	}
	return f
}

func (l *Lab) settle(ctx context.Context, serving []*Node) (Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, settleLimit, fmt.Errorf("after %s", short(settleLimit)))
	defer cancel()
	return l.WaitSettled(ctx, serving...)
}
