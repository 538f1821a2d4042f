package api

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/streams/trust"
)

// Schemas are made of the Go types themselves, so they cannot say anything else than what
// encoding/json does with them. A request's schema refuses unknown fields, as the endpoint
// does, and leaves it to the endpoint which of the known ones it needs. An answer's lists
// the fields that are always there, and allows others: a later version may add some.

// object is a JSON object; its keys come out sorted, so the text is always the same.
type object = map[string]any

const draft = "https://json-schema.org/draft/2020-12/schema"

// words are the types that are one of some words.
var words = map[reflect.Type][]string{
	reflect.TypeFor[life.Phase]():   strs(life.Phases()),
	reflect.TypeFor[health.Level](): strs([]health.Level{health.NotApplicable, health.Healthy, health.Warning, health.Critical}),
	reflect.TypeFor[CheckResult]():  strs([]CheckResult{Fine, Doubtful, Bad}),
	reflect.TypeFor[trust.Role]():   strs(trust.Roles()),
}

func strs[T ~string](all []T) (out []string) {
	for _, v := range all {
		out = append(out, string(v))
	}
	return out
}

// SchemaOf is the JSON Schema of a document of type t, as answers have them.
func SchemaOf(t reflect.Type) json.RawMessage { return schemaOf(t, false) }

// schemaOf is the schema of a request or an answer of type t.
func schemaOf(t reflect.Type, request bool) json.RawMessage {
	s := &schemer{request: request, defs: object{}, names: map[reflect.Type]string{}}
	for t.Kind() == reflect.Pointer {
		t = t.Elem() // an answer is never null
	}
	o := s.whole(t)
	o["$schema"] = draft
	if len(s.defs) > 0 {
		o["$defs"] = s.defs
	}
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // maps of strings and numbers
	}
	return b
}

// schemer makes one schema.
type schemer struct {
	request bool
	defs    object
	names   map[reflect.Type]string
}

var (
	timeType   = reflect.TypeFor[time.Time]()
	rawType    = reflect.TypeFor[json.RawMessage]()
	spanType   = reflect.TypeFor[time.Duration]()
	textType   = reflect.TypeFor[encoding.TextMarshaler]()
	binaryType = reflect.TypeFor[[]byte]()
)

// of is the schema of a value of type t where it stands in a document.
func (s *schemer) of(t reflect.Type) object {
	if t.Kind() == reflect.Struct && t != timeType && !t.Implements(textType) {
		return object{"$ref": "#/$defs/" + s.define(t)}
	}
	return s.whole(t)
}

// define puts a struct among the definitions, once, and returns its name there.
func (s *schemer) define(t reflect.Type) string {
	if name, ok := s.names[t]; ok {
		return name
	}
	name := typeName(t)
	for n := 2; s.defs[name] != nil; n++ {
		name = fmt.Sprintf("%s-%d", typeName(t), n)
	}
	s.names[t], s.defs[name] = name, object{} // before its fields: it may hold itself
	s.defs[name] = s.whole(t)
	return name
}

// typeName is the name of a type without the path of its package, good in a reference.
func typeName(t reflect.Type) string {
	name := t.String()
	for {
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:strings.LastIndexAny(name[:i], "[,/ ")+1] + name[i+1:]
	}
	return strings.NewReplacer("[", "-of-", "]", "", ",", "-", " ", "").Replace(name)
}

// whole is the schema of t without a reference.
func (s *schemer) whole(t reflect.Type) object {
	if w := words[t]; w != nil && !s.request {
		return object{"type": "string", "enum": w}
	}
	switch {
	case t == timeType:
		return object{"type": "string", "format": "date-time"}
	case t == rawType:
		return object{}
	case t == spanType:
		return object{"type": "integer", "description": "nanoseconds"}
	case t == binaryType:
		return object{"type": []string{"string", "null"}, "contentEncoding": "base64"}
	case t.Implements(textType):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Pointer:
		return object{"anyOf": []object{s.of(t.Elem()), {"type": "null"}}}
	case reflect.Slice:
		return object{"type": []string{"array", "null"}, "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": []string{"object", "null"}, "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		return s.structure(t)
	}
	panic(fmt.Sprintf("a document has a %s, which no schema can be made of", t))
}

// structure is the schema of a struct's fields.
func (s *schemer) structure(t reflect.Type) object {
	fields, always := object{}, []string{}
	s.fields(t, fields, &always)
	o := object{"type": "object", "properties": fields}
	if s.request {
		o["additionalProperties"] = false
	} else if len(always) > 0 {
		slices.Sort(always)
		o["required"] = always
	}
	return o
}

func (s *schemer) fields(t reflect.Type, fields object, always *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, more, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" { // encoding/json takes its fields for its own
			e := f.Type
			for e.Kind() == reflect.Pointer {
				e = e.Elem()
			}
			s.fields(e, fields, always)
			continue
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		optional := strings.Contains(more, "omit")
		fields[tag] = s.field(f.Type, optional)
		if !optional {
			*always = append(*always, tag)
		}
	}
}

// field is the schema of a field. What is left out when it is empty is not null when it is
// there; a request may say null for anything.
func (s *schemer) field(t reflect.Type, optional bool) object {
	if optional && !s.request {
		if t.Kind() == reflect.Pointer {
			return s.of(t.Elem())
		}
		o := s.of(t)
		if kinds, ok := o["type"].([]string); ok {
			o["type"] = kinds[0]
		}
		return o
	}
	return s.of(t)
}
