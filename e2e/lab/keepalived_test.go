package lab

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestKeepalivedThatIsNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := new(Lab).StartKeepalived(time.Second); !errors.Is(err, ErrNoKeepalived) {
		t.Errorf("without the program: %v", err)
	}
}

func TestKeepalivedConfiguration(t *testing.T) {
	n := newNode(&Lab{}, 1, "")
	for adverts, want := range map[time.Duration][]string{
		time.Second: {"router_id node-2", "vrrp_version 2", "advert_int 1\n", "priority 199", "10.77.0.100/24 dev eth0"},
		100 * ms:    {"vrrp_version 3", "advert_int 0.1\n"},
	} {
		for _, words := range want {
			if text := string(keepalivedConfig(n, adverts)); !strings.Contains(text, words) {
				t.Errorf("adverts each %v: no %q in\n%s", adverts, words, text)
			}
		}
	}
}
