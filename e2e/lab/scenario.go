package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Options are those of the scenario that `peervip lab` shows.
type Options struct {
	// Binary is the peervip program.
	Binary string
	// Nodes is how many servers share the address, at least 2; 0 means 3.
	Nodes int
	// Clients is how many client addresses there are; 0 means MaxSources.
	Clients int
	// Load is what the clients do.
	Load Load
	// Rest is how long the agents are measured at rest; 0 means 5 s.
	Rest time.Duration
	// Detect is how soon a silent node is dead; zero is the agents' default.
	Detect DetectSection
	// Keep leaves everything up afterwards, until ctx ends.
	Keep bool
	Out  io.Writer
}

// settleLimit is how long any step may take to settle before the scenario fails.
const settleLimit = 30 * time.Second

var errInterrupted = errors.New("the lab was interrupted before its end")

// Run builds the lab, shows the scenario on opts.Out, and prints its figures. A
// figure that must not be is an error, as is a step that does not settle. When
// ctx ends everything is removed, whatever was going on.
func Run(ctx context.Context, opts Options) (err error) {
	if opts.Nodes == 0 {
		opts.Nodes = 3
	}
	if opts.Nodes < 2 {
		return fmt.Errorf("%d nodes cannot share an address: choose 2 to %d", opts.Nodes, MaxNodes)
	}
	l, err := New(ctx, Config{
		Binary: opts.Binary, Nodes: opts.Nodes, Sources: opts.Clients,
		Agent: func(_ int, c *AgentConfig) { c.Spec.Detect = opts.Detect },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()

	figures, err := l.Scenario(ctx, opts)
	if err == nil {
		fmt.Fprintf(opts.Out, "\n%s", figures.Table())
		err = figures.Verdict()
	} else if ctx.Err() != nil {
		err = errInterrupted
	}
	if opts.Keep && ctx.Err() == nil {
		if err != nil {
			fmt.Fprintf(opts.Out, "\nfailed: %v\n", err)
		}
		fmt.Fprint(opts.Out, l.lookAround(opts.Binary))
		<-ctx.Done()
	}
	return err
}

// scenario is a run of the steps.
type scenario struct {
	*Lab
	opts  Options
	crowd *Crowd
	steps []Step
}

// Scenario runs the steps on a lab without agents: start, sharing, power-off,
// rejoin, drain and resume, each watched by the clients, then rest.
func (l *Lab) Scenario(ctx context.Context, opts Options) (Figures, error) {
	if opts.Rest == 0 {
		opts.Rest = 5 * time.Second
	}
	s := &scenario{Lab: l, opts: opts}
	victim := l.Nodes[len(l.Nodes)/2]
	survivors := without(l.Nodes, victim)

	s.say("lab", "%d nodes, %d clients, one address: %s", len(l.Nodes), len(l.Sources), VIP)
	begun := time.Now()
	for _, n := range l.Nodes {
		if err := n.Start(); err != nil {
			return Figures{}, err
		}
	}
	if _, err := s.settle(ctx, l.Nodes); err != nil {
		return Figures{}, fmt.Errorf("start: %w", err)
	}
	start := time.Since(begun)
	s.say("start", "all agents started at once; settled after %s", short(start))

	var err error
	if s.crowd, err = l.Gather(ctx, opts.Load); err != nil {
		return Figures{}, err
	}
	for _, st := range []struct {
		name, what string
		node       *Node
		do         func() error
		serving    []*Node
	}{
		{"steady", "nothing happens", nil, func() error { return nil }, l.Nodes},
		{"power-off", victim.Name + " loses its power", victim, victim.PowerOff, survivors},
		{"rejoin", victim.Name + " boots and joins again", victim, func() error {
			if err := victim.PowerOn(); err != nil {
				return err
			}
			return victim.Start()
		}, l.Nodes},
		{"drain", "peervip drain on " + victim.Name, victim, func() error {
			_, err := victim.Peervip(ctx, "drain")
			return err
		}, survivors},
		{"resume", "peervip resume on " + victim.Name, victim, func() error {
			_, err := victim.Peervip(ctx, "resume")
			return err
		}, l.Nodes},
	} {
		s.say(st.name, "%s", st.what)
		done, err := s.crowd.Step(ctx, st.name, st.node, st.do, st.serving)
		if err != nil {
			return Figures{}, fmt.Errorf("%s: %w", st.name, err)
		}
		s.steps = append(s.steps, done)
		s.sayResult(done)
	}
	s.crowd.Stop()

	s.say("rest", "no clients; measuring the agents for %s", short(opts.Rest))
	rest, err := l.MeasureRest(ctx, opts.Rest)
	if err != nil {
		return Figures{}, err
	}
	return s.figures(start, rest), nil
}

// MeasureRest measures what each agent uses while no client talks, once no bucket is
// in transition any more.
func (l *Lab) MeasureRest(ctx context.Context, d time.Duration) ([]Rest, error) {
	over, cancel := context.WithTimeoutCause(ctx, settleLimit, fmt.Errorf("after %s", short(settleLimit)))
	defer cancel()
	if err := l.waitAtRest(over); err != nil {
		return nil, fmt.Errorf("rest: %w", err)
	}
	before := make([]Usage, len(l.Nodes))
	var err error
	for i, n := range l.Nodes {
		if before[i], err = n.Usage(); err != nil {
			return nil, err
		}
	}
	begun := time.Now()
	if err := sleep(ctx, d); err != nil {
		return nil, err
	}
	rest := make([]Rest, len(l.Nodes))
	for i, n := range l.Nodes {
		after, err := n.Usage()
		if err != nil {
			return nil, err
		}
		rest[i] = Rest{Node: n.Name, RSS: after.RSS, Cores: (after.CPU - before[i].CPU).Seconds() / time.Since(begun).Seconds()}
	}
	return rest, nil
}

// say prints one line about a step.
func (s *scenario) say(name, format string, args ...any) {
	fmt.Fprintf(s.opts.Out, "%-10s %s\n", name, fmt.Sprintf(format, args...))
}

// sayResult prints what the clients saw of a step that is over.
func (s *scenario) sayResult(st Step) {
	r := s.crowd.talkers.Report(st.Window, st.Node)
	if st.Node == nil {
		for _, n := range s.Nodes {
			own, _ := st.Status.Find(n.Name)
			s.say("", "%s serves %d buckets, %d clients", n.Name, serves(own), r.Sources[n.ID()])
		}
		s.say("", "longest silence %s; %d datagrams answered twice", short(r.Others.Longest.Max), r.Twice)
		return
	}
	s.say("", "settled after %s; %d datagrams answered twice", short(st.Settled), r.Twice)
	silence := func(who string, si Silences) {
		s.say("", "%-16s silent for %s, at most %s; %d noticed",
			fmt.Sprintf(who, si.Sources), short(si.Longest.Median), short(si.Longest.Max), si.Noticed)
	}
	silence("its %d clients:", r.Affected)
	silence("the %d others:", r.Others)
}

// lookAround tells what can be tried while the lab stays up.
func (l *Lab) lookAround(binary string) string {
	n := l.Nodes[0]
	return fmt.Sprintf(`
Everything stays up until Ctrl-C. In another terminal, as root:
  %[1]s status --watch --socket \
    %[2]s
  ip netns exec %[3]s curl http://%[4]s/
  ip netns exec %[5]s nft list ruleset
Configuration, log and state of each node are under
  %[6]s
`, binary, n.Config.Control.Socket, l.Client.Name, VIP, n.NS.Name, l.Dir)
}

// sleep waits for d, or until ctx ends, which is an error.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func without(nodes []*Node, out *Node) []*Node {
	var rest []*Node
	for _, n := range nodes {
		if n != out {
			rest = append(rest, n)
		}
	}
	return rest
}
