// The loader: a ring of batches between reader threads and worker threads. See loader.h for the order of samples.
//
// A batch is cut into parts of a few images; readers take the next part, in order, whenever its batch's slot is free. One
// mutex guards the ring's states; it is taken once a part and once a batch, never while reading or computing.
//
//   slot:  free --first part taken--> filling --last part done--> ready --all consumers done--> free
#include "data/loader.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "data/data_internal.h"

enum { PART_IMAGES = 16, DEFAULT_DEPTH = 3, MAX_READERS = 256 };

enum slot_state { SLOT_FREE, SLOT_FILLING, SLOT_READY };

struct slot {
  struct ls_batch batch;  // first: the consumer's pointer is the slot's
  enum slot_state state;
  int parts_left, consumers_left;
  ls_status status;  // of the readers
  struct ls_error error;
};

struct ls_loader {
  struct ls_loader_options options;
  struct ls_augmenter augmenter;
  size_t image_bytes;  // of one delivered image
  int parts;           // of a batch
  uint64_t batches;    // of an evaluation pass; UINT64_MAX in training
  uint64_t next_part;  // counted from batch first_batch
  struct slot *slots;
  int depth, readers;
  pthread_t *threads;
  int threads_started;
  pthread_mutex_t lock;
  pthread_cond_t changed_free, changed_ready;
  bool stop;
  struct ls_loader_stats stats;
};

static int64_t dataset_count(const struct ls_loader *l) { return l->options.dataset->info.count; }

// The sample at position `position` of the endless sequence.
static int64_t sample_at(const struct ls_loader *l, uint64_t position, uint64_t *epoch) {
  int64_t n = dataset_count(l);
  *epoch = position / (uint64_t)n;
  int64_t i = (int64_t)(position % (uint64_t)n);
  bool shuffled = l->options.training && l->options.shuffle != LOCKSTEP__V1__SHUFFLE__SHUFFLE_NONE;
  return shuffled ? ls_sampler_permute(l->options.seed, *epoch, n, i) : i;
}

struct reader_times {
  int64_t read_ns, augment_ns;
};

struct wanted {
  int64_t sample, place;
  uint64_t epoch;
};

static int by_sample(const void *a, const void *b) {
  const struct wanted *x = a, *y = b;
  return (x->sample > y->sample) - (x->sample < y->sample);
}

static ls_status load_part(struct ls_loader *l, struct slot *slot, int part, uint8_t *pixels,
                           struct ls_augment_scratch *scratch, struct reader_times *times, struct ls_error *err) {
  int64_t begin = (int64_t)part * PART_IMAGES, end = begin + PART_IMAGES;
  if (end > l->options.batch) end = l->options.batch;
  struct wanted wanted[PART_IMAGES];
  int count = 0;
  for (int64_t i = begin; i < end; i++) {
    uint64_t position = slot->batch.index * (uint64_t)l->options.batch + (uint64_t)i;
    if (!l->options.training && position >= (uint64_t)dataset_count(l)) {
      slot->batch.labels[i] = -1;
      memset((char *)slot->batch.images + (size_t)i * l->image_bytes, 0, l->image_bytes);
      continue;
    }
    wanted[count].sample = sample_at(l, position, &wanted[count].epoch);
    wanted[count++].place = i;
  }
  qsort(wanted, (size_t)count, sizeof *wanted, by_sample);  // in the file's order
  for (int i = 0; i < count; i++) {
    int64_t start = ls_clock_ns();
    LS_TRY(ls_dataset_read_image(l->options.dataset, wanted[i].sample, pixels, err));
    LS_TRY(ls_dataset_read_label(l->options.dataset, wanted[i].sample, &slot->batch.labels[wanted[i].place], err));
    int64_t middle = ls_clock_ns();
    const struct ls_dataset_info *info = &l->options.dataset->info;
    struct ls_view view;
    ls_augmenter_view(&l->augmenter, info->height, info->width, wanted[i].epoch, wanted[i].sample, -1, &view);
    size_t stride = (size_t)(info->width * info->channels);
    LS_TRY(ls_augmenter_apply(
        &l->augmenter, &view, pixels + (size_t)view.source.top * stride + (size_t)(view.source.left * info->channels),
        stride, scratch, (char *)slot->batch.images + (size_t)wanted[i].place * l->image_bytes, err));
    times->read_ns += middle - start;
    times->augment_ns += ls_clock_ns() - middle;
  }
  return LS_OK;
}

