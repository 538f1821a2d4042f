// Package armtest is as much of Azure as the tests of the azure target need: a cloud in
// memory behind Microsoft's own fakes of the compute interface and a few answers by hand
// for networks, over page blobs of a real Azurite.
//
// The fakes check nothing; the cloud does. A disk for upload goes from ReadyToUpload over
// ActiveUpload to Unattached and Attached and by no other way, takes bytes only while it
// is open, and cannot be opened twice. That of a machine which is deallocated is Reserved, can be
// opened for reading (ActiveSAS), and must be closed before the machine starts. What is in use cannot be removed. Names that are
// not there answer 404.
//
// Every request, of the resource manager and of blobs, goes through one switch: a test can
// make any of them fail, lose its answer, or be the last before the process dies.
//
// It is for tests only. That something passes here says nothing of quotas, of times, or
// of what Azure's own checks would find.
package armtest
