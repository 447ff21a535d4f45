package health

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseFillsInDefaults(t *testing.T) {
	basis := Check{Interval: 2 * time.Second, Timeout: time.Second, Jitter: 0.1, Rise: 2, Fall: 3}
	with := func(change func(*Check)) Check {
		c := basis
		change(&c)
		return c
	}
	for _, test := range []struct {
		name    string
		options Options
		want    Check
	}{
		{"tcp", Options{Type: "tcp", Target: "127.0.0.1:80"}, with(func(c *Check) {
			c.Type, c.Target = TCP, "127.0.0.1:80"
		})},
		{"http", Options{Type: "http", Target: "http://127.0.0.1/healthz"}, with(func(c *Check) {
			c.Type, c.Target, c.Status = HTTP, "http://127.0.0.1/healthz", []StatusRange{{200, 399}}
		})},
		{"exec", Options{Type: "exec", Command: []string{"/bin/true"}}, with(func(c *Check) {
			c.Type, c.Command = Exec, []string{"/bin/true"}
		})},
		{"a short interval shortens the default timeout", Options{Type: "tcp", Target: "[::1]:80", Interval: new(300 * time.Millisecond)}, with(func(c *Check) {
			c.Type, c.Target, c.Interval, c.Timeout = TCP, "[::1]:80", 300*time.Millisecond, 300*time.Millisecond
		})},
		{"everything said", Options{
			Type: "http", Target: "https://127.0.0.1:8443/", Interval: new(5 * time.Second), Timeout: new(4 * time.Second),
			Jitter: new(0.0), Rise: new(1), Fall: new(9), Status: "200, 204,401-403", Body: "OK", Host: "www.example.org", SkipVerify: true,
		}, Check{
			Type: HTTP, Target: "https://127.0.0.1:8443/", Interval: 5 * time.Second, Timeout: 4 * time.Second,
			Rise: 1, Fall: 9, Status: []StatusRange{{200, 200}, {204, 204}, {401, 403}}, Body: "OK", Host: "www.example.org", SkipVerify: true,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.options.Parse()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseNamesKeyAndCure(t *testing.T) {
	tcp := Options{Type: "tcp", Target: "127.0.0.1:80"}
	web := Options{Type: "http", Target: "http://127.0.0.1/"}
	program := Options{Type: "exec", Command: []string{"/bin/true"}}
	with := func(o Options, change func(*Options)) Options {
		change(&o)
		return o
	}
	for _, test := range []struct {
		name    string
		options Options
		want    string
	}{
		{"no type", Options{}, "type: required: want tcp, http or exec"},
		{"unknown type", Options{Type: "ping"}, `type: "ping" is not known: want tcp, http or exec`},
		{"https as type", Options{Type: "https", Target: "https://a/"}, "type: https is not a type: write http, with a target that begins with https://"},
		{"tcp without target", Options{Type: "tcp"}, "target: required for type tcp: want HOST:PORT, like 127.0.0.1:80"},
		{"tcp without port", Options{Type: "tcp", Target: "127.0.0.1"}, `target: "127.0.0.1": want HOST:PORT, like 127.0.0.1:80`},
		{"tcp without host", Options{Type: "tcp", Target: ":80"}, `target: ":80": want HOST:PORT, like 127.0.0.1:80`},
		{"tcp port 0", Options{Type: "tcp", Target: "a:0"}, `target: "a:0": want HOST:PORT, like 127.0.0.1:80`},
		{"tcp port too big", Options{Type: "tcp", Target: "a:65536"}, `target: "a:65536": want HOST:PORT, like 127.0.0.1:80`},
		{"tcp with an address of a page", Options{Type: "tcp", Target: "http://a:80"}, `target: "http://a:80": want HOST:PORT, like 127.0.0.1:80`},
		{"http without target", Options{Type: "http"}, "target: required for type http: want an address like http://127.0.0.1/healthz"},
		{"http without scheme", Options{Type: "http", Target: "127.0.0.1:80"}, `target: "127.0.0.1:80": want an address like http://127.0.0.1/healthz`},
		{"ftp", Options{Type: "http", Target: "ftp://127.0.0.1/"}, `target: "ftp://127.0.0.1/": want an address like http://127.0.0.1/healthz`},
		{"http without host", Options{Type: "http", Target: "http:///x"}, `target: "http:///x": want an address like http://127.0.0.1/healthz`},
		{"http port too big", Options{Type: "http", Target: "http://a:70000/"}, `target: "http://a:70000/": port "70000": want a number from 1 to 65535`},
		{"exec without command", Options{Type: "exec"}, "command: required for type exec: want [PROGRAM, ARGUMENT...]"},
		{"exec with target", with(program, func(o *Options) { o.Target = "/bin/true" }), "target: not for type exec: write command: [PROGRAM, ARGUMENT...]"},
		{"exec with a zero byte", Options{Type: "exec", Command: []string{"a\x00b"}}, "command: has a zero byte: take it out"},
		{"tcp with command", with(tcp, func(o *Options) { o.Command = []string{"a"} }), "command: only for type exec: take it out, or change type"},
		{"tcp with status", with(tcp, func(o *Options) { o.Status = "200" }), "status: only for type http, not tcp: take it out, or change type"},
		{"tcp with body", with(tcp, func(o *Options) { o.Body = "x" }), "body: only for type http, not tcp: take it out, or change type"},
		{"exec with host", with(program, func(o *Options) { o.Host = "x" }), "host: only for type http, not exec: take it out, or change type"},
		{"exec with skip_verify", with(program, func(o *Options) { o.SkipVerify = true }), "skip_verify: only for type http, not exec: take it out, or change type"},
		{"skip_verify without TLS", with(web, func(o *Options) { o.SkipVerify = true }), "skip_verify: the target is not https://: take it out, or change target"},
		{"host with a path", with(web, func(o *Options) { o.Host = "a/b" }), `host: "a/b": want a host name, with :PORT if need be`},
		{"host with a line end", with(web, func(o *Options) { o.Host = "a\r\nX: y" }), `host: "a\r\nX: y": want a host name, with :PORT if need be`},
		{"status in words", with(web, func(o *Options) { o.Status = "ok" }), `status: "ok": want codes from 100 to 599, like 200-399 or 200,204`},
		{"status backwards", with(web, func(o *Options) { o.Status = "399-200" }), `status: "399-200": want codes from 100 to 599, like 200-399 or 200,204`},
		{"status out of range", with(web, func(o *Options) { o.Status = "200-600" }), `status: "200-600": want codes from 100 to 599, like 200-399 or 200,204`},
		{"status with a hole", with(web, func(o *Options) { o.Status = "200,,204" }), `status: "200,,204": want codes from 100 to 599, like 200-399 or 200,204`},
		{"interval 0", with(tcp, func(o *Options) { o.Interval = new(time.Duration(0)); o.Timeout = new(time.Nanosecond) }),
			"interval: 0s is too short: want at least 10ms\ntimeout: 1ns is longer than the interval of 0s: lower it, or raise interval"},
		{"timeout 0", with(tcp, func(o *Options) { o.Timeout = new(time.Duration(0)) }), "timeout: 0s: want more than 0"},
		{"timeout over interval", with(tcp, func(o *Options) { o.Timeout = new(3 * time.Second) }), "timeout: 3s is longer than the interval of 2s: lower it, or raise interval"},
		{"jitter below 0", with(tcp, func(o *Options) { o.Jitter = new(-0.1) }), "jitter: -0.1: want a share of the interval from 0 to 0.5"},
		{"jitter not a number", with(tcp, func(o *Options) { o.Jitter = new(math.NaN()) }), "jitter: NaN: want a share of the interval from 0 to 0.5"},
		{"rise 0", with(tcp, func(o *Options) { o.Rise = new(0) }), "rise: 0: want a number from 1 to 1000"},
		{"fall 0", with(tcp, func(o *Options) { o.Fall = new(0) }), "fall: 0: want a number from 1 to 1000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.options.Parse()
			if err == nil {
				t.Fatalf("no error, want %s", test.want)
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestNewRefusesAnInvalidCheck(t *testing.T) {
	_, err := New([]Check{{Type: TCP, Target: "a:1"}}, discard())
	if err == nil || !strings.HasPrefix(err.Error(), "health check 0 (tcp a:1): interval: ") {
		t.Errorf("error %v", err)
	}
	_, err = New([]Check{{Type: HTTP, Target: "http://a/", Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1}}, discard())
	if err == nil || !strings.Contains(err.Error(), "status: empty") {
		t.Errorf("error %v", err)
	}
}

func TestNameHidesPassword(t *testing.T) {
	c := Check{Type: HTTP, Target: "http://bob:secret@127.0.0.1/x"}
	if name := c.String(); strings.Contains(name, "secret") || !strings.HasPrefix(name, "http http://bob:") {
		t.Errorf("name %q", name)
	}
}