// Takes the next part whose slot is free; NULL at the end. Called with the lock held.
static struct slot *take_part(struct ls_loader *l, int *part) {
  for (;;) {
    uint64_t batch = l->options.first_batch + l->next_part / (uint64_t)l->parts;
    if (l->stop || batch >= l->batches) return NULL;
    *part = (int)(l->next_part % (uint64_t)l->parts);
    struct slot *slot = &l->slots[batch % (uint64_t)l->depth];
    if (*part > 0 || slot->state == SLOT_FREE) {
      if (*part == 0) {
        slot->state = SLOT_FILLING;
        slot->parts_left = l->parts;
        slot->status = LS_OK;
        slot->batch.index = batch;
        int64_t left = dataset_count(l) - (int64_t)batch * l->options.batch;
        slot->batch.valid = l->options.training || left > l->options.batch ? l->options.batch : left;
      }
      l->next_part++;
      return slot;
    }
    int64_t start = ls_clock_ns();
    pthread_cond_wait(&l->changed_free, &l->lock);
    l->stats.reader_wait_s += (double)(ls_clock_ns() - start) * 1e-9;
  }
}

static void *reader(void *argument) {
  struct ls_loader *l = argument;
  uint8_t *pixels = malloc(l->options.dataset->image_bytes);
  struct ls_augment_scratch scratch = {NULL, 0};
  struct slot *slot;
  int part;
  pthread_mutex_lock(&l->lock);
  while ((slot = take_part(l, &part)) != NULL) {
    pthread_mutex_unlock(&l->lock);
    struct ls_error error = LS_ERROR_INIT;
    struct reader_times times = {0};
    int64_t start = ls_clock_ns();
    ls_status status = pixels ? load_part(l, slot, part, pixels, &scratch, &times, &error)
                              : ls_fail(&error, LS_NO_MEMORY, "no memory to read an image");
    pthread_mutex_lock(&l->lock);
    l->stats.reader_busy_s += (double)(ls_clock_ns() - start) * 1e-9;
    l->stats.read_s += (double)times.read_ns * 1e-9;
    l->stats.augment_s += (double)times.augment_ns * 1e-9;
    if (status != LS_OK && slot->status == LS_OK) {
      slot->status = status;
      slot->error = error;
    }
    if (--slot->parts_left == 0) {
      slot->state = SLOT_READY;
      slot->consumers_left = l->options.consumers;
      l->stats.batches++;
      l->stats.bytes_read += (uint64_t)slot->batch.valid * l->options.dataset->image_bytes;
      pthread_cond_broadcast(&l->changed_ready);
      pthread_cond_broadcast(&l->changed_free);  // a reader may wait for the next batch's slot
    }
  }
  pthread_mutex_unlock(&l->lock);
  ls_augment_scratch_release(&scratch);
  free(pixels);
  return NULL;
}

static ls_status allocate_images(struct ls_loader *l, struct slot *slot, struct ls_error *err) {
  size_t bytes = (l->image_bytes * (size_t)l->options.batch + 63) / 64 * 64;
  if (l->options.allocate) {
    LS_TRY(l->options.allocate(l->options.user, bytes, &slot->batch.images, err));
  } else {
    slot->batch.images = aligned_alloc(64, bytes);
  }
  slot->batch.labels = aligned_alloc(64, ((size_t)l->options.batch * sizeof(int32_t) + 63) / 64 * 64);
  if (slot->batch.images && slot->batch.labels) return LS_OK;
  return ls_fail(err, LS_NO_MEMORY,
                 "cannot allocate a batch of %.1f MiB; a smaller prefetch.depth or batch_size needs less",
                 (double)bytes / 1048576);
}

static int default_readers(void) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  return cores > 16 ? 8 : cores > 2 ? (int)cores / 2 : 1;
}

