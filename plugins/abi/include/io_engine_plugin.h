/* Plugins of io-engine: the binary contract. Generated from plugins/abi; what the calls mean is in
 docs/plugin-abi.md. Needs C11 and a 64-bit system with the System V ABI. */
#ifndef IO_ENGINE_PLUGIN_H
#define IO_ENGINE_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

// Type of the note.
#define IOE_NOTE_TYPE 1

// First eight bytes of the descriptor: `IOEPLUGN`, as a little-endian number.
#define IOE_MAGIC 5640570844557430601

// Stamps a descriptor has room for.
#define IOE_STAMPS_MAX 24

// Major version: differs, and a plugin is refused.
#define IOE_ABI_MAJOR 1

// Minor version: grows when something is appended.
#define IOE_ABI_MINOR 1

// Both, as tables carry them.
#define IOE_ABI_VERSION 65537

// Done, without an error.
#define IOE_OK 0

// Begun; completes later.
#define IOE_PENDING 1

// The range is not on the device.
#define IOE_OUT_OF_RANGE 2

// No room on the device, or on what it stands on.
#define IOE_NO_SPACE 3

// Blocks could not be read or written; which, is in the detail.
#define IOE_MEDIUM 4

// The object is gone or was taken offline.
#define IOE_GONE 5

// No answer in time.
#define IOE_TIMEOUT 6

// Not a thing this object does. The answer to everything unknown.
#define IOE_NOT_SUPPORTED 7

// No room for another operation at the moment.
#define IOE_BUSY 8

// A compare found other data, at the byte given as the start of the detail.
#define IOE_COMPARE_FAILED 9

// Cancelled.
#define IOE_ABORTED 10

// The plugin's code panicked in this call or an earlier one; the object does nothing any more.
#define IOE_PANICKED 11

// Nothing to read, or no room to write, at the moment.
#define IOE_WOULD_BLOCK 12

// The peer closed its side.
#define IOE_CLOSED 13

// The operating system refused; its number is given beside.
#define IOE_SYSTEM 14

// A table of the host is full.
#define IOE_TOO_MANY 15

// Refused for a reason given as an `IoeFailure`.
#define IOE_REFUSED 16

// An argument is not one the contract allows.
#define IOE_INVALID 17

// Kind of a plugin: block devices.
#define IOE_KIND_DEVICE 1

// Kind of a plugin: pools.
#define IOE_KIND_POOL 2

// Kind of a plugin: NVMe-oF transports.
#define IOE_KIND_FABRIC 4

// Kind of a plugin: other protocols over devices.
#define IOE_KIND_EXPORT 8

// The plugin was built so that a panic ends the process. The engine refuses it.
#define IOE_FLAG_PANIC_ABORT 1

// The plugin carries an `abi_stable` root module to be checked.
#define IOE_FLAG_LAYOUT 2

// Operation: read.
#define IOE_OP_READ 1

// Operation: write.
#define IOE_OP_WRITE 2

// Operation: make a range read as zeroes.
#define IOE_OP_WRITE_ZEROES 3

// Operation: the contents of a range are not needed.
#define IOE_OP_DISCARD 4

// Operation: make completed writes durable.
#define IOE_OP_FLUSH 5

// Operation flag: durable on completion.
#define IOE_OP_FUA 1

// Operation flag of write zeroes: the device may deallocate.
#define IOE_OP_DEALLOCATE 2

// Support: not at all.
#define IOE_SUPPORT_NONE 0

// Support: in software, at about the cost of writing.
#define IOE_SUPPORT_EMULATED 1

// Support: by itself.
#define IOE_SUPPORT_NATIVE 2

// Capability flag: completed writes may be volatile until a flush.
#define IOE_CAP_VOLATILE_CACHE 1

// Capability flag: a read without a buffer is answered with lent segments.
#define IOE_CAP_LENDS_READS 2

// Whether `O_DIRECT` is in use: the question makes no sense.
#define IOE_DIRECT_NA 0

// `O_DIRECT` is not in use.
#define IOE_DIRECT_NO 1

// `O_DIRECT` is in use.
#define IOE_DIRECT_YES 2

// File operation: read into the buffer.
#define IOE_FILE_READ 1

// File operation: write the buffer.
#define IOE_FILE_WRITE 2

// File operation: make completed writes durable.
#define IOE_FILE_SYNC 3

// File operation: deallocate a range.
#define IOE_FILE_PUNCH_HOLE 4

// File operation: write zeroes to a range.
#define IOE_FILE_ZERO_RANGE 5

// File operation flag of a write: durable on completion.
#define IOE_FILE_DURABLE 1

// Extent flag: space is taken for it.
#define IOE_EXTENT_ALLOCATED 1

// Extent flag: it reads as zeroes.
#define IOE_EXTENT_ZERO 2

// Log level: the operator has to act.
#define IOE_LOG_ERROR 1

// Log level: not as it should be.
#define IOE_LOG_WARN 2

// Log level: a normal event.
#define IOE_LOG_INFO 3

// Log level: for whoever looks for a fault.
#define IOE_LOG_DEBUG 4

// Failure: another reason; texts: what, why.
#define IOE_FAIL_UNSUITABLE 1

// Failure: the thing is not there; texts: what.
#define IOE_FAIL_NOT_FOUND 2

// Failure: in use; texts: what, by whom.
#define IOE_FAIL_IN_USE 3

// Failure: the operating system refused; texts: what; and its number.
#define IOE_FAIL_SYSTEM 4

// Failure: not a URI; texts: URI, what is wrong.
#define IOE_FAIL_URI_MALFORMED 5

// Failure: scheme not served; texts: scheme, schemes there are.
#define IOE_FAIL_URI_SCHEME 6

// Failure: parameter unknown; texts: URI, parameter.
#define IOE_FAIL_URI_UNKNOWN 7

// Failure: value of a parameter; texts: URI, parameter, value, what it must be.
#define IOE_FAIL_URI_VALUE 8

// Failure: there is no room for it; texts: what, why. Since 1.1; who does not know it takes it for another reason.
#define IOE_FAIL_NO_ROOM 9

// Family of an address: none (a Unix socket).
#define IOE_ADDRESS_NONE 0

// Family of an address: IPv4, in the first four bytes.
#define IOE_ADDRESS_V4 4

// Family of an address: IPv6.
#define IOE_ADDRESS_V6 6

