// The loader: a ring of batches between reader threads and worker threads. See loader.h for the order of samples.
//
// A batch's samples are sorted by their place in the file and cut into parts of a few images; readers take the next part,
// in order, whenever its batch's slot is free, and ask for its bytes before they work on the part they took before, so
// that the disk has always something to do. One mutex guards the ring's states; it is taken twice a part and twice a
// batch, never while reading or working on pixels; the order of a batch's samples is drawn under it (fill_in), once a batch.
//
//   slot:  free --first part taken--> filling --last part done--> ready --all consumers done--> free
#include "data/loader.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "data/data_internal.h"
#include "data/reader.h"
#include "data/sampler.h"

enum { PART_IMAGES = 16, DEFAULT_DEPTH = 3, MAX_READERS = 256 };

enum slot_state { SLOT_FREE, SLOT_FILLING, SLOT_READY };

// A sample of a batch.
struct wanted {
  int64_t sample, place;  // in the data set, in the batch
  uint64_t epoch;
  int crop;  // of ten; -1: as the augmenter says
};

struct slot {
  struct ls_batch batch;  // first: the consumer's pointer is the slot's
  struct wanted *wanted;  // [valid], in the file's order
  int32_t *places;        // of the batch; NULL: images are cut here
  enum slot_state state;
  int parts_left, consumers_left;
  ls_status status;  // of the readers
  struct ls_error error;
};

// Some images of a batch, in the hands of one reader.
struct part {
  struct slot *slot;
  int number;       // images [number * PART_IMAGES, + PART_IMAGES) of slot->wanted
  int first_place;  // of the reader
  int queued;       // images asked for
  struct ls_view views[PART_IMAGES];
  struct ls_error error;
  int64_t busy_ns, read_ns, decode_ns, augment_ns;
  uint64_t bytes;
  uint64_t window, window_epoch;  // to be told to the disk before the part is read; UINT64_MAX: none
};

struct ls_loader {
  struct ls_loader_options options;
  struct ls_augmenter augmenter;
  struct ls_sampler sampler;
  uint64_t next_window;  // shuffled blocks: the next one to be told to the disk, counted through all epochs
  bool whole;            // images are delivered as they are stored
  size_t image_bytes;    // of one delivered image
  int parts;             // of a batch
  uint64_t batches;      // of an evaluation pass; UINT64_MAX in training
  uint64_t next_part;    // counted from batch first_batch
  struct slot *slots;
  int depth, readers;
  pthread_t *threads;
  int threads_started;
  pthread_mutex_t lock;
  pthread_cond_t changed_free, changed_ready;
  bool stop;
  struct ls_loader_stats stats;
};

// Positions of an epoch or of an evaluation pass.
static int64_t position_count(const struct ls_loader *l) {
  return l->options.dataset->info.count * (l->options.ten_crop ? LS_TEN_CROP : 1);
}

static int by_sample(const void *a, const void *b) {
  const struct wanted *x = a, *y = b;
  return (x->sample > y->sample) - (x->sample < y->sample);
}

// What batch `index` holds: positions [index * B, + valid) of the endless sequence.
static void fill_in(struct ls_loader *l, struct slot *slot, uint64_t index) {
  int64_t n = position_count(l), left = n - (int64_t)index * l->options.batch;
  slot->batch.index = index;
  slot->batch.valid = l->options.training || left > l->options.batch ? l->options.batch : left;
  for (int64_t i = 0; i < slot->batch.valid; i++) {
    uint64_t position = index * (uint64_t)l->options.batch + (uint64_t)i;
    struct wanted *w = &slot->wanted[i];
    *w = (struct wanted){.place = i, .crop = -1};
    if (l->options.training) {
      w->epoch = position / (uint64_t)n;
      w->sample = ls_sampler_at(&l->sampler, w->epoch, (int64_t)(position % (uint64_t)n));
    } else if (l->options.ten_crop) {
      w->sample = (int64_t)position / LS_TEN_CROP;
      w->crop = (int)(position % LS_TEN_CROP);
    } else {
      w->sample = (int64_t)position;
    }
  }
  if (l->options.training) qsort(slot->wanted, (size_t)slot->batch.valid, sizeof *slot->wanted, by_sample);
}

