// Package producers holds the write side of the streams: whoever has disk bytes
// to protect (an agent, the bench, a failback) publishes them through the packages
// below. It has no code of its own.
//
//	producers/blocks   frames of changed blocks, compressed, chained, published
//	producers/markers  consistency markers of a group
package producers
