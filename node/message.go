package node

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/peervip/peervip/hashring"
)

// FormatMin and FormatMax are the range of message formats that this program
// understands. A message is written in the highest that its addressee understands too.
const (
	FormatMin = 1
	FormatMax = 1
)

// Message is what one node says to another: an envelope and exactly one body.
// The transport may lose, delay, repeat and reorder messages.
type Message struct {
	Format int         `json:"format"`
	From   Incarnation `json:"from"`
	// To is the nonce of the incarnation that is addressed; 0 addresses any. A
	// message to a dead incarnation must not be obeyed by its successor.
	To uint64 `json:"to,omitempty"`
	// Said is the version of the sender's statement when it sent this. Whoever
	// knows an older one does not know all that the sender claims.
	Said uint64 `json:"said,omitempty"`
	// Heard is the version of the receiver's statement that the sender has; it
	// acknowledges that, as an Ack does.
	Heard uint64 `json:"heard,omitempty"`

	// For names the node that the message is for, if it goes through another, and Via
	// the one that has passed it on. Back: the sender gets no answers of that node, so they
	// should come by the same way. See third.go.
	For  string `json:"for,omitempty"`
	Via  string `json:"via,omitempty"`
	Back bool   `json:"back,omitempty"`

	Delta   *Delta   `json:"delta,omitempty"`
	Ack     *Ack     `json:"ack,omitempty"`
	Request *Request `json:"request,omitempty"`
	Grant   *Grant   `json:"grant,omitempty"`
	Refusal *Refusal `json:"refusal,omitempty"`
	Cancel  *Cancel  `json:"cancel,omitempty"`
	Confirm *Confirm `json:"confirm,omitempty"`
	Wish    *Wish    `json:"wish,omitempty"`
	Verdict *Verdict `json:"verdict,omitempty"`
	Flows   *Flows   `json:"flows,omitempty"`
	ListAsk *ListAsk `json:"list_ask,omitempty"`
	Lists   *Lists   `json:"lists,omitempty"`
}

// Ack tells a node up to which version of its statement the sender has come.
type Ack struct {
	Nonce   uint64 `json:"nonce"` // of the statement's node
	Version uint64 `json:"version"`
	// Lost asks for the whole statement: a delta did not fit what is known.
	Lost bool `json:"lost,omitempty"`
}

// Request is an heir asking a holder for slots.
type Request struct {
	ID    uint64       `json:"id"`
	Slots hashring.Set `json:"slots"`
}

// Grant gives the slots of a request to the heir. The holder no longer accepts
// new flows for them.
type Grant struct {
	ID uint64 `json:"id"`
	// Version of the holder's statement that first showed the promise.
	Version uint64       `json:"version"`
	Slots   hashring.Set `json:"slots"`
	// Lists of these slots that the holder knows of, its own among them.
	Lists []Keeping `json:"lists,omitempty"`
	// Adopted: whose flows the heir must leave alone in these slots, but for the holder's.
	Adopted []Adopted `json:"adopted,omitempty"`
}

// Refusal answers a request for slots that are not to be had, and why.
type Refusal struct {
	ID     uint64       `json:"id"`
	Reason Reason       `json:"reason"`
	Slots  hashring.Set `json:"slots"`
}

// Cancel is an heir taking back a request, or declining a grant: the holder is
// free to keep the slots or give them to another.
type Cancel struct {
	ID    uint64       `json:"id"`
	Slots hashring.Set `json:"slots"`
}

// Confirm tells the holder that the heir accepts flows for the slots.
type Confirm struct {
	ID    uint64       `json:"id"`
	Slots hashring.Set `json:"slots"`
}

// Flows is a node's count of the flows it serves, by service. It is told for
// people to read; nothing depends on it.
type Flows struct {
	Counts []int `json:"counts"`
	// Waiting is how many of them a node that drains or leaves waits for, and Left how
	// long at the most.
	Waiting *int `json:"waiting,omitempty"`
	Left    Time `json:"left_ns,omitempty"`
}

// Reason is why a holder refuses a request.
type Reason uint8

const (
	// NotHeld: the holder does not claim the slot.
	NotHeld Reason = iota + 1
	// NotYours: by the holder's view the slot should not go to the heir.
	NotYours
	// InMotion: the slot is on its way in or out and cannot be given now.
	InMotion
	// CommitFailed: the holder's kernel refused the change.
	CommitFailed
)

