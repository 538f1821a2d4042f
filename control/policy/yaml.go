package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// Schema names the document of Export.
const Schema = "leeward.policies.v1"

// Document is what Export writes: all policies and groups.
type Document struct {
	Schema   string   `json:"schema" yaml:"schema"`
	Policies []Policy `json:"policies" yaml:"policies"`
	Groups   []Group  `json:"groups" yaml:"groups"`
}

// maxDocument bounds what is parsed.
const maxDocument = 1 << 20

// Parse reads a document of Export, strictly: an unknown field is an error with its
// line. What a policy does not say is as in New.
func Parse(b []byte) (*Document, error) {
	var raw struct {
		Schema   string      `yaml:"schema"`
		Policies []yaml.Node `yaml:"policies"`
		Groups   []Group     `yaml:"groups"`
	}
	if err := Strict(b, &raw); err != nil {
		return nil, err
	}
	if raw.Schema != Schema {
		return nil, fmt.Errorf("schema is %q: write schema: %s", raw.Schema, Schema)
	}
	d := &Document{Schema: Schema, Groups: raw.Groups}
	for i := range raw.Policies {
		p := New("")
		text, err := yaml.Marshal(&raw.Policies[i])
		if err == nil {
			err = Strict(text, &p)
		}
		if err != nil {
			return nil, fmt.Errorf("policy at line %d: %w", raw.Policies[i].Line, err)
		}
		d.Policies = append(d.Policies, p)
	}
	return d, d.Validate()
}

// Validate checks the whole document.
func (d *Document) Validate() error {
	names := map[string]bool{}
	for i := range d.Policies {
		if err := d.Policies[i].Validate(); err != nil {
			return err
		}
		if names[d.Policies[i].Name] {
			return fmt.Errorf("there are two policies %s", d.Policies[i].Name)
		}
		names[d.Policies[i].Name] = true
	}
	names = map[string]bool{}
	for i := range d.Groups {
		if err := d.Groups[i].Validate(); err != nil {
			return err
		}
		if names[d.Groups[i].Name] {
			return fmt.Errorf("there are two groups %s", d.Groups[i].Name)
		}
		names[d.Groups[i].Name] = true
	}
	return errors.Join(Check(d.Policies), CheckGroups(d.Groups))
}

// Export writes the document as YAML.
func Export(d *Document) ([]byte, error) {
	d.Schema = Schema
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(d); err != nil {
		return nil, fmt.Errorf("write policies: %w", err)
	}
	return b.Bytes(), e.Close()
}

// Strict reads one YAML document and refuses fields that v has not.
func Strict(b []byte, v any) error {
	if len(b) > maxDocument {
		return fmt.Errorf("the document has %d bytes, at most %d", len(b), maxDocument)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("the document is empty")
		}
		return err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one document: keep one")
	}
	return nil
}