// Fabric event: handshake done.
#define IOE_FABRIC_CONNECTED 1

// Fabric event: a command.
#define IOE_FABRIC_CAPSULE 2

// Fabric event: data asked for has arrived.
#define IOE_FABRIC_FETCHED 3

// Fabric event: a connection is gone.
#define IOE_FABRIC_CLOSED 4

// Fabric event flag: the data passed its digest.
#define IOE_FABRIC_DATA_OK 1

// Fabric answer flag: the data says that the command succeeded.
#define IOE_FABRIC_IMPLICIT 1

// Fabric settings flag: header digests are granted.
#define IOE_FABRIC_HEADER_DIGEST 1

// Fabric settings flag: data digests are granted.
#define IOE_FABRIC_DATA_DIGEST 2

// Export event: start an operation.
#define IOE_EXPORT_IO 1

// Export event: tell extents.
#define IOE_EXPORT_EXTENTS 2

// Export event: move a connection to its volume.
#define IOE_EXPORT_MOVE 3

// Export event: a connection serves a volume.
#define IOE_EXPORT_OPENED 4

// Export event: a connection is gone.
#define IOE_EXPORT_CLOSED 5

// Volume flag: writes are refused.
#define IOE_VOLUME_READ_ONLY 1

// Volume flag: it lives on this reactor.
#define IOE_VOLUME_HERE 2

// Pool volume flag: space is taken when written.
#define IOE_POOL_THIN 1

// Pool volume flag: a snapshot.
#define IOE_POOL_SNAPSHOT 2

// Pool volume flag: a clone of a snapshot.
#define IOE_POOL_CLONE 4

// Ask a device for the size of its medium, in place of a number of blocks.
#define IOE_BLOCKS_OF_MEDIUM 18446744073709551615ull

// No time: switches a timer off.
#define IOE_NEVER 0

// Number of the stamp of [`IoePlugin`].
#define IOE_TABLE_PLUGIN 1

// Number of the stamp of [`IoeEngineTable`].
#define IOE_TABLE_ENGINE 2

// Number of the stamp of [`IoeHostTable`].
#define IOE_TABLE_HOST 3

// Number of the stamp of [`IoeDriverTable`].
#define IOE_TABLE_DRIVER 4

// Number of the stamp of [`IoeDeviceTable`].
#define IOE_TABLE_DEVICE 5

// Number of the stamp of [`IoeQueueTable`].
#define IOE_TABLE_QUEUE 6

// Number of the stamp of [`IoeFabricDriverTable`].
#define IOE_TABLE_FABRIC_DRIVER 7

// Number of the stamp of [`IoeFabricTable`].
#define IOE_TABLE_FABRIC 8

// Number of the stamp of [`IoeExportDriverTable`].
#define IOE_TABLE_EXPORT_DRIVER 9

// Number of the stamp of [`IoeExportServerTable`].
#define IOE_TABLE_EXPORT_SERVER 10

// Number of the stamp of [`IoeExportTable`].
#define IOE_TABLE_EXPORT 11

// Number of the stamp of [`IoePoolDriverTable`].
#define IOE_TABLE_POOL_DRIVER 12

// Number of the stamp of [`IoePoolTable`].
#define IOE_TABLE_POOL 13

// What a table looked like when the plugin was built.
typedef struct IoeStamp {
  // `IOE_TABLE_*`.
  uint32_t table;
  // Bytes of the table.
  uint32_t size;
  // Hash over names and types of its fields, and of the values they mention.
  uint64_t hash;
  // Size of the table in minor version 0 of the same major version.
  uint32_t base_size;
  // Zero.
  uint32_t reserved;
  // Hash of the table in minor version 0.
  uint64_t base_hash;
} IoeStamp;

// Who a plugin is. Texts are UTF-8, padded with zero bytes.
typedef struct IoeDescriptor {
  // [`IOE_MAGIC`].
  uint64_t magic;
  // Bytes of this struct.
  uint32_t size;
  // Major version it was built against.
  uint16_t abi_major;
  // Minor version it was built against.
  uint16_t abi_minor;
  // Lowest minor version of the engine it can do with.
  uint16_t needs_minor;
  // Number of stamps.
  uint16_t stamp_count;
  // `IOE_KIND_*`.
  uint32_t kinds;
  // `IOE_FLAG_*`.
  uint32_t flags;
  // Zero.
  uint32_t reserved;
  // Name.
  uint8_t name[32];
  // Version.
  uint8_t version[32];
  // Who made it.
  uint8_t vendor[64];
  // Schemes and protocols, separated by commas; the tables decide, this is for listings.
  uint8_t serves[128];
  // What the tables looked like.
  struct IoeStamp stamps[IOE_STAMPS_MAX];
} IoeDescriptor;

// The note, as it lies in the file.
typedef struct IoeNote {
  // Bytes of the name.
  uint32_t name_size;
  // Bytes of the descriptor.
  uint32_t descriptor_size;
  // [`IOE_NOTE_TYPE`].
  uint32_t kind;
  // [`IOE_NOTE_NAME`], padded.
  uint8_t name[12];
  // The descriptor.
  struct IoeDescriptor descriptor;
} IoeNote;

// Room for text or bytes the callee writes. What does not fit is cut off, text at a whole character.
typedef struct IoeText {
  // Room, of the caller.
  uint8_t *data;
  // Bytes of room.
  uint32_t capacity;
  // Bytes written by the callee.
  uint32_t len;
} IoeText;

// UTF-8 text lent for the call; not terminated.
typedef struct IoeStr {
  // First byte; null only with `len` 0.
  const uint8_t *data;
  // Bytes.
  size_t len;
} IoeStr;

// Why something was refused, in words. The caller lends the room.
typedef struct IoeFailure {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_FAIL_*`.
  uint32_t kind;
  // Number of the operating system, with `IOE_FAIL_SYSTEM`.
  int32_t os_error;
  // Zero.
  uint32_t reserved;
  // The texts that belong to the kind.
  struct IoeText texts[4];
} IoeFailure;

// Size of a device.
typedef struct IoeGeometry {
  // Bytes in a block: 512 or 4096.
  uint32_t block_size;
  // Zero.
  uint32_t reserved;
  // Number of blocks.
  uint64_t blocks;
} IoeGeometry;

// What a device does beyond reading, writing and flushing.
typedef struct IoeCapabilities {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_SUPPORT_*` of write zeroes.
  uint32_t write_zeroes;
  // `IOE_SUPPORT_*` of discard.
  uint32_t discard;
  // `IOE_CAP_*`.
  uint32_t flags;
  // Blocks written whole or not at all on power loss, at least 1.
  uint32_t atomic_blocks;
  // `IOE_DIRECT_*`.
  uint32_t direct;
} IoeCapabilities;

