// Package azure keeps a vault's objects as block blobs of a container in Azure Blob
// Storage.
//
//	azure://ACCOUNT/CONTAINER[/FOLDER][?tier=cool][&credentials=FILE][&endpoint=URL]
//
// The key is the name of the blob, below FOLDER if there is one. tier is hot, cool or
// cold; not archive, since what has to be thawed for hours first restores nothing.
// endpoint is for sovereign clouds and for Azurite, whose URL ends in the account.
//
// # Who we are
//
// A secret never stands in a URL: URLs are logged and shown by ps. The first of these
// that is there is used:
//
//   - the file credentials=FILE, which nobody else may read: one line that is a
//     connection string, a shared access signature or an account key;
//   - AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY;
//   - what azidentity finds: its own variables, a workload or managed identity, az
//     login. This is the one to use in Azure: nothing to keep, nothing to leak.
//
// A process server needs to create and read (roles: a custom one without delete); only
// who prunes needs to delete. No error and no String of this package shows a secret.
//
// # How a Put becomes one
//
// Up to a few MiB go up in one Put Blob; more in blocks, which nobody sees before Put
// Block List. Both carry If-None-Match: *, so the service decides who is first. Azure
// answers when the data is durable as the account's redundancy promises. Bytes are
// checked on their way with a CRC64.
//
// # What is asked of the account
//
// A flat namespace (lists of a hierarchical one come in another order, which is an
// error here). Soft delete and versions may be on: they keep what pruning deletes, for
// as long as they are set to. A time-based immutability policy or a legal hold makes
// Delete return store.ErrKept, and pruning goes on with the rest.
//
// Operations are tried once, with a deadline that grows with the bytes they move;
// store.Retry repeats them.
package azure