// Shuffled blocks: the disk begins to read a window when the one before it is half used. Which window the batch at
// `position` makes due, if any.
static void due_window(struct ls_loader *l, uint64_t position, struct part *part) {
  part->window = UINT64_MAX;
  if (!l->options.training || l->options.shuffle != LOCKSTEP__V1__SHUFFLE__SHUFFLE_BLOCKS || l->options.direct) return;
  uint64_t n = (uint64_t)position_count(l), half = (uint64_t)l->sampler.block * (LS_WINDOW_BLOCKS / 2);
  uint64_t windows = (uint64_t)ls_sampler_window(&l->sampler, (int64_t)n - 1) + 1;
  uint64_t ahead = position + half;
  uint64_t wanted = ahead / n * windows + (uint64_t)ls_sampler_window(&l->sampler, (int64_t)(ahead % n));
  if (l->next_window == UINT64_MAX)
    l->next_window = position / n * windows + (uint64_t)ls_sampler_window(&l->sampler, (int64_t)(position % n));
  if (l->next_window > wanted) return;
  part->window = l->next_window % windows;
  part->window_epoch = l->next_window / windows;
  l->next_window++;
}

static void tell_disk(const struct ls_loader *l, const struct part *part) {
  int64_t first, count;
  for (int run = 0; ls_sampler_run(&l->sampler, part->window_epoch, (int64_t)part->window, run, &first, &count); run++)
    ls_dataset_will_read(l->options.dataset, first, count);
}

// Takes the next part whose slot is free. False: at the end, or none is free and `wait` is not set. Called with the lock
// held.
static bool take_part(struct ls_loader *l, bool wait, struct part *part) {
  for (;;) {
    uint64_t batch = l->options.first_batch + l->next_part / (uint64_t)l->parts;
    if (l->stop || batch >= l->batches) return false;
    part->number = (int)(l->next_part % (uint64_t)l->parts);
    part->slot = &l->slots[batch % (uint64_t)l->depth];
    if (part->number > 0 || part->slot->state == SLOT_FREE) {
      if (part->number == 0) {
        part->slot->state = SLOT_FILLING;
        part->slot->parts_left = l->parts;
        part->slot->status = LS_OK;
        fill_in(l, part->slot, batch);
      }
      due_window(l, batch * (uint64_t)l->options.batch, part);
      l->next_part++;
      return true;
    }
    if (!wait) return false;
    int64_t start = ls_clock_ns();
    pthread_cond_wait(&l->changed_free, &l->lock);
    l->stats.reader_wait_s += (double)(ls_clock_ns() - start) * 1e-9;
  }
}

static void put_part_back(struct ls_loader *l, struct part *part) {
  struct slot *slot = part->slot;
  l->stats.reader_busy_s += (double)part->busy_ns * 1e-9;
  l->stats.read_s += (double)part->read_ns * 1e-9;
  l->stats.decode_s += (double)part->decode_ns * 1e-9;
  l->stats.augment_s += (double)part->augment_ns * 1e-9;
  l->stats.bytes_read += part->bytes;
  if (part->error.status != LS_OK && slot->status == LS_OK) {
    slot->status = part->error.status;
    slot->error = part->error;
  }
  if (--slot->parts_left == 0) {
    slot->state = SLOT_READY;
    slot->consumers_left = l->options.consumers;
    l->stats.batches++;
    pthread_cond_broadcast(&l->changed_ready);
    pthread_cond_broadcast(&l->changed_free);  // a reader may wait for the next batch's slot
  }
}

// ---- a reader thread

struct hands {
  struct ls_loader *loader;
  struct ls_reader *reader;
  struct ls_augment_scratch scratch;
};