// A buffer with one owner. Whoever has it may read and write `capacity` bytes and passes it on or releases it, once.
// Belongs to the reactor it came from: never released on another thread.
typedef struct IoeBuf {
  // First byte, aligned to 4096. Null stands for no buffer.
  uint8_t *data;
  // Bytes in use.
  uint32_t len;
  // Bytes there are.
  uint32_t capacity;
  // Handle of whoever made it.
  void *owner;
  // Gives it back: called with `owner`, `data` and `capacity`.
  void (*release)(void *owner, uint8_t *data, uint32_t capacity);
} IoeBuf;

// A run of blocks.
typedef struct IoeRange {
  // First block.
  uint64_t start;
  // Number of blocks.
  uint64_t count;
} IoeRange;

// How a lent segment is shared and given back. Called on the thread the segment was lent on.
typedef struct IoeSegmentOps {
  // One more holder.
  void (*retain)(void *owner);
  // One holder less.
  void (*release)(void *owner);
} IoeSegmentOps;

// Bytes lent for reading. They do not change until released.
typedef struct IoeSegment {
  // First byte.
  const uint8_t *data;
  // Bytes, at least 1.
  uint32_t len;
  // Zero.
  uint32_t reserved;
  // Handle of the lender.
  void *owner;
  // Its operations; valid as long as the segment.
  const struct IoeSegmentOps *ops;
} IoeSegment;

// How an operation ended.
typedef struct IoeDone {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_OK` or an error.
  int32_t status;
  // The operation's.
  uint64_t tag;
  // Blocks of a medium error; for a failed compare the byte, as `start`.
  struct IoeRange detail;
  // The buffer, filled, of a successful read; a buffer that only goes back in every other case; or none.
  struct IoeBuf buf;
  // Lent segments of a successful read without a buffer, together as long as the range. The array is the plugin's, read
  // before the next call on the object; the segments belong to the receiver.
  const struct IoeSegment *segments;
  // How many.
  uint32_t segment_count;
  // Zero.
  uint32_t reserved;
} IoeDone;

// A file operation.
typedef struct IoeFileOp {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_FILE_*`; an unknown one is refused.
  uint32_t kind;
  // `IOE_FILE_DURABLE`.
  uint32_t flags;
  // Bytes of the buffer already moved, to go on with a short read or write.
  uint32_t moved;
  // First byte in the file.
  uint64_t offset;
  // Bytes to deallocate or zero.
  uint64_t len;
  // Buffer of a read or write.
  struct IoeBuf buf;
} IoeFileOp;

// A piece of memory to receive into or send from; laid out as the system's `struct iovec`.
typedef struct IoeIoVec {
  // First byte.
  uint8_t *data;
  // Bytes.
  size_t len;
} IoeIoVec;

// Operations of a reactor. None blocks. Ids of closed objects are answered like closed ones.
typedef struct IoeHostTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the engine.
  uint32_t version;
  // Time of this turn of the reactor; see `IoeEngineTable::now_ns`.
  uint64_t (*now_ns)(void *host);
  // A buffer of `len` bytes, at most 1 MiB: `IOE_OK`, or `IOE_BUSY` while there is none.
  int32_t (*alloc)(void *host, uint32_t len, struct IoeBuf *buf);
  // Ends an operation of the queue being called.
  void (*complete)(void *host, const struct IoeDone *done);
  // Lends a file; the descriptor is the host's from here on, whatever the answer. `IOE_OK`, `IOE_TOO_MANY`,
  // `IOE_SYSTEM`.
  int32_t (*file_adopt)(void *host, int32_t fd, uint32_t owner, uint32_t *file);
  // Closes a file once its operations ended.
  void (*file_close)(void *host, uint32_t file);
  // Starts a file operation; its buffer is the host's if the answer is `IOE_OK`, else the caller's. `IOE_BUSY`: later.
  int32_t (*file_submit)(void *host, uint32_t file, uint64_t user, const struct IoeFileOp *op);
  // Receives into pieces in order: bytes, or minus `IOE_WOULD_BLOCK`, `IOE_CLOSED`, `IOE_SYSTEM`.
  int64_t (*stream_recv)(void *host,
                         uint64_t stream,
                         const struct IoeIoVec *pieces,
                         uint32_t count,
                         int32_t *os_error);
  // Sends pieces in order: bytes, or as `stream_recv`.
  int64_t (*stream_send)(void *host,
                         uint64_t stream,
                         const struct IoeIoVec *pieces,
                         uint32_t count,
                         int32_t *os_error);
  // Stops (1) or resumes (0) `readable` of a stream.
  void (*stream_pause)(void *host, uint64_t stream, uint32_t paused);
  // Ends the sending side of a stream behind the bytes taken; receiving goes on.
  void (*stream_end)(void *host, uint64_t stream);
  // Closes a stream.
  void (*stream_close)(void *host, uint64_t stream);
  // Takes a stream's descriptor away, or -1.
  int32_t (*stream_detach)(void *host, uint64_t stream);
  // Lends a connected socket; the descriptor is the host's from here on, whatever the answer.
  int32_t (*stream_attach)(void *host, int32_t fd, uint32_t owner, uint64_t *stream);
  // Lends a listening socket; as `file_adopt`.
  int32_t (*listener_adopt)(void *host, int32_t fd, uint32_t owner, uint32_t *listener);
  // Closes a listener.
  void (*listener_close)(void *host, uint32_t listener);
  // Sets the one timer of the object being called to a time, or `IOE_NEVER`; its `timer` is called then, once.
  void (*timer_set)(void *host, uint64_t at_ns);
  // A handle by which other threads reach the object being called (`wake`, `complete_from_any_thread`); 0 where the
  // host cannot. The same each time.
  uint64_t (*remote)(void *host, uint32_t owner);
} IoeHostTable;

// A reactor, for the length of one call into the plugin.
typedef struct IoeHost {
  // Operations.
  const struct IoeHostTable *table;
  // Passed as their first argument.
  void *context;
} IoeHost;

