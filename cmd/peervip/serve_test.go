package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/peervip/peervip/agent"
)

func TestServeDespite(t *testing.T) {
	f := newFakeAgent(t)
	f.on("POST /v1/serve", http.StatusOK, agent.Reply{Node: "web-1"})
	out, _, err := f.run(t, "serve", "--despite", "192.0.2.14", "--despite", "192.0.2.15")
	if err != nil || out != "strangers at 192.0.2.14, 192.0.2.15 no longer keep web-1 from serving, until its next start\n" {
		t.Errorf("%q, %v", out, err)
	}
	if got, want := f.requests(), []string{`POST /v1/serve {"despite":["192.0.2.14","192.0.2.15"]}`}; !slices.Equal(got, want) {
		t.Errorf("asked %q", got)
	}
	f.on("POST /v1/serve", http.StatusOK, agent.Reply{Node: "web-1", Note: "no stranger at 192.0.2.14 is heard now"})
	if out, _, _ := f.run(t, "serve", "--despite", "192.0.2.14"); out != "no stranger at 192.0.2.14 is heard now\n" {
		t.Errorf("%q", out)
	}
}

func TestServeUsage(t *testing.T) {
	f := newFakeAgent(t)
	for arguments, want := range map[string]string{
		"serve":                              "name the stranger: --despite ADDR",
		"serve web-1 --despite 192.0.2.14":   "want `peervip serve --despite ADDR`, got 1 argument",
		"serve --despite web-1":              `--despite: "web-1" is no address`,
		"serve --despite 192.0.2.14 --force": "unknown flag: --force",
	} {
		_, _, err := f.run(t, strings.Fields(arguments)...)
		if err == nil || !strings.Contains(err.Error(), want) || exitCode(err) != 2 {
			t.Errorf("%s: %v", arguments, err)
		}
	}
	if got := f.requests(); len(got) > 0 {
		t.Errorf("asked %q", got)
	}
}
