// What Go makes of JSON, address ranges and addresses: RKE is written in it.
//
// Standard input holds one question a line, the answer is one line each: of JSON its indented
// form in base64, of a range the first address after the network's, of a name its address if it
// is one; "-" where Go refuses.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
)

func indented(text []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return "-"
	}
	if _, err := decoder.Token(); err != io.EOF {
		return "-"
	}
	written, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return "-"
	}
	return base64.StdEncoding.EncodeToString(written)
}

func first(text string) string {
	_, network, err := net.ParseCIDR(text)
	if err != nil {
		return "-"
	}
	address := network.IP
	for at := len(address) - 1; at >= 0; at-- {
		address[at]++
		if address[at] != 0 {
			break
		}
	}
	return address.String()
}

func address(text string) string {
	if parsed := net.ParseIP(text); parsed != nil {
		return parsed.String()
	}
	return "-"
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<26)
	for lines.Scan() {
		switch os.Args[1] {
		case "json":
			fmt.Println(indented(lines.Bytes()))
		case "range":
			fmt.Println(first(lines.Text()))
		case "address":
			fmt.Println(address(lines.Text()))
		}
	}
}