// An operation on a device.
typedef struct IoeOp {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_OP_*`; an unknown one is answered `IOE_NOT_SUPPORTED`.
  uint32_t kind;
  // `IOE_OP_FUA`, `IOE_OP_DEALLOCATE`.
  uint32_t flags;
  // Zero.
  uint32_t reserved;
  // Comes back with the end.
  uint64_t tag;
  // On which blocks; empty for a flush.
  struct IoeRange range;
  // Buffer of a read or write, as long as the range; none for a read that is to be lent.
  struct IoeBuf buf;
} IoeOp;

// A file operation that ended.
typedef struct IoeFileDone {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_OK`, `IOE_MEDIUM`, `IOE_NO_SPACE`, `IOE_GONE`, `IOE_NOT_SUPPORTED`, `IOE_ABORTED` or `IOE_SYSTEM`.
  int32_t status;
  // The number given at submission.
  uint64_t user;
  // Bytes moved by this operation.
  uint32_t moved;
  // Number of the operating system, with `IOE_SYSTEM`.
  int32_t os_error;
  // The operation; its buffer belongs to the receiver.
  struct IoeFileOp op;
} IoeFileDone;

// A run of blocks with one status.
typedef struct IoeExtent {
  // How long it is.
  uint64_t blocks;
  // `IOE_EXTENT_*`.
  uint32_t flags;
  // Zero.
  uint32_t reserved;
} IoeExtent;

// Operations of a queue, on its reactor; none blocks. `drop` of a queue that was never started may come from any thread.
typedef struct IoeQueueTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // First call on the reactor. `owner` names the queue when it lends files. Null: nothing to do.
  int32_t (*start)(void *queue, const struct IoeHost *host, uint32_t owner);
  // Starts an operation, whose buffer is the queue's from here on. `IOE_OK`: it ended, and `done` says how; that comes as a
  // success without buffer and segments, and what differs is to be written. `IOE_PENDING`: it ends later. `IOE_PANICKED`. Required.
  int32_t (*submit)(void *queue,
                    const struct IoeHost *host,
                    const struct IoeOp *op,
                    struct IoeDone *done);
  // Takes ended operations out, at most `max`: how many, or minus `IOE_PANICKED`. Null: it only uses `complete`.
  int32_t (*poll)(void *queue, struct IoeDone *done, uint32_t max);
  // A file operation ended; its buffer is the queue's from here on. Null: it has no files.
  int32_t (*file_done)(void *queue, const struct IoeHost *host, const struct IoeFileDone *done);
  // Its timer ran out. Null: it has none.
  int32_t (*timer)(void *queue, const struct IoeHost *host);
  // Another thread called for it. Null: nobody does.
  int32_t (*wake)(void *queue, const struct IoeHost *host);
  // Called each turn while operations are in flight: 1 if it is busy and the reactor shall come again without
  // sleeping, 0 if not, or minus `IOE_PANICKED`. Null: it is not polled.
  int32_t (*turn)(void *queue, const struct IoeHost *host);
  // Which parts of a range hold data, as far as known without waiting: how many extents were written, at least one;
  // `-IOE_NOT_SUPPORTED`: cannot tell. Null: never can.
  int32_t (*extents)(void *queue, struct IoeRange range, struct IoeExtent *extents, uint32_t max);
  // The device has this size from here on. Null: its size never changes.
  int32_t (*set_geometry)(void *queue, const struct IoeGeometry *geometry);
  // Gives back what the reactor lent; nothing is in flight. Null: nothing was lent.
  int32_t (*close)(void *queue, const struct IoeHost *host);
  // Frees the queue. Required.
  void (*drop)(void *queue);
} IoeQueueTable;

// A queue of a device.
typedef struct IoeQueue {
  // Operations.
  const struct IoeQueueTable *table;
  // Passed as their first argument.
  void *context;
} IoeQueue;

// Operations of a device, on the control path: they may block. Any thread, never two at a time.
typedef struct IoeDeviceTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // Its name, unique per kind. Required.
  int32_t (*name)(void *device, struct IoeText *name);
  // What it is, for humans. Required.
  int32_t (*product)(void *device, struct IoeText *product);
  // Its size. Required.
  int32_t (*geometry)(void *device, struct IoeGeometry *geometry);
  // What it does; the same as long as it is open. Required.
  int32_t (*capabilities)(void *device, struct IoeCapabilities *capabilities);
  // Identity given in the URI into 16 bytes: `IOE_OK`, or `IOE_NOT_SUPPORTED` if there is none. Null: never any.
  int32_t (*uuid)(void *device, uint8_t *uuid);
  // Makes a queue, to be started on its reactor: `IOE_OK` or `IOE_REFUSED`. Required.
  int32_t (*queue_open)(void *device, struct IoeQueue *queue, struct IoeFailure *failure);
  // Sets the number of blocks, or looks at the medium (`IOE_BLOCKS_OF_MEDIUM`): `IOE_OK` or `IOE_REFUSED`. Null: the
  // size never changes.
  int32_t (*resize)(void *device,
                    uint64_t blocks,
                    struct IoeGeometry *geometry,
                    struct IoeFailure *failure);
  // Obeys an operator's command. Null: there are none.
  int32_t (*command)(void *device,
                     struct IoeStr command,
                     struct IoeText *answer,
                     struct IoeFailure *failure);
  // What an operator should know about the device although it works, as one sentence with the fix; empty if nothing.
  // Null: never anything.
  int32_t (*warning)(void *device, struct IoeText *warning);
  // Closes the device and frees it; its queues are gone. Required.
  void (*close)(void *device);
} IoeDeviceTable;

// An open device.
typedef struct IoeDevice {
  // Operations.
  const struct IoeDeviceTable *table;
  // Passed as their first argument.
  void *context;
} IoeDevice;

