package link

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// A client that has believed another host's claim of the VIP is right again within
// about a second, not at the next regular announcement.
func TestAPoisonedClientIsSoonRightAgain(t *testing.T) {
	s := newSegment(t)
	node, user, other := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24"), s.join("x", "192.0.2.66/24")
	l := mustOpen(node, nil)
	cluster := l.config.MAC.String()
	serve(node, l)
	lookUp(user, vip)
	poisoned := 0
	for range 2 {
		inject(other, "eth0", arpFrame{dst: broadcast, src: other.mac("eth0"), operation: layers.ARPRequest,
			senderMAC: other.mac("eth0"), senderIP: vip, targetIP: vip})
		began := time.Now()
		eventually(t, "the client has the cluster MAC again", func() bool {
			entry := user.ip("neigh show " + vip.String())
			if strings.Contains(entry, other.mac("eth0").String()) {
				poisoned++
			}
			return strings.Contains(entry, cluster) && time.Since(began) > 2*defendJitter
		})
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		} else {
			t.Logf("right again after %v, looked at %d times while poisoned", took, poisoned)
		}
	}
}

// Of two that insist neither floods the segment.
func TestTheVIPIsDefendedOnceASecond(t *testing.T) {
	s := newSegment(t)
	node, other := s.join("n", "192.0.2.11/24"), s.join("x", "192.0.2.66/24")
	l := mustOpen(node, nil)
	serve(node, l)
	seen := captureARP(other, "eth0")
	claims := func() (n int) {
		for _, f := range seen.about(vip) {
			if f.senderMAC == l.config.MAC.addr && f.senderIP == f.targetIP {
				n++
			}
		}
		return n
	}
	time.Sleep(100 * time.Millisecond)
	before, began := claims(), time.Now()
	for time.Since(began) < 2500*time.Millisecond {
		inject(other, "eth0", arpFrame{dst: broadcast, src: other.mac("eth0"), operation: layers.ARPRequest,
			senderMAC: other.mac("eth0"), senderIP: vip, targetIP: vip})
		time.Sleep(10 * time.Millisecond)
	}
	most := 2 + int(time.Since(began)/defendEvery)
	if got := claims() - before; got < 1 || got > most {
		t.Errorf("the VIP was announced %d times in %v, want 1 to %d", got, time.Since(began), most)
	}
}

// A host that asks all the time gets few answers, and is in nobody's way.
func TestARPAnswersAreRationed(t *testing.T) {
	s := newSegment(t)
	node, user, other := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24"), s.join("x", "192.0.2.66/24")
	l := mustOpen(node, nil)
	serve(node, l)
	seen := captureARP(other, "eth0")
	ask := request(other.mac("eth0"), netip.MustParseAddr("192.0.2.66"), vip).bytes()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	began := time.Now()
	asked := make(chan int)
	go func() {
		sent, err := other.Flood(ctx, "eth0", 15000, func(int) []byte { return ask })
		if err != nil {
			t.Error(err)
		}
		asked <- sent
	}()
	time.Sleep(500 * time.Millisecond)
	if entry := lookUp(user, vip); !strings.Contains(entry, l.config.MAC.String()) {
		t.Errorf("a client beside the flood has %s", entry)
	}
	sent := <-asked
	took := time.Since(began)
	answers := len(seen.replies(vip))
	t.Logf("%d requests in %v, %d answers", sent, took, answers)
	if most := answersAtOnce + int(took.Seconds()*answersASecond) + 10; answers == 0 || answers > most {
		t.Errorf("%d answers in %v, want 1 to %d", answers, took, most)
	}
}

func TestReadPace(t *testing.T) {
	now := time.Unix(1000, 0)
	var p readPace
	for i := range readsAtOnce + 3 {
		if got, want := p.pause(now) > 0, i >= readsAtOnce; got != want {
			t.Fatalf("read %d pauses: %v", i, got)
		}
	}
	p.more = true
	if p.pause(now) != 0 {
		t.Error("what is left behind waits")
	}
	p.more = false
	if p.pause(now.Add(time.Second)) != 0 {
		t.Error("after a second's rest the first read waits")
	}
}
