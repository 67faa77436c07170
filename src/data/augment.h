// From stored pixels to what the network takes: internal to src/data.
//
// In two steps, so that a reader can fetch no more than is needed: ls_augmenter_view makes all draws for one image and
// says which of its pixels are wanted; ls_augmenter_apply turns those into the network's input. Any thread may call.
//
// Order: the window (resize, crop, flip), then colours and cut-outs in the order of the job's list, then normalisation.
// Every draw is a function of (seed, epoch, sample, number of the draw). Pixels stay 8 bits a channel up to the
// normalisation, and all arithmetic before it is in whole numbers, so that the CPU and a device get the same bits.
#ifndef LS_DATA_AUGMENT_H
#define LS_DATA_AUGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/loader.h"
#include "tensor/tensor.h"

enum { LS_MAX_CHANNELS = 4 };

// Rows and columns of the stored image.
struct ls_rect {
  int64_t top, left, height, width;
};

struct ls_colour_op {
  enum { LS_COLOUR_JITTER, LS_COLOUR_LIGHTING, LS_COLOUR_CUTOUT } kind;
  double brightness, contrast, saturation;  // jitter: each factor is drawn from 1-x to 1+x
  double sigma;                             // lighting
  int64_t size;                             // cut-out
};

struct ls_augmenter {
  bool training;
  uint64_t seed;
  int64_t channels;
  int64_t crop_height, crop_width;  // wanted
  enum { LS_WINDOW_CENTER, LS_WINDOW_RANDOM, LS_WINDOW_RESIZED } window;
  int64_t pad;
  double min_area, max_area, min_aspect, max_aspect;  // LS_WINDOW_RESIZED
  int64_t min_side, max_side;                         // scale jitter; 0: none
  float flip_probability;
  struct ls_colour_op ops[LS_MAX_COLOUR_OPS];
  int op_count;
  float scale[LS_MAX_CHANNELS], bias[LS_MAX_CHANNELS];  // normalised = pixel * scale + bias
  uint8_t mean[LS_MAX_CHANNELS];                        // what a cut-out is filled with
  bool channels_last;
  enum ls_dtype output;
};

// `smallest_*`: of the stored images.
ls_status ls_augmenter_init(struct ls_augmenter *augmenter, const struct ls_loader_options *options,
                            int64_t smallest_height, int64_t smallest_width, struct ls_error *err);

// One axis of the window: output position o in [begin, begin + count) takes its value from around the stored position
// offset + (first + o - begin + 0.5) * step, measured from pixel edges; other outputs are padding.
struct ls_axis {
  int64_t begin, count;  // in the output
  int64_t first;         // in the resized image
  double step;           // stored pixels an output pixel
  int64_t offset, size;  // stored pixels that may be used: `size` from `offset` on
};

struct ls_view {
  struct ls_rect source;  // stored pixels that are needed
  struct ls_axis y, x;
  bool resample, flip;
  uint64_t epoch;
  int64_t sample;
};

// Stored image [height, width, C] number `sample` in `epoch`; `crop`: -1, or the number of one of the ten crops.
void ls_augmenter_view(const struct ls_augmenter *augmenter, int64_t height, int64_t width, uint64_t epoch,
                       int64_t sample, int crop, struct ls_view *view);

// Memory of one thread, growing as needed.
struct ls_augment_scratch {
  uint8_t *bytes;
  size_t size;
};
void ls_augment_scratch_release(struct ls_augment_scratch *scratch);

// Whether windows are cut out of stored images as they are, and each of their pixels is changed by itself if at all. For such
// views: top, left, mirrored of the window in the stored image, then what is done to its pixels (tensor/pixel.h);
// ls_augmenter_place_words of them, the same number for every view.
bool ls_augmenter_by_pixel(const struct ls_augmenter *augmenter);
int ls_augmenter_place_words(const struct ls_augmenter *augmenter);
void ls_augmenter_place(const struct ls_augmenter *augmenter, const struct ls_view *view, int32_t *place);

// Whether what goes out is view->source as it is stored: a crop, and nothing else.
bool ls_augmenter_is_crop(const struct ls_augmenter *augmenter, const struct ls_view *view);

// `pixels`: the stored image's pixel (view->source.top, view->source.left), rows `stride_bytes` apart.
// `out`: [C,h,w] or [h,w,C].
ls_status ls_augmenter_apply(const struct ls_augmenter *augmenter, const struct ls_view *view, const uint8_t *pixels,
                             size_t stride_bytes, struct ls_augment_scratch *scratch, void *out, struct ls_error *err);

// ---- rows of pixels (pixels.c)

// A row that is ready, to where the batch is made: past the caches where it is aligned, because the next to read it is a
// device or another core, and a cache line that is about to be overwritten need not be read first. ls_pixels_stored: before
// another thread is told.
void ls_pixels_store(const uint8_t *row, int64_t bytes, uint8_t *out);
void ls_pixels_stored(void);
// n pixels of c bytes, in reverse order.
void ls_pixels_reverse(const uint8_t *from, int64_t n, int64_t c, uint8_t *to);
// [n,c] bytes to [n,c] floats, or to c planes [n] `plane` values apart.
void ls_pixels_to_floats(const uint8_t *row, int64_t n, int64_t c, const float *scale, const float *bias, float *out);
void ls_pixels_to_float_planes(const uint8_t *row, int64_t n, int64_t c, const float *scale, const float *bias,
                               float *out, int64_t plane);
void ls_pixels_to_planes(const uint8_t *row, int64_t n, int64_t c, uint8_t *out, int64_t plane);
// Three planes [n] to [n,3].
void ls_pixels_from_planes(const uint8_t *from, int64_t plane, int64_t n, uint8_t *row);

// ---- resampling (resample.c)

// A filter bank along one axis: output i sums count[i] values from begin[i] on with weights [size] of 22 bits.
struct ls_filter {
  int64_t outputs;
  int size, most;  // of weights; of count
  int32_t *begin, *count, *weights;
};
// The stored range [*low, *high) that outputs [0, axis->count) need.
void ls_filter_range(const struct ls_axis *axis, int64_t *low, int64_t *high);
size_t ls_filter_bytes(const struct ls_axis *axis);
// Triangle filter, widened when shrinking (as PIL's BILINEAR with reducing off). `memory`: ls_filter_bytes of it.
void ls_filter_make(const struct ls_axis *axis, void *memory, struct ls_filter *filter);
// pixels [rows, *, c] (the first one is (y_low, x_low) of the image) -> out [fy->outputs, fx->outputs, c], rows
// out_stride bytes apart. `between`: rows * fx->outputs * c bytes.
void ls_resample(const struct ls_filter *fy, const struct ls_filter *fx, const uint8_t *pixels, size_t stride_bytes,
                 int64_t y_low, int64_t y_high, int64_t x_low, int64_t c, uint8_t *between, uint8_t *out,
                 size_t out_stride);

// ---- colours (colour.c): on an image [h,w,C] of 8 bits, in place

void ls_colour_apply(const struct ls_augmenter *augmenter, const struct ls_view *view, uint8_t *image);
// Whether each pixel is changed by itself: contrast needs the mean of the whole window. If so, what is done to the pixels of
// an image, as steps of tensor/pixel.h; returns how many, which is the same for all images. steps NULL: only that.
bool ls_colour_by_pixel(const struct ls_augmenter *augmenter);
int ls_colour_steps(const struct ls_augmenter *augmenter, const struct ls_view *view, int32_t *steps);

#endif
