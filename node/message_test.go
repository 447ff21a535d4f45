package node

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// everyMessage is one message of each kind.
func everyMessage() []*Message {
	some := setOf(32, 1, 2, 30)
	bodies := []Message{
		{Delta: &Delta{From: 3, Statement: Statement{
			Incarnation: Incarnation{"b", 7}, Version: 5, Phase: Draining, Weight: 20, Unfit: []int{0, 2},
			View: 1<<63 + 1, Obeyed: 1<<32 | 9, Claims: some,
			Granted: []Promise{{To: KeyOf(Incarnation{"c", 8}), ID: 4, Slots: some}}, Lists: []Listing{{ID: 9, Slots: some}},
		}}},
		{Ack: &Ack{Nonce: 1, Version: 3, Lost: true}},
		{Request: &Request{ID: 1, Slots: some}},
		{Grant: &Grant{ID: 1, Version: 6, Slots: some, Lists: []Keeping{{Incarnation{"d", 2}, 3, Listing{9, some}}}}},
		{Refusal: &Refusal{ID: 1, Reason: NotYours, Slots: some}},
		{Cancel: &Cancel{ID: 1, Slots: some}},
		{Confirm: &Confirm{ID: 1, Slots: some}},
		{Wish: &Wish{Node: "c", Stamp: 1<<32 | 5, Origin: "b", Want: WantWeight, Weight: 50, Force: true}},
		{Verdict: &Verdict{Stamp: 1, Refused: "no"}},
		{Flows: &Flows{Counts: []int{1, 2}}},
		{ListAsk: &ListAsk{ID: 9, Slots: some}},
		{Lists: &Lists{ID: 9, Slots: []SlotFlows{{Slot: 30, Flows: FlowList{flowIn(30, 7)}}}}},
	}
	var list []*Message
	for _, m := range bodies {
		m.Format, m.From, m.To, m.Said = FormatMax, Incarnation{"b", 7}, 1, 5
		list = append(list, &m)
	}
	return list
}

var compareAddrs = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func TestMessagesSurviveTheWire(t *testing.T) {
	for _, m := range everyMessage() {
		got, err := Decode(m.Encode())
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if diff := cmp.Diff(m, got, compareAddrs); diff != "" {
			t.Errorf("came back changed (-sent +received):\n%s", diff)
		}
	}
}

