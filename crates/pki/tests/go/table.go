package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

// table is the named cases: what Kubernetes PKIs run into, and what verifiers disagree about.
func table() (cases []*Case) {
	add := func(id string, leaf *spec, intermediates, roots []*spec, change ...func(*Case)) {
		c := &Case{ID: id, Op: "verify", Leaf: leaf.make(), At: now}
		for _, s := range intermediates {
			c.Intermediates = append(c.Intermediates, s.make())
		}
		for _, s := range roots {
			c.Roots = append(c.Roots, s.make())
		}
		for _, f := range change {
			f(c)
		}
		cases = append(cases, c)
	}
	basics(add)
	purposesAndNames(add)
	crossings(add)
	constraintCases(add)
	algorithms(add)
	limits(add)
	return cases
}

type adder func(id string, leaf *spec, intermediates, roots []*spec, change ...func(*Case))

func list(specs ...*spec) []*spec { return specs }

func purposes(p ...string) func(*Case) { return func(c *Case) { c.Purposes = p } }

func host(h string) func(*Case) { return func(c *Case) { c.Host = h } }

func at(days int64) func(*Case) { return func(c *Case) { c.At = now + days*day } }

func with(s *spec, change func(*spec)) *spec {
	copied := *s
	copied.der = nil
	change(&copied)
	return &copied
}

func basics(add adder) {
	r := root("root")
	i := below(r, "intermediate")
	l := leaf(i, "a.example")
	direct := leaf(r, "a.example")
	add("direct", direct, nil, list(r))
	add("intermediate", l, list(i), list(r))
	add("intermediate missing", l, nil, list(r))
	add("no roots", l, list(i), nil)
	add("intermediate as root", l, nil, list(i))
	add("root among intermediates only", l, list(i, r), nil)
	add("leaf expired", leafFor(i, -20, -10), list(i), list(r))
	add("leaf in the future", leafFor(i, 10, 20), list(i), list(r))
	oldRoot := with(r, func(s *spec) { s.from, s.to = -20, -10 })
	add("root expired", leaf(oldRoot), nil, list(oldRoot))
	add("root in the future", direct, nil, list(with(r, func(s *spec) { s.from, s.to = 10, 20 })))
	add("intermediate expired", l, list(with(i, func(s *spec) { s.from, s.to = -20, -10 })), list(r))
	add("one of two intermediates expired", l, list(with(i, func(s *spec) { s.from, s.to = -20, -10 }), i), list(r))
	noSign := x509.KeyUsageDigitalSignature
	add("intermediate without keyCertSign", l, list(with(i, func(s *spec) { s.usage = noSign })), list(r))
	add("root without keyCertSign", direct, nil, list(with(r, func(s *spec) { s.usage = noSign })))
	add("intermediate without key usage", l, list(with(i, func(s *spec) { s.usage = 0 })), list(r))
	add("intermediate without basic constraints", l, list(with(i, func(s *spec) { s.ca = "" })), list(r))
	add("root without basic constraints", direct, nil, list(with(r, func(s *spec) { s.ca = "" })))
	add("intermediate that is no CA", l, list(with(i, func(s *spec) { s.ca = "false" })), list(r))
	add("root that is no CA", direct, nil, list(with(r, func(s *spec) { s.ca = "false" })))
	add("path length kept", l, list(i), list(with(r, func(s *spec) { s.pathLen = 1 })))
	add("path length exceeded", l, list(i), list(with(r, func(s *spec) { s.pathLen = 0 })))
	selfIssued := below(i, "intermediate")
	add("path length counts self-issued", leaf(selfIssued), list(i, selfIssued), list(with(r, func(s *spec) { s.pathLen = 1 })))
	critical := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}}
	add("unknown critical in leaf", with(l, func(s *spec) { s.extra = critical }), list(i), list(r))
	add("unknown critical in intermediate", l, list(with(i, func(s *spec) { s.extra = critical })), list(r))
	add("unknown critical in root", direct, nil, list(with(r, func(s *spec) { s.extra = critical })))
	add("CA itself: root", r, nil, list(r))
	add("CA itself: intermediate", i, nil, list(r))
	self := with(l, func(s *spec) { s.issuer, s.aki = nil, nil })
	add("self-signed leaf as its own root", self, nil, list(self), host("a.example"))
	add("self-signed leaf, other root", self, nil, list(r))
	add("forged", with(direct, func(s *spec) { s.signer = newKey() }), nil, list(r))
	add("same name, other key", direct, nil, list(root("root")))
	add("same name, both keys", direct, nil, list(root("root"), r, root("root")))
	add("wrong key identifier is a hint", with(direct, func(s *spec) { s.aki = []byte{1, 2, 3} }), nil, list(r))
	add("no key identifier", with(direct, func(s *spec) { s.aki = nil }), nil, list(r))
	printable, utf8 := []byte("0\x0f1\r0\v\x06\x03U\x04\x03\x13\x04root"), []byte("0\x0f1\r0\v\x06\x03U\x04\x03\x0c\x04root")
	add("name in another string type", leaf(with(r, func(s *spec) { s.rawSubject = utf8 })), nil,
		list(with(r, func(s *spec) { s.rawSubject = printable })))
}

