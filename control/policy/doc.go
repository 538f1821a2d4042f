// Package policy says how machines and groups are protected: what RPO is promised,
// how often points are cut, how long they are kept, how much bandwidth may be used,
// and how changes are captured and compressed.
//
// A policy is a document that operators write as YAML or JSON; unknown fields are
// refused with their line. The policy named "default" holds for everything that no
// other names; of the others one may name a machine, one a group, and a machine's
// goes before its group's.
//
// It also owns the words for groups. It is pure: package control keeps the documents
// and makes agents follow them.
package policy
