package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Where notes of calls are written; the host's own folder.
const notes = "/var/log/components"

var noting sync.Mutex

// One line for each call: time, component, way, address, outcome, words.
func note(role, way, address string, err error) {
	outcome, words := "ok", "-"
	if err != nil {
		outcome, words = kind(err), strings.Join(strings.Fields(err.Error()), " ")
	}
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000000000Z")
	noting.Lock()
	defer noting.Unlock()
	file, err := os.OpenFile(notes+"/"+role+".log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer file.Close()
	fmt.Fprintf(file, "%s %s %s %s %s %s\n", now, role, way, address, outcome, words)
}

type status int

func (s status) Error() string { return fmt.Sprintf("status %d", int(s)) }

// Whether one side did not like the other's certificate, or there was nobody to talk to.
func kind(err error) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var code status
	switch {
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &name):
		return "certificate"
	case errors.As(err, &code):
		if code == 401 || code == 403 {
			return "certificate"
		}
		return "status"
	case strings.Contains(err.Error(), "tls: "):
		return "certificate"
	}
	return "connection"
}

// Calls an address on a connection that is kept and on one that is new.
type caller struct {
	role, url   string
	kept, fresh *http.Client
}

func call(role, url string, config *tls.Config) *caller {
	make := func(close bool) *http.Client {
		transport := &http.Transport{TLSClientConfig: config.Clone(), DisableKeepAlives: close}
		return &http.Client{Transport: transport, Timeout: 5 * time.Second}
	}
	return &caller{role, url, make(false), make(true)}
}

func (c *caller) once(way string, client *http.Client, path string) {
	answer, err := client.Get(c.url + path)
	if err == nil {
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if answer.StatusCode != 200 {
			err = status(answer.StatusCode)
		}
	}
	note(c.role, way, c.url, err)
}

// Never returns.
func (c *caller) forever(path string) {
	go func() {
		for {
			c.once("kept", c.kept, path)
			time.Sleep(every)
		}
	}()
	for {
		c.once("new", c.fresh, path)
		// Handshakes are dear where a whole cluster shares two cores.
		time.Sleep(5 * every)
	}
}

func ok(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }

func healthz() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", ok)
	return mux
}

func serve(address string, handler http.Handler) {
	listener, err := net.Listen("tcp", address)
	must(err)
	go func() { must(http.Serve(listener, handler)) }()
}

func serveTLS(address string, handler http.Handler, config *tls.Config) {
	listener, err := net.Listen("tcp", address)
	must(err)
	// Whoever breaks off a handshake is no news.
	server := &http.Server{Handler: handler, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { must(server.ServeTLS(listener, "", "")) }()
}

func scheduler(f flags) {
	url, config := kubeconfig(f.must("kubeconfig"))
	own := &tls.Config{Certificates: []tls.Certificate{selfSigned("kube-scheduler")}}
	serveTLS(":10259", healthz(), own)
	call("kube-scheduler", url, config).forever("/api/v1/nodes")
}

func kubeProxy(f flags) {
	path := f["kubeconfig"]
	if path == "" {
		path = f.must("config")
	}
	url, config := kubeconfig(path)
	serve(":10256", healthz())
	call("kube-proxy", url, config).forever("/api/v1/nodes")
}

func kubelet(f flags) {
	url, config := kubeconfig(f.must("kubeconfig"))
	ca := f.must("client-ca-file")
	roots := watch(func() (*x509.CertPool, error) { return pool(ca) }, ca)
	own := selfSigned(f.must("hostname-override"))
	if f["tls-cert-file"] != "" {
		own = mustPair(f.must("tls-cert-file"), f.must("tls-private-key-file"))
	}
	serve("127.0.0.1:10248", healthz())
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if known(r.TLS, roots.get()) == nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		ok(w, r)
	})
	serveTLS(":10250", guarded, &tls.Config{
		Certificates: []tls.Certificate{own},
		ClientAuth:   tls.RequestClientCert,
	})
	caller := call("kubelet", url, config)
	go register(caller, f.must("hostname-override"), f.must("node-ip"))
	caller.forever("/api/v1/nodes")
}

// TCP to whichever control plane answers, as RKE's nginx does on hosts without one.
func nginxProxy(hosts []string) {
	listener, err := net.Listen("tcp", ":6443")
	must(err)
	for turn := 0; ; turn++ {
		down, err := listener.Accept()
		must(err)
		go func(turn int) {
			defer down.Close()
			for step := range hosts {
				host := hosts[(turn+step)%len(hosts)]
				up, err := net.DialTimeout("tcp", host+":6443", 2*time.Second)
				if err != nil {
					continue
				}
				defer up.Close()
				done := make(chan bool, 2)
				pass := func(to, from net.Conn) { io.Copy(to, from); done <- true }
				go pass(up, down)
				go pass(down, up)
				<-done
				return
			}
		}(turn)
	}
}
