// Package cli is what an operator types: commands over api.Client, and commands
// that need nothing but a vault and its key (vault …, and with --vault also point
// ls and failover test).
//
// Exit codes are an interface: see Code. Errors are one line that says what and
// where, and a line that starts with "try:". Tables are for people; -o json and
// -o yaml follow the documents of package api, each of which names its schema.
// Without a terminal there is no colour, no redrawing and no question.
//
// Every flag can be given as an environment variable: --key-file is
// LEEWARD_KEY_FILE. A key is never a flag. This package decides nothing about
// recovery points or machines, and writes nothing but what it was asked to.
package cli
