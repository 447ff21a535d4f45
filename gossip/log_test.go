package gossip

import (
	"log/slog"
	"testing"
	"time"
)

func TestMemberlistsLogIsClassified(t *testing.T) {
	for _, test := range []struct {
		line string
		want trouble
		text string
	}{
		{"[ERR] memberlist: failed to receive: no installed keys could decrypt the message from=192.0.2.1:5\n", otherKey,
			"failed to receive: no installed keys could decrypt the message from=192.0.2.1:5"},
		{"[ERR] memberlist: failed to receive: encryption is configured but remote state is not encrypted from=192.0.2.1:5\n", otherKey,
			"failed to receive: encryption is configured but remote state is not encrypted from=192.0.2.1:5"},
		{"[ERR] memberlist: failed to receive: remote state is encrypted and encryption is not configured from=192.0.2.1:5\n", otherKey,
			"failed to receive: remote state is encrypted and encryption is not configured from=192.0.2.1:5"},
		{"[ERR] memberlist: Decrypt packet failed: unsupported encryption version 7 from=192.0.2.1:5\n", otherKey,
			"Decrypt packet failed: unsupported encryption version 7 from=192.0.2.1:5"},
		{"[DEBUG] memberlist: failed to join 192.0.2.1:7946: no installed keys could decrypt the message\n", noTrouble,
			"failed to join 192.0.2.1:7946: no installed keys could decrypt the message"},
		{"[ERR] memberlist: discarding packet with unacceptable label \"web\": from=192.0.2.1:5\n", otherCluster,
			"discarding packet with unacceptable label \"web\": from=192.0.2.1:5"},
		{"[WARN] memberlist: Was able to connect to n2 over TCP but UDP probes failed, network may be misconfigured\n", onlyStreams,
			"Was able to connect to n2 over TCP but UDP probes failed, network may be misconfigured"},
		{"[WARN] memberlist: handler queue full, dropping message (8) from=192.0.2.1:5\n", queueFull,
			"handler queue full, dropping message (8) from=192.0.2.1:5"},
		{"[INFO] memberlist: Suspect n2 has failed, no acks received\n", noTrouble, "Suspect n2 has failed, no acks received"},
		{"Err: Could not set the deadline: x", noTrouble, "Err: Could not set the deadline: x"},
		{"", noTrouble, ""},
		{"[", noTrouble, "["},
	} {
		if got, text := classify(test.line); got != test.want || text != test.text {
			t.Errorf("%q is %d %q, want %d %q", test.line, got, text, test.want, test.text)
		}
	}
}

func TestRepeatedTroubleIsOneLineAMinute(t *testing.T) {
	var out logBuffer
	now := time.Unix(1000, 0)
	l := newLimitedLog(slog.New(slog.NewTextHandler(&out, nil)))
	l.now = func() time.Time { return now }
	for range 5 {
		l.limited(slog.LevelWarn, "trouble")
		l.limited(slog.LevelWarn, "other trouble")
		now = now.Add(time.Second)
	}
	if a, b := out.lines(`msg=trouble`), out.lines(`msg="other trouble"`); len(a) != 1 || len(b) != 1 {
		t.Errorf("logged %q and %q, want one line each", a, b)
	}
	now = now.Add(logEvery)
	l.limited(slog.LevelWarn, "trouble")
	if got := out.lines("not_logged=4"); len(got) != 1 {
		t.Errorf("the second line does not count the silent ones: %q", out.lines("msg=trouble"))
	}
}
