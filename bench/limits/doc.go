// Package limits measures what this machine can do at best, in the same run as
// everything else, so that figures can be given as shares of it: disk, compression,
// encryption, hashing, and JetStream without anything around it.
//
// Rates are in bytes a second of input. Nothing here is a constant of the product
// except the shapes that make it comparable: frames, block size, message size.
package limits
