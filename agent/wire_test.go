package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
)

func exampleMember(t testing.TB, meta []byte) gossip.Member {
	return gossip.Member{Name: "b", Addr: netip.MustParseAddrPort("192.0.2.12:7946"), Meta: meta}
}

func TestAnnouncementsAreUnderstood(t *testing.T) {
	c := Config{Spec: exampleSpec(), BeaconPort: 7947}
	const nonce = 1<<63 + 12345
	b := c.meta(nonce).encode()
	if len(b) > gossip.MaxMeta {
		t.Errorf("%d bytes of metadata, %d fit", len(b), gossip.MaxMeta)
	}
	got, err := peerAlive(exampleMember(t, b))
	want := node.PeerAlive{
		Incarnation: node.Incarnation{Name: "b", Nonce: nonce}, Address: "192.0.2.12",
		SpecRevision: c.Spec.Revision, SpecDigest: c.Spec.digest(),
		Reads: node.Formats{Message: node.FormatMax, Beacon: node.BeaconMax},
	}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func TestAnnouncementsThatAreNot(t *testing.T) {
	for meta, want := range map[string]string{
		``:                                      "what b announces cannot be read (unexpected end of JSON input): is it a peervip of another version?",
		`[]`:                                    "what b announces cannot be read (json: cannot unmarshal array into Go value of type agent.meta): is it a peervip of another version?",
		`{}`:                                    "b speaks formats 0 to 0, this program 1 to 1: run versions that are nearer to each other",
		`{"fmin":2,"fmax":3}`:                   "b speaks formats 2 to 3, this program 1 to 1: run versions that are nearer to each other",
		`{"fmin":1,"fmax":-1}`:                  "b speaks formats 1 to -1, this program 1 to 1: run versions that are nearer to each other",
		`{"fmin":1,"fmax":1,"bmin":8,"bmax":9}`: fmt.Sprintf("b reads the formats 8 to 9 of beacons, this program 1 to %d: run versions that are nearer to each other", node.BeaconMax),
		`{"fmin":1,"fmax":1,"spec":"00"}`:       "what b announces cannot be read (it has no boot nonce): is it a peervip of another version?",
		`{"fmin":1,"fmax":1,"nonce":1}`:         `what b announces cannot be read (spec digest "": strconv.ParseUint: parsing "": invalid syntax): is it a peervip of another version?`,
		`{"fmin":1,"fmax":1,"nonce":1,"spec":"-1"}`:       `what b announces cannot be read (spec digest "-1": strconv.ParseUint: parsing "-1": invalid syntax): is it a peervip of another version?`,
		`{"fmin":1,"fmax":1,"nonce":1,"spec":"1` + "\n}`": `what b announces cannot be read (invalid character '\n' in string literal): is it a peervip of another version?`,
	} {
		if _, err := peerAlive(exampleMember(t, []byte(meta))); err == nil || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", meta, err, want)
		}
	}
}

// An address of another family would reach those who send beacons.
func TestMembersAreAtIPv4Addresses(t *testing.T) {
	c := Config{Spec: exampleSpec(), BeaconPort: 7947}
	for at, want := range map[string]string{
		"[2001:db8::2]:7946":      "b is at 2001:db8::2, and only IPv4 is spoken here: give it an IPv4 address in node.address",
		"[::ffff:192.0.2.2]:7946": "",
	} {
		m := exampleMember(t, c.meta(1).encode())
		m.Addr = netip.MustParseAddrPort(at)
		switch got, err := peerAlive(m); {
		case want == "" && (err != nil || got.Address != "192.0.2.2"):
			t.Errorf("%s: %+v, %v", at, got, err)
		case want != "" && (err == nil || err.Error() != want):
			t.Errorf("%s: %v, want %s", at, err, want)
		}
	}
}

