// Reading an image file for `lockstep predict`.
#ifndef LS_CLI_IMAGE_H
#define LS_CLI_IMAGE_H

#include "worker/inference.h"

// Decodes a PNG or JPEG file (told apart by its first bytes, not its name) to 8-bit RGB; transparency is dropped.
// The caller frees (void *)image->pixels.
ls_status ls_image_read(const char *path, struct ls_predict_image *image, struct ls_error *err);

#endif
