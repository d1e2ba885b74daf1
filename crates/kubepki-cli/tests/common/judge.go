// Judges leaves as Kubernetes would. Each line of standard input is a question:
//
//	pair CRT KEY CA PURPOSE       a leaf with its chain, its key, the bundle that it is held to
//	kubeconfig FILE CLIENTCA      the pair that a kubeconfig inlines
//	listener FILE SERVERCA        the pair in dynamic-cert.json, and its annotations
//
// Each question that cannot be answered with yes is answered with a line; silence is consent.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

var purposes = map[string][]x509.ExtKeyUsage{
	"client": {x509.ExtKeyUsageClientAuth},
	"server": {x509.ExtKeyUsageServerAuth},
	"both":   {x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	asked, failed := 0, 0
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		asked++
		if err := answer(words); err != nil {
			failed++
			fmt.Printf("%s: %v\n", strings.Join(words, " "), err)
		}
	}
	fmt.Printf("asked %d, failed %d\n", asked, failed)
	if failed > 0 || asked == 0 {
		os.Exit(1)
	}
}

func answer(words []string) error {
	switch words[0] {
	case "pair":
		chain, err := os.ReadFile(words[1])
		if err != nil {
			return err
		}
		key, err := os.ReadFile(words[2])
		if err != nil {
			return err
		}
		_, err = judge(chain, key, words[3], words[4])
		return err
	case "kubeconfig":
		return kubeconfig(words[1], words[2])
	case "listener":
		return listener(words[1], words[2])
	}
	return fmt.Errorf("unknown question")
}

func judge(chain, key []byte, bundle, purpose string) (*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(bundle)
	if err != nil {
		return nil, err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", bundle)
	}
	for _, der := range pair.Certificate[1:] {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		between.AddCert(certificate)
	}
	// Go asks for one purpose of a list; a certificate for both is held to each.
	for _, usage := range purposes[purpose] {
		options := x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := leaf.Verify(options); err != nil {
			return nil, err
		}
	}
	if len(leaf.ExtKeyUsage) != len(purposes[purpose]) || len(leaf.UnknownExtKeyUsage) != 0 {
		return nil, fmt.Errorf("extended key usages %v", leaf.ExtKeyUsage)
	}
	if leaf.IsCA || leaf.SerialNumber.Sign() <= 0 {
		return nil, fmt.Errorf("not a leaf with a positive serial number")
	}
	return leaf, nil
}

func kubeconfig(path, bundle string) error {
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	value := func(name string) ([]byte, error) {
		for _, line := range strings.Split(string(file), "\n") {
			// CutPrefix is younger than the Go of Debian 12.
			if line = strings.TrimSpace(line); strings.HasPrefix(line, name+":") {
				rest := strings.TrimPrefix(line, name+":")
				return base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
			}
		}
		return nil, fmt.Errorf("no %s", name)
	}
	chain, err := value("client-certificate-data")
	if err != nil {
		return err
	}
	key, err := value("client-key-data")
	if err != nil {
		return err
	}
	_, err = judge(chain, key, bundle, "client")
	return err
}

func listener(path, bundle string) error {
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var secret struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Data map[string][]byte `json:"data"`
	}
	if err := json.NewDecoder(bytes.NewReader(file)).Decode(&secret); err != nil {
		return err
	}
	leaf, err := judge(secret.Data["tls.crt"], secret.Data["tls.key"], bundle, "server")
	if err != nil {
		return err
	}
	fingerprint := fmt.Sprintf("SHA1=%X", sha1.Sum(leaf.Raw))
	if found := secret.Metadata.Annotations["listener.cattle.io/fingerprint"]; found != fingerprint {
		return fmt.Errorf("fingerprint %s, annotated %s", fingerprint, found)
	}
	carried := append([]string{}, leaf.DNSNames...)
	for _, address := range leaf.IPAddresses {
		carried = append(carried, address.String())
	}
	annotated := []string{}
	for key, name := range secret.Metadata.Annotations {
		if strings.HasPrefix(key, "listener.cattle.io/cn-") {
			annotated = append(annotated, name)
		}
	}
	sort.Strings(carried)
	sort.Strings(annotated)
	if fmt.Sprint(carried) != fmt.Sprint(annotated) {
		return fmt.Errorf("carries %v, annotated are %v", carried, annotated)
	}
	return nil
}
