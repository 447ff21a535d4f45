package lab

import "testing"

func TestCounterIn(t *testing.T) {
	const text = "Ip: Forwarding\nIp: 1\nTcp: ActiveOpens RetransSegs\nTcp: 12 34\n"
	for name, want := range map[string]int{"Tcp:RetransSegs": 34, "Tcp:ActiveOpens": 12, "Ip:Forwarding": 1} {
		if got, err := counterIn(text, name); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"Tcp:Forwarding", "Udp:InDatagrams", "Tcp"} {
		if got, err := counterIn(text, name); err == nil {
			t.Errorf("%s: %d", name, got)
		}
	}
}

// A SYN that nobody answers is sent again, and the clients' kernel says so.
func TestSYNRetransmitsAreCounted(t *testing.T) {
	l := newLab(t, 1, 1)
	own(t, l.Nodes[0]) // nothing
	before, err := l.Client.TCPCounts()
	must(t, err)
	if conn, err := dial(l.Client, l.Sources[0], WebPort, 1500*ms); err == nil {
		conn.Close()
		t.Error("somebody has answered")
	}
	after, err := l.Client.TCPCounts()
	must(t, err)
	if c := after.minus(before); c.SYNRetransmits == 0 || c.Retransmits < c.SYNRetransmits {
		t.Errorf("after a SYN into the void: %+v", c)
	}
}
