package gossip

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logEvery is how often one kind of trouble is worth a line.
const logEvery = time.Minute

// limitedLog writes a message at most once in logEvery, however often it happens.
type limitedLog struct {
	out *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	seen map[string]*repeated
}

type repeated struct {
	logged time.Time
	silent uint64 // since then
}

func newLimitedLog(out *slog.Logger) *limitedLog {
	return &limitedLog{out: out, now: time.Now, seen: make(map[string]*repeated)}
}

// limited logs msg, unless the same msg was logged less than logEvery ago. The
// next line then says how many were left out. msg must be a constant text: each
// is remembered for ever.
func (l *limitedLog) limited(level slog.Level, msg string, args ...any) {
	l.mu.Lock()
	r := l.seen[msg]
	if r == nil {
		r = &repeated{}
		l.seen[msg] = r
	}
	now := l.now()
	if !r.logged.IsZero() && now.Sub(r.logged) < logEvery {
		r.silent++
		l.mu.Unlock()
		return
	}
	silent := r.silent
	r.logged, r.silent = now, 0
	l.mu.Unlock()

	if silent > 0 {
		args = append(args, "not_logged", silent)
	}
	l.out.Log(context.Background(), level, msg, args...)
}

// trouble is what a line of memberlist's log is about, where the log is the only
// place that tells.
type trouble uint8

const (
	noTrouble    trouble = iota
	otherKey             // bytes that none of our keys decrypts, or the lack of any key on one side
	otherCluster         // another label
	onlyStreams          // TCP reaches a peer, UDP does not
	queueFull            // memberlist's own queue overflowed
)

// keyTexts are memberlist's words for "no common key" (security.go, net.go):
// an unknown key; a plain message to a node with a key; and the reverse.
var keyTexts = []string{
	"no installed keys could decrypt the message",
	"encryption is configured but remote state is not encrypted",
	"remote state is encrypted and encryption is not configured",
}

func tellsOtherKey(text string) bool {
	for _, words := range keyTexts {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// classify reads one line that memberlist logged: what it is about, and its text
// without the level and the library's name. What it logs at DEBUG, like why a
// join failed, it also returns to whoever asked.
func classify(line string) (trouble, string) {
	text := strings.TrimSpace(line)
	var level string
	if strings.HasPrefix(text, "[") {
		if head, rest, ok := strings.Cut(text, "] "); ok {
			level, text = head[1:], rest
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	switch {
	case level == "DEBUG":
		return noTrouble, text
	case tellsOtherKey(text), strings.HasPrefix(text, "Decrypt packet failed"):
		return otherKey, text
	case strings.Contains(text, "with unacceptable label"):
		return otherCluster, text
	case strings.Contains(text, "over TCP but UDP probes failed"):
		return onlyStreams, text
	case strings.HasPrefix(text, "handler queue full"):
		return queueFull, text
	default:
		return noTrouble, text
	}
}

// logAdapter is where memberlist's log.Logger writes: everything is chatter for
// the debug level but the few lines that an operator should act on.
type logAdapter struct{ g *Gossip }

func (a logAdapter) Write(line []byte) (int, error) {
	g := a.g
	if g.ctx.Err() != nil {
		return len(line), nil // the sounds of shutting down
	}
	what, text := classify(string(line))
	switch what {
	case otherKey:
		g.counts.otherKey.Add(1)
		g.log.limited(slog.LevelWarn, "gossip under another key was refused: give all nodes the same key", "detail", text)
	case otherCluster:
		g.counts.otherCluster.Add(1)
		g.log.limited(slog.LevelWarn, "gossip of another cluster was refused: check the cluster name and the addresses to join", "detail", text)
	case onlyStreams:
		g.log.limited(slog.LevelWarn, "a peer is reached by TCP but not by UDP: open gossip's port for both", "detail", text)
	case queueFull:
		g.counts.overflow.Add(1)
		g.log.limited(slog.LevelWarn, "gossip messages come faster than they are handled", "detail", text)
	default:
		g.log.out.Debug("memberlist: " + text)
	}
	return len(line), nil
}