func (r Reason) String() string {
	switch r {
	case NotHeld:
		return "it does not hold them"
	case NotYours:
		return "its own view gives them to another"
	case InMotion:
		return "they are in motion"
	case CommitFailed:
		return "its kernel refused the change"
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// formatFor is the highest format of messages that the peer understands, and this program.
func (p *peer) formatFor() int { return min(max(int(p.Reads.Message), FormatMin), FormatMax) }

// Encode writes the message for the transport, in its format; 0 is the lowest, which every
// member understands.
func (m *Message) Encode() []byte {
	out := *m
	out.Format = min(max(out.Format, FormatMin), FormatMax)
	b, err := json.Marshal(&out)
	if err != nil {
		panic(fmt.Sprintf("encoding a message of our own: %v", err))
	}
	return b
}

// Decode reads a message from the wire. Any bytes may come; what is malformed is
// an error and changes nothing. Fields that a later version adds are left out, and
// so is a body: the envelope alone says nothing that is wrong. What only the receiver's spec can tell, as the
// number of slots, the core judges.
func Decode(b []byte) (*Message, error) {
	var m Message
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("decoding a message: %w", err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("decoding a message of %q: %w", m.From.Name, err)
	}
	return &m, nil
}

// check says what is wrong with a message from the wire.
func (m *Message) check() error {
	if m.Format < FormatMin || m.Format > FormatMax {
		return fmt.Errorf("it has format %d, this program knows %d to %d", m.Format, FormatMin, FormatMax)
	}
	if m.From.Name == "" || m.From.Nonce == 0 {
		return errors.New("it does not say which life of which node sent it")
	}
	bodies := 0
	for _, present := range []bool{
		m.Delta != nil, m.Ack != nil, m.Request != nil, m.Grant != nil, m.Refusal != nil,
		m.Cancel != nil, m.Confirm != nil, m.Wish != nil, m.Verdict != nil, m.Flows != nil,
		m.ListAsk != nil, m.Lists != nil,
	} {
		if present {
			bodies++
		}
	}
	if bodies > 1 {
		return fmt.Errorf("it has %d bodies, a message has one", bodies)
	}
	switch {
	case m.Delta != nil:
		if m.Delta.Incarnation != m.From {
			return fmt.Errorf("it is a statement of %q, nodes speak for themselves only", m.Delta.Name)
		}
		return m.Delta.check()
	case m.Wish != nil:
		if m.Wish.Node == "" || m.Wish.Stamp == 0 || m.Wish.Stamp >= maxStamp {
			return fmt.Errorf("a wish for node %q with the stamp %d", m.Wish.Node, m.Wish.Stamp)
		}
	}
	return nil
}

// check says what no node can say of itself. The weight matters most: one of 0
// would leave buckets without an owner, and one beyond all bounds takes them all.
func (d *Delta) check() error {
	switch {
	case d.Version <= d.From:
		return fmt.Errorf("a statement of version %d made of version %d", d.Version, d.From)
	case d.Weight < 1 || d.Weight > Tenths(MaxWeight):
		return fmt.Errorf("a weight of %d tenths, allowed are 1 to %d", d.Weight, Tenths(MaxWeight))
	case d.Obeyed >= maxStamp:
		return fmt.Errorf("it has obeyed the stamp %d", d.Obeyed)
	case d.Stamps.last() >= maxStamp || len(d.Stamps) > maxWishes:
		return fmt.Errorf("it has obeyed %d stamps, up to %d", len(d.Stamps), d.Stamps.last())
	}
	for i, service := range d.Unfit {
		if service < 0 || i > 0 && service <= d.Unfit[i-1] {
			return fmt.Errorf("unfit services %v, which should be ascending numbers", d.Unfit)
		}
	}
	return nil
}

// fits reports whether every set in the message numbers exactly n slots, which
// it does when both sides have the same layout.
func (m *Message) fits(n int) bool {
	ok := func(s hashring.Set) bool { return s.Cap() == n }
	switch {
	case m.Delta != nil:
		for _, p := range m.Delta.Granted {
			if !ok(p.Slots) {
				return false
			}
		}
		for _, l := range m.Delta.Lists {
			if !ok(l.Slots) {
				return false
			}
		}
		for _, a := range m.Delta.Mourned {
			if !ok(a.Slots) {
				return false
			}
		}
		return ok(m.Delta.Claims) && ok(m.Delta.Linger)
	case m.Request != nil:
		return ok(m.Request.Slots)
	case m.Grant != nil:
		for _, k := range m.Grant.Lists {
			if !ok(k.Slots) {
				return false
			}
		}
		for _, a := range m.Grant.Adopted {
			if !ok(a.Slots) {
				return false
			}
		}
		return ok(m.Grant.Slots)
	case m.ListAsk != nil:
		return ok(m.ListAsk.Slots)
	case m.Refusal != nil:
		return ok(m.Refusal.Slots)
	case m.Cancel != nil:
		return ok(m.Cancel.Slots)
	case m.Confirm != nil:
		return ok(m.Confirm.Slots)
	}
	return true
}
