// A web server that says hello, and with -check asks itself whether it does.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "-check" {
		answer, err := http.Get("http://localhost:8080/")
		if err != nil || answer.StatusCode != http.StatusOK {
			log.Fatal(answer, err)
		}
		return
	}
	http.HandleFunc("/", func(writer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(writer, "hello from user %d\n", os.Getuid())
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