// Operations of the engine.
typedef struct IoeEngineTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the engine.
  uint32_t version;
  // Nanoseconds since a point in the past; the clock of every time in this contract.
  uint64_t (*now_ns)(void *engine);
  // A line in the engine's log under the plugin's name. `level` is `IOE_LOG_*`.
  void (*log)(void *engine, uint32_t level, struct IoeStr text);
  // Adds to a counter of the plugin's.
  void (*count)(void *engine, struct IoeStr name, uint64_t add);
  // Reads what was stored under a key: `IOE_OK`, `IOE_GONE` if there is nothing, or `IOE_REFUSED`. A value longer than
  // the room is refused with `len` set to its length. Blocks.
  int32_t (*load)(void *engine, struct IoeStr key, struct IoeText *value, struct IoeFailure *failure);
  // Stores a value durably; null data removes the key. `IOE_OK` or `IOE_REFUSED`. Blocks.
  int32_t (*store)(void *engine, struct IoeStr key, struct IoeStr value, struct IoeFailure *failure);
  // Opens another device by URI. `IOE_OK` or `IOE_REFUSED`. Blocks. The device is the caller's until it closes it.
  int32_t (*open_device)(void *engine,
                         struct IoeStr uri,
                         struct IoeDevice *device,
                         struct IoeFailure *failure);
  // Has `wake` of the object behind a remote handle called on its reactor. Returns at once.
  void (*wake)(void *engine, uint64_t remote);
  // Completes an operation of the queue behind a remote handle, from any thread. A buffer is not passed: the engine
  // keeps those of operations completed this way. `IOE_GONE` if the queue is closed.
  int32_t (*complete_from_any_thread)(void *engine, uint64_t remote, uint64_t tag, int32_t status);
  // Asks for memory of the process to keep data in, before it is used; `what` names the object in the refusal. `IOE_OK`, or
  // `IOE_REFUSED` when the machine, or the operator's limit, has no room for it. Not on a reactor. Since 1.1.
  int32_t (*memory_take)(void *engine,
                         struct IoeStr what,
                         uint64_t bytes,
                         struct IoeFailure *failure);
  // Gives back memory that was asked for and is freed. Returns at once. Since 1.1.
  void (*memory_give)(void *engine, uint64_t bytes);
} IoeEngineTable;

// The engine, as one plugin sees it. Valid as long as the process; any thread may use it.
typedef struct IoeEngine {
  // Operations.
  const struct IoeEngineTable *table;
  // Passed as their first argument.
  void *context;
} IoeEngine;

// Operations of a driver. Any thread may call them, also at the same time.
typedef struct IoeDriverTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // Its schemes, separated by commas. Required.
  int32_t (*schemes)(void *driver, struct IoeText *schemes);
  // Opens a device: `IOE_OK` or `IOE_REFUSED`. May block. Required.
  int32_t (*open)(void *driver,
                  const struct IoeEngine *engine,
                  struct IoeStr uri,
                  struct IoeDevice *device,
                  struct IoeFailure *failure);
  // Whether the text of a URI is one `open` takes: `IOE_OK`, or `IOE_REFUSED` with what `open` would refuse it with. What it
  // names is not looked at. Null: only opening tells.
  int32_t (*check)(void *driver, struct IoeStr uri, struct IoeFailure *failure);
} IoeDriverTable;

// Opens devices of certain URI schemes.
typedef struct IoeDriver {
  // Operations.
  const struct IoeDriverTable *table;
  // Passed as their first argument.
  void *context;
} IoeDriver;

// How a server is run.
typedef struct IoeExportSettings {
  // Bytes of this struct.
  uint32_t size;
  // Number of `listen`.
  uint32_t listen_count;
  // Where to listen: `tcp://ADDRESS:PORT` or `unix:///PATH`.
  const struct IoeStr *listen;
  // Connections at once on one reactor.
  uint32_t connections_max;
  // Bytes one request transfers at most; at most 1 MiB.
  uint32_t transfer_bytes_max;
  // Requests of one connection in flight.
  uint32_t requests_max;
  // Time from accept until a volume is chosen, in ms.
  uint32_t handshake_timeout_ms;
} IoeExportSettings;

// A device to be served.
typedef struct IoeVolume {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_VOLUME_READ_ONLY`, `IOE_VOLUME_HERE`.
  uint32_t flags;
  // Its number.
  uint64_t id;
  // The name clients ask for.
  struct IoeStr name;
  // Text for listings.
  struct IoeStr description;
  // Size.
  struct IoeGeometry geometry;
  // What the device does.
  struct IoeCapabilities capabilities;
} IoeVolume;

// An IP address and port.
typedef struct IoeAddress {
  // `IOE_ADDRESS_*`.
  uint32_t family;
  // Port.
  uint32_t port;
  // Address, in network order.
  uint8_t bytes[16];
  // Scope of an IPv6 address.
  uint32_t scope;
  // Zero.
  uint32_t reserved;
} IoeAddress;

// What an export asks for or tells.
typedef struct IoeExportEvent {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_EXPORT_IO`, `_EXTENTS`, `_MOVE`, `_OPENED`, `_CLOSED`.
  uint32_t kind;
  // The connection, where one is meant.
  uint64_t conn;
  // The volume, where one is meant.
  uint64_t volume;
  // Of I/O: the operation, its tag the token; its buffer is the engine's from here on. Of extents: range and tag.
  struct IoeOp op;
  // Of an opened connection: the client's end.
  struct IoeAddress peer;
  // Of a closed connection: why, a stable word of at most 64 bytes; valid as long as the process.
  struct IoeStr reason;
} IoeExportEvent;

// Operations of a server's part on its reactor; none blocks. All required.
typedef struct IoeExportTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // First call on the reactor; listening sockets are lent here.
  int32_t (*start)(void *part, const struct IoeHost *host, uint32_t owner);
  // A volume is served from here on.
  int32_t (*add_volume)(void *part, const struct IoeVolume *volume);
  // A volume is not served any more.
  int32_t (*remove_volume)(void *part, const struct IoeHost *host, uint64_t volume);
  // A volume has this size from here on.
  int32_t (*set_geometry)(void *part, uint64_t volume, const struct IoeGeometry *geometry);
  // A client connected.
  int32_t (*accepted)(void *part,
                      const struct IoeHost *host,
                      uint32_t listener,
                      uint64_t stream,
                      const struct IoeAddress *peer);
  // A stream may have bytes to read.
  int32_t (*readable)(void *part, const struct IoeHost *host, uint64_t stream);
  // A stream that refused bytes takes them again.
  int32_t (*writable)(void *part, const struct IoeHost *host, uint64_t stream);
  // An operation ended; its tag is the token. Buffer and segments are the export's from here on, the array is not.
  int32_t (*io_done)(void *part, const struct IoeHost *host, const struct IoeDone *done);
  // What a range holds.
  int32_t (*extents_done)(void *part,
                          const struct IoeHost *host,
                          uint64_t token,
                          const struct IoeExtent *extents,
                          uint32_t count);
  // Its timer ran out.
  int32_t (*timer)(void *part, const struct IoeHost *host);
  // Takes the next event out: 1, 0 if there is none, or minus `IOE_PANICKED`.
  int32_t (*event)(void *part, struct IoeExportEvent *event);
  // Sends what is queued and goes on with what waited.
  int32_t (*flush)(void *part, const struct IoeHost *host);
  // Takes a connection off this reactor: `IOE_OK` and a parcel, or `IOE_GONE`.
  int32_t (*detach)(void *part, const struct IoeHost *host, uint64_t conn, void **parcel);
  // Takes a connection over; the parcel is used up whatever the answer: `IOE_OK` or `IOE_TOO_MANY`.
  int32_t (*attach)(void *part, const struct IoeHost *host, void *parcel);
  // Connections open.
  uint64_t (*connections)(void *part);
  // Closes connections and listeners; no I/O is in flight.
  int32_t (*close)(void *part, const struct IoeHost *host);
  // Frees it.
  void (*drop)(void *part);
} IoeExportTable;

