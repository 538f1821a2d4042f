// Package stages says what part of the way from a disk to the vault used how much
// processor time.
//
// It reads the CPU profile that Go's runtime writes (the pprof format: a gzipped
// protocol buffer) and gives each sample to the first stage that one of its functions
// belongs to, from the leaf upwards. It never measures anything itself, and knows no
// more of the product than the names of its packages.
package stages