static void part_range(const struct part *part, int *begin, int *count) {
  int64_t valid = part->slot->batch.valid, first = (int64_t)part->number * PART_IMAGES;
  *begin = (int)first;
  *count = first >= valid ? 0 : valid - first < PART_IMAGES ? (int)(valid - first) : PART_IMAGES;
}

// Draws for the part's images and asks for their bytes.
static void begin_part(struct hands *hands, struct part *part) {
  struct ls_loader *l = hands->loader;
  int64_t start = ls_clock_ns();
  int begin, count;
  if (part->window != UINT64_MAX) tell_disk(l, part);
  part_range(part, &begin, &count);
  part->read_ns = part->decode_ns = part->augment_ns = 0;
  part->error = (struct ls_error)LS_ERROR_INIT;
  part->queued = 0;
  uint64_t bytes = ls_reader_bytes(hands->reader);
  for (int i = 0; i < count && part->error.status == LS_OK; i++) {
    const struct wanted *w = &part->slot->wanted[begin + i];
    int64_t height, width;
    if (ls_dataset_image_size(l->options.dataset, w->sample, &height, &width, &part->error) != LS_OK) break;
    ls_augmenter_view(&l->augmenter, height, width, w->epoch, w->sample, w->crop, &part->views[i]);
    if (l->whole) part->views[i].source = (struct ls_rect){.height = height, .width = width};
    if (ls_reader_queue(hands->reader, part->first_place + i, w->sample, &part->views[i].source, &part->error) == LS_OK)
      part->queued++;
  }
  part->bytes = ls_reader_bytes(hands->reader) - bytes;
  part->busy_ns = part->read_ns = ls_clock_ns() - start;
}

static ls_status read_label(const struct ls_loader *l, int64_t sample, int32_t *label, struct ls_error *err) {
  const struct ls_dataset *d = l->options.dataset;
  LS_TRY(ls_dataset_read_label(d, sample, label, err));
  if (l->options.classes > 0 && *label >= l->options.classes)
    return ls_dataset_label_too_large(d, sample, *label, l->options.classes, err);
  return LS_OK;
}

static void end_part(struct hands *hands, struct part *part) {
  struct ls_loader *l = hands->loader;
  struct ls_batch *batch = &part->slot->batch;
  int64_t start = ls_clock_ns(), now = start;
  int begin, count;
  part_range(part, &begin, &count);
  uint64_t bytes = ls_reader_bytes(hands->reader);
  for (int i = 0; i < part->queued; i++) {
    const struct wanted *w = &part->slot->wanted[begin + i];
    struct ls_pixels pixels = {0};
    // What was asked for is taken also after an error: its place is needed again.
    struct ls_error error = LS_ERROR_INIT;
    void *out = (char *)batch->images + (size_t)w->place * l->image_bytes;
    int place = part->first_place + i;
    const struct ls_view *view = &part->views[i];
    bool rows = (l->whole || ls_augmenter_is_crop(&l->augmenter, view)) && ls_reader_has_rows(hands->reader);
    if ((rows ? ls_reader_take_rows(hands->reader, place, out, &error)
              : ls_reader_take(hands->reader, place, &pixels, &error)) == LS_OK)
      read_label(l, w->sample, &batch->labels[w->place], &error);
    int64_t before = now, middle = ls_clock_ns();
    if (error.status == LS_OK && part->error.status == LS_OK) {
      if (l->whole) {
        if (!rows) memcpy(out, pixels.data, l->image_bytes);
        ls_augmenter_place(&l->augmenter, view, part->slot->places + w->place * batch->place_words);
      } else if (!rows) {
        ls_augmenter_apply(&l->augmenter, view, pixels.data, pixels.stride_bytes, &hands->scratch, out, &error);
      }
      part->decode_ns += pixels.decode_ns;
      part->read_ns += middle - before - pixels.decode_ns;
    }
    now = ls_clock_ns();
    part->augment_ns += now - middle;
    if (part->error.status == LS_OK) part->error = error;
  }
  // The places behind an evaluation's last image.
  for (int64_t i = batch->valid; part->number == 0 && i < l->options.batch; i++) {
    batch->labels[i] = -1;
    memset((char *)batch->images + (size_t)i * l->image_bytes, 0, l->image_bytes);
    if (l->whole) memset(part->slot->places + i * batch->place_words, 0, (size_t)batch->place_words * sizeof(int32_t));
  }
  part->bytes += ls_reader_bytes(hands->reader) - bytes;
  part->busy_ns += ls_clock_ns() - start;
}

