package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sys/unix"
)

// requestTimeout bounds one request, whatever the agent does. It is longer than
// answerTimeout: the agent's own word is the better one.
const requestTimeout = answerTimeout + 5*time.Second

// What a Client's errors may be, besides an agent's refusal.
var (
	// ErrNotRunning says that no agent listens at the socket.
	ErrNotRunning = errors.New("no agent runs")
	// ErrUnavailable says that an agent is there, and is about to end or has ended
	// before it answered.
	ErrUnavailable = errors.New("the agent is stopping")
)

// Client talks to an agent through its control socket: a connection for each
// request, since an agent may end and another begin in between.
type Client struct {
	socket  string
	timeout time.Duration
}

// NewClient returns a client for the agent at the socket. It connects when asked.
func NewClient(socket string) *Client { return &Client{socket: socket, timeout: requestTimeout} }

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Explain asks where a client, ADDR or ADDR:PORT, goes; service may be empty.
func (c *Client) Explain(ctx context.Context, client, service string) (e Explanation, err error) {
	query := url.Values{"addr": {client}, "service": {service}}
	err = c.do(ctx, http.MethodGet, "/v1/explain?"+query.Encode(), nil, &e)
	return e, err
}

// Wish tells a node what is wanted of it. It returns when the node has done it, or
// begun to and will not forget it.
func (c *Client) Wish(ctx context.Context, w WishRequest) (r Reply, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/wish", w, &r)
	return r, err
}

// Join contacts more seeds.
func (c *Client) Join(ctx context.Context, seeds []string) (r Reply, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/join", JoinRequest{Seeds: seeds}, &r)
	return r, err
}

// Reload has the agent take what it can of its configuration as it is written now. The
// error is an *EditError if that configuration cannot be used.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/reload", nil, &r)
	return r, err
}

// Leave asks the agent to hand everything over and end. It does not wait for that.
func (c *Client) Leave(ctx context.Context, q LeaveRequest) (r Reply, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/leave", q, &r)
	return r, err
}

// Serve has the node serve despite strangers on its wire.
func (c *Client) Serve(ctx context.Context, q ServeRequest) (r Reply, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/serve", q, &r)
	return r, err
}

// do makes one request. A refusal is an error with the agent's own words.
func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	status, answer, err := c.exchange(ctx, method, path, body)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return c.explain(err)
	}
	if status != http.StatusOK {
		var refusal Reply
		switch err := json.Unmarshal(answer, &refusal); {
		case err != nil || refusal.Error == "":
			return fmt.Errorf("the agent at %s answered %d %s: is it of another version?", c.socket, status, http.StatusText(status))
		case status == http.StatusServiceUnavailable:
			return unavailableError(refusal.Error)
		case status == http.StatusUnprocessableEntity:
			return &EditError{errors.New(refusal.Error)}
		}
		return errors.New(refusal.Error)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("the answer of the agent at %s cannot be read (%w): is it of another version?", c.socket, err)
	}
	return nil
}

// exchange sends one request and reads the answer.
func (c *Client) exchange(ctx context.Context, method, path string, body any) (status int, answer []byte, err error) {
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			return 0, nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, &content)
	if err != nil {
		return 0, nil, err
	}
	request.Close = true
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := request.Write(conn); err != nil {
		return 0, nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// unavailableError is ErrUnavailable in the agent's own words.
type unavailableError string

func (e unavailableError) Error() string        { return string(e) }
func (e unavailableError) Is(target error) bool { return target == ErrUnavailable }

// explain says what to do about an agent that does not answer.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w at %s: start it with `systemctl start peervip` or `peervip agent`, or name its socket with --socket", ErrNotRunning, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the agent's socket %s is not open to you: use sudo, or join its group", c.socket)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return unavailableError(fmt.Sprintf("the agent at %s ended before it answered: see its log", c.socket))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the agent at %s does not answer (%w): is its process stopped, or the machine overloaded?", c.socket, err)
	}
	return fmt.Errorf("asking the agent at %s: %w", c.socket, err)
}
