package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/streams/trust"
)

// Contract says what an endpoint takes and answers. Schema "leeward.endpoint.v1". Its
// schemas are JSON Schema 2020-12; lists of endpoints leave them out.
type Contract struct {
	Schema   string          `json:"schema,omitempty"`
	Name     string          `json:"name"`    // like machine.ls
	Subject  string          `json:"subject"` // on the bus
	Role     trust.Role      `json:"role"`    // the least that may ask
	Changes  bool            `json:"changes"` // it changes something, so it is in the audit trail
	Document string          `json:"document,omitempty"`
	Digest   string          `json:"sha256"` // of request and response
	Request  json.RawMessage `json:"request,omitempty"`
	Response json.RawMessage `json:"response,omitempty"`
}

// people are the roles of people, the least first.
var people = []trust.Role{trust.Viewer, trust.Tester, trust.Operator, trust.Admin}

// Least is the least role that may ask an endpoint, named like machine.ls.
func Least(name string) trust.Role {
	for _, r := range people {
		if trust.MayPublish(r, Prefix+"."+name) {
			return r
		}
	}
	return trust.Admin
}

// Suffices reports whether a role may ask an endpoint; a role that is none of people's may
// ask nothing.
func Suffices(r trust.Role, name string) bool {
	i := slices.Index(people, r)
	return i >= 0 && i >= slices.Index(people, Least(name))
}

func (e *endpoint) name() string {
	if e.trusted {
		return e.noun + "." + e.verb + trustedVerb
	}
	return e.noun + "." + e.verb
}

// contract describes e. That it can be encoded is for the tests to see: it is the same
// for every process of a version.
func (e *endpoint) contract() Contract {
	c := Contract{
		Name: e.name(), Subject: Prefix + "." + e.name(), Role: Least(e.name()), Changes: e.changes(), Document: e.document,
		Request: schemaOf(e.in, true), Response: schemaOf(e.out, false),
	}
	h := sha256.New()
	h.Write(c.Request)
	h.Write(c.Response)
	c.Digest = fmt.Sprintf("%x", h.Sum(nil))
	return c
}

// metadata is what `nats micro info` shows of e. The schemas themselves would make the
// service's answer larger than a message may be: they are to be asked for.
func (e *endpoint) metadata() map[string]string {
	c := e.contract()
	m := map[string]string{
		"role": string(c.Role), "changes": fmt.Sprint(c.Changes), "schema_sha256": c.Digest,
		"schema": Prefix + `.schema.show {"id":"` + c.Name + `"}`,
	}
	if c.Document != "" {
		m["document"] = c.Document
	}
	return m
}

func (s *Server) contracts() []endpoint {
	return []endpoint{
		list("schema", "ls", "leeward.endpoints.v1", func(context.Context, Query) ([]Contract, error) { return contractsOf(s.all()), nil }),
		named("schema", "show", "leeward.endpoint.v1", func(_ context.Context, name string) (*Contract, error) { return find(s.all(), name) }),
	}
}

func contractsOf(all []endpoint) []Contract {
	out := []Contract{}
	for i := range all {
		c := all[i].contract()
		c.Request, c.Response = nil, nil
		out = append(out, c)
	}
	return out
}

func find(all []endpoint, name string) (*Contract, error) {
	for i := range all {
		if all[i].name() == name {
			c := all[i].contract()
			c.Schema = "leeward.endpoint.v1"
			return &c, nil
		}
	}
	return nil, Errorf(CodeNotFound, "leeward api schema", "there is no endpoint %s", name)
}

// Contracts lists what the endpoints of this version are, without their schemas. It asks
// nobody.
func Contracts() []Contract { return contractsOf(offline().all()) }

// ContractOf is what an endpoint of this version is. It asks nobody.
func ContractOf(name string) (*Contract, error) { return find(offline().all(), name) }

// offline is a server whose endpoints are only looked at.
func offline() *Server { return &Server{backend: nobody{}} }

// nobody is a Backend whose methods exist and are never called.
type nobody struct{ Backend }

// Contracts lists the endpoints of the control that answers.
func (c *Client) Contracts(ctx context.Context) ([]Contract, error) {
	return all[Contract](ctx, c, "schema.ls", Query{})
}

// Contract asks for the schemas of one endpoint.
func (c *Client) Contract(ctx context.Context, name string) (*Contract, error) {
	return call[Contract](ctx, c, "schema.show", Ref{ID: name})
}
