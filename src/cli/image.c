// By the decoder that also reads data sets, so that a file shows a network the same pixels in both.
#include "cli/image.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/codec.h"

enum { FILE_LIMIT_BYTES = 64 << 20, CHANNELS = 3 };

static ls_status decode(struct ls_decoder *decoder, const char *path, const char *data, size_t size,
                        struct ls_predict_image *image, struct ls_error *err) {
  struct ls_decoded decoded;
  LS_TRY(ls_decoder_decode(decoder, data, size, path, CHANNELS, NULL, 1, &decoded, err));
  size_t row_bytes = (size_t)decoded.width * CHANNELS;
  uint8_t *pixels = malloc(row_bytes * (size_t)decoded.height);
  if (!pixels) return ls_fail(err, LS_NO_MEMORY, "no memory to read '%s'", path);
  for (int64_t y = 0; y < decoded.height; y++)
    memcpy(pixels + (size_t)y * row_bytes, decoded.pixels + (size_t)y * decoded.stride_bytes, row_bytes);
  *image = (struct ls_predict_image){pixels, decoded.height, decoded.width, CHANNELS};
  return LS_OK;
}

ls_status ls_image_read(const char *path, struct ls_predict_image *image, struct ls_error *err) {
  char *data = NULL;
  size_t size = 0;
  struct ls_decoder *decoder = NULL;
  ls_status status = ls_file_read(path, FILE_LIMIT_BYTES, &data, &size, err);
  if (status == LS_OK) status = ls_decoder_new(&decoder, err);
  if (status == LS_OK) status = decode(decoder, path, data, size, image, err);
  ls_decoder_free(decoder);
  free(data);
  return status;
}
