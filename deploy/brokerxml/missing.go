package brokerxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Missing lists what one XML has and another lacks, each as the path to an element with
// its attributes. Comments, spaces and the order of attributes do not matter, nor what
// the other has besides.
func Missing(want, have []byte) ([]string, error) {
	wanted, err := elements(want)
	if err != nil {
		return nil, err
	}
	there, err := elements(have)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, e := range wanted {
		if i := slices.IndexFunc(there, e.within); i >= 0 {
			there = slices.Delete(there, i, i+1) // what is wanted twice has to be there twice
			continue
		}
		missing = append(missing, e.String())
	}
	return missing, nil
}

// flat is an element with the names of those around it.
type flat struct {
	path  string
	attrs []string // name="value", sorted
}

func (e flat) String() string {
	name := e.path[strings.LastIndexByte(e.path, '/')+1:]
	return "<" + strings.Join(append([]string{name}, e.attrs...), " ") + ">"
}

// within says whether the other is this element, with at least its attributes.
func (e flat) within(other flat) bool {
	return e.path == other.path && !slices.ContainsFunc(e.attrs, func(a string) bool { return !slices.Contains(other.attrs, a) })
}

// elements lists all of a document's.
func elements(text []byte) (all []flat, err error) {
	decoder := xml.NewDecoder(bytes.NewReader(text))
	var path []string
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("brokerxml: %w", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			path = append(path, token.Name.Local)
			e := flat{path: "/" + strings.Join(path, "/")}
			for _, a := range token.Attr {
				if a.Name.Local != "xmlns" && a.Name.Space != "xmlns" {
					e.attrs = append(e.attrs, fmt.Sprintf("%s=%q", a.Name.Local, a.Value))
				}
			}
			slices.Sort(e.attrs)
			all = append(all, e)
		case xml.EndElement:
			path = path[:len(path)-1]
		}
	}
}
