// Package health answers one question: is this node fit to serve? It knows how
// to ask (a TCP connection, an HTTP request, a program's exit code) and how many
// answers in a row it takes to believe them; it knows nothing of peers, buckets
// or what follows from the answer.
package health

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Type is the way a check asks.
type Type string

const (
	// TCP: a connection to Target can be opened. Nothing is sent.
	TCP Type = "tcp"
	// HTTP: a GET of Target, an http or https address, is answered as wanted.
	HTTP Type = "http"
	// Exec: Command ends by itself with exit code 0.
	Exec Type = "exec"
)

// What a check does where its options are silent: about what HAProxy does
// (inter 2s, rise 2, fall 3, `http-check` content with 2xx and 3xx).
const (
	DefaultInterval = 2 * time.Second
	DefaultTimeout  = time.Second
	DefaultJitter   = 0.1
	DefaultRise     = 2
	DefaultFall     = 3
)

const (
	minInterval = 10 * time.Millisecond // below, a check is a load of its own
	maxJitter   = 0.5
	maxInARow   = 1000
)

// Options is a check as an operator writes it. What is nil or empty gets its
// default; Parse makes a Check of it.
type Options struct {
	Type       string         // tcp, http or exec; required
	Target     string         // tcp: HOST:PORT; http: an http:// or https:// address
	Command    []string       // exec: the program and its arguments; no shell in between
	Interval   *time.Duration // from the start of one try to the start of the next
	Timeout    *time.Duration // for a whole try; at most Interval
	Jitter     *float64       // each interval varies by this share of it, up or down; 0 to 0.5
	Rise       *int           // successes in a row that make an unfit check fit
	Fall       *int           // failures in a row that make a fit check unfit
	Status     string         // http: the wanted status codes, like 200-299,401; else 200-399
	Body       string         // http: a text that the body must contain
	Host       string         // http: the Host header, and for https the name in the certificate
	SkipVerify bool           // https: take any certificate
}

// Check is one check with every value decided.
type Check struct {
	Type       Type
	Target     string
	Command    []string
	Interval   time.Duration
	Timeout    time.Duration
	Jitter     float64
	Rise, Fall int
	Status     []StatusRange
	Body       string
	Host       string
	SkipVerify bool
}

// StatusRange is the HTTP status codes from From to To, both included.
type StatusRange struct{ From, To int }

