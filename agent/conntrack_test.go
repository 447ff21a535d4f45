package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

func TestConntrackProblems(t *testing.T) {
	const start = node.Time(time.Hour)
	for _, c := range []struct {
		name          string
		before, table nft.Conntrack
		alive         int
		want, alert   string // "": no problem
	}{
		{name: "at rest", table: nft.Conntrack{Count: 40, Max: 262144}, alive: 3},
		{name: "not known", alive: 3},
		{name: "full", table: nft.Conntrack{Count: 2000, Max: 2000, Dropped: 5100}, alive: 1,
			want: "conntrack is full: 2000 of 2000, 5100 dropped: net.netfilter.nf_conntrack_max", alert: "conntrack is full"},
		{name: "full a moment ago", before: nft.Conntrack{Count: 10, Max: 20000, Dropped: 4}, table: nft.Conntrack{Count: 19100, Max: 20000, Dropped: 9}, alive: 1,
			want: "conntrack is full: 19100 of 20000", alert: "conntrack is full"},
		{name: "what was dropped before the start was dropped long ago", table: nft.Conntrack{Count: 19100, Max: 20000, Dropped: 9}, alive: 1,
			want: "conntrack is nearly full: 19100 of 20000"},
		{name: "80 percent", table: nft.Conntrack{Count: 16000, Max: 20000}, alive: 1,
			want: "conntrack is nearly full: 16000 of 20000"},
		{name: "less, alone", table: nft.Conntrack{Count: 15999, Max: 20000}, alive: 1},
		{name: "a death of one of two doubles it", table: nft.Conntrack{Count: 10001, Max: 20000}, alive: 2,
			want: "conntrack is too small for a death: 10001 of 20000"},
		{name: "a death of one of four does not", table: nft.Conntrack{Count: 14000, Max: 20000}, alive: 4},
		{name: "small", table: nft.Conntrack{Count: 1, Max: 2000}, alive: 2, want: "conntrack has room for 2000 flows only"},
		{name: "liberal", table: nft.Conntrack{Count: 1, Max: 20000, Liberal: true}, alive: 2, want: "nf_conntrack_tcp_be_liberal is on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var trend conntrackTrend
			if c.before.Max > 0 {
				trend.see(c.before, start)
			}
			trend.see(c.table, start+node.Time(time.Second))
			var list problemList
			trend.problems(c.alive, start+node.Time(time.Second), &list)
			texts, alert := list.texts()
			if got := strings.Join(texts, "\n"); !strings.Contains(got, c.want) || (c.want == "") != (got == "") || len(texts) > 1 {
				t.Errorf("%q, want %q", got, c.want)
			}
			if alert != c.alert {
				t.Errorf("alert %q, want %q", alert, c.alert)
			}
		})
	}
}

// The agent asks by itself, and whoever asks for the status gets it.
func TestConntrackIsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a")
	r.agent.conntrack = func() (nft.Conntrack, error) { return nft.Conntrack{Count: 2000, Max: 2000, Dropped: 3}, nil }
	r.start()
	r.problem(t, true, "conntrack is full: 2000 of 2000, 3 dropped")
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), "conntrack is full: 2000 of 2000") {
			return errors.New("the log has nothing of it")
		}
		return nil
	})
}