static void *reader(void *argument) {
  struct hands hands = {.loader = argument};
  struct ls_loader *l = hands.loader;
  struct ls_error error = LS_ERROR_INIT;
  struct part parts[2] = {{.first_place = 0}, {.first_place = PART_IMAGES}}, *current = &parts[0], *next = &parts[1];
  ls_reader_new(l->options.dataset, l->options.direct, 2 * PART_IMAGES, &hands.reader, &error);
  pthread_mutex_lock(&l->lock);
  bool has_current = take_part(l, true, current);
  pthread_mutex_unlock(&l->lock);
  if (has_current && hands.reader) begin_part(&hands, current);
  while (has_current) {
    pthread_mutex_lock(&l->lock);
    bool has_next = take_part(l, false, next);
    pthread_mutex_unlock(&l->lock);
    if (!hands.reader) {
      current->error = error;
    } else {
      if (has_next) begin_part(&hands, next);
      end_part(&hands, current);
    }
    pthread_mutex_lock(&l->lock);
    put_part_back(l, current);
    bool late = !has_next && (has_next = take_part(l, true, next));
    pthread_mutex_unlock(&l->lock);
    if (late && hands.reader) begin_part(&hands, next);
    struct part *done = current;
    current = next;
    next = done;
    has_current = has_next;
  }
  ls_augment_scratch_release(&hands.scratch);
  ls_reader_free(hands.reader);
  return NULL;
}

enum { HUGE_PAGE = 2 << 20 };

// Of a slot's images, a multiple of *unit. Huge pages, where a batch has that size: readers write it image by image in the
// file's order, that is all over.
static size_t images_bytes(const struct ls_loader *l, size_t *unit) {
  size_t bytes = l->image_bytes * (size_t)l->options.batch;
  *unit = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
  return (bytes + *unit - 1) / *unit * *unit;
}

static ls_status allocate_images(struct ls_loader *l, struct slot *slot, struct ls_error *err) {
  size_t unit, bytes = images_bytes(l, &unit);
  if (l->options.allocate) {
    LS_TRY(l->options.allocate(l->options.user, bytes, &slot->batch.images, err));
  } else {
    slot->batch.images = aligned_alloc(unit, bytes);
    if (slot->batch.images && unit == HUGE_PAGE) madvise(slot->batch.images, bytes, MADV_HUGEPAGE);
  }
  slot->wanted = calloc((size_t)l->options.batch, sizeof *slot->wanted);
  slot->batch.labels = aligned_alloc(64, ((size_t)l->options.batch * sizeof(int32_t) + 63) / 64 * 64);
  slot->batch.place_words = l->whole ? ls_augmenter_place_words(&l->augmenter) : 0;
  if (l->whole) slot->places = calloc((size_t)(l->options.batch * slot->batch.place_words), sizeof *slot->places);
  slot->batch.places = slot->places;
  slot->batch.height = l->whole ? l->options.dataset->info.height : l->options.crop_height;
  slot->batch.width = l->whole ? l->options.dataset->info.width : l->options.crop_width;
  if (slot->batch.images && slot->batch.labels && slot->wanted && (!l->whole || slot->places)) return LS_OK;
  return ls_fail(err, LS_NO_MEMORY,
                 "cannot allocate a batch of %.1f MiB; a smaller prefetch.depth or batch_size needs less",
                 (double)bytes / 1048576);
}

