// An instance of HTTP/2 in clear text on Go's net/http: h2_server PORT
package main

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

func serve(answer http.ResponseWriter, request *http.Request) {
	switch {
	case strings.HasSuffix(request.URL.Path, "/echo"):
		io.Copy(answer, request.Body)
	case strings.HasSuffix(request.URL.Path, "/large"):
		answer.Write(bytes.Repeat([]byte("large"), 4<<20/5+1)[:4<<20])
	case strings.HasSuffix(request.URL.Path, "/trailers"):
		answer.Header().Set("Link", "</a>")
		answer.WriteHeader(http.StatusEarlyHints)
		answer.Header().Set("Trailer", "X-Te")
		io.WriteString(answer, "page")
		http.NewResponseController(answer).Flush() // Or there would be a length as well.
		te := request.Header.Get("Te")
		if te == "" {
			te = "none"
		}
		answer.Header().Set("X-Te", te)
	default:
		answer.Header().Add("Set-Cookie", "a=1")
		answer.Header().Add("Set-Cookie", "b=2")
		io.WriteString(answer, "page")
	}
}

func main() {
	server := http.Server{Addr: "127.0.0.1:" + os.Args[1], Handler: http.HandlerFunc(serve)}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(server.ListenAndServe())
}
