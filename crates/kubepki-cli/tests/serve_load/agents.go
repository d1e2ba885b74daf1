// Agents that ask servers for certificates without end: each with a token, with the first
// certificate that it got, and with the last. One line of JSON on standard output for everything
// that happens; ends when standard input does.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

type config struct {
	Servers  []string // host:port
	Roots    string   // PEM, what the servers are trusted by
	User     string   // user of the token
	Password string
	Agents   int
	Client   map[string]string // bundles by name, PEM, that client leaves are held to
	Server   map[string]string // the same for serving leaves
}

type event struct {
	Kind      string   `json:"kind"` // got, retry, lost
	Agent     int      `json:"agent"`
	Server    int      `json:"server"`
	Path      string   `json:"path"`
	By        string   `json:"by"` // token, first, last
	Why       string   `json:"why,omitempty"`
	Leaf      string   `json:"leaf,omitempty"`
	Untrusted []string `json:"untrusted,omitempty"`
}

var paths = []string{"client-kubelet", "serving-kubelet", "client-kube-proxy", "client-k3s-controller"}

var (
	said   sync.Mutex
	over   atomic.Bool
	asked  config
	pools  = map[bool]map[string]*x509.CertPool{}
	trusts = x509.NewCertPool()
)

func say(what event) {
	line, _ := json.Marshal(what)
	said.Lock()
	defer said.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

type agent struct {
	number   int
	name     string
	password string
	key      *ecdsa.PrivateKey
	request  []byte
	clients  map[string]*http.Client
}

func client(pair *tls.Certificate) *http.Client {
	settings := &tls.Config{RootCAs: trusts, ServerName: "kubernetes"}
	if pair != nil {
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return pair, nil
		}
	}
	transport := &http.Transport{TLSClientConfig: settings, ForceAttemptHTTP2: true}
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func newAgent(number int) *agent {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		panic(err)
	}
	secret := make([]byte, 16)
	rand.Read(secret)
	return &agent{number, fmt.Sprintf("load-%d", number), hex.EncodeToString(secret), key, request,
		map[string]*http.Client{"token": client(nil)}}
}

// One attempt: the certificates of the answer, or what came instead.
func (it *agent) attempt(server int, path, by string) ([][]byte, int, error) {
	url := "https://" + asked.Servers[server] + "/v1-k3s/" + path + ".crt"
	request, err := http.NewRequest("POST", url, bytes.NewReader(it.request))
	if err != nil {
		panic(err)
	}
	request.Header.Set("k3s-Node-Name", it.name)
	if by == "token" {
		request.SetBasicAuth(asked.User, asked.Password)
		request.Header.Set("k3s-Node-Password", it.password)
	}
	answer, err := it.clients[by].Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, 0, err
	}
	if answer.StatusCode != 200 {
		return nil, answer.StatusCode, fmt.Errorf("%d %s", answer.StatusCode, body)
	}
	var chain [][]byte
	for block, rest := pem.Decode(body); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	if len(chain) == 0 {
		return nil, 0, fmt.Errorf("no certificate in the answer")
	}
	return chain, 200, nil
}

// The bundles under which a chain is not good.
func untrusted(path string, chain [][]byte) []string {
	between := x509.NewCertPool()
	var leaf *x509.Certificate
	for index, der := range chain {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return []string{err.Error()}
		}
		if index == 0 {
			leaf = certificate
		} else {
			between.AddCert(certificate)
		}
	}
	var found []string
	for name, roots := range pools[path == "serving-kubelet"] {
		options := x509.VerifyOptions{Roots: roots, Intermediates: between,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
		if _, err := leaf.Verify(options); err != nil {
			found = append(found, name)
		}
	}
	return found
}

func (it *agent) run() {
	ways := []string{"token", "first", "last"}
	for turn := 0; !over.Load(); turn++ {
		path, by := paths[turn%len(paths)], ways[turn/len(paths)%len(ways)]
		if it.clients[by] == nil {
			by = "token"
		}
		chain := it.insist(turn, path, by)
		if chain == nil || path != "client-kubelet" {
			continue
		}
		pair := &tls.Certificate{Certificate: chain, PrivateKey: it.key}
		if it.clients["first"] == nil {
			it.clients["first"] = client(pair)
		}
		if by == "token" || it.clients["last"] == nil {
			if old := it.clients["last"]; old != nil {
				old.CloseIdleConnections()
			}
			it.clients["last"] = client(pair)
		}
	}
}

// Asks one server after the other until one answers.
func (it *agent) insist(turn int, path, by string) [][]byte {
	begin := time.Now()
	for try := 0; ; try++ {
		server := (it.number + turn + try) % len(asked.Servers)
		chain, code, err := it.attempt(server, path, by)
		what := event{Agent: it.number, Server: server, Path: path, By: by}
		if err == nil {
			what.Kind, what.Untrusted = "got", untrusted(path, chain)
			what.Leaf = hex.EncodeToString(chain[0])
			say(what)
			time.Sleep(5 * time.Millisecond)
			return chain
		}
		what.Kind, what.Why = "retry", err.Error()
		// What a client does wrong is not mended by asking elsewhere.
		if code >= 400 && code < 500 && code != 429 || time.Since(begin) > time.Minute {
			what.Kind = "lost"
		}
		say(what)
		if what.Kind == "lost" {
			return nil
		}
		if try%len(asked.Servers) == len(asked.Servers)-1 {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func bundles(texts map[string]string) map[string]*x509.CertPool {
	found := map[string]*x509.CertPool{}
	for name, text := range texts {
		found[name] = x509.NewCertPool()
		found[name].AppendCertsFromPEM([]byte(text))
	}
	return found
}

func main() {
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&asked); err != nil {
		panic(err)
	}
	trusts.AppendCertsFromPEM([]byte(asked.Roots))
	pools[true], pools[false] = bundles(asked.Server), bundles(asked.Client)
	var all sync.WaitGroup
	for number := 0; number < asked.Agents; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			newAgent(number).run()
		}(number)
	}
	io.Copy(io.Discard, os.Stdin)
	over.Store(true)
	all.Wait()
}
