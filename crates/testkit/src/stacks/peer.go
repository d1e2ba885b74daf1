// A TLS peer that takes jobs from its standard input, one a line, and answers each with a line.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const answer = "HTTP/1.0 200 ok\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"

func main() {
	servers := map[string]net.Listener{}
	lines := map[string]*kept{}
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		said := ""
		switch words[0] {
		case "connect":
			said, err = "", connect(words[1], words[2], words[3], words[4], words[5])
		case "serve":
			var listener net.Listener
			listener, err = serve(words[1], words[2], words[3])
			if err == nil {
				_, said, _ = net.SplitHostPort(listener.Addr().String())
				servers[said] = listener
			}
		case "hold":
			var held *kept
			held, err = hold(words[1], words[2], words[3])
			if err == nil {
				said = strconv.Itoa(len(lines))
				lines[said] = held
			}
		case "ask":
			said, err = lines[words[1]].ask(words[2])
		case "stop":
			servers[words[1]].Close()
		}
		if err != nil {
			fmt.Println("no " + strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok " + said)
		}
	}
}

func text(word string) []byte {
	if word == "-" {
		return nil
	}
	decoded, err := base64.StdEncoding.DecodeString(word)
	if err != nil {
		panic(err)
	}
	return decoded
}

func pool(word string) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text(word))
	return roots
}

func connect(port, name, trust, chain, key string) error {
	config := &tls.Config{RootCAs: pool(trust), ServerName: name}
	if chain != "-" {
		pair, err := tls.X509KeyPair(text(chain), text(key))
		if err != nil {
			return err
		}
		// As client-go and etcd do: whatever names the server gives.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &pair, nil
		}
	}
	dialer := &net.Dialer{Timeout: 60 * time.Second}
	link, err := tls.DialWithDialer(dialer, "tcp", "127.0.0.1:"+port, config)
	if err != nil {
		return err
	}
	defer link.Close()
	link.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err := link.Write([]byte("GET /ping HTTP/1.0\r\n\r\n")); err != nil {
		return err
	}
	said, err := io.ReadAll(link)
	if !strings.Contains(strings.ToLower(string(said)), "200 ok") {
		return fmt.Errorf("no answer: %q, %v", said, err)
	}
	return nil
}

// A connection that is kept.
type kept struct {
	link *tls.Conn
	in   *bufio.Reader
}

func hold(port, name, trust string) (*kept, error) {
	config := &tls.Config{RootCAs: pool(trust), ServerName: name}
	dialer := &net.Dialer{Timeout: 60 * time.Second}
	link, err := tls.DialWithDialer(dialer, "tcp", "127.0.0.1:"+port, config)
	if err != nil {
		return nil, err
	}
	return &kept{link, bufio.NewReader(link)}, nil
}

func (held *kept) ask(path string) (string, error) {
	held.link.SetDeadline(time.Now().Add(60 * time.Second))
	request := "GET " + path + " HTTP/1.1\r\nHost: kubernetes\r\n\r\n"
	if _, err := held.link.Write([]byte(request)); err != nil {
		return "", err
	}
	said, err := http.ReadResponse(held.in, nil)
	if err != nil {
		return "", err
	}
	defer said.Body.Close()
	body, err := io.ReadAll(said.Body)
	if err != nil {
		return "", err
	}
	if said.StatusCode != 200 {
		return "", fmt.Errorf("%s", said.Status)
	}
	return base64.StdEncoding.EncodeToString(body), nil
}

func serve(chain, key, clients string) (net.Listener, error) {
	pair, err := tls.X509KeyPair(text(chain), text(key))
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	if clients != "-" {
		config.ClientCAs = pool(clients)
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			link, err := listener.Accept()
			if err != nil {
				return
			}
			go welcome(link)
		}
	}()
	return listener, nil
}

func welcome(link net.Conn) {
	defer link.Close()
	link.SetDeadline(time.Now().Add(60 * time.Second))
	in := bufio.NewReader(link)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if strings.TrimSpace(line) == "" {
			break
		}
	}
	link.Write([]byte(answer))
}