// A server's part on one reactor.
typedef struct IoeExport {
  // Operations.
  const struct IoeExportTable *table;
  // Passed as their first argument.
  void *context;
} IoeExport;

// Operations of a server, on the control path. Any thread, never two at a time. All required.
typedef struct IoeExportServerTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // The URI of the volume called `name`.
  int32_t (*uri)(void *server, struct IoeStr name, struct IoeText *uri);
  // Makes the part for the next reactor, to be started there: `IOE_OK` or `IOE_REFUSED`.
  int32_t (*seat_open)(void *server, struct IoeExport *part, struct IoeFailure *failure);
  // Closes the server and frees it; its parts are gone.
  void (*close)(void *server);
} IoeExportServerTable;

// A running server.
typedef struct IoeExportServer {
  // Operations.
  const struct IoeExportServerTable *table;
  // Passed as their first argument.
  void *context;
} IoeExportServer;

// Operations of a protocol. Any thread may call them, also at the same time. All required.
typedef struct IoeExportDriverTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // The word a share names it by, e.g. `nbd`.
  int32_t (*protocol)(void *driver, struct IoeText *protocol);
  // Opens a server: `IOE_OK` or `IOE_REFUSED`. May block.
  int32_t (*open)(void *driver,
                  const struct IoeEngine *engine,
                  const struct IoeExportSettings *settings,
                  struct IoeExportServer *server,
                  struct IoeFailure *failure);
  // Frees a connection between two reactors that will not arrive. Any thread.
  void (*parcel_drop)(void *driver, void *parcel);
} IoeExportDriverTable;

// A protocol.
typedef struct IoeExportDriver {
  // Operations.
  const struct IoeExportDriverTable *table;
  // Passed as their first argument.
  void *context;
} IoeExportDriver;

// Limits of a transport on one reactor.
typedef struct IoeFabricSettings {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_FABRIC_HEADER_DIGEST`, `IOE_FABRIC_DATA_DIGEST`.
  uint32_t flags;
  // Connections at once.
  uint32_t connections_max;
  // Bytes of in-capsule data on I/O queues.
  uint32_t in_capsule_bytes;
  // Bytes one command transfers at most.
  uint32_t transfer_bytes_max;
  // Entries of the largest submission queue.
  uint32_t queue_depth;
  // Time from accept to the end of Connect, in ms.
  uint32_t handshake_timeout_ms;
  // Time a host may go without progress it owes, in ms.
  uint32_t progress_timeout_ms;
} IoeFabricSettings;

// What happened on a transport.
typedef struct IoeFabricEvent {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_FABRIC_CONNECTED`, `_CAPSULE`, `_FETCHED` or `_CLOSED`.
  uint32_t kind;
  // `IOE_FABRIC_DATA_OK`.
  uint32_t flags;
  // Zero.
  uint32_t reserved;
  // The connection: dense slot in the low, generation in the high half.
  uint64_t conn;
  // Of fetched data: the number given to `fetch`.
  uint64_t token;
  // Of a capsule: the submission queue entry.
  uint8_t sqe[64];
  // Of a capsule: in-capsule data, or none. Of fetched data: the buffer, filled.
  struct IoeBuf data;
  // Of a new connection: our end.
  struct IoeAddress local;
  // Of a new connection: the host's end.
  struct IoeAddress peer;
  // Of a closed connection: why, a stable word of at most 64 bytes; valid as long as the process.
  struct IoeStr reason;
} IoeFabricEvent;

