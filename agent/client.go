package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/sys/unix"
)

// Client talks to an agent through its control socket.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client for the agent at the socket. It connects when asked.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Explain asks where a client, ADDR or ADDR:PORT, goes; service may be empty.
func (c *Client) Explain(ctx context.Context, client, service string) (e Explanation, err error) {
	query := url.Values{"addr": {client}, "service": {service}}
	return e, c.do(ctx, http.MethodGet, "/v1/explain?"+query.Encode(), nil, &e)
}

// Wish tells a node what is wanted of it.
func (c *Client) Wish(ctx context.Context, w WishRequest) (r Reply, err error) {
	return r, c.do(ctx, http.MethodPost, "/v1/wish", w, &r)
}

// Join contacts more seeds.
func (c *Client) Join(ctx context.Context, seeds []string) (r Reply, err error) {
	return r, c.do(ctx, http.MethodPost, "/v1/join", JoinRequest{Seeds: seeds}, &r)
}

// Leave asks the agent to hand everything over and end. It does not wait for that.
func (c *Client) Leave(ctx context.Context) (r Reply, err error) {
	return r, c.do(ctx, http.MethodPost, "/v1/leave", nil, &r)
}

// do makes one request. A refusal is an error with the agent's own words.
func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, &content)
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.explain(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var refusal Reply
		if err := json.NewDecoder(response.Body).Decode(&refusal); err != nil || refusal.Error == "" {
			return fmt.Errorf("the agent at %s answered %s: is it of another version?", c.socket, response.Status)
		}
		return errors.New(refusal.Error)
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("reading the answer of the agent at %s: %w", c.socket, err)
	}
	return nil
}

// explain says what to do about an agent that cannot be reached.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("no agent runs at %s: start it with `systemctl start peervip` or `peervip agent`, or name its socket with --socket", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the agent's socket %s is not open to you: use sudo, or join its group", c.socket)
	}
	return fmt.Errorf("asking the agent at %s: %w", c.socket, err)
}
