/* A block device in C against the header alone: `cram:///name?size_mb=N` is N MiB of memory.
 *
 * Everything a device must have and nothing else: a descriptor, an entry, a driver that opens devices by URI, a device that makes
 * queues, a queue that does I/O. It computes, so every operation ends in `submit`.
 */
#define _POSIX_C_SOURCE 200809L
#include "io_engine_plugin.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

IOE_DESCRIBE("example-c-ram", "1.0", "io-engine examples", IOE_KIND_DEVICE, "cram");

#define SCHEME "cram:///"
#define BLOCK 512u
#define NAME_MAX_BYTES 64u
#define SIZE_MB_MAX 65536u

typedef struct Device {
  char name[NAME_MAX_BYTES];
  uint64_t blocks;
  uint8_t *bytes;
  struct Device *next; /* in `open_devices` */
} Device;

/* Names that are open: drivers are called from several threads. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Device *open_devices;

/* --- refusals ------------------------------------------------------------------------------------------------- */

static int32_t refuse(IoeFailure *failure, uint32_t kind, const char *a, const char *b, const char *c, const char *d) {
  const char *texts[4] = {a, b, c, d};
  failure->kind = kind;
  for (int i = 0; i < 4; i++) ioe_text_set(&failure->texts[i], texts[i]);
  return IOE_REFUSED;
}

/* --- queue ---------------------------------------------------------------------------------------------------- */

typedef struct Queue {
  uint8_t *bytes; /* the device's, which outlives its queues */
  uint64_t blocks;
} Queue;

static int32_t queue_submit(void *context, const IoeHost *host, const IoeOp *op, IoeDone *done) {
  const Queue *queue = context;
  (void)host;
  done->tag = op->tag;
  /* Whatever happens, the buffer goes back with the end. */
  done->buf = op->buf;
  if (op->range.start > queue->blocks || op->range.count > queue->blocks - op->range.start) return IOE_OUT_OF_RANGE;
  uint8_t *at = queue->bytes + op->range.start * BLOCK;
  size_t len = op->range.count * BLOCK;
  switch (op->kind) {
    case IOE_OP_READ:
      /* Only devices that say so are asked to lend. */
      if (!op->buf.data || op->buf.len != len) return IOE_INVALID;
      memcpy(op->buf.data, at, len);
      return IOE_OK;
    case IOE_OP_WRITE:
      if (!op->buf.data || op->buf.len != len) return IOE_INVALID;
      memcpy(at, op->buf.data, len);
      return IOE_OK;
    case IOE_OP_WRITE_ZEROES:
    case IOE_OP_DISCARD:
      memset(at, 0, len);
      return IOE_OK;
    case IOE_OP_FLUSH:
      return IOE_OK;
    default:
      /* An operation newer than this plugin: refused, never guessed. */
      return IOE_NOT_SUPPORTED;
  }
}

static int32_t queue_set_geometry(void *context, const IoeGeometry *geometry) {
  Queue *queue = context;
  /* It never grows past the memory there is. */
  if (geometry->blocks < queue->blocks) queue->blocks = geometry->blocks;
  return IOE_OK;
}

static void queue_drop(void *queue) { free(queue); }

static const IoeQueueTable queue_table = {
    .size = sizeof(IoeQueueTable),
    .version = IOE_ABI_VERSION,
    .submit = queue_submit,
    .set_geometry = queue_set_geometry,
    .drop = queue_drop,
};

/* --- device --------------------------------------------------------------------------------------------------- */

static int32_t device_name(void *device, IoeText *name) {
  ioe_text_set(name, ((Device *)device)->name);
  return IOE_OK;
}

static int32_t device_product(void *device, IoeText *product) {
  (void)device;
  ioe_text_set(product, "RAM disk in C");
  return IOE_OK;
}

static int32_t device_geometry(void *device, IoeGeometry *geometry) {
  *geometry = (IoeGeometry){.block_size = BLOCK, .blocks = ((Device *)device)->blocks};
  return IOE_OK;
}

static int32_t device_capabilities(void *device, IoeCapabilities *capabilities) {
  (void)device;
  capabilities->write_zeroes = IOE_SUPPORT_NATIVE;
  capabilities->discard = IOE_SUPPORT_NATIVE;
  capabilities->flags = 0;
  capabilities->atomic_blocks = 1;
  capabilities->direct = IOE_DIRECT_NA;
  return IOE_OK;
}

static int32_t device_queue_open(void *context, IoeQueue *out, IoeFailure *failure) {
  const Device *device = context;
  Queue *queue = malloc(sizeof(*queue));
  if (!queue) return refuse(failure, IOE_FAIL_UNSUITABLE, device->name, "there is not enough memory", "", "");
  /* The engine drops every queue before it closes the device. */
  *queue = (Queue){.bytes = device->bytes, .blocks = device->blocks};
  *out = (IoeQueue){.table = &queue_table, .context = queue};
  return IOE_OK;
}