func leafFor(issuer *spec, from, to int64) *spec {
	return with(leaf(issuer, "a.example"), func(s *spec) { s.from, s.to = from, to })
}

func purposesAndNames(add adder) {
	r := root("root")
	eku := func(s *spec, p ...x509.ExtKeyUsage) *spec {
		return with(s, func(s *spec) { s.purposes = p })
	}
	server, client, any := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageAny
	l := leaf(r, "a.example", "*.w.example", "a_b.example", "10.0.0.1", "::1")
	for name, s := range map[string]*spec{
		"none": eku(l), "server": l, "client": eku(l, client), "any": eku(l, any), "both": eku(l, client, server),
	} {
		for _, p := range []string{"", "server", "client", "any", "code"} {
			change := purposes(p)
			if p == "" {
				change = purposes()
			}
			add(fmt.Sprintf("purpose %s wanted %q", name, p), s, nil, list(r), change)
		}
	}
	for name, p := range map[string]x509.ExtKeyUsage{"server": server, "client": client, "any": any} {
		i := eku(below(r, "intermediate"), p)
		add("purpose nested in "+name, leaf(i), list(i), list(r))
		root := eku(r, p)
		add("purpose nested in root of "+name, leaf(root), nil, list(root), purposes("server", "client"))
	}
	for _, h := range []string{
		"a.example", "A.EXAMPLE", "a.example.", "b.example", "x.w.example", "x.y.w.example", "w.example", "*.w.example",
		"a_b.example", "10.0.0.1", "[10.0.0.1]", "10.0.0.2", "::1", "[::1]", "::ffff:10.0.0.1", "0:0::1", "leaf", ".", "",
		"[]", "010.0.0.1", "::1%lo", "*",
	} {
		add("host "+h, l, nil, list(r), host(h))
	}
	add("host address as DNS name", with(l, func(s *spec) {
		s.names = nil
		s.extra = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte("0\x0a\x82\x0810.0.0.1")}}
	}), nil, list(r), host("10.0.0.1"))
	add("host in common name only", with(l, func(s *spec) { s.names = nil }), nil, list(r), host("leaf"))
}

