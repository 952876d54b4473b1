// Go's net/http over TLS against BASE, which the authority in the PEM file CA has signed; prints
// what it saw, a line each: HTTP/1.1 in TLS 1.2, HTTP/2 in 1.3.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	base := os.Args[1]
	pem, err := os.ReadFile(os.Args[2])
	check(err)
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		transport := &http.Transport{ForceAttemptHTTP2: version == tls.VersionTLS13, TLSClientConfig: &tls.Config{
			RootCAs:            trusted,
			MinVersion:         version,
			MaxVersion:         version,
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
		}}
		client := &http.Client{Transport: transport}
		for i := 0; i < 6; i++ {
			if i == 3 {
				transport.CloseIdleConnections()
			}
			answer, err := client.Get(base + "page")
			check(err)
			body, err := io.ReadAll(answer.Body)
			check(err)
			answer.Body.Close()
			fmt.Println(tls.VersionName(answer.TLS.Version), "GET", answer.StatusCode, len(body),
				answer.Proto, answer.TLS.DidResume)
		}
		sent := bytes.Repeat([]byte("g"), 1<<20)
		answer, err := client.Post(base+"echo", "application/octet-stream", bytes.NewReader(sent))
		check(err)
		body, err := io.ReadAll(answer.Body)
		check(err)
		answer.Body.Close()
		fmt.Println(tls.VersionName(version), "POST", answer.StatusCode, bytes.Equal(body, sent))
	}
}