// An answer to a command.
typedef struct IoeFabricAnswer {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_FABRIC_IMPLICIT`.
  uint32_t flags;
  // The completion queue entry.
  uint8_t cqe[16];
  // Data in a buffer, or none.
  struct IoeBuf data;
  // Data lent; the segments belong to the callee from here on, the array does not.
  const struct IoeSegment *segments;
  // How many.
  uint32_t segment_count;
  // Zero.
  uint32_t reserved;
} IoeFabricAnswer;

// A connection taken over from another reactor.
typedef struct IoeAttached {
  // Its name here.
  uint64_t conn;
  // Our end.
  struct IoeAddress local;
  // The host's end.
  struct IoeAddress peer;
} IoeAttached;

// Operations of a transport on its reactor; none blocks. All required.
typedef struct IoeFabricTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // A host connected a stream: `IOE_OK` and the connection's name, or `IOE_TOO_MANY`; then the stream is closed and a
  // closed event without a connection says so.
  int32_t (*accepted)(void *fabric,
                      const struct IoeHost *host,
                      uint64_t stream,
                      const struct IoeAddress *local,
                      const struct IoeAddress *peer,
                      uint64_t *conn);
  // A stream may have bytes to read.
  int32_t (*readable)(void *fabric, const struct IoeHost *host, uint64_t stream);
  // A stream that refused bytes takes them again.
  int32_t (*writable)(void *fabric, const struct IoeHost *host, uint64_t stream);
  // Its timer ran out.
  int32_t (*timer)(void *fabric, const struct IoeHost *host);
  // Takes events out, in order, at most `max`: how many, or minus `IOE_PANICKED`. The room comes with kind, flags and data
  // zero; what the kind does not have need not be written.
  int32_t (*events)(void *fabric, struct IoeFabricEvent *events, uint32_t max);
  // Asks for the data of a command into a buffer, which is the transport's from here on.
  int32_t (*fetch)(void *fabric,
                   uint64_t conn,
                   uint32_t cid,
                   uint64_t token,
                   const struct IoeBuf *buf);
  // Answers a command: data first, then the completion.
  int32_t (*respond)(void *fabric, uint64_t conn, const struct IoeFabricAnswer *answer);
  // Command `cid` ended without an answer and gets none: it does not count as outstanding any more.
  int32_t (*forget)(void *fabric, uint64_t conn, uint32_t cid);
  // Sends what is queued and goes on with what waited.
  int32_t (*flush)(void *fabric, const struct IoeHost *host);
  // Bytes of buffers answered with that were sent since this was asked last, a connection at a time: 1, 0 if there are no
  // more, or minus `IOE_PANICKED`.
  int32_t (*sent)(void *fabric, uint64_t *conn, uint64_t *bytes);
  // Closes a connection.
  int32_t (*close)(void *fabric, const struct IoeHost *host, uint64_t conn, struct IoeStr reason);
  // Takes a connection off this reactor: `IOE_OK` and a parcel, or `IOE_GONE`.
  int32_t (*detach)(void *fabric, const struct IoeHost *host, uint64_t conn, void **parcel);
  // Takes a connection over; the parcel is used up whatever the answer: `IOE_OK` or `IOE_TOO_MANY`.
  int32_t (*attach)(void *fabric,
                    const struct IoeHost *host,
                    void *parcel,
                    struct IoeAttached *attached);
  // Connections open.
  uint64_t (*connections)(void *fabric);
  // Frees it, on its reactor.
  void (*drop)(void *fabric);
} IoeFabricTable;

// A transport on one reactor.
typedef struct IoeFabric {
  // Operations.
  const struct IoeFabricTable *table;
  // Passed as their first argument.
  void *context;
} IoeFabric;

// Operations of a transport. Any thread may call them, also at the same time.
typedef struct IoeFabricDriverTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // Its name, e.g. `tcp`. Required.
  int32_t (*name)(void *driver, struct IoeText *name);
  // Makes its part for one reactor, used there only. `IOE_OK` or `IOE_REFUSED`. Required.
  int32_t (*open)(void *driver,
                  const struct IoeEngine *engine,
                  const struct IoeFabricSettings *settings,
                  struct IoeFabric *fabric,
                  struct IoeFailure *failure);
  // Frees a connection between two reactors that will not arrive. Any thread. Required.
  void (*parcel_drop)(void *driver, void *parcel);
} IoeFabricDriverTable;

// A transport.
typedef struct IoeFabricDriver {
  // Operations.
  const struct IoeFabricDriverTable *table;
  // Passed as their first argument.
  void *context;
} IoeFabricDriver;

// What a pool is to be.
typedef struct IoePoolSpec {
  // Bytes of this struct.
  uint32_t size;
  // Number of `disks`.
  uint32_t disk_count;
  // URIs of its disks.
  const struct IoeStr *disks;
  // Its name.
  struct IoeStr name;
  // Its identity; all zero: to be drawn.
  uint8_t uuid[16];
  // Bytes of a cluster, the unit of allocation; 0: the pool's choice.
  uint64_t cluster_bytes;
} IoePoolSpec;

// How full a pool is.
typedef struct IoePoolUsage {
  // Bytes of this struct.
  uint32_t size;
  // Number of disks.
  uint32_t disk_count;
  // Bytes for data.
  uint64_t capacity_bytes;
  // Bytes taken.
  uint64_t used_bytes;
  // Bytes promised to volumes.
  uint64_t committed_bytes;
  // Bytes of a cluster.
  uint64_t cluster_bytes;
  // Number of volumes, snapshots and clones.
  uint64_t volume_count;
} IoePoolUsage;

// A volume, snapshot or clone of a pool.
typedef struct IoePoolVolume {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_POOL_*`.
  uint32_t flags;
  // Identity.
  uint8_t uuid[16];
  // Of a snapshot or clone: what it is of; else zero.
  uint8_t parent[16];
  // Bytes.
  uint64_t bytes;
  // Bytes taken by it alone.
  uint64_t used_bytes;
  // Name; room of the caller.
  struct IoeText name;
} IoePoolVolume;

// Operations of a pool: they may block. Any thread, never two at a time. All required.
typedef struct IoePoolTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // How full it is.
  int32_t (*usage)(void *pool, struct IoePoolUsage *usage, struct IoeFailure *failure);
  // The volume at a place in the list, by identity order: `IOE_OK`, or `IOE_GONE` past the end.
  int32_t (*volume)(void *pool, uint64_t index, struct IoePoolVolume *volume);
  // Makes a volume of `bytes`; `flags` is 0 or `IOE_POOL_THIN`.
  int32_t (*volume_create)(void *pool,
                           const uint8_t *uuid,
                           struct IoeStr name,
                           uint64_t bytes,
                           uint32_t flags,
                           struct IoeFailure *failure);
  // Destroys a volume, snapshot or clone.
  int32_t (*volume_destroy)(void *pool, const uint8_t *uuid, struct IoeFailure *failure);
  // Changes the size of a volume.
  int32_t (*volume_resize)(void *pool,
                           const uint8_t *uuid,
                           uint64_t bytes,
                           struct IoeFailure *failure);
  // Opens a volume or snapshot as a device.
  int32_t (*volume_open)(void *pool,
                         const uint8_t *uuid,
                         struct IoeDevice *device,
                         struct IoeFailure *failure);
  // Makes a snapshot of a volume, in constant time.
  int32_t (*snapshot)(void *pool,
                      const uint8_t *uuid,
                      const uint8_t *snapshot,
                      struct IoeStr name,
                      struct IoeFailure *failure);
  // Makes a writable volume out of a snapshot, in constant time.
  int32_t (*clone)(void *pool,
                   const uint8_t *snapshot,
                   const uint8_t *clone,
                   struct IoeStr name,
                   struct IoeFailure *failure);
  // Takes the new size of its disks into use, and the disk given, if any.
  int32_t (*grow)(void *pool, struct IoeStr disk, struct IoeFailure *failure);
  // Checks its metadata; the findings, a line each, in `report`. `IOE_OK` without findings, `IOE_MEDIUM` with.
  int32_t (*check)(void *pool, struct IoeText *report, struct IoeFailure *failure);
  // Closes it, with `destroy` 1 after taking its label off the disks, and frees it; its devices are closed.
  int32_t (*close)(void *pool, uint32_t destroy, struct IoeFailure *failure);
} IoePoolTable;