// TestMessagesOfLaterVersions: what this program does not know is left out, and a phase is
// one in which a node keeps what it has.
func TestMessagesOfLaterVersions(t *testing.T) {
	const head = `{"format":1,"from":{"name":"b","nonce":7},"said":9,`
	for text, want := range map[string]Message{
		head + `"to":3}`:                                {To: 3},
		head + `"to":3,"later":{"id":5}}`:               {To: 3},
		head + `"ack":{"nonce":3,"later":[1]},"new":1}`: {Ack: &Ack{Nonce: 3}},
		head + `"delta":{"name":"b","nonce":7,"version":1,"weight":10,"phase":"happy","later":{}}}`: {
			Delta: &Delta{Statement: Statement{Incarnation: Incarnation{"b", 7}, Version: 1, Weight: 10, Phase: Draining}}},
	} {
		want.Format, want.From, want.Said = 1, Incarnation{"b", 7}, 9
		got, err := Decode([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(&want, got, compareAddrs); diff != "" {
			t.Errorf("%s:\n%s", text, diff)
		}
	}
}

// TestMessagesAreWrittenForTheirReader: in the highest format that both read.
func TestMessagesAreWrittenForTheirReader(t *testing.T) {
	for _, row := range []struct {
		reads uint8
		want  int
	}{{0, FormatMin}, {FormatMin, FormatMin}, {FormatMax, FormatMax}, {200, FormatMax}} {
		reads, want := row.reads, row.want
		d := newDesk(t)
		sent := false
		for _, e := range d.step(PeerAlive{Incarnation: d.incarnation("b"), SpecDigest: 1, SpecRevision: 1, Reads: Formats{Message: reads}}) {
			if send, ok := e.(Send); ok {
				sent = true
				if m, err := Decode(send.Message.Encode()); err != nil || m.Format != want {
					t.Errorf("to one who reads %d: %+v, %v", reads, m, err)
				}
			}
		}
		if !sent {
			t.Error("nothing is sent")
		}
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	const head = `{"format":1,"from":{"name":"b","nonce":7},`
	for text, want := range map[string]string{
		``:   "decoding a message",
		`[]`: "decoding a message",
		`{"format":2,"from":{"name":"b","nonce":7},"ack":{}}`:                                         `of "b": it has format 2, this program knows 1 to 1`,
		`{"from":{"name":"b","nonce":7},"ack":{}}`:                                                    "format 0",
		`{"format":1,"ack":{}}`:                                                                       "which life of which node",
		`{"format":1,"from":{"name":"b"},"ack":{}}`:                                                   "which life of which node",
		head + `"ack":{},"request":{}}`:                                                               "it has 2 bodies",
		head + `"ack":{"version":-1}}`:                                                                "decoding a message",
		head + `"request":{"slots":"!"}}`:                                                             "decoding a bucket set",
		head + `"request":{"slots":7}}`:                                                               "decoding a message",
		head + `"delta":{"name":"c","nonce":7,"version":1,"weight":10}}`:                              `a statement of "c"`,
		head + `"delta":{"name":"b","nonce":8,"version":1,"weight":10}}`:                              `nodes speak for themselves`,
		head + `"delta":{"name":"b","nonce":7,"version":0,"weight":10}}`:                              "version 0 made of version 0",
		head + `"delta":{"name":"b","nonce":7,"version":4,"from":4,"weight":10}}`:                     "version 4 made of version 4",
		head + `"delta":{"name":"b","nonce":7,"version":1}}`:                                          "a weight of 0 tenths, allowed are 1 to 100",
		head + `"delta":{"name":"b","nonce":7,"version":1,"weight":-5}}`:                              "a weight of -5",
		head + `"delta":{"name":"b","nonce":7,"version":1,"weight":101}}`:                             "a weight of 101",
		head + `"delta":{"name":"b","nonce":7,"version":1,"weight":10,"phase":1}}`:                    "decoding a message",
		head + `"delta":{"name":"b","nonce":7,"version":1,"weight":10,"unfit":[1,1]}}`:                "unfit services [1 1]",
		head + `"delta":{"name":"b","nonce":7,"version":1,"weight":10,"unfit":[-1]}}`:                 "unfit services [-1]",
		head + `"delta":{"name":"b","nonce":7,"version":1,"weight":10,"obeyed":9223372036854775808}}`: "obeyed the stamp",
		head + `"wish":{"stamp":1,"want":"drain"}}`:                                                   `a wish for node ""`,
		head + `"wish":{"node":"c","want":"drain"}}`:                                                  "with the stamp 0",
		head + `"wish":{"node":"c","stamp":18446744073709551615}}`:                                    "with the stamp 18446744073709551615",
	} {
		m, err := Decode([]byte(text))
		if err == nil {
			t.Errorf("%s\nwas taken for %+v", text, m)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got: %v\nwant: %s", text, err, want)
		}
	}
}

// FuzzDecode: any bytes are an error or a message that is written and read back as
// the same, and that no core in the midst of its work falls over.
func FuzzDecode(f *testing.F) {
	for _, m := range everyMessage() {
		f.Add(m.Encode())
	}
	f.Add([]byte(`{"format":1,"from":{"name":"b","nonce":98},"delta":{"name":"b","nonce":98,"version":9,"weight":10,"unfit":[99]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(m.Encode())
		if err != nil {
			t.Fatalf("cannot read what was read and written again: %v", err)
		}
		if diff := cmp.Diff(again, m, cmpopts.EquateEmpty(), compareAddrs); diff != "" {
			t.Fatalf("changed by writing and reading:\n%s", diff)
		}
		obey(t, m)
	})
}

// obey gives a message to a busy core as if a peer had sent it, in this life.
func obey(t *testing.T, m *Message) {
	d, _ := theirs(t, wholly)
	m.From, m.To = d.incarnation("c"), d.core.cfg.Nonce
	if m.Delta != nil {
		m.Delta.Incarnation = m.From
	}
	d.step(Received{m})
	d.wait(2e9)
	d.core.Snapshot()
	d.core.Explain(0, 3)
	for _, m := range d.core.Exchange() {
		if _, err := Decode(m.Encode()); err != nil {
			t.Fatalf("peers cannot read this node any more: %v", err)
		}
	}
}

// TestMistakenPeersAreSurvived: what an authenticated peer may say in error, as far
// as it is well-formed, must not take this node down with it.
func TestMistakenPeersAreSurvived(t *testing.T) {
	good := func() Statement {
		return Statement{Version: 9, Phase: Active, Weight: 10, Claims: setOf(16, 3)}
	}
	statement := func(change func(*Statement)) *Message {
		s := good()
		change(&s)
		return &Message{Delta: &Delta{Statement: s}}
	}
	for name, m := range map[string]*Message{
		"claims of another layout":      statement(func(s *Statement) { s.Claims = setOf(17, 16) }),
		"claims without a layout":       statement(func(s *Statement) { s.Claims = setOf(0) }),
		"promises of another layout":    statement(func(s *Statement) { s.Granted = []Promise{{Slots: setOf(4096, 4095)}} }),
		"promises to this node":         statement(func(s *Statement) { s.Granted = []Promise{{To: KeyOf(Incarnation{"a", 1}), Slots: everything(16)}} }),
		"promises to itself":            statement(func(s *Statement) { s.Granted = []Promise{{To: KeyOf(Incarnation{"c", 'c'}), Slots: everything(16)}} }),
		"unfit for what there is not":   statement(func(s *Statement) { s.Unfit = []int{1, 1 << 40} }),
		"the greatest weight":           statement(func(s *Statement) { s.Weight = 100 }),
		"restarting":                    statement(func(s *Statement) { s.Phase = Restarting }),
		"a version at the end":          statement(func(s *Statement) { s.Version = 1<<64 - 1 }),
		"more said than can be":         {Said: 1<<64 - 1, Ack: &Ack{Nonce: 1, Version: 1}},
		"acknowledged what was not":     {Ack: &Ack{Nonce: 1, Version: 1 << 60}},
		"lost what was not":             {Ack: &Ack{Nonce: 1, Lost: true}},
		"a request for everything":      {Request: &Request{ID: 1<<64 - 1, Slots: everything(16)}},
		"a request of another layout":   {Request: &Request{ID: 1, Slots: setOf(17, 16)}},
		"a grant of what was not asked": {Grant: &Grant{ID: 1, Version: 1 << 60, Slots: everything(16)}},
		"a refusal without a reason":    {Refusal: &Refusal{ID: 1, Slots: everything(16)}},
		"a cancel of nothing":           {Cancel: &Cancel{ID: 77, Slots: setOf(16)}},
		"a confirm of nothing":          {Confirm: &Confirm{ID: 77, Slots: everything(16)}},
		"a wish for this node":          {Wish: &Wish{Node: "a", Stamp: maxStamp - 1, Want: "dance"}},
		"a weight beyond all bounds":    {Wish: &Wish{Node: "a", Stamp: 5, Want: WantWeight, Weight: 1 << 40}},
		"a verdict on no wish":          {Verdict: &Verdict{Stamp: 4}},
		"flows of many services":        {Flows: &Flows{Counts: make([]int, 500)}},
		"flows of none":                 {Flows: &Flows{Counts: []int{}}},
		"lists of another layout":       statement(func(s *Statement) { s.Lists = []Listing{{1, setOf(17, 16)}} }),
		"lists of everything":           statement(func(s *Statement) { s.Lists = []Listing{{1, everything(16)}, {1, everything(16)}} }),
		"lists of a strange slot":       {Lists: &Lists{ID: 1, Slots: []SlotFlows{{Slot: -1}, {Slot: 1 << 40}}}},
		"a question for strange lists":  {ListAsk: &ListAsk{ID: 1, Slots: everything(17)}},
		"a grant with strange lists":    {Grant: &Grant{ID: 1, Version: 1, Slots: setOf(16), Lists: []Keeping{{Incarnation{"a", 1}, 1, Listing{1, setOf(0)}}}}},
		"a grant that names nobody":     {Grant: &Grant{ID: 1, Version: 1, Slots: everything(16), Lists: []Keeping{{Incarnation{}, 1, Listing{1, everything(16)}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := json.Marshal(m) // as it comes from the wire, but for the envelope
			if err != nil {
				t.Fatal(err)
			}
			var came Message
			if err := json.Unmarshal(b, &came); err != nil {
				t.Fatal(err)
			}
			obey(t, &came)
		})
	}
}
