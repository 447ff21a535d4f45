package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// maxAnswer bounds what an HTTP check reads of a body, and of the headers.
const maxAnswer = 64 << 10

// probe asks once. The error's text is the reason in plain words, without the
// name of the check. It must return soon after ctx is done.
type probe func(ctx context.Context) error

// newProbe returns the way of asking of a valid check, and a function that frees
// what it holds.
func newProbe(c Check, vips ...netip.Addr) (ask probe, free func()) {
	switch c.Type {
	case TCP:
		dialer := newDialer(vips)
		return func(ctx context.Context) error { return probeTCP(ctx, dialer, c.Target, c.Timeout) }, func() {}
	case HTTP:
		client := newHTTPClient(c, vips...)
		return func(ctx context.Context) error { return probeHTTP(ctx, client, c) }, client.CloseIdleConnections
	case Exec:
		return (&program{command: c.Command, timeout: c.Timeout}).probe, func() {}
	}
	panic(fmt.Sprintf("health: check of type %q was not validated", c.Type))
}

// newDialer makes connections without keep-alive probes: they live for one try. Those to
// a VIP end at this node.
func newDialer(vips []netip.Addr) *net.Dialer {
	return &net.Dialer{KeepAlive: -1, Control: func(_, address string, raw syscall.RawConn) error {
		return keepHere(vips, address, raw)
	}}
}

func probeTCP(ctx context.Context, dialer *net.Dialer, target string, timeout time.Duration) error {
	conn, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return plain(err, "no connection", timeout)
	}
	// Nothing was sent, so nothing can be lost by a close that fails.
	_ = conn.Close()
	return nil
}

// newHTTPClient asks the target and nobody else: no proxy of the environment, no
// redirect, no second try over an old connection.
func newHTTPClient(c Check, vips ...netip.Addr) *http.Client {
	tlsConfig := &tls.Config{InsecureSkipVerify: c.SkipVerify}
	if c.Host != "" {
		// The target is often 127.0.0.1, which no certificate names.
		tlsConfig.ServerName = (&url.URL{Host: c.Host}).Hostname()
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            newDialer(vips).DialContext,
			TLSClientConfig:        tlsConfig,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// probeHTTP wants one of the status codes, and the text if one is given within
// the first 64 KiB of the body. Without a text the body is not waited for. A
// redirect is an answer like any other: status 301.
func probeHTTP(ctx context.Context, client *http.Client, c Check) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Target, nil)
	if err != nil {
		return err
	}
	request.Host = c.Host // if empty, the target's
	request.Header.Set("User-Agent", "peervip-health")
	response, err := client.Do(request)
	if err != nil {
		return plain(err, "no answer", c.Timeout)
	}
	defer response.Body.Close()
	if !wanted(c.Status, response.StatusCode) {
		return fmt.Errorf("status %d, want %s", response.StatusCode, statusText(c.Status))
	}
	if c.Body == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if strings.Contains(string(body), c.Body) {
		return nil // whatever became of the rest
	}
	if err != nil {
		return plain(err, "body not complete", c.Timeout)
	}
	return fmt.Errorf("body without %q", c.Body)
}

func wanted(ranges []StatusRange, code int) bool {
	for _, r := range ranges {
		if r.From <= code && code <= r.To {
			return true
		}
	}
	return false
}

func statusText(ranges []StatusRange) string {
	words := make([]string, len(ranges))
	for i, r := range ranges {
		words[i] = r.String()
	}
	return strings.Join(words, ",")
}

// plain says why the network did not answer, as a person would: "connection
// refused", not the four layers that pass that on.
func plain(err error, late string, timeout time.Duration) error {
	// The end of ctx comes back as its error or as the connection's own, whichever
	// of two timers was first.
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
		return fmt.Errorf("%s within %v", late, timeout)
	}
	if e, ok := errors.AsType[*notHere](err); ok {
		return e
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("connection closed before the answer was complete")
	}
	return errors.New(firstLine(err.Error()))
}
