package node

import "testing"

func TestCountReadsAsPeopleWrite(t *testing.T) {
	for want, got := range map[string]string{
		"0 buckets": Count(0, "buckets"), "1 bucket": Count(1, "buckets"), "2 buckets": Count(2, "buckets"),
		"1 open connection": Count(uint64(1), "open connections"), "11 open connections": Count(uint64(11), "open connections"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