func crossings(add adder) {
	old, fresh := root("k3s-server-ca@1"), root("k3s-server-ca@2")
	x := cross(fresh, old)
	l := leaf(fresh, "a.example")
	add("cross: old root only", l, list(x), list(old))
	add("cross: new root only", l, list(x), list(fresh))
	add("cross: both roots", l, list(x), list(old, fresh))
	add("cross: both roots, other order", l, list(x), list(fresh, old))
	add("cross: everything everywhere", l, list(x, fresh, old), list(old, fresh, x))
	add("cross: expired old root", l, list(x), list(with(old, func(s *spec) { s.from, s.to = -20, -10 }), fresh))
	add("cross: CA itself", x, nil, list(old))
	add("cross: CA itself over the new root", x, nil, list(fresh))
	add("cross: new root itself over the old one", fresh, list(x), list(old))
	same, other := root("ca"), root("ca")
	mutual, back := cross(same, other), cross(other, same)
	add("mutual cross of the same name", leaf(same), list(mutual, back, other), list(same, other))
	add("mutual cross, far root", leaf(same), list(mutual, back), list(other))
	i := below(old, "intermediate")
	add("k3s order", leaf(i), list(i, fresh, x, old), list(old))
	add("k3s order, new root", leaf(below(fresh, "intermediate")), list(x, fresh, old), list(fresh))
	// One CA three times: the order of the paths follows the key identifiers.
	twins := func(of *spec) []*spec {
		return list(with(of, func(s *spec) { s.ski = []byte{9} }), with(of, func(s *spec) { s.ski = nil }), of)
	}
	ordered := twins(fresh)
	add("twins as roots", l, nil, ordered)
	add("twins as roots, backwards", l, nil, list(ordered[2], ordered[1], ordered[0]))
	add("twins without a wanted identifier", with(l, func(s *spec) { s.aki = nil }), nil, ordered)
	add("twins as intermediates", l, twins(x), list(old))
	named := with(x, func(s *spec) { s.names = []string{"ca.example"} })
	add("cross with an alternative name", l, list(named, x, fresh), list(old, fresh))
}

func constraintCases(add adder) {
	type set = constraintSet
	for n, c := range []struct {
		permit, exclude set
		names           []string
	}{
		{set{dns: []string{"example"}}, set{}, []string{"a.example"}},
		{set{dns: []string{"example"}}, set{}, []string{"a.other"}},
		{set{dns: []string{"example"}}, set{}, []string{"aexample"}},
		{set{dns: []string{".example"}}, set{}, []string{"example"}},
		{set{dns: []string{".example"}}, set{}, []string{"a.EXAMPLE"}},
		{set{dns: []string{"example"}}, set{}, []string{"10.0.0.1"}},
		{set{dns: []string{"example"}}, set{}, nil},
		{set{dns: []string{"example"}}, set{}, []string{"*.example"}},
		{set{}, set{dns: []string{"a.example"}}, []string{"*.example"}},
		{set{}, set{dns: []string{"b.a.example"}}, []string{"*.example"}},
		{set{}, set{dns: []string{".a.example"}}, []string{"*.a.example", "*.example"}},
		{set{}, set{dns: []string{""}}, []string{"a.example"}},
		{set{dns: []string{"example", "other"}}, set{dns: []string{"x.example"}}, []string{"a.other", "x.example"}},
		{set{dns: []string{"a.com", "a-a.com", "a.a.com"}}, set{}, []string{"b.a.a.com", "b.a-a.com"}},
		{set{ips: []string{"10.0.0.0/8"}}, set{}, []string{"10.1.2.3"}},
		{set{ips: []string{"10.0.0.0/8"}}, set{}, []string{"11.1.2.3"}},
		{set{ips: []string{"10.0.0.0/8"}}, set{}, []string{"fd00::1"}},
		{set{ips: []string{"fd00::/8"}}, set{}, []string{"fd00::1"}},
		{set{ips: []string{"10.0.0.0/8", "fd00::/8"}}, set{ips: []string{"10.1.0.0/16"}}, []string{"10.1.0.1"}},
		{set{}, set{ips: []string{"0.0.0.0/0"}}, []string{"1.2.3.4"}},
		{set{}, set{ips: []string{"::/0"}}, []string{"1.2.3.4"}},
		{set{emails: []string{"example"}}, set{}, []string{"a@example"}},
		{set{emails: []string{"example"}}, set{}, []string{"a@b.example"}},
		{set{emails: []string{".example"}}, set{}, []string{"a@example"}},
		{set{emails: []string{"a@example"}}, set{}, []string{"a@EXAMPLE"}},
		{set{emails: []string{"a@example"}}, set{}, []string{"b@example"}},
		{set{}, set{emails: []string{"a@example"}}, []string{"A@example"}},
		{set{dns: []string{"example"}}, set{}, []string{"nonsense@"}},
		{set{uris: []string{"example"}}, set{}, []string{"spiffe://example/a"}},
		{set{uris: []string{"example"}}, set{}, []string{"https://u@a.example:443/x"}},
		{set{uris: []string{"example"}}, set{}, []string{"https://10.0.0.1/x"}},
		{set{dns: []string{"example"}}, set{}, []string{"urn:uuid:1"}},
		{set{dns: []string{"example"}}, set{}, []string{"a.example", "https://a:99/"}},
		{set{}, set{uris: []string{".example"}}, []string{"https://a.example/"}},
	} {
		r := root("root")
		r.permit, r.exclude = c.permit, c.exclude
		i := below(r, "intermediate")
		add(fmt.Sprintf("constraints %d in the root", n), leaf(i, c.names...), list(i), list(r))
		add(fmt.Sprintf("constraints %d, on an intermediate's names", n), leaf(with(i, func(s *spec) { s.names = c.names })),
			list(with(i, func(s *spec) { s.names = c.names })), list(r))
	}
	// ::ffff:10.0.0.1 in 16 octets, which Go itself would write in 4.
	mapped := []byte{0x30, 18, 0x87, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1}
	for _, network := range []string{"10.0.0.0/8", "::/0", "::ffff:0:0/96", "::ffff:a00:0/104", "fd00::/8"} {
		for _, exclude := range []bool{false, true} {
			r := root("root")
			if exclude {
				r.exclude.ips = []string{network}
			} else {
				r.permit.ips = []string{network}
			}
			s := with(leaf(r), func(s *spec) {
				s.extra = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: mapped}}
			})
			add(fmt.Sprintf("mapped address, %s excluded %v", network, exclude), s, nil, list(r), host("10.0.0.1"))
		}
	}
	l := leaf(root("root"), "a.other")
	l.issuer, l.permit = nil, constraintSet{dns: []string{"example"}}
	add("constraints of the leaf on itself", l, nil, list(l))
}

