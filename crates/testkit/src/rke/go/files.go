package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

func pool(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	return pool, nil
}

func mustPool(path string) *x509.CertPool {
	it, err := pool(path)
	must(err)
	return it
}

func mustPair(certificate, key string) tls.Certificate {
	it, err := tls.LoadX509KeyPair(certificate, key)
	must(err)
	return it
}

// What a client trusts and presents, as it is now.
func client(ca, certificate, key string) *tls.Config {
	config := &tls.Config{Certificates: []tls.Certificate{mustPair(certificate, key)}}
	if ca == "" {
		config.InsecureSkipVerify = true
	} else {
		config.RootCAs = mustPool(ca)
	}
	return config
}

// What a client trusts and presents, as the files are at each handshake. Servers called by address
// may have any name: the library does not say here which was called.
func reloading(ca, certificate, key string) *tls.Config {
	roots := watch(func() (*x509.CertPool, error) { return pool(ca) }, ca)
	pair := watch(func() (*tls.Certificate, error) {
		it, err := tls.LoadX509KeyPair(certificate, key)
		return &it, err
	}, certificate, key)
	return &tls.Config{
		// The library's own check knows one pool for good; ours follows.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			options := x509.VerifyOptions{
				Roots:         roots.get(),
				Intermediates: x509.NewCertPool(),
				DNSName:       state.ServerName,
			}
			for _, it := range state.PeerCertificates[1:] {
				options.Intermediates.AddCert(it)
			}
			_, err := state.PeerCertificates[0].Verify(options)
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return pair.get(), nil
		},
	}
}

// Server and client configuration of a kubeconfig of the kind that RKE writes: one of each.
func kubeconfig(path string) (string, *tls.Config) {
	text, err := os.ReadFile(path)
	must(err)
	values := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		name, value, found := strings.Cut(strings.TrimLeft(line, " -"), ": ")
		if found {
			values[name] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	part := func(name string) []byte {
		if data := values[name+"-data"]; data != "" {
			text, err := base64.StdEncoding.DecodeString(data)
			must(err)
			return text
		}
		text, err := os.ReadFile(values[name])
		must(err)
		return text
	}
	pair, err := tls.X509KeyPair(part("client-certificate"), part("client-key"))
	must(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(part("certificate-authority")) {
		fail("no certificate of an authority in %s", path)
	}
	return values["server"], &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
}

// Something read from files, and read again when they change; what cannot be read leaves the old.
type watched[T any] struct {
	mutex sync.Mutex
	paths []string
	load  func() (T, error)
	stamp string
	value T
}

func watch[T any](load func() (T, error), paths ...string) *watched[T] {
	it := &watched[T]{paths: paths, load: load}
	it.stamp = it.now()
	value, err := load()
	must(err)
	it.value = value
	return it
}

func (w *watched[T]) now() string {
	var stamp strings.Builder
	for _, path := range w.paths {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(&stamp, "%s %d %v\n", path, info.Size(), info.ModTime().UnixNano())
		}
		if text, err := os.ReadFile(path); err == nil {
			stamp.Write(text)
		}
	}
	return stamp.String()
}

func (w *watched[T]) get() T {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if stamp := w.now(); stamp != w.stamp {
		if value, err := w.load(); err == nil {
			w.stamp, w.value = stamp, value
		}
	}
	return w.value
}

// A certificate that a component makes for itself when it is given none.
func selfSigned(name string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	host, _ := os.Hostname()
	template := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: fmt.Sprintf("%s@%d", name, time.Now().Unix())},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		DNSNames:     []string{"localhost", host},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// The client certificate of a connection, if one of the authorities issued it.
func known(state *tls.ConnectionState, roots *x509.CertPool) *x509.Certificate {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil
	}
	intermediates := x509.NewCertPool()
	for _, it := range state.PeerCertificates[1:] {
		intermediates.AddCert(it)
	}
	leaf := state.PeerCertificates[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil
	}
	return leaf
}