ls_status ls_loader_new(const struct ls_loader_options *options, struct ls_loader **result, struct ls_error *err) {
  *result = NULL;
  struct ls_loader *l = calloc(1, sizeof *l);
  if (!l) return ls_fail(err, LS_NO_MEMORY, "no memory for the loader");
  l->options = *options;
  if (l->options.consumers < 1) l->options.consumers = 1;
  l->depth = options->depth > 0 ? options->depth : DEFAULT_DEPTH;
  l->readers = options->readers > 0 ? options->readers : default_readers();
  if (l->readers > MAX_READERS) l->readers = MAX_READERS;
  l->parts = (int)((options->batch + PART_IMAGES - 1) / PART_IMAGES);
  l->batches = options->training ? UINT64_MAX : (uint64_t)((dataset_count(l) + options->batch - 1) / options->batch);
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->changed_free, NULL);
  pthread_cond_init(&l->changed_ready, NULL);
  const struct ls_dataset_info *info = &options->dataset->info;
  ls_status status = ls_augmenter_init(&l->augmenter, options, info->height, info->width, err);
  l->image_bytes =
      (size_t)(options->crop_height * options->crop_width * info->channels) * ls_dtype_bytes(options->output);
  l->slots = calloc((size_t)l->depth, sizeof *l->slots);
  l->threads = calloc((size_t)l->readers, sizeof *l->threads);
  if (status == LS_OK && (!l->slots || !l->threads)) status = ls_fail(err, LS_NO_MEMORY, "no memory for the loader");
  for (int i = 0; i < l->depth && status == LS_OK; i++) status = allocate_images(l, &l->slots[i], err);
  for (int i = 0; i < l->readers && status == LS_OK; i++) {
    int failed = pthread_create(&l->threads[i], NULL, reader, l);
    if (failed)
      status = ls_fail_errno(err, failed, "cannot start a reader thread");
    else
      l->threads_started++;
  }
  if (status != LS_OK) {
    ls_loader_free(l);
    return status;
  }
  *result = l;
  return LS_OK;
}

void ls_loader_stop(struct ls_loader *l) {
  pthread_mutex_lock(&l->lock);
  l->stop = true;
  pthread_cond_broadcast(&l->changed_free);
  pthread_cond_broadcast(&l->changed_ready);
  pthread_mutex_unlock(&l->lock);
}

void ls_loader_free(struct ls_loader *l) {
  if (!l) return;
  ls_loader_stop(l);
  for (int i = 0; i < l->threads_started; i++) pthread_join(l->threads[i], NULL);
  size_t bytes = (l->image_bytes * (size_t)l->options.batch + 63) / 64 * 64;
  for (int i = 0; l->slots && i < l->depth; i++) {
    if (l->options.release && l->slots[i].batch.images)
      l->options.release(l->options.user, l->slots[i].batch.images, bytes);
    else
      free(l->slots[i].batch.images);
    free(l->slots[i].batch.labels);
  }
  free(l->slots);
  free(l->threads);
  pthread_cond_destroy(&l->changed_free);
  pthread_cond_destroy(&l->changed_ready);
  pthread_mutex_destroy(&l->lock);
  free(l);
}

ls_status ls_loader_wait(struct ls_loader *l, uint64_t index, const struct ls_batch **batch, struct ls_error *err) {
  *batch = NULL;
  if (index >= l->batches) return ls_fail(err, LS_NOT_FOUND, "the data set ends before batch %" PRIu64, index);
  struct slot *slot = &l->slots[index % (uint64_t)l->depth];
  ls_status status = LS_OK;
  pthread_mutex_lock(&l->lock);
  int64_t start = 0;
  while (!l->stop && !(slot->state == SLOT_READY && slot->batch.index == index)) {
    if (!start) start = ls_clock_ns();
    pthread_cond_wait(&l->changed_ready, &l->lock);
  }
  if (start) l->stats.consumer_wait_s += (double)(ls_clock_ns() - start) * 1e-9;
  if (l->stop) {
    status = ls_fail(err, LS_CANCELLED, "the loader was stopped");
  } else if (slot->status != LS_OK) {
    status = slot->status;
    if (err) *err = slot->error;
  } else {
    *batch = &slot->batch;
  }
  pthread_mutex_unlock(&l->lock);
  return status;
}

void ls_loader_done(struct ls_loader *l, const struct ls_batch *batch) {
  struct slot *slot = (struct slot *)(uintptr_t)batch;
  pthread_mutex_lock(&l->lock);
  if (--slot->consumers_left == 0) {
    slot->state = SLOT_FREE;
    pthread_cond_broadcast(&l->changed_free);
  }
  pthread_mutex_unlock(&l->lock);
}

void ls_loader_stats(const struct ls_loader *loader, struct ls_loader_stats *stats) {
  struct ls_loader *l = (struct ls_loader *)(uintptr_t)loader;
  pthread_mutex_lock(&l->lock);
  *stats = l->stats;
  pthread_mutex_unlock(&l->lock);
}
