package gossip

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// postbox takes what senders deliver; one peer's deliveries can be held up.
type postbox struct {
	held map[string]chan struct{}
	mu   sync.Mutex
	got  map[string][]string
}

func (p *postbox) deliver(to string, letters []letter) {
	if wait := p.held[to]; wait != nil {
		<-wait
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	together := ""
	for _, l := range letters {
		together += string(l.payload)
		if l.done != nil {
			together += "bye"
			close(l.done)
		}
	}
	p.got[to] = append(p.got[to], together)
}

func (p *postbox) of(to string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got[to]
}

func TestSendersKeepOrderAndDropTheOldest(t *testing.T) {
	checkLeaks(t)
	hold := make(chan struct{})
	box := &postbox{held: map[string]chan struct{}{"slow": hold}, got: make(map[string][]string)}
	s := newSenders(0, box.deliver)
	send := func(to string, i int) bool { return s.put(to, letter{payload: []byte(fmt.Sprint(i))}) > 0 }

	send("slow", 0)
	eventually(t, "the first is under way", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.queues["slow"]) == 0
	})
	const extra = 3
	for i := 1; i <= queueLength+extra; i++ {
		if dropped := send("slow", i); dropped != (i > queueLength) {
			t.Errorf("letter %d: dropped = %v", i, dropped)
		}
	}
	// The one that is held up delays nobody.
	for i := range 10 {
		send("fast", i)
	}
	eventually(t, "the other peer gets all", func() bool { return len(box.of("fast")) == 10 })
	if len(box.of("slow")) != 0 {
		t.Error("the held peer got something")
	}
	done := make(chan struct{})
	s.put("slow", letter{done: done})
	close(hold)
	<-done
	want := []string{"0"}
	for i := extra + 2; i <= queueLength+extra; i++ { // one more went for the goodbye
		want = append(want, fmt.Sprint(i))
	}
	if diff := cmp.Diff(append(want, "bye"), box.of("slow")); diff != "" {
		t.Errorf("the slow peer got (-want +got):\n%s", diff)
	}
	s.close()
	if send("fast", 1); len(s.queues) != 0 {
		t.Errorf("queues after close: %v", s.queues)
	}
	late := make(chan struct{})
	s.put("fast", letter{done: late})
	<-late // a goodbye after close does not wait for ever
}

func TestLettersThatFitShareADatagram(t *testing.T) {
	of := func(n int) letter { return letter{payload: make([]byte, n)} }
	goodbye := letter{done: make(chan struct{})}
	for _, test := range []struct {
		queue []letter
		want  int
	}{
		{[]letter{of(5)}, 1},
		{[]letter{of(1), of(2), of(3)}, 3},   // 2 + 1, 2 + 2, 2 + 3 bytes
		{[]letter{of(1), of(2), of(4)}, 2},   // one byte too many
		{[]letter{of(100), of(1)}, 1},        // fits in none
		{[]letter{of(1), of(100), of(1)}, 1}, // and waits for its turn
		{[]letter{of(1), goodbye}, 1},        // has a connection of its own
		{[]letter{goodbye, of(1)}, 1},
		{[]letter{of(0), of(0), of(0), of(0), of(0), of(0), of(0)}, 6},
	} {
		if got := together(test.queue, 12); got != test.want {
			t.Errorf("of %d letters %d go together, want %d", len(test.queue), got, test.want)
		}
	}
}
