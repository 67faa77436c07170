// See import_work.h.
//
// Threads take positions in order, fetch and decode, and then wait until all positions before theirs are written: the
// file does not depend on how many there are. A sample that cannot be read leaves no gap. The calling thread only shows
// the progress.
#include "data/import_work.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "data/codec.h"
#include "data/data_internal.h"
#include "data/sampler.h"

enum { MAX_THREADS = 256, IMPORT_SEED = 20121 };

// ---- one sample: from what the source has to what is stored (any thread)

struct bench {
  struct ls_import_work *work;
  struct ls_item item;
  struct ls_decoder *decoder;
  uint8_t *pixels;  // [H,W,C], when they are not the item's own
  size_t pixels_size;
  void *filters;
  size_t filters_size;
  uint8_t *between;
  size_t between_size;
};

static ls_status need(void *memory, size_t *has, size_t size, struct ls_error *err) {
  void **m = memory;
  if (*has >= size) return LS_OK;
  free(*m);
  *m = malloc(size);
  *has = *m ? size : 0;
  return *m ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for an image (%zu bytes)", size);
}

static void bench_release(struct bench *b) {
  ls_decoder_free(b->decoder);
  free(b->item.memory);
  free(b->pixels);
  free(b->filters);
  free(b->between);
}

struct picture {
  const uint8_t *pixels;
  size_t stride_bytes;
  int64_t height, width, channels;
};

static ls_status from_planes(struct bench *b, struct picture *p, struct ls_error *err) {
  const struct ls_item *item = &b->item;
  int64_t plane = item->height * item->width;
  LS_TRY(need(&b->pixels, &b->pixels_size, item->size, err));
  for (int64_t i = 0; i < plane; i++) {
    for (int64_t c = 0; c < item->channels; c++) b->pixels[i * item->channels + c] = item->data[c * plane + i];
  }
  p->pixels = b->pixels;
  return LS_OK;
}

// A JPEG is decoded to a half, a quarter or an eighth when that still leaves what --resize wants.
static int shrink_for(const struct ls_import_options *o, int64_t height, int64_t width) {
  int64_t shorter = height < width ? height : width;
  int shrink = 1;
  while (o->resize && shrink < 8 && (shorter + 2 * shrink - 1) / (2 * shrink) >= o->resize) shrink *= 2;
  return shrink;
}

static ls_status to_picture(struct bench *b, struct picture *p, struct ls_error *err) {
  const struct ls_import_options *o = b->work->options;
  struct ls_item *item = &b->item;
  if (item->form == LS_ITEM_ENCODED) {
    int64_t height, width, channels = o->grey ? 1 : 3;
    struct ls_decoded decoded;
    LS_TRY(ls_decoder_size(b->decoder, item->data, item->size, item->name, &height, &width, err));
    LS_TRY(ls_decoder_decode(b->decoder, item->data, item->size, item->name, channels, NULL,
                             shrink_for(o, height, width), &decoded, err));
    *p = (struct picture){decoded.pixels, decoded.stride_bytes, decoded.height, decoded.width, channels};
    return LS_OK;
  }
  if (!ls_image_size_good(item->height, item->width, item->channels)) {
    return ls_fail(err, LS_INVALID,
                   "'%s' is an image of %" PRId64 "x%" PRId64 "x%" PRId64 "; allowed are " LS_IMAGE_SIZES, item->name,
                   item->height, item->width, item->channels);
  }
  if ((uint64_t)(item->height * item->width * item->channels) != item->size)
    return ls_fail(err, LS_CORRUPT, "'%s' has %zu bytes, its shape %" PRId64 "x%" PRId64 "x%" PRId64 " needs others",
                   item->name, item->size, item->height, item->width, item->channels);
  *p = (struct picture){item->data, (size_t)(item->width * item->channels), item->height, item->width, item->channels};
  return item->form == LS_ITEM_PLANES && item->channels > 1 ? from_planes(b, p, err) : LS_OK;
}

// Resize of the shorter side and crop of the centre in one step: the axis of one direction.
static void set_axis(struct ls_axis *axis, int64_t size, int64_t resized, int64_t wanted) {
  *axis = (struct ls_axis){.begin = 0,
                           .count = wanted,
                           .first = (resized - wanted) / 2,
                           .step = (double)size / (double)resized,
                           .offset = 0,
                           .size = size};
}

