// The loader: reader threads that keep a ring of ready batches ahead of the workers.
//
// The order of samples is one endless sequence: the permutation of epoch 0, then that of epoch 1, ... Batch k holds
// positions [k*B, (k+1)*B) of it, so every sample comes exactly once an epoch, every batch is full, and the sequence is
// a function of (seed, data set size, batch size) alone: not of workers, readers, or interruptions.
// Evaluation runs over the data set once, in order; the last batch is filled up with label -1.
//
// Threads: new/free from one thread; wait/done from any worker thread. Reader threads are the loader's own.
#ifndef LS_DATA_LOADER_H
#define LS_DATA_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "data/dataset.h"
#include "lockstep/v1/job.pb-c.h"
#include "tensor/pixel.h"
#include "tensor/tensor.h"

struct ls_loader;

enum { LS_MAX_COLOUR_OPS = 8 };
// Views of a sample in an evaluation of many: the corners, the centre, and their mirrors.
enum { LS_TEN_CROP = 10 };
// Of an image that is left whole: its stored pixels are at most so many times its window's; its place has at most so many
// words (an operation on colours is at most two steps).
enum { LS_WHOLE_FACTOR = 2, LS_PLACE_WORDS = 3 + 2 * LS_MAX_COLOUR_OPS * LS_PIXEL_STEP_WORDS };

struct ls_loader_options {
  struct ls_dataset *dataset;       // must outlive the loader
  bool training;                    // false: one pass in order, centre crop, no augmentation
  int64_t batch;                    // B
  int64_t crop_height, crop_width;  // what the network takes
  const Lockstep__V1__Augmentation *const *augment;
  size_t augment_count;
  uint64_t seed;
  Lockstep__V1__Shuffle shuffle;
  const float *mean, *deviation;  // per channel, 0-255 scale; NULL: the data set's own
  enum ls_dtype output;           // LS_F32 normalised, or LS_U8 as stored
  bool channels_last;             // [B,H,W,C], else [B,C,H,W]
  int readers;                    // 0: chosen
  int depth;                      // batches in the ring; 0: 3
  bool direct;                    // O_DIRECT
  bool whole;                     // the consumer can cut images itself: they may be left whole (ls_batch.places)
  int consumers;                  // how many `done` calls free a batch (the workers)
  uint64_t first_batch;           // resume: index of the first batch delivered
  // Memory for the ring (pinned on CUDA); NULL: ordinary, 64-byte aligned.
  ls_status (*allocate)(void *user, size_t bytes, void **memory, struct ls_error *err);
  void (*release)(void *user, void *memory, size_t bytes);
  void *user;
  bool ten_crop;    // evaluation only: each sample gives its LS_TEN_CROP views in a row
  int64_t classes;  // > 0: a label that is not below it is an error
};

struct ls_batch {
  uint64_t index;   // k
  void *images;     // B images [height, width, C], or as options.channels_last says, 64-byte aligned
  int32_t *labels;  // B; -1: filler
  int64_t valid;    // images that count (B in training)
  // [B, place_words], for images that were left whole: top, left, mirrored of the window in each image, then steps
  // (tensor/pixel.h) of what is to be done to its pixels; what lies outside of the image is black. NULL: the images are
  // the windows.
  const int32_t *places;
  int place_words;
  int64_t height, width;  // of the images
};

ls_status ls_loader_new(const struct ls_loader_options *options, struct ls_loader **loader, struct ls_error *err);
void ls_loader_free(struct ls_loader *loader);
// Blocks until batch `index` is ready (consumers ask in order: first_batch, +1, ...). The pointer is valid until this
// consumer's `done`. LS_CANCELLED after ls_loader_stop; a reader's error comes here. LS_NOT_FOUND past the end of an
// evaluation pass.
ls_status ls_loader_wait(struct ls_loader *loader, uint64_t index, const struct ls_batch **batch, struct ls_error *err);
// Whether ls_loader_wait would return at once.
bool ls_loader_ready(struct ls_loader *loader, uint64_t index);
void ls_loader_done(struct ls_loader *loader, const struct ls_batch *batch);
// Wakes everyone with LS_CANCELLED.
void ls_loader_stop(struct ls_loader *loader);

// How stored values (LS_U8) become what LS_F32 delivers: value * scale + bias of each of the `channels` (at most 4). Without
// a data set only the options' mean and deviation count.
void ls_loader_normalisation(const struct ls_loader_options *options, int64_t channels, float *scale, float *bias);

struct ls_loader_stats {
  uint64_t batches;
  double reader_busy_s, reader_wait_s;  // summed over readers; wait: the ring was full
  double consumer_wait_s;               // summed over consumers: the ring was empty
  double read_s, decode_s, augment_s;   // where readers spent their time
  uint64_t bytes_read;
};
void ls_loader_stats(const struct ls_loader *loader, struct ls_loader_stats *stats);
// What keeps the workers waiting, in one sentence: by two readings of the statistics and the share (0 to 1) of their time
// that workers waited between them. False when that is less than a tenth.
bool ls_loader_explain(const struct ls_loader_stats *before, const struct ls_loader_stats *after, double waited,
                       char *text, size_t size);

#endif
