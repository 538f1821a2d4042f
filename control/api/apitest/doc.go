// Package apitest holds the answers of a running control against the schemas of its
// endpoints. It hears what everybody asks and is answered, so a test need only ask. It
// never asks by itself, but for the schemas.
package apitest
