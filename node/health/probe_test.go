package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ask runs one try of the check and returns the reason of its failure, "" if it
// passed. It fails the test if the try lasts far longer than its timeout.
func ask(t *testing.T, o Options) string {
	t.Helper()
	c, err := o.Parse()
	if err != nil {
		t.Fatal(err)
	}
	probe, free := newProbe(c)
	defer free()
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	started := time.Now()
	err = probe(ctx)
	if took := time.Since(started); took > c.Timeout+10*time.Second {
		t.Errorf("the try took %v with a timeout of %v", took, c.Timeout)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// Timeouts of the tests: long where the answer is to come, so that a loaded
// machine does not fail them, short where it is not to come.
var (
	patient = Options{Interval: new(time.Minute), Timeout: new(time.Minute)}
	hasty   = Options{Interval: new(time.Second), Timeout: new(200 * time.Millisecond)}
)

func (o Options) tcp(target string) Options  { o.Type, o.Target = "tcp", target; return o }
func (o Options) http(target string) Options { o.Type, o.Target = "http", target; return o }
func (o Options) exec(command ...string) Options {
	o.Type, o.Command = "exec", command
	return o
}
func (o Options) status(s string) Options { o.Status = s; return o }
func (o Options) body(s string) Options   { o.Body = s; return o }
func (o Options) host(s string) Options   { o.Host = s; return o }
func (o Options) skipVerify() Options     { o.SkipVerify = true; return o }

func expect(t *testing.T, o Options, want string) {
	t.Helper()
	if got := ask(t, o); got != want {
		t.Errorf("%+v: reason %q, want %q", o, got, want)
	}
}

func TestTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	expect(t, patient.tcp(listener.Addr().String()), "")
	expect(t, patient.tcp(refusedPort(t)), "connection refused")
	if got := ask(t, patient.tcp("no-such-host.invalid:80")); !strings.Contains(got, "no-such-host.invalid") {
		t.Errorf("reason %q does not name the host", got)
	}
}

// A listener whose backlog is full lets connections hang.
func TestTCPWithoutAnswer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	shrinkBacklog(t, raw)
	for range 16 {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 50*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	expect(t, hasty.tcp(listener.Addr().String()), "no connection within 200ms")
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	for _, code := range []int{204, 299, 301, 404, 503} {
		mux.HandleFunc(fmt.Sprintf("/%d", code), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/loop")
			w.WriteHeader(code)
		})
	}
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { t.Error("a redirect was followed") })
	mux.HandleFunc("/text", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "all is well\n") })
	mux.HandleFunc("/host", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "host="+r.Host+".") })
	mux.HandleFunc("/close", func(w http.ResponseWriter, r *http.Request) {
		if !r.Close {
			t.Error("the check asked to keep the connection")
		}
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(w, strings.Repeat("x", 4096))
		}
	})
	mux.HandleFunc("/short", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "cut")
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	at := func(path string) Options { return patient.http(server.URL + path) }

	for _, test := range []struct {
		name    string
		options Options
		want    string
	}{
		{"204", at("/204"), ""},
		{"299", at("/299"), ""},
		{"a redirect is an answer", at("/301"), ""},
		{"a redirect is not followed", at("/301").status("200"), "status 301, want 200"},
		{"404", at("/404"), "status 404, want 200-399"},
		{"503", at("/503"), "status 503, want 200-399"},
		{"404 wanted", at("/404").status("200-299,404"), ""},
		{"several wanted", at("/503").status("200-299,404"), "status 503, want 200-299,404"},
		{"text", at("/text").body("is well"), ""},
		{"another text", at("/text").body("IS WELL"), `body without "IS WELL"`},
		{"status before body", at("/404").body("x"), "status 404, want 200-399"},
		{"its own host", at("/host").body("host=" + strings.TrimPrefix(server.URL, "http://") + "."), ""},
		{"another host", at("/host").host("www.example.org:81").body("host=www.example.org:81."), ""},
		{"the connection is closed", at("/close"), ""},
		{"an endless body is read to a bound", at("/endless").body("y"), `body without "y"`},
		{"an endless body is not waited for", at("/endless"), ""},
		{"a body cut short", at("/short").body("whole"), "connection closed before the answer was complete"},
		{"refused", patient.http("http://" + refusedPort(t)), "connection refused"},
		{"https to an http port", patient.http(strings.Replace(server.URL, "http:", "https:", 1)), "http: server gave HTTP response to HTTPS client"},
	} {
		t.Run(test.name, func(t *testing.T) { expect(t, test.options, test.want) })
	}
}

