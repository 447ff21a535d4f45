package node

import (
	"fmt"
	"strings"
)

// Count is a number of things for people to read: "1 bucket", "2 buckets". Things are
// named in the plural, the regular one.
func Count[N int | uint64](n N, things string) string {
	if n == 1 {
		things = strings.TrimSuffix(things, "s")
	}
	return fmt.Sprintf("%d %s", n, things)
}
