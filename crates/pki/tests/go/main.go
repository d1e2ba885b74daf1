// Command oracle is crypto/x509's word on certificates, for comparison with the Rust verifier.
//
// It needs the standard library only. `oracle generate SEED COUNT` writes cases with Go's answers,
// one JSON object a line: first the table of named cases, then COUNT random ones. `oracle answer`
// reads cases from standard input and writes them back with answers.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Case is a question and, once answered, Go's answer.
type Case struct {
	ID string `json:"id"`
	Op string `json:"op"` // verify, parse or pem

	Leaf          []byte   `json:"leaf,omitempty"`
	Intermediates [][]byte `json:"intermediates,omitempty"`
	Roots         [][]byte `json:"roots,omitempty"`
	At            int64    `json:"at,omitempty"`
	Purposes      []string `json:"purposes,omitempty"` // server, client, code, any
	Host          string   `json:"host,omitempty"`

	Data []byte `json:"data,omitempty"` // for parse: DER; for pem: text

	// Answers. Chains are lists of SHA-256 of the certificates, leaf first.
	Chains [][]string `json:"chains"`
	Class  string     `json:"class"`
	Detail string     `json:"detail"`
	Facts  *Facts     `json:"facts,omitempty"`
	Blocks []Block    `json:"blocks,omitempty"`
}

// Facts is what Go reads from a certificate.
type Facts struct {
	Version   int      `json:"version"`
	Serial    string   `json:"serial"`
	Issuer    string   `json:"issuer"`
	Subject   string   `json:"subject"`
	NotBefore int64    `json:"not_before"`
	NotAfter  int64    `json:"not_after"`
	DNS       []string `json:"dns"`
	Emails    []string `json:"emails"`
	IPs       []string `json:"ips"`
	URIs      int      `json:"uris"`
	KeyUsage  int      `json:"key_usage"`
	HasBasic  bool     `json:"has_basic"`
	IsCA      bool     `json:"is_ca"`
	PathLen   int      `json:"path_len"`
	Purposes  int      `json:"purposes"`
	SKI       string   `json:"ski"`
	AKI       string   `json:"aki"`
	Unhandled []string `json:"unhandled"`
	SPKI      string   `json:"spki"`
}

// Block is one PEM block.
type Block struct {
	Label   string `json:"label"`
	Headers bool   `json:"headers"`
	Sum     string `json:"sum"`
}

var purposeNames = map[string]x509.ExtKeyUsage{
	"server": x509.ExtKeyUsageServerAuth,
	"client": x509.ExtKeyUsageClientAuth,
	"code":   x509.ExtKeyUsageCodeSigning,
	"any":    x509.ExtKeyUsageAny,
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func pool(ders [][]byte) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		p.AddCert(c)
	}
	return p, nil
}

func (c *Case) answer() {
	switch c.Op {
	case "verify":
		c.verify()
	case "parse":
		c.parse()
	case "pem":
		rest := c.Data
		for {
			var b *pem.Block
			b, rest = pem.Decode(rest)
			if b == nil {
				break
			}
			c.Blocks = append(c.Blocks, Block{b.Type, len(b.Headers) > 0, sum(b.Bytes)})
		}
	}
}

func (c *Case) verify() {
	leaf, err := x509.ParseCertificate(c.Leaf)
	if err != nil {
		c.Class, c.Detail = "parse", err.Error()
		return
	}
	options := x509.VerifyOptions{DNSName: c.Host, CurrentTime: time.Unix(c.At, 0)}
	if options.Roots, err = pool(c.Roots); err != nil {
		c.Class, c.Detail = "parse", err.Error()
		return
	}
	if options.Intermediates, err = pool(c.Intermediates); err != nil {
		c.Class, c.Detail = "parse", err.Error()
		return
	}
	for _, p := range c.Purposes {
		options.KeyUsages = append(options.KeyUsages, purposeNames[p])
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		c.Class, c.Detail = class(leaf, err), err.Error()
		return
	}
	for _, chain := range chains {
		var sums []string
		for _, x := range chain {
			sums = append(sums, sum(x.Raw))
		}
		c.Chains = append(c.Chains, sums)
	}
}

// class sorts errors as far as Go's own choice is stable: when every candidate fails, it returns
// whichever failed last.
func class(leaf *x509.Certificate, err error) string {
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid):
		switch {
		case invalid.Reason == x509.IncompatibleUsage, invalid.Reason == x509.CANotAuthorizedForThisName:
			return "unusable"
		case bytes.Equal(invalid.Cert.Raw, leaf.Raw) && invalid.Reason == x509.Expired:
			return "leaf"
		}
		return "path"
	case errors.As(err, &x509.HostnameError{}):
		return "host"
	case errors.As(err, &x509.UnhandledCriticalExtension{}) && len(leaf.UnhandledCriticalExtensions) > 0:
		return "leaf"
	case err.Error() == "x509: signature check attempts limit reached while verifying certificate chain":
		return "limit"
	}
	return "path"
}

func (c *Case) parse() {
	x, err := x509.ParseCertificate(c.Data)
	if err != nil {
		c.Class, c.Detail = "parse", err.Error()
		return
	}
	f := &Facts{
		Version: x.Version, Serial: x.SerialNumber.Text(16),
		Issuer: x.Issuer.String(), Subject: x.Subject.String(),
		NotBefore: x.NotBefore.Unix(), NotAfter: x.NotAfter.Unix(),
		DNS: x.DNSNames, Emails: x.EmailAddresses, URIs: len(x.URIs),
		KeyUsage: int(x.KeyUsage), HasBasic: x.BasicConstraintsValid, IsCA: x.IsCA, PathLen: x.MaxPathLen,
		Purposes: len(x.ExtKeyUsage) + len(x.UnknownExtKeyUsage),
		SKI:      hex.EncodeToString(x.SubjectKeyId), AKI: hex.EncodeToString(x.AuthorityKeyId),
		SPKI: sum(x.RawSubjectPublicKeyInfo),
	}
	for _, ip := range x.IPAddresses {
		f.IPs = append(f.IPs, hex.EncodeToString(ip))
	}
	for _, oid := range x.UnhandledCriticalExtensions {
		f.Unhandled = append(f.Unhandled, oid.String())
	}
	c.Facts = f
}

func run() error {
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	emit := func(c *Case) error {
		c.answer()
		return encoder.Encode(c)
	}
	switch {
	case len(os.Args) == 4 && os.Args[1] == "generate":
		seed, err := strconv.ParseInt(os.Args[2], 10, 64)
		if err != nil {
			return err
		}
		count, err := strconv.Atoi(os.Args[3])
		if err != nil {
			return err
		}
		for _, c := range table() {
			if err := emit(c); err != nil {
				return err
			}
		}
		if err := random(seed, count, emit); err != nil {
			return err
		}
	case len(os.Args) == 2 && os.Args[1] == "answer":
		decoder := json.NewDecoder(bufio.NewReader(os.Stdin))
		for decoder.More() {
			c := &Case{}
			if err := decoder.Decode(c); err != nil {
				return err
			}
			if err := emit(c); err != nil {
				return err
			}
		}
	default:
		return errors.New("usage: oracle generate SEED COUNT | oracle answer")
	}
	return out.Flush()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}