static ls_status resample(struct bench *b, struct picture *p, int64_t height, int64_t width, struct ls_error *err) {
  const struct ls_import_options *o = b->work->options;
  struct ls_axis y, x;
  struct ls_filter fy, fx;
  set_axis(&y, p->height, height, o->crop ? o->crop : height);
  set_axis(&x, p->width, width, o->crop ? o->crop : width);
  size_t y_bytes = (ls_filter_bytes(&y) + 63) / 64 * 64, row = (size_t)(x.count * p->channels);
  LS_TRY(need(&b->filters, &b->filters_size, y_bytes + ls_filter_bytes(&x), err));
  LS_TRY(need(&b->between, &b->between_size, (size_t)p->height * row, err));
  uint8_t *to = NULL;
  // The pixels of a planar item lie in b->pixels already.
  size_t size = (size_t)y.count * row;
  LS_TRY(need(&to, &(size_t){0}, size, err));
  ls_filter_make(&y, b->filters, &fy);
  ls_filter_make(&x, (char *)b->filters + y_bytes, &fx);
  int64_t low, high, left, right;
  ls_filter_range(&y, &low, &high);
  ls_filter_range(&x, &left, &right);
  ls_resample(&fy, &fx, p->pixels + (size_t)low * p->stride_bytes + (size_t)(left * p->channels), p->stride_bytes, low,
              high, left, p->channels, b->between, to, row);
  free(b->pixels);
  b->pixels = to;
  b->pixels_size = size;
  *p = (struct picture){to, row, y.count, x.count, p->channels};
  return LS_OK;
}

static ls_status resize_and_crop(struct bench *b, struct picture *p, struct ls_error *err) {
  const struct ls_import_options *o = b->work->options;
  int64_t height = p->height, width = p->width;
  if (o->resize) {
    double shorter = (double)(height < width ? height : width);
    height = (int64_t)floor((double)p->height * (double)o->resize / shorter + 0.5);
    width = (int64_t)floor((double)p->width * (double)o->resize / shorter + 0.5);
    if (height > LS_MAX_SIDE || width > LS_MAX_SIDE)
      return ls_fail(err, LS_INVALID, "'%s' is too narrow: resized it would have %" PRId64 "x%" PRId64 " pixels",
                     b->item.name, height, width);
  }
  if (height < o->crop || width < o->crop) {
    return ls_fail(err, LS_INVALID,
                   "'%s' has %" PRId64 "x%" PRId64 " pixels, --crop wants %" PRId64 "; --resize makes images larger",
                   b->item.name, height, width, o->crop);
  }
  if (height != p->height || width != p->width) return resample(b, p, height, width, err);
  if (o->crop) {
    p->pixels +=
        (size_t)((p->height - o->crop) / 2) * p->stride_bytes + (size_t)((p->width - o->crop) / 2 * p->channels);
    p->height = p->width = o->crop;
  }
  return LS_OK;
}

// Rows without gaps between them.
static ls_status pack(struct bench *b, struct picture *p, struct ls_error *err) {
  size_t row = (size_t)(p->width * p->channels), size = row * (size_t)p->height;
  if (p->stride_bytes == row) return LS_OK;
  bool own = p->pixels >= b->pixels && p->pixels < b->pixels + b->pixels_size;
  if (!own) LS_TRY(need(&b->pixels, &b->pixels_size, size, err));
  for (int64_t y = 0; y < p->height; y++)
    memmove(b->pixels + (size_t)y * row, p->pixels + (size_t)y * p->stride_bytes, row);
  p->pixels = b->pixels;
  p->stride_bytes = row;
  return LS_OK;
}

static ls_status check_shape(const struct bench *b, const struct picture *p, struct ls_error *err) {
  const struct ls_data_shape *s = &b->work->shape;
  if (!s->height) return LS_OK;  // the first one makes the shape
  if (p->channels == s->channels && (s->encoded || (p->height == s->height && p->width == s->width))) return LS_OK;
  return ls_fail(err, LS_INVALID,
                 "'%s' is an image of %" PRId64 "x%" PRId64 "x%" PRId64 ", the first one of %" PRId64 "x%" PRId64
                 "x%" PRId64 "; --resize 256 --crop 256, say, makes them equal, --encoded keeps them as they are",
                 b->item.name, p->height, p->width, p->channels, s->height, s->width, s->channels);
}

