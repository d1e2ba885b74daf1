package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The host's own folder: a socket where the test is let in without a certificate, and the faults
// that it wants.
const backdoor = "/var/lib/components"

type server struct {
	store  *etcd
	roots  *watched[*x509.CertPool]
	tokens *tokens
	mutex  sync.Mutex
}

func apiserver(f flags) {
	certificate, key := f.must("tls-cert-file"), f.must("tls-private-key-file")
	serving := watch(func() (*tls.Certificate, error) {
		it, err := tls.LoadX509KeyPair(certificate, key)
		return &it, err
	}, certificate, key)
	ca := f.must("client-ca-file")
	for _, name := range []string{"requestheader-client-ca-file", "proxy-client-cert-file", "proxy-client-key-file"} {
		_, err := os.Stat(f.must(name))
		must(err)
	}
	mustPair(f.must("proxy-client-cert-file"), f.must("proxy-client-key-file"))
	mustPool(f.must("requestheader-client-ca-file"))
	toEtcd := client(f.must("etcd-cafile"), f.must("etcd-certfile"), f.must("etcd-keyfile"))
	// The authorities for good, the pair for every connection: as etcd's own client does.
	toEtcd.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		it, err := tls.LoadX509KeyPair(f["etcd-certfile"], f["etcd-keyfile"])
		return &it, err
	}
	toEtcd.Certificates = nil
	s := &server{
		store:  dialEtcd(f.must("etcd-servers"), toEtcd, 5*time.Second),
		roots:  watch(func() (*x509.CertPool, error) { return pool(ca) }, ca),
		tokens: loadTokens(f.must("service-account-key-file")),
	}
	toKubelet := client(f["kubelet-certificate-authority"], f.must("kubelet-client-certificate"), f.must("kubelet-client-key"))
	for _, it := range s.store.urls {
		go call("kube-apiserver", it, toEtcd).forever("/health")
	}
	go s.callKubelets(toKubelet)
	go s.bury()
	s.openBackdoor()
	port := f["secure-port"]
	if port == "" {
		port = "6443"
	}
	serveTLS(":"+port, http.HandlerFunc(s.front), &tls.Config{
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serving.get(), nil },
	})
	select {}
}

func (s *server) openBackdoor() {
	path := backdoor + "/api.sock"
	os.Remove(path)
	listener, err := net.Listen("unix", path)
	must(err)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.route(w, r, user{"testkit", []string{"system:masters"}})
	}))
}

// As logs and exec do: from the API server to every node's kubelet.
func (s *server) callKubelets(config *tls.Config) {
	callers := map[string]*caller{}
	for ; ; time.Sleep(every) {
		nodes, err := s.store.list("/registry/minions/")
		if err != nil {
			continue
		}
		for _, it := range nodes {
			address := text(object(it.Value), "status", "addresses", "0", "address")
			if address != "" && callers[address] == nil {
				callers[address] = call("kube-apiserver", "https://"+address+":10250", config)
				go callers[address].forever("/healthz")
			}
		}
	}
}

type user struct {
	name   string
	groups []string
}

func (s *server) front(w http.ResponseWriter, r *http.Request) {
	if broken(w, r) {
		return
	}
	who, found := user{}, false
	if leaf := known(r.TLS, s.roots.get()); leaf != nil {
		who, found = user{leaf.Subject.CommonName, leaf.Subject.Organization}, true
	} else if scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); scheme == "Bearer" {
		who, found = s.tokens.read(token)
	}
	if !found {
		refuse(w, 401, "Unauthorized", "Unauthorized")
		return
	}
	if !who.may(r) {
		words := fmt.Sprintf("User %q cannot %s path %q", who.name, strings.ToLower(r.Method), r.URL.Path)
		refuse(w, 403, "Forbidden", words)
		return
	}
	s.route(w, r, who)
}

// RBAC, in short.
func (u user) may(r *http.Request) bool {
	for _, it := range u.groups {
		if it == "system:masters" {
			return true
		}
	}
	path, reads := r.URL.Path, r.Method == "GET"
	switch {
	case reads && (path == "/healthz" || path == "/version" || path == "/readyz" || path == "/livez"):
		return true
	case u.name == "system:kube-controller-manager":
		return true
	case u.name == "system:node" || strings.HasPrefix(u.name, "system:node:"):
		return strings.HasPrefix(path, "/api/v1/nodes") || reads && strings.HasPrefix(path, "/api/v1/pods")
	case u.name == "system:kube-scheduler", u.name == "system:kube-proxy":
		return reads && strings.HasPrefix(path, "/api/v1/nodes")
	}
	return false
}

// What the test wants to go wrong, a line each: method, a part of the unescaped address, and a
// status, or `hang`, or `close`.
func broken(w http.ResponseWriter, r *http.Request) bool {
	faults, _ := os.ReadFile(backdoor + "/faults")
	address := r.RequestURI
	if plain, err := url.QueryUnescape(address); err == nil {
		address = plain
	}
	for _, line := range strings.Split(string(faults), "\n") {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != r.Method || !strings.Contains(address, words[1]) {
			continue
		}
		switch words[2] {
		case "hang":
			select {
			case <-r.Context().Done():
			case <-time.After(time.Hour):
			}
		case "close":
			panic(http.ErrAbortHandler)
		default:
			code, _ := strconv.Atoi(words[2])
			refuse(w, code, "InternalError", "testkit wants it to fail")
		}
		return true
	}
	return false
}

func answer(w http.ResponseWriter, code int, content any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(content)
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	answer(w, code, map[string]any{
		"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{},
		"status": "Failure", "message": message, "reason": reason, "code": code,
	})
}

func (s *server) route(w http.ResponseWriter, r *http.Request, who user) {
	switch r.URL.Path {
	case "/version":
		answer(w, 200, map[string]any{
			"major": "1", "minor": "30", "gitVersion": "v1.30.5", "platform": "linux/amd64",
		})
		return
	case "/healthz", "/readyz", "/livez":
		if _, err := s.store.get("/registry/health"); err != nil {
			http.Error(w, "[-]etcd failed", http.StatusInternalServerError)
			return
		}
		io.WriteString(w, "ok")
		return
	}
	place, found := locate(r.URL.Path)
	if !found {
		refuse(w, 404, "NotFound", "the server could not find the requested resource")
		return
	}
	logRequest(r, who)
	body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	if err != nil {
		return
	}
	s.serve(w, r, place, body)
}

// Who changed what.
func logRequest(r *http.Request, who user) {
	if r.Method != "GET" && who.name != "system:node" && !strings.Contains(r.URL.Path, "/leases/") {
		note("requests", r.Method, r.URL.RequestURI(), nil)
	}
}
