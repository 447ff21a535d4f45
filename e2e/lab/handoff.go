package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// Handoff is what the nodes' kernels did with the buckets of one planned change.
type Handoff struct {
	// Moved is how many buckets went from one node to another.
	Moved int
	// Released and Taken are from the word that began it to the first commit that
	// gave a bucket up and the last one that took one.
	Released, Taken time.Duration
	// Gaps are, for each bucket, from its old owner's commit to its new owner's.
	// Below zero both had it.
	Gaps []time.Duration
}

// handoffOf makes a Handoff of the commits since the word was given.
func handoffOf(commits []BucketCommit, word time.Duration) Handoff {
	var h Handoff
	released, taken := map[int]time.Duration{}, map[int]time.Duration{}
	for _, c := range commits {
		var first map[int]time.Duration
		switch {
		case c.Releases():
			first = released
		case c.Takes():
			first = taken
		default:
			continue
		}
		if _, known := first[c.Bucket]; !known {
			first[c.Bucket] = c.At
		}
	}
	for bucket, gone := range released {
		here, ok := taken[bucket]
		if !ok {
			continue
		}
		if h.Moved == 0 || gone-word < h.Released {
			h.Released = gone - word
		}
		h.Moved++
		h.Taken = max(h.Taken, here-word)
		h.Gaps = append(h.Gaps, here-gone)
	}
	slices.Sort(h.Gaps)
	return h
}

// Handoff asks the node for a planned change, "drain" or "resume", waits until the
// serving nodes have settled, and says what their kernels did.
func (r *CommitRecorder) Handoff(ctx context.Context, n *Node, want string, serving []*Node) (Handoff, error) {
	word, err := n.Wish(ctx, want)
	if err != nil {
		return Handoff{}, err
	}
	if _, err := r.lab.settle(ctx, serving); err != nil {
		return Handoff{}, err
	}
	commits, err := r.Commits(Window{word, r.lab.Now()})
	return handoffOf(commits, word), err
}

// Wish asks the node's agent for what the commands "drain" and "resume" ask for, and
// says when the request was on its way. A command's own start would take longer than
// all that comes after it.
func (n *Node) Wish(ctx context.Context, want string) (word time.Duration, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", n.Config.Control.Socket)
	if err != nil {
		return 0, fmt.Errorf("asking the agent of %s to %s: %w", n.Name, want, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/v1/wish",
		bytes.NewReader(fmt.Appendf(nil, "{%q:%q}", "want", want)))
	if err != nil {
		return 0, err
	}
	word = n.lab.Now()
	if err := request.Write(conn); err != nil {
		return 0, fmt.Errorf("asking the agent of %s to %s: %w", n.Name, want, err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return 0, fmt.Errorf("asking the agent of %s to %s: %w", n.Name, want, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		return 0, fmt.Errorf("the agent of %s refuses to %s: %s", n.Name, want, text)
	}
	return word, nil
}
