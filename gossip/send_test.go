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

func (p *postbox) deliver(to string, l letter) {
	if wait := p.held[to]; wait != nil {
		<-wait
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got[to] = append(p.got[to], string(l.frame))
	if l.done != nil {
		close(l.done)
	}
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
	s := newSenders(box.deliver)
	send := func(to string, i int) bool { return s.put(to, letter{frame: []byte(fmt.Sprint(i))}) }

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
	s.put("slow", letter{frame: []byte("bye"), done: done})
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