func TestHTTPSlow(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		options func(url string) Options
		want    string
	}{
		{"a hanging server", func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}, hasty.http, "no answer within 200ms"},
		{"a slow body", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, ".")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}, func(url string) Options { return hasty.http(url).body("end") }, "body not complete within 200ms"},
		{"a slow body that nobody asked for", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, patient.http, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close() // waits for the handlers, so for the closed connection
			expect(t, test.options(server.URL), test.want)
		})
	}
}

// A server that takes the connection and says nothing, or nonsense.
func TestHTTPRude(t *testing.T) {
	for _, test := range []struct {
		name  string
		serve func(net.Conn)
		want  string
	}{
		{"closes at once", func(c net.Conn) { http.ReadRequest(bufio.NewReader(c)) }, "connection closed before the answer was complete"},
		{"speaks another protocol", func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "220 mail ready\r\n")
		}, "malformed HTTP status code"},
		{"endless headers", func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for err := error(nil); err == nil; {
				_, err = io.WriteString(c, "X: "+strings.Repeat("y", 4096)+"\r\n")
			}
		}, "exceeded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() {
				conn, err := listener.Accept()
				if err == nil {
					test.serve(conn)
					conn.Close()
				}
				served <- err
			}()
			got := ask(t, patient.http("http://"+listener.Addr().String()))
			listener.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
			if !strings.Contains(got, test.want) || strings.Contains(got, "\n") {
				t.Errorf("reason %q, want one line with %q", got, test.want)
			}
		})
	}
}

func TestHTTPS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "sni=%s.", r.TLS.ServerName)
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()
	if got := ask(t, patient.http(server.URL)); !strings.Contains(got, "certificate") {
		t.Errorf("a certificate of nobody: reason %q", got)
	}
	expect(t, patient.http(server.URL).skipVerify(), "")
	expect(t, patient.http(server.URL).skipVerify().host("www.example.org:8443").body("sni=www.example.org."), "")
}

// The environment of the agent may name a proxy; a check of this node must not
// ask it. (net/http exempts loopback names from proxies by itself, so the target
// here is a name that it would not exempt.)
func TestNoProxyFromEnvironment(t *testing.T) {
	c, err := patient.http("http://www.example.org/").Parse()
	if err != nil {
		t.Fatal(err)
	}
	if newHTTPClient(c).Transport.(*http.Transport).Proxy != nil {
		t.Error("the client has a proxy function")
	}
}

func TestFirstLine(t *testing.T) {
	long := strings.Repeat("ä", 200)
	for in, want := range map[string]string{
		"":                         "",
		" \n\t\n":                  "",
		"one\ntwo":                 "one",
		"\n\n  DISK FULL\r\nx":     "DISK FULL",
		"\x1b[31mred\x1b[0m \a":    "[31mred [0m",
		"bad \xff\xfe utf8":        "bad ? utf8",
		long:                       strings.Repeat("ä", 100) + "…",
		"x" + long:                 "x" + strings.Repeat("ä", 99) + "…",
		strings.Repeat("z", 200):   strings.Repeat("z", 200),
		strings.Repeat("z", 1<<20): strings.Repeat("z", 200) + "…",
	} {
		if got := firstLine(in); got != want {
			t.Errorf("firstLine(%.40q) = %q, want %q", in, got, want)
		}
	}
}

func TestCancelledTryEndsSoon(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	for _, o := range []Options{patient.http(server.URL), patient.exec("sleep", "3600")} {
		c, err := o.Parse()
		if err != nil {
			t.Fatal(err)
		}
		probe, free := newProbe(c)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(50*time.Millisecond, cancel)
		started := time.Now()
		err = probe(ctx)
		free()
		if took := time.Since(started); err == nil || took > 20*time.Second {
			t.Errorf("%s: error %v after %v", c, err, took)
		}
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("%s: ended before it was cancelled: %v", c, err)
		}
	}
}

func TestPlain(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, test := range []struct {
		err  error
		want string
	}{
		{refused, "connection refused"},
		{&url.Error{Op: "Get", URL: "http://a/", Err: refused}, "connection refused"},
		{&url.Error{Op: "Get", URL: "http://a/", Err: io.EOF}, "connection closed before the answer was complete"},
		{context.DeadlineExceeded, "late within 1s"},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}, "late within 1s"},
		{os.NewSyscallError("connect", syscall.ETIMEDOUT), "late within 1s"},
		{&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "a"}}, "lookup a: no such host"},
		{errors.New("one\ntwo"), "one"},
	} {
		if got := plain(test.err, "late", time.Second).Error(); got != test.want {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
}