// Position `at` as a sample ready to be stored.
static ls_status prepare(struct bench *b, int64_t at, struct ls_data_sample *sample, struct ls_error *err) {
  struct ls_import_work *w = b->work;
  const struct ls_source_part *part = &w->source->parts[w->part];
  int64_t position = w->first + at;
  int64_t index = w->permuted ? ls_sampler_permute(IMPORT_SEED, 0, part->count, position) : position;
  struct picture p = {.pixels = NULL};
  LS_TRY(w->source->kind->fetch(w->source, w->part, index, &b->item, err));
  b->item.label -= w->options->first_label;
  if (b->item.label < 0 || b->item.label > INT32_MAX - 1)
    return ls_fail(err, LS_INVALID, "'%s' has label %" PRId64 "; labels begin at %" PRId64, b->item.name,
                   b->item.label + w->options->first_label, w->options->first_label);
  LS_TRY(to_picture(b, &p, err));
  if (w->options->encoded && b->item.form != LS_ITEM_ENCODED)
    return ls_fail(err, LS_INVALID, "--encoded: '%s' holds pixels, not JPEG or PNG files", w->options->source);
  LS_TRY(resize_and_crop(b, &p, err));
  LS_TRY(pack(b, &p, err));
  LS_TRY(check_shape(b, &p, err));
  sample->label = (int32_t)b->item.label;
  sample->height = p.height;
  sample->width = p.width;
  ls_data_sum(p.pixels, p.height * p.width, p.channels, &sample->sums);
  if (w->options->encoded) {
    sample->data = b->item.data;
    sample->size = b->item.size;
  } else {
    sample->data = p.pixels;
    sample->size = (size_t)(p.height * p.width * p.channels);
  }
  return LS_OK;
}

// ---- all samples

struct crew {
  struct ls_import_work *work;
  struct ls_data_group *group;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int64_t next, turn;  // position to be taken, to be written
  int running;
  ls_status status;
  struct ls_error error;
  // Sentences about skipped samples that were not told yet.
  char **told;
  size_t told_count;
};

static bool can_skip(const struct ls_import_work *w, ls_status status) {
  return w->options->skip_damaged && (status == LS_CORRUPT || status == LS_NOT_FOUND);
}

static void note_skipped(struct crew *crew, const char *text) {
  crew->work->skipped++;
  char **told = realloc(crew->told, (crew->told_count + 1) * sizeof *told);
  if (!told) return;
  crew->told = told;
  if ((told[crew->told_count] = strdup(text))) crew->told_count++;
}

// Called with the lock held, in the order of positions.
static void store(struct crew *crew, ls_status status, const struct ls_data_sample *sample, struct ls_error *error) {
  struct ls_import_work *w = crew->work;
  if (crew->status != LS_OK) return;
  if (status == LS_OK) {
    status = ls_data_group_put(crew->group, sample, error);
    if (status == LS_OK) {
      w->written++;
      if (sample->label > w->largest_label) w->largest_label = sample->label;
    }
  } else if (can_skip(w, status)) {
    note_skipped(crew, error->text);
    status = LS_OK;
  }
  if (status != LS_OK) {
    crew->status = status;
    crew->error = *error;
  }
}

static void *run(void *argument) {
  struct crew *crew = argument;
  struct bench bench = {.work = crew->work};
  struct ls_error error = LS_ERROR_INIT;
  ls_status ready = ls_decoder_new(&bench.decoder, &error);
  pthread_mutex_lock(&crew->lock);
  while (crew->next < crew->work->count && crew->status == LS_OK) {
    int64_t at = crew->next++;
    pthread_mutex_unlock(&crew->lock);
    struct ls_data_sample sample;
    ls_status status = ready;
    if (status == LS_OK) {
      error = (struct ls_error)LS_ERROR_INIT;
      status = prepare(&bench, at, &sample, &error);
    }
    pthread_mutex_lock(&crew->lock);
    while (crew->turn != at) pthread_cond_wait(&crew->changed, &crew->lock);
    store(crew, status, &sample, &error);
    crew->turn++;
    pthread_cond_broadcast(&crew->changed);
  }
  crew->running--;
  pthread_cond_broadcast(&crew->changed);
  pthread_mutex_unlock(&crew->lock);
  bench_release(&bench);
  return NULL;
}