func TestExchangeIsUnderstood(t *testing.T) {
	spec := exampleSpec()
	messages := []*node.Message{
		{Format: node.FormatMax, From: node.Incarnation{Name: "b", Nonce: 5}, Wish: &node.Wish{Node: "a", Stamp: 9, Origin: "b", Want: node.WantDrain}},
	}
	told, err := decodeExchange(encodeExchange("b", spec, messages))
	if err != nil || told.unread != nil || told.name != "b" || told.spec.Digest() != spec.Digest() {
		t.Errorf("%+v, %v", told, err)
	}
	if diff := cmp.Diff(messages, told.messages, cmpopts.EquateEmpty(), cmp.AllowUnexported()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for text, want := range map[string]string{
		``:            "decoding a state exchange: unexpected end of JSON input",
		`{"spec":{}}`: "decoding a state exchange: it names no sender",
	} {
		if _, err := decodeExchange([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// What a later version tells is read as far as it can be: neither a message nor a spec that
// cannot takes the rest with it.
func TestExchangeOfALaterVersion(t *testing.T) {
	const text = `{"name":"b","spec":{"vips":[{"later":1}]},"messages":[
		{"format":99,"from":{"name":"b","nonce":5},"ack":{}}, 7,
		{"format":1,"from":{"name":"b","nonce":5},"ack":{"nonce":3}}]}`
	told, err := decodeExchange([]byte(text))
	if err != nil || told.spec != nil || told.unread == nil || len(told.messages) != 1 || told.messages[0].Ack.Nonce != 3 {
		t.Errorf("%+v, %v", told, err)
	}
}

// Whatever a member announces, it is understood or it is an error in one line that
// names it.
func FuzzPeerAlive(f *testing.F) {
	c := Config{Spec: exampleSpec()}
	f.Add(c.meta(1).encode())
	f.Add([]byte(`{"fmin":1,"fmax":1,"nonce":18446744073709551615,"spec":"ffffffffffffffff","rev":-1,"beacon":65535}`))
	f.Add([]byte(`{"fmin":0,"fmax":9,"nonce":1e3}`))
	f.Fuzz(func(t *testing.T, meta []byte) {
		got, err := peerAlive(exampleMember(t, meta))
		if err != nil {
			if text := err.Error(); !strings.Contains(text, "b ") {
				t.Errorf("an error that does not name the member: %q", text)
			}
			return
		}
		if got.Name != "b" || got.Nonce == 0 || got.Address != "192.0.2.12" {
			t.Errorf("%+v", got)
		}
	})
}

// Whatever a peer tells in a state exchange, it is whole or an error; what is
// taken over can be told on, compared and given to the core.
func FuzzDecodeExchange(f *testing.F) {
	l := newLoop(Config{Name: "b", Spec: exampleSpec(), Weight: 100}, nil, memory{})
	l.core.Step(1, node.Started{})
	f.Add(encodeExchange("b", exampleSpec(), l.core.Exchange()))
	f.Add(encodeExchange("b", Spec{}, nil))
	f.Add([]byte(`{"name":"b","spec":{"services":null},"messages":[{"format":1,"from":{"name":"b","nonce":1},"flows":{"counts":[-1]}}]}`))
	f.Add([]byte(`{"name":"b","messages":[{"format":1,"from":{"name":"b","nonce":1},"delta":{"name":"b","nonce":1,"claims":"","granted":[{}]}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		told, err := decodeExchange(b)
		if err != nil {
			return
		}
		if told.name == "" {
			t.Fatalf("%+v", told)
		}
		if told.spec == nil {
			told.spec = new(Spec)
		}
		again, err := decodeExchange(encodeExchange(told.name, *told.spec, told.messages))
		if err != nil || again.unread != nil || again.spec.Digest() != told.spec.Digest() {
			t.Fatalf("told on: %+v, %v", again, err)
		}
		spec := exampleSpec()
		for _, line := range spec.Diff(*told.spec) {
			if line == "" {
				t.Error("an empty difference")
			}
		}
		core := node.New(node.Config{
			Incarnation: node.Incarnation{Name: "a", Nonce: 1}, Weight: 100, Buckets: 16,
			Services: []node.Service{{Name: "other"}}, Timing: node.DefaultTiming(200e6),
		})
		core.Step(1, node.Started{})
		for i, m := range told.messages {
			core.Step(node.Time(2*i+2), node.PeerAlive{Incarnation: m.From})
			core.Step(node.Time(2*i+3), node.Received{Message: m})
		}
		if !json.Valid(encodeExchange("a", spec, core.Exchange())) {
			t.Error("the core tells garbage on")
		}
	})
}
