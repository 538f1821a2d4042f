// Package entropy guesses from a sample whether bytes can be compressed, for a tenth of
// what trying would cost. It never compresses anything.
package entropy
