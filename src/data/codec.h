// JPEG (libjpeg-turbo) and PNG (libpng) to pixels: for src/data and for single image files. A decoder belongs to one thread.
#ifndef LS_DATA_CODEC_H
#define LS_DATA_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/augment.h"

struct ls_decoder;

ls_status ls_decoder_new(struct ls_decoder **decoder, struct ls_error *err);
void ls_decoder_free(struct ls_decoder *decoder);

// Size of an image from its header; fails when it is none, or not of an allowed size. `name`: for the sentences.
ls_status ls_decoder_size(struct ls_decoder *decoder, const void *data, size_t size, const char *name, int64_t *height,
                          int64_t *width, struct ls_error *err);

struct ls_decoded {
  const uint8_t *pixels;  // the decoder's; until its next use
  size_t stride_bytes;
  int64_t height, width;  // of what was decoded
};

// Pixels with `channels` (1: grey, 3: RGB). `rect`: only this part (NULL: all); the values are those of the whole image.
// `shrink`: 1, 2, 4 or 8: a JPEG is decoded to 1/shrink of its size, rounded up (without rect; a PNG is not shrunk).
// An image that is cut short or damaged is an error, as far as the format lets one see it.
ls_status ls_decoder_decode(struct ls_decoder *decoder, const void *data, size_t size, const char *name,
                            int64_t channels, const struct ls_rect *rect, int shrink, struct ls_decoded *decoded,
                            struct ls_error *err);

#endif
