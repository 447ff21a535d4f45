package agent

import (
	"time"

	"github.com/peervip/peervip/node"
)

// letterLasts is how long a peer that has sent a letter is answered by letters too.
const letterLasts = node.Time(2 * time.Second)

// ways says by which way messages reach a peer whom gossip takes for a member. Gossip
// needs seconds to find out that it is cut, and a handover does not wait for that:
// when a peer leaves messages unanswered while its beacons come, letters go too. It
// belongs to the loop.
type ways struct {
	patience time.Duration        // of a message without an answer
	asked    map[string]node.Time // the first message to be answered since a peer last said anything
	letters  map[string]node.Time // when a letter came
}

func newWays(d Detect) ways {
	return ways{
		patience: node.DefaultTiming(d.Time()).Retry / 2, // so that the first repetition goes both ways
		asked:    map[string]node.Time{}, letters: map[string]node.Time{},
	}
}

// answered says whether a peer answers such a message. What it is to pass on another one
// answers.
func answered(m *node.Message) bool {
	return m.For == "" && (m.Delta != nil || m.Request != nil || m.Grant != nil || m.ListAsk != nil || m.Wish != nil)
}

// sent notes a message to a member, and whether it is answered, and reports whether it
// should go by letter too. What nobody answers, such as an acknowledgement, proves
// nothing: if it counted, the next conversation would begin, and go on, both ways.
func (w *ways) sent(to string, now node.Time, answered bool) (letter bool) {
	asked, waits := w.asked[to]
	if answered && !waits {
		w.asked[to] = now
	}
	got, wrote := w.letters[to]
	return waits && now-asked >= w.patience || wrote && now-got < letterLasts
}

// got notes a message of a peer.
func (w *ways) got(from string, now node.Time, letter bool) {
	delete(w.asked, from)
	if delete(w.letters, from); letter {
		w.letters[from] = now
	}
}

// forget is for a peer that is gone.
func (w *ways) forget(name string) {
	delete(w.asked, name)
	delete(w.letters, name)
}
