// What K3s's agents say to a server while they join, by the reference's account of them, with
// Go's own HTTP and TLS: once as v1.36 says it, once as v1.21. Ends with 0 when all of it went as
// such an agent needs it; otherwise the first thing that did not is on standard error.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// The members of the server's settings that agents of some version read, with Go's types.
type settings struct {
	ClusterDNS         net.IP
	ClusterDNSs        []net.IP
	ClusterDomain      string
	ClusterIPRange     *net.IPNet
	ClusterIPRanges    []*net.IPNet
	ServiceIPRange     *net.IPNet
	ServiceIPRanges    []*net.IPNet
	DisableCCM         bool
	DisableKubeProxy   bool
	DisableNPC         bool
	DataDir            string
	FlannelBackend     string
	FlannelIPv6Masq    bool
	EgressSelectorMode string
	HTTPSPort          int
	SupervisorPort     int
	AdvertisePort      int
	AdvertiseIP        string
	IPSECPSK           string
	MinTLSVersion      string
	CipherSuites       []string
	ServerNodeName     string
	SupervisorMetrics  bool
	EmbeddedRegistry   bool
	SANs               []string
	Rootless           bool
	ServiceLBNamespace string
}

type agent struct {
	base, name, secret, addresses string
	token                         string // K10<hash>::<user>:<password>
	password                      string
	bundle                        []byte
	certificate                   *tls.Certificate // the kubelet's, once there is one
}

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func fail(format string, parts ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", parts...)
	os.Exit(1)
}

func pool(bundle []byte) *x509.CertPool {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		fail("no certificates in the bundle")
	}
	return roots
}

// As K3s makes it: ten seconds, no connection used twice.
func (it *agent) client(verify bool, pair *tls.Certificate) *http.Client {
	config := &tls.Config{InsecureSkipVerify: !verify}
	if verify {
		config.RootCAs = pool(it.bundle)
	}
	if pair != nil {
		config.Certificates = []tls.Certificate{*pair}
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

func (it *agent) ask(method, path string, body []byte, named bool, pair *tls.Certificate) (int, []byte) {
	request, err := http.NewRequest(method, it.base+path, bytes.NewReader(body))
	must(err, path)
	request.SetBasicAuth("node", it.password)
	if named {
		request.Header.Set("k3s-Node-Name", it.name)
		request.Header.Set("k3s-Node-Password", it.secret)
		request.Header.Set("k3s-Node-IP", it.addresses)
	}
	answer, err := it.client(true, pair).Do(request)
	must(err, path)
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	must(err, path)
	return answer.StatusCode, all
}

func (it *agent) need(method, path string, body []byte, named bool, pair *tls.Certificate) []byte {
	code, answer := it.ask(method, path, body, named, pair)
	// As agents do when their Node was deleted: once more without the certificate.
	if code == 401 && pair != nil {
		code, answer = it.ask(method, path, body, named, nil)
	}
	if code != 200 {
		fail("%s %s: %d %s", method, path, code, answer)
	}
	return answer
}

// The CA bundle: as it comes, then verified under itself, then held to the token's hash.
func (it *agent) trust() {
	for _, verify := range []bool{false, true} {
		answer, err := it.client(verify, nil).Get(it.base + "/cacerts")
		must(err, "/cacerts")
		it.bundle, err = io.ReadAll(answer.Body)
		must(err, "/cacerts")
		answer.Body.Close()
	}
	var hash string
	if bytes.Count(it.bundle, []byte("-----BEGIN")) == 1 {
		sum := sha256.Sum256(it.bundle)
		hash = hex.EncodeToString(sum[:])
	} else {
		hash = hashOfRoot(it.bundle)
	}
	own, rest, _ := strings.Cut(strings.TrimPrefix(it.token, "K10"), "::")
	_, it.password, _ = strings.Cut(rest, ":")
	if own != hash {
		fail("token CA hash does not match the Cluster CA certificate hash: %s != %s", own, hash)
	}
}

func hashOfRoot(bundle []byte) string {
	all := certificates(bundle)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, it := range all[1:] {
		if len(it.AuthorityKeyId) == 0 || bytes.Equal(it.AuthorityKeyId, it.SubjectKeyId) {
			roots.AddCert(it)
		} else {
			between.AddCert(it)
		}
	}
	chains, err := all[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
	must(err, "the bundle")
	sum := sha256.Sum256(chains[0][len(chains[0])-1].Raw)
	return hex.EncodeToString(sum[:])
}

func certificates(text []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			it, err := x509.ParseCertificate(block.Bytes)
			must(err, "a certificate")
			all = append(all, it)
		}
	}
	return all
}

// Certificates and key of an answer apart, as agents write them into two files.
func split(text []byte) (certs, key []byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if strings.Contains(block.Type, "PRIVATE KEY") {
			key = append(key, pem.EncodeToMemory(block)...)
		} else {
			certs = append(certs, pem.EncodeToMemory(block)...)
		}
	}
	return
}

// Whether a leaf is what the kubelet, the API server or a client needs.
func good(what string, chain, bundle []byte, subject string, usage x509.ExtKeyUsage) {
	all := certificates(chain)
	between := x509.NewCertPool()
	for _, it := range all[1:] {
		between.AddCert(it)
	}
	_, err := all[0].Verify(x509.VerifyOptions{Roots: pool(bundle), Intermediates: between,
		KeyUsages: []x509.ExtKeyUsage{usage}})
	must(err, what)
	if all[0].Subject.String() != subject {
		fail("%s is for %s, not %s", what, all[0].Subject, subject)
	}
}

