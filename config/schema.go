package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
)

// Schema is the JSON Schema (draft 2020-12) of a whole configuration file, made
// from the table of keys. It cannot say all that [Load] checks: how long a
// duration may be, and what holds between keys.
func Schema() []byte {
	schema := tree().jsonSchema()
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "usher.yaml"
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("config: the table of keys is no JSON: %v", err)) // it is a constant
	}
	return append(text, '\n')
}

func (s *shape) jsonSchema() map[string]any {
	schema := map[string]any{}
	if s.kind.form == section {
		schema["type"] = []string{"object", "null"}
		s.members(schema)
	}
	maps.Copy(schema, s.kind.schema)
	if s.doc != "" {
		schema["description"] = s.doc
	}
	if s.kind.words != "" {
		schema["description"] = s.doc + " It is " + s.kind.words + "."
	}
	if n, err := strconv.Atoi(s.def); err == nil && s.kind.form == number {
		schema["default"] = n
	} else if s.def != "" {
		schema["default"] = s.def
	}
	return schema
}

func (s *shape) members(schema map[string]any) {
	if s.any != nil {
		schema["propertyNames"] = s.any.kind.names.schema
		schema["additionalProperties"] = s.any.jsonSchema()
		return
	}
	properties := map[string]any{}
	var required []string
	for _, sub := range s.sub {
		properties[sub.name] = sub.jsonSchema()
		if sub.required {
			required = append(required, sub.name)
		}
	}
	schema["properties"] = properties
	schema["additionalProperties"] = false
	if required != nil {
		schema["required"] = required
	}
}