static void device_close(void *device) {
  pthread_mutex_lock(&lock);
  Device **link = &open_devices;
  while (*link != device) link = &(*link)->next;
  *link = (*link)->next;
  pthread_mutex_unlock(&lock);
  free(((Device *)device)->bytes);
  free(device);
}

static const IoeDeviceTable device_table = {
    .size = sizeof(IoeDeviceTable),
    .version = IOE_ABI_VERSION,
    .name = device_name,
    .product = device_product,
    .geometry = device_geometry,
    .capabilities = device_capabilities,
    .queue_open = device_queue_open,
    .close = device_close,
};

/* --- driver --------------------------------------------------------------------------------------------------- */

static int32_t driver_schemes(void *driver, IoeText *schemes) {
  (void)driver;
  ioe_text_set(schemes, "cram");
  return IOE_OK;
}

/* Takes `cram:///name?size_mb=N` apart; `uri` is changed. */
static int32_t parse(char *uri, const char **name, uint64_t *size_mb, IoeFailure *failure) {
  char *query = strchr(uri, '?');
  if (query) *query++ = 0;
  if (strncmp(uri, SCHEME, strlen(SCHEME)) != 0)
    return refuse(failure, IOE_FAIL_URI_MALFORMED, uri, "has an authority; write cram:///name?size_mb=64", "", "");
  *name = uri + strlen(SCHEME);
  if (!**name || strlen(*name) >= NAME_MAX_BYTES)
    return refuse(failure, IOE_FAIL_URI_MALFORMED, uri, "needs a name of 1 to 63 bytes", "", "");
  *size_mb = 0;
  char *rest = query;
  for (char *pair = query ? strtok_r(query, "&", &rest) : NULL; pair; pair = strtok_r(NULL, "&", &rest)) {
    char *value = strchr(pair, '=');
    if (value) *value++ = 0;
    if (strcmp(pair, "size_mb") != 0) return refuse(failure, IOE_FAIL_URI_UNKNOWN, uri, pair, "", "");
    char *end = NULL;
    unsigned long long number = value ? strtoull(value, &end, 10) : 0;
    if (!value || *value < '0' || *value > '9' || *end || number == 0 || number > SIZE_MB_MAX)
      return refuse(failure, IOE_FAIL_URI_VALUE, uri, pair, value ? value : "", "a number of MiB from 1 to 65536");
    *size_mb = number;
  }
  if (*size_mb == 0) return refuse(failure, IOE_FAIL_URI_MALFORMED, uri, "needs size_mb", "", "");
  return IOE_OK;
}

static int32_t make(const char *name, uint64_t size_mb, IoeDevice *out, IoeFailure *failure) {
  for (const Device *other = open_devices; other; other = other->next) {
    if (strcmp(other->name, name) == 0) {
      char holder[64];
      snprintf(holder, sizeof(holder), "this process (pid %ld)", (long)getpid());
      return refuse(failure, IOE_FAIL_IN_USE, name, holder, "", "");
    }
  }
  Device *device = calloc(1, sizeof(*device));
  uint8_t *bytes = calloc(size_mb, 1u << 20);
  if (!device || !bytes) {
    free(device);
    free(bytes);
    return refuse(failure, IOE_FAIL_UNSUITABLE, name, "there is not enough memory", "", "");
  }
  memcpy(device->name, name, strlen(name) + 1); /* `parse` has looked at its length */
  device->blocks = size_mb * ((1u << 20) / BLOCK);
  device->bytes = bytes;
  device->next = open_devices;
  open_devices = device;
  *out = (IoeDevice){.table = &device_table, .context = device};
  return IOE_OK;
}

static int32_t driver_open(void *driver, const IoeEngine *engine, IoeStr uri, IoeDevice *device, IoeFailure *failure) {
  (void)driver;
  (void)engine;
  char *text = malloc(uri.len + 1);
  if (!text) return refuse(failure, IOE_FAIL_UNSUITABLE, "cram", "there is not enough memory", "", "");
  memcpy(text, uri.data, uri.len);
  text[uri.len] = 0;
  const char *name = NULL;
  uint64_t size_mb = 0;
  int32_t status = parse(text, &name, &size_mb, failure);
  if (status == IOE_OK) {
    pthread_mutex_lock(&lock);
    status = make(name, size_mb, device, failure);
    pthread_mutex_unlock(&lock);
  }
  free(text);
  return status;
}

static const IoeDriverTable driver_table = {
    .size = sizeof(IoeDriverTable),
    .version = IOE_ABI_VERSION,
    .schemes = driver_schemes,
    .open = driver_open,
};

/* --- entry ---------------------------------------------------------------------------------------------------- */

static const IoeDriver drivers[] = {{.table = &driver_table, .context = NULL}};

int32_t io_engine_plugin_v1(const IoeEngine *engine, IoePlugin *plugin) {
  (void)engine;
  plugin->version = IOE_ABI_VERSION;
  plugin->drivers = drivers;
  plugin->driver_count = 1;
  return IOE_OK;
}