var leaves = []struct {
	file, subject string
	usage         x509.ExtKeyUsage
	named         bool
}{
	{"serving-kubelet", "CN=%s", x509.ExtKeyUsageServerAuth, true},
	{"client-kubelet", "CN=system:node:%s,O=system:nodes", x509.ExtKeyUsageClientAuth, true},
	{"client-kube-proxy", "CN=system:kube-proxy", x509.ExtKeyUsageClientAuth, false},
	{"client-k3s-controller", "CN=system:k3s-controller", x509.ExtKeyUsageClientAuth, false},
}

// A start of an agent. Keys that it has already stay.
func (it *agent) start(modern bool, keys map[string]*ecdsa.PrivateKey) {
	it.trust()
	var read settings
	pair := func() *tls.Certificate {
		if modern {
			return it.certificate
		}
		return nil
	}
	must(json.Unmarshal(it.need("GET", "/v1-k3s/config", nil, false, pair()), &read), "config")
	if read.ClusterIPRange == nil || read.ServiceIPRange == nil || read.HTTPSPort == 0 ||
		read.ClusterDNS == nil || read.ClusterDomain == "" || read.FlannelBackend == "" {
		fail("config lacks something: %+v", read)
	}
	clients := it.need("GET", "/v1-k3s/client-ca.crt", nil, false, pair())
	servers := it.need("GET", "/v1-k3s/server-ca.crt", nil, false, pair())
	if !bytes.Equal(servers, it.bundle) {
		fail("server-ca.crt is not /cacerts")
	}
	got := map[string]tls.Certificate{}
	for _, leaf := range leaves {
		path := "/v1-k3s/" + leaf.file + ".crt"
		var chain, key []byte
		if modern {
			if keys[leaf.file] == nil {
				made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				must(err, "key")
				keys[leaf.file] = made
			}
			request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, keys[leaf.file])
			must(err, "request")
			chain = it.need("POST", path, request, leaf.named, pair())
			der, err := x509.MarshalECPrivateKey(keys[leaf.file])
			must(err, "key")
			key = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
		} else {
			chain, key = split(it.need("GET", path, nil, leaf.named, nil))
		}
		bundle := clients
		if leaf.file == "serving-kubelet" {
			bundle = servers
		}
		subject := leaf.subject
		if strings.Contains(subject, "%s") {
			subject = fmt.Sprintf(subject, it.name)
		}
		good(leaf.file, chain, bundle, subject, leaf.usage)
		own, err := tls.X509KeyPair(chain, key)
		must(err, leaf.file)
		got[leaf.file] = own
		if leaf.file == "client-kubelet" {
			// From now on K3s loads it for every request.
			it.certificate = &own
		}
	}
	kubelet(got["serving-kubelet"], servers, append(strings.Split(it.addresses, ","), it.name, "localhost"))
	if text := it.need("GET", "/v1-k3s/readyz", nil, false, pair()); string(text) != "ok" {
		fail("readyz: %s", text)
	}
	var addresses []string
	must(json.Unmarshal(it.need("GET", "/v1-k3s/apiservers", nil, false, pair()), &addresses), "apiservers")
	if len(addresses) == 0 {
		fail("no apiservers: the agent would ask for ever")
	}
	for _, address := range addresses {
		_, _, err := net.SplitHostPort(address)
		must(err, "apiservers")
	}
}

// The kubelet's port, as the API server verifies it, by every name and address of the node.
func kubelet(pair tls.Certificate, bundle []byte, names []string) {
	for _, name := range names {
		server, client := net.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- tls.Server(server, &tls.Config{Certificates: []tls.Certificate{pair}}).Handshake()
		}()
		err := tls.Client(client, &tls.Config{RootCAs: pool(bundle), ServerName: name}).Handshake()
		must(err, "the kubelet as "+name)
		must(<-done, "the kubelet")
	}
}

// Somebody else's certificate, as of a cluster that was there before.
func foreign(name string) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err, "key")
	text := &x509.Certificate{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	text.Subject.CommonName, text.Subject.Organization = "system:node:"+name, []string{"system:nodes"}
	text.SerialNumber, _ = rand.Int(rand.Reader, elliptic.P256().Params().N)
	der, err := x509.CreateCertificate(rand.Reader, text, text, key.Public(), key)
	must(err, "certificate")
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func main() {
	secret := make([]byte, 16)
	rand.Read(secret)
	version, base, token, name := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	it := &agent{base: base, name: name, secret: hex.EncodeToString(secret), addresses: "10.77.0.99,fd00::99", token: token}
	keys := map[string]*ecdsa.PrivateKey{}
	modern := version == "1.36"
	it.start(modern, keys)
	// Every start asks again, then with the certificate of the first.
	it.start(modern, keys)
	if modern {
		it.certificate = foreign(name)
		it.start(modern, keys)
	}
	// Another machine of that name is told so with the code that agents know.
	other := *it
	other.secret = strings.Repeat("0", 32)
	method, body := "GET", []byte(nil)
	if modern {
		method = "POST"
		body, _ = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, keys["client-kubelet"])
	}
	if code, answer := other.ask(method, "/v1-k3s/client-kubelet.crt", body, true, nil); code != 403 {
		fail("another machine of that name: %d %s", code, answer)
	}
	fmt.Println("joined")
}