// An open pool.
typedef struct IoePool {
  // Operations.
  const struct IoePoolTable *table;
  // Passed as their first argument.
  void *context;
} IoePool;

// Operations of a kind of pool. Any thread may call them, also at the same time; they may block. All required.
typedef struct IoePoolDriverTable {
  // Bytes of this table.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // Its name, e.g. `native`.
  int32_t (*name)(void *driver, struct IoeText *name);
  // Makes a pool on disks that hold none: `IOE_OK` or `IOE_REFUSED`.
  int32_t (*create)(void *driver,
                    const struct IoeEngine *engine,
                    const struct IoePoolSpec *spec,
                    struct IoePool *pool,
                    struct IoeFailure *failure);
  // Opens the pool that is on the disks; name and identity, where given, must be its own: `IOE_OK` or `IOE_REFUSED`.
  int32_t (*import)(void *driver,
                    const struct IoeEngine *engine,
                    const struct IoePoolSpec *spec,
                    struct IoePool *pool,
                    struct IoeFailure *failure);
} IoePoolDriverTable;

// A kind of pool.
typedef struct IoePoolDriver {
  // Operations.
  const struct IoePoolDriverTable *table;
  // Passed as their first argument.
  void *context;
} IoePoolDriver;

// What a plugin brings. Arrays and everything in them are valid as long as the process. The engine fills in `size` and
// zeroes the rest before the call.
typedef struct IoePlugin {
  // Bytes of this struct.
  uint32_t size;
  // `IOE_ABI_VERSION` of the plugin.
  uint32_t version;
  // Device drivers.
  const struct IoeDriver *drivers;
  // How many.
  uint32_t driver_count;
  // How many transports.
  uint32_t fabric_count;
  // Transports.
  const struct IoeFabricDriver *fabrics;
  // Protocols.
  const struct IoeExportDriver *exports;
  // How many.
  uint32_t export_count;
  // How many kinds of pool.
  uint32_t pool_count;
  // Kinds of pool.
  const struct IoePoolDriver *pools;
} IoePlugin;

// The plugin's entry: fills `plugin` and answers `IOE_OK`, `IOE_REFUSED` or `IOE_PANICKED`. Called once, off the reactors;
// `engine` stays valid as long as the process.
typedef int32_t (*IoeEntry)(const struct IoeEngine *engine, struct IoePlugin *plugin);

/* What the tables look like. */
#define IOE_STAMP_COUNT 13
#define IOE_STAMPS \
  { \
    {1, 56, 0x2ab4478a7796985dull, 56, 0, 0x2ab4478a7796985dull}, \
    {2, 88, 0x5e9e4bc8caa10f5eull, 72, 0, 0x742b6d184e1ffa3aull}, \
    {3, 144, 0x6285aa7f7f35b3cfull, 144, 0, 0x6285aa7f7f35b3cfull}, \
    {4, 32, 0xe4b69a6940e32ab8ull, 32, 0, 0xe4b69a6940e32ab8ull}, \
    {5, 88, 0x32264b2710304720ull, 88, 0, 0x32264b2710304720ull}, \
    {6, 96, 0x84ef5aeb8b5c8f52ull, 96, 0, 0x84ef5aeb8b5c8f52ull}, \
    {7, 32, 0x8a3467af024fb848ull, 32, 0, 0x8a3467af024fb848ull}, \
    {8, 128, 0x790cd2b7fe22cf78ull, 128, 0, 0x790cd2b7fe22cf78ull}, \
    {9, 32, 0x54e96919900c82ecull, 32, 0, 0x54e96919900c82ecull}, \
    {10, 32, 0x7b35b048a516782eull, 32, 0, 0x7b35b048a516782eull}, \
    {11, 144, 0x0ba8832fa5de0d8cull, 144, 0, 0x0ba8832fa5de0d8cull}, \
    {12, 32, 0xf1846d156d02c385ull, 32, 0, 0xf1846d156d02c385ull}, \
    {13, 96, 0x68c73548e1363bfcull, 96, 0, 0x68c73548e1363bfcull}, \
  }

/* Gives a buffer back. A buffer goes back once: here, in IoeDone.buf, or with a file operation. */
static inline void ioe_buf_release(const IoeBuf *buf) {
  if (buf->data && buf->release) buf->release(buf->owner, buf->data, buf->capacity);
}

/* Text for a call, from a string literal or any terminated string. */
static inline IoeStr ioe_str(const char *text) {
  IoeStr str = {(const uint8_t *)text, 0};
  while (text[str.len]) str.len++;
  return str;
}

/* Writes terminated text into room of the caller's. */
static inline void ioe_text_set(IoeText *room, const char *text) {
  room->len = 0;
  while (text[room->len] && room->len < room->capacity) {
    room->data[room->len] = (uint8_t)text[room->len];
    room->len++;
  }
}

/* Who this plugin is; once, at file scope. Texts are literals shorter than their fields. `plugin_kinds` is of IOE_KIND_*. */
#define IOE_DESCRIBE(plugin_name, plugin_version, plugin_vendor, plugin_kinds, plugin_serves)          \
  __attribute__((section(".note.io-engine"), used, aligned(8))) static const IoeNote ioe_note = {      \
      sizeof("io-engine"),                                                                              \
      sizeof(IoeDescriptor),                                                                            \
      IOE_NOTE_TYPE,                                                                                    \
      "io-engine",                                                                                      \
      {.magic = IOE_MAGIC,                                                                              \
       .size = sizeof(IoeDescriptor),                                                                   \
       .abi_major = IOE_ABI_MAJOR,                                                                      \
       .abi_minor = IOE_ABI_MINOR,                                                                      \
       .needs_minor = 0,                                                                                \
       .stamp_count = IOE_STAMP_COUNT,                                                                  \
       .kinds = (plugin_kinds),                                                                         \
       .flags = 0,                                                                                      \
       .name = plugin_name,                                                                             \
       .version = plugin_version,                                                                       \
       .vendor = plugin_vendor,                                                                         \
       .serves = plugin_serves,                                                                         \
       .stamps = IOE_STAMPS}}

/* The one function a plugin exports. */
#ifdef __cplusplus
extern "C"
#endif
__attribute__((visibility("default"))) int32_t io_engine_plugin_v1(const IoeEngine *engine, IoePlugin *plugin);

#endif  /* IO_ENGINE_PLUGIN_H */