// The one rule that says who cuts. A consumer that can (a device, whose input kernel reads every pixel anyway) gets stored
// images whole where readers have nothing else to do with them: then they go from the file to the batch untouched. The
// readers cut
//   - encoded and chunked images: these are decoded or copied here in any case, and sizes may differ;
//   - what is resized (random_resized_crop, scale_jitter): a filter of its own for each image;
//   - what has its contrast changed (color_jitter): that needs the mean of the window. Other changes of colours are
//     made pixel by pixel, by the device as well;
//   - images of more than LS_WHOLE_FACTOR times the window's pixels: so many times the bytes would come from the disk and
//     travel to the device, where a reader fetches the window's rows alone.
static bool leaves_whole(const struct ls_loader *l) {
  const struct ls_loader_options *o = &l->options;
  const struct ls_dataset_info *info = &o->dataset->info;
  return o->whole && o->output == LS_U8 && o->channels_last && o->dataset->stored == LS_STORED_RAW &&
         ls_augmenter_by_pixel(&l->augmenter) &&
         info->height * info->width <= LS_WHOLE_FACTOR * o->crop_height * o->crop_width;
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
  if (options->training) l->options.ten_crop = false;
  ls_sampler_init(&l->sampler, options->seed, options->dataset->info.count, ls_dataset_sample_bytes(options->dataset),
                  options->shuffle);
  l->next_window = UINT64_MAX;
  l->depth = options->depth > 0 ? options->depth : DEFAULT_DEPTH;
  l->readers = options->readers > 0 ? options->readers : default_readers();
  if (l->readers > MAX_READERS) l->readers = MAX_READERS;
  l->parts = (int)((options->batch + PART_IMAGES - 1) / PART_IMAGES);
  l->batches = options->training ? UINT64_MAX : (uint64_t)((position_count(l) + options->batch - 1) / options->batch);
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->changed_free, NULL);
  pthread_cond_init(&l->changed_ready, NULL);
  const struct ls_dataset_info *info = &options->dataset->info;
  ls_status status = ls_augmenter_init(&l->augmenter, options, info->smallest_height, info->smallest_width, err);
  l->whole = status == LS_OK && leaves_whole(l);
  int64_t pixels = l->whole ? info->height * info->width : options->crop_height * options->crop_width;
  l->image_bytes = (size_t)(pixels * info->channels) * ls_dtype_bytes(options->output);
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
  size_t unit, bytes = images_bytes(l, &unit);
  for (int i = 0; l->slots && i < l->depth; i++) {
    if (l->options.release && l->slots[i].batch.images)
      l->options.release(l->options.user, l->slots[i].batch.images, bytes);
    else
      free(l->slots[i].batch.images);
    free(l->slots[i].batch.labels);
    free(l->slots[i].places);
    free(l->slots[i].wanted);
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

bool ls_loader_ready(struct ls_loader *l, uint64_t index) {
  const struct slot *slot = &l->slots[index % (uint64_t)l->depth];
  pthread_mutex_lock(&l->lock);
  bool ready = l->stop || index >= l->batches || (slot->state == SLOT_READY && slot->batch.index == index);
  pthread_mutex_unlock(&l->lock);
  return ready;
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

bool ls_loader_explain(const struct ls_loader_stats *before, const struct ls_loader_stats *after, double waited,
                       char *text, size_t size) {
  static const struct {
    const char *what, *advice;
  } kinds[] = {
      {"reading", "a faster disk, more memory for its cache, `shuffle: blocks` or an encoded data set would help"},
      {"decoding images", "more prefetch.readers or a data set of raw pixels would help"},
      {"cutting and changing images", "more prefetch.readers or less augmentation would help"},
  };
  const double spent[] = {after->read_s - before->read_s, after->decode_s - before->decode_s,
                          after->augment_s - before->augment_s};
  double sum = spent[0] + spent[1] + spent[2];
  int most = 0;
  for (int i = 1; i < 3; i++) most = spent[i] > spent[most] ? i : most;
  if (!(waited >= 0.1) || !(sum > 0)) return false;
  snprintf(text, size,
           "input-bound: workers wait %.0f %% of their time for data; readers spend %.0f %% of theirs %s: %s",
           100 * waited, 100 * spent[most] / sum, kinds[most].what, kinds[most].advice);
  return true;
}