func (r StatusRange) String() string {
	if r.From == r.To {
		return strconv.Itoa(r.From)
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// String names the check for people: its type and what it asks.
func (c Check) String() string {
	switch c.Type {
	case Exec:
		return "exec " + strings.Join(c.Command, " ")
	case HTTP:
		if u, err := url.Parse(c.Target); err == nil {
			return "http " + u.Redacted() // a password is nobody's business
		}
	}
	return string(c.Type) + " " + c.Target
}

// Parse fills in the defaults and validates. Each of the joined errors is one
// line that begins with the key at fault and ends with the cure.
func (o Options) Parse() (Check, error) {
	c := Check{
		Type: Type(o.Type), Target: o.Target, Command: o.Command,
		Interval: or(o.Interval, DefaultInterval), Timeout: or(o.Timeout, DefaultTimeout),
		Jitter: or(o.Jitter, DefaultJitter), Rise: or(o.Rise, DefaultRise), Fall: or(o.Fall, DefaultFall),
		Body: o.Body, Host: o.Host, SkipVerify: o.SkipVerify,
	}
	if o.Timeout == nil {
		c.Timeout = min(c.Timeout, c.Interval)
	}
	var statusErr error
	if o.Status != "" {
		c.Status, statusErr = ParseStatus(o.Status)
	}
	if c.Type == HTTP && len(c.Status) == 0 {
		c.Status = []StatusRange{{200, 399}}
	}
	if err := errors.Join(statusErr, c.Validate()); err != nil {
		return Check{}, err
	}
	return c, nil
}

// Validate says what is wrong with a check that did not come from Parse.
func (c Check) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if c.Interval < minInterval {
		bad("interval: %v is too short: want at least %v", c.Interval, minInterval)
	}
	if c.Timeout <= 0 {
		bad("timeout: %v: want more than 0", c.Timeout)
	} else if c.Timeout > c.Interval {
		bad("timeout: %v is longer than the interval of %v: lower it, or raise interval", c.Timeout, c.Interval)
	}
	if !(c.Jitter >= 0 && c.Jitter <= maxJitter) { // so that NaN is refused too
		bad("jitter: %v: want a share of the interval from 0 to %v", c.Jitter, maxJitter)
	}
	if c.Rise < 1 || c.Rise > maxInARow {
		bad("rise: %d: want a number from 1 to %d", c.Rise, maxInARow)
	}
	if c.Fall < 1 || c.Fall > maxInARow {
		bad("fall: %d: want a number from 1 to %d", c.Fall, maxInARow)
	}

	switch c.Type {
	case TCP:
		if err := checkTCPTarget(c.Target); err != nil {
			errs = append(errs, err)
		}
	case HTTP:
		if err := checkHTTPTarget(c.Target, c.SkipVerify); err != nil {
			errs = append(errs, err)
		}
		if len(c.Status) == 0 {
			bad("status: empty: want codes like 200-399")
		}
		if strings.ContainsFunc(c.Host, func(r rune) bool { return r <= ' ' || r == '/' || r >= 0x7f }) {
			bad("host: %q: want a host name, with :PORT if need be", c.Host)
		}
	case Exec:
		if len(c.Command) == 0 || c.Command[0] == "" {
			bad("command: required for type exec: want [PROGRAM, ARGUMENT...]")
		}
		if strings.ContainsRune(strings.Join(c.Command, ""), 0) {
			bad("command: has a zero byte: take it out")
		}
		if c.Target != "" {
			bad("target: not for type exec: write command: [PROGRAM, ARGUMENT...]")
		}
	case "":
		bad("type: required: want tcp, http or exec")
	case "https":
		bad("type: https is not a type: write http, with a target that begins with https://")
	default:
		bad("type: %q is not known: want tcp, http or exec", c.Type)
	}

	if c.Type == TCP || c.Type == HTTP {
		if len(c.Command) > 0 {
			bad("command: only for type exec: take it out, or change type")
		}
	}
	if c.Type == TCP || c.Type == Exec {
		if len(c.Status) > 0 {
			errs = append(errs, onlyHTTP("status", string(c.Type)))
		}
		if c.Body != "" {
			errs = append(errs, onlyHTTP("body", string(c.Type)))
		}
		if c.Host != "" {
			errs = append(errs, onlyHTTP("host", string(c.Type)))
		}
		if c.SkipVerify {
			errs = append(errs, onlyHTTP("skip_verify", string(c.Type)))
		}
	}
	return errors.Join(errs...)
}

func onlyHTTP(key, typ string) error {
	return fmt.Errorf("%s: only for type http, not %s: take it out, or change type", key, typ)
}

func checkTCPTarget(target string) error {
	if target == "" {
		return errors.New("target: required for type tcp: want HOST:PORT, like 127.0.0.1:80")
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil || host == "" || !isPort(port) {
		return fmt.Errorf("target: %q: want HOST:PORT, like 127.0.0.1:80", target)
	}
	return nil
}

func checkHTTPTarget(target string, skipVerify bool) error {
	if target == "" {
		return errors.New("target: required for type http: want an address like http://127.0.0.1/healthz")
	}
	u, err := url.Parse(target)
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("target: %q: want an address like http://127.0.0.1/healthz", target)
	}
	if _, port, err := net.SplitHostPort(u.Host); err == nil && !isPort(port) {
		return fmt.Errorf("target: %q: port %q: want a number from 1 to 65535", target, port)
	}
	if skipVerify && u.Scheme != "https" {
		return errors.New("skip_verify: the target is not https://: take it out, or change target")
	}
	return nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// ParseStatus reads HTTP status codes and ranges of them, separated by commas.
func ParseStatus(text string) ([]StatusRange, error) {
	var ranges []StatusRange
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(strings.TrimSpace(first))
		to, err2 := strconv.Atoi(strings.TrimSpace(last))
		if err1 != nil || err2 != nil || from < 100 || to > 599 || from > to {
			return nil, fmt.Errorf("status: %q: want codes from 100 to 599, like 200-399 or 200,204", text)
		}
		ranges = append(ranges, StatusRange{from, to})
	}
	return ranges, nil
}

func or[T any](p *T, otherwise T) T {
	if p != nil {
		return *p
	}
	return otherwise
}