func algorithms(add adder) {
	for _, bits := range []int{1024, 2048} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		r := root("root")
		r.key = key
		for _, a := range []x509.SignatureAlgorithm{
			x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
			x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		} {
			if bits == 1024 && a == x509.SHA512WithRSAPSS {
				continue // The salt does not fit.
			}
			add(fmt.Sprintf("RSA %d %v", bits, a), with(leaf(r), func(s *spec) { s.algorithm = a }), nil, list(r))
		}
	}
	r := root("root")
	for _, a := range []x509.SignatureAlgorithm{x509.ECDSAWithSHA384, x509.ECDSAWithSHA512} {
		add(fmt.Sprintf("P-256 %v", a), with(leaf(r), func(s *spec) { s.algorithm = a }), nil, list(r))
	}
	odd(add)
}

func limits(add adder) {
	crowd := func(count int) []*spec {
		var found []*spec
		for n := 0; n < count; n++ {
			found = append(found, root("root"))
		}
		return found
	}
	r := root("root")
	l := with(leaf(r), func(s *spec) { s.aki = nil })
	add("99 strangers, then the root", l, nil, append(crowd(99), r))
	add("100 strangers, then the root", l, nil, append(crowd(100), r))
	add("strangers as intermediates", l, crowd(100), list(r))
	// Eight same-named CAs that all sign each other: paths without end.
	var ring []*spec
	for n := 0; n < 8; n++ {
		ring = append(ring, root("ring"))
	}
	var all []*spec
	for _, a := range ring {
		for _, b := range ring {
			if a != b {
				all = append(all, cross(a, b))
			}
		}
	}
	add("ring without root", leaf(ring[0]), all, list(r))
	add("ring with root", leaf(ring[0]), all, list(ring[7]))
}