// Called with the lock held.
static void tell(struct crew *crew) {
  const struct ls_import_options *o = crew->work->options;
  if (o->stop && atomic_load(o->stop) && crew->status == LS_OK)
    crew->status = ls_fail(&crew->error, LS_CANCELLED, "the import was stopped; nothing is left of it");
  for (size_t i = 0; i < crew->told_count; i++) {
    if (o->skipped) o->skipped(o->user, crew->told[i]);
    free(crew->told[i]);
  }
  crew->told_count = 0;
  if (o->progress) o->progress(o->user, crew->work->group_name, (uint64_t)crew->turn, (uint64_t)crew->work->count);
}

// Shows the progress until all threads have ended.
static void watch(struct crew *crew) {
  enum { TICK_NS = 100 * 1000 * 1000 };
  pthread_mutex_lock(&crew->lock);
  while (crew->running > 0) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += TICK_NS;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    int waited = 0;
    while (crew->running > 0 && waited != ETIMEDOUT)
      waited = pthread_cond_timedwait(&crew->changed, &crew->lock, &until);
    tell(crew);
  }
  tell(crew);
  pthread_mutex_unlock(&crew->lock);
  free(crew->told);
}

static ls_status run_threads(struct crew *crew, struct ls_error *err) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  int wanted = crew->work->options->threads > 0 ? crew->work->options->threads : cores > 0 ? (int)cores : 1;
  if (wanted > MAX_THREADS) wanted = MAX_THREADS;
  if (wanted > crew->work->count) wanted = (int)crew->work->count;
  pthread_t threads[MAX_THREADS];
  int started = 0;
  pthread_mutex_lock(&crew->lock);
  for (; started < wanted; started++) {
    int failed = pthread_create(&threads[started], NULL, run, crew);
    if (failed && started == 0) crew->status = ls_fail_errno(&crew->error, failed, "cannot start a thread");
    if (failed) break;
    crew->running++;
  }
  pthread_mutex_unlock(&crew->lock);
  watch(crew);
  for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
  if (crew->status != LS_OK && err) *err = crew->error;
  return crew->status;
}

// The first sample that can be read says what all look like.
static ls_status find_shape(struct ls_import_work *w, struct ls_error *err) {
  struct bench bench = {.work = w};
  struct ls_data_sample sample;
  ls_status status = ls_decoder_new(&bench.decoder, err);
  for (int64_t at = 0; status == LS_OK && at < w->count; at++) {
    status = prepare(&bench, at, &sample, err);
    if (status == LS_OK) {
      bool encoded = bench.item.form == LS_ITEM_ENCODED;
      w->shape.channels = !encoded ? bench.item.channels : w->options->grey ? 1 : 3;
      w->shape.height = sample.height;
      w->shape.width = sample.width;
      break;
    }
    if (can_skip(w, status)) status = LS_OK;
  }
  bench_release(&bench);
  if (status == LS_OK && !w->shape.height)
    return ls_fail(err, LS_CORRUPT, "'%s': no sample of %s can be read", w->options->source, w->group_name);
  return status;
}

ls_status ls_import_work(struct ls_import_work *w, struct ls_error *err) {
  w->largest_label = -1;
  w->written = w->skipped = 0;
  w->shape = (struct ls_data_shape){
      .count = w->count, .encoded = w->options->encoded, .encoded_bytes = w->source->parts[w->part].encoded_bytes};
  LS_TRY(find_shape(w, err));
  struct crew crew = {.work = w, .status = LS_OK};
  LS_TRY(ls_data_writer_group(w->writer, w->group_name, &w->shape, &crew.group, err));
  pthread_mutex_init(&crew.lock, NULL);
  pthread_cond_init(&crew.changed, NULL);
  ls_status status = run_threads(&crew, err);
  pthread_cond_destroy(&crew.changed);
  pthread_mutex_destroy(&crew.lock);
  ls_status finished = ls_data_group_finish(crew.group, status == LS_OK ? err : NULL);
  return status == LS_OK ? finished : status;
}
